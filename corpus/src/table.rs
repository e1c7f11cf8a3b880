//! A Parquet table of sources: one column of names, one of numbers. The compiler, which has no Parquet, is told its rows.

use crate::error::{BadContent, Error, Result};
use crate::read::Place;
use llmc_plan::lang::Said;
use llmc_plan::say;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use std::fs::File;
use std::panic::catch_unwind;
use std::path::Path;

/// More than any mixture has sources.
const MOST_ROWS: usize = 1 << 16;

/// Name and number of each row, in order. Other columns than these two are refused: which of them is meant would be a
/// guess.
///
/// # Errors
/// A file that is no Parquet, other columns, an absent value, more than 65,536 rows.
pub fn read(path: &Path) -> Result<Vec<(String, f64)>> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    // The library takes lengths in the file on trust in places, and may fail by a panic.
    let rows = catch_unwind(|| {
        let reader = SerializedFileReader::new(file)?;
        reader
            .get_row_iter(None)?
            .take(MOST_ROWS + 1)
            .collect::<std::result::Result<Vec<Row>, ParquetError>>()
    });
    let bad = |row: Option<usize>, expected: Said, found: Said| -> Error {
        let place = Place { row: row.map(|row| row as u64), ..Place::default() };
        let hint = say!(
            "write a table of two columns, the sources' names and a number for each",
            "请写成两列的表：来源名称，以及各自的一个数"
        );
        BadContent { file: path.to_owned(), place, found, expected, hint }.into()
    };
    let parquet = say!("a Parquet file", " Parquet 文件");
    let rows = match rows {
        Ok(Ok(rows)) => rows,
        Ok(Err(error)) => return Err(bad(None, parquet, say!("{error}", " {error}"))),
        Err(_) => {
            return Err(bad(None, parquet, say!("pages that contradict themselves", "自相矛盾的页")));
        }
    };
    if rows.len() > MOST_ROWS {
        return Err(bad(
            None,
            say!("a row for each source", "每个来源一行"),
            say!("more than {MOST_ROWS} rows", "超过 {MOST_ROWS} 行"),
        ));
    }
    let pair = |(number, row): (usize, &Row)| {
        let fields: Vec<(&String, &Field)> = row.get_column_iter().collect();
        let name = fields.iter().find_map(|(_, field)| match field {
            Field::Str(name) => Some(name.clone()),
            Field::Bytes(name) => name.as_utf8().ok().map(str::to_owned),
            _ => None,
        });
        let value = fields.iter().find_map(|(_, field)| real(field));
        match (name, value, fields.len()) {
            (Some(name), Some(value), 2) => Ok((name, value)),
            _ => {
                let found = fields.iter().map(|(name, field)| format!("{name} {field}"));
                let found = found.collect::<Vec<_>>().join(", ");
                let expected = say!("two columns, a name and a number", "两列：名称和数");
                Err(bad(Some(number), expected, say!("{found}", " {found}")))
            }
        }
    };
    rows.iter().enumerate().map(pair).collect()
}

fn real(field: &Field) -> Option<f64> {
    Some(match *field {
        Field::Double(x) => x,
        Field::Float(x) => x.into(),
        Field::Int(n) => n.into(),
        Field::UInt(n) => n.into(),
        Field::Long(n) => n as f64,
        Field::ULong(n) => n as f64,
        Field::Short(n) => n.into(),
        Field::UShort(n) => n.into(),
        Field::Byte(n) => n.into(),
        Field::UByte(n) => n.into(),
        _ => return None,
    })
}

/// The rows as lines `name,number`; what would break a line is escaped.
pub fn csv(rows: &[(String, f64)]) -> String {
    rows.iter().map(|(name, number)| format!("{},{number}\n", name.escape_debug())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::data_type::{ByteArrayType, DoubleType, FloatType, Int64Type};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use std::sync::Arc;

    /// Two rows of the columns that `fields` describes, filled by their type.
    fn write(path: &Path, fields: &str) {
        let schema = Arc::new(parse_message_type(&format!("message table {{ {fields} }}")).unwrap());
        let mut writer =
            SerializedFileWriter::new(File::create(path).unwrap(), schema, Default::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        while let Some(mut column) = group.next_column().unwrap() {
            use parquet::column::writer::ColumnWriter as Of;
            match column.untyped() {
                Of::ByteArrayColumnWriter(_) => {
                    let names = ["web".into(), "co\nde".into()];
                    column.typed::<ByteArrayType>().write_batch(&names, None, None).unwrap()
                }
                Of::DoubleColumnWriter(_) => {
                    column.typed::<DoubleType>().write_batch(&[0.5, 2.0], None, None).unwrap()
                }
                Of::FloatColumnWriter(_) => {
                    column.typed::<FloatType>().write_batch(&[0.5, 2.0], None, None).unwrap()
                }
                _ => column.typed::<Int64Type>().write_batch(&[1, 2], None, None).unwrap(),
            };
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn names_and_numbers_in_either_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        for (fields, text) in [
            ("required binary source (UTF8); required double weight;", "web,0.5\nco\\nde,2\n"),
            ("required float w; required binary s;", "web,0.5\nco\\nde,2\n"),
            ("required binary s (UTF8); required int64 n;", "web,1\nco\\nde,2\n"),
        ] {
            write(&path, fields);
            assert_eq!(csv(&read(&path).unwrap()), text);
        }
        write(&path, "required binary s (UTF8); required double a; required double b;");
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("row 0: expected two columns, a name and a number"), "{error}");
        assert!(error.contains("found s \"web\", a 0.5, b 0.5;"), "{error}");
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 3, 20, whole.len() / 2, whole.len() - 5] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("expected a Parquet file"), "{error}");
        }
    }
}
