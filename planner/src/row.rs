//! Lines of a run table as rows of named cells, and what a row must be before it is a question: whole, and of figures that a
//! run can have. What its cells mean is in `table`.

use std::collections::{BTreeMap, BTreeSet};

use crate::words;

/// Columns without which no row says what ran.
const NEEDED: [&str; 7] =
    ["layers", "hidden", "heads", "seq", "n_gpus", "micro_batch_seqs", "global_batch_seqs"];

/// The largest count in a column: far above any run, and such that products of a few stay below 2^64.
fn most(key: &str) -> u64 {
    match key {
        "layers" => 10_000,
        "hidden" | "heads" | "kv_heads" | "n_gpus" | "gpus_per_node" | "tp" | "pp" | "vp" | "cp" | "dp" => {
            1 << 20
        }
        "ffn" => 1 << 22,
        _ => 1 << 30,
    }
}

/// A row as a map of its non-empty cells.
pub(crate) struct Row {
    cells: BTreeMap<String, String>,
    /// Why the cells cannot be told apart: too few or too many of them.
    torn: Option<String>,
}

impl Row {
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.cells.get(key).map(String::as_str)
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.cells.contains_key(key)
    }

    /// Refuses a row with more or fewer cells than the table has columns.
    pub(crate) fn whole(&self) -> Result<(), String> {
        self.torn.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn count(&self, key: &str) -> Result<u64, String> {
        let text = self.text(key).ok_or_else(|| format!("{key} is not given"))?;
        let value = number(key, text)?;
        let most = most(key);
        if value >= 1.0 && value.fract() == 0.0 && value <= most as f64 {
            Ok(value as u64)
        } else {
            Err(format!("{key} is no count from 1 to {most}: {text}"))
        }
    }

    pub(crate) fn count_or(&self, key: &str, otherwise: u64) -> Result<u64, String> {
        if self.has(key) { self.count(key) } else { Ok(otherwise) }
    }

    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, String> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let value = number(key, text)?;
        if value > 0.0 && value.is_finite() {
            Ok(Some(value))
        } else {
            Err(format!("{key} is not positive: {text}"))
        }
    }

    pub(crate) fn yes(&self, key: &str) -> Option<bool> {
        self.text(key).and_then(words::yes)
    }
}

/// A cell's number; thousands may be set apart.
fn number(key: &str, text: &str) -> Result<f64, String> {
    let digits: String = text.chars().filter(|c| ![',', '_'].contains(c)).collect();
    digits.parse().map_err(|_| format!("{key} is no number: {text}"))
}

/// The rows of a table.
///
/// # Errors
/// A sentence when the text is no such table: columns that are missing or stand there twice, or no row.
pub(crate) fn read(text: &str) -> Result<Vec<Row>, String> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
    let head = reader.headers().map_err(|e| format!("not a run table: {e}"))?;
    let head: Vec<String> = head.iter().map(|name| name.trim().to_owned()).collect();
    let missing: Vec<&str> =
        NEEDED.into_iter().filter(|name| !head.iter().any(|column| column == name)).collect();
    if !missing.is_empty() {
        let (list, found) = (missing.join("`, `"), head.len());
        let be = if missing.len() == 1 { "column" } else { "columns" };
        return Err(format!(
            "not a run table: {be} `{list}` missing among {found}; cells are set apart by commas"
        ));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = head.iter().find(|name| !name.is_empty() && !seen.insert(name.as_str())) {
        return Err(format!("column `{twice}` stands there twice: rename or remove one"));
    }
    let mut rows = Vec::new();
    for (at, record) in reader.records().enumerate() {
        let record = record.map_err(|e| format!("row {}: {e}", at + 1))?;
        // Spreadsheets end lines with commas.
        let filled = (1..).zip(&record).filter(|(_, cell)| !cell.trim().is_empty()).map(|(at, _)| at).last();
        let (cells, columns) = (record.len(), head.len());
        let torn = (cells < columns || filled > Some(columns)).then(|| {
            let open = if record.iter().any(|cell| cell.contains('\n')) {
                ": a quote does not close where it should"
            } else {
                ""
            };
            format!("row {} has {cells} cells where the table has {columns} columns{open}", at + 1)
        });
        let named = head.iter().zip(record.iter()).filter(|(_, cell)| !cell.trim().is_empty());
        let cells = named.map(|(name, cell)| (name.clone(), cell.trim().to_owned())).collect();
        rows.push(Row { cells, torn });
    }
    if rows.is_empty() {
        return Err("there is no row below the columns".into());
    }
    Ok(rows)
}

/// Refuses extents that no model and no layout has.
pub(crate) fn fits(
    (hidden, heads, own_width): (u64, u64, bool),
    (layers, pp, vp): (u64, u64, u64),
    (context, cp): (u64, u64),
) -> Result<(), String> {
    if !own_width && hidden % heads != 0 {
        return Err(format!("{heads} heads do not share a width of {hidden}"));
    }
    // Megatron-LM may count embedding and loss as a layer each.
    if pp > 1 && pp * vp > layers + 2 {
        return Err(format!("{layers} layers cannot be cut into {pp} stages of {vp} chunks"));
    }
    if context % cp != 0 {
        return Err(format!("{context} tokens are not shared by cp = {cp} ranks"));
    }
    Ok(())
}
