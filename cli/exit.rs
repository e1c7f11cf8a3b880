//! How the program ends: one enum of codes, one kind of failure, and the guard that turns a panic into a report.

use std::path::Path;
use std::process::ExitCode;
use std::{fmt, io};

use llmc_plan::lang::reason;

use crate::terminal::Lang;

/// Every exit code but those that `run`, `eval`, `data` and `tokenizer` pass through from the program they start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done; warnings too.
    Ok = 0,
    /// The recipe is wrong, or nothing fits.
    Recipe = 1,
    /// The command line, the environment, or a file named on the command line.
    Usage = 2,
    /// `--against` or `--check` found a difference.
    Difference = 3,
    /// A bug of ours.
    Bug = 70,
}

/// What `--help` says about the codes.
pub const HELP: &str = "Exit codes:
  0   ok, warnings too
  1   the recipe is wrong, or nothing fits
  2   usage, environment, a file named on the command line
  3   --against or --check found a difference
  70  a bug of ours; the report on stderr says what to send
  run, eval, data and tokenizer pass through the code of the program they start";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command could not do its work, in one sentence that says what to do. Ends the program with [`Exit::Usage`].
#[derive(Debug)]
pub struct Failure {
    /// English.
    pub en: String,
    /// Chinese.
    pub zh: String,
}

impl Failure {
    /// A failure in both languages.
    pub fn new(en: impl fmt::Display, zh: impl fmt::Display) -> Failure {
        Failure { en: en.to_string(), zh: zh.to_string() }
    }

    /// What the system says against doing `(en, zh)` with a path: `("read", "读取")`.
    pub fn io((en, zh): (&str, &str), path: &Path, error: &io::Error) -> Failure {
        let (path, why) = (path.display(), reason(error));
        Failure::new(format!("cannot {en} {path}: {}", why.en), format!("无法{zh} {path}：{}", why.zh))
    }

    /// A name that nothing has, and the nearest one or where all stand: `what` and `list` in both languages.
    pub fn unknown(what: (&str, &str), name: &str, near: Option<String>, list: (&str, &str)) -> Failure {
        let (en, zh) = match near {
            Some(near) => (format!("did you mean `{near}`?"), format!("是否想写 `{near}`？")),
            None => (list.0.to_owned(), list.1.to_owned()),
        };
        Failure::new(
            format!("{} is called `{name}`: {en}", what.0),
            format!("没有名为 `{name}` 的{}：{zh}", what.1),
        )
    }

    /// The sentence in one language.
    pub fn text(&self, lang: Lang) -> &str {
        match lang {
            Lang::En => &self.en,
            Lang::Zh => &self.zh,
        }
    }
}

/// What a command returns: a code to end with, possibly that of a program it started.
pub type Outcome = Result<ExitCode, Failure>;

/// Runs the program; a panic becomes [`Exit::Bug`] with a report on stderr.
pub fn guard(program: impl FnOnce() -> ExitCode + std::panic::UnwindSafe) -> ExitCode {
    std::panic::set_hook(Box::new(|panic| eprintln!("{}", report(panic))));
    std::panic::catch_unwind(program).unwrap_or(Exit::Bug.into())
}

fn report(panic: &std::panic::PanicHookInfo<'_>) -> String {
    let payload = panic.payload();
    let message = payload.downcast_ref::<String>().map(String::as_str);
    let message = message.or(payload.downcast_ref::<&str>().copied()).unwrap_or("unknown");
    let place = panic.location().map_or(String::new(), |location| location.to_string());
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    format!(
        "llmc has a bug. Nothing was left half-written. Please report this block with the recipe:\n\
         ---\nllmc {} {} {}\nargs: {}\nat: {place}\nwhat: {message}\n---\n\
         这是 llmc 的程序错误，没有留下写了一半的文件。请连同配方一起报告以上内容。",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
        args.join(" "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_bug_of_ours() {
        let code = guard(|| panic!("planted"));
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(70)));
    }
}
