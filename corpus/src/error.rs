//! What can go wrong between text and batch, each in one sentence: file, place, what was expected,
//! what to do.

use crate::read::Place;
use std::fmt;
use std::path::{Path, PathBuf};

/// Result of the corpus.
pub type Result<T> = std::result::Result<T, Error>;

/// Every failure of the corpus. None is a bug of ours; all are for the user to read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The specification contradicts itself or asks for something that does not exist.
    #[error("{file}: {message}", file = .file.display())]
    Spec {
        /// `data.json`, or a placeholder when it came from memory.
        file: PathBuf,
        /// What is wrong and what to write instead.
        message: String,
    },
    /// A file holds something other than what its name promises.
    #[error(transparent)]
    Content(Box<BadContent>),
    /// The command line asks for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// The operating system refused.
    #[error("cannot {action} {file}: {source}", file = .file.display())]
    Io {
        /// A verb: read, write, map, rename.
        action: &'static str,
        /// The file or folder.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A source has fewer samples than the step asks for.
    #[error(
        "source `{name}` has been read as often as its limit of {epochs} epochs allows at sample {available}, and \
         sample {sample} is asked for: raise its limit of epochs, lower its share, or train on fewer tokens"
    )]
    Exhausted {
        /// Source.
        name: String,
        /// Its limit.
        epochs: f64,
        /// Samples the stream has.
        available: u64,
        /// The sample asked for.
        sample: u64,
    },
    /// The reader stops where an error was already handed on; never shown.
    #[error("stopped")]
    Stopped,
    /// The fast encoder gave other ids than the reference; the build starts again without it.
    #[error("the fast encoder and `tokenizers` give different ids for {text:?}")]
    EncodersDiffer {
        /// Beginning of the document.
        text: String,
    },
    /// A resumed run would read other data than before.
    #[error("{0}")]
    Cursor(String),
}

/// A malformed input or shard.
#[derive(Clone, Debug)]
pub struct BadContent {
    /// The file as opened.
    pub file: PathBuf,
    /// Where in it; offsets are after decompression where the file is compressed.
    pub place: Place,
    /// What is there.
    pub found: String,
    /// What should be there.
    pub expected: String,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for BadContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        write!(f, "{}", self.place)?;
        write!(f, ": expected {}, found {}; {}", self.expected, self.found, self.hint)
    }
}

impl std::error::Error for BadContent {}

impl From<BadContent> for Error {
    fn from(bad: BadContent) -> Self {
        Error::Content(Box::new(bad))
    }
}

impl Error {
    pub(crate) fn io(action: &'static str, file: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let file = file.to_owned();
        move |source| Error::Io { action, file, source }
    }

    /// A shard or manifest that does not fit what it says of itself.
    pub(crate) fn corrupt(
        file: &Path,
        offset: Option<u64>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        BadContent {
            file: file.to_owned(),
            place: Place { offset, ..Place::default() },
            found: found.into(),
            expected: expected.into(),
            hint:
                "the file is damaged or of another build: delete the folder and run `llmc data build` again"
                    .into(),
        }
        .into()
    }

    /// A [`Error::Spec`] about `data.json`.
    pub fn spec(message: impl Into<String>) -> Error {
        Error::Spec { file: "data.json".into(), message: message.into() }
    }
}
