//! TensorBoard event files: scalars only.
//!
//! Framing: TFRecord (length u64 LE, masked CRC32C of it, data, masked CRC32C of that;
//! tensorflow/core/lib/io/record_writer.h, mask in tensorflow/core/lib/hash/crc32c.h). Records: protobuf
//! `Event` (tensorflow/core/util/event.proto) holding a `Summary` (tensorflow/core/framework/summary.proto) or a
//! `SessionLog`. Four messages with seven fields: written by hand, no protobuf crate.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::failure::{Failure, Outcome};

/// An open event file.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Starts a new file in `folder` for a run that has `steps_done` steps behind it. TensorBoard drops what
    /// older files of the folder say about later steps (the `SessionLog` START of event_accumulator.py).
    ///
    /// # Errors
    /// Exit code 2 when the folder or file cannot be written.
    pub fn create(folder: &Path, steps_done: u64) -> Outcome<Events> {
        std::fs::create_dir_all(folder).map_err(|e| Failure::io("create", folder, &e))?;
        let now = wall_time();
        let name = format!("events.out.tfevents.{:010}.llmc.{}", now as u64, std::process::id());
        // A second run within the same second and process gets a number, not the first one's file.
        let (path, file) = (0..u32::MAX)
            .map(|n| folder.join(format!("{name}.{n}")))
            .find_map(|path| match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => Some(Ok((path, file))),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => None,
                Err(e) => Some(Err(Failure::io("create", &path, &e))),
            })
            .unwrap_or_else(|| Err(Failure::bug("no free name for an event file")))?;
        let mut events = Events { path, file };
        let mut version = event(now, 0);
        bytes_field(&mut version, 3, b"brain.Event:2");
        events.append(&record(&version))?;
        let mut start = event(now, steps_done + 1);
        let mut log = Vec::new();
        varint_field(&mut log, 1, 1); // SessionLog.status = START
        bytes_field(&mut start, 7, &log);
        events.append(&record(&start))?;
        Ok(events)
    }

    /// Appends named values of one step.
    ///
    /// # Errors
    /// Exit code 2 when the file cannot be written.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Outcome<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut entry = Vec::new();
            bytes_field(&mut entry, 1, tag.as_bytes()); // Summary.Value.tag
            fixed32_field(&mut entry, 2, *value as f32); // Summary.Value.simple_value
            bytes_field(&mut summary, 1, &entry);
        }
        let mut event = event(wall_time(), step);
        bytes_field(&mut event, 5, &summary);
        self.append(&record(&event))
    }

    fn append(&mut self, record: &[u8]) -> Outcome<()> {
        self.file.write_all(record).map_err(|e| Failure::io("write", &self.path, &e))
    }
}

fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// An `Event` with its time and step.
fn event(wall_time: f64, step: u64) -> Vec<u8> {
    let mut out = Vec::new();
    key(&mut out, 1, 1);
    out.extend(wall_time.to_le_bytes());
    varint_field(&mut out, 2, step);
    out
}

/// Protobuf field key: number and wire type.
fn key(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, (field << 3) | wire);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_field(out: &mut Vec<u8>, field: u64, value: u64) {
    key(out, field, 0);
    varint(out, value);
}

fn fixed32_field(out: &mut Vec<u8>, field: u64, value: f32) {
    key(out, field, 5);
    out.extend(value.to_le_bytes());
}

fn bytes_field(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, 2);
    varint(out, value.len() as u64);
    out.extend(value);
}

/// Frames one record.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(length);
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc(data).to_le_bytes());
    out
}

/// CRC32C rotated right by 15 plus a constant, so that a CRC of data that holds CRCs stays good.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (field, wire type, value) of a message; the reader is written apart from the writer.
    enum Value<'a> {
        Varint(u64),
        Fixed(&'a [u8]),
        Bytes(&'a [u8]),
    }

    fn fields(mut data: &[u8]) -> Vec<(u64, Value<'_>)> {
        fn varint(data: &mut &[u8]) -> u64 {
            let (mut value, mut shift) = (0, 0);
            loop {
                let byte = data[0];
                *data = &data[1..];
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    return value;
                }
                shift += 7;
            }
        }
        fn take<'a>(data: &mut &'a [u8], n: usize) -> &'a [u8] {
            let (head, tail) = data.split_at(n);
            *data = tail;
            head
        }
        let mut out = Vec::new();
        while !data.is_empty() {
            let key = varint(&mut data);
            let value = match key & 7 {
                0 => Value::Varint(varint(&mut data)),
                1 => Value::Fixed(take(&mut data, 8)),
                5 => Value::Fixed(take(&mut data, 4)),
                2 => {
                    let n = varint(&mut data) as usize;
                    Value::Bytes(take(&mut data, n))
                }
                wire => panic!("wire type {wire}"),
            };
            out.push((key >> 3, value));
        }
        out
    }

    fn records(mut data: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        while !data.is_empty() {
            let length = u64::from_le_bytes(data[..8].try_into().expect("8 bytes")) as usize;
            let word = |at: usize| u32::from_le_bytes(data[at..at + 4].try_into().expect("4 bytes"));
            assert_eq!(word(8), masked_crc(&data[..8]), "length checksum");
            let body = &data[12..12 + length];
            assert_eq!(word(12 + length), masked_crc(body), "data checksum");
            out.push(body.to_vec());
            data = &data[16 + length..];
        }
        out
    }

    #[test]
    fn the_checksum_is_the_published_one() {
        // RFC 3720 appendix B.4: 32 bytes of zeros.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        // The empty record's length checksum as TensorFlow writes it, known from any file's first bytes:
        // masking is a rotation and a sum, checked here by its inverse (Unmask in crc32c.h).
        let masked = masked_crc(&[1, 2, 3]);
        assert_eq!(masked.wrapping_sub(0xa282_ead8).rotate_left(15), crc32c::crc32c(&[1, 2, 3]));
    }

    #[test]
    fn a_file_decodes_to_what_was_written() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut events = Events::create(folder.path(), 7).expect("create");
        events.scalars(300, &[("train/loss", 2.5), ("train/lr", 1e-3)]).expect("write");
        let _second = Events::create(folder.path(), 7).expect("a second file in the same second");
        let bytes = std::fs::read(&events.path).expect("read");
        let records = records(&bytes);
        assert_eq!(records.len(), 3);
        let version = fields(&records[0]);
        assert!(matches!(version[0], (1, Value::Fixed(t)) if t.len() == 8), "wall time");
        assert!(matches!(version[2], (3, Value::Bytes(b"brain.Event:2"))));
        let start = fields(&records[1]);
        assert!(matches!(start[1], (2, Value::Varint(8))), "first step after the resumed one");
        assert!(matches!(start[2], (7, Value::Bytes(&[8, 1]))));
        let scalars = fields(&records[2]);
        assert!(matches!(scalars[1], (2, Value::Varint(300))));
        let (5, Value::Bytes(summary)) = scalars[2] else { panic!("no summary") };
        let read: Vec<(String, f32)> = fields(summary)
            .iter()
            .map(|(number, value)| {
                let (1, Value::Bytes(entry)) = (number, value) else { panic!("not a value") };
                let entry = fields(entry);
                let [(1, Value::Bytes(tag)), (2, Value::Fixed(value))] = entry.as_slice() else {
                    panic!("not tag and value")
                };
                let value = f32::from_le_bytes((*value).try_into().expect("4 bytes"));
                (String::from_utf8(tag.to_vec()).expect("utf-8"), value)
            })
            .collect();
        assert_eq!(read, [("train/loss".to_owned(), 2.5), ("train/lr".to_owned(), 1e-3)]);
    }
}
