//! `llmc plan`: the plan of a recipe, shown, written, or compared with an earlier one.

use crate::args::{Format, Global, PlanArgs};
use crate::exit::{Exit, Outcome};
use crate::terminal::{Terminal, data};
use crate::{files, prepare};

/// Plans. With `-o` the plan goes to the file and the summary for people still to stdout.
pub fn run(terminal: &Terminal, global: &Global, args: &PlanArgs) -> Outcome {
    let compiled = prepare::compiled(terminal, global, &args.recipe)?;
    let Some(plan) = compiled.plan.as_ref().filter(|_| !compiled.failed()) else {
        return Ok(Exit::Recipe.into());
    };
    let json = prepare::json(plan, &compiled)?;
    if let Some(path) = &args.output {
        files::write(path, &json)?;
    }
    match (terminal.format, &args.output) {
        (Format::Json, Some(_)) => {}
        (Format::Json, None) => data(&json)?,
        _ => data(&json)?,
    }
    Ok(Exit::Ok.into())
}
