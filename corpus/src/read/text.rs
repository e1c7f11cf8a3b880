//! Plain text: the whole file is one document.

use super::{Form, MAX_DOCUMENT_BYTES, Place, Raw, Sink, broken, too_long};
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
        return sink
            .unreadable(too_long(input, Place { offset: Some(0), ..Place::default() }), length + rest);
    }
    let place = Place { offset: Some(0), ..Place::default() };
    sink.document(Raw { bytes: &bytes, form: Form::Text, place }).map(|_| ())
}
