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
        Schedule::Interleaved => interleaved(pipe),
        Schedule::ZeroBubble => zero_bubble(pipe),
    }
}

fn action(pass: Pass, chunk: u64, micro_batch: u64) -> Action {
    Action { pass, chunk, micro_batch }
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

/// Instances of slotted buffers a rank needs: the widest window of micro-batches between the oldest that some
/// chunk still holds and the newest it has begun.
pub fn in_flight(actions: &[Action], chunks: u64) -> u64 {
    let deferred = actions.iter().any(|a| a.pass == Pass::Weight);
    let last = if deferred { Pass::Weight } else { Pass::Backward };
    let window = |chunk| {
        let (mut begun, mut ended, mut most) = (0, 0, 1);
        for a in actions.iter().filter(|a| a.chunk == chunk) {
            begun += u64::from(a.pass == Pass::Forward);
            most = most.max(begun - ended);
            ended += u64::from(a.pass == last);
        }
        most
    };
    (0..chunks).map(window).max().unwrap_or(1)
}
