//! Bytes of one pipeline stage as our own lowering holds them (plan/src/lower), in closed form.
//!
//! A shard group is made of data-parallel ranks alone, and a tensor that more than one stream touches never shares its bytes (plan/src/arena.rs), so all its instances count.
//! `planner/tests/walk_memory.rs` holds this against the walk over the lowered program. Not here: what other stacks
//! hold ([`super::memory`]).

use llmc_plan::lower::head_rows;
use llmc_plan::op::{Backend, chunk};
use llmc_plan::plan::{Determinism, Offload, Precision, Recompute, Schedule};

use super::layer::tokens;
use super::memory::{Parts, in_flight};
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
        let largest = vocabulary.max(2.0 * (s.shape.ffn * s.shape.hidden) as f64 / t) / kept;
        let block = largest.min((chunk::block_bytes(Backend::Cuda) / 4) as f64);
        p.buffers += (block * s.state.scratch.max(4.0) - workspace(s, point, stage)).max(0.0);
    }
    p
}

/// Bytes live at once, and the most there were.
#[derive(Default)]
struct Live {
    now: f64,
    most: f64,
}

impl Live {
    fn take(&mut self, bytes: f64) {
        self.now += bytes;
        self.most = self.most.max(self.now);
    }

    fn free(&mut self, bytes: f64) {
        self.now -= bytes;
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
        live.take(self.stream + self.rstd + self.wide);
        self.product(live, self.stream8, self.packed(), !unread);
        live.free(self.wide);
        free(live, unread || self.eight, self.stream);
        free(live, redone || policy == Recompute::Selective, self.rstd);
        live.take(self.q + self.lse);
        if self.ring {
            live.pass((self.q + self.lse) / 2.0);
        }
        free(live, redone, self.packed() + self.lse);
        self.branch(live, self.q8, !redone);
        free(live, redone, self.q);
        live.take(2.0 * self.stream + self.rstd);
        live.free(self.stream);
        live.take(self.wide);
        self.product(live, self.stream8, 2.0 * self.act, !unread);
        live.free(self.wide);
        free(live, unread || self.eight, self.stream);
        free(live, redone || policy == Recompute::Selective, self.rstd);
        if pass == Pass::Redo {
            return;
        }
        live.take(self.act);
        free(live, redone, 2.0 * self.act);
        self.branch(live, self.act8, !unread);
        free(live, unread || self.eight, self.act);
        live.take(output);
        live.free(self.stream);
        free(live, redone, self.stream);
    }

    /// A product with `result` bytes, its operand quantised first where products are in 8 bits.
    fn product(&self, live: &mut Live, operand8: f64, result: f64, keep: bool) {
        live.take(2.0 * operand8);
        live.take(result);
        live.free(operand8 + if keep { 0.0 } else { operand8 });
    }

    /// A product that ends a residual branch: all tokens first where tensor-parallel ranks sum them up.
    fn branch(&self, live: &mut Live, operand8: f64, keep: bool) {
        live.take(2.0 * operand8);
        if self.wide > 0.0 {
            live.take(self.wide);
            live.take(self.stream);
            live.free(self.wide);
        } else {
            live.take(self.stream);
        }
        live.free(operand8 + if keep { 0.0 } else { operand8 });
    }

    /// Backward of one layer under `policy`, from what it kept to what a deferred weight gradient still reads.
    fn backward(&self, live: &mut Live, policy: Recompute) {
        let selective = policy == Recompute::Selective;
        if policy == Recompute::Full {
            self.forward(live, Pass::Redo, 0.0);
        }
        if policy != Recompute::None {
            live.take(self.act + 2.0 * self.act8);
            live.free(if self.eight { self.act8 + self.act } else { 0.0 });
        }
        // The feed-forward.
        live.take(if self.deferred { self.stream } else { 0.0 });
        live.take(self.wide + 2.0 * self.stream8);
        live.free(if self.eight { self.stream8 + self.act8 } else { self.now(self.act) });
        live.take(self.act);
        live.free(self.stream8 + self.wide);
        live.free(self.act);
        if selective {
            self.norm_again(live);
        }
        live.take(4.0 * self.act8 + if self.deferred { 0.0 } else { self.wide });
        live.free(if self.deferred { 0.0 } else { self.wide });
        live.free(if self.eight { 2.0 * self.act8 + self.stream8 } else { self.now(self.stream) });
        self.narrow(live);
        live.free(2.0 * self.act8 + self.now(2.0 * self.act));
        live.free(2.0 * self.stream + self.rstd);
        // Attention's output.
        live.take(if self.deferred { self.stream } else { 0.0 });
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
            live.take(self.q + self.kv);
            live.free(self.q);
        }
        live.free(self.packed() + self.lse);
        live.free(self.now(self.q));
        if selective {
            self.norm_again(live);
        }
        live.take(2.0 * self.packed8 + if self.deferred { 0.0 } else { self.wide });
        live.free(if self.deferred { 0.0 } else { self.wide });
        live.free(if self.eight { self.packed8 + self.stream8 } else { self.now(self.stream) });
        self.narrow(live);
        live.free(self.stream + self.packed8);
        live.free(self.now(self.q + self.kv));
        live.free(self.rstd);
    }

    /// What is freed now, where weight gradients are not deferred.
    fn now(&self, bytes: f64) -> f64 {
        if self.deferred { 0.0 } else { bytes }
    }

    /// Under selective recomputation the norm again, right before what reads it.
    fn norm_again(&self, live: &mut Live) {
        live.take(self.stream + self.rstd);
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

/// Instances of what a rank has once a micro-batch in flight (lower/pipeline.rs, `in_flight`).
fn slots(point: &Point, stage: u64, m: u64) -> u64 {
    let (p, v) = (point.pp, point.vp);
    match point.schedule {
        Schedule::None => 1,
        Schedule::OneFOneB => (p - stage).min(m),
        Schedule::ZeroBubble => p.min(m),
        // The first run is held longest: what has begun in it when its first backward pass is next.
        Schedule::Interleaved => {
            let ahead = (2 * (p - stage - 1) + (v - 1) * p).min(m * v);
            let begun = (ahead + (v - 1) * p + 1).min(m * v);
            (begun / (p * v) * p + (begun % (p * v)).min(p)).min(m)
        }
    }
}

/// What depends on the micro-batch only: activations, logits, buffers.
pub fn working(s: &Setting, point: &Point, stage: u64) -> Parts {
    let layer = Layer::new(s, point);
    let (p, v, m) = (point.pp, point.vp as f64, s.micro_batches(point).max(1));
    let (first, last) = (stage == 0, stage == p - 1);
    let layers = s.stage_layers(p, stage) as f64;
    let places = slots(point, stage, m);
    let flying = held(point, stage, m, places);
    let slots = places as f64;
    let (stream, travels) = (layer.stream, point.offload == Offload::Activations);
    // What comes from or goes to another rank, or to host memory, has instances of its own.
    let output = if (last || p == 1) && !travels { stream } else { 0.0 };
    let (mut forward, mut backward) = (Live::default(), Live::default());
    layer.forward(&mut forward, Pass::Train(point.recompute), output);
    layer.backward(&mut backward, point.recompute);
    let kept = forward.now - output;
    let ranks = |here: bool| if p > 1 { v - if here { 1.0 } else { 0.0 } } else { 0.0 };
    let (received, sent) = (ranks(first), ranks(last));
    let inputs = if travels {
        RING * stream
    } else {
        (flying * (layers - received) + slots * (received + sent)) * stream
    };
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
    let deepest = (forward.most - kept).max(gradient + backward.most).max(head);
    let held = match layer.deferred {
        true => deferred(point, stage, m, layers, (kept, kept + backward.now)),
        false => flying * layers * kept,
    };
    let mut activations = inputs + gradients + held + deepest - logits;
    if layer.ring {
        // Keys and values of every layer and slot, on their way around, and their gradients' two stations in f32.
        let stations = if point.cp > 2 { 2.0 } else { 1.0 };
        activations += slots * layer.kv * (layers + stations + 2.0 * layer.wider);
    }
    let batch = 8.0 + if first { 8.0 } else { 0.0 } + if last { 12.0 } else { 0.0 };
    let tables = 4.0 * (s.shape.context * s.shape.head_dim) as f64;
    let buffers = slots * n * batch + tables + workspace(s, point, stage);
    Parts { activations, logits, buffers, ..Parts::default() }
}

/// Instances that need bytes of their own where micro-batches take `slots` in turn and `window` of them follow each other
/// alive: the colours of a ring of slots in which those closer than the window meet. An address is for good, so the
/// meetings of all times count (plan/src/arena.rs).
fn apart(slots: u64, window: u64) -> f64 {
    slots.div_ceil((slots / window.clamp(1, slots)).max(1)) as f64
}

/// Micro-batches' worth of kept activations that have bytes of their own, in whole-stage units. Interleaved runs are each
/// held by their own window of micro-batches and share bytes where they never meet: the middle of all that live at once
/// and of none shared between runs.
fn held(point: &Point, stage: u64, m: u64, slots: u64) -> f64 {
    let (p, v) = (point.pp, point.vp);
    let alive = in_flight(point, stage, m);
    if point.schedule != Schedule::Interleaved {
        return alive;
    }
    let ahead = 2 * (p - stage - 1) + (v - 1) * p;
    // What has begun in a run when its first backward pass is next.
    let window = |run: u64| {
        let begun = (ahead + (v - 1 - run) * p + 1).min(m * v);
        begun / (p * v) * p + (begun % (p * v)).saturating_sub(run * p).min(p)
    };
    let each = (0..v).map(|run| apart(slots, window(run))).sum::<f64>() / v as f64;
    0.5 * (alive + each)
}

/// Kept activations under a zero-bubble schedule, whose weight gradients run `stage` micro-batches late. `kept` and
/// `waits`: bytes of a layer before and after its backward pass.
fn deferred(point: &Point, stage: u64, m: u64, layers: f64, (kept, waits): (f64, f64)) -> f64 {
    // In the backward pass of micro-batch j, those that have begun from j on are whole, some before wait.
    let at = |j: u64| {
        let begun = (point.pp - stage).min(m - j) as f64;
        let present = kept + (layers - 1.0) * kept.max(waits);
        (begun - 1.0) * layers * kept + present + j.min(stage) as f64 * layers * waits
    };
    let full = (m + stage).saturating_sub(point.pp);
    let most = [0, stage.min(m - 1), full.min(m - 1), m - 1].into_iter().map(at).fold(0.0, f64::max);
    // What the backward pass alone leaves has no other's bytes to share.
    let alone = apart(point.pp.min(m), stage + 1) - ((stage + 1).min(m)) as f64;
    most + if kept == 0.0 { alone * layers * waits } else { 0.0 }
}

/// Bytes that the loss takes where tensor-parallel ranks share the vocabulary (plan/src/op/loss_parts.rs).
fn loss_workspace(s: &Setting, point: &Point, stage: u64) -> f64 {
    if point.tp == 1 || stage != point.pp - 1 {
        return 0.0;
    }
    let columns = s.shape.vocab / point.tp;
    let rows = head_rows(tokens(s, point) as u64, columns * s.act() as u64);
    let block = chunk::loss(Backend::Cuda, rows, columns, 4);
    let copied = if s.precision == Precision::F32 { 0 } else { 4 * block * columns };
    let part = block * (4 * (columns + 3) + 10);
    part.max(rows * 12 + (4 * rows * point.tp).max(16 * rows).max(10 * rows + copied)) as f64
}

/// Bytes that the library below attention or a product takes (plan/src/op/attention.rs, gemm.rs), or the loss.
fn workspace(s: &Setting, point: &Point, stage: u64) -> f64 {
    if !s.cuda() {
        return s.profile.fixed.workspace_bytes as f64;
    }
    let loss = loss_workspace(s, point, stage);
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
        return loss.max(product).max(4.0 * q * sums as f64 + 8.0 * n * heads as f64);
    }
    let keys = if point.cp > 1 { s.shape.context / (2 * point.cp) } else { s.shape.context };
    let group = heads / kv_heads;
    let (rows, together) = chunk::attention(Backend::Cuda, keys, group, kv_heads, 4);
    let lanes = group * together * rows;
    let converted = if narrow { 2 * (2 * keys * together + lanes) * dim } else { 0 };
    let result = lanes.max(together * keys) * dim;
    loss.max(product).max(4.0 * (2 * lanes * keys + result + 2 * lanes + rows * rows + converted) as f64)
}
