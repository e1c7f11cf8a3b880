//! `llmc completions`: a script for the shell.

use clap::CommandFactory;

use crate::args::Cli;
use crate::exit::{Exit, Outcome};
use crate::terminal::data;

/// Prints the script.
pub fn run(shell: clap_complete::Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "llmc", &mut script);
    data(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok.into())
}
