//! Where the time of a step went: an event of the device after every instruction, read when the step is done, so that
//! measuring waits for nothing.
//!
//! Not here: what is printed of it ([`crate::bench`], [`crate::report`]).

use std::collections::BTreeMap;

use llmc_plan::op::{Kind, TensorType};
use serde::Serialize;
use tch::Device;

use crate::cuda::Mark;
use crate::failure::{Failure, Outcome};
use crate::interpret::{Event, Observer};
use crate::memory::dtype;
use crate::meter::Measured;

/// Times of one instruction of a segment, over all its calls.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timed {
    /// Segment.
    pub segment: String,
    /// Index in it.
    pub index: u64,
    /// Key of the op.
    pub op: &'static str,
    /// What kind of work it is.
    pub kind: Kind,
    /// Times it ran.
    pub count: u64,
    /// Seconds of all of them.
    pub seconds: f64,
    /// FLOPs of one.
    pub flops: f64,
    /// Fewest bytes one moves.
    pub bytes: u64,
    /// Shapes of inputs, then outputs.
    pub shapes: Vec<Vec<u64>>,
    /// Declared bytes of library scratch.
    pub workspace: u64,
    /// Most bytes it took from the allocator, where that was watched.
    pub allocator_bytes: u64,
}

/// When an instruction ended.
enum At {
    Device(Mark),
    Host(f64),
}

/// A step being watched.
#[derive(Default)]
pub struct Profile {
    start: Option<At>,
    ends: Vec<(usize, At)>,
    rows: Vec<Timed>,
    known: BTreeMap<(String, u64), usize>,
}

impl Profile {
    /// Starts on `device` now.
    ///
    /// # Errors
    /// When the device gives no event.
    pub fn start(device: Device) -> Outcome<Profile> {
        let start = match device {
            Device::Cuda(_) => At::Device(Mark::now()?),
            _ => At::Host(0.0),
        };
        Ok(Profile { start: Some(start), ..Profile::default() })
    }

    /// Waits for the device and adds up.
    ///
    /// # Errors
    /// When the work failed.
    pub fn finish(mut self) -> Outcome<Vec<Timed>> {
        let mut before = self.start.take().ok_or_else(|| Failure::bug("a profile that did not start"))?;
        for (row, end) in self.ends {
            let seconds = match (&before, &end) {
                (At::Device(before), At::Device(end)) => end.since(before)?,
                (At::Host(before), At::Host(end)) => end - before,
                _ => 0.0,
            };
            if let Some(timed) = self.rows.get_mut(row) {
                timed.count += 1;
                timed.seconds += seconds;
            }
            before = end;
        }
        Ok(self.rows)
    }
}

impl Observer for Profile {
    fn waits(&self) -> bool {
        false
    }

    fn after(&mut self, event: &Event<'_>, measured: Measured, (_, end): (f64, f64)) -> Outcome<()> {
        let key = (event.place.segment.clone(), event.place.index);
        let row = match self.known.get(&key) {
            Some(row) => *row,
            None => {
                self.rows.push(describe(event));
                self.known.insert(key, self.rows.len() - 1);
                self.rows.len() - 1
            }
        };
        if let Some(timed) = self.rows.get_mut(row) {
            timed.allocator_bytes = timed.allocator_bytes.max(measured.peak);
        }
        let end =
            if matches!(self.start, Some(At::Device(_))) { At::Device(Mark::now()?) } else { At::Host(end) };
        self.ends.push((row, end));
        Ok(())
    }
}

fn describe(event: &Event<'_>) -> Timed {
    let types = |tensors: &[tch::Tensor]| -> Vec<TensorType> {
        let shape = |t: &tch::Tensor| t.size().iter().map(|x| u64::try_from(*x).unwrap_or(0)).collect();
        tensors.iter().map(|t| TensorType { shape: shape(t), dtype: dtype(t.kind()) }).collect()
    };
    let (inputs, outputs) = (types(event.inputs), types(event.outputs));
    let spec = event.instr.op.spec();
    Timed {
        segment: event.place.segment.clone(),
        index: event.place.index,
        op: event.instr.op.key(),
        kind: spec.kind(),
        count: 0,
        seconds: 0.0,
        flops: spec.flops(&inputs, &outputs),
        bytes: spec.bytes(&inputs, &outputs),
        shapes: inputs.iter().chain(&outputs).map(|t| t.shape.clone()).collect(),
        workspace: event.instr.workspace,
        allocator_bytes: 0,
    }
}

/// Seconds by kind of work.
pub fn by_kind(rows: &[Timed]) -> BTreeMap<Kind, f64> {
    let mut sums = BTreeMap::new();
    for row in rows {
        *sums.entry(row.kind).or_insert(0.0) += row.seconds;
    }
    sums
}
