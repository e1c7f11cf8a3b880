//! Files to documents. A reader streams: it holds one document and its buffers, whatever the size
//! of the file.
//!
//! A format is one file here and one line in [`Format::of`]; a compression is one line in [`open`].

mod buffer;
mod jsonl;
mod parquet;
mod strings;
mod tar;
mod text;
mod tokens;

pub use buffer::Buffer;

use crate::error::{BadContent, Error, Result, or_skip};
use crate::inputs::{HashingReader, Input, hash_file};
use llmc_plan::lang::Said;
use llmc_plan::say;
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::{ControlFlow, Range};
use std::path::Path;

/// A longer document is refused: it would have to be held in memory, with its tokens, in full.
pub const MAX_DOCUMENT_BYTES: u64 = 128 << 20;
const BUFFER_BYTES: usize = 256 << 10;
/// At least [`BUFFER_BYTES`], so that it is read without a copy. On one core the work on a block takes turns with
/// finding the next one, and what either keeps in the cache is fetched again. Against 1 MiB, this takes 2 to 4 % less wall time on an
/// AMD EPYC VM (1 MiB of second-level cache, 2026-11-30) and half of it 0 to 4; on an Intel Xeon VM (2026-11-24) this took as much and half 3 % more.
const BLOCK_BYTES: usize = 512 << 10;
/// All cores wait for the last one of a block, so it is to be many times what one takes at a time.
const SHARED_BLOCK_BYTES: usize = 2 << 20;
/// Buffers that had to grow beyond this for one document are not kept.
pub(crate) const KEPT_BYTES: usize = 8 << 20;

/// Receives what a reader finds.
pub trait Sink {
    /// A document, in file order. [`ControlFlow::Break`] ends the file early.
    ///
    /// # Errors
    /// The caller's own, which end the file too.
    fn document(&mut self, raw: Raw<'_>) -> Result<ControlFlow<()>>;

    /// Documents end to end, from the beginning of `block`, whose memory may be taken if other memory takes its
    /// place.
    ///
    /// # Errors
    /// As [`Sink::document`].
    fn documents(&mut self, block: &mut Buffer, found: &[Found], form: Form) -> Result<ControlFlow<()>> {
        each_document(self, block, found, form)
    }

    /// A document of `bytes` bytes that cannot be read. `Ok` leaves it out and goes on.
    ///
    /// # Errors
    /// The same content as an error, to stop.
    fn unreadable(&mut self, bad: BadContent, bytes: u64) -> Result<()>;
}

/// Hands documents that lie end to end to [`Sink::document`].
///
/// # Errors
/// As [`Sink::document`].
pub fn each_document<S: Sink + ?Sized>(
    sink: &mut S,
    block: &Buffer,
    found: &[Found],
    form: Form,
) -> Result<ControlFlow<()>> {
    let mut start = 0;
    for &Found { end, place } in found {
        let bytes = block.bytes().get(start..end).unwrap_or_default();
        if sink.document(Raw { bytes, form, place })?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        start = end;
    }
    Ok(ControlFlow::Continue(()))
}

/// A document as it lies in a file: finding it is the reader's work, decoding it is done on all cores.
#[derive(Clone, Copy)]
pub struct Raw<'a> {
    /// As stored, after decompression.
    pub bytes: &'a [u8],
    /// How to read them.
    pub form: Form,
    /// Where they are, for messages.
    pub place: Place,
}

/// A document of several that lie end to end.
#[derive(Clone, Copy)]
pub struct Found {
    /// Where its bytes end.
    pub end: usize,
    /// Where it is in the file.
    pub place: Place,
}

/// What the bytes of a [`Raw`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// UTF-8.
    Text,
    /// A JSON object with a field `text`.
    Json,
    /// Token ids, `u32` little-endian.
    Ids,
}

/// Where a document begins; what does not apply is absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// Byte in the file, after decompression.
    pub offset: Option<u64>,
    /// Line, from 1.
    pub line: Option<u64>,
    /// Row of a table, from 0.
    pub row: Option<u64>,
}

impl Place {
    /// Continues a file's name: `, line 3 (byte 40)`.
    pub fn said(&self) -> Said {
        let row = self.row.map(|row| say!(", row {row}", "，第 {row} 行")).unwrap_or_default();
        let place = match (self.line, self.offset) {
            (Some(line), Some(offset)) => {
                say!(", line {line} (byte {offset})", "，第 {line} 行（字节 {offset}）")
            }
            (None, Some(offset)) => say!(", byte {offset}", "，字节 {offset}"),
            (Some(line), None) => say!(", line {line}", "，第 {line} 行"),
            (None, None) => Said::default(),
        };
        say!("{row}{place}", "{row}{place}", row, place)
    }
}

/// Where the text of a document lies: in the stored bytes, or in a buffer because it had to be made. Whether it
/// is UTF-8 is for [`Raw::utf8`] to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// This part of the stored bytes.
    Stored(Range<usize>),
    /// This part of the buffer.
    Made(Range<usize>),
}

impl<'a> Raw<'a> {
    /// Finds the text, or makes it at the end of `made`; `None` for a blank line.
    ///
    /// # Errors
    /// What stands there instead.
    pub fn find_text(
        &self,
        input: &Input,
        made: &mut Buffer,
    ) -> std::result::Result<Option<Text>, BadContent> {
        match self.form {
            Form::Json => jsonl::find_text(self, input, made),
            Form::Text => {
                // A byte order mark is not text.
                let start = if self.bytes.starts_with("\u{feff}".as_bytes()) { 3 } else { 0 };
                Ok(Some(Text::Stored(start..self.bytes.len())))
            }
            Form::Ids => Ok(None),
        }
    }

    /// What [`Raw::find_text`] found, which is UTF-8.
    ///
    /// # Errors
    /// The first byte that is not.
    pub fn utf8<'b>(
        &'b self,
        input: &Input,
        text: &Text,
        made: &'b Buffer,
    ) -> std::result::Result<&'b str, BadContent> {
        let bytes = match text {
            Text::Stored(range) => self.bytes.get(range.clone()),
            Text::Made(range) => made.bytes().get(range.clone()),
        };
        simdutf8::basic::from_utf8(bytes.unwrap_or_default()).map_err(|_| {
            let error = std::str::from_utf8(self.bytes).err();
            let at = error.map_or(0, |error| error.valid_up_to());
            let byte = error.and_then(|error| error.error_len()).and_then(|_| self.bytes.get(at)).copied();
            not_utf8(input, self.place, at as u64, byte)
        })
    }

    /// The text; `None` for a blank line.
    ///
    /// # Errors
    /// What stands there instead.
    pub fn text(&self, input: &Input) -> std::result::Result<Option<Cow<'a, str>>, BadContent> {
        let mut made = Buffer::default();
        let Some(text) = self.find_text(input, &mut made)? else { return Ok(None) };
        let found = self.utf8(input, &text, &made)?;
        Ok(Some(match &text {
            Text::Stored(range) => utf8(self.bytes, range).into(),
            Text::Made(_) => found.to_owned().into(),
        }))
    }
}

/// A range of bytes that was found to be text.
pub(crate) fn utf8<'a>(bytes: &'a [u8], range: &Range<usize>) -> &'a str {
    simdutf8::basic::from_utf8(bytes.get(range.clone()).unwrap_or_default()).unwrap_or_default()
}

/// Lines are looked for in this much at a time.
fn block_bytes() -> usize {
    if rayon::current_num_threads() == 1 { BLOCK_BYTES } else { SHARED_BLOCK_BYTES }
}

/// Reads every document of a file into `sink` and returns the hash of the raw file; the hash is of
/// the whole file only if the sink never broke off. `advance` is told of raw bytes as they are read.
///
/// # Errors
/// The file cannot be opened, its format is not read by this build, or the sink's errors.
pub fn read(input: &Input, sink: &mut dyn Sink, advance: &dyn Fn(u64)) -> Result<String> {
    let (format, compression) = Format::of(input)?;
    if let Format::Parquet | Format::Tokens = format {
        // These are read by seeking, so the hash takes a pass of its own.
        let hash = hash_file(&input.path, advance).map_err(Error::io("read", &input.path))?;
        match format {
            Format::Parquet => parquet::read(input, sink)?,
            _ => tokens::read(input, sink)?,
        }
        return Ok(hash);
    }
    let file = File::open(&input.path).map_err(Error::io("read", &input.path))?;
    let mut raw = HashingReader::new(file, advance);
    let mut archive_ended = false;
    {
        let mut reader = open(&mut raw, compression).map_err(Error::io("read", &input.path))?;
        match format {
            Format::Jsonl => jsonl::read(input, 0, &mut *reader, sink)?,
            Format::Tar => archive_ended = tar::read(input, &mut *reader, sink)?,
            _ => text::read(input, &mut *reader, sink)?,
        };
    }
    let hash = raw.digest();
    if archive_ended
        && let Some(listed) = input.listed.as_ref().and_then(|listed| listed.xxh3.as_ref())
        && *listed != hash
    {
        sink.unreadable(other_hash(input, listed, &hash), 0)?;
    }
    Ok(hash)
}

#[derive(Clone, Copy)]
enum Format {
    Text,
    Jsonl,
    Tar,
    Parquet,
    /// `.bin` with its `.idx` beside it.
    Tokens,
}

#[derive(Clone, Copy)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Format {
    fn of(input: &Input) -> Result<(Self, Compression)> {
        let name = input.name.to_ascii_lowercase();
        let (stem, compression) = match name.rsplit_once('.') {
            Some((stem, "gz")) => (stem, Compression::Gzip),
            Some((_, "tgz")) => return Ok((Format::Tar, Compression::Gzip)),
            Some((stem, "zst" | "zstd")) => (stem, Compression::Zstd),
            _ => (name.as_str(), Compression::None),
        };
        let format = match Path::new(stem).extension().and_then(|e| e.to_str()) {
            Some("jsonl" | "ndjson") => Format::Jsonl,
            Some("tar") => Format::Tar,
            Some("parquet") if matches!(compression, Compression::None) => Format::Parquet,
            Some("bin") if matches!(compression, Compression::None) => Format::Tokens,
            Some("idx") => {
                return Err(BadContent {
                    file: input.path.clone(),
                    place: Place::default(),
                    found: say!("an index", "索引"),
                    expected: say!("the .bin it belongs to", "它所属的 .bin"),
                    hint: say!(
                        "narrow the glob to *.bin: the .idx beside each is found by its name",
                        "请将 glob 限定为 *.bin：旁边的 .idx 会按名称找到"
                    ),
                }
                .into());
            }
            Some(other @ ("parquet" | "bin" | "npy" | "zip" | "xz" | "bz2")) => {
                return Err(BadContent {
                    file: input.path.clone(),
                    place: Place::default(),
                    found: say!("a .{other} file", " .{other} 文件"),
                    expected: say!(
                        "text, .jsonl or .tar, plain or as .gz or .zst, .parquet, or .bin with its .idx",
                        "文本、.jsonl 或 .tar（可为 .gz 或 .zst）、.parquet，或带 .idx 的 .bin"
                    ),
                    hint: say!(
                        "convert it, or narrow the glob to other files",
                        "请转换该文件，或将 glob 限定为其他文件"
                    ),
                }
                .into());
            }
            _ => Format::Text,
        };
        Ok((format, compression))
    }
}

fn open<'a, R: Read + 'a>(raw: R, compression: Compression) -> std::io::Result<Box<dyn BufRead + 'a>> {
    let raw = BufReader::with_capacity(BUFFER_BYTES, raw);
    Ok(match compression {
        Compression::None => Box::new(raw),
        // Members may be concatenated, as `cat a.gz b.gz` and bgzip do.
        Compression::Gzip => {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, flate2::bufread::MultiGzDecoder::new(raw)))
        }
        Compression::Zstd => {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, zstd::Decoder::with_buffer(raw)?))
        }
    })
}

/// The message for a read that failed in the middle of a file.
fn broken(input: &Input, offset: u64, error: &std::io::Error) -> BadContent {
    BadContent {
        file: input.path.clone(),
        place: Place { offset: Some(offset), ..Place::default() },
        found: Said::same(error),
        expected: say!("more data", "更多数据"),
        hint: or_skip(
            say!("the file is truncated or damaged: fetch it again", "文件不完整或已损坏：请重新获取"),
            say!("its rest", "其余部分"),
        ),
    }
}

/// The message for a tar that is not what its index says, though it can be read.
fn other_hash(input: &Input, listed: &str, found: &str) -> BadContent {
    BadContent {
        file: input.path.clone(),
        place: Place::default(),
        found: say!("{found}: some bytes were changed", " {found}：有字节被改动"),
        expected: say!("the xxh3 {listed}, as its index says", "索引所列的 xxh3 {listed}"),
        hint: say!(
            "fetch or export the tar again, or set on_error to skip (recipe: clean < unreadable skip >) to read it as it \
             is",
            "请重新获取或导出该 tar，或将 on_error 设为 skip（配方：clean < unreadable skip >）以照原样读取"
        ),
    }
}

/// The message for bytes that are not UTF-8, `at` bytes into a document.
fn not_utf8(input: &Input, place: Place, at: u64, byte: Option<u8>) -> BadContent {
    BadContent {
        file: input.path.clone(),
        place: Place { offset: place.offset.map(|offset| offset + at), ..place },
        found: byte.map_or_else(
            || say!("the end in the middle of a character", "字符中间的文件末尾"),
            |b| say!("the byte 0x{b:02X}", "字节 0x{b:02X}"),
        ),
        expected: say!("UTF-8 text", " UTF-8 文本"),
        hint: or_skip(
            say!("convert the file to UTF-8", "请将文件转换为 UTF-8"),
            say!("the document", "该文档"),
        ),
    }
}

/// The message for a document above [`MAX_DOCUMENT_BYTES`].
fn too_long(input: &Input, place: Place) -> BadContent {
    BadContent {
        file: input.path.clone(),
        place,
        found: say!("a longer one", "更长的文档"),
        expected: say!(
            "a document of at most {MAX_DOCUMENT_BYTES} bytes",
            "不超过 {MAX_DOCUMENT_BYTES} 字节的文档"
        ),
        hint: or_skip(say!("split it", "请将其拆分"), say!("it", "该文档")),
    }
}

#[cfg(test)]
mod tests;
