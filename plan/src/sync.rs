//! Events between streams, derived from what instructions read and write.
//!
//! Lowering says what runs on which stream and in which order it is issued; this pass adds the waits that make
//! every access come after the accesses it depends on, also those of the previous step, and no more: what
//! already happens before by stream order or through another wait needs none. A segment whose calls need
//! different waits gets one copy a set (`name.2`, `name.3`, …).
//!
//! `verify` judges the result on its own.

use std::collections::BTreeMap;

use crate::live::Instances;
use crate::order::Clock;
use crate::program::{Call, EventId, Instr, Program, Segment, SegmentId, Wait};

/// Replaces all events of a program, and the copies of segments made for them.
pub fn derive(program: &mut Program) {
    merge_copies(program);
    for instr in program.segments.iter_mut().flat_map(|s| &mut s.instrs) {
        instr.waits.clear();
        instr.signals.clear();
    }
    program.events.clear();
    if program.streams.len() < 2 {
        return;
    }
    let Some(instances) = Instances::new(program) else { return };
    let lists = [&program.init, &program.step, &program.eval, &program.save];
    let needs: Vec<Vec<Needs>> =
        lists.iter().enumerate().map(|(i, calls)| analyse(program, &instances, calls, i == 1)).collect();
    write(program, needs);
}

/// Calls the segments that copies were made of, and drops the copies.
pub(crate) fn merge_copies(program: &mut Program) {
    let base = |id: SegmentId| {
        let (base, number) = program.segment(id)?.name.rsplit_once('.')?;
        number.parse::<u64>().ok()?;
        program.segment_named(base)
    };
    let bases: Vec<SegmentId> =
        (0..program.segments.len() as u32).map(|i| base(SegmentId(i)).unwrap_or(SegmentId(i))).collect();
    let Program { init, step, eval, save, segments, .. } = program;
    for call in [init, step, eval, save].into_iter().flatten() {
        call.segment = bases.get(call.segment.0 as usize).copied().unwrap_or(call.segment);
    }
    // Copies stand behind everything they are copies of.
    let first = bases.iter().enumerate().position(|(i, base)| base.0 as usize != i);
    segments.truncate(first.unwrap_or(segments.len()));
}

/// An instruction of a segment.
type Point = (SegmentId, usize);

/// A wait before the event it is for has a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Need {
    /// The instruction of the call that waits.
    index: usize,
    /// The instruction waited for.
    point: Point,
    /// Its layer and micro-batch from the call's.
    layer: i64,
    micro_batch: i64,
    previous_step: bool,
}

/// All waits of one call.
type Needs = Vec<Need>;

/// One issued instruction.
struct Issued {
    point: Point,
    call: Call,
    stream: usize,
    previous_step: bool,
    clock: Clock,
}

/// Accesses of an instance that later ones must come after, as numbers of issued instructions.
#[derive(Default, Clone)]
struct Accesses {
    write: Option<usize>,
    reads: Vec<usize>,
}

/// What each call of a list must wait for. A step is issued twice: the second time it sees the first as the
/// previous step.
fn analyse(program: &Program, instances: &Instances, calls: &[Call], is_step: bool) -> Vec<Needs> {
    let streams = program.streams.len();
    let mut clocks = vec![vec![0; streams]; streams];
    let mut issued: Vec<Issued> = Vec::new();
    let mut accesses = vec![Accesses::default(); instances.len()];
    let mut needs = vec![Needs::new(); calls.len()];
    let rounds = if is_step { 2 } else { 1 };
    for round in 0..rounds {
        for (needs, call) in needs.iter_mut().zip(calls) {
            needs.clear();
            let Some(segment) = program.segment(call.segment) else { continue };
            for (index, instr) in segment.instrs.iter().enumerate() {
                let stream = instr.stream.0 as usize;
                let Some(mut clock) = clocks.get(stream).cloned() else { continue };
                for other in latest(program, instances, call, instr, &issued, &accesses, &clock) {
                    let Some(other) = issued.get(other) else { continue };
                    needs.push(Need {
                        index,
                        point: other.point,
                        layer: other.call.layer as i64 - call.layer as i64,
                        micro_batch: other.call.micro_batch as i64 - call.micro_batch as i64,
                        previous_step: other.previous_step,
                    });
                    clock
                        .iter_mut()
                        .zip(&other.clock)
                        .for_each(|(mine, theirs)| *mine = (*mine).max(*theirs));
                }
                if let Some(time) = clock.get_mut(stream) {
                    *time += 1;
                }
                if let Some(slot) = clocks.get_mut(stream) {
                    slot.clone_from(&clock);
                }
                let point = (call.segment, index);
                issued.push(Issued { point, call: *call, stream, previous_step: false, clock });
                note(program, instances, call, instr, &issued, &mut accesses);
            }
        }
        if round + 1 < rounds {
            issued.iter_mut().for_each(|i| i.previous_step = true);
        }
    }
    needs
}

/// The latest instruction of each other stream that must come before this one and does not yet. Those that
/// happen before another of them need no wait of their own.
fn latest(
    program: &Program,
    instances: &Instances,
    call: &Call,
    instr: &Instr,
    issued: &[Issued],
    accesses: &[Accesses],
    clock: &Clock,
) -> Vec<usize> {
    let mut latest: BTreeMap<usize, usize> = BTreeMap::new();
    let mut require = |other: usize| {
        let Some(entry) = issued.get(other) else { return };
        let done = clock.get(entry.stream).copied().unwrap_or(0);
        if entry.clock.get(entry.stream).copied().unwrap_or(0) > done {
            let slot = latest.entry(entry.stream).or_insert(other);
            *slot = (*slot).max(other);
        }
    };
    let access = |r| instances.key(program, call, r).and_then(|key| accesses.get(key));
    for access in instr.inputs.iter().filter_map(access) {
        access.write.into_iter().for_each(&mut require);
    }
    for access in instr.outputs.iter().filter_map(access) {
        access.write.iter().chain(&access.reads).copied().for_each(&mut require);
    }
    let all: Vec<usize> = latest.into_values().collect();
    let implied = |this: &usize| {
        let Some(mine) = issued.get(*this) else { return false };
        let time = mine.clock.get(mine.stream).copied().unwrap_or(0);
        let others = all.iter().filter(|other| *other != this).filter_map(|other| issued.get(*other));
        others.into_iter().any(|other| other.clock.get(mine.stream).copied().unwrap_or(0) >= time)
    };
    all.iter().copied().filter(|this| !implied(this)).collect()
}

/// Notes the accesses of the instruction issued last.
fn note(
    program: &Program,
    instances: &Instances,
    call: &Call,
    instr: &Instr,
    issued: &[Issued],
    accesses: &mut [Accesses],
) {
    let this = issued.len().saturating_sub(1);
    let stream = |i: usize| issued.get(i).map(|issued| issued.stream);
    for key in instr.inputs.iter().filter_map(|r| instances.key(program, call, r)) {
        if let Some(access) = accesses.get_mut(key) {
            access.reads.retain(|read| stream(*read) != stream(this));
            access.reads.push(this);
        }
    }
    for key in instr.outputs.iter().filter_map(|r| instances.key(program, call, r)) {
        if let Some(access) = accesses.get_mut(key) {
            *access = Accesses { write: Some(this), reads: Vec::new() };
        }
    }
}

/// Numbers the events, raises them, and gives every call a segment with its waits.
fn write(program: &mut Program, needs: Vec<Vec<Needs>>) {
    let mut events: BTreeMap<Point, EventId> = BTreeMap::new();
    for point in needs.iter().flatten().flatten().map(|need| need.point) {
        let next = EventId(events.len() as u32);
        events.entry(point).or_insert_with(|| {
            let segment = program.segments.get(point.0.0 as usize).map(|s| s.name.as_str());
            program.events.push(format!("{}/{}", segment.unwrap_or_default(), point.1));
            next
        });
    }
    for ((segment, index), event) in &events {
        let segment = program.segments.get_mut(segment.0 as usize);
        if let Some(instr) = segment.and_then(|s| s.instrs.get_mut(*index)) {
            instr.signals.push(*event);
        }
    }
    let bases = program.segments.clone();
    let mut copies: BTreeMap<SegmentId, Vec<(Needs, SegmentId)>> = BTreeMap::new();
    let Program { init, step, eval, save, segments, .. } = program;
    for (calls, needs) in [init, step, eval, save].into_iter().zip(needs) {
        for (call, needs) in calls.iter_mut().zip(needs) {
            let Some(base) = bases.get(call.segment.0 as usize) else { continue };
            let known = copies.entry(call.segment).or_default();
            if let Some((_, segment)) = known.iter().find(|(set, _)| *set == needs) {
                call.segment = *segment;
                continue;
            }
            let mut instrs = base.instrs.clone();
            for need in &needs {
                let Some((event, instr)) = events.get(&need.point).zip(instrs.get_mut(need.index)) else {
                    continue;
                };
                instr.waits.push(Wait {
                    event: *event,
                    layer: need.layer,
                    micro_batch: need.micro_batch,
                    previous_step: need.previous_step,
                });
            }
            let segment = if known.is_empty() {
                if let Some(slot) = segments.get_mut(call.segment.0 as usize) {
                    slot.instrs = instrs;
                }
                call.segment
            } else {
                segments.push(Segment { name: format!("{}.{}", base.name, known.len() + 1), instrs });
                SegmentId(segments.len() as u32 - 1)
            };
            known.push((needs, segment));
            call.segment = segment;
        }
    }
}
