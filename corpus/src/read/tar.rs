//! WebDataset: a tar whose members `KEY.txt` and `KEY.json` are documents; other members (images,
//! labels) are passed over. It is read in the order of the archive, so no index is needed; where one states how
//! many samples there are, they are counted.

use super::{Compression, Form, MAX_DOCUMENT_BYTES, Place, Raw, Sink, broken, jsonl, open, too_long};
use crate::error::{BadContent, Result};
use crate::inputs::Input;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

pub(super) fn read(input: &Input, reader: &mut dyn BufRead, sink: &mut dyn Sink) -> Result<()> {
    let mut archive = tar::Archive::new(reader);
    let entries = match archive.entries() {
        Ok(entries) => entries,
        Err(error) => return sink.unreadable(broken(input, 0, &error), input.bytes),
    };
    let (mut documents, mut samples, mut key) = (0u64, 0u64, String::new());
    // After the header that cannot be read, nothing tells where the next one is.
    let mut end = 0;
    for entry in entries {
        let mut entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let mut bad = broken(input, end, &error);
                bad.expected = "the header of a tar member".into();
                return sink.unreadable(bad, input.bytes.saturating_sub(end));
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
            Some("jsonl" | "ndjson") => {
                let mut lines =
                    open(&mut entry, compression).map_err(crate::error::Error::io("read", &input.path))?;
                jsonl::read(input, &mut *lines, sink)?;
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
                (bad.found, bad.expected) = ("the end of the file".into(), format!("{size} bytes of {name}"));
                return sink.unreadable(bad, length);
            }
            Ok(()) if length > MAX_DOCUMENT_BYTES => sink.unreadable(too_long(input, place), size)?,
            Ok(()) => {
                if sink.document(Raw { bytes: &bytes, form, place })?.is_break() {
                    return Ok(());
                }
            }
        }
    }
    if documents == 0 {
        return sink.unreadable(
            BadContent {
                file: input.path.clone(),
                place: Place::default(),
                found: "none of them".into(),
                expected: "members named KEY.txt, KEY.json or KEY.jsonl".into(),
                hint: "rename the members that are text, or narrow the glob to tars that hold text".into(),
            },
            input.bytes,
        );
    }
    if let Some(listed) = input.samples.filter(|&listed| listed != samples) {
        let (file, place) = (input.path.clone(), Place::default());
        let (found, expected) = (samples.to_string(), format!("{listed} samples, as its index says"));
        let hint = "fetch the tar again, or write the index again".into();
        return sink.unreadable(BadContent { file, place, found, expected, hint }, 0);
    }
    Ok(())
}

/// What the members of a sample have in common: their path up to the first dot of the name.
fn key_of(name: &str) -> &str {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    let length = name.get(start..).and_then(|last| last.find('.'));
    name.get(..length.map_or(name.len(), |length| start + length)).unwrap_or(name)
}
