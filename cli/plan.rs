//! `llmc plan`: the plan of a recipe, shown, written, or compared with an earlier one.

use llmc_compiler::diff::{decisions, diff};
use llmc_compiler::view;
use llmc_planner::over_time::over_time;

use crate::args::{Format, Global, PlanArgs};
use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::prepare::{self, pretty, read_plan};
use crate::terminal::{Terminal, data, fit};

/// Plans. `-o` writes plan.json as well; with `--against`, the difference is shown instead of the plan.
pub fn run(terminal: &Terminal, global: &Global, args: &PlanArgs) -> Outcome {
    // Read first: what cannot be compared with is an error of the command line, whatever the recipe says.
    let earlier = args.against.as_deref().map(read_plan).transpose()?;
    let compiled = prepare::compiled(terminal, global, &args.recipe)?;
    let Some(plan) = compiled.plan.as_ref().filter(|_| !compiled.failed()) else {
        return Ok(Exit::Recipe.into());
    };
    let json = prepare::json(plan, &compiled)?;
    if let Some(path) = &args.output {
        files::write(path, &json)?;
    }
    let page = |text: String| fit(&text, terminal.columns, view::LABEL);
    let Some((earlier, _)) = earlier else {
        data(&match terminal.format {
            Format::Json => json,
            Format::Human if global.verbose => {
                let over_time = compiled.question.as_ref().and_then(|q| over_time(q, plan));
                page(view::human_verbose(plan, over_time.as_ref(), terminal.lang))
            }
            Format::Human => page(view::human(plan, terminal.lang)),
            Format::Markdown => {
                view::markdown(plan, terminal.lang).map_err(|error| Failure::new(&error, &error))?
            }
        })?;
        return Ok(Exit::Ok.into());
    };
    let difference = diff(&earlier, plan, terminal.data_lang());
    data(&match terminal.format {
        Format::Json => pretty(&difference)?,
        _ => fit(&difference.lines(terminal.lang), terminal.columns, 2),
    })?;
    Ok(if decisions(&earlier) == decisions(plan) { Exit::Ok } else { Exit::Difference }.into())
}
