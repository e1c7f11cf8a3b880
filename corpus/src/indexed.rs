//! Reads `.bin/.idx` shards, ours and Megatron's, without trusting them.
//!
//! Opening checks what can be checked in constant time, whatever the size; every later access checks
//! its own pointers and ids, so a damaged shard gives an error and never another document's tokens.

use crate::error::{Error, Result};
use crate::mapped::Mapped;
use crate::output::{Dtype, HEADER_BYTES, MAGIC, VERSION, with_suffix};
use llmc_plan::lang::Said;
use llmc_plan::say;
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
        let bad = |offset: u64, expected: Said, found: Said| {
            Error::corrupt(&idx_path, Some(offset), expected, found)
        };
        let bytes = idx.bytes();
        if bytes.get(..MAGIC.len()) != Some(MAGIC) {
            return Err(bad(
                0,
                say!("a Megatron index, which starts with MMIDIDX", "以 MMIDIDX 开头的 Megatron 索引"),
                describe(bytes),
            ));
        }
        let header = |at: u64| {
            number(bytes, at).ok_or_else(|| {
                bad(
                    bytes.len() as u64,
                    say!("a header of 34 bytes", " 34 字节的头部"),
                    say!("the end", "文件末尾"),
                )
            })
        };
        let version = header(9)?;
        if version != VERSION {
            return Err(bad(9, say!("version 1", "版本 1"), say!("version {version}", "版本 {version}")));
        }
        let code = bytes.get(17).copied().unwrap_or(0);
        let dtype = Dtype::of_code(code).ok_or_else(|| {
            bad(
                17,
                say!(
                    "an integer dtype: code 1 to 5 (u8, i8, i16, i32, i64) or 8 (u16)",
                    "整数类型：代码 1 到 5（u8、i8、i16、i32、i64）或 8（u16）"
                ),
                say!("code {code}", "代码 {code}"),
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
            let expected = say!(
                "{bytes:?} bytes for {sequences} sequences and {entries} entries",
                " {sequences} 条序列和 {entries} 个条目的 {bytes:?} 字节",
                bytes = modes(0)
            );
            return Err(bad(18, expected, say!("a file of {length} bytes", " {length} 字节的文件")));
        }
        if sequences == 0 || entries < 2 {
            return Err(bad(
                18,
                say!("at least one document", "至少一个文档"),
                say!("{sequences} sequences", " {sequences} 条序列"),
            ));
        }
        let shard = Self { bin_path, idx_path, bin, idx, dtype, sequences, documents: entries - 1, vocab };
        shard.check_ends()?;
        Ok(shard)
    }

    fn check_ends(&self) -> Result<()> {
        let first = self.document_start(0)?;
        let last = self.entry(self.documents)?;
        if first != 0 || last != self.sequences {
            let found = say!("token {first} and sequence {last}", "词元 {first} 和序列 {last}");
            let expected = say!(
                "documents from token 0 to sequence {sequences}",
                "从词元 0 到序列 {sequences} 的文档",
                sequences = self.sequences
            );
            return Err(self.bad_pointer(0, expected, found));
        }
        let end = self
            .pointer(self.sequences - 1)?
            .checked_add(self.sequence_length(self.sequences - 1)?.saturating_mul(self.dtype.width()));
        let length = self.bin.bytes().len() as u64;
        if end != Some(length) {
            let bytes = end.map_or(say!("2^64 or more", "2^64 或更多"), Said::same);
            let expected =
                say!("the {bytes} bytes that its index describes", "其索引所述的 {bytes} 字节", bytes);
            let found = say!("{length} bytes", " {length} 字节");
            return Err(Error::corrupt(&self.bin_path, None, expected, found));
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
            let most = self.bin.bytes().len();
            let expected = say!("a multiple of {width} up to {most}", "不超过 {most} 的 {width} 的倍数");
            return Err(self.bad_pointer(sequence, expected, say!("{pointer}", " {pointer}")));
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
                let expected = say!(
                    "document {document} to start at token {previous} or later",
                    "文档 {document} 从词元 {previous} 或之后开始"
                );
                return Err(self.bad_pointer(document, expected, say!("token {start}", "词元 {start}")));
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
            let expected = say!(
                "{count} tokens from token {from} on",
                "从词元 {from} 起的 {count} 词元",
                count = out.len()
            );
            let found = say!("{all} tokens in all", "共 {all} 词元", all = self.tokens());
            return Err(Error::corrupt(&self.bin_path, None, expected, found));
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
                say!(
                    "an id below the vocabulary size {vocab}",
                    "小于词表大小 {vocab} 的 id",
                    vocab = self.vocab
                ),
                out.get(at).map(|id| say!("{id}", " {id}")).unwrap_or_default(),
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
                let last = self.sequences;
                let expected = say!("a sequence from 0 to {last}", " 0 到 {last} 的序列");
                Err(Error::corrupt(&self.idx_path, Some(at), expected, say!("{found:?}", " {found:?}")))
            }
        }
    }

    /// Byte offset of a sequence in the `.bin`.
    fn pointer(&self, sequence: u64) -> Result<u64> {
        let at = HEADER_BYTES + 4 * self.sequences + 8 * sequence;
        number(self.idx.bytes(), at).ok_or_else(|| {
            self.bad_pointer(sequence, say!("a pointer", "指针"), say!("the end of the file", "文件末尾"))
        })
    }

    fn sequence_length(&self, sequence: u64) -> Result<u64> {
        let at = (HEADER_BYTES + 4 * sequence) as usize;
        let bytes = self.idx.bytes().get(at..at + 4).and_then(|b| b.first_chunk::<4>());
        bytes.map(|b| u64::from(u32::from_le_bytes(*b))).ok_or_else(|| {
            self.bad_pointer(sequence, say!("a length", "长度"), say!("the end of the file", "文件末尾"))
        })
    }

    fn bad_pointer(&self, index: u64, expected: Said, found: Said) -> Error {
        let at = HEADER_BYTES + 4 * self.sequences + 8 * index;
        Error::corrupt(&self.idx_path, Some(at), expected, found)
    }
}

fn number(bytes: &[u8], at: u64) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    bytes.get(at..)?.first_chunk::<8>().map(|b| u64::from_le_bytes(*b))
}

fn describe(bytes: &[u8]) -> Said {
    match bytes.get(..MAGIC.len()) {
        Some(start) => say!("{start:?}", " {start:?}", start = String::from_utf8_lossy(start)),
        None => say!("{length} bytes", " {length} 字节", length = bytes.len()),
    }
}
