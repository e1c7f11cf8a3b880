//! JSON lines: one object a line, its field `text` is the document, other fields are ignored.

use super::{MAX_DOCUMENT_BYTES, Sink, broken, not_utf8, too_long};
use crate::error::{BadContent, Result};
use crate::inputs::Input;
use serde::Deserialize;
use std::borrow::Cow;
use std::io::{BufRead, Read as _};

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

pub(super) fn read(input: &Input, reader: &mut dyn BufRead, sink: &mut dyn Sink) -> Result<()> {
    let mut line = Vec::new();
    let mut offset = 0;
    for number in 1.. {
        line.clear();
        let read = (&mut *reader).take(MAX_DOCUMENT_BYTES + 1).read_until(b'\n', &mut line);
        let mut length = line.len() as u64;
        match read {
            Err(error) => {
                sink.unreadable(broken(input, offset + length, &error), length)?;
                break;
            }
            Ok(0) => break,
            Ok(_) if length > MAX_DOCUMENT_BYTES => {
                length += skip_line(reader);
                sink.unreadable(too_long(input, offset, Some(number)), length)?;
            }
            Ok(_) if line.iter().all(u8::is_ascii_whitespace) => {}
            Ok(_) => match serde_json::from_slice::<Line>(&line) {
                Ok(parsed) => {
                    if sink.document(&parsed.text)?.is_break() {
                        break;
                    }
                }
                Err(error) => sink.unreadable(malformed(input, offset, number, &line, &error), length)?,
            },
        }
        offset += length;
    }
    Ok(())
}

fn malformed(input: &Input, offset: u64, number: u64, line: &[u8], error: &serde_json::Error) -> BadContent {
    if let Err(utf8) = std::str::from_utf8(line) {
        let at = utf8.valid_up_to();
        return not_utf8(input, offset + at as u64, Some(number), line.get(at).copied());
    }
    // serde_json counts columns from 1; its own "at line 1 column n" would contradict ours.
    let reason = error.to_string();
    let reason = reason.split(" at line ").next().unwrap_or(&reason).to_owned();
    BadContent {
        file: input.path.clone(),
        offset: Some(offset + error.column().saturating_sub(1) as u64),
        line: Some(number),
        found: reason,
        expected: "a JSON object with a string field \"text\"".into(),
        hint: "repair the line, or set on_error to skip to leave it out".into(),
    }
}

/// Reads past the next newline and returns how many bytes that took. A read error shows again, as
/// itself, at the next read.
fn skip_line(reader: &mut dyn BufRead) -> u64 {
    let mut skipped = 0;
    while let Ok(buffer) = reader.fill_buf() {
        let end = buffer.iter().position(|&b| b == b'\n');
        let take = end.map_or(buffer.len(), |at| at + 1);
        reader.consume(take);
        skipped += take as u64;
        if end.is_some() || take == 0 {
            break;
        }
    }
    skipped
}
