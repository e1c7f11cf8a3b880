//! `--trace FILE`: one JSON object an instruction, comparable line by line with the simulation.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::failure::{Failure, Outcome};

/// One executed instruction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraceLine {
    /// `step` or `eval`.
    pub list: String,
    /// Optimizer step, from 1.
    pub step: u64,
    /// Where it stands, as the simulation writes it.
    pub place: llmc_plan::program::Place,
    /// Key of the op.
    pub op: String,
    /// Name of its stream.
    pub stream: String,
    /// Bytes of all live instances while it runs, by the program's lifetimes.
    pub live_bytes: u64,
    /// Bytes it may take from the allocator.
    pub workspace: u64,
    /// Most bytes it did take from the allocator.
    pub allocator_bytes: u64,
    /// Seconds since the list began.
    pub start: f64,
    /// Seconds since the list began. On an accelerator a traced run waits for every instruction.
    pub end: f64,
}

/// The file under construction; it appears when the trace is complete.
#[derive(Debug)]
pub struct Trace {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
}

impl Trace {
    /// Begins a trace.
    ///
    /// # Errors
    /// Exit code 2 when the folder cannot be written.
    pub fn create(path: &Path) -> Outcome<Trace> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = NamedTempFile::new_in(folder).map_err(|e| Failure::io("write", path, &e))?;
        Ok(Trace { path: path.to_path_buf(), file: BufWriter::new(file) })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// Exit code 2 when the file cannot be written.
    pub fn write(&mut self, line: &TraceLine) -> Outcome<()> {
        let text = serde_json::to_string(line).map_err(|e| Failure::bug(format!("trace: {e}")))?;
        writeln!(self.file, "{text}").map_err(|e| Failure::io("write", &self.path, &e))
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// Exit code 2 when the file cannot be written.
    pub fn finish(self) -> Outcome<()> {
        let failed = |e: &std::io::Error| Failure::io("write", &self.path, e);
        let file = self.file.into_inner().map_err(|e| failed(e.error()))?;
        file.persist(&self.path).map(drop).map_err(|e| failed(&e.error))
    }
}
