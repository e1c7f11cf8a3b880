//! JSON lines: one object a line, its field `text` is the document, other fields are ignored.

use super::{
    Buffer, Form, Found, KEPT_BYTES, MAX_DOCUMENT_BYTES, Place, Raw, Sink, Text, block_bytes, broken,
    not_utf8, strings::first_special, strings::unescape, too_long,
};
use crate::error::{BadContent, Result, or_skip};
use crate::inputs::Input;
use llmc_plan::lang::Said;
use llmc_plan::say;
use serde::Deserialize;
use std::borrow::Cow;
use std::io::{BufRead, ErrorKind};

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

/// Finds the lines, a block of them at a time; decoding them is [`find_text`]'s work. The first lies at byte `start`.
pub(super) fn read(input: &Input, start: u64, reader: &mut dyn BufRead, sink: &mut dyn Sink) -> Result<()> {
    // Lines that are whole, then the beginning of one.
    let mut block = Buffer::default();
    let (mut lines, mut rest) = (Vec::new(), Vec::new());
    let (mut offset, mut number) = (start, 1u64);
    loop {
        let searched = block.len();
        let place = Place { offset: Some(offset), line: Some(number), row: None };
        if searched as u64 > MAX_DOCUMENT_BYTES {
            let length = searched as u64 + skip_line(reader);
            sink.unreadable(too_long(input, place), length)?;
            (offset, number) = (offset + length, number + 1);
            block.clear(KEPT_BYTES);
            continue;
        }
        // One byte more tells a line that is too long.
        let most = block_bytes().min(MAX_DOCUMENT_BYTES as usize + 1 - searched);
        match reader.read(block.room(most).get_mut(..most).unwrap_or_default()) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // A second attempt could look like the end of the file.
            Err(error) => {
                let length = searched as u64;
                return sink.unreadable(broken(input, offset + length, &error), length);
            }
            Ok(0) if searched > 0 => {
                let last = Raw { bytes: block.bytes(), form: Form::Json, place };
                return sink.document(last).map(|_| ());
            }
            Ok(0) => return Ok(()),
            Ok(length) => block.keep(length),
        }
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', block.bytes().get(searched..).unwrap_or_default()) {
            let end = searched + end + 1;
            let place = Place { offset: Some(offset + start as u64), line: Some(number), row: None };
            lines.push(Found { end, place });
            (start, number) = (end, number + 1);
        }
        if lines.is_empty() {
            continue;
        }
        rest.clear();
        rest.extend_from_slice(block.bytes().get(start..).unwrap_or_default());
        block.truncate(start);
        if sink.documents(&mut block, &lines, Form::Json)?.is_break() {
            return Ok(());
        }
        lines.clear();
        block.clear(KEPT_BYTES);
        block.push(&rest);
        offset += start as u64;
    }
}

/// The field `text` of a line; `None` for a blank one.
pub(super) fn find_text(
    raw: &Raw<'_>,
    input: &Input,
    made: &mut Buffer,
) -> std::result::Result<Option<Text>, BadContent> {
    if let Some(text) = leading_text(raw.bytes, made) {
        return Ok(Some(text));
    }
    // A byte order mark is not text.
    let mark = if raw.place.line.is_none_or(|line| line == 1) { "\u{feff}".as_bytes() } else { &[] };
    let line = raw.bytes.strip_prefix(mark).unwrap_or(raw.bytes);
    match serde_json::from_slice::<Line>(line) {
        // serde would take a list of one string for the object.
        Ok(_) if !blank(line).starts_with(b"{") => Err(malformed(input, raw, say!("a list", "列表"), 0)),
        Ok(line) => Ok(Some(Text::Made(made.push(line.text.as_bytes())))),
        Err(_) if line.iter().all(u8::is_ascii_whitespace) => Ok(None),
        Err(error) => {
            // Its own "at line 1 column n", counted from 1, would contradict ours.
            let reason = error.to_string();
            let reason = reason.split(" at line ").next().unwrap_or(&reason);
            let found = match reason.strip_prefix("expected ") {
                Some("value") => say!("something else", "其他内容"),
                Some(wanted) => say!("something else than {wanted}", "并非 {wanted} 的内容"),
                None => say!("{reason}", " {reason}"),
            };
            let before = raw.bytes.len() - line.len();
            Err(malformed(input, raw, found, before + error.column().saturating_sub(1)))
        }
    }
}

/// The text of a line that begins with it, as most do: without escapes it lies there as it is, and with
/// them they are undone at the speed of a copy. That it is UTF-8 is not seen here. `None` for every other line
/// and for anything irregular, which is serde_json's to judge in full.
fn leading_text(line: &[u8], made: &mut Buffer) -> Option<Text> {
    let after_key = line.strip_prefix(b"{\"text\"")?;
    let mut rest = blank(blank(after_key).strip_prefix(b":")?).strip_prefix(b"\"")?;
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
    simdutf8::basic::from_utf8(rest).ok()?;
    if !ends_plainly(rest) {
        // serde_json judges the line with its text taken out.
        let mut others = b"{\"text\":\"\"".to_vec();
        others.extend_from_slice(rest);
        serde_json::from_slice::<Line>(&others).ok()?;
    }
    Some(text)
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

/// The message for a line of which something else was `found` at byte `column`.
fn malformed(input: &Input, raw: &Raw, found: Said, column: usize) -> BadContent {
    if let Err(utf8) = std::str::from_utf8(raw.bytes) {
        let at = utf8.valid_up_to();
        return not_utf8(input, raw.place, at as u64, raw.bytes.get(at).copied());
    }
    BadContent {
        file: input.path.clone(),
        place: Place { offset: raw.place.offset.map(|offset| offset + column as u64), ..raw.place },
        found,
        expected: say!("a JSON object with a string field \"text\"", "含字符串字段 \"text\" 的 JSON 对象"),
        hint: or_skip(say!("repair the line", "请修复该行"), say!("it", "该行")),
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
        let mut made = Buffer::default();
        made.push(b"before");
        Some(match leading_text(line, &mut made)? {
            Text::Stored(range) => std::str::from_utf8(&line[range]).ok()?.to_owned(),
            Text::Made(range) => std::str::from_utf8(&made.bytes()[range]).ok()?.to_owned(),
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
