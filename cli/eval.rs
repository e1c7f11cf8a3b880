//! `llmc eval`: `llmc-worker eval` with its arguments.

use crate::exit::Outcome;
use crate::sibling::WORKER;

/// Starts it and passes its code through.
pub fn run(args: &[String]) -> Outcome {
    let mut process = WORKER.command()?;
    process.arg("eval").args(args);
    WORKER.run(process)
}
