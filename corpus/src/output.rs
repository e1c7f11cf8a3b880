//! Token shards on disk: `.bin`, raw tokens end to end, and `.idx`, where each document lies.
//!
//! The layout is Megatron's, little-endian (`megatron/core/datasets/indexed_dataset.py`, class
//! `_IndexWriter`), so that its reader opens these files and ours opens its own.

pub use crate::durable::HashingFile;
use crate::durable::{Written, settle_all};
use crate::error::{Error, Result};
use crate::read::{Buffer, KEPT_BYTES};
use crate::stats::{Tally, counted};
use llmc_plan::data::FileInfo;
use llmc_plan::lang::Said;
use llmc_plan::say;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// First bytes of an `.idx`.
pub const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
/// Its only version.
pub const VERSION: u64 = 1;
/// Magic, version, dtype code, sequence count, document count.
pub const HEADER_BYTES: u64 = 34;
const BUFFER_BYTES: usize = 1 << 20;
const BIN: &str = ".bin";
/// Document lengths while a shard is written.
const LENGTHS: &str = ".lengths";

/// Integer type of stored tokens, by Megatron's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Dtype {
    /// Byte.
    U8 = 1,
    /// Signed byte, never negative here.
    I8 = 2,
    /// Signed, never negative here.
    I16 = 3,
    /// Signed, never negative here.
    I32 = 4,
    /// Signed, never negative here.
    I64 = 5,
    /// Two bytes.
    U16 = 8,
}

impl Dtype {
    /// The narrowest that Megatron chooses for a vocabulary (`DType.optimal_dtype`).
    pub fn for_vocab(vocab: u32) -> Self {
        if vocab < 65_500 { Dtype::U16 } else { Dtype::I32 }
    }

    /// The type of a code, if tokens can have it.
    pub fn of_code(code: u8) -> Option<Self> {
        [Dtype::U8, Dtype::I8, Dtype::I16, Dtype::I32, Dtype::I64, Dtype::U16]
            .into_iter()
            .find(|&d| d as u8 == code)
    }

    /// Bytes a token.
    pub fn width(self) -> u64 {
        match self {
            Dtype::U8 | Dtype::I8 => 1,
            Dtype::U16 | Dtype::I16 => 2,
            Dtype::I32 => 4,
            Dtype::I64 => 8,
        }
    }
}

/// Documents as a shard stores them, before they are written.
pub struct Tokens {
    dtype: Dtype,
    bytes: Buffer,
    /// `i32` each.
    lengths: Buffer,
}

impl Tokens {
    /// None yet.
    pub fn new(dtype: Dtype) -> Self {
        Self { dtype, bytes: Buffer::default(), lengths: Buffer::default() }
    }

    /// Appends a document of at least one token.
    ///
    /// # Errors
    /// A document of more than 2³¹ − 1 tokens, or an id its dtype cannot hold.
    pub fn push(&mut self, ids: &[u32]) -> Result<()> {
        let length =
            u32::try_from(ids.len()).ok().filter(|&length| length <= i32::MAX as u32).ok_or_else(|| {
                too_large(say!("a document of {count} tokens", "{count} 词元的文档", count = ids.len()))
            })?;
        // Below a power of two if all are.
        let mut bits = 0;
        let bytes = ids.len() * self.dtype.width() as usize;
        let room = self.bytes.room(bytes).get_mut(..bytes).unwrap_or_default();
        match self.dtype {
            Dtype::U16 => {
                for (bytes, &id) in room.as_chunks_mut::<2>().0.iter_mut().zip(ids) {
                    bits |= id;
                    *bytes = (id as u16).to_le_bytes();
                }
            }
            Dtype::I32 => {
                for (bytes, &id) in room.as_chunks_mut::<4>().0.iter_mut().zip(ids) {
                    bits |= id;
                    *bytes = id.to_le_bytes();
                }
            }
            // No other is written.
            _ => bits = u32::MAX,
        }
        let most = if self.dtype == Dtype::U16 { u32::from(u16::MAX) } else { i32::MAX as u32 };
        if bits > most {
            let largest = ids.iter().max().copied().unwrap_or(0);
            return Err(too_large(say!(
                "token id {largest} as {dtype:?}",
                "以 {dtype:?} 存储的词元 id {largest}",
                dtype = self.dtype
            )));
        }
        self.bytes.keep(bytes);
        self.lengths.push(&length.to_le_bytes());
        Ok(())
    }

    /// Tokens of all documents.
    pub fn tokens(&self) -> u64 {
        self.bytes.len() as u64 / self.dtype.width()
    }

    /// Counts the ids that are [`counted`] where the first of them is token `position` of its split.
    pub fn count(&self, position: u64, tally: &mut Tally) {
        let (bytes, width) = (self.bytes.bytes(), self.dtype.width() as usize);
        for (part, weight) in counted(position, bytes.len() / width) {
            let bytes = bytes.get(part.start * width..part.end * width).unwrap_or_default();
            match self.dtype {
                Dtype::U16 => {
                    tally.count_small(bytes.as_chunks().0.iter().map(|id| u16::from_le_bytes(*id)), weight)
                }
                _ => tally.count(bytes.as_chunks().0.iter().map(|id| u32::from_le_bytes(*id)), weight),
            }
        }
    }

    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.bytes.clear(KEPT_BYTES);
        self.lengths.clear(KEPT_BYTES);
    }
}

fn too_large(what: Said) -> Error {
    Error::spec(say!("{what} does not fit a Megatron shard", "{what}放不进 Megatron 分片", what))
}

/// Writes one shard. Memory does not grow with it: document lengths wait in a file of their own,
/// because the `.idx` states their number first.
pub struct ShardWriter {
    prefix: PathBuf,
    dtype: Dtype,
    bin: HashingFile,
    lengths: HashingFile,
    /// Documents so far.
    pub documents: u64,
    /// Tokens so far.
    pub tokens: u64,
}

impl ShardWriter {
    /// Creates `PREFIX.bin`; `PREFIX.idx` follows in [`ShardWriter::finish`].
    ///
    /// # Errors
    /// The system's.
    pub fn create(prefix: &Path, dtype: Dtype) -> Result<Self> {
        Ok(Self {
            prefix: prefix.to_owned(),
            dtype,
            bin: HashingFile::create(&with_suffix(prefix, BIN))?,
            lengths: HashingFile::create(&with_suffix(prefix, LENGTHS))?,
            documents: 0,
            tokens: 0,
        })
    }

    /// Goes on where [`ShardWriter::so_far`] was called, in another process. `None` if the files are not
    /// what they were then.
    ///
    /// # Errors
    /// The system's.
    pub fn reopen(prefix: &Path, dtype: Dtype, state: &ShardState) -> Result<Option<Self>> {
        let bin = HashingFile::reopen(&with_suffix(prefix, BIN), &state.bin)?;
        let lengths = HashingFile::reopen(&with_suffix(prefix, LENGTHS), &state.lengths)?;
        let (documents, tokens) = (state.lengths.bytes / 4, state.bin.bytes / dtype.width());
        let writer =
            |(bin, lengths)| Self { prefix: prefix.to_owned(), dtype, bin, lengths, documents, tokens };
        Ok(bin.zip(lengths).map(writer))
    }

    /// What is written so far, handed to the system.
    ///
    /// # Errors
    /// The system's.
    pub fn so_far(&mut self) -> Result<ShardState> {
        Ok(ShardState { bin: self.bin.so_far()?, lengths: self.lengths.so_far()? })
    }

    /// Appends a document of at least one token.
    ///
    /// # Errors
    /// As [`Tokens::push`] and [`ShardWriter::append`].
    pub fn push(&mut self, ids: &[u32]) -> Result<()> {
        let mut tokens = Tokens::new(self.dtype);
        tokens.push(ids)?;
        self.append(&tokens)
    }

    /// Appends documents of the shard's dtype.
    ///
    /// # Errors
    /// The system's.
    pub fn append(&mut self, tokens: &Tokens) -> Result<()> {
        self.append_all(&[tokens])
    }

    /// As [`ShardWriter::append`], one after the other.
    ///
    /// # Errors
    /// The system's.
    pub fn append_all(&mut self, groups: &[&Tokens]) -> Result<()> {
        debug_assert!(groups.iter().all(|tokens| tokens.dtype == self.dtype));
        self.bin.write_all(&groups.iter().map(|tokens| tokens.bytes.bytes()).collect::<Vec<_>>())?;
        self.lengths.write_all(&groups.iter().map(|tokens| tokens.lengths.bytes()).collect::<Vec<_>>())?;
        self.documents += groups.iter().map(|tokens| tokens.lengths.len() as u64 / 4).sum::<u64>();
        self.tokens += groups.iter().map(|tokens| tokens.tokens()).sum::<u64>();
        Ok(())
    }

    /// Writes the index and returns the facts about `.bin` and `.idx`. A shard without documents
    /// leaves no files and returns none: Megatron cannot map an empty file.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(self) -> Result<Option<(FileInfo, FileInfo)>> {
        let closed = self.close()?;
        settle_all(&closed.files)?;
        closed.leftovers.iter().try_for_each(|path| remove(path))?;
        Ok(closed.info)
    }

    /// As [`ShardWriter::finish`], but the device may lack some of it yet, and whoever could go on with the
    /// shard finds it as it was.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn close(mut self) -> Result<Closed> {
        let lengths = with_suffix(&self.prefix, LENGTHS);
        self.lengths.so_far()?;
        let (bin, bin_file) = self.bin.close()?;
        if self.documents == 0 {
            let leftovers = vec![with_suffix(&self.prefix, BIN), lengths];
            return Ok(Closed { info: None, files: Vec::new(), leftovers });
        }
        let (idx, idx_file) = write_index(&self.prefix, &lengths, self.dtype, self.documents)?;
        Ok(Closed { info: Some((bin, idx)), files: vec![bin_file, idx_file], leftovers: vec![lengths] })
    }
}

/// A shard that is whole.
pub(crate) struct Closed {
    /// Of `.bin` and `.idx`, unless there are no documents.
    pub info: Option<(FileInfo, FileInfo)>,
    /// What the device is to have.
    pub files: Vec<Written>,
    /// What only a shard that is being written needs.
    pub leftovers: Vec<PathBuf>,
}

/// Removes what is no longer needed.
pub(crate) fn remove(path: &Path) -> Result<()> {
    std::fs::remove_file(path).map_err(Error::io("remove", path))
}

/// A shard that is being written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShardState {
    bin: FileInfo,
    lengths: FileInfo,
}

/// One sequence a document, so pointers and document indices follow from the lengths.
fn write_index(
    prefix: &Path,
    lengths_path: &Path,
    dtype: Dtype,
    documents: u64,
) -> Result<(FileInfo, Written)> {
    let mut index = HashingFile::create(&with_suffix(prefix, ".idx"))?;
    index.write(MAGIC)?;
    index.write(&VERSION.to_le_bytes())?;
    index.write(&[dtype as u8])?;
    index.write(&documents.to_le_bytes())?;
    index.write(&(documents + 1).to_le_bytes())?;
    for_each_chunk(lengths_path, |chunk| index.write(chunk))?;
    let mut pointer = 0u64;
    for_each_chunk(lengths_path, |chunk| {
        let (lengths, _) = chunk.as_chunks::<4>();
        let mut pointers = Vec::with_capacity(8 * lengths.len());
        for length in lengths {
            pointers.extend(pointer.to_le_bytes());
            pointer += u64::from(u32::from_le_bytes(*length)) * dtype.width();
        }
        index.write(&pointers)
    })?;
    for first in (0..=documents).step_by(BUFFER_BYTES / 8) {
        let last = documents.min(first + (BUFFER_BYTES / 8) as u64 - 1);
        let indices: Vec<u8> = (first..=last).flat_map(u64::to_le_bytes).collect();
        index.write(&indices)?;
    }
    index.close()
}

/// Reads a file in pieces whose length is a multiple of four.
pub(crate) fn for_each_chunk(path: &Path, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut file = BufReader::new(File::open(path).map_err(Error::io("read", path))?);
    loop {
        let mut chunk = Vec::with_capacity(BUFFER_BYTES);
        file.by_ref().take(BUFFER_BYTES as u64).read_to_end(&mut chunk).map_err(Error::io("read", path))?;
        if chunk.is_empty() {
            return Ok(());
        }
        each(&chunk)?;
    }
}

/// `a/b` and `.bin` to `a/b.bin`, keeping dots inside the name.
pub fn with_suffix(prefix: &Path, suffix: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
