//! `llmc score`: the planner's predictions against published measurements.

use std::path::Path;

use llmc_planner::score::{Scores, Summary, score};

use crate::args::Format;
use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::prepare::pretty;
use crate::terminal::{Terminal, data};

/// Scores one table.
pub fn run(terminal: &Terminal, table: &Path) -> Outcome {
    let scores = score(&files::read(table)?).map_err(|error| {
        let table = table.display();
        Failure::new(format!("{table}: {error}"), format!("{table}:{error}"))
    })?;
    data(&match terminal.format {
        Format::Json => pretty(&scores)?,
        Format::Human => human(terminal, &scores),
        Format::Markdown => markdown(&scores),
    })?;
    Ok(Exit::Ok.into())
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

fn lines(scores: &Scores) -> Vec<[String; 9]> {
    let sources = scores.by_source.iter().map(|(name, summary)| cells(name, summary));
    sources.chain([cells("overall", &scores.overall)]).collect()
}

fn human(terminal: &Terminal, scores: &Scores) -> String {
    let lines = lines(scores);
    let head = HEAD.map(str::to_owned);
    let width = |at: usize| {
        let cells = lines.iter().chain([&head]).filter_map(|line| line.get(at));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut out = String::new();
    for line in [&head].into_iter().chain(&lines) {
        let padded = line.iter().enumerate().map(|(at, cell)| match at {
            0 => format!("{cell:<0$}", width(0)),
            _ => format!("{cell:>0$}", width(at)),
        });
        out.push_str(&padded.collect::<Vec<_>>().join("  "));
        out.push('\n');
    }
    for row in &scores.rows {
        if let Some(reason) = &row.refused {
            out.push_str(&format!("{} {}: {reason}\n", terminal.say("refused", "拒绝"), row.id));
        }
    }
    out
}

fn markdown(scores: &Scores) -> String {
    let mut out = format!("| {} |\n|{}\n", HEAD.join(" | "), "---|".repeat(HEAD.len()));
    for line in lines(scores) {
        out.push_str(&format!("| {} |\n", line.join(" | ")));
    }
    out
}
