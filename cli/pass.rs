//! `llmc data`, `llmc tokenizer`, `llmc eval`: arguments for a sibling program, which reads them and answers.

use crate::args::PassOn;
use crate::exit::Outcome;
use crate::sibling::{DATA, WORKER};

/// Starts `llmc-data`; `tokenizer` is one of its commands, the commands of `data` are its own.
pub fn data(command: &str, given: PassOn) -> Outcome {
    let mut process = DATA.command()?;
    if command != "data" {
        process.arg(command);
    }
    process.args(given.args);
    DATA.run(process)
}

/// Starts `llmc-worker eval`.
pub fn eval(args: Vec<String>) -> Outcome {
    let mut process = WORKER.command()?;
    process.arg("eval").args(args);
    WORKER.run(process)
}
