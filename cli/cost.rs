//! `llmc cost`: what recipes cost, side by side.

use std::path::{Path, PathBuf};

use llmc_compiler::columns;
use llmc_compiler::cost::{MISSION, at_speed, table};
use llmc_plan::plan::Cost;

use crate::args::{Format, Global};
use crate::exit::{Exit, Failure, Outcome};
use crate::prepare::{self, pretty};
use crate::terminal::{Terminal, data};
use crate::world::Folder;

/// Plans each recipe and shows its costs; those that are wrong are drawn and left out. Without recipes, the table of the
/// mission: 3B, 7B and 13B at 4k and 8k. `speed` replaces the predicted tokens a second and device.
pub fn run(terminal: &Terminal, global: &Global, recipes: &[PathBuf], speed: Option<f64>) -> Outcome {
    if speed.is_some_and(|s| !(s > 0.0 && s < 1e9)) {
        return Err(Failure::new(
            "--tokens-per-second must be above 0 and below 1e9",
            "--tokens-per-second 须大于 0 且小于 1e9",
        ));
    }
    let (mut plans, mut exit) = (Vec::new(), Exit::Ok);
    for path in recipes {
        match prepare::answered(terminal, global, path)?.plan {
            Some(plan) => plans.push((path.display().to_string(), plan)),
            None => exit = Exit::Recipe,
        }
    }
    if recipes.is_empty() {
        let world = Folder::new(Path::new("-"), &global.hardware)?;
        for (name, text) in MISSION {
            let compiled = llmc_compiler::compile(text, &global.set, &world);
            prepare::report(terminal, Path::new(name), &compiled);
            match compiled.plan {
                Some(plan) => plans.push((name.to_owned(), plan)),
                None => exit = Exit::Recipe,
            }
        }
    }
    if let Some(speed) = speed {
        plans.iter_mut().for_each(|(_, plan)| *plan = at_speed(plan, speed));
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
        Format::Markdown => table(&lines, terminal.lang, |rows| columns::markdown(rows) + "\n"),
        Format::Human => table(&lines, terminal.lang, |rows| columns::table(rows, terminal.columns)),
    })?;
    Ok(exit.into())
}
