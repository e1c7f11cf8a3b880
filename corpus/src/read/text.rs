//! Plain text: the whole file is one document.

use super::{MAX_DOCUMENT_BYTES, Sink, broken, not_utf8, too_long};
use crate::error::Result;
use crate::inputs::Input;
use std::io::{BufRead, Read};

pub(super) fn read(input: &Input, reader: &mut dyn BufRead, sink: &mut dyn Sink) -> Result<()> {
    let mut bytes = Vec::new();
    if let Err(error) = reader.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes) {
        let length = bytes.len() as u64;
        return sink.unreadable(broken(input, length, &error), length);
    }
    let length = bytes.len() as u64;
    if length > MAX_DOCUMENT_BYTES {
        let rest = std::io::copy(reader, &mut std::io::sink()).unwrap_or(0);
        return sink.unreadable(too_long(input, 0, None), length + rest);
    }
    match std::str::from_utf8(&bytes) {
        // A byte order mark is not text.
        Ok(text) => sink.document(text.strip_prefix('\u{feff}').unwrap_or(text)).map(|_| ()),
        Err(error) => {
            let at = error.valid_up_to();
            let byte = error.error_len().and_then(|_| bytes.get(at)).copied();
            sink.unreadable(not_utf8(input, at as u64, None, byte), length)
        }
    }
}
