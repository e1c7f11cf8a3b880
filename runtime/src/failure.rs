//! How the worker ends when it does not end well: one sentence and an exit code (design, section 4).
//!
//! Not here: what goes wrong inside an op ([`crate::error`]); it becomes a failure at the worker's edge.

use std::path::Path;

/// One sentence for the user and the process exit code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// 1 the recipe is wrong · 2 usage, environment, files, a plan or program among them · 70 a bug of ours.
    pub code: u8,
    /// What happened, with the figures, and what to do.
    pub message: String,
}

/// `Result` of the worker.
pub type Outcome<T> = std::result::Result<T, Failure>;

impl Failure {
    /// What the recipe asks for cannot be trained: it diverges, or its text does not last.
    pub fn recipe(message: impl Into<String>) -> Failure {
        Failure { code: 1, message: message.into() }
    }

    /// Usage, environment, a file.
    pub fn environment(message: impl Into<String>) -> Failure {
        Failure { code: 2, message: message.into() }
    }

    /// A file operation that the system refused.
    pub fn io(action: &str, path: &Path, error: &std::io::Error) -> Failure {
        Failure::environment(format!("cannot {action} {}: {error}", path.display()))
    }

    /// Something that cannot happen did.
    pub fn bug(message: impl Into<String>) -> Failure {
        Failure { code: 70, message: message.into() }
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
