//! Shards as Parquet: one row a document, column `input_ids`, a list of `int32`.

use crate::error::{Error, Result};
use crate::indexed::Indexed;
use crate::output::with_suffix;
use crate::packing::for_each_block;
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::Int32Type;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// The three-level list that every reader knows (Parquet LogicalTypes, "Lists").
const SCHEMA: &str =
    "message schema { required group input_ids (LIST) { repeated group list { required int32 element; } } }";

/// Writes a shard to `path`, by rename. A row group is a block of about 16 M tokens.
///
/// # Errors
/// A damaged shard, or the system's.
pub fn parquet(shard: &Indexed, path: &Path) -> Result<()> {
    let partial = with_suffix(path, ".partial");
    let failed = |error: ParquetError| Error::Io {
        action: "write",
        file: path.to_owned(),
        source: std::io::Error::other(error),
    };
    let schema = parse_message_type(SCHEMA).map_err(failed)?;
    let level = ZstdLevel::try_new(3).map_err(failed)?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
    let file = File::create(&partial).map_err(Error::io("create", &partial))?;
    let mut writer =
        SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)).map_err(failed)?;
    for_each_block(shard, |first, lengths| {
        let mut ids = vec![0; lengths.iter().sum::<u64>() as usize];
        shard.read(first, &mut ids)?;
        let ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
        // A list's first element begins a row; no list is empty or absent.
        let mut repetition = vec![1i16; ids.len()];
        let mut start = 0;
        for length in lengths {
            if let Some(level) = repetition.get_mut(start) {
                *level = 0;
            }
            start += *length as usize;
        }
        let mut write = || -> std::result::Result<(), ParquetError> {
            let mut group = writer.next_row_group()?;
            if let Some(mut column) = group.next_column()? {
                column.typed::<Int32Type>().write_batch(
                    &ids,
                    Some(&vec![1; ids.len()]),
                    Some(&repetition),
                )?;
                column.close()?;
            }
            group.close().map(|_| ())
        };
        write().map_err(failed)
    })?;
    writer.close().map_err(failed)?;
    std::fs::rename(&partial, path).map_err(Error::io("write", path))
}
