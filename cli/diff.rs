//! `llmc diff`: two recipes or plans compared in consequences.

use std::path::Path;

use llmc_compiler::diff::diff;
use llmc_plan::plan::Plan;

use crate::args::{Format, Global};
use crate::exit::{Exit, Failure, Outcome};
use crate::prepare::{self, is_plan, pretty, read_plan};
use crate::terminal::{Terminal, data, fit};

/// Shows what changes from `a` to `b`.
pub fn run(terminal: &Terminal, global: &Global, a: &Path, b: &Path) -> Outcome {
    let (Some(a), Some(b)) = (plan(terminal, global, a)?, plan(terminal, global, b)?) else {
        return Ok(Exit::Recipe.into());
    };
    let difference = diff(&a, &b, terminal.data_lang());
    data(&match terminal.format {
        Format::Json => pretty(&difference)?,
        Format::Markdown => difference.markdown(terminal.lang),
        _ => fit(&difference.lines(terminal.lang), terminal.columns, 2),
    })?;
    Ok(Exit::Ok.into())
}

fn plan(terminal: &Terminal, global: &Global, path: &Path) -> Result<Option<Plan>, Failure> {
    if is_plan(path) {
        return read_plan(path).map(|(plan, _)| Some(plan));
    }
    Ok(prepare::answered(terminal, global, path)?.plan)
}
