//! `llmc score`: the planner's predictions against published measurements.

use std::path::Path;

use llmc_compiler::columns;
use llmc_planner::score::{Doubt, Odd, Scores, Summary, score};

use crate::args::Format;
use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::prepare::pretty;
use crate::terminal::{Lang, Terminal, data, talk};

/// Scores one table.
pub fn run(terminal: &Terminal, table: &Path) -> Outcome {
    let scores = score(&files::read(table)?).map_err(|error| {
        let table = table.display();
        Failure::new(format!("{table}: {error}"), format!("{table}：{error}"))
    })?;
    for doubt in &scores.warnings {
        talk(&format!("{}\n", warning(terminal, doubt)));
    }
    data(&match terminal.format {
        Format::Json => pretty(&scores)?,
        Format::Human | Format::Markdown => shown(terminal, &scores),
    })?;
    Ok(Exit::Ok.into())
}

/// What is odd about a row that counts all the same.
pub(crate) fn warning(terminal: &Terminal, doubt: &Doubt) -> String {
    let Doubt { row, id, what } = doubt;
    let (en, zh) = match what {
        Odd::DuplicateId { first } => (
            format!(
                "warning: row {row}: id {id:?} is also that of row {first}; both count, rename or remove one"
            ),
            format!("警告：第 {row} 行：id {id:?} 与第 {first} 行相同；两行都计入，请改名或删去其一"),
        ),
        Odd::Mfu { mfu_pct } => (
            format!(
                "warning: row {row} ({id}): mfu_pct = {mfu_pct}, expected above 0 and at most 100; the row counts, the cell is not read"
            ),
            format!(
                "警告：第 {row} 行（{id}）：mfu_pct = {mfu_pct}，应大于 0 且不超过 100；该行计入，此格不读取"
            ),
        ),
    };
    terminal.say(&en, &zh).to_owned()
}

/// The cells of a source's line; a dash where nothing was measured.
fn cells(name: &str, s: &Summary) -> [String; 9] {
    let percent = |x: Option<f64>| x.map_or("-".to_owned(), |x| format!("{:.1}%", x * 100.0));
    [
        name.to_owned(),
        s.rows.to_string(),
        s.predicted.to_string(),
        percent(s.time_mape),
        percent(s.time_median_ape),
        percent(s.time_max_ape),
        percent(s.memory_mape),
        percent(s.memory_median_ape),
        percent(s.memory_max_ape),
    ]
}

const HEAD: [&str; 9] =
    ["source", "rows", "predicted", "time MAPE", "median", "max", "memory MAPE", "median", "max"];
const HEAD_ZH: [&str; 9] =
    ["来源", "行数", "已预测", "时间 MAPE", "中位", "最大", "显存 MAPE", "中位", "最大"];

fn shown(terminal: &Terminal, scores: &Scores) -> String {
    let head = if terminal.lang == Lang::En { HEAD } else { HEAD_ZH }.map(str::to_owned);
    let sources = scores.by_source.iter().map(|(name, summary)| cells(name, summary));
    let overall = cells(terminal.say("overall", "总计"), &scores.overall);
    let rows = [head].into_iter().chain(sources).chain([overall]);
    let rows: Vec<Vec<String>> = rows.map(|row| row.to_vec()).collect();
    let (mut out, item) = match terminal.format {
        Format::Markdown => (columns::markdown(&rows) + "\n", "- "),
        _ => (columns::table(&rows, terminal.columns), ""),
    };
    let (refused, rows) = (scores.overall.refused, scores.overall.rows);
    if refused > 0 {
        let en = format!("{refused} of {rows} rows are refused and count in no error:\n");
        let zh = format!("{rows} 行中有 {refused} 行被拒绝，不计入任何误差：\n");
        out.push_str(terminal.say(&en, &zh));
    }
    for (at, row) in (1..).zip(&scores.rows) {
        if let Some(reason) = &row.refused {
            let name = if row.id.is_empty() { format!("row {at}") } else { row.id.clone() };
            out.push_str(&format!("{item}{} {name}: {reason}\n", terminal.say("refused", "拒绝")));
        }
    }
    out
}
