//! Walks a program without running it: memory instruction by instruction, and time by list scheduling.
//!
//! The trace of a run has one record an instruction with the same place, stream and live bytes.
//! Not here: how long an instruction takes (the planner's cost model implements [`Durations`]).

use std::collections::BTreeMap;

use crate::live::{Instances, replay};
use crate::op::{Kind, TensorType};
use crate::order::{Raised, awaited};
use crate::program::{Call, Class, Instr, Place, Program, Ref, Space, StreamId};

/// How long instructions take.
pub trait Durations {
    /// Seconds of one instruction on operands of these shapes.
    fn seconds(&self, instr: &Instr, inputs: &[TensorType], outputs: &[TensorType]) -> f64;

    /// Seconds of a copy between two places of device memory, which no link limits; as any copy unless told otherwise.
    fn within_device(&self, instr: &Instr, inputs: &[TensorType], outputs: &[TensorType]) -> f64 {
        self.seconds(instr, inputs, outputs)
    }
}

/// Everything takes no time: for questions of memory alone.
pub struct Instant;

impl Durations for Instant {
    fn seconds(&self, _instr: &Instr, _inputs: &[TensorType], _outputs: &[TensorType]) -> f64 {
        0.0
    }
}

/// One instruction of a walk.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Where it stands.
    pub place: Place,
    /// Key of its op.
    pub op: &'static str,
    /// What kind of work it is.
    pub kind: Kind,
    /// On which stream.
    pub stream: StreamId,
    /// Device bytes in persistent and live transient tensors while it runs: its outputs count, and what it
    /// frees still counts.
    pub live_bytes: u64,
    /// Bytes the library below may take beside them.
    pub workspace: u64,
    /// Seconds from the start of the list.
    pub start: f64,
    /// Seconds from the start of the list.
    pub end: f64,
}

/// A walked list.
#[derive(Debug, Clone, PartialEq)]
pub struct Walk {
    /// Every instruction in issue order.
    pub records: Vec<Record>,
    /// Largest live + workspace bytes.
    pub peak_bytes: u64,
    /// Where that is.
    pub peak_at: Option<Place>,
    /// Live bytes by class at that place, workspace apart.
    pub peak_by_class: BTreeMap<Class, u64>,
    /// Seconds until the last instruction ends.
    pub seconds: f64,
    /// Seconds of work by kind, all streams.
    pub busy: BTreeMap<Kind, f64>,
}

/// Walks one of the program's lists, alone on its devices: waits for the previous step are over at once.
pub fn walk(program: &Program, calls: &[Call], durations: &dyn Durations) -> Walk {
    let mut walk = Walk {
        records: Vec::new(),
        peak_bytes: 0,
        peak_at: None,
        peak_by_class: BTreeMap::new(),
        seconds: 0.0,
        busy: BTreeMap::new(),
    };
    let Some(instances) = Instances::new(program) else { return walk };
    let mut by_class = persistent_by_class(program);
    let mut live = by_class.values().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
    let mut clock = Clock::new(program);
    let table = Table::new(program, durations);
    let class = |key: usize| instances.owner.get(key).and_then(|b| program.buffers.get(*b)).map(|b| b.class);

    replay(program, &instances, calls, |step| {
        for key in step.created.iter().filter(|key| instances.in_arena(**key)) {
            live = live.saturating_add(instances.bytes(*key));
            if let Some(class) = class(*key) {
                let bytes: &mut u64 = by_class.entry(class).or_default();
                *bytes = bytes.saturating_add(instances.bytes(*key));
            }
        }
        let instr = step.instr;
        let place = place(&step.segment.name, step.index, &step.call);
        let total = live.saturating_add(instr.workspace);
        if walk.peak_at.is_none() || total > walk.peak_bytes {
            walk.peak_bytes = total;
            walk.peak_at = Some(place.clone());
            walk.peak_by_class.clone_from(&by_class);
        }
        let seconds = table.seconds(&step.call, step.index);
        let (start, end) = clock.run(&step.call, instr, seconds);
        let kind = instr.op.spec().kind();
        *walk.busy.entry(kind).or_default() += seconds;
        walk.seconds = walk.seconds.max(end);
        walk.records.push(Record {
            place,
            op: instr.op.key(),
            kind,
            stream: instr.stream,
            live_bytes: live,
            workspace: instr.workspace,
            start,
            end,
        });
        for key in step.freed.iter().filter(|key| instances.in_arena(**key)) {
            live = live.saturating_sub(instances.bytes(*key));
            if let Some(bytes) = class(*key).and_then(|class| by_class.get_mut(&class)) {
                *bytes = bytes.saturating_sub(instances.bytes(*key));
            }
        }
    });
    walk
}

/// What a program takes on its device when it runs, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Footprint {
    /// Compute-format parameters.
    pub parameters: u64,
    /// Gradient accumulators.
    pub gradients: u64,
    /// Masters and moments.
    pub optimizer: u64,
    /// Scalars and tables.
    pub constants: u64,
    /// The arena of transients, as assigned.
    pub arena: u64,
    /// Largest workspace of any instruction of any list.
    pub workspace: u64,
    /// Sum: what an allocator that counts tensors sees at its peak.
    pub total: u64,
}

/// The footprint of a program whose arena is assigned.
pub fn memory(program: &Program) -> Footprint {
    let classes = persistent_by_class(program);
    let of = |class| classes.get(&class).copied().unwrap_or(0);
    let lists = [&program.init, &program.step, &program.eval, &program.save];
    let workspaces = lists.into_iter().flatten().filter_map(|call| program.segment(call.segment));
    let workspace = workspaces.flat_map(|s| &s.instrs).map(|i| i.workspace).max().unwrap_or(0);
    let parts = [
        of(Class::Parameter),
        of(Class::Gradient),
        of(Class::Optimizer),
        of(Class::Constant),
        program.arena_bytes,
        workspace,
    ];
    let [parameters, gradients, optimizer, constants, arena, workspace] = parts;
    let total = parts.iter().fold(0, |sum: u64, part| sum.saturating_add(*part));
    Footprint { parameters, gradients, optimizer, constants, arena, workspace, total }
}

/// Device bytes that live for the whole run.
fn persistent_by_class(program: &Program) -> BTreeMap<Class, u64> {
    let mut classes: BTreeMap<Class, u64> = BTreeMap::new();
    let device = program.buffers.iter().filter(|b| b.space == Space::Device && b.class.persistent());
    for buffer in device {
        let bytes = classes.entry(buffer.class).or_default();
        *bytes = bytes.saturating_add(buffer.bytes().saturating_mul(buffer.instances()));
    }
    classes
}

/// Seconds of every instruction of every segment: the same in every call.
pub(crate) struct Table(Vec<Vec<f64>>);

impl Table {
    /// Asks once for each instruction; 0 when its operands do not fit it, which `verify` reports.
    pub fn new(program: &Program, durations: &dyn Durations) -> Table {
        let types = |refs: &[Ref]| refs.iter().map(|r| program.tensor(r)).collect::<Option<Vec<_>>>();
        let here = |r: &Ref| program.buffer(r.buffer).is_some_and(|b| b.space == Space::Device);
        let seconds = |instr: &Instr| match (types(&instr.inputs), types(&instr.outputs)) {
            (Some(inputs), Some(outputs)) if instr.op.spec().check(&inputs, &outputs).is_ok() => {
                let copies = instr.op.spec().kind() == Kind::Copy;
                if copies && instr.inputs.iter().chain(&instr.outputs).all(here) {
                    return durations.within_device(instr, &inputs, &outputs);
                }
                durations.seconds(instr, &inputs, &outputs)
            }
            _ => 0.0,
        };
        Table(program.segments.iter().map(|s| s.instrs.iter().map(seconds).collect()).collect())
    }

    /// Seconds of an instruction of a call.
    pub fn seconds(&self, call: &Call, index: u64) -> f64 {
        let segment = self.0.get(call.segment.0 as usize);
        segment.and_then(|s| s.get(index as usize)).copied().unwrap_or(0.0)
    }
}

/// The place of an instruction.
pub(crate) fn place(segment: &str, index: u64, call: &Call) -> Place {
    Place { segment: segment.to_string(), index, layer: call.layer, micro_batch: call.micro_batch }
}

/// When each stream is free, and when each event was raised.
struct Clock {
    free: Vec<f64>,
    events: BTreeMap<Raised, f64>,
}

impl Clock {
    fn new(program: &Program) -> Clock {
        Clock { free: vec![0.0; program.streams.len()], events: BTreeMap::new() }
    }

    /// Start and end of an instruction issued now.
    fn run(&mut self, call: &Call, instr: &Instr, seconds: f64) -> (f64, f64) {
        let stream = instr.stream.0 as usize;
        let mut start = self.free.get(stream).copied().unwrap_or(0.0);
        for wait in instr.waits.iter().filter(|w| !w.previous_step) {
            if let Some(raised) = awaited(call, wait).and_then(|raised| self.events.get(&raised)) {
                start = start.max(*raised);
            }
        }
        let end = start + seconds;
        for event in &instr.signals {
            self.events.insert((*event, call.layer, call.micro_batch), end);
        }
        if let Some(free) = self.free.get_mut(stream) {
            *free = end;
        }
        (start, end)
    }
}
