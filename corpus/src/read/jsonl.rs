//! JSON lines: one object a line, its field `text` is the document, other fields are ignored.

use super::{Form, MAX_DOCUMENT_BYTES, Place, Raw, Sink, broken, not_utf8, too_long};
use crate::error::{BadContent, Result};
use crate::inputs::Input;
use serde::Deserialize;
use std::borrow::Cow;
use std::io::{BufRead, ErrorKind, Read as _};

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

/// Finds the lines; decoding them is [`text`]'s work.
pub(super) fn read(input: &Input, reader: &mut dyn BufRead, sink: &mut dyn Sink) -> Result<()> {
    let mut line = Vec::new();
    let mut offset = 0;
    for number in 1.. {
        // A line that lies in the reader's buffer whole is not copied.
        let whole = match reader.fill_buf() {
            Ok(buffer) => memchr::memchr(b'\n', buffer).map(|end| end + 1),
            Err(error) if error.kind() == ErrorKind::Interrupted => None,
            // A second attempt could look like the end of the file.
            Err(error) => return sink.unreadable(broken(input, offset, &error), 0),
        };
        let place = Place { offset: Some(offset), line: Some(number), row: None };
        if let Some(length) = whole {
            let buffer = reader.fill_buf().unwrap_or_default().get(..length).unwrap_or_default();
            if sink.document(Raw { bytes: buffer, form: Form::Json, place })?.is_break() {
                break;
            }
            reader.consume(length);
            offset += length as u64;
            continue;
        }
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
                sink.unreadable(too_long(input, place), length)?;
            }
            Ok(_) => {
                if sink.document(Raw { bytes: &line, form: Form::Json, place })?.is_break() {
                    break;
                }
            }
        }
        offset += length;
    }
    Ok(())
}

/// The field `text` of a line; `None` for a blank one.
pub(super) fn text<'a>(
    raw: &Raw<'a>,
    input: &Input,
) -> std::result::Result<Option<Cow<'a, str>>, BadContent> {
    if let Some(text) = leading_text(raw.bytes) {
        return Ok(Some(text.into()));
    }
    match serde_json::from_slice::<Line>(raw.bytes) {
        Ok(line) => Ok(Some(line.text)),
        Err(_) if raw.bytes.iter().all(u8::is_ascii_whitespace) => Ok(None),
        Err(error) => Err(malformed(input, raw, &error)),
    }
}

/// The text of a line that begins with it, as most do: its escapes are undone at the speed of a copy,
/// and serde_json judges the rest with the text taken out. `None` for every other line and for
/// anything irregular, which is serde_json's to judge in full.
fn leading_text(line: &[u8]) -> Option<String> {
    let blank = |bytes: &'_ [u8]| bytes.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    let after_key = line.strip_prefix(b"{\"text\"")?;
    let after_colon = after_key.get(blank(after_key)..)?.strip_prefix(b":")?;
    let mut rest = after_colon.get(blank(after_colon)..)?.strip_prefix(b"\"")?;
    let mut text = Vec::with_capacity(rest.len());
    loop {
        let stop = memchr::memchr2(b'"', b'\\', rest)?;
        let (plain, tail) = rest.split_at_checked(stop)?;
        // JSON has no control characters inside strings.
        if plain.iter().fold(u8::MAX, |least, &b| least.min(b)) < b' ' {
            return None;
        }
        text.extend_from_slice(plain);
        match tail {
            [b'"', after @ ..] => {
                rest = after;
                break;
            }
            [_, escape, after @ ..] => {
                text.push(match escape {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'"' | b'\\' | b'/' => *escape,
                    _ => return None,
                });
                rest = after;
            }
            _ => return None,
        }
    }
    let mut others = b"{\"text\":\"\"".to_vec();
    others.extend_from_slice(rest);
    serde_json::from_slice::<Line>(&others).ok()?;
    String::from_utf8(text).ok()
}

fn malformed(input: &Input, raw: &Raw, error: &serde_json::Error) -> BadContent {
    if let Err(utf8) = std::str::from_utf8(raw.bytes) {
        let at = utf8.valid_up_to();
        return not_utf8(input, raw.place, at as u64, raw.bytes.get(at).copied());
    }
    // serde_json counts columns from 1; its own "at line 1 column n" would contradict ours.
    let reason = error.to_string();
    let reason = reason.split(" at line ").next().unwrap_or(&reason).to_owned();
    let column = error.column().saturating_sub(1) as u64;
    BadContent {
        file: input.path.clone(),
        place: Place { offset: raw.place.offset.map(|offset| offset + column), ..raw.place },
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Where the shortcut answers, serde_json gives the same answer.
        #[test]
        fn the_shortcut_agrees(text in any::<String>(), tail in r#"[ ,"a{}:0x\\\\\[\]]{0,12}"#, cut in 0usize..200) {
            let mut line = format!("{{\"text\": {}, \"n\": 1}}", serde_json::to_string(&text).unwrap()).into_bytes();
            prop_assert!(leading_text(&line).is_none_or(|found| found == text));
            line.truncate(cut.min(line.len()));
            line.extend(tail.bytes());
            if let Some(found) = leading_text(&line) {
                prop_assert_eq!(serde_json::from_slice::<Line>(&line).unwrap().text, found);
            }
        }
    }

    #[test]
    fn the_shortcut_is_taken_and_refuses_what_is_no_json() {
        assert_eq!(leading_text(br#"{"text": "a\n\"b\"\\", "source": "x"}"#).unwrap(), "a\n\"b\"\\");
        assert_eq!(leading_text("{\"text\":\"三\"}".as_bytes()).unwrap(), "三");
        for line in
            ["{\"text\":\"a\tb\"}", r#"{"text":"a"} x"#, r#"{"text":"a","text":"b"}"#, r#"{"text":"a"#]
        {
            assert_eq!(leading_text(line.as_bytes()), None, "{line}");
            assert!(serde_json::from_str::<Line>(line).is_err());
        }
    }
}
