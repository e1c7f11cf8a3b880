//! Reads `.bin/.idx` shards, ours and Megatron's, without trusting them.
//!
//! Opening checks what can be checked in constant time, whatever the size; every later access checks
//! its own pointers and ids, so a damaged shard gives an error and never another document's tokens.

use crate::error::{Error, Result};
use crate::mapped::Mapped;
use crate::output::{Dtype, HEADER_BYTES, MAGIC, VERSION, with_suffix};
use std::path::{Path, PathBuf};

/// A shard, mapped.
pub struct Indexed {
    bin_path: PathBuf,
    idx_path: PathBuf,
    bin: Mapped,
    idx: Mapped,
    dtype: Dtype,
    sequences: u64,
    documents: u64,
    vocab: u32,
}

impl Indexed {
    /// Maps `PREFIX.bin` and `PREFIX.idx`, whose ids must lie below `vocab`.
    ///
    /// # Errors
    /// A file that is missing, or whose header, length or outermost pointers contradict each other.
    pub fn open(prefix: &Path, vocab: u32) -> Result<Self> {
        let (bin_path, idx_path) = (with_suffix(prefix, ".bin"), with_suffix(prefix, ".idx"));
        let (bin, idx) = (Mapped::open(&bin_path)?, Mapped::open(&idx_path)?);
        let bad = |offset: u64, expected: &str, found: String| {
            Error::corrupt(&idx_path, Some(offset), expected, found)
        };
        let bytes = idx.bytes();
        if bytes.get(..MAGIC.len()) != Some(MAGIC) {
            return Err(bad(0, "a Megatron index, which starts with MMIDIDX", describe(bytes)));
        }
        let header = |at: u64| {
            number(bytes, at).ok_or_else(|| bad(bytes.len() as u64, "a header of 34 bytes", "the end".into()))
        };
        let version = header(9)?;
        if version != VERSION {
            return Err(bad(9, "version 1", format!("version {version}")));
        }
        let code = bytes.get(17).copied().unwrap_or(0);
        let dtype = Dtype::of_code(code).ok_or_else(|| {
            bad(
                17,
                "an integer dtype: code 1 to 5 (u8, i8, i16, i32, i64) or 8 (u16)",
                format!("code {code}"),
            )
        })?;
        let (sequences, entries) = (header(18)?, header(26)?);
        let modes = |with: u64| {
            let lengths_and_pointers = sequences.checked_mul(12 + with)?;
            entries.checked_mul(8)?.checked_add(lengths_and_pointers)?.checked_add(HEADER_BYTES)
        };
        // Multimodal shards have a byte of mode for every sequence at the end.
        let length = bytes.len() as u64;
        if modes(0) != Some(length) && modes(1) != Some(length) {
            let expected = format!("{:?} bytes for {sequences} sequences and {entries} entries", modes(0));
            return Err(bad(18, &expected, format!("a file of {length} bytes")));
        }
        if sequences == 0 || entries < 2 {
            return Err(bad(18, "at least one document", format!("{sequences} sequences")));
        }
        let shard = Self { bin_path, idx_path, bin, idx, dtype, sequences, documents: entries - 1, vocab };
        shard.check_ends()?;
        Ok(shard)
    }

    fn check_ends(&self) -> Result<()> {
        let first = self.document_start(0)?;
        let last = self.entry(self.documents)?;
        if first != 0 || last != self.sequences {
            let found = format!("token {first} and sequence {last}");
            return Err(self.bad_pointer(
                0,
                format!("documents from token 0 to sequence {}", self.sequences),
                found,
            ));
        }
        let end = self
            .pointer(self.sequences - 1)?
            .checked_add(self.sequence_length(self.sequences - 1)?.saturating_mul(self.dtype.width()));
        let length = self.bin.bytes().len() as u64;
        if end != Some(length) {
            let bytes = end.map_or("2^64 or more".into(), |end| end.to_string());
            let expected = format!("the {bytes} bytes that its index describes");
            return Err(Error::corrupt(&self.bin_path, None, expected, format!("{length} bytes")));
        }
        Ok(())
    }

    /// Documents in the shard.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Bytes a token.
    pub fn width(&self) -> u64 {
        self.dtype.width()
    }

    /// Tokens in the shard.
    pub fn tokens(&self) -> u64 {
        self.bin.bytes().len() as u64 / self.dtype.width()
    }

    /// Index of a document's first token; `documents()` gives `tokens()`.
    ///
    /// # Errors
    /// A pointer that leads out of the shard.
    pub fn document_start(&self, document: u64) -> Result<u64> {
        let sequence = self.entry(document)?;
        if sequence == self.sequences {
            return Ok(self.tokens());
        }
        let (pointer, width) = (self.pointer(sequence)?, self.dtype.width());
        if !pointer.is_multiple_of(width) || pointer / width > self.tokens() {
            let expected = format!("a multiple of {width} up to {}", self.bin.bytes().len());
            return Err(self.bad_pointer(sequence, expected, pointer.to_string()));
        }
        Ok(pointer / width)
    }

    /// Calls `each` with every document start in `from < start ≤ to`, ascending. The end of the shard
    /// counts as a start.
    ///
    /// # Errors
    /// Pointers that lead out of the shard or do not ascend.
    pub fn document_starts(&self, from: u64, to: u64, mut each: impl FnMut(u64)) -> Result<()> {
        // The first document that starts after `from`; correct if starts ascend, and checked below.
        let (mut low, mut high) = (0, self.documents);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.document_start(middle)? <= from { low = middle + 1 } else { high = middle }
        }
        let mut previous = from;
        for document in low..=self.documents {
            let start = self.document_start(document)?;
            if start < previous {
                let expected = format!("document {document} to start at token {previous} or later");
                return Err(self.bad_pointer(document, expected, format!("token {start}")));
            }
            if start > to {
                break;
            }
            // Documents without tokens start where the next one does.
            if start > previous {
                each(start);
            }
            previous = start;
        }
        Ok(())
    }

    /// Fills `out` with the tokens from index `from`.
    ///
    /// # Errors
    /// A range that leaves the shard, or an id outside the vocabulary.
    pub fn read(&self, from: u64, out: &mut [u32]) -> Result<()> {
        let width = self.dtype.width();
        let range =
            from.checked_mul(width).zip(from.checked_add(out.len() as u64)).and_then(|(start, end)| {
                let (start, end) =
                    (usize::try_from(start).ok()?, usize::try_from(end.checked_mul(width)?).ok()?);
                self.bin.bytes().get(start..end)
            });
        let Some(bytes) = range else {
            let expected = format!("{} tokens from token {from} on", out.len());
            return Err(Error::corrupt(
                &self.bin_path,
                None,
                expected,
                format!("{} tokens in all", self.tokens()),
            ));
        };
        match self.dtype {
            Dtype::U8 => out.iter_mut().zip(bytes).for_each(|(id, &b)| *id = u32::from(b)),
            // A negative id becomes one above every vocabulary.
            Dtype::I8 => out.iter_mut().zip(bytes).for_each(|(id, &b)| *id = b as i8 as u32),
            Dtype::I16 => out
                .iter_mut()
                .zip(bytes.as_chunks::<2>().0)
                .for_each(|(id, b)| *id = i16::from_le_bytes(*b) as u32),
            Dtype::U16 => out
                .iter_mut()
                .zip(bytes.as_chunks::<2>().0)
                .for_each(|(id, b)| *id = u32::from(u16::from_le_bytes(*b))),
            Dtype::I32 => {
                out.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(id, b)| *id = u32::from_le_bytes(*b));
            }
            Dtype::I64 => out.iter_mut().zip(bytes.as_chunks::<8>().0).for_each(|(id, b)| {
                *id = u32::try_from(u64::from_le_bytes(*b)).unwrap_or(u32::MAX);
            }),
        }
        if out.iter().fold(0, |most, &id| most.max(id)) >= self.vocab {
            let at = out.iter().position(|&id| id >= self.vocab).unwrap_or(0);
            return Err(Error::corrupt(
                &self.bin_path,
                Some((from + at as u64) * width),
                format!("an id below the vocabulary size {}", self.vocab),
                out.get(at).map_or(String::new(), u32::to_string),
            ));
        }
        Ok(())
    }

    /// Index of the first sequence of a document.
    fn entry(&self, document: u64) -> Result<u64> {
        let at = HEADER_BYTES + 12 * self.sequences + 8 * document.min(self.documents);
        match number(self.idx.bytes(), at) {
            Some(sequence) if sequence <= self.sequences => Ok(sequence),
            found => {
                let expected = format!("a sequence from 0 to {}", self.sequences);
                Err(Error::corrupt(&self.idx_path, Some(at), expected, format!("{found:?}")))
            }
        }
    }

    /// Byte offset of a sequence in the `.bin`.
    fn pointer(&self, sequence: u64) -> Result<u64> {
        let at = HEADER_BYTES + 4 * self.sequences + 8 * sequence;
        number(self.idx.bytes(), at)
            .ok_or_else(|| self.bad_pointer(sequence, "a pointer".into(), "the end of the file".into()))
    }

    fn sequence_length(&self, sequence: u64) -> Result<u64> {
        let at = (HEADER_BYTES + 4 * sequence) as usize;
        let bytes = self.idx.bytes().get(at..at + 4).and_then(|b| b.first_chunk::<4>());
        bytes
            .map(|b| u64::from(u32::from_le_bytes(*b)))
            .ok_or_else(|| self.bad_pointer(sequence, "a length".into(), "the end of the file".into()))
    }

    fn bad_pointer(&self, index: u64, expected: String, found: String) -> Error {
        let at = HEADER_BYTES + 4 * self.sequences + 8 * index;
        Error::corrupt(&self.idx_path, Some(at), expected, found)
    }
}

fn number(bytes: &[u8], at: u64) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    bytes.get(at..)?.first_chunk::<8>().map(|b| u64::from_le_bytes(*b))
}

fn describe(bytes: &[u8]) -> String {
    match bytes.get(..MAGIC.len()) {
        Some(start) => format!("{:?}", String::from_utf8_lossy(start)),
        None => format!("{} bytes", bytes.len()),
    }
}
