//! `llmc check`: findings without a plan.

use std::path::PathBuf;

use crate::args::{Format, Global};
use crate::exit::{Exit, Outcome};
use crate::terminal::{Terminal, data, talk};
use crate::world::Folder;
use crate::{draw, prepare};

/// Checks each recipe. As JSON, the findings are the data, one object a line on stdout.
pub fn run(terminal: &Terminal, global: &Global, recipes: &[PathBuf]) -> Outcome {
    let mut exit = Exit::Ok;
    for path in recipes {
        let world = Folder::new(path, &global.hardware)?;
        let checked = llmc_compiler::check(&prepare::recipe_text(path)?, &global.set, &world);
        let name = path.display().to_string();
        let drawn = draw::all(terminal, &name, &checked.sources, &checked.diagnostics);
        match terminal.format {
            Format::Json => data(&drawn)?,
            _ if drawn.is_empty() => {
                talk(&format!("{name}: {}\n", terminal.say("nothing wrong", "没有问题")))
            }
            _ => talk(&drawn),
        }
        if checked.failed() {
            exit = Exit::Recipe;
        }
    }
    Ok(exit.into())
}
