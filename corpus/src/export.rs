//! Shards as Parquet, a file each: one row a document, column `input_ids`, a list of `int32`. Not here: how an export goes
//! on ([`crate::exporting`]).

use crate::error::{Error, Result};
use crate::exporting::{Report, Whole, export};
use crate::indexed::Indexed;
use crate::output::HashingFile;
use crate::packing::for_each_block;
use llmc_plan::data::FileInfo;
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::Int32Type;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::path::Path;
use std::sync::Arc;

/// The three-level list that every reader knows (Parquet LogicalTypes, "Lists").
const SCHEMA: &str =
    "message schema { required group input_ids (LIST) { repeated group list { required int32 element; } } }";

/// Raised when the same folder would give other files than before.
const REVISION: u32 = 1;

/// Writes `dir`, a built folder, to `out`, or goes on with an export of the same that was killed.
///
/// # Errors
/// No built folder, a damaged shard, a folder that cannot be written.
pub fn write(dir: &Path, out: &Path) -> Result<Report> {
    export(dir, out, &("parquet", REVISION), None, |manifest, exporting| {
        let sources = manifest.sources.iter();
        let splits =
            sources.flat_map(|s| [(&s.name, "train", &s.train), (&s.name, "validation", &s.validation)]);
        for (source, name, split) in splits.filter(|(_, _, split)| !split.shards.is_empty()) {
            let set = format!("{source}-{name}");
            for shard in split.shards.iter().skip(exporting.set(&set).files.len()) {
                let indexed = Indexed::open(&dir.join(shard), manifest.tokenizer.vocab)?;
                let file = format!("{shard}.parquet");
                let info = parquet(&indexed, &exporting.path().join(&file))?;
                exporting.whole(&set, Whole { file, samples: indexed.documents(), info })?;
            }
        }
        Ok(())
    })
}

/// Writes a shard to `path`. A row group is a block of about 16 M tokens.
///
/// # Errors
/// A damaged shard, or the system's.
pub fn parquet(shard: &Indexed, path: &Path) -> Result<FileInfo> {
    let failed = |error: ParquetError| Error::Io {
        action: "write",
        file: path.to_owned(),
        source: std::io::Error::other(error),
    };
    let schema = parse_message_type(SCHEMA).map_err(failed)?;
    let level = ZstdLevel::try_new(3).map_err(failed)?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
    let file = HashingFile::create(path)?;
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
    writer.into_inner().map_err(failed)?.finish()
}
