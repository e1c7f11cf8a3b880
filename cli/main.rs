//! The command line of llmc. One thin file a command; what they share is in `exit`, `terminal`, `files`, `draw`,
//! `prepare`.
//!
//! Not here: meaning. Recipes are compiled in `llmc-compiler`, plans made in `llmc-planner`; training and corpora are
//! the work of `llmc-worker` and `llmc-data`, which `sibling` starts.

mod args;
mod calibrate;
mod check;
mod chinese;
mod completions;
mod corpus;
mod cost;
mod diff;
mod draw;
mod eval;
mod exit;
mod explain;
mod files;
mod fmt;
mod heatmap;
mod measure;
mod plan;
mod prepare;
mod run;
mod score;
mod sibling;
mod sweep;
mod terminal;
mod why;
mod world;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};

use args::{Cli, Command, Over};
use exit::{Exit, Outcome};
use terminal::{Lang, Terminal};

fn main() -> ExitCode {
    exit::guard(|| {
        let cli = match read() {
            Ok(cli) => cli,
            Err(code) => return code,
        };
        let terminal = Terminal::new(&cli.global);
        dispatch(&terminal, cli).unwrap_or_else(|failure| {
            terminal::talk(&format!("llmc: {}\n", failure.text(terminal.lang)));
            Exit::Usage.into()
        })
    })
}

/// The command line; help and what is wrong with it are said in the language of the sentences.
fn read() -> Result<Cli, ExitCode> {
    let given: Vec<OsString> = std::env::args_os().collect();
    if terminal::asked(&given) == Lang::En {
        return Ok(Cli::parse_from(given));
    }
    let read = chinese::translated(Cli::command()).try_get_matches_from(given);
    read.and_then(|matches| Cli::from_arg_matches(&matches)).map_err(|error| {
        match chinese::error(&error) {
            Some(said) => terminal::talk(&said),
            None => {
                let _ = error.print();
            }
        }
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8))
    })
}

fn dispatch(terminal: &Terminal, cli: Cli) -> Outcome {
    let global = &cli.global;
    match cli.command {
        Command::Check { recipes } => check::run(terminal, global, &recipes),
        Command::Fmt { recipes, check } => fmt::run(terminal, &recipes, check),
        Command::Plan(args) => plan::run(terminal, global, &args),
        Command::Run(args) => run::run(terminal, global, &args),
        Command::Sweep { over: Over::Lr(args) } => sweep::run(terminal, global, &args),
        Command::Eval { args } => eval::run(terminal, &args),
        Command::Tokenizer(given) => corpus::run(terminal, global, "tokenizer", &given),
        Command::Data(given) => corpus::run(terminal, global, "data", &given),
        Command::Score { table } => score::run(terminal, &table),
        Command::Calibrate(args) => calibrate::run(terminal, global, &args),
        Command::Why { recipe, path } => why::run(terminal, global, &recipe, &path),
        Command::WhyNot { recipe, choice } => why::not(terminal, global, &recipe, &choice.join(" ")),
        Command::Diff { a, b } => diff::run(terminal, global, &a, &b),
        Command::Cost { recipes, tokens_per_second } => {
            cost::run(terminal, global, &recipes, tokens_per_second)
        }
        Command::Explain { name } => explain::run(terminal, name.as_deref()),
        Command::Schema => {
            terminal::data(include_str!("../plan/plan.schema.json"))?;
            Ok(Exit::Ok.into())
        }
        Command::Completions { shell } => completions::run(shell),
    }
}
