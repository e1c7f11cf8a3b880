//! What can go wrong below the interpreter.

/// An op, a shim call or a tensor did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libtorch refused, with its own text.
    #[error("libtorch: {0}")]
    Libtorch(String),
    /// A tensor handed to an op has the wrong shape, dtype or layout.
    #[error("{op}: {problem}")]
    Operand {
        /// The op.
        op: &'static str,
        /// What was expected and what was found.
        problem: String,
    },
    /// A CUDA library is missing or refused, in one sentence.
    #[error("{0}")]
    Cuda(String),
    /// What the host side of a run refused (batches, other ranks), in its own words.
    #[error("{0}")]
    Host(crate::failure::Failure),
}

/// `Result` of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl From<tch::TchError> for Error {
    fn from(e: tch::TchError) -> Self {
        // libtorch appends a C++ backtrace, which says nothing to a user.
        let text = e.to_string();
        let end = text.find("\nException raised from").unwrap_or(text.len());
        Error::Libtorch(text.get(..end).unwrap_or(&text).to_owned())
    }
}
