//! Embedding, last norm, logits and loss, forward and backward. Tensor-parallel ranks each have some ids' rows of
//! embedding and head, and work on all tokens with them (Megatron-LM, arXiv 1909.08053, section 3).

use super::Lowering;
use super::block::{dropout, norm_backward, widen};
use super::build::Draft;
use super::{product, units};
use crate::op::{
    CrossEntropyEval, CrossEntropyEvalParts, CrossEntropyPart, CrossEntropyTrain, CrossEntropyTrainParts,
    EmbeddingBackward, EmbeddingForward, Fill, Gather, Gemm, LoadBatch, NormForward, Op, ReduceScatter,
};
use crate::program::{Axis, Ref};

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

/// The first id of this rank's rows of the vocabulary, where tensor ranks share them.
fn first_id(l: &Lowering) -> Option<u64> {
    l.acts.wide.map(|_| l.shape.vocab.0)
}

/// Reads the embedding. Where ranks share it, every one has the rows of its ids for all tokens, and sums of them are
/// reduced to its tokens.
fn look_up(l: &Lowering, s: &mut Draft, embedding: Ref) {
    let a = l.acts;
    s.op(EmbeddingForward { first: first_id(l) }, [embedding, a.ids], [a.wide.unwrap_or(a.x)]);
    if let Some(wide) = a.wide {
        s.op(ReduceScatter { axis: Axis::Tensor, accumulate: false }, [wide], [a.x]);
        s.free([wide]);
    }
}

/// x₀ = embedding of the ids. None on a rank that does not embed.
pub fn embed_forward(l: &Lowering) -> Option<Draft> {
    let embed = l.params.embed.as_ref()?;
    let mut s = Draft::new("embed.forward");
    look_up(l, &mut s, embed.read);
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
    look_up(l, &mut s, embed.read);
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
    let dx = widen(l, &mut s, a.dres);
    s.op(EmbeddingBackward { first: first_id(l) }, [dx, a.ids], [gradient]);
    s.free(a.wide.into_iter().chain([a.dres, a.ids, a.positions, a.cu_seqlens]));
    s.free(product::residual_magnitude(l));
    Some(s)
}

/// Clears accumulators that pass through.
fn clear(l: &Lowering, s: &mut Draft, params: &[&super::params::Param]) {
    for passing in units::passing_gradients(params, l.shape) {
        s.op(Fill { value: 0.0 }, [], [passing]);
    }
}

/// Of `[start, end)` of the tokens: what the loss reads and adds to beside, to tell sources apart.
fn by_source(l: &Lowering, start: u64, end: u64) -> (Option<Ref>, Option<Ref>) {
    let sources = l.acts.by_source;
    (sources.map(|s| l.some(s.rows, start, end)), sources.map(|s| s.loss))
}

impl Lowering<'_> {
    /// Rows `[start, end)` of the tokens; the tensor itself where they are all.
    fn some(&self, tensor: Ref, start: u64, end: u64) -> Ref {
        if (start, end) == (0, self.shape.tokens) { tensor } else { tensor.rows(start, end) }
    }

    /// Columns of this rank's logits that are real vocabulary.
    fn real(&self) -> u64 {
        let (first, columns) = self.shape.vocab;
        self.plan.model.vocab.saturating_sub(first).min(columns)
    }
}

/// The last norm, and its result for all tokens.
fn normed(l: &Lowering, s: &mut Draft, norm: Ref) -> Ref {
    let a = l.acts;
    s.op(NormForward { eps: l.plan.model.norm_eps }, [a.x, norm], [a.xf, a.rstdf]);
    let input = widen(l, s, a.xf);
    if input != a.xf {
        s.free([a.xf]);
    }
    input
}

/// What all ranks say of a block of logits; none where this rank has all columns.
fn parts(l: &Lowering, s: &mut Draft, logits: Ref, targets: Ref, rows: u64) -> Option<Ref> {
    let [part, parts] = l.acts.parts?;
    let (part, parts) = (part.rows(0, rows), parts.rows(0, rows * l.shape.tensor.0));
    let op = CrossEntropyPart { first: l.shape.vocab.0, vocab: l.real() };
    s.op(op, [logits, targets], [part]);
    s.op(Gather { axis: Axis::Tensor }, [part], [parts]);
    Some(parts)
}

/// Logits and what is said of them, freed.
fn free_logits(l: &Lowering, s: &mut Draft) {
    s.free([l.acts.logits].into_iter().chain(l.acts.parts.into_iter().flatten()));
}

/// Last norm, then logits, loss and their gradients, a block of rows at a time so that the logits of the whole
/// micro-batch never exist. Called with the layer after the last block. None on a rank without the head.
pub fn loss(l: &Lowering) -> Option<Draft> {
    let (a, w) = (l.acts, l.params);
    let (norm, head) = (w.norm_f.as_ref()?, w.head()?);
    let mut s = Draft::new("head.loss");
    let weight = a.loss_scale.map_or(a.inv_weight, |scaled| scaled.weight);
    clear(l, &mut s, &w.head_unit());
    let input = normed(l, &mut s, norm.read);
    // A block's share of the input's gradient takes the place of its input, of which every rank has a copy.
    let output = if a.wide.is_some() { input } else { a.dxf };
    for (start, end) in l.shape.head_chunks() {
        let logits = a.logits.rows(0, end - start);
        let (x, dx) = (input.rows(start, end), output.rows(start, end));
        s.op(Gemm::FORWARD, [x, head.read], [logits]);
        let (targets, weights) = (l.some(a.targets, start, end), l.some(a.weights, start, end));
        let (rows, sums) = by_source(l, start, end);
        let parts = parts(l, &mut s, logits, targets, end - start);
        let op: Op = match parts {
            None => CrossEntropyTrain { vocab: l.plan.model.vocab }.into(),
            Some(_) => CrossEntropyTrainParts { first: l.shape.vocab.0, vocab: l.real() }.into(),
        };
        let inputs = parts.into_iter().chain([targets, weights, weight]).chain(rows);
        s.op(op, inputs, [logits, a.loss_sum].into_iter().chain(sums));
        if let Some(gradient) = head.gradient {
            s.op(Gemm::WEIGHT_GRADIENT, [logits, x], [gradient]);
        }
        s.op(Gemm::INPUT_GRADIENT, [logits, head.read], [dx]);
    }
    free_logits(l, &mut s);
    s.free([a.targets, a.weights].into_iter().chain(a.by_source.map(|s| s.rows)));
    match a.wide {
        None => s.free([a.xf]),
        Some(wide) => {
            s.op(ReduceScatter { axis: Axis::Tensor, accumulate: false }, [wide], [a.dxf]);
            s.free([wide]);
        }
    }
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
    let input = normed(l, &mut s, norm.read);
    s.free([a.x, a.rstdf]);
    for (start, end) in l.shape.head_chunks() {
        let logits = a.logits.rows(0, end - start);
        s.op(Gemm::FORWARD, [input.rows(start, end), head.read], [logits]);
        let (targets, weights) = (l.some(a.targets, start, end), l.some(a.weights, start, end));
        let (rows, sums) = by_source(l, start, end);
        let outputs = [a.loss_sum].into_iter().chain(sums);
        match parts(l, &mut s, logits, targets, end - start) {
            None => {
                let op = CrossEntropyEval { vocab: l.plan.model.vocab };
                s.op(op, [logits, targets, weights].into_iter().chain(rows), outputs);
            }
            Some(parts) => s.op(CrossEntropyEvalParts {}, [parts, weights].into_iter().chain(rows), outputs),
        }
    }
    free_logits(l, &mut s);
    s.free([input, a.targets, a.weights, a.positions, a.cu_seqlens]);
    s.free(a.by_source.map(|s| s.rows));
    s.free(units::gathered(&w.head_unit()));
    Some(s)
}
