//! Megatron's `.bin` with its `.idx`: documents that are token ids already.

use super::{Form, MAX_DOCUMENT_BYTES, Place, Raw, Sink, too_long};
use crate::error::{Error, Result, or_skip};
use crate::indexed::Indexed;
use crate::inputs::Input;
use llmc_plan::say;

/// An id of the text's tokenizer is checked where its vocabulary is known.
const ANY_ID: u32 = u32::MAX;

pub(super) fn read(input: &Input, sink: &mut dyn Sink) -> Result<()> {
    let prefix = input.path.with_extension("");
    let shard = match Indexed::open(&prefix, ANY_ID) {
        Ok(shard) => shard,
        Err(error) => return refuse(sink, error, input.bytes),
    };
    let width = shard.width();
    let (mut ids, mut bytes) = (Vec::new(), Vec::new());
    let mut start = 0;
    for document in 1..=shard.documents() {
        let end = match shard.document_start(document) {
            Ok(end) => end,
            Err(error) => return refuse(sink, error, input.bytes - start * width),
        };
        let place = Place { offset: Some(start * width), ..Place::default() };
        let Some(length) = end.checked_sub(start) else {
            let expected = say!(
                "document {document} to start at token {start} or later",
                "文档 {document} 从词元 {start} 或之后开始"
            );
            let found = say!("token {end}", "词元 {end}");
            let error = Error::corrupt(&input.path.with_extension("idx"), None, expected, found);
            return refuse(sink, error, input.bytes - start * width);
        };
        if 4 * length > MAX_DOCUMENT_BYTES {
            sink.unreadable(too_long(input, place), length * width)?;
        } else {
            ids.resize(length as usize, 0);
            match shard.read(start, &mut ids) {
                Ok(()) => {
                    bytes.clear();
                    bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
                    if sink.document(Raw { bytes: &bytes, form: Form::Ids, place })?.is_break() {
                        break;
                    }
                }
                Err(error) => refuse(sink, error, length * width)?,
            }
        }
        start = end;
    }
    Ok(())
}

/// Damage is the sink's to judge; what the system refuses is not.
fn refuse(sink: &mut dyn Sink, error: Error, bytes: u64) -> Result<()> {
    match error {
        Error::Content(mut bad) => {
            bad.hint = or_skip(
                say!("write it again with the program that made it", "请用生成它的程序重新写入"),
                say!("it", "该部分"),
            );
            sink.unreadable(*bad, bytes)
        }
        other => Err(other),
    }
}
