//! Embedding, last norm, logits and loss, forward and backward.

use super::Lowering;
use super::block::dropout;
use super::build::Draft;
use crate::op::{
    CrossEntropyEval, CrossEntropyTrain, EmbeddingBackward, EmbeddingForward, Gemm, LoadBatch,
    NormBackwardInput, NormBackwardWeight, NormForward,
};

/// Takes the next micro-batch.
pub fn load(l: &Lowering) -> Draft {
    let a = l.acts;
    let mut s = Draft::new("load");
    let op = LoadBatch { sequences: l.shape.sequences, context: l.shape.context };
    s.op(op, [], [a.ids, a.targets, a.positions, a.cu_seqlens, a.weights]);
    s
}

/// x₀ = embedding of the ids.
pub fn embed_forward(l: &Lowering) -> Draft {
    let mut s = Draft::new("embed.forward");
    s.op(EmbeddingForward {}, [l.params.embed.weight, l.acts.ids], [l.acts.x]);
    if l.params.embed.gradient.is_none() {
        s.free([l.acts.ids]);
    }
    dropout(l, &mut s, true, "embed", l.acts.x);
    s
}

/// x₀ without dropout.
pub fn embed_eval(l: &Lowering) -> Draft {
    let mut s = Draft::new("embed.eval");
    s.op(EmbeddingForward {}, [l.params.embed.weight, l.acts.ids], [l.acts.x]);
    s.free([l.acts.ids]);
    s
}

/// Gradient of the embedding; none when it is frozen.
pub fn embed_backward(l: &Lowering) -> Option<Draft> {
    let a = l.acts;
    let gradient = l.params.embed.gradient?;
    let mut s = Draft::new("embed.backward");
    dropout(l, &mut s, true, "embed", a.dres);
    s.op(EmbeddingBackward {}, [a.dres, a.ids], [gradient]);
    s.free([a.dres, a.ids, a.positions, a.cu_seqlens]);
    Some(s)
}

/// Last norm, then logits, loss and their gradients, a block of rows at a time so that the logits of the whole
/// micro-batch never exist. Called with the layer after the last block.
pub fn loss(l: &Lowering) -> Draft {
    let (a, w) = (l.acts, l.params);
    let head = w.head();
    let mut s = Draft::new("head.loss");
    s.op(NormForward { eps: l.plan.model.norm_eps }, [a.x, w.norm_f.weight], [a.xf, a.rstdf]);
    for (start, end) in l.shape.head_chunks() {
        let rows = |r: crate::program::Ref| r.rows(start, end);
        let logits = a.logits.rows(0, end - start);
        s.op(Gemm::FORWARD, [rows(a.xf), head.weight], [logits]);
        s.op(
            CrossEntropyTrain { vocab: l.plan.model.vocab },
            [rows(a.targets), rows(a.weights), a.inv_weight],
            [logits, a.loss_sum],
        );
        s.op(Gemm::INPUT_GRADIENT, [logits, head.weight], [rows(a.dxf)]);
        if let Some(gradient) = head.gradient {
            s.op(Gemm::WEIGHT_GRADIENT, [logits, rows(a.xf)], [gradient]);
        }
    }
    s.free([a.logits, a.xf, a.targets, a.weights]);
    if let Some(gradient) = w.norm_f.gradient {
        s.op(NormBackwardWeight {}, [a.dxf, a.x, a.rstdf], [gradient]);
    }
    s.op(NormBackwardInput { accumulate: false }, [a.dxf, a.x, w.norm_f.weight, a.rstdf], [a.dres]);
    s.free([a.dxf, a.x, a.rstdf]);
    s
}

/// Loss alone.
pub fn eval(l: &Lowering) -> Draft {
    let (a, w) = (l.acts, l.params);
    let mut s = Draft::new("head.eval");
    s.op(NormForward { eps: l.plan.model.norm_eps }, [a.x, w.norm_f.weight], [a.xf, a.rstdf]);
    s.free([a.x, a.rstdf]);
    for (start, end) in l.shape.head_chunks() {
        let logits = a.logits.rows(0, end - start);
        s.op(Gemm::FORWARD, [a.xf.rows(start, end), w.head().weight], [logits]);
        s.op(
            CrossEntropyEval { vocab: l.plan.model.vocab },
            [logits, a.targets.rows(start, end), a.weights.rows(start, end)],
            [a.loss_sum],
        );
    }
    s.free([a.logits, a.xf, a.targets, a.weights, a.positions, a.cu_seqlens]);
    s
}
