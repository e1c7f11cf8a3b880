//! Refuses programs that would compute something else than they say: run on every lowered program in tests and
//! on every program file before it is executed.
//!
//! A program is sound when every id and shape fits, nothing dead is read, nothing live is created again or
//! left behind, sums are cleared before they are added to, every trained parameter gets a gradient and an
//! update, streams are kept apart by events, and no two live tensors share bytes. Never panics, whatever the
//! program holds.
//!
//! Not here: whether several ranks fit together ([`crate::ranks`]).

use crate::live::Instances;
use crate::op::{Op, TensorType};
use crate::order::{Clock, Moment, Order, awaited};
use crate::program::{Buffer, Call, Class, Instr, Place, Program, Ref};
use crate::walk::place;

/// One thing wrong with a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where; none when it concerns the program as a whole.
    pub place: Option<Place>,
    /// One sentence.
    pub reason: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.reason),
            None => write!(f, "{}", self.reason),
        }
    }
}

/// More than this many are not collected: one cause has many effects.
const MOST_VIOLATIONS: usize = 100;
/// More streams than any lowering declares; bounds the clocks.
const MOST_STREAMS: usize = 64;

/// Everything wrong with a program, in issue order; empty when it is sound.
pub fn verify(program: &Program) -> Vec<Violation> {
    let mut out = Violations(Vec::new());
    if program.streams.is_empty() || program.streams.len() > MOST_STREAMS {
        let count = program.streams.len();
        out.program(format!("{count} streams are declared; there must be 1 to {MOST_STREAMS}"));
        return out.0;
    }
    let Some(instances) = Instances::new(program) else {
        out.program("more buffer instances are declared than any model has".to_string());
        return out.0;
    };
    segments(program, &mut out);
    if !out.0.is_empty() {
        return out.0; // what follows would only repeat it
    }
    for (name, calls) in lists(program) {
        lifetimes(program, &instances, name, calls, &mut out);
    }
    written_by_init(program, &instances, &mut out);
    updated_by_step(program, &instances, &mut out);
    order(program, &instances, &mut out);
    crate::arena::overlaps(program, &instances, &mut |reason| out.program(reason));
    out.0
}

fn lists(program: &Program) -> [(&'static str, &[Call]); 4] {
    [("init", &program.init), ("step", &program.step), ("eval", &program.eval), ("save", &program.save)]
}

/// Collected violations.
struct Violations(Vec<Violation>);

impl Violations {
    fn at(&mut self, place: Place, reason: String) {
        self.push(Violation { place: Some(place), reason });
    }

    fn program(&mut self, reason: String) {
        self.push(Violation { place: None, reason });
    }

    fn push(&mut self, violation: Violation) {
        if self.0.len() < MOST_VIOLATIONS && !self.0.contains(&violation) {
            self.0.push(violation);
        }
    }
}

/// Ids, row ranges, operand counts and shapes of every segment, called or not; calls of segments there are.
fn segments(program: &Program, out: &mut Violations) {
    for segment in &program.segments {
        for (index, instr) in segment.instrs.iter().enumerate() {
            let call = Call { segment: crate::program::SegmentId(0), layer: 0, micro_batch: 0, slot: 0 };
            if let Err(reason) = operands(program, instr) {
                out.at(place(&segment.name, index as u64, &call), reason);
            }
        }
    }
    for (name, calls) in lists(program) {
        for call in calls.iter().filter(|call| program.segment(call.segment).is_none()) {
            out.program(format!(
                "{name} calls segment {}, there are {}",
                call.segment.0,
                program.segments.len()
            ));
        }
    }
}

/// Checks one instruction on its own.
fn operands(program: &Program, instr: &Instr) -> Result<(), String> {
    if instr.stream.0 as usize >= program.streams.len() {
        return Err(format!("stream {} is not declared", instr.stream.0));
    }
    let events = instr.waits.iter().map(|w| w.event).chain(instr.signals.iter().copied());
    let mut unknown = events.filter(|e| e.0 as usize >= program.events.len());
    if let Some(event) = unknown.next() {
        return Err(format!("event {} is not declared", event.0));
    }
    let types =
        |refs: &[Ref]| refs.iter().map(|r| tensor(program, r)).collect::<Result<Vec<TensorType>, _>>();
    let (inputs, outputs) = (types(&instr.inputs)?, types(&instr.outputs)?);
    for freed in &instr.frees {
        let buffer = program
            .buffer(freed.buffer)
            .ok_or_else(|| format!("buffer {} does not exist", freed.buffer.0))?;
        if buffer.class.persistent() {
            return Err(format!("frees {}, which lives for the whole run", buffer.name));
        }
        if freed.rows.is_some() {
            return Err(format!("frees only some rows of {}", buffer.name));
        }
    }
    instr.op.spec().check(&inputs, &outputs).map_err(|e| format!("{}: {e}", instr.op.key()))
}

fn tensor(program: &Program, reference: &Ref) -> Result<TensorType, String> {
    let buffer = program.buffer(reference.buffer);
    let buffer = buffer.ok_or_else(|| format!("buffer {} does not exist", reference.buffer.0))?;
    let rows = buffer.shape.first().copied().unwrap_or(0);
    let [start, end] = reference.rows.unwrap_or([0, rows]);
    program.tensor(reference).ok_or_else(|| format!("rows {start}..{end} of {} with {rows}", buffer.name))
}

/// State of an instance during one list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not written in this list (persistent), or not live (transient).
    Untouched,
    /// Only cleared by a `fill`.
    Cleared,
    /// Written.
    Written,
}

/// Reads of dead instances, double creation, leaks, sums added to before they are cleared.
fn lifetimes(program: &Program, instances: &Instances, name: &str, calls: &[Call], out: &mut Violations) {
    let mut states = vec![State::Untouched; instances.len()];
    for (call, index, segment, instr) in program.instrs(calls) {
        let mut wrong = |reason: String| out.at(place(&segment.name, index, &call), reason);
        let spec = instr.op.spec();
        let fill = matches!(instr.op, Op::Fill(_));
        for reference in &instr.inputs {
            let Some((buffer, key)) = find(program, instances, &call, reference, &mut wrong) else {
                continue;
            };
            read(buffer, instances.transient(key), states[key], &mut wrong);
        }
        for (index, reference) in instr.outputs.iter().enumerate() {
            let Some((buffer, key)) = find(program, instances, &call, reference, &mut wrong) else {
                continue;
            };
            let (transient, state) = (instances.transient(key), states[key]);
            let updates = match &instr.op {
                Op::Gemm(gemm) => gemm.adds(call.micro_batch),
                _ => spec.updates(index),
            };
            if updates {
                let sum = matches!(buffer.class, Class::Gradient | Class::Constant);
                if sum && state == State::Untouched {
                    wrong(format!("adds to {} before anything in {name} has cleared it", buffer.name));
                }
                let dead = transient && state == State::Untouched;
                if dead || matches!(instr.op, Op::AllReduce(_)) {
                    read(buffer, transient, state, &mut wrong);
                }
            } else if transient && state != State::Untouched && reference.rows.is_none() {
                wrong(format!("creates {} again before it was freed", buffer.name));
            }
            states[key] = if fill { State::Cleared } else { State::Written };
        }
        for reference in &instr.frees {
            let Some((buffer, key)) = find(program, instances, &call, reference, &mut wrong) else {
                continue;
            };
            if states[key] == State::Untouched {
                wrong(format!("frees {}, which is not live", buffer.name));
            }
            states[key] = State::Untouched;
        }
    }
    for (key, _) in states.iter().enumerate().filter(|(_, state)| **state != State::Untouched) {
        if let Some(buffer) = instances.owner.get(key).and_then(|b| program.buffers.get(*b))
            && instances.transient(key)
        {
            let instance = instances.local(key);
            out.program(format!("instance {instance} of {} is still live when {name} ends", buffer.name));
        }
    }
}

/// Judges a read.
fn read(buffer: &Buffer, transient: bool, state: State, wrong: &mut dyn FnMut(String)) {
    if transient && state == State::Untouched {
        wrong(format!("reads {}, which is not live", buffer.name));
    } else if buffer.class == Class::Gradient && state == State::Untouched {
        wrong(format!("reads {}, to which nothing was added in this step", buffer.name));
    }
    if matches!(buffer.class, Class::Gradient | Class::Communication) && state == State::Cleared {
        wrong(format!("reads {}, to which nothing was added since it was cleared", buffer.name));
    }
}

fn find<'a>(
    program: &'a Program,
    instances: &Instances,
    call: &Call,
    reference: &Ref,
    wrong: &mut dyn FnMut(String),
) -> Option<(&'a Buffer, usize)> {
    let buffer = program.buffer(reference.buffer)?;
    let key = instances.key(program, call, reference);
    if key.is_none() {
        let (layer, slot) = (i128::from(call.layer) + i128::from(reference.layer), call.slot);
        wrong(format!("{} has no instance for layer {layer}, slot {slot}", buffer.name));
    }
    Some((buffer, key?))
}

/// Instances of the buffers that hold a parameter and what belongs to it.
fn owned(program: &Program, instances: &Instances) -> Vec<(String, usize, bool)> {
    let mut owned = Vec::new();
    for param in &program.params {
        let b = &param.buffers;
        let call = Call {
            segment: crate::program::SegmentId(0),
            layer: param.layer.unwrap_or(0),
            micro_batch: 0,
            slot: 0,
        };
        let trained = [b.weight].into_iter().chain(b.master).chain(b.missing).chain(b.states.iter().copied());
        for buffer in trained {
            let key = instances.key(program, &call, &Ref::of(buffer));
            owned.extend(key.map(|key| (param.name.clone(), key, !param.frozen)));
        }
    }
    owned
}

/// Instances a list writes.
fn written(program: &Program, instances: &Instances, calls: &[Call], by: impl Fn(&Op) -> bool) -> Vec<bool> {
    let mut written = vec![false; instances.len()];
    for (call, _, _, instr) in program.instrs(calls).filter(|(_, _, _, instr)| by(&instr.op)) {
        for key in instr.outputs.iter().filter_map(|r| instances.key(program, &call, r)) {
            written[key] = true;
        }
    }
    written
}

/// Every weight, master and state is written before the first step.
fn written_by_init(program: &Program, instances: &Instances, out: &mut Violations) {
    let written = written(program, instances, &program.init, |_| true);
    for (param, key, _) in owned(program, instances).into_iter().filter(|(_, key, _)| !written[*key]) {
        let buffer = instances.owner.get(key).and_then(|b| program.buffers.get(*b));
        let buffer = buffer.map(|b| b.name.as_str()).unwrap_or_default();
        out.program(format!("init never writes {buffer} of {param}"));
    }
}

/// Every trained parameter is updated in a step.
fn updated_by_step(program: &Program, instances: &Instances, out: &mut Violations) {
    let written = written(program, instances, &program.step, |op| {
        matches!(op, Op::Optimize(_) | Op::Copy(_) | Op::Gather(_))
    });
    for (param, key, trained) in owned(program, instances) {
        if trained && !written[key] {
            let buffer = instances.owner.get(key).and_then(|b| program.buffers.get(*b));
            let buffer = buffer.map(|b| b.name.as_str()).unwrap_or_default();
            out.program(format!("a step never updates {buffer} of {param}"));
        }
    }
}

/// Accesses of an instance that later ones must come after.
#[derive(Default, Clone)]
struct Accesses {
    write: Option<Moment>,
    reads: Vec<Moment>,
}

/// Across streams, every access comes after the accesses it depends on; every wait is for something. A step is
/// issued twice, so that what one step leaves to the next is seen too; the other lists run alone.
fn order(program: &Program, instances: &Instances, out: &mut Violations) {
    for (name, calls) in lists(program) {
        let mut order = Order::new(program.streams.len());
        let mut accesses = vec![Accesses::default(); instances.len()];
        let rounds = if name == "step" { 2 } else { 1 };
        for round in 0..rounds {
            for (call, index, segment, instr) in program.instrs(calls) {
                let mut wrong = |reason: String| out.at(place(&segment.name, index, &call), reason);
                for wait in &instr.waits {
                    let raised =
                        awaited(&call, wait).is_some_and(|event| order.raised(&event, wait.previous_step));
                    if !raised && (round > 0 || !wait.previous_step) {
                        let event = program.events.get(wait.event.0 as usize).map(String::as_str);
                        wrong(format!(
                            "waits for {}, which nobody raised before",
                            event.unwrap_or("an event")
                        ));
                    }
                }
                let Some((moment, clock)) = order.issue(&call, instr) else { continue };
                touch(program, instances, &call, instr, moment, &clock, &mut accesses, &mut wrong);
            }
            order.next_step();
        }
    }
}

/// Judges and notes the accesses of one instruction.
#[allow(clippy::too_many_arguments)]
fn touch(
    program: &Program,
    instances: &Instances,
    call: &Call,
    instr: &Instr,
    moment: Moment,
    clock: &Clock,
    accesses: &mut [Accesses],
    wrong: &mut dyn FnMut(String),
) {
    let mut race = |reference: &Ref, what: &str, other: &Moment| {
        if !other.before(clock) {
            let buffer = program.buffer(reference.buffer).map(|b| b.name.as_str()).unwrap_or_default();
            let stream = program.streams.get(other.stream).map(String::as_str).unwrap_or_default();
            wrong(format!("{what} {buffer} while stream {stream} may still use it"));
        }
    };
    let key = |reference: &Ref| instances.key(program, call, reference);
    for reference in &instr.inputs {
        let Some(access) = key(reference).and_then(|key| accesses.get_mut(key)) else { continue };
        access.write.iter().for_each(|other| race(reference, "reads", other));
        access.reads.retain(|read| read.stream != moment.stream);
        access.reads.push(moment);
    }
    for reference in &instr.outputs {
        let Some(access) = key(reference).and_then(|key| accesses.get_mut(key)) else { continue };
        access.write.iter().chain(&access.reads).for_each(|other| race(reference, "writes", other));
        *access = Accesses { write: Some(moment), reads: Vec::new() };
    }
}
