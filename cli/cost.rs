//! `llmc cost`: what recipes cost, side by side.

use std::path::PathBuf;

use llmc_compiler::cost::table;
use llmc_plan::plan::Cost;

use crate::args::{Format, Global};
use crate::exit::{Exit, Outcome};
use crate::prepare::{self, pretty};
use crate::terminal::{Terminal, data};

/// Plans each recipe and shows its costs; those that are wrong are drawn and left out.
pub fn run(terminal: &Terminal, global: &Global, recipes: &[PathBuf]) -> Outcome {
    let (mut plans, mut exit) = (Vec::new(), Exit::Ok);
    for path in recipes {
        match prepare::compiled(terminal, global, path)?.plan {
            Some(plan) => plans.push((path.display().to_string(), plan)),
            None => exit = Exit::Recipe,
        }
    }
    let lines: Vec<(String, &llmc_plan::plan::Plan)> =
        plans.iter().map(|(name, plan)| (name.clone(), plan)).collect();
    data(&match terminal.format {
        Format::Json => {
            let costs: std::collections::BTreeMap<&String, &Cost> =
                plans.iter().map(|(name, plan)| (name, &plan.cost)).collect();
            pretty(&costs)?
        }
        _ if lines.is_empty() => String::new(),
        _ => table(&lines, terminal.lang),
    })?;
    Ok(exit.into())
}
