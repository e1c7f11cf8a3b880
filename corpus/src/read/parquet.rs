//! Parquet: a column of text, or of lists of token ids, through the column reader, without arrow.
//!
//! Memory is bounded by one page of one row group and a batch of rows.

use super::{Form, MAX_DOCUMENT_BYTES, Place, Raw, Sink, too_long};
use crate::error::{BadContent, Error, Result, or_skip};
use crate::inputs::Input;
use llmc_plan::lang::Said;
use llmc_plan::say;
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;
use std::fs::File;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Columns that hold documents, in order of preference, and what they hold.
const COLUMNS: [(&str, Form); 4] =
    [("text", Form::Text), ("content", Form::Text), ("input_ids", Form::Ids), ("tokens", Form::Ids)];
const ROWS: usize = 256;

pub(super) fn read(input: &Input, sink: &mut dyn Sink) -> Result<()> {
    let file = File::open(&input.path).map_err(Error::io("read", &input.path))?;
    // The library takes lengths in the file on trust in places, and may fail by a panic.
    let opened = catch_unwind(|| SerializedFileReader::new(file));
    let reader = match opened {
        Ok(Ok(reader)) => reader,
        Ok(Err(error)) => {
            return sink.unreadable(damaged(input, None, say!("{error}", " {error}")), input.bytes);
        }
        Err(_) => {
            return sink.unreadable(
                damaged(input, None, say!("metadata that contradict themselves", "自相矛盾的元数据")),
                input.bytes,
            );
        }
    };
    let metadata = reader.metadata();
    let Some((column, form)) = find(metadata.file_metadata().schema_descr()) else {
        let schema = metadata.file_metadata().schema_descr();
        let names: Vec<_> = schema.columns().iter().map(|c| c.path().string()).collect();
        return sink.unreadable(
            BadContent {
                file: input.path.clone(),
                place: Place::default(),
                found: say!("the columns {names}", "列 {names}", names = names.join(", ")),
                expected: say!(
                    "a column `text` or `content` of strings, or `input_ids` or `tokens` of integers",
                    "字符串列 `text` 或 `content`，或整数列 `input_ids` 或 `tokens`"
                ),
                hint: say!(
                    "rename the column of the documents, or narrow the glob",
                    "请重命名文档所在的列，或缩小 glob 的范围"
                ),
            },
            input.bytes,
        );
    };
    let mut row = 0;
    for group in 0..metadata.num_row_groups() {
        let rows = metadata.row_group(group).num_rows().max(0) as u64;
        let bytes = metadata.row_group(group).compressed_size().max(0) as u64;
        let mut read = row;
        let result = catch_unwind(AssertUnwindSafe(|| {
            let group = reader.get_row_group(group)?;
            read_group(input, &*group, column, form, &mut read, sink)
        }));
        match result {
            Ok(Ok(ControlFlow::Continue(()))) => {}
            Ok(Ok(ControlFlow::Break(()))) => break,
            Ok(Err(Failure::Sink(error))) => return Err(error),
            Ok(Err(Failure::Parquet(error))) => {
                sink.unreadable(damaged(input, Some(read), say!("{error}", " {error}")), bytes)?;
            }
            Err(_) => sink.unreadable(
                damaged(input, Some(read), say!("pages that contradict themselves", "自相矛盾的页")),
                bytes,
            )?,
        }
        row += rows;
    }
    Ok(())
}

enum Failure {
    Parquet(ParquetError),
    Sink(Error),
}

impl From<ParquetError> for Failure {
    fn from(error: ParquetError) -> Self {
        Failure::Parquet(error)
    }
}

/// The leaf of the first column in [`COLUMNS`] that has a fitting type.
fn find(schema: &SchemaDescriptor) -> Option<(usize, Form)> {
    COLUMNS.iter().find_map(|&(name, form)| {
        let fits = |n: &usize| {
            let leaf = schema.column(*n);
            let kind = leaf.physical_type();
            let right = match form {
                Form::Ids => matches!(kind, Type::INT32 | Type::INT64) && leaf.max_rep_level() == 1,
                _ => kind == Type::BYTE_ARRAY && leaf.max_rep_level() == 0,
            };
            right && leaf.path().parts().first().is_some_and(|root| root == name)
        };
        Some(((0..schema.num_columns()).find(fits)?, form))
    })
}

/// The codec of petastorm (uber/petastorm, `petastorm/codecs.py`) whose values begin so: `numpy.save`, `numpy.savez`, an
/// image. No text does.
fn decoder(bytes: &[u8]) -> Option<&'static str> {
    let starts: [(&[u8], &str); 4] = [
        (b"\x93NUMPY", "NdarrayCodec"),
        (b"PK\x03\x04", "CompressedNdarrayCodec"),
        (b"\x89PNG\r\n", "CompressedImageCodec"),
        (b"\xFF\xD8\xFF", "CompressedImageCodec"),
    ];
    starts.iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, name)| *name)
}

fn read_group(
    input: &Input,
    group: &dyn RowGroupReader,
    column: usize,
    form: Form,
    row: &mut u64,
    sink: &mut dyn Sink,
) -> std::result::Result<ControlFlow<()>, Failure> {
    let most = group.metadata().column(column).column_descr().max_def_level();
    let mut emit = |bytes: Option<&[u8]>| -> std::result::Result<ControlFlow<()>, Failure> {
        let place = Place { row: Some(*row), ..Place::default() };
        *row += 1;
        let flow = match bytes {
            None => Ok(ControlFlow::Continue(())),
            Some(bytes) if bytes.len() as u64 > MAX_DOCUMENT_BYTES => {
                sink.unreadable(too_long(input, place), bytes.len() as u64).map(ControlFlow::Continue)
            }
            Some(bytes) if form == Form::Text && decoder(bytes).is_some() => {
                let bad = BadContent {
                    file: input.path.clone(),
                    place,
                    found: say!(
                        "a value of petastorm's {codec}",
                        " petastorm 的 {codec} 值",
                        codec = decoder(bytes).unwrap_or_default()
                    ),
                    expected: say!("text", "文本"),
                    hint: or_skip(
                        say!(
                            "its decoder is Python: write the column as strings",
                            "其解码器是 Python：请将该列写成字符串"
                        ),
                        say!("it", "该值"),
                    ),
                };
                sink.unreadable(bad, bytes.len() as u64).map(ControlFlow::Continue)
            }
            Some(bytes) => sink.document(Raw { bytes, form, place }),
        };
        flow.map_err(Failure::Sink)
    };
    match group.get_column_reader(column)? {
        ColumnReader::ByteArrayColumnReader(mut reader) => loop {
            let (mut levels, mut values) = (Vec::new(), Vec::new());
            let (rows, ..) = reader.read_records(ROWS, Some(&mut levels), None, &mut values)?;
            if rows == 0 {
                return Ok(ControlFlow::Continue(()));
            }
            // A required column has no levels.
            levels.resize(rows, most);
            let mut values = values.iter();
            for level in levels {
                let value = if level == most { values.next() } else { None };
                if emit(value.map(|v| v.data()))?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        },
        ColumnReader::Int32ColumnReader(reader) => lists(reader, most, |id| id as u32, &mut emit),
        ColumnReader::Int64ColumnReader(reader) => {
            lists(reader, most, |id| u32::try_from(id).unwrap_or(u32::MAX), &mut emit)
        }
        _ => Ok(ControlFlow::Continue(())),
    }
}

type Emit<'a> = dyn FnMut(Option<&[u8]>) -> std::result::Result<ControlFlow<()>, Failure> + 'a;

/// Lists of ids. An entry of repetition level 0 begins a row; one below the full definition level is
/// an empty or absent list.
fn lists<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    most: i16,
    id: impl Fn(T::T) -> u32,
    emit: &mut Emit,
) -> std::result::Result<ControlFlow<()>, Failure> {
    let mut bytes: Vec<u8> = Vec::new();
    loop {
        let (mut definition, mut repetition, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let (rows, ..) =
            reader.read_records(ROWS, Some(&mut definition), Some(&mut repetition), &mut values)?;
        if rows == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        definition.resize(repetition.len(), most);
        let mut values = values.into_iter();
        // `read_records` ends at the end of a row, so a row never spans two calls.
        for (n, (&level, &repeated)) in definition.iter().zip(&repetition).enumerate() {
            if repeated == 0 && n > 0 {
                if emit(Some(&bytes))?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                bytes.clear();
            }
            if let Some(value) = if level == most { values.next() } else { None } {
                bytes.extend(id(value).to_le_bytes());
            }
        }
        if emit(Some(&bytes))?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        bytes.clear();
    }
}

fn damaged(input: &Input, row: Option<u64>, found: Said) -> BadContent {
    BadContent {
        file: input.path.clone(),
        place: Place { row, ..Place::default() },
        found,
        expected: if row.is_some() {
            say!("a readable row group", "可读的行组")
        } else {
            say!("a Parquet file with its footer", "带文件尾的 Parquet 文件")
        },
        hint: or_skip(
            say!("the file is truncated or damaged: fetch it again", "文件不完整或已损坏：请重新获取"),
            say!("it", "该部分"),
        ),
    }
}
