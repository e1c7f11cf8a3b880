//! Seconds of one layer and of the two ends for one micro-batch on one rank.

use llmc_plan::lower::head_rows;
use llmc_plan::plan::{Precision, Recompute, Schedule};

use super::comm::{Group, all_reduce, scatter};
use super::kernels::{attention, bandwidth, gemm};
use super::{Point, Setting, passes};
use crate::question::{Redone, TensorTraffic};

/// Seconds of one layer and micro-batch on one rank, by part; the stack factor is included.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LayerTime {
    /// Matrix products, forward.
    pub gemm_forward: f64,
    /// Input-gradient products.
    pub gemm_input: f64,
    /// Weight-gradient products.
    pub gemm_weight: f64,
    /// Attention forward.
    pub attention_forward: f64,
    /// Attention backward.
    pub attention_backward: f64,
    /// Norms, rotation, SwiGLU, residuals, forward.
    pub pointwise_forward: f64,
    /// The same, backward.
    pub pointwise_backward: f64,
    /// What recomputation repeats, communication included.
    pub recompute: f64,
    /// Tensor-parallel collectives, forward.
    pub tensor_forward: f64,
    /// Tensor-parallel collectives, backward.
    pub tensor_backward: f64,
    /// Context-parallel ring that attention does not hide, forward and backward.
    pub context: f64,
}

impl LayerTime {
    /// Forward.
    pub fn forward(&self) -> f64 {
        self.gemm_forward
            + self.attention_forward
            + self.pointwise_forward
            + self.tensor_forward
            + self.context / 3.0
    }

    /// Backward with recomputation.
    pub fn backward(&self) -> f64 {
        self.gemm_input
            + self.gemm_weight
            + self.attention_backward
            + self.pointwise_backward
            + self.tensor_backward
            + self.recompute
            + self.context * 2.0 / 3.0
    }
}

/// Tokens of one micro-batch on one context-parallel rank.
pub fn tokens(s: &Setting, point: &Point) -> f64 {
    (point.micro * s.shape.context) as f64 / point.cp as f64
}

/// One layer of `point`; reads tp, sp, cp, micro-batch and recompute only.
pub fn layer(s: &Setting, point: &Point) -> LayerTime {
    let mut time = plain_layer(s, point);
    time.recompute = recompute(s, point, &time);
    time
}

/// What recomputation adds to a layer whose other parts are `time`.
pub fn recompute(s: &Setting, point: &Point, time: &LayerTime) -> f64 {
    let of = |policy| repeated(s, point, policy, time);
    match s.mixed {
        Some((some, all)) => some * of(Recompute::Selective) + all * of(Recompute::Full),
        None => of(point.recompute),
    }
}

/// Seconds that a layer under `policy` repeats.
fn repeated(s: &Setting, point: &Point, policy: Recompute, time: &LayerTime) -> f64 {
    match policy {
        Recompute::None => 0.0,
        Recompute::Selective => selective(s, point, time),
        Recompute::Full if s.own() => passes::redone(s, point, time, whole_stream(s, point)),
        Recompute::Full if s.shape.variant.early_stop => stopped(s, point, time),
        Recompute::Full => s.profile.fixed.redo * time.forward(),
    }
}

/// A second forward pass of a block without its last product.
fn stopped(s: &Setting, point: &Point, time: &LayerTime) -> f64 {
    let (f, columns) = (s.shape.ffn as f64 / point.tp as f64, s.shape.hidden as f64);
    let last = if point.sp { time.tensor_forward / 4.0 } else { time.tensor_forward / 2.0 };
    time.forward() - s.profile.fixed.stack * gemm(s, tokens(s, point), columns, f, false) - last
}

/// What a selective policy repeats of a block.
fn selective(s: &Setting, point: &Point, time: &LayerTime) -> f64 {
    let (n, t) = (tokens(s, point), point.tp as f64);
    let (hidden, f) = (s.shape.hidden as f64, s.shape.ffn as f64 / t);
    let spread = if point.sp { t } else { 1.0 };
    // Two norms (read h, write h) and the SwiGLU product (read 2f, write f).
    let pointwise = n * (4.0 * hidden / spread + 3.0 * f) / pointwise_rate(s);
    let dim = s.shape.head_dim as f64;
    let product = |rows: f64, columns: f64| s.profile.fixed.stack * gemm(s, n, rows, columns, false);
    let key = || product(s.shape.kv_heads as f64 * dim / t, hidden);
    let output = || product(hidden, s.shape.heads as f64 * dim / t);
    match s.shape.variant.redone {
        Redone::Pointwise => pointwise,
        // Of query, key, value, output, gate, up, down: key, output, up.
        Redone::Products => pointwise + key() + output() + product(f, hidden),
        Redone::Layers => {
            0.5 * if s.shape.variant.early_stop { stopped(s, point, time) } else { time.forward() }
        }
    }
}

/// The residual stream of a micro-batch gathered or reduced among tensor-parallel ranks.
fn whole_stream(s: &Setting, point: &Point) -> f64 {
    let bytes = tokens(s, point) * s.shape.hidden as f64 * s.act();
    scatter(s, Group::strided(point.tp, 1, s.link_domain), bytes)
}

/// What tensor-parallel ranks gather for a layer's deferred weight gradients: the inputs of two products, and the gradients of
/// the outputs of two.
pub fn gathered_late(s: &Setting, point: &Point) -> f64 {
    if point.tp > 1 { 4.0 * whole_stream(s, point) } else { 0.0 }
}

/// A layer under the point's schedule: what deferring weight gradients adds.
pub fn scheduled(s: &Setting, point: &Point, time: LayerTime) -> LayerTime {
    if !s.own() || point.schedule != Schedule::ZeroBubble {
        return time;
    }
    let (copies, gathers) = passes::deferred(s, point, whole_stream(s, point));
    LayerTime {
        pointwise_backward: time.pointwise_backward + copies,
        tensor_backward: time.tensor_backward + gathers,
        ..time
    }
}

/// Elements per second of fused pointwise passes, gaps included.
fn pointwise_rate(s: &Setting) -> f64 {
    bandwidth(s) / (s.act() * s.profile.fixed.stack * if s.shape.variant.eager { 2.0 } else { 1.0 })
}

/// One layer without recomputation; reads tp, sp, cp and micro-batch only.
pub fn plain_layer(s: &Setting, point: &Point) -> LayerTime {
    let shape = &s.shape;
    let n = tokens(s, point);
    let t = point.tp as f64;
    let h = shape.hidden as f64;
    let q = (shape.heads * shape.head_dim) as f64 / t;
    let kv = (shape.kv_heads * shape.head_dim) as f64 / t;
    let f = shape.ffn as f64 / t;
    let up = if shape.gated() { 2.0 * f } else { f };
    let stack = s.profile.fixed.stack;
    let mut time = LayerTime::default();
    // Backward products of what tensor parallelism splits by columns: attention's input and the feed-forward's.
    let mut column = 0.0;
    for (split, rows, columns) in [(true, q + 2.0 * kv, h), (false, h, q), (true, up, h), (false, h, f)] {
        let (input, weight) =
            (stack * gemm(s, n, columns, rows, false), stack * gemm(s, rows, columns, n, false));
        time.gemm_forward += stack * gemm(s, n, rows, columns, false);
        time.gemm_input += input;
        time.gemm_weight += weight;
        column += if split { input + weight } else { 0.0 };
        // Accumulating into f32 gradients reads and writes them once more than the product's own store.
        time.gemm_weight += stack * rows * columns * (4.0 - s.state.narrower) / bandwidth(s);
    }
    let share = 1.0 / point.cp as f64;
    let (forward, backward) =
        attention(s, point.micro as f64, shape.context as f64, shape.heads as f64 / t, share);
    time.attention_forward = stack * forward;
    time.attention_backward = stack * backward;
    if s.own() && point.cp > 1 {
        let both = (time.attention_forward, time.attention_backward);
        (time.attention_forward, time.attention_backward) = passes::ring_attention(s, point, both);
    }
    // Elements of ideally fused passes (our benches/gpu script): forward 16h + 3f, backward 16h + 5f a token.
    // Norms and residuals are spread over the tensor-parallel ranks only with sequence parallelism.
    let spread = if point.sp { t } else { 1.0 };
    let dropout = if shape.dropout { 2.0 * h } else { 0.0 };
    let rate = pointwise_rate(s);
    let narrow = (12.0 * h + 2.0 * dropout) / spread + 4.0 * h / t;
    time.pointwise_forward = n * (narrow + 3.0 * f) / rate;
    time.pointwise_backward = n * (narrow + 5.0 * f) / rate;
    if s.own() {
        (time.pointwise_forward, time.pointwise_backward) = passes::pointwise(s, point);
    }

    if point.tp > 1 {
        let group = Group::strided(point.tp, 1, s.link_domain);
        let bytes = n * h * s.act();
        // 2 all-gathers and 2 reduce-scatters each way with sequence parallelism, and 2 gathers more of what backward
        // needs again (arXiv 2205.05198, section 4.2.2); else 2 all-reduces each way.
        let (each, way, again) = if point.sp || s.own() {
            (scatter(s, group, bytes), 4.0, 2.0)
        } else {
            (all_reduce(s, group, bytes), 2.0, 0.0)
        };
        // Of the backward pass, the gradient of a column-parallel product's input and the gathering of that input.
        let (beside, alone) = (each * (way / 2.0 + again), each * way / 2.0);
        (time.tensor_forward, time.tensor_backward) = match s.shape.variant.tensor_traffic {
            // Our lowering gathers and reduces on the stream that computes.
            _ if s.own() => (way * each, (way + again) * each),
            TensorTraffic::Pipelined => {
                let exposed = s.profile.comm.tensor;
                (exposed * way * each, exposed * (way + again) * each)
            }
            TensorTraffic::Beside => {
                let hidden = (beside - column).max(beside * (1.0 - s.profile.comm.overlap));
                (way * each, alone + hidden)
            }
            TensorTraffic::Alone => (way * each, way * each),
        };
    }
    if point.cp > 1 && s.own() {
        time.context = passes::ring(s, point, (time.attention_forward, time.attention_backward));
    } else if point.cp > 1 {
        let group = Group::strided(point.cp, point.tp, s.link_domain);
        // Ring attention: keys and values travel once forward, with their gradients twice backward.
        let once = scatter(s, group, 2.0 * n * kv * s.act() * point.cp as f64);
        let o = s.profile.comm.overlap;
        time.context = (once - time.attention_forward).max(once * (1.0 - o))
            + (2.0 * once - time.attention_backward).max(2.0 * once * (1.0 - o))
            + 3.0 * (point.cp - 1) as f64 * s.profile.comm.step_link;
    }
    time
}

/// Seconds of the embedding (first) and of head with loss (last stage), forward and backward, one micro-batch.
pub fn ends(s: &Setting, point: &Point) -> (f64, f64) {
    let h = s.shape.hidden as f64;
    // Each tensor-parallel rank works on all tokens with its part of the vocabulary.
    let (n, v) = (tokens(s, point), s.shape.vocab as f64 / point.tp as f64);
    let stack = s.profile.fixed.stack;
    let rate = bandwidth(s) / stack;
    // Lookup, and the scatter-add of its gradient in f32.
    let mut embedding = n * h * (2.0 * s.act() + 8.0 + s.act()) / rate;
    // The head stays out of fp8 (torchtitan, llm-foundry and our measurements do so).
    let products = |n| gemm(s, n, v, h, true) + gemm(s, n, h, v, true) + gemm(s, v, h, n, true);
    let fused = s.own() && s.cuda();
    let mut head = if fused {
        // Ours: blocks of rows, each of which adds to the f32 gradient of the head; one kernel reads the logits twice and
        // writes their gradient over them (0.27 ms for 4,096 × 32,000 on an H100, 2026-11-24).
        let rows = head_rows(n as u64, (v * s.act()) as u64) as f64;
        let sums = (n / rows) * v * h * 8.0 / rate;
        stack * (n / rows) * products(rows) + sums + 3.0 * n * v * s.act() / rate
    } else {
        // Logits written, read for the loss, gradient written over them, read twice: 4 passes in 16 bits, 2 in f32.
        let passes = 4.0 * s.act() + if s.precision == Precision::F32 { 0.0 } else { 8.0 };
        stack * products(n) + n * v * passes / rate
    };
    if point.tp > 1 {
        let group = Group::strided(point.tp, 1, s.link_domain);
        if s.own() {
            // At either end the stream is gathered one way and its sums are scattered the other. Each block of rows
            // exchanges three numbers a row.
            let ends = 2.0 * scatter(s, group, n * h * s.act());
            let rows = head_rows(n as u64, (v * s.act()) as u64) as f64;
            embedding += ends;
            head += ends + (n / rows) * scatter(s, group, 12.0 * rows * point.tp as f64);
        } else {
            head += 2.0 * all_reduce(s, group, n * h * s.act());
        }
    }
    (embedding, head)
}
