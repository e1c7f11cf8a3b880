//! Embedding, last norm, logits and loss, forward and backward. Tensor-parallel ranks each work on their own
//! rows of tokens.

use super::Lowering;
use super::block::{dropout, norm_backward};
use super::build::Draft;
use super::{product, units};
use crate::op::{
    CrossEntropyEval, CrossEntropyTrain, EmbeddingBackward, EmbeddingForward, Fill, Gemm, LoadBatch,
    NormForward,
};
use crate::program::Ref;

/// Takes the next micro-batch; what this rank has no use for dies at once.
pub fn load(l: &Lowering) -> Draft {
    let a = l.acts;
    let mut s = Draft::new("load");
    let op = LoadBatch { sequences: l.shape.sequences, context: l.shape.context };
    let rows = a.by_source.map(|s| s.rows);
    s.op(op, [], [a.ids, a.targets, a.positions, a.cu_seqlens, a.weights].into_iter().chain(rows));
    let (embeds, has_head) = l.shape.ends;
    if !embeds {
        s.free([a.ids]);
    }
    if !has_head {
        s.free([a.targets, a.weights].into_iter().chain(rows));
    }
    s
}

/// Rows `[start, end)` of this rank's tokens; the tensor itself where they are all.
fn mine(l: &Lowering, tensor: Ref, start: u64, end: u64) -> Ref {
    let first = l.shape.tensor.1 * l.shape.rows;
    if (start, end) == (0, l.shape.tokens) { tensor } else { tensor.rows(first + start, first + end) }
}

/// x₀ = embedding of the ids. None on a rank that does not embed.
pub fn embed_forward(l: &Lowering) -> Option<Draft> {
    let embed = l.params.embed.as_ref()?;
    let mut s = Draft::new("embed.forward");
    s.op(EmbeddingForward {}, [embed.read, mine(l, l.acts.ids, 0, l.shape.rows)], [l.acts.x]);
    if embed.gradient.is_none() {
        s.free([l.acts.ids]);
    }
    dropout(l, &mut s, true, "embed", l.acts.x);
    s.free(embed.gathered);
    Some(s)
}

/// x₀ without dropout. None on a rank that does not embed.
pub fn embed_eval(l: &Lowering) -> Option<Draft> {
    let embed = l.params.embed.as_ref()?;
    let mut s = Draft::new("embed.eval");
    s.op(EmbeddingForward {}, [embed.read, mine(l, l.acts.ids, 0, l.shape.rows)], [l.acts.x]);
    s.free([l.acts.ids]);
    s.free(embed.gathered);
    Some(s)
}

/// Gradient of the embedding; none when it is frozen or elsewhere.
pub fn embed_backward(l: &Lowering) -> Option<Draft> {
    let a = l.acts;
    let gradient = l.params.embed.as_ref()?.gradient?;
    let mut s = Draft::new("embed.backward");
    clear(l, &mut s, &l.params.embed_unit());
    dropout(l, &mut s, true, "embed", a.dres);
    s.op(EmbeddingBackward {}, [a.dres, mine(l, a.ids, 0, l.shape.rows)], [gradient]);
    s.free([a.dres, a.ids, a.positions, a.cu_seqlens]);
    s.free(product::residual_magnitude(l));
    Some(s)
}

/// Clears accumulators that pass through.
fn clear(l: &Lowering, s: &mut Draft, params: &[&super::params::Param]) {
    for passing in units::passing_gradients(params, l.shape) {
        s.op(Fill { value: 0.0 }, [], [passing]);
    }
}

/// What a loss reads and adds to beside, to tell sources apart.
fn by_source(l: &Lowering, start: u64, end: u64) -> (Option<Ref>, Option<Ref>) {
    let sources = l.acts.by_source;
    (sources.map(|s| mine(l, s.rows, start, end)), sources.map(|s| s.loss))
}

/// Last norm, then logits, loss and their gradients, a block of rows at a time so that the logits of the whole
/// micro-batch never exist. Called with the layer after the last block. None on a rank without the head.
pub fn loss(l: &Lowering) -> Option<Draft> {
    let (a, w) = (l.acts, l.params);
    let (norm, head) = (w.norm_f.as_ref()?, w.head()?);
    let mut s = Draft::new("head.loss");
    let weight = a.loss_scale.map_or(a.inv_weight, |scaled| scaled.weight);
    clear(l, &mut s, &w.head_unit());
    s.op(NormForward { eps: l.plan.model.norm_eps }, [a.x, norm.read], [a.xf, a.rstdf]);
    for (start, end) in l.shape.head_chunks() {
        let logits = a.logits.rows(0, end - start);
        s.op(Gemm::FORWARD, [a.xf.rows(start, end), head.read], [logits]);
        let (targets, weights) = (mine(l, a.targets, start, end), mine(l, a.weights, start, end));
        let (rows, sums) = by_source(l, start, end);
        s.op(
            CrossEntropyTrain { vocab: l.plan.model.vocab },
            [targets, weights, weight].into_iter().chain(rows),
            [logits, a.loss_sum].into_iter().chain(sums),
        );
        s.op(Gemm::INPUT_GRADIENT, [logits, head.read], [a.dxf.rows(start, end)]);
        if let Some(gradient) = head.gradient {
            s.op(Gemm::WEIGHT_GRADIENT, [logits, a.xf.rows(start, end)], [gradient]);
        }
    }
    s.free([a.logits, a.xf, a.targets, a.weights].into_iter().chain(a.by_source.map(|s| s.rows)));
    norm_backward(l, &mut s, norm, [a.dxf, a.x, a.rstdf], Some((a.dres, false)));
    s.free([a.dxf, a.x, a.rstdf]);
    s.free(units::gathered(&w.head_unit()));
    Some(s)
}

/// Loss alone. None on a rank without the head.
pub fn eval(l: &Lowering) -> Option<Draft> {
    let (a, w) = (l.acts, l.params);
    let (norm, head) = (w.norm_f.as_ref()?, w.head()?);
    let mut s = Draft::new("head.eval");
    s.op(NormForward { eps: l.plan.model.norm_eps }, [a.x, norm.read], [a.xf, a.rstdf]);
    s.free([a.x, a.rstdf]);
    for (start, end) in l.shape.head_chunks() {
        let logits = a.logits.rows(0, end - start);
        s.op(Gemm::FORWARD, [a.xf.rows(start, end), head.read], [logits]);
        let (targets, weights) = (mine(l, a.targets, start, end), mine(l, a.weights, start, end));
        let (rows, sums) = by_source(l, start, end);
        s.op(
            CrossEntropyEval { vocab: l.plan.model.vocab },
            [logits, targets, weights].into_iter().chain(rows),
            [a.loss_sum].into_iter().chain(sums),
        );
    }
    s.free([a.logits, a.xf, a.targets, a.weights, a.positions, a.cu_seqlens]);
    s.free(a.by_source.map(|s| s.rows));
    s.free(units::gathered(&w.head_unit()));
    Some(s)
}
