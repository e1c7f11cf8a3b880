//! `llmc completions`: a script for the shell.

use clap::{Arg, Command, CommandFactory, ValueHint};

use crate::args::Cli;
use crate::exit::{Exit, Outcome};
use crate::terminal::data;

/// A command of `llmc-data`: name and options, those with a value first, then those without.
type Sibling = (&'static str, &'static [&'static str], &'static [&'static str]);

/// What `llmc data` passes on. `llmc` does not link `llmc-data`, so it is said here; `tests/training.rs` compares.
const DATA: [Sibling; 6] = [
    ("build", &["spec", "out", "note-every"], &["progress"]),
    ("stats", &["format", "context", "svg"], &[]),
    ("dedup", &["near", "out", "format"], &[]),
    ("bench", &["mib", "out"], &[]),
    ("table", &[], &[]),
    ("export", &["out", "format", "tar-mib"], &["text"]),
];
/// What `llmc tokenizer` passes on.
const TOKENIZER: [Sibling; 2] = [("train", &["spec", "out"], &["progress"]), ("report", &["format"], &[])];

/// Prints the script.
pub fn run(shell: clap_complete::Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut whole(), "llmc", &mut script);
    data(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok.into())
}

/// The commands of `llmc`, with those it passes on: its own definition of either takes anything.
fn whole() -> Command {
    let with = |name: &'static str, siblings: &'static [Sibling]| {
        move |command: Command| {
            let bare = Command::new(name).about(command.get_about().cloned().unwrap_or_default());
            siblings.iter().fold(bare, |command, sibling| command.subcommand(passed_on(sibling)))
        }
    };
    Cli::command()
        .mut_subcommand("data", with("data", &DATA))
        .mut_subcommand("tokenizer", with("tokenizer", &TOKENIZER))
}

fn passed_on(&(name, valued, flags): &Sibling) -> Command {
    let path = |arg: Arg| arg.value_hint(ValueHint::AnyPath);
    let valued = valued.iter().map(|name| path(Arg::new(*name).long(*name)));
    let flags = flags.iter().map(|name| Arg::new(*name).long(*name).num_args(0));
    let files = path(Arg::new("files").num_args(0..));
    Command::new(name).args(valued.chain(flags).chain([files]))
}
