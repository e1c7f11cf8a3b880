//! Where the time of a step went: an event of the device before and after every instruction, read when the step is
//! done, so that measuring waits for nothing.
//!
//! Between two instructions of a stream lies the time in which the device had nothing to do. Not here: what is
//! printed of it ([`crate::bench`], [`crate::breakdown`], [`crate::chrome`]).

use std::collections::BTreeMap;
use std::time::Instant;

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
    /// Repeats work of the forward pass.
    pub recompute: bool,
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

/// One run of one instruction, in seconds since the profile began.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// Which of the rows.
    pub row: usize,
    /// Which of the streams.
    pub stream: usize,
    /// Layer of the call.
    pub layer: u64,
    /// Micro-batch of the call.
    pub micro_batch: u64,
    /// When it began.
    pub start: f64,
    /// When it ended.
    pub end: f64,
}

/// A step that was watched.
#[derive(Debug, Default)]
pub struct Watched {
    /// Every instruction of a segment once.
    pub rows: Vec<Timed>,
    /// Every run of every instruction, as issued.
    pub spans: Vec<Span>,
    /// Names of streams, as they were first met: the first is compute.
    pub streams: Vec<String>,
}

/// A moment.
enum At {
    Device(Mark),
    Host(f64),
}

/// A step being watched.
pub struct Profile {
    device: Device,
    clock: Instant,
    origin: At,
    began: Option<At>,
    moments: Vec<(At, At)>,
    watched: Watched,
    known: BTreeMap<(String, u64), usize>,
}

impl Profile {
    /// Starts on `device` now.
    ///
    /// # Errors
    /// When the device gives no event.
    pub fn start(device: Device) -> Outcome<Profile> {
        let clock = Instant::now();
        Ok(Profile {
            device,
            clock,
            origin: now(device, &clock)?,
            began: None,
            moments: Vec::new(),
            watched: Watched::default(),
            known: BTreeMap::new(),
        })
    }

    /// Waits for the device and adds up.
    ///
    /// # Errors
    /// When the work failed.
    pub fn finish(mut self) -> Outcome<Watched> {
        for (span, (start, end)) in self.watched.spans.iter_mut().zip(&self.moments) {
            (span.start, span.end) = (since(&self.origin, start)?, since(&self.origin, end)?);
            if let Some(timed) = self.watched.rows.get_mut(span.row) {
                timed.count += 1;
                timed.seconds += span.end - span.start;
            }
        }
        Ok(self.watched)
    }
}

fn now(device: Device, clock: &Instant) -> Outcome<At> {
    Ok(match device {
        Device::Cuda(_) => At::Device(Mark::now()?),
        _ => At::Host(clock.elapsed().as_secs_f64()),
    })
}

fn since(earlier: &At, later: &At) -> Outcome<f64> {
    match (earlier, later) {
        (At::Device(earlier), At::Device(later)) => Ok(later.since(earlier)?),
        (At::Host(earlier), At::Host(later)) => Ok(later - earlier),
        _ => Err(Failure::bug("a profile of two clocks")),
    }
}

impl Observer for Profile {
    fn waits(&self) -> bool {
        false
    }

    fn before(&mut self, _event: &Event<'_>) -> Outcome<()> {
        self.began = Some(now(self.device, &self.clock)?);
        Ok(())
    }

    fn after(&mut self, event: &Event<'_>, measured: Measured, _seconds: (f64, f64)) -> Outcome<()> {
        let end = now(self.device, &self.clock)?;
        let key = (event.place.segment.clone(), event.place.index);
        let Watched { rows, spans, streams } = &mut self.watched;
        let row = *self.known.entry(key).or_insert_with(|| {
            rows.push(describe(event));
            rows.len() - 1
        });
        if let Some(timed) = rows.get_mut(row) {
            timed.allocator_bytes = timed.allocator_bytes.max(measured.peak);
        }
        let stream = streams.iter().position(|s| s == event.stream).unwrap_or_else(|| {
            streams.push(event.stream.to_owned());
            streams.len() - 1
        });
        let (layer, micro_batch) = (event.place.layer, event.place.micro_batch);
        spans.push(Span { row, stream, layer, micro_batch, start: 0.0, end: 0.0 });
        let began = self.began.take().ok_or_else(|| Failure::bug("an instruction ended that never began"))?;
        self.moments.push((began, end));
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
        recompute: event.instr.recompute,
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
