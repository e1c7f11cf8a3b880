//! `llmc fmt`: the one canonical layout.

use std::path::{Path, PathBuf};

use crate::exit::{Exit, Outcome};
use crate::terminal::{Terminal, data, talk};
use crate::{files, prepare};

/// Rewrites recipes in place (`-`: stdin to stdout), or with `check` lists those that would change.
pub fn run(terminal: &Terminal, recipes: &[PathBuf], check: bool) -> Outcome {
    let mut exit = Exit::Ok;
    for path in recipes {
        let text = prepare::recipe_text(path)?;
        let canonical = llmc_grammar::format(&llmc_grammar::parse(&text));
        let same = canonical == text;
        match (check, path == Path::new("-")) {
            (true, _) if !same => {
                data(&format!("{}\n", path.display()))?;
                exit = Exit::Difference;
            }
            (true, _) => {}
            (false, true) => data(&canonical)?,
            (false, false) if !same => {
                files::write(path, &canonical)?;
                if terminal.verbose {
                    talk(&format!("{} {}\n", terminal.say("rewrote", "已改写"), path.display()));
                }
            }
            (false, false) => {}
        }
    }
    Ok(exit.into())
}
