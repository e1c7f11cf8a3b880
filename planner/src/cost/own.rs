//! Bytes of one pipeline stage as our own lowering holds them (plan/src/lower), in closed form.
//!
//! A shard group is made of data-parallel ranks alone, and a tensor that more than one stream touches never shares its bytes (plan/src/arena.rs), so all its instances count.
//! `planner/tests/walk_memory.rs` holds this against the walk over the lowered program. Not here: what other stacks
//! hold ([`super::memory`]).

use llmc_plan::lower::head_rows;
use llmc_plan::op::{Backend, chunk};
use llmc_plan::plan::{Determinism, Offload, Precision, Recompute, Schedule};

use super::layer::tokens;
use super::memory::Parts;
use super::{Point, Setting};

/// Layers whose tensors are on the device at once where they pass through (lower/params.rs, `RING`).
const RING: f64 = 2.0;

/// Parameters of the ends that one rank of `stage` holds: its ids of the embedding first; last norm and its ids of the
/// head last.
pub fn end_params(s: &Setting, point: &Point, stage: u64) -> f64 {
    let vocabulary = (s.shape.vocab * s.shape.hidden / point.tp) as f64;
    let first = if stage == 0 { vocabulary } else { 0.0 };
    let head = if s.shape.tied { 0.0 } else { vocabulary };
    let last = if stage == point.pp - 1 { s.shape.hidden as f64 + head } else { 0.0 };
    first + last
}

/// What depends on the states only: parameters, gradients, optimizer, and what passes through for ZeRO and paging.
pub fn states(s: &Setting, point: &Point, stage: u64) -> Parts {
    let t = point.tp as f64;
    let ranks = if point.zero > 0 { point.shard.max(1) as f64 } else { 1.0 };
    let zero = if ranks > 1.0 { point.zero } else { 0 };
    let layers = s.stage_layers(point.pp, stage) as f64;
    let matrices = s.shape.layer_matrix_params() as f64 / t;
    let each = matrices + s.shape.layer_vector_params() as f64;
    let ends = end_params(s, point, stage);
    let all = layers * each + ends;
    let sharded = |from: u64| if zero >= from { all / ranks } else { all };
    // Layers pass through the ring by their number's parity; runs of one layer may all have the same.
    let run = s.stage_layers(point.pp, stage) / point.vp;
    let ring = if run == 1 && point.vp > 1 && point.pp.is_multiple_of(2) { 1.0 } else { RING.min(layers) };
    // One buffer serves embedding and head in turn.
    let vocabulary = if ends > 0.0 { (s.shape.vocab * s.shape.hidden) as f64 / t } else { 0.0 };
    let passing = ring * each + vocabulary;
    let mut p = Parts {
        parameters: sharded(3) * s.state.weight,
        gradients: sharded(2) * s.state.gradient
            - layers * matrices / if zero >= 2 { ranks } else { 1.0 } * s.state.narrower,
        optimizer: sharded(1) * s.state.optimizer,
        ..Parts::default()
    };
    if s.precision == Precision::Fp8 {
        // Weights in 8 bits, as they are and transposed.
        p.parameters += 2.0 * layers * matrices;
    }
    if zero >= 3 {
        p.parameters += passing * s.state.weight;
    }
    if zero >= 2 {
        p.gradients += passing * s.state.gradient - ring * matrices * s.state.narrower;
    }
    if point.offload == Offload::Optimizer || s.state.paged > 0.0 {
        p.optimizer = (ring * each + ends) / ranks * s.state.optimizer;
    }
    if s.cuda() {
        // Values of a block on their way to the largest matrix, and what an update works through a block at a time.
        let kept = if s.precision != Precision::F32 || zero == 3 { ranks } else { 1.0 };
        let largest = vocabulary.max(2.0 * (s.shape.ffn * s.shape.hidden) as f64 / t);
        let block = |of: f64| (largest / of).min((chunk::block_bytes(Backend::Cuda) / 4) as f64);
        let scratch = (4.0 * block(kept)).max(s.state.scratch * block(ranks));
        p.buffers += (scratch - workspace(s, point, stage)).max(0.0);
    }
    p
}

/// Bytes live at once, and the most there were.
#[derive(Default)]
struct Live {
    now: f64,
    most: f64,
    /// Where what is held from one pass to another shares bytes with nothing, as where weight gradients are deferred: those
    /// bytes of the forward pass.
    apart: Option<f64>,
}

impl Live {
    fn take(&mut self, bytes: f64) {
        self.now += bytes;
        self.most = self.most.max(self.now);
    }

    fn free(&mut self, bytes: f64) {
        self.now -= bytes;
    }

    /// Takes what another pass will read, if so, and else what this one frees.
    fn hold(&mut self, when: bool, bytes: f64) {
        match &mut self.apart {
            Some(apart) if when => *apart += bytes,
            _ => self.take(bytes),
        }
    }

    /// Frees what another pass took, if so, and else what this one did.
    fn release(&mut self, when: bool, bytes: f64) {
        if self.apart.is_none() || !when {
            self.free(bytes);
        }
    }

    /// Takes and frees.
    fn pass(&mut self, bytes: f64) {
        self.take(bytes);
        self.free(bytes);
    }
}

/// For what a layer's forward is written, as in lower/block.rs.
#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Train(Recompute),
    Redo,
}

/// Bytes of one layer's tensors for one micro-batch, on the stream that computes.
struct Layer {
    /// The residual stream on this rank; all tokens of it where tensor-parallel ranks split them.
    stream: f64,
    wide: f64,
    /// Queries (attention's output and its gradient are as large); keys with values.
    q: f64,
    kv: f64,
    /// The feed-forward's product; gate and up are two of it.
    act: f64,
    /// Log-sum-exps; reciprocals of one norm.
    lse: f64,
    rstd: f64,
    /// Operands of the products in 8 bits: the stream, attention's output, the product, packed queries, keys and values.
    stream8: f64,
    q8: f64,
    act8: f64,
    packed8: f64,
    eight: bool,
    /// A residual branch is a tensor of its own before it is added.
    apart: bool,
    /// Keys and values go around a ring: other streams touch them, so they are counted apart.
    ring: bool,
    /// f32 ÷ the activation's format.
    wider: f64,
    /// Weight gradients run apart.
    deferred: bool,
}

impl Layer {
    fn new(s: &Setting, point: &Point) -> Layer {
        let (n, t, b) = (tokens(s, point), point.tp as f64, s.act());
        let dim = s.shape.head_dim as f64;
        let rows = if point.sp { n / t } else { n };
        let h = s.shape.hidden as f64;
        let eight = s.precision == Precision::Fp8;
        let byte = if eight { 1.0 } else { 0.0 };
        let q = n * s.shape.heads as f64 * dim / t;
        let kv = 2.0 * n * s.shape.kv_heads as f64 * dim / t;
        let act = n * s.shape.ffn as f64 / t;
        Layer {
            stream: rows * h * b,
            wide: if point.tp > 1 { n * h * b } else { 0.0 },
            q: q * b,
            kv: kv * b,
            act: act * b,
            lse: 4.0 * n * s.shape.heads as f64 / t,
            rstd: 4.0 * rows,
            stream8: byte * n * h,
            q8: byte * q,
            act8: byte * act,
            packed8: byte * (q + kv),
            eight,
            apart: point.tp > 1 || s.shape.dropout,
            ring: point.cp > 1,
            wider: 4.0 / b,
            deferred: point.schedule == Schedule::ZeroBubble,
        }
    }

    /// Queries, keys and values as they are saved; on a ring queries alone.
    fn packed(&self) -> f64 {
        self.q + if self.ring { 0.0 } else { self.kv }
    }

    /// Forward of one layer, from its input to its output, which counts as `output` bytes; a repeated one ends before the
    /// product. What stays is what the policy keeps, and the output.
    fn forward(&self, live: &mut Live, pass: Pass, output: f64) {
        let policy = match pass {
            Pass::Train(policy) => policy,
            Pass::Redo => Recompute::None,
        };
        let (redone, unread) = (policy == Recompute::Full, policy != Recompute::None);
        let free = |live: &mut Live, when: bool, bytes: f64| live.free(if when { bytes } else { 0.0 });
        let first = pass != Pass::Redo;
        let make = |live: &mut Live, when: bool, bytes: f64| match pass {
            Pass::Redo => self.make(live, bytes),
            Pass::Train(_) => live.hold(when, bytes),
        };
        make(live, !unread, self.stream);
        live.hold(first && !unread, self.rstd);
        live.take(self.wide);
        if first && !redone {
            live.hold(true, self.packed());
            self.product(live, self.stream8, 0.0, !unread);
        } else {
            self.product(live, self.stream8, self.packed(), !unread);
        }
        live.free(self.wide);
        free(live, unread || self.eight, self.stream);
        free(live, redone || policy == Recompute::Selective, self.rstd);
        make(live, !redone, self.q);
        live.hold(first && !redone, self.lse);
        if self.ring {
            live.pass((self.q + self.lse) / 2.0);
        }
        free(live, redone, self.packed() + self.lse);
        let kept = first && !redone && live.apart.is_some();
        live.hold(kept, if kept { self.stream } else { 0.0 });
        self.branch(live, (self.q8, if kept { 0.0 } else { self.stream }), !redone);
        free(live, redone, self.q);
        make(live, !unread, self.stream);
        // The stream after attention is another tensor than the branch only where they are apart.
        let joined = if self.apart { self.stream } else { 0.0 };
        live.hold(first && !unread, self.rstd);
        live.take(joined);
        live.free(joined);
        live.take(self.wide);
        self.product(live, self.stream8, 0.0, true);
        make(live, !redone, 2.0 * self.act);
        live.free(if unread { self.stream8 } else { 0.0 });
        live.free(self.wide);
        free(live, unread || self.eight, self.stream);
        free(live, redone || policy == Recompute::Selective, self.rstd);
        if pass == Pass::Redo {
            return;
        }
        live.hold(!unread, self.act);
        free(live, redone, 2.0 * self.act);
        let result = if self.apart { self.stream } else { output };
        self.branch(live, (self.act8, result), !unread);
        free(live, unread || self.eight, self.act);
        live.take(if self.apart { output } else { 0.0 });
        live.free(if self.apart { self.stream } else { 0.0 });
        free(live, redone, self.stream);
    }

    /// A product with `result` bytes, its operand quantised first where products are in 8 bits.
    fn product(&self, live: &mut Live, operand8: f64, result: f64, keep: bool) {
        live.take(2.0 * operand8);
        live.take(result);
        live.free(operand8 + if keep { 0.0 } else { operand8 });
    }

    /// A product that ends a residual branch: all tokens first where tensor-parallel ranks sum them up.
    fn branch(&self, live: &mut Live, (operand8, result): (f64, f64), keep: bool) {
        live.take(2.0 * operand8 + self.wide);
        live.take(result);
        live.free(self.wide);
        live.free(operand8 + if keep { 0.0 } else { operand8 });
    }

    /// Backward of one layer under `policy`, from what it kept to what a deferred weight gradient still reads.
    fn backward(&self, live: &mut Live, policy: Recompute) {
        let selective = policy == Recompute::Selective;
        if policy == Recompute::Full {
            self.forward(live, Pass::Redo, 0.0);
        }
        if policy != Recompute::None {
            self.make(live, self.act);
            live.take(2.0 * self.act8);
            live.free(if self.eight { self.act8 + self.act } else { 0.0 });
        }
        // The feed-forward.
        live.take(self.wide + 2.0 * self.stream8);
        live.free(if self.eight { self.stream8 + self.act8 } else { self.now(self.act) });
        live.take(self.act);
        live.free(self.stream8 + self.wide);
        live.free(self.act);
        if selective {
            self.norm_again(live);
        }
        live.take(4.0 * self.act8 + self.now(self.wide));
        live.free(self.now(self.wide));
        live.free(if self.eight { 2.0 * self.act8 + self.stream8 } else { self.now(self.stream) });
        self.narrow(live);
        live.free(2.0 * self.act8 + self.now(2.0 * self.act));
        live.free(self.stream);
        live.release(policy != Recompute::Full, self.stream);
        live.release(policy == Recompute::None, self.rstd);
        // Attention's output.
        live.take(self.wide + 2.0 * self.stream8);
        live.free(if self.eight { self.stream8 + self.q8 } else { 0.0 });
        live.take(self.q);
        live.free(self.stream8 + self.wide);
        if self.ring {
            live.take(self.wider * self.q);
            live.pass(self.wider * self.kv);
            live.take(self.q);
            live.free(self.wider * self.q + self.q);
            live.take(self.kv);
        } else {
            self.make(live, self.q + self.kv);
            live.free(self.q);
        }
        live.release(policy != Recompute::Full, self.packed() + self.lse);
        live.free(self.now(self.q));
        if selective {
            self.norm_again(live);
        }
        live.take(2.0 * self.packed8 + self.now(self.wide));
        live.free(self.now(self.wide));
        live.free(if self.eight { self.packed8 + self.stream8 } else { self.now(self.stream) });
        self.narrow(live);
        live.free(self.stream + self.packed8);
        live.free(self.now(self.q + self.kv));
        live.release(policy == Recompute::None, self.rstd);
    }

    /// Bytes of a layer and micro-batch that deferred weight gradients read: made by the forward pass and kept; made again
    /// by the backward pass; made by the backward pass alone.
    fn late(&self, policy: Recompute) -> [f64; 3] {
        if !self.deferred {
            return [0.0; 3];
        }
        let (inputs, replaced) = (2.0 * self.stream + self.act, self.q + 2.0 * self.act);
        let [kept, redone] = match policy {
            Recompute::None => [inputs + replaced, 0.0],
            Recompute::Selective => [replaced, inputs],
            Recompute::Full => [0.0, inputs + replaced],
        };
        [kept, redone, 2.0 * self.stream + self.q + self.kv]
    }

    /// What a weight gradient reads: where it is deferred, [`Layer::late`] counts it.
    fn make(&self, live: &mut Live, bytes: f64) {
        live.take(self.now(bytes));
    }

    /// What counts in this pass, where weight gradients are not deferred.
    fn now(&self, bytes: f64) -> f64 {
        if self.deferred { 0.0 } else { bytes }
    }

    /// Under selective recomputation the norm again, right before what reads it.
    fn norm_again(&self, live: &mut Live) {
        self.make(live, self.stream);
        live.take(self.rstd);
        live.take(2.0 * self.stream8);
        live.free(if self.eight { self.stream8 + self.stream } else { 0.0 });
    }

    /// The gradient of a norm's output: sums over tensor-parallel ranks are reduced to this rank's rows.
    fn narrow(&self, live: &mut Live) {
        live.take(self.wide);
        live.take(self.stream);
        live.free(self.wide);
    }
}

/// Micro-batches, and passes over a run of layers, that are in flight on a rank (lower/pipeline.rs, `windows`).
fn in_flight(point: &Point, stage: u64, m: u64) -> (u64, u64) {
    let (p, v) = (point.pp, point.vp);
    match point.schedule {
        Schedule::None => (1, 1),
        Schedule::OneFOneB | Schedule::ZeroBubble => ((p - stage).min(m), (p - stage).min(m)),
        Schedule::Interleaved => {
            let ahead = (2 * (p - stage - 1) + (v - 1) * p).min(m * v);
            // The first run is held longest: what has begun in it when its first backward pass is next.
            let begun = (ahead + (v - 1) * p + 1).min(m * v);
            let micro_batches = (begun / (p * v) * p + (begun % (p * v)).min(p)).min(m);
            (micro_batches, (ahead + 1).min(m * v))
        }
    }
}

/// What depends on the micro-batch only: activations, logits, buffers.
pub fn working(s: &Setting, point: &Point, stage: u64) -> Parts {
    let (p, m) = (point.pp, s.micro_batches(point).max(1));
    let layer = Layer::new(s, point);
    let (first, last) = (stage == 0, stage == p - 1);
    // Runs of layers share what a pass holds.
    let layers = s.stage_layers(p, stage) as f64 / point.vp as f64;
    let (micro_batches, passes) = in_flight(point, stage, m);
    let (slots, flying) = (micro_batches as f64, passes as f64);
    let (stream, travels) = (layer.stream, point.offload == Offload::Activations);
    // What goes to another rank or to host memory has bytes of its own, in every run if in one.
    let apart = travels || p > 1 && (!last || point.vp > 1);
    let output = if apart { 0.0 } else { stream };
    let begin = || Live { apart: layer.deferred.then_some(0.0), ..Live::default() };
    let (mut forward, mut backward) = (begin(), begin());
    layer.forward(&mut forward, Pass::Train(point.recompute), output);
    layer.backward(&mut backward, point.recompute);
    let kept = forward.now + forward.apart.unwrap_or(0.0) - output;
    let outputs = if apart { 1.0 } else { 0.0 };
    let inputs = if travels { RING } else { flying * (layers + outputs) } * stream;
    let (gradients, gradient) = if p > 1 { (slots * stream, 0.0) } else { (0.0, stream) };

    let n = tokens(s, point);
    let row = (s.shape.vocab / point.tp) as f64 * s.act();
    let rows = head_rows(n as u64, row as u64) as f64;
    // Three numbers in f32 that each tensor-parallel rank says of a row, this one's apart.
    let parts = if point.tp > 1 { 12.0 * (point.tp + 1) as f64 } else { 0.0 };
    let logits = if last { rows * (row + parts) } else { 0.0 };
    // The head holds the last output, its norm and the gradient of that: where tensor-parallel ranks share the vocabulary,
    // one of all tokens that is first the one, then the other.
    let normed = if point.tp > 1 { layer.wide + stream.max(logits) } else { 2.0 * stream + logits };
    let head = if last { output + normed + layer.rstd } else { 0.0 };
    // The deepest moment: the last layer of the newest micro-batch forward or backward, or the head before that.
    let ahead = (forward.most - if layer.deferred { 0.0 } else { kept }).max(head);
    let held = if layer.deferred {
        // Of each kind as many as are in flight, with bytes of their own.
        let [early, redone, late] = layer.late(point.recompute);
        let waiting = (p.min(m) as f64 - flying) * early + (stage + 1).min(m) as f64 * (redone + late);
        layers * (flying * kept + waiting) + ahead.max(backward.most)
    } else {
        flying * layers * kept + ahead.max(gradient + backward.most)
    };
    let mut activations = inputs + gradients + held - logits;
    if layer.ring {
        // Keys and values of every layer and slot, on their way around, and their gradients' two stations in f32.
        let stations = if point.cp > 2 { 2.0 } else { 1.0 };
        activations += layer.kv * (flying * layers + slots * (stations + 2.0 * layer.wider));
    }
    let batch = 8.0 + if first { 8.0 } else { 0.0 } + if last { 12.0 } else { 0.0 };
    let tables = 4.0 * (s.shape.context * s.shape.head_dim) as f64;
    let buffers = slots * n * batch + tables + workspace(s, point, stage);
    Parts { activations, logits, buffers, ..Parts::default() }
}

/// Bytes that the backward pass of a layer frees of what its forward pass kept, its input among them, so that a layer below
/// may work in them; none where weight gradients run apart, whose tensors have bytes of their own.
pub fn freed(s: &Setting, point: &Point) -> f64 {
    if point.schedule == Schedule::ZeroBubble {
        return 0.0;
    }
    let layer = Layer::new(s, point);
    let mut forward = Live::default();
    layer.forward(&mut forward, Pass::Train(point.recompute), 0.0);
    forward.now + layer.stream
}

/// Bytes that the gradient of the embedding or the loss takes where tensor-parallel ranks share the vocabulary
/// (plan/src/op/embedding.rs, loss_parts.rs).
fn ends_workspace(s: &Setting, point: &Point, stage: u64) -> f64 {
    if point.tp == 1 {
        return 0.0;
    }
    let row = 4 * s.shape.hidden;
    let summed = chunk::rows(Backend::Cuda, tokens(s, point) as u64, row) * (row + 10);
    let embedding = if stage == 0 { summed as f64 } else { 0.0 };
    if stage != point.pp - 1 {
        return embedding;
    }
    let columns = s.shape.vocab / point.tp;
    let rows = head_rows(tokens(s, point) as u64, columns * s.act() as u64);
    let block = chunk::loss(Backend::Cuda, rows, columns, 4);
    let copied = if s.precision == Precision::F32 { 0 } else { 4 * block * columns };
    let part = block * (4 * (columns + 3) + 10);
    embedding.max(part.max(rows * 12 + (4 * rows * point.tp).max(16 * rows).max(10 * rows + copied)) as f64)
}

/// Bytes that the library below attention or a product takes (plan/src/op/attention.rs, gemm.rs), or the loss.
fn workspace(s: &Setting, point: &Point, stage: u64) -> f64 {
    if !s.cuda() {
        return s.profile.fixed.workspace_bytes as f64;
    }
    let ends = ends_workspace(s, point, stage);
    let dim = s.shape.head_dim;
    let (heads, kv_heads) = (s.shape.heads / point.tp, (s.shape.kv_heads / point.tp).max(1));
    let narrow = s.precision != Precision::F32;
    let product: f64 = if narrow { 33554432.0 } else { 0.0 };
    let n = tokens(s, point);
    if point.cp == 1 && narrow && dim.is_multiple_of(8) && dim <= 256 {
        // dQ in f32 and two statistics a row and head.
        let sums = match s.determinism {
            Determinism::Bitwise => 132_u64.div_ceil((point.micro * heads).max(1)),
            Determinism::Fast => 1,
        };
        let q = n * (heads * dim) as f64;
        return ends.max(product).max(4.0 * q * sums as f64 + 8.0 * n * heads as f64);
    }
    let keys = if point.cp > 1 { s.shape.context / (2 * point.cp) } else { s.shape.context };
    let group = heads / kv_heads;
    let (rows, together) = chunk::attention(Backend::Cuda, keys, group, kv_heads, 4);
    let lanes = group * together * rows;
    let converted = if narrow { 2 * (2 * keys * together + lanes) * dim } else { 0 };
    let result = lanes.max(together * keys) * dim;
    ends.max(product).max(4.0 * (2 * lanes * keys + result + 2 * lanes + rows * rows + converted) as f64)
}
