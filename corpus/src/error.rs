//! What can go wrong between text and batch, each in one sentence: file, place, what was expected,
//! what to do.

use crate::read::Place;
use llmc_plan::lang::{Said, cannot};
use llmc_plan::say;
use std::fmt;
use std::path::{Path, PathBuf};

/// Result of the corpus.
pub type Result<T> = std::result::Result<T, Error>;

/// Every failure of the corpus. None is a bug of ours; all are for the user to read.
#[derive(Debug)]
pub enum Error {
    /// The specification contradicts itself or asks for something that does not exist.
    Spec {
        /// `data.json`, or a placeholder when it came from memory.
        file: PathBuf,
        /// What is wrong and what to write instead.
        message: Said,
    },
    /// A file holds something other than what its name promises.
    Content(Box<BadContent>),
    /// The command line asks for what cannot be.
    Usage(Said),
    /// The operating system refused.
    Io {
        /// A verb of [`lang::ACTIONS`](llmc_plan::lang::ACTIONS).
        action: &'static str,
        /// The file or folder.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A source has fewer samples than the step asks for.
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
    Stopped,
    /// The fast encoder gave other ids than the reference; the build starts again without it.
    EncodersDiffer {
        /// Beginning of the document.
        text: String,
    },
    /// A resumed run would read other data than before.
    Cursor(Said),
}

/// In English; [`Error::said`] has both languages.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said().en)
    }
}

impl std::error::Error for Error {}

/// A malformed input or shard.
#[derive(Clone, Debug)]
pub struct BadContent {
    /// The file as opened.
    pub file: PathBuf,
    /// Where in it; offsets are after decompression where the file is compressed.
    pub place: Place,
    /// What is there.
    pub found: Said,
    /// What should be there.
    pub expected: Said,
    /// What to do.
    pub hint: Said,
}

impl BadContent {
    /// One sentence: file, place, what was expected, what was found, what to do.
    pub fn said(&self) -> Said {
        say!(
            "{file}{place}: expected {expected}, found {found}; {hint}",
            "{file}{place}：应为{expected}，实为{found}；{hint}",
            file = self.file.display(),
            place = self.place.said(),
            expected = self.expected,
            found = self.found,
            hint = self.hint
        )
    }
}

/// What to do first, or else how to leave out what cannot be read.
pub(crate) fn or_skip(first: Said, what: Said) -> Said {
    say!(
        "{first}, or set on_error to skip (recipe: clean < unreadable skip >) to leave {what} out",
        "{first}，或将 on_error 设为 skip（配方：clean < unreadable skip >）以略去{what}",
        first,
        what
    )
}

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
    pub(crate) fn corrupt(file: &Path, offset: Option<u64>, expected: Said, found: Said) -> Error {
        BadContent {
            file: file.to_owned(),
            place: Place { offset, ..Place::default() },
            found,
            expected,
            hint: say!(
                "the file is damaged or of another build: delete the folder and run `llmc data build` again",
                "文件已损坏，或属于另一次构建：请删除该目录并重新运行 `llmc data build`"
            ),
        }
        .into()
    }

    /// A [`Error::Spec`] about `data.json`.
    pub fn spec(message: Said) -> Error {
        Error::Spec { file: "data.json".into(), message }
    }

    /// What cannot happen did, in a library's own words.
    pub fn inner(words: impl fmt::Display) -> Error {
        Error::spec(Said::same(words))
    }

    /// The sentence.
    pub fn said(&self) -> Said {
        match self {
            Error::Spec { file, message } => {
                say!("{file}: {message}", "{file}：{message}", file = file.display(), message)
            }
            Error::Content(bad) => bad.said(),
            Error::Usage(said) | Error::Cursor(said) => said.clone(),
            Error::Io { action, file, source } => cannot(action, file, source),
            Error::Exhausted { name, epochs, available, sample } => say!(
                "source `{name}` has been read as often as its limit of {epochs} epochs allows at sample {available}, \
                 and sample {sample} is asked for: raise its limit of epochs, lower its share, or train on fewer tokens",
                "到样本 {available} 时，来源 `{name}` 已读满其 {epochs} 个 epoch 的上限，而需要样本 {sample}：\
                 请提高其 epoch 上限、降低其占比，或减少训练词元"
            ),
            Error::Stopped => say!("stopped", "已停止"),
            Error::EncodersDiffer { text } => say!(
                "the fast encoder and `tokenizers` give different ids for {text:?}",
                "快速编码器与 `tokenizers` 对 {text:?} 给出不同的 id"
            ),
        }
    }
}
