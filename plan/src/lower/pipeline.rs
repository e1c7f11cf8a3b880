//! In which order a pipeline rank runs its forward and backward passes.
//!
//! Not here: how passes become calls (`schedule`).

use crate::plan::Schedule;

/// One pass over one chunk of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action {
    /// Which pass.
    pub pass: Pass,
    /// Which of the rank's model chunks.
    pub chunk: u64,
    /// Which micro-batch.
    pub micro_batch: u64,
    /// Slot of the chunk and micro-batch: what it holds lies there, modulo how many slots a buffer has.
    pub slot: u64,
}

/// Passes of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Forward.
    Forward,
    /// Backward; of inputs alone under a zero-bubble schedule.
    Backward,
    /// Weight gradients, where they are apart.
    Weight,
}

/// Place of a rank in a pipeline, and what runs through it.
#[derive(Debug, Clone, Copy)]
pub struct Pipe {
    /// This rank.
    pub rank: u64,
    /// Ranks.
    pub ranks: u64,
    /// Chunks a rank holds.
    pub chunks: u64,
    /// Micro-batches a step.
    pub micro_batches: u64,
}

/// The rank's passes in order.
pub fn actions(schedule: Schedule, pipe: Pipe) -> Vec<Action> {
    match schedule {
        Schedule::None | Schedule::OneFOneB => one_forward_one_backward(pipe),
        Schedule::Interleaved => share_slots(interleaved(pipe)),
        Schedule::ZeroBubble => zero_bubble(pipe),
    }
}

/// Micro-batches of one chunk end in the order in which they begin, so each takes the next slot.
fn action(pass: Pass, chunk: u64, micro_batch: u64) -> Action {
    Action { pass, chunk, micro_batch, slot: micro_batch }
}

/// Gives slots to several chunks, which do not end in order: each takes the lowest that is free, so that there are no
/// more than live at once.
fn share_slots(mut actions: Vec<Action>) -> Vec<Action> {
    let mut taken: Vec<Option<(u64, u64)>> = Vec::new();
    for action in &mut actions {
        let (key, forward) = ((action.chunk, action.micro_batch), action.pass == Pass::Forward);
        let wanted = if forward { None } else { Some(key) };
        let slot = taken.iter().position(|held| *held == wanted).unwrap_or(taken.len());
        action.slot = slot as u64;
        taken.resize(taken.len().max(slot + 1), None);
        if let Some(held) = taken.get_mut(slot) {
            *held = forward.then_some(key);
        }
    }
    actions
}

/// 1F1B (Narayanan et al. 2021, arXiv 2006.09503): as many forwards ahead as there are ranks behind, then one
/// backward after every forward.
fn one_forward_one_backward(pipe: Pipe) -> Vec<Action> {
    let m = pipe.micro_batches;
    let ahead = (pipe.ranks - 1 - pipe.rank).min(m);
    let mut out: Vec<Action> = (0..ahead).map(|i| action(Pass::Forward, 0, i)).collect();
    for i in 0..m {
        if ahead + i < m {
            out.push(action(Pass::Forward, 0, ahead + i));
        }
        out.push(action(Pass::Backward, 0, i));
    }
    out
}

/// Interleaved 1F1B (arXiv 2104.04473, section 2.2; order as in Megatron-LM's
/// `forward_backward_pipelining_with_interleaving`): groups of `ranks` micro-batches pass through one chunk
/// after another. Needs micro-batches to be a multiple of ranks.
fn interleaved(pipe: Pipe) -> Vec<Action> {
    let Pipe { rank, ranks, chunks, micro_batches } = pipe;
    let total = micro_batches * chunks;
    let nth = |k: u64| {
        let (group, inside) = (k / (ranks * chunks), k % (ranks * chunks));
        (inside / ranks, group * ranks + inside % ranks)
    };
    let forward = |k| {
        let (chunk, m) = nth(k);
        action(Pass::Forward, chunk, m)
    };
    let backward = |k| {
        let (chunk, m) = nth(k);
        action(Pass::Backward, chunks - 1 - chunk, m)
    };
    let ahead = ((ranks - 1 - rank) * 2 + (chunks - 1) * ranks).min(total);
    let mut out: Vec<Action> = (0..ahead).map(forward).collect();
    for k in 0..total {
        if ahead + k < total {
            out.push(forward(ahead + k));
        }
        out.push(backward(k));
    }
    out
}

/// ZB-H1 (Qi et al. 2023, arXiv 2401.10241, section 3): 1F1B whose weight gradients run `rank` micro-batches
/// behind, so that every rank holds as many micro-batches as the first does under 1F1B, and the tail is filled
/// with weight gradients (the delay as in PyTorch's `ScheduleInterleavedZeroBubble`).
fn zero_bubble(pipe: Pipe) -> Vec<Action> {
    let mut out = Vec::new();
    let mut weights = 0;
    for next in one_forward_one_backward(pipe) {
        out.push(next);
        if next.pass == Pass::Backward && next.micro_batch >= pipe.rank {
            out.push(action(Pass::Weight, 0, weights));
            weights += 1;
        }
    }
    out.extend((weights..pipe.micro_batches).map(|m| action(Pass::Weight, 0, m)));
    out
}

/// How many are in flight at once on a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Micro-batches, from the first pass over any of the rank's chunks to the last.
    pub micro_batches: u64,
    /// Passes over a chunk, from forward to backward.
    pub passes: u64,
    /// The same to weight gradients that run apart; as many as `passes` where they do not.
    pub held: u64,
    /// From backward to weight gradients that run apart; 1 where they do not.
    pub late: u64,
}

/// Counts them.
pub fn windows(actions: &[Action]) -> Windows {
    let deferred = actions.iter().any(|a| a.pass == Pass::Weight);
    let last = if deferred { Pass::Weight } else { Pass::Backward };
    // What ends leaves its place to what begins after it.
    let most = |begins: &dyn Fn(&Action) -> bool, ends: &dyn Fn(&Action) -> bool| {
        let (mut now, mut most) = (0_u64, 1);
        for a in actions {
            now += u64::from(begins(a));
            most = most.max(now);
            now = now.saturating_sub(u64::from(ends(a)));
        }
        most
    };
    let is = |pass: Pass| move |a: &Action| a.pass == pass;
    // The first chunk's forward pass begins a micro-batch, and its backward pass ends it.
    let first = |pass: Pass| move |a: &Action| a.pass == pass && a.chunk == 0;
    Windows {
        micro_batches: most(&first(Pass::Forward), &first(Pass::Backward)),
        passes: most(&is(Pass::Forward), &is(Pass::Backward)),
        held: most(&is(Pass::Forward), &is(last)),
        late: if deferred { most(&is(Pass::Backward), &is(last)) } else { 1 },
    }
}
