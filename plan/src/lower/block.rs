//! One decoder block: forward, backward and evaluation, under each recompute policy.
//!
//! Arithmetic is the same, instruction by instruction, under every policy: only what is freed and redone
//! differs, so losses and gradients are bit-equal.

use super::Lowering;
use super::build::Draft;
use super::params::Param;
use crate::op::{
    Add, AttentionBackward, AttentionForward, Copy, Dropout, Gemm, NormBackwardInput, NormBackwardWeight,
    NormForward, RopeRotate, SwigluBackward, SwigluForward,
};
use crate::plan::Recompute;
use crate::program::Ref;

/// For what the forward is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Forward of training.
    Train(Recompute),
    /// Again in the backward pass, up to the feed-forward's activation; keeps what backward reads.
    Redo,
    /// Forward without dropout, nothing kept.
    Eval,
}

/// Forward of a training step; keeps what the policy says.
pub fn forward(l: &Lowering, policy: Recompute) -> Draft {
    let mut draft = Draft::new(format!("block.forward.{}", policy_name(policy)));
    pass(l, &mut draft, Pass::Train(policy));
    draft
}

/// Forward of a validation micro-batch.
pub fn eval(l: &Lowering) -> Draft {
    let mut draft = Draft::new("block.eval");
    pass(l, &mut draft, Pass::Eval);
    draft
}

/// Suffix of a policy in segment names.
pub fn policy_name(policy: Recompute) -> &'static str {
    match policy {
        Recompute::None => "none",
        Recompute::Selective => "selective",
        Recompute::Full => "full",
    }
}

fn pass(l: &Lowering, s: &mut Draft, pass: Pass) {
    let (a, w) = (l.acts, &l.params.block);
    let norm = NormForward { eps: l.plan.model.norm_eps };
    let eval = pass == Pass::Eval;
    // What is given up at its last reader in this pass: inputs of weight gradients unless one will read them,
    // and everything but the block input when the policy redoes the block.
    let redone = matches!(pass, Pass::Eval | Pass::Train(Recompute::Full));
    let unread =
        |p: &Param| p.gradient.is_none() || !matches!(pass, Pass::Redo | Pass::Train(Recompute::None));
    let redone_norm = |reader: &Param| pass == Pass::Train(Recompute::Selective) && reader.gradient.is_some();
    let drop = |s: &mut Draft, when: bool, refs: &[Ref]| {
        if when {
            s.free(refs.iter().copied());
        }
    };

    s.op(norm.clone(), [a.x, w.norm1.weight], [a.n1, a.rstd1]);
    s.op(Gemm::FORWARD, [a.n1, w.qkv.weight], [a.qkv]);
    drop(s, unread(&w.qkv), &[a.n1]);
    drop(s, redone || redone_norm(&w.qkv), &[a.rstd1]);
    s.op(rope(l, false), [a.rope[0], a.rope[1], a.positions], [a.qkv]);
    s.op(attention(l), [a.qkv, a.cu_seqlens], [a.o, a.lse]);
    drop(s, redone, &[a.qkv, a.lse]);
    s.op(Gemm::FORWARD, [a.o, w.o.weight], [a.branch]);
    drop(s, redone, &[a.o]);
    dropout(l, s, !eval, "attention", a.branch);
    s.op(Add {}, [a.x, a.branch], [a.x2]);
    s.free([a.branch]);
    drop(s, eval, &[a.x]);
    s.op(norm, [a.x2, w.norm2.weight], [a.n2, a.rstd2]);
    s.op(Gemm::FORWARD, [a.n2, w.gate_up.weight], [a.gate_up]);
    drop(s, unread(&w.gate_up), &[a.n2]);
    drop(s, redone || redone_norm(&w.gate_up), &[a.rstd2]);
    if pass == Pass::Redo {
        return;
    }
    s.op(SwigluForward {}, [a.gate_up], [a.act]);
    drop(s, redone, &[a.gate_up]);
    s.op(Gemm::FORWARD, [a.act, w.down.weight], [a.branch]);
    drop(s, unread(&w.down), &[a.act]);
    dropout(l, s, !eval, "ffn", a.branch);
    s.op(Add {}, [a.x2, a.branch], [a.x.at_layer(1)]);
    s.free([a.branch]);
    drop(s, redone, &[a.x2]);
}

/// Backward under a policy. `first`: nothing below is trained, so the gradient stops here.
pub fn backward(l: &Lowering, policy: Recompute, first: bool) -> Draft {
    let suffix = if first { ".first" } else { "" };
    let mut draft = Draft::new(format!("block.backward.{}{suffix}", policy_name(policy)));
    let s = &mut draft;
    let (a, w) = (l.acts, &l.params.block);
    let norm = NormForward { eps: l.plan.model.norm_eps };

    s.recompute(true);
    if policy == Recompute::Full {
        pass(l, s, Pass::Redo);
    }
    if policy != Recompute::None && w.down.gradient.is_some() {
        s.op(SwigluForward {}, [a.gate_up], [a.act]);
    }
    s.recompute(false);

    let dy = branch_gradient(l, s, "ffn");
    weight_gradient(s, &w.down, dy, a.act);
    s.op(Gemm::INPUT_GRADIENT, [dy, w.down.weight], [a.dact]);
    release_branch(l, s);
    s.op(SwigluBackward {}, [a.dact], [a.gate_up]);
    s.free([a.dact]);
    redo_norm(s, policy, &w.gate_up, &norm, [a.x2, w.norm2.weight], [a.n2, a.rstd2]);
    weight_gradient(s, &w.gate_up, a.gate_up, a.n2);
    s.op(Gemm::INPUT_GRADIENT, [a.gate_up, w.gate_up.weight], [a.dn]);
    s.free([a.gate_up]);
    norm_gradient(s, &w.norm2, [a.dn, a.x2, a.rstd2], Some(a.dres));
    s.free([a.dn, a.x2, a.rstd2]);

    let dy = branch_gradient(l, s, "attention");
    if let Some(gradient) = w.o.gradient {
        s.op(Gemm::WEIGHT_GRADIENT, [dy, a.o], [gradient]);
    }
    s.op(Gemm::INPUT_GRADIENT, [dy, w.o.weight], [a.d_o]);
    release_branch(l, s);
    s.op(AttentionBackward { forward: attention(l) }, [a.d_o, a.qkv, a.o, a.lse, a.cu_seqlens], [a.dqkv]);
    s.free([a.d_o, a.qkv, a.o, a.lse]);
    s.op(rope(l, true), [a.rope[0], a.rope[1], a.positions], [a.dqkv]);
    redo_norm(s, policy, &w.qkv, &norm, [a.x, w.norm1.weight], [a.n1, a.rstd1]);
    weight_gradient(s, &w.qkv, a.dqkv, a.n1);
    if !first || w.norm1.gradient.is_some() {
        s.op(Gemm::INPUT_GRADIENT, [a.dqkv, w.qkv.weight], [a.dn]);
        norm_gradient(s, &w.norm1, [a.dn, a.x, a.rstd1], (!first).then_some(a.dres));
        s.free([a.dn]);
    }
    s.free([a.dqkv, a.x, a.rstd1]);
    if first {
        s.free([a.dres, a.positions, a.cu_seqlens]);
    }
    draft
}

/// Gradient of a residual branch's output: `dres` itself, or a copy under the branch's dropout.
fn branch_gradient(l: &Lowering, s: &mut Draft, site: &str) -> Ref {
    let a = l.acts;
    if l.plan.model.dropout == 0.0 {
        return a.dres;
    }
    s.op(Copy {}, [a.dres], [a.dbranch]);
    dropout(l, s, true, site, a.dbranch);
    a.dbranch
}

fn release_branch(l: &Lowering, s: &mut Draft) {
    if l.plan.model.dropout > 0.0 {
        s.free([l.acts.dbranch]);
    }
}

/// gW += dyᵀ·x unless frozen, and x is done with.
fn weight_gradient(s: &mut Draft, param: &Param, dy: Ref, x: Ref) {
    if let Some(gradient) = param.gradient {
        s.op(Gemm::WEIGHT_GRADIENT, [dy, x], [gradient]);
        s.free([x]);
    }
}

/// Under `selective`, the norm again, right before the weight gradient that reads it.
fn redo_norm(
    s: &mut Draft,
    policy: Recompute,
    reader: &Param,
    norm: &NormForward,
    inputs: [Ref; 2],
    outputs: [Ref; 2],
) {
    if policy == Recompute::Selective && reader.gradient.is_some() {
        s.recompute(true);
        s.op(norm.clone(), inputs, outputs);
        s.recompute(false);
    }
}

/// Backward of a norm from [dy, x, rstd]: its weight's gradient unless frozen, and dx added to `dx`.
fn norm_gradient(s: &mut Draft, param: &Param, [dy, x, rstd]: [Ref; 3], dx: Option<Ref>) {
    if let Some(gradient) = param.gradient {
        s.op(NormBackwardWeight {}, [dy, x, rstd], [gradient]);
    }
    if let Some(dx) = dx {
        s.op(NormBackwardInput { accumulate: true }, [dy, x, param.weight, rstd], [dx]);
    }
}

/// Dropout in place, if the plan has any and the pass wants it.
pub fn dropout(l: &Lowering, s: &mut Draft, on: bool, site: &str, x: Ref) {
    let p = l.plan.model.dropout;
    if on && p > 0.0 {
        s.op(Dropout { p, site: site.to_string() }, [], [x]);
    }
}

fn rope(l: &Lowering, inverse: bool) -> RopeRotate {
    let m = &l.plan.model;
    RopeRotate { heads: m.heads, kv_heads: m.kv_heads, head_dim: m.head_dim, inverse }
}

fn attention(l: &Lowering) -> AttentionForward {
    let m = &l.plan.model;
    AttentionForward {
        heads: m.heads,
        kv_heads: m.kv_heads,
        head_dim: m.head_dim,
        sequences: l.shape.sequences,
        context: l.shape.context,
        document_mask: l.shape.documents.is_some(),
    }
}
