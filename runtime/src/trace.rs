//! `--trace FILE`: one JSON object an instruction, comparable line by line with the simulation.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome};
use crate::interpret::{Event, Observer};
use crate::meter::Measured;
use crate::run_folder::is_special;

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

/// A trace under construction; the file appears when it is complete.
#[derive(Debug)]
pub struct Trace {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
}

impl Trace {
    /// Begins a trace.
    ///
    /// # Errors
    /// Exit code 2 when the folder cannot be written.
    pub fn create(path: &Path) -> Outcome<Trace> {
        let temporary = if is_special(path) { path.to_path_buf() } else { path.with_extension("partial") };
        let file = File::create(&temporary).map_err(|e| Failure::io("write", path, &e))?;
        Ok(Trace { path: path.to_path_buf(), temporary, file: BufWriter::new(file) })
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// Exit code 2 when the file cannot be written.
    pub fn finish(mut self) -> Outcome<()> {
        let place = |()| {
            if self.temporary == self.path { Ok(()) } else { fs::rename(&self.temporary, &self.path) }
        };
        let finished = self.file.flush().and_then(place);
        finished.map_err(|e| Failure::io("write", &self.path, &e))
    }
}

impl Observer for Trace {
    fn after(&mut self, event: &Event<'_>, measured: Measured, (start, end): (f64, f64)) -> Outcome<()> {
        let line = TraceLine {
            list: event.pass.list.to_owned(),
            step: event.pass.steps_done + 1,
            place: event.place.clone(),
            op: event.instr.op.key().to_owned(),
            stream: event.stream.to_owned(),
            live_bytes: event.live_bytes,
            workspace: event.instr.workspace,
            allocator_bytes: measured.peak,
            start,
            end,
        };
        let text = serde_json::to_string(&line).map_err(|e| Failure::bug(format!("trace: {e}")))?;
        writeln!(self.file, "{text}").map_err(|e| Failure::io("write", &self.path, &e))
    }
}
