//! How the worker ends when it does not end well: one sentence and an exit code (design, section 4).
//!
//! Not here: what goes wrong inside an op ([`crate::error`]); it becomes a failure at the worker's edge.

use std::fmt::Display;
use std::path::Path;

use llmc_plan::lang::{Said, Speak, cannot};
use llmc_plan::say;

/// One sentence for the user and the process exit code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .message.en)]
pub struct Failure {
    /// 1 the recipe is wrong · 2 usage, environment, files, a plan or program among them · 70 a bug of ours.
    pub code: u8,
    /// What happened, with the figures, and what to do.
    pub message: Said,
}

/// `Result` of the worker.
pub type Outcome<T> = std::result::Result<T, Failure>;

impl Failure {
    /// What the recipe asks for cannot be trained: it diverges, or its text does not last.
    pub fn recipe(message: Said) -> Failure {
        Failure { code: 1, message }
    }

    /// Usage, environment, a file.
    pub fn environment(message: Said) -> Failure {
        Failure { code: 2, message }
    }

    /// A file operation that the system refused.
    pub fn io(action: &str, path: &Path, error: &std::io::Error) -> Failure {
        Failure::environment(cannot(action, path, error))
    }

    /// A file that is not what it should be: what is wrong with it.
    pub fn damaged(path: &Path, what: impl Speak) -> Failure {
        Failure::environment(say!(
            "{path} is damaged: {what}",
            "{path} 已损坏：{what}",
            path = path.display(),
            what
        ))
    }

    /// Something that cannot happen did. What it was is for us to read.
    pub fn bug(message: impl Display) -> Failure {
        Failure { code: 70, message: say!("{message}", "程序内部错误，请报告：{message}") }
    }
}

impl From<crate::error::Error> for Failure {
    fn from(error: crate::error::Error) -> Failure {
        match error {
            crate::error::Error::Host(failure) => failure,
            other => Failure::bug(other.to_string()),
        }
    }
}

impl From<tch::TchError> for Failure {
    fn from(error: tch::TchError) -> Failure {
        crate::error::Error::from(error).into()
    }
}
