//! Attention of a block between its two projections: packed on one context rank, around a ring on several.
//!
//! Ring attention (arXiv 2310.01889) with causal load balance: each sequence is cut into 2·cp blocks and rank r
//! holds blocks r and 2·cp−1−r, so that every rank does the same work in every round (the order of
//! Megatron-LM's and Llama 3's context parallelism, arXiv 2407.21783). A rank's rows hold the early block of
//! every sequence, then the late block of every sequence. Keys and values pass to the next rank while the
//! current ones are attended to; in the backward pass their gradients travel with them and come home after a
//! full round.

use super::Lowering;
use super::activations::{Attention, Ring};
use super::build::Draft;
use super::product;
use crate::op::{
    Accumulate, AttentionBackward, AttentionForward, AttentionMerge, AttentionPartial, Copy, Fill, Gemm,
    Recv, RopeRotate, Send,
};
use crate::plan::Determinism;
use crate::program::{Axis, Ref};

/// Streams of the ring: what leaves and what arrives, keys and values apart from their gradients. One for both
/// would deadlock: a rank would offer a gradient to one that waits for keys.
const KEYS: (&str, &str) = ("ring.send", "ring.receive");
const GRADIENTS: (&str, &str) = ("ring.gradient.send", "ring.gradient.receive");

/// What the forward pass leaves for the backward pass, beside its output.
pub fn saved(l: &Lowering) -> Vec<Ref> {
    match &l.acts.attention {
        Attention::Packed { qkv, lse, .. } => vec![*qkv, *lse],
        Attention::Ring(ring) => vec![ring.q, ring.kv, ring.lse[0], ring.lse[1]],
    }
}

/// Projection: queries, keys and values of `n`, not yet rotated.
///
/// `keep`: the weight gradient will read `n`.
pub fn project(l: &Lowering, s: &mut Draft, n: Ref, keep: bool) {
    if let Attention::Packed { qkv, .. } = &l.acts.attention {
        return product::forward(l, s, &l.params.block.qkv, n, (*qkv, None), keep);
    }
    for (out, weight) in outputs(l).into_iter().zip(weights(l, l.params.block.qkv.read)) {
        s.op(Gemm::FORWARD, [n, weight], [out]);
    }
}

/// Rotation and attention, into `o`.
pub fn forward(l: &Lowering, s: &mut Draft) {
    let a = l.acts;
    rotate(l, s, outputs(l));
    match &a.attention {
        Attention::Packed { qkv, lse, .. } => s.op(whole(l), [*qkv, a.cu_seqlens], [a.o, *lse]),
        Attention::Ring(ring) => ring_forward(l, s, ring),
    }
}

/// From the gradient of `o` to those of queries, keys and values before rotation. Frees the former and what
/// the forward pass saved, `o` apart.
pub fn backward(l: &Lowering, s: &mut Draft) {
    let a = l.acts;
    match &a.attention {
        Attention::Packed { qkv, lse, dqkv } => {
            let op = AttentionBackward { forward: whole(l) };
            let tables = [a.rope[0], a.rope[1], a.positions];
            let inputs = [a.d_o, *qkv, a.o, *lse, a.cu_seqlens].into_iter().chain(tables);
            let magnitude = product::gradient_magnitude(l, &l.params.block.qkv);
            s.op(op, inputs, [*dqkv].into_iter().chain(magnitude));
            s.free([a.d_o]);
            s.free(saved(l));
        }
        Attention::Ring(ring) => {
            ring_backward(l, s, ring);
            s.free(saved(l));
            rotate(l, s, vec![ring.dq_out, ring.dkv_out]);
        }
    }
}

/// Gradients [`backward`] leaves.
pub fn gradients(l: &Lowering) -> Vec<Ref> {
    match &l.acts.attention {
        Attention::Packed { dqkv, .. } => vec![*dqkv],
        Attention::Ring(ring) => vec![ring.dq_out, ring.dkv_out],
    }
}

/// Adds the projection's weight gradient.
pub fn weight_gradient(l: &Lowering, s: &mut Draft, gradient: Ref, n: Ref) {
    if let Attention::Packed { dqkv, .. } = &l.acts.attention {
        return product::weight_gradient(l, s, &l.params.block.qkv, gradient, *dqkv, n);
    }
    let begins = product::begins(&l.params.block.qkv, l.shape);
    for (dy, gradient) in gradients(l).into_iter().zip(weights(l, gradient)) {
        s.op(Gemm { begins, ..Gemm::WEIGHT_GRADIENT }, [dy, n], [gradient]);
    }
}

/// Gradient of the projection's input.
pub fn input_gradient(l: &Lowering, s: &mut Draft, dn: Ref) {
    if let Attention::Packed { dqkv, .. } = &l.acts.attention {
        return product::input_gradient(l, s, &l.params.block.qkv, *dqkv, dn);
    }
    let weights = weights(l, l.params.block.qkv.read);
    for (i, (dy, weight)) in gradients(l).into_iter().zip(weights).enumerate() {
        s.op(Gemm { accumulate: i > 0, ..Gemm::INPUT_GRADIENT }, [dy, weight], [dn]);
    }
}

fn outputs(l: &Lowering) -> Vec<Ref> {
    match &l.acts.attention {
        Attention::Packed { qkv, .. } => vec![*qkv],
        Attention::Ring(ring) => vec![ring.q, ring.kv],
    }
}

/// The row blocks of the packed weights (or their gradient) that belong to each output.
fn weights(l: &Lowering, packed: Ref) -> Vec<Ref> {
    let (q, kv) = (l.shape.heads * l.plan.model.head_dim, 2 * l.shape.kv_heads * l.plan.model.head_dim);
    match &l.acts.attention {
        Attention::Packed { .. } => vec![packed],
        Attention::Ring(_) => vec![packed.rows(0, q), packed.rows(q, q + kv)],
    }
}

/// Rotates queries and keys of the forward pass, or around a ring their gradients back.
fn rotate(l: &Lowering, s: &mut Draft, tensors: Vec<Ref>) {
    let a = l.acts;
    let (heads, kv_heads, head_dim) = (l.shape.heads, l.shape.kv_heads, l.plan.model.head_dim);
    let split = [(heads, 0), (0, kv_heads)];
    let packed = [(heads, kv_heads)];
    let inverse = tensors == gradients(l);
    let heads = if tensors.len() == 1 { packed.iter() } else { split.iter() };
    for (tensor, (heads, kv_heads)) in tensors.iter().zip(heads) {
        let op = RopeRotate { heads: *heads, kv_heads: *kv_heads, head_dim, inverse };
        s.op(op, [a.rope[0], a.rope[1], a.positions], [*tensor]);
    }
}

fn whole(l: &Lowering) -> AttentionForward {
    AttentionForward {
        heads: l.shape.heads,
        kv_heads: l.shape.kv_heads,
        head_dim: l.plan.model.head_dim,
        sequences: l.shape.sequences,
        context: l.shape.context,
        document_mask: l.shape.documents.is_some(),
        deterministic: l.plan.determinism == Determinism::Bitwise,
    }
}

/// One half of a tensor's rows.
fn half(l: &Lowering, tensor: Ref, late: usize) -> Ref {
    let rows = l.shape.tokens / 2;
    tensor.rows(late as u64 * rows, (late as u64 + 1) * rows)
}

/// Pairs of (query half, key half) to attend to when the keys of `source` are here: those whose keys do not
/// all lie after their queries.
fn pairs(l: &Lowering, source: u64) -> Vec<(usize, usize)> {
    let all = [(0, 0), (1, 0), (0, 1), (1, 1)];
    let visible = |(query, key): &(usize, usize)| block(l, source, *key) <= block(l, l.shape.cp.1, *query);
    all.into_iter().filter(visible).collect()
}

/// Number of the block of a sequence that is a rank's early or late one.
fn block(l: &Lowering, rank: u64, late: usize) -> u64 {
    if late == 0 { rank } else { 2 * l.shape.cp.0 - 1 - rank }
}

fn partial(l: &Lowering, source: u64, (query, key): (usize, usize), backward: bool) -> AttentionPartial {
    let tokens = l.shape.context / 2;
    AttentionPartial {
        heads: l.shape.heads,
        kv_heads: l.shape.kv_heads,
        head_dim: l.plan.model.head_dim,
        sequences: l.shape.sequences,
        query_offset: block(l, l.shape.cp.1, query) * tokens,
        key_offset: block(l, source, key) * tokens,
        backward,
    }
}

/// Whose keys and values are here in a round.
fn source(l: &Lowering, round: u64) -> u64 {
    let (ranks, rank) = l.shape.cp;
    (rank + ranks - round) % ranks
}

fn streams(tag: &str) -> (&'static str, &'static str) {
    if tag == "kv" { KEYS } else { GRADIENTS }
}

fn pass_on(s: &mut Draft, tensor: Ref, tag: &str) {
    let op = Send { axis: Axis::Context, offset: 1, tag: tag.to_string() };
    s.on_for(streams(tag).0, |s| s.op(op, [tensor], []));
}

fn receive(s: &mut Draft, tensor: Ref, tag: &str) {
    let op = Recv { axis: Axis::Context, offset: -1, tag: tag.to_string() };
    s.on_for(streams(tag).1, |s| s.op(op, [], [tensor]));
}

/// Keys and values here in a round, and where those of the next arrive.
fn station(ring: &Ring, round: u64) -> (Ref, Ref) {
    let at = |round: u64| ring.kv_ring[(round % 2) as usize];
    (if round == 0 { ring.kv } else { at(round) }, at(round + 1))
}

fn ring_forward(l: &Lowering, s: &mut Draft, ring: &Ring) {
    let ranks = l.shape.cp.0;
    let mut begun = [false; 2];
    for round in 0..ranks {
        let (kv, next) = station(ring, round);
        if round + 1 < ranks {
            pass_on(s, kv, "kv");
            receive(s, next, "kv");
        }
        let source = source(l, round);
        for pair in pairs(l, source) {
            let (query, key) = pair;
            let inputs = [half(l, ring.q, query), half(l, kv, key)];
            let sum = [half(l, l.acts.o, query), ring.lse[query]];
            if !begun[query] {
                s.op(partial(l, source, pair, false), inputs, sum);
                begun[query] = true;
                continue;
            }
            s.op(partial(l, source, pair, false), inputs, [ring.partial, ring.partial_lse]);
            s.op(AttentionMerge { heads: l.shape.heads }, [ring.partial, ring.partial_lse], sum);
            s.free([ring.partial, ring.partial_lse]);
        }
        if round > 0 {
            s.free([kv]);
        }
    }
}

/// Gradients of keys and values: this rank's share of a passing block is worked out while the sum so far
/// arrives, added, and sent on; after as many rounds as ranks the sum is home.
fn ring_backward(l: &Lowering, s: &mut Draft, ring: &Ring) {
    let (a, ranks) = (l.acts, l.shape.cp.0);
    s.op(Fill { value: 0.0 }, [], [ring.dq]);
    for round in 0..ranks {
        let (kv, next) = station(ring, round);
        if round + 1 < ranks {
            pass_on(s, kv, "kv");
            receive(s, next, "kv");
        }
        let sum = ring.dkv_ring[(round % 2) as usize];
        let share = if round == 0 { sum } else { ring.dkv_share };
        if round > 0 {
            receive(s, sum, "dkv");
        }
        s.op(Fill { value: 0.0 }, [], [share]);
        let source = source(l, round);
        for pair in pairs(l, source) {
            let (query, key) = pair;
            let half = |tensor, late| half(l, tensor, late);
            s.op(
                partial(l, source, pair, true),
                [half(ring.q, query), half(kv, key), half(a.d_o, query), half(a.o, query), ring.lse[query]],
                [half(ring.dq, query), half(share, key)],
            );
        }
        if round > 0 {
            s.free([kv]);
            s.op(Accumulate {}, [share], [sum]);
            s.free([share]);
        }
        pass_on(s, sum, "dkv");
        s.free([sum]);
    }
    let home = ring.dkv_ring[(ranks % 2) as usize];
    receive(s, home, "dkv");
    s.op(Copy {}, [ring.dq], [ring.dq_out]);
    s.free([ring.dq, a.d_o]);
    s.op(Copy {}, [home], [ring.dkv_out]);
    s.free([home]);
}
