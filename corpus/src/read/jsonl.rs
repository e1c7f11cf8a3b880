//! JSON lines: one object a line, its field `text` is the document, other fields are ignored.

use super::{Form, MAX_DOCUMENT_BYTES, Place, Raw, Sink, Text, broken, made::Made, not_utf8, too_long};
use crate::error::{BadContent, Result};
use crate::inputs::Input;
use serde::Deserialize;
use std::borrow::Cow;
use std::io::{BufRead, ErrorKind, Read as _};
use wide::u8x16;

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
pub(super) fn find_text(
    raw: &Raw<'_>,
    input: &Input,
    made: &mut Made,
) -> std::result::Result<Option<Text>, BadContent> {
    if let Some(text) = leading_text(raw.bytes, made) {
        return Ok(Some(text));
    }
    match serde_json::from_slice::<Line>(raw.bytes) {
        Ok(line) => Ok(Some(Text::Made(made.push(&line.text)))),
        Err(_) if raw.bytes.iter().all(u8::is_ascii_whitespace) => Ok(None),
        Err(error) => Err(malformed(input, raw, &error)),
    }
}

/// The text of a line that begins with it, as most do: without escapes it lies there as it is, and with
/// them they are undone at the speed of a copy. `None` for every other line and for anything irregular,
/// which is serde_json's to judge in full.
fn leading_text(line: &[u8], made: &mut Made) -> Option<Text> {
    let after_key = line.strip_prefix(b"{\"text\"")?;
    let mut rest = blank(blank(after_key).strip_prefix(b":")?).strip_prefix(b"\"")?;
    // Escapes are ASCII, so text without them is UTF-8 if the line is.
    simdutf8::basic::from_utf8(line).ok()?;
    let first = line.len() - rest.len();
    let text = match first_special(rest)? {
        (length, b'"') => {
            rest = rest.get(length + 1..)?;
            Text::Stored(first..first + length)
        }
        _ => {
            let (start, read) = (made.len(), unescape(rest, made)?);
            rest = rest.get(read..)?;
            Text::Made(start..made.len())
        }
    };
    if !ends_plainly(rest) {
        // serde_json judges the line with its text taken out.
        let mut others = b"{\"text\":\"\"".to_vec();
        others.extend_from_slice(rest);
        serde_json::from_slice::<Line>(&others).ok()?;
    }
    Some(text)
}

const BLOCK: usize = 16;

/// Marks the bytes of a block that end a plain run: a quote, a backslash, and the control characters that
/// JSON has not inside strings.
fn special(block: [u8; BLOCK]) -> u32 {
    let (block, all) = (u8x16::new(block), u8x16::splat);
    let control = block.min(all(b' ' - 1)).simd_eq(block);
    (block.simd_eq(all(b'"')) | block.simd_eq(all(b'\\')) | control).to_bitmask()
}

/// The first block, with zeros beyond the end, which are special.
fn block(bytes: &[u8]) -> [u8; BLOCK] {
    bytes.first_chunk().copied().unwrap_or_else(|| {
        let mut last = [0; BLOCK];
        last.iter_mut().zip(bytes).for_each(|(to, &from)| *to = from);
        last
    })
}

/// Length of the plain run at the beginning, and the byte that ends it.
fn first_special(bytes: &[u8]) -> Option<(usize, u8)> {
    let mut at = 0;
    loop {
        let marks = special(block(bytes.get(at..)?));
        if marks != 0 {
            at += marks.trailing_zeros() as usize;
            return Some((at, *bytes.get(at)?));
        }
        at += BLOCK;
    }
}

/// What an escape of one letter stands for; 0 for every other one.
const ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let pairs = [(b'n', b'\n'), (b't', b'\t'), (b'r', b'\r'), (b'"', b'"'), (b'\\', b'\\'), (b'/', b'/')];
    let mut n = 0;
    while n < pairs.len() {
        table[pairs[n].0 as usize] = pairs[n].1;
        n += 1;
    }
    table
};

/// Appends a string without its escapes and returns its length with them and the quote at the end. `None`
/// for escapes by number, and for what is no JSON.
fn unescape(string: &[u8], made: &mut Made) -> Option<usize> {
    // Whole blocks are written, so there is one more.
    let out = made.room(string.len() + BLOCK);
    let (mut from, mut to) = (0, 0);
    loop {
        let block = block(string.get(from..)?);
        *out.get_mut(to..)?.first_chunk_mut()? = block;
        let marks = special(block);
        if marks == 0 {
            (from, to) = (from + BLOCK, to + BLOCK);
            continue;
        }
        let plain = marks.trailing_zeros() as usize;
        (from, to) = (from + plain, to + plain);
        match *string.get(from)? {
            b'"' => {
                made.keep(to);
                return Some(from + 1);
            }
            b'\\' => {
                let letter = ESCAPES.get(usize::from(*string.get(from + 1)?)).copied().filter(|&b| b != 0)?;
                *out.get_mut(to)? = letter;
                (from, to) = (from + 2, to + 1);
            }
            _ => return None,
        }
    }
}

/// Without leading white space.
fn blank(bytes: &[u8]) -> &[u8] {
    let length = bytes.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')).count();
    bytes.get(length..).unwrap_or_default()
}

/// True for the rest of an object that has nothing but fields of plain strings, none of them `text`.
fn ends_plainly(rest: &[u8]) -> bool {
    fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
        let bytes = blank(bytes).strip_prefix(b"\"")?;
        let (length, end) = first_special(bytes)?;
        let (plain, tail) = bytes.split_at_checked(length)?;
        (end == b'"').then_some((plain, tail.get(1..)?))
    }
    fn fields(mut rest: &[u8]) -> Option<bool> {
        loop {
            match blank(rest) {
                [b'}', after @ ..] => return Some(blank(after).is_empty()),
                [b',', after @ ..] => {
                    let (_, after) = string(after).filter(|(name, _)| *name != b"text")?;
                    rest = string(blank(after).strip_prefix(b":")?)?.1;
                }
                _ => return None,
            }
        }
    }
    fields(rest) == Some(true)
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

    fn shortcut(line: &[u8]) -> Option<String> {
        let mut made = Made::default();
        made.push("before");
        Some(match leading_text(line, &mut made)? {
            Text::Stored(range) => std::str::from_utf8(&line[range]).unwrap().to_owned(),
            Text::Made(range) => std::str::from_utf8(&made.bytes()[range]).unwrap().to_owned(),
        })
    }

    proptest! {
        /// Where the shortcut answers, serde_json gives the same answer.
        #[test]
        fn the_shortcut_agrees(text in any::<String>(), tail in r#"[ ,"a{}:0x\\\[\]]{0,12}"#, cut in 0usize..200) {
            let text_json = serde_json::to_string(&text).unwrap();
            for others in [r#""n": 1"#, r#""n": "m" ,"o":"""#] {
                let mut line = format!("{{\"text\": {text_json}, {others}}}").into_bytes();
                prop_assert!(shortcut(&line).is_none_or(|found| found == text));
                line.truncate(cut.min(line.len()));
                line.extend(tail.bytes());
                if let Some(found) = shortcut(&line) {
                    prop_assert_eq!(serde_json::from_slice::<Line>(&line).unwrap().text, found);
                }
            }
        }

        #[test]
        fn a_plain_end_is_an_end(rest in r#"[ ,"ab{}:text\\\n]{0,30}"#) {
            if ends_plainly(rest.as_bytes()) {
                let line = format!("{{\"text\":\"\"{rest}");
                prop_assert!(serde_json::from_str::<Line>(&line).is_ok(), "{line}");
            }
        }
    }

    #[test]
    fn the_shortcut_is_taken_and_refuses_what_is_no_json() {
        assert_eq!(shortcut(br#"{"text": "a\n\"b\"\\", "source": "x"}"#).unwrap(), "a\n\"b\"\\");
        assert_eq!(shortcut("{\"text\":\"三\"}".as_bytes()).unwrap(), "三");
        assert!(ends_plainly(b", \"source\": \"x\", \"url\":\"\"}\r\n"));
        for line in
            ["{\"text\":\"a\tb\"}", r#"{"text":"a"} x"#, r#"{"text":"a","text":"b"}"#, r#"{"text":"a"#]
        {
            assert_eq!(shortcut(line.as_bytes()), None, "{line}");
            assert!(serde_json::from_str::<Line>(line).is_err());
        }
        assert_eq!(shortcut(b"{\"text\":\"a\xFF\"}"), None);
        assert_eq!(shortcut(b"{\"text\":\"a\", \"b\": \"\xFF\"}"), None);
    }
}
