//! Bytes end to end, in memory that is used again and again.

use std::ops::Range;

const STEP_BYTES: usize = 4 << 10;

/// A buffer that is cleared without being given back: touching fresh memory costs as much as filling it.
#[derive(Default)]
pub struct Buffer {
    /// Larger than what is in use.
    bytes: Vec<u8>,
    length: usize,
}

impl Buffer {
    /// Bytes in use.
    pub fn len(&self) -> usize {
        self.length
    }

    /// True if none are.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The bytes in use.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Forgets all, and gives back more memory than `most` bytes.
    pub fn clear(&mut self, most: usize) {
        self.length = 0;
        if self.bytes.len() > most {
            self.bytes = Vec::new();
        }
    }

    /// Forgets what comes after the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Appends, and says where that is.
    pub fn push(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.length;
        if let Some(to) = self.room(bytes.len()).get_mut(..bytes.len()) {
            to.copy_from_slice(bytes);
        }
        self.keep(bytes.len());
        start..self.length
    }

    /// At least `bytes` bytes after those in use, holding anything.
    pub fn room(&mut self, bytes: usize) -> &mut [u8] {
        let end = self.length + bytes;
        if self.bytes.len() < end {
            // Twice as much is kept ready, so that what is asked for next seldom moves what is there. Until it is used it
            // costs nothing; what is used is cleared first, and no more than that.
            if self.bytes.capacity() < end {
                let length = (end + 1).next_power_of_two();
                self.bytes.reserve_exact(length - self.bytes.len());
            }
            self.bytes.resize(self.bytes.capacity().min(end.next_multiple_of(STEP_BYTES)), 0);
        }
        self.bytes.get_mut(self.length..).unwrap_or_default()
    }

    /// Takes the first `bytes` bytes of the room into use.
    pub fn keep(&mut self, bytes: usize) {
        self.length = self.bytes.len().min(self.length + bytes);
    }
}
