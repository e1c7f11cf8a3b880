//! `llmc eval`: `llmc-worker eval` with its arguments.

use crate::exit::Outcome;
use crate::sibling::WORKER;
use crate::terminal::Terminal;

/// Starts it and passes its code through.
pub fn run(terminal: &Terminal, args: &[String]) -> Outcome {
    let mut process = WORKER.command(terminal.lang)?;
    process.arg("eval").args(args);
    WORKER.run(process)
}
