//! Seconds of a layer's memory-bound passes, and of what a ring of context ranks adds, as our own lowering writes them
//! (plan/src/lower/block.rs, attention.rs). `planner/tests/walk_time.rs` holds this against the walk over the program.

use super::comm::send;
use super::kernels::{bandwidth, gemm};
use super::layer::{LayerTime, tokens};
use super::{Point, Setting};

/// Widths of a layer on one rank, in elements.
struct Widths {
    n: f64,
    /// The residual stream: tensor-parallel ranks share its rows where the sequence is cut.
    stream: f64,
    q: f64,
    /// Keys, as wide as values.
    k: f64,
    ffn: f64,
}

impl Widths {
    fn new(s: &Setting, point: &Point) -> Widths {
        let (n, t) = (tokens(s, point), point.tp as f64);
        let dim = s.shape.head_dim as f64;
        Widths {
            n,
            stream: n * s.shape.hidden as f64 / if point.sp { t } else { 1.0 },
            q: n * s.shape.heads as f64 * dim / t,
            k: n * s.shape.kv_heads as f64 * dim / t,
            ffn: n * s.shape.ffn as f64 / t,
        }
    }
}

/// A kernel that moves bytes through device memory.
fn pass(s: &Setting, bytes: f64) -> f64 {
    s.profile.fixed.stack * (bytes / bandwidth(s) + s.profile.gemm.launch)
}

/// Norms, rotation, SwiGLU and residual sums, forward and backward, in the order of the lowering.
pub fn pointwise(s: &Setting, point: &Point) -> (f64, f64) {
    let (w, b) = (Widths::new(s, point), s.act());
    let elements = |count: f64| pass(s, count * b);
    let rotated = 2.0 * (w.q + w.k);
    let mut forward = elements(2.0 * w.stream) + elements(rotated) + elements(3.0 * w.ffn);
    forward += if point.tp > 1 || s.shape.dropout {
        // Sum and norm are one pass, the last sum another.
        elements(4.0 * w.stream) + elements(3.0 * w.stream)
    } else {
        elements(2.0 * w.stream) + 2.0 * added(s, point)
    };
    let mut backward = 2.0 * elements(4.0 * w.stream) + elements(5.0 * w.ffn);
    if s.shape.dropout {
        forward += 2.0 * elements(2.0 * w.stream);
        backward += 2.0 * (elements(2.0 * w.stream) + elements(2.0 * w.stream));
    }
    if point.cp > 1 {
        // Queries and keys lie apart; partial results are merged into sums; gradients are summed in f32 and copied back.
        let (ranks, kv) = (point.cp as f64, 2.0 * w.k);
        forward += s.profile.fixed.stack * s.profile.gemm.launch;
        forward += (2.0 * ranks - 1.0) * elements(w.q);
        backward += pass(s, 4.0 * w.q) + ranks * pass(s, 4.0 * kv) + (ranks - 1.0) * pass(s, 12.0 * kv);
        backward +=
            pass(s, (4.0 + b) * w.q) + pass(s, (4.0 + b) * kv) + elements(2.0 * w.q) + elements(2.0 * w.k);
    }
    (forward, backward)
}

/// The product that ends a residual branch reads the stream it adds.
fn added(s: &Setting, point: &Point) -> f64 {
    s.profile.fixed.stack * Widths::new(s, point).stream * s.act() / bandwidth(s)
}

/// Attention of a ring: each pair of halves of queries and keys is a kernel, whose queries pass anew.
pub fn ring_attention(s: &Setting, point: &Point, (forward, backward): (f64, f64)) -> (f64, f64) {
    let (w, p) = (Widths::new(s, point), &s.profile.attention);
    let pairs = 2.0 * point.cp as f64 + 1.0;
    let more = s.profile.fixed.stack * (pairs - 1.0) * s.profile.gemm.launch;
    let again = s.profile.fixed.stack * (pairs / 2.0 - 1.0) * w.q;
    (forward + more + again * p.forward_element, backward + 2.0 * more + again * p.backward_element)
}

/// What of a ring's exchanges attention does not hide: keys and values travel beside each round but the last, sums of
/// their gradients in f32 beside each but the first, and once home.
pub fn ring(s: &Setting, point: &Point, (forward, backward): (f64, f64)) -> f64 {
    let (kv, ranks) = (2.0 * Widths::new(s, point).k, point.cp as f64);
    let crossing = s.nodes > 1 && point.cp * point.tp > s.link_domain;
    let (there, back) = (send(s, kv * s.act(), crossing), send(s, kv * 4.0, crossing));
    let exposed = |wire: f64, beside: f64| (ranks - 1.0) * (wire - beside / ranks).max(0.0);
    exposed(there, forward) + exposed(there.max(back), backward) + back
}

/// What a block's second forward pass repeats: all up to the feed-forward's activation.
pub fn redone(s: &Setting, point: &Point, time: &LayerTime, reduce: f64) -> f64 {
    let w = Widths::new(s, point);
    let h = s.shape.hidden as f64;
    let down = s.profile.fixed.stack * gemm(s, w.n, h, w.ffn / w.n, false);
    let sum = if point.tp > 1 || s.shape.dropout {
        reduce + pass(s, 3.0 * w.stream * s.act())
    } else {
        added(s, point)
    };
    time.forward() - down - sum
}

/// What deferring weight gradients adds to a backward pass: a copy of the stream's gradient for each of two branches; with
/// tensor-parallel ranks it is gathered again for the weight gradient (`gather` seconds each).
pub fn deferred(s: &Setting, point: &Point, gather: f64) -> (f64, f64) {
    let w = Widths::new(s, point);
    (2.0 * pass(s, 2.0 * w.stream * s.act()), if point.tp > 1 { 2.0 * gather } else { 0.0 })
}
