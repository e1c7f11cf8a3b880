//! What needs a file too large to write in a test.

use super::*;
use std::path::PathBuf;

/// Skips everything unreadable and remembers what it got.
#[derive(Default)]
struct Kept {
    documents: Vec<String>,
    left_out: Vec<(String, u64)>,
}

impl Sink for Kept {
    fn document(&mut self, raw: Raw<'_>) -> Result<ControlFlow<()>> {
        match raw.text(&input("a")) {
            Ok(text) => self.documents.extend(text.map(|text| text.into_owned())),
            Err(bad) => self.unreadable(bad, raw.bytes.len() as u64)?,
        }
        Ok(ControlFlow::Continue(()))
    }

    fn unreadable(&mut self, bad: BadContent, bytes: u64) -> Result<()> {
        self.left_out.push((bad.said().en, bytes));
        Ok(())
    }
}

fn input(name: &str) -> Input {
    Input {
        path: PathBuf::from(name),
        name: name.into(),
        bytes: 0,
        modified: 0,
        validation: false,
        listed: None,
    }
}

/// A line of `MAX_DOCUMENT_BYTES + 1000` bytes and its newline, between two good ones.
#[test]
fn an_endless_line_is_left_out_in_bounded_memory() {
    let good: &[u8] = b"{\"text\": \"a\"}\n";
    let long = std::io::repeat(b'x').take(MAX_DOCUMENT_BYTES + 1000);
    let mut reader = BufReader::new(good.chain(long).chain(&b"\n"[..]).chain(good));
    let mut kept = Kept::default();
    jsonl::read(&input("a.jsonl"), 0, &mut reader, &mut kept).unwrap();
    assert_eq!(kept.documents, ["a", "a"]);
    let [(message, bytes)] = &kept.left_out[..] else { panic!("{:?}", kept.left_out) };
    assert_eq!(*bytes, MAX_DOCUMENT_BYTES + 1001);
    assert_eq!(
        message,
        "a.jsonl, line 2 (byte 14): expected a document of at most 134217728 bytes, found a longer one; split it, \
         or set on_error to skip (recipe: clean < unreadable skip >) to leave it out"
    );
}

#[test]
fn a_text_file_that_is_too_long_is_counted_in_full() {
    let mut reader = BufReader::new(std::io::repeat(b'x').take(MAX_DOCUMENT_BYTES + 1000));
    let mut kept = Kept::default();
    text::read(&input("a.txt"), &mut reader, &mut kept).unwrap();
    assert!(kept.documents.is_empty());
    assert_eq!(kept.left_out.iter().map(|(_, bytes)| bytes).sum::<u64>(), MAX_DOCUMENT_BYTES + 1000);
}

#[test]
fn a_byte_order_mark_is_not_text() {
    let mut kept = Kept::default();
    text::read(&input("a.txt"), &mut "\u{feff}text".as_bytes(), &mut kept).unwrap();
    assert_eq!(kept.documents, ["text"]);
}
