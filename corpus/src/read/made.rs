//! Text that had to be made, end to end, in memory that is used again and again.

use std::ops::Range;

/// A buffer that is cleared without being given back: touching fresh memory costs as much as filling it.
#[derive(Default)]
pub struct Made {
    /// Larger than what is in use.
    bytes: Vec<u8>,
    length: usize,
}

impl Made {
    /// Bytes in use.
    pub fn len(&self) -> usize {
        self.length
    }

    /// What was made.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Forgets it.
    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// Appends a text and says where it is.
    pub fn push(&mut self, text: &str) -> Range<usize> {
        let start = self.length;
        self.room(text.len()).iter_mut().zip(text.as_bytes()).for_each(|(to, &from)| *to = from);
        self.keep(text.len());
        start..self.length
    }

    /// At least `bytes` bytes after those in use, holding anything.
    pub fn room(&mut self, bytes: usize) -> &mut [u8] {
        let end = self.length + bytes;
        if self.bytes.len() < end {
            self.bytes.resize(end.next_power_of_two(), 0);
        }
        self.bytes.get_mut(self.length..).unwrap_or_default()
    }

    /// Takes the first `bytes` bytes of the room into use.
    pub fn keep(&mut self, bytes: usize) {
        self.length = self.bytes.len().min(self.length + bytes);
    }
}
