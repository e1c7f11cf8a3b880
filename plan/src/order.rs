//! What happens before what across streams: vector clocks over stream order and events.
//!
//! Streams run their instructions in issue order; an instruction that waits for an event runs after the
//! instruction that raised it last, as CUDA's streams and events do.

use std::collections::BTreeMap;

use crate::program::{Call, EventId, Instr, Wait};

/// How far each stream has come.
pub(crate) type Clock = Vec<u64>;

/// An event of a layer and micro-batch.
pub(crate) type Raised = (EventId, u64, u64);

/// A point in the run: the nth instruction of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub stream: usize,
    pub time: u64,
}

impl Moment {
    /// Whether whoever holds this clock comes after the moment.
    pub fn before(&self, clock: &Clock) -> bool {
        clock.get(self.stream).is_some_and(|time| *time >= self.time)
    }
}

/// Clocks of the streams and of the events of this and the previous step.
pub(crate) struct Order {
    streams: Vec<Clock>,
    events: BTreeMap<Raised, Clock>,
    previous: BTreeMap<Raised, Clock>,
}

impl Order {
    /// At the start of a run.
    pub fn new(streams: usize) -> Order {
        Order { streams: vec![vec![0; streams]; streams], events: BTreeMap::new(), previous: BTreeMap::new() }
    }

    /// Goes on with the next optimizer step: its events start empty.
    pub fn next_step(&mut self) {
        self.previous = std::mem::take(&mut self.events);
    }

    /// Whether an event was raised so far in this step, or in the previous one.
    pub fn raised(&self, event: &Raised, previous_step: bool) -> bool {
        if previous_step { self.previous.contains_key(event) } else { self.events.contains_key(event) }
    }

    /// Issues an instruction; gives its moment and all that happened before it. `None` when its stream does
    /// not exist.
    pub fn issue(&mut self, call: &Call, instr: &Instr) -> Option<(Moment, Clock)> {
        let stream = instr.stream.0 as usize;
        let mut clock = self.streams.get(stream)?.clone();
        for wait in &instr.waits {
            let events = if wait.previous_step { &self.previous } else { &self.events };
            if let Some(other) = awaited(call, wait).and_then(|raised| events.get(&raised)) {
                clock.iter_mut().zip(other).for_each(|(mine, theirs)| *mine = (*mine).max(*theirs));
            }
        }
        let time = clock.get_mut(stream)?;
        *time += 1;
        let moment = Moment { stream, time: *time };
        for event in &instr.signals {
            self.events.insert((*event, call.layer, call.micro_batch), clock.clone());
        }
        if let Some(slot) = self.streams.get_mut(stream) {
            slot.clone_from(&clock);
        }
        Some((moment, clock))
    }
}

/// The event a wait means in a call; `None` when it lies before layer or micro-batch 0.
pub(crate) fn awaited(call: &Call, wait: &Wait) -> Option<Raised> {
    let layer = call.layer.checked_add_signed(wait.layer)?;
    Some((wait.event, layer, call.micro_batch.checked_add_signed(wait.micro_batch)?))
}
