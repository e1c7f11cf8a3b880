//! WebDataset: a tar whose members `KEY.txt`, `KEY.json` and `KEY.input_ids.npy` are documents; other members (images,
//! labels) are passed over. It is read in the order of the archive, so no index is needed; where one states how
//! many samples there are, they are counted.

use super::{Compression, Form, MAX_DOCUMENT_BYTES, Place, Raw, Sink, broken, jsonl, open, too_long};
use crate::error::{BadContent, Result, or_skip};
use crate::inputs::Input;
use crate::npy;
use llmc_plan::lang::Said;
use llmc_plan::say;
use std::cell::Cell;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// True if it was read up to its end, and as its index says.
pub(super) fn read(input: &Input, reader: &mut dyn BufRead, sink: &mut dyn Sink) -> Result<bool> {
    let (read, ended) = (Cell::new(0), Cell::new(false));
    let mut archive = tar::Archive::new(Watched { inner: &mut *reader, read: &read, ended: &ended });
    let entries = match archive.entries() {
        Ok(entries) => entries,
        Err(error) => return sink.unreadable(broken(input, 0, &error), input.bytes).map(|()| false),
    };
    let (mut documents, mut samples, mut key) = (0u64, 0u64, String::new());
    // After the header that cannot be read, nothing tells where the next one is.
    let mut end = 0;
    for entry in entries {
        let mut entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let mut bad = broken(input, end, &error);
                bad.expected = say!("the header of a tar member", " tar 成员的头部");
                if ended.get() {
                    bad.found = say!("the end of the file", "文件末尾");
                } else if bad.found.en.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER)
                {
                    // The library repeats what stands there, which may be anything.
                    bad.found = say!("512 bytes that are none", "并非头部的 512 字节");
                }
                return sink.unreadable(bad, input.bytes.saturating_sub(end)).map(|()| false);
            }
        };
        let (offset, size) = (entry.raw_file_position(), entry.size());
        end = offset.saturating_add(size.div_ceil(512).saturating_mul(512));
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).to_ascii_lowercase();
        let own = key_of(&name);
        if own != key {
            key = own.to_owned();
            samples += 1;
        }
        let (stem, compression) = match name.rsplit_once('.') {
            Some((stem, "gz")) => (stem, Compression::Gzip),
            Some((stem, "zst" | "zstd")) => (stem, Compression::Zstd),
            _ => (name.as_str(), Compression::None),
        };
        let form = match Path::new(stem).extension().and_then(|e| e.to_str()) {
            Some("txt" | "text" | "md") => Form::Text,
            Some("json") => Form::Json,
            // Other arrays are images, audio, embeddings.
            Some("npy") if stem.ends_with(".input_ids.npy") || stem.ends_with(".tokens.npy") => Form::Ids,
            Some("jsonl" | "ndjson") => {
                let mut lines =
                    open(&mut entry, compression).map_err(crate::error::Error::io("read", &input.path))?;
                let start = if matches!(compression, Compression::None) { offset } else { 0 };
                jsonl::read(input, start, &mut *lines, sink)?;
                documents += 1;
                continue;
            }
            _ => continue,
        };
        documents += 1;
        let place = Place { offset: Some(offset), ..Place::default() };
        let mut bytes = Vec::new();
        let plain = matches!(compression, Compression::None);
        let read = match open(BufReader::new(&mut entry), compression) {
            Ok(reader) => reader.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes).map(|_| ()),
            Err(error) => Err(error),
        };
        let length = bytes.len() as u64;
        let short = plain && length < size.min(MAX_DOCUMENT_BYTES + 1);
        match read {
            Err(error) => sink.unreadable(broken(input, offset + length, &error), length)?,
            Ok(()) if short => {
                let mut bad = broken(input, offset + length, &std::io::ErrorKind::UnexpectedEof.into());
                (bad.found, bad.expected) = (
                    say!("the end of the file", "文件末尾"),
                    say!("{size} bytes of {name}", " {name} 的 {size} 字节"),
                );
                return sink.unreadable(bad, length).map(|()| false);
            }
            Ok(()) if length > MAX_DOCUMENT_BYTES => sink.unreadable(too_long(input, place), size)?,
            Ok(()) => {
                if form == Form::Ids {
                    bytes = match npy::read(&bytes) {
                        Ok(ids) if ids.len() as u64 <= MAX_DOCUMENT_BYTES => ids,
                        Ok(_) => {
                            sink.unreadable(too_long(input, place), size)?;
                            continue;
                        }
                        Err((at, found)) => {
                            let at = if plain { at } else { 0 };
                            sink.unreadable(no_ids(input, offset + at, &name, found), size)?;
                            continue;
                        }
                    };
                }
                if sink.document(Raw { bytes: &bytes, form, place })?.is_break() {
                    return Ok(false);
                }
            }
        }
    }
    if end > 0 && read.get() <= end {
        // Cut between two members it would look whole.
        let mut bad = broken(input, read.get(), &std::io::ErrorKind::UnexpectedEof.into());
        (bad.found, bad.expected) = (
            say!("the end of the file", "文件末尾"),
            say!("another member, or the zeros that end a tar", "另一成员，或结束 tar 的零字节"),
        );
        return sink.unreadable(bad, 0).map(|()| false);
    }
    if documents == 0 {
        sink.unreadable(
            BadContent {
                file: input.path.clone(),
                place: Place::default(),
                found: say!("none of them", "没有这样的成员"),
                expected: say!(
                    "members named KEY.txt, KEY.json, KEY.jsonl or KEY.input_ids.npy",
                    "名为 KEY.txt、KEY.json、KEY.jsonl 或 KEY.input_ids.npy 的成员"
                ),
                hint: say!(
                    "rename the members that are documents, or narrow the glob to tars that hold some",
                    "请重命名作为文档的成员，或将 glob 限定为含文档的 tar"
                ),
            },
            input.bytes,
        )?;
        return Ok(false);
    }
    if let Some(listed) =
        input.listed.as_ref().map(|listed| listed.samples).filter(|&listed| listed != samples)
    {
        let (file, place) = (input.path.clone(), Place::default());
        let (found, expected) = (
            say!("{samples}", " {samples}"),
            say!("{listed} samples, as its index says", "索引所列的 {listed} 个样本"),
        );
        let hint = say!("fetch the tar again, or write the index again", "请重新获取该 tar，或重写索引");
        return sink.unreadable(BadContent { file, place, found, expected, hint }, 0).map(|()| false);
    }
    // What comes after the end of an archive belongs to the file, its checksum too where it is compressed.
    match std::io::copy(reader, &mut std::io::sink()) {
        Ok(_) => Ok(true),
        Err(error) => sink.unreadable(broken(input, read.get(), &error), 0).map(|()| false),
    }
}

/// Counts what passes through, and sees its end.
struct Watched<'a, R> {
    inner: R,
    read: &'a Cell<u64>,
    ended: &'a Cell<bool>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read.set(self.read.get() + n as u64);
        self.ended.set(n == 0 && !buffer.is_empty());
        Ok(n)
    }
}

/// The message for a member that is named as token ids and holds none.
fn no_ids(input: &Input, offset: u64, name: &str, found: Said) -> BadContent {
    BadContent {
        file: input.path.clone(),
        place: Place { offset: Some(offset), ..Place::default() },
        found,
        expected: say!(
            "token ids in {name}: an array of one dimension of integers",
            " {name} 中的词元 id：一维整数数组"
        ),
        hint: or_skip(
            say!("write it again with numpy.save", "请用 numpy.save 重新写入"),
            say!("it", "该文档"),
        ),
    }
}

/// What the members of a sample have in common: their path up to the first dot of the name.
fn key_of(name: &str) -> &str {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    let length = name.get(start..).and_then(|last| last.find('.'));
    name.get(..length.map_or(name.len(), |length| start + length)).unwrap_or(name)
}
