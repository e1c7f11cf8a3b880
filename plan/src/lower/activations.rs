//! Buffers that are not parameters: constants, batches, activations, transients.

use super::build::Builder;
use super::params::Eight;
use super::pipeline::Windows;
use super::shape::Shape;
use crate::plan::{DType, OptimizerKind, Plan, Recompute};
use crate::program::{Class, Index, Ref, Space};

/// Handles of every buffer that is not a parameter.
#[derive(Clone)]
pub struct Activations {
    /// Cosine and sine tables.
    pub rope: [Ref; 2],
    /// Device scalars `[1]` f32: learning rate, 1/Σ weights of the step over all ranks, Σ w·nll, Σ g², clip divisor, skip
    /// flag, step number from 1.
    pub lr: Ref,
    pub inv_weight: Ref,
    pub loss_sum: Ref,
    pub grad_sq: Ref,
    pub grad_scale: Ref,
    pub skip: Ref,
    pub step: Ref,
    /// Σ g² after the first of several micro-batches, for the gradient noise scale.
    pub first_sq: Option<Ref>,
    /// fp16 only.
    pub loss_scale: Option<LossScale>,
    /// Learning rate, step number, clip divisor and skip flag as a paged update reads them; with one only.
    pub applied: Option<[Ref; 4]>,
    /// The micro-batch.
    pub ids: Ref,
    pub targets: Ref,
    pub positions: Ref,
    pub cu_seqlens: Ref,
    pub weights: Ref,
    /// With several sources only.
    pub by_source: Option<BySource>,
    /// Residual stream: the input of each block; the last feeds the head.
    pub x: Ref,
    /// Block inputs in host memory; with activation offload only.
    pub x_host: Option<Ref>,
    /// Saved by a block.
    pub n1: Ref,
    pub rstd1: Ref,
    pub attention: Attention,
    pub o: Ref,
    pub x2: Ref,
    pub n2: Ref,
    pub rstd2: Ref,
    pub gate_up: Ref,
    pub act: Ref,
    /// The same for a pass that keeps nothing and for one that makes it again; with deferred weight gradients only.
    twice: Option<[Saved; 2]>,
    /// What the input gradient is the last to read, for passes that make it again; with deferred weight gradients only.
    brief: Option<Brief>,
    /// Output of a residual branch before it is added.
    pub branch: Ref,
    /// All tokens of what sequence parallelism splits; with tensor parallelism only.
    pub wide: Option<Ref>,
    /// Gradient of the residual stream, updated in place from block to block.
    pub dres: Ref,
    /// Gradient of a residual branch, where it is not `dres` itself.
    pub dy_ffn: Ref,
    pub dy_attention: Ref,
    pub dact: Ref,
    pub dn: Ref,
    pub d_o: Ref,
    /// In 8 bits, by parameter: what its product reads and the gradient of what it gives.
    pub eight: Option<EightBits>,
    /// Head.
    pub xf: Ref,
    pub rstdf: Ref,
    pub logits: Ref,
    /// What tensor ranks say of their columns of logits: this rank's, and everybody's.
    pub parts: Option<[Ref; 2]>,
    pub dxf: Ref,
}

/// What a block saves that a recomputing pass makes twice.
#[derive(Clone, Copy)]
struct Saved {
    n1: Ref,
    n2: Ref,
    act: Ref,
    o: Ref,
    gate_up: Ref,
}

/// What a block saves up to its input gradient.
#[derive(Clone, Copy)]
struct Brief {
    rstd1: Ref,
    rstd2: Ref,
    x2: Ref,
    /// Packed queries, keys and values with log-sum-exp; none around a ring.
    packed: Option<[Ref; 2]>,
}

impl Saved {
    fn all(&self) -> [Ref; 5] {
        [self.n1, self.n2, self.act, self.o, self.gate_up]
    }
}

impl Activations {
    /// As the passes of a block under a policy see them: what they make twice, where it has buffers of its own.
    pub fn under(&self, policy: Recompute, backward: bool) -> Activations {
        let mut seen = self.clone();
        if let Some([pass, redone]) = &self.twice {
            let own = if backward { redone } else { pass };
            if policy != Recompute::None {
                (seen.n1, seen.n2, seen.act) = (own.n1, own.n2, own.act);
            }
            if policy == Recompute::Full {
                (seen.o, seen.gate_up) = (own.o, own.gate_up);
            }
        }
        if let Some(brief) = &self.brief {
            if policy != Recompute::None {
                (seen.rstd1, seen.rstd2) = (brief.rstd1, brief.rstd2);
            }
            if policy == Recompute::Full {
                seen.x2 = brief.x2;
                if let (Attention::Packed { qkv, lse, .. }, Some(packed)) =
                    (&mut seen.attention, brief.packed)
                {
                    [*qkv, *lse] = packed;
                }
            }
        }
        seen
    }
}

/// What tells the losses of sources apart.
#[derive(Clone, Copy)]
pub struct BySource {
    /// Source of each token of the micro-batch.
    pub rows: Ref,
    /// Σ w·nll of each source.
    pub loss: Ref,
}

/// Dynamic loss scaling: device scalars `[1]` f32.
#[derive(Clone, Copy)]
pub struct LossScale {
    /// By which the loss is multiplied.
    pub scale: Ref,
    /// Good steps since it changed.
    pub good: Ref,
    /// Inverse weight times scale.
    pub weight: Ref,
}

/// Operands of the 8-bit products of a block, in the order of its matrices: qkv, o, gate_up, down.
#[derive(Clone)]
pub struct EightBits {
    /// Inputs; their transposes and scales are saved.
    pub inputs: [Eight; 4],
    /// Gradients of outputs.
    pub gradients: [Eight; 4],
    /// Largest magnitudes that the ops which make inputs leave (all but attention), and the one of gate_up's gradient.
    pub input_magnitudes: [Option<Ref>; 4],
    pub gradient_magnitudes: [Option<Ref>; 4],
    /// The one of the residual stream's gradient, where every op that makes it leaves one.
    pub residual: Option<Ref>,
}

/// Names of the matrices of a block that are multiplied in 8 bits.
pub const EIGHT: [&str; 4] = ["qkv", "o", "gate_up", "down"];

/// What attention saves and passes back.
#[derive(Clone)]
pub enum Attention {
    /// All tokens are here: packed queries, keys and values.
    Packed { qkv: Ref, lse: Ref, dqkv: Ref },
    /// Tokens are split along context ranks.
    Ring(Box<Ring>),
}

/// Buffers of ring attention. Tokens lie in two halves of rows: an early and a late block of every sequence.
#[derive(Clone)]
pub struct Ring {
    pub q: Ref,
    pub kv: Ref,
    /// Log-sum-exp of each half.
    pub lse: [Ref; 2],
    /// Keys and values on their way around.
    pub kv_ring: [Ref; 2],
    /// Result of one pair of blocks before it is merged.
    pub partial: Ref,
    pub partial_lse: Ref,
    /// Sums of gradients, f32.
    pub dq: Ref,
    pub dkv_ring: [Ref; 2],
    /// This rank's share of the gradient of a passing block.
    pub dkv_share: Ref,
    /// Gradients in compute format.
    pub dq_out: Ref,
    pub dkv_out: Ref,
}

/// Declares them.
pub fn declare(b: &mut Builder, plan: &Plan, shape: &Shape) -> Activations {
    let m = &plan.model;
    let (n, rows, h, f, c) = (shape.tokens, shape.rows, m.hidden, shape.ffn, shape.compute);
    let heads = shape.heads * m.head_dim;
    let documents = shape.sequences * shape.documents.unwrap_or(1);

    let table = [m.context, m.head_dim / 2];
    let mut constant =
        |name: &str, shape: &[u64]| b.buffer(name, shape, DType::F32, Class::Constant, Index::One);
    let rope = [constant("rope.cos", &table), constant("rope.sin", &table)];
    let [lr, inv_weight, loss_sum, grad_sq, grad_scale, skip, step] =
        ["lr", "inv_weight", "loss_sum", "grad_sq", "grad_scale", "skip", "step"].map(|s| constant(s, &[1]));

    // Optimizers of several kernels, with scratch between them, stay on the stream that computes.
    let one_kernel = matches!(plan.optimizer.kind, OptimizerKind::Adamw | OptimizerKind::PagedAdamw);
    let applied = (shape.offload_optimizer && one_kernel).then(|| {
        ["lr.applied", "step.applied", "grad_scale.applied", "skip.applied"].map(|s| constant(s, &[1]))
    });
    let first_sq = (plan.layout.gpus == 1 && plan.batch.accumulation > 1)
        .then(|| b.buffer("grad_sq.first", &[1], DType::F32, Class::Constant, Index::One));
    let loss_scale = (c == DType::F16).then(|| {
        let mut scalar = |name: &str, class| b.buffer(name, &[1], DType::F32, class, Index::One);
        LossScale {
            scale: scalar("loss_scale", Class::Optimizer),
            good: scalar("loss_scale.good", Class::Optimizer),
            weight: scalar("loss_scale.weight", Class::Constant),
        }
    });
    let mut batch =
        |name: &str, extent, dtype| b.buffer(name, &[extent], dtype, Class::Batch, Index::MicroBatch);
    let [ids, targets, positions] = ["ids", "targets", "positions"].map(|s| batch(s, n, DType::I64));
    let cu_seqlens = batch("cu_seqlens", documents + 1, DType::I32);
    let weights = batch("weights", n, DType::F32);
    let rows_of = (shape.sources > 1).then(|| batch("sources", n, DType::I32));
    let by_source = rows_of.map(|rows| {
        let loss = b.buffer("source_loss", &[shape.sources], DType::F32, Class::Constant, Index::One);
        BySource { rows, loss }
    });

    let x = residual_stream(b, shape, &[rows, h]);
    let x_host = shape.offload_activations.then(|| {
        let host = b.buffer("x.host", &[rows, h], c, Class::Activation, Index::LayerSlot);
        if let Some(buffer) = b.edit(host) {
            buffer.space = Space::Pinned;
        }
        host
    });
    let mut saved =
        |name: &str, shape: &[u64], dtype| b.buffer(name, shape, dtype, Class::Activation, Index::LayerSlot);
    let n1 = saved("n1", &[rows, h], c);
    let rstd1 = saved("rstd1", &[rows], DType::F32);
    let o = saved("o", &[n, heads], c);
    let x2 = saved("x2", &[rows, h], c);
    let n2 = saved("n2", &[rows, h], c);
    let rstd2 = saved("rstd2", &[rows], DType::F32);
    let gate_up = saved("gate_up", &[n, 2 * f], c);
    let act = saved("act", &[n, f], c);
    let attention = attention(b, plan, shape);

    let eight = shape.eight_bit.then(|| eight_bits(b, plan, shape, heads));

    // A deferred weight gradient reads what its input gradient left behind, layer by layer.
    let kept = if shape.deferred { Index::LayerSlot } else { Index::Slot };
    let mut transient = |name: &str, shape: &[u64], index| b.buffer(name, shape, c, Class::Activation, index);
    let [branch, dn, xf, dxf] = ["branch", "dn", "xf", "dxf"].map(|s| transient(s, &[rows, h], Index::Slot));
    let dres = transient("dres", &[rows, h], Index::MicroBatch);
    let [dy_ffn, dy_attention] = ["dy.ffn", "dy.attention"].map(|s| transient(s, &[rows, h], kept));
    let (dact, d_o) = (transient("dact", &[n, f], Index::Slot), transient("do", &[n, heads], Index::Slot));
    let wide = (shape.tensor.0 > 1).then(|| transient("wide", &[n, h], Index::Slot));
    let twice = shape.deferred.then(|| {
        for gradient in [dy_ffn, dy_attention] {
            if let Some(buffer) = b.edit(gradient) {
                buffer.slots = shape.windows.late;
            }
        }
        twice(b, shape, &Saved { n1, n2, act, o, gate_up })
    });
    let brief = shape.deferred.then(|| {
        let packed = match &attention {
            Attention::Packed { qkv, lse, .. } => Some([*qkv, *lse].map(|r| copy(b, r, "pass", Index::Slot))),
            Attention::Ring(_) => None,
        };
        let [rstd1, rstd2, x2] = [rstd1, rstd2, x2].map(|r| copy(b, r, "pass", Index::Slot));
        Brief { rstd1, rstd2, x2, packed }
    });
    if shape.deferred {
        // Micro-batches take turns in slots of which there are not as many of each kind, so sooner or later nearly all
        // meet. What a placement saves where some do not, it loses to gaps elsewhere; so a plan can tell their bytes.
        for buffer in &mut b.program.buffers {
            buffer.apart |= buffer.index == Index::LayerSlot && buffer.class == Class::Activation;
        }
    }
    let rstdf = b.buffer("rstdf", &[rows], DType::F32, Class::Activation, Index::Slot);
    let logits = b.buffer("logits", &[shape.head_rows, shape.vocab.1], c, Class::Logits, Index::Slot);
    let parts = (shape.tensor.0 > 1).then(|| {
        [("logits.part", 1), ("logits.parts", shape.tensor.0)].map(|(name, ranks)| {
            b.buffer(name, &[ranks * shape.head_rows, 3], DType::F32, Class::Logits, Index::Slot)
        })
    });

    Activations {
        rope,
        lr,
        inv_weight,
        loss_sum,
        grad_sq,
        grad_scale,
        skip,
        step,
        first_sq,
        loss_scale,
        applied,
        ids,
        targets,
        positions,
        cu_seqlens,
        weights,
        by_source,
        x,
        x_host,
        n1,
        rstd1,
        attention,
        o,
        x2,
        n2,
        rstd2,
        gate_up,
        act,
        twice,
        brief,
        branch,
        wide,
        dres,
        dy_ffn,
        dy_attention,
        dact,
        dn,
        d_o,
        eight,
        xf,
        rstdf,
        logits,
        parts,
        dxf,
    }
}

/// Declares what 8-bit products read. Forward e4m3, gradients e5m2 (Micikevicius et al. 2022, arXiv 2209.05433).
fn eight_bits(b: &mut Builder, plan: &Plan, shape: &Shape, heads: u64) -> EightBits {
    let (hidden, ffn) = (plan.model.hidden, shape.ffn);
    let known = plan.model.dropout == 0.0 && plan.freeze.is_empty() && plan.layout.pp == 1;
    let n = shape.tokens;
    let packed = heads + 2 * shape.kv_heads * (heads / shape.heads);
    let class = Class::Activation;
    let mut declare = |prefix: &str, name: &str, width: u64, dtype, kept| Eight {
        whole: b.buffer(&format!("{prefix}.{name}"), &[n, width], dtype, class, Index::Slot),
        turned: b.buffer(&format!("{prefix}t.{name}"), &[width, n], dtype, class, kept),
        scale: b.buffer(&format!("{prefix}s.{name}"), &[1], DType::F32, class, kept),
    };
    let [qkv, o, gate_up, down] = EIGHT;
    let inputs = [(qkv, hidden), (o, heads), (gate_up, hidden), (down, ffn)]
        .map(|(name, width)| declare("x8", name, width, DType::F8E4m3, Index::LayerSlot));
    let gradients = [(qkv, packed), (o, hidden), (gate_up, 2 * ffn), (down, hidden)]
        .map(|(name, width)| declare("d8", name, width, DType::F8E5m2, Index::Slot));
    let mut scalar =
        |name: &str| Some(b.buffer(&format!("most.{name}"), &[1], DType::F32, class, Index::Slot));
    let input_magnitudes = [scalar("x.qkv"), None, scalar("x.gate_up"), scalar("x.down")];
    // Dropout, frozen norms and other pipeline ranks change it or make it otherwise.
    let residual = if known { scalar("dres") } else { None };
    let gradient_magnitudes = [scalar("d.qkv"), residual, scalar("d.gate_up"), residual];
    EightBits { inputs, gradients, input_magnitudes, gradient_magnitudes, residual }
}

/// Declares x: one more than there are blocks in each run; only two when block inputs leave for host memory.
fn residual_stream(b: &mut Builder, shape: &Shape, extents: &[u64]) -> Ref {
    let index = if shape.offload_activations { Index::LayerRing } else { Index::LayerSlot };
    let x = b.buffer("x", extents, shape.compute, Class::Activation, index);
    if let Some(buffer) = b.edit(x).filter(|_| index == Index::LayerSlot) {
        buffer.layers += 1;
        buffer.run += u64::from(buffer.period > 0);
    }
    x
}

/// Declares for a rank with deferred weight gradients what a block works with that is made twice: for the forward pass, as
/// `Saved` by one that keeps nothing, and for the backward pass, whose weight gradient reads it later. What both share would
/// need bytes from the one to the other. What is kept from the forward pass has a slot until then.
fn twice(b: &mut Builder, shape: &Shape, kept: &Saved) -> [Saved; 2] {
    let waits = |b: &mut Builder, r: Ref, slots: u64| {
        if let Some(buffer) = b.edit(r) {
            buffer.slots = slots;
        }
    };
    let Windows { held, late, .. } = shape.windows;
    kept.all().into_iter().for_each(|r| waits(b, r, held));
    let again = |b: &mut Builder, suffix: &str, index: Index| {
        let mut copy = |r: Ref| {
            let made = copy(b, r, suffix, index);
            if index == Index::LayerSlot {
                waits(b, made, late);
            }
            made
        };
        let Saved { n1, n2, act, o, gate_up } = *kept;
        Saved { n1: copy(n1), n2: copy(n2), act: copy(act), o: copy(o), gate_up: copy(gate_up) }
    };
    [again(b, "pass", Index::Slot), again(b, "redone", Index::LayerSlot)]
}

/// Declares a buffer like another.
fn copy(b: &mut Builder, like: Ref, suffix: &str, index: Index) -> Ref {
    let Some(of) = b.program.buffer(like.buffer).cloned() else { return like };
    b.buffer(&format!("{}.{suffix}", of.name), &of.shape, of.dtype, of.class, index)
}

/// Declares what attention saves and passes back.
fn attention(b: &mut Builder, plan: &Plan, shape: &Shape) -> Attention {
    let (n, c, dim) = (shape.tokens, shape.compute, plan.model.head_dim);
    let (q, kv) = (shape.heads * dim, 2 * shape.kv_heads * dim);
    let class = Class::Activation;
    if shape.cp.0 == 1 {
        let qkv = b.buffer("qkv", &[n, q + kv], c, class, Index::LayerSlot);
        let lse = b.buffer("lse", &[shape.heads, n], DType::F32, class, Index::LayerSlot);
        let kept = if shape.deferred { Index::LayerSlot } else { Index::Slot };
        let dqkv = b.buffer("dqkv", &[n, q + kv], c, class, kept);
        if let Some(buffer) = b.edit(dqkv).filter(|_| shape.deferred) {
            buffer.slots = shape.windows.late;
        }
        return Attention::Packed { qkv, lse, dqkv };
    }
    let mut saved = |name: &str, shape: &[u64], dtype| b.buffer(name, shape, dtype, class, Index::LayerSlot);
    let (q_, kv_) = (saved("q", &[n, q], c), saved("kv", &[n, kv], c));
    let lse = ["lse.early", "lse.late"].map(|s| saved(s, &[shape.heads, n / 2], DType::F32));
    let mut passing = |name: &str, shape: &[u64], dtype, class| {
        // Other streams touch what goes around, so none of its instances share bytes: no more than are needed.
        let index = if class == Class::Communication { Index::MicroBatch } else { Index::Slot };
        b.buffer(name, shape, dtype, class, index)
    };
    let rings = Class::Communication;
    Attention::Ring(Box::new(Ring {
        q: q_,
        kv: kv_,
        lse,
        kv_ring: ["kv.ring.0", "kv.ring.1"].map(|s| passing(s, &[n, kv], c, rings)),
        partial: passing("partial", &[n / 2, q], c, class),
        partial_lse: passing("partial.lse", &[shape.heads, n / 2], DType::F32, class),
        dq: passing("dq", &[n, q], DType::F32, class),
        dkv_ring: ["dkv.ring.0", "dkv.ring.1"].map(|s| passing(s, &[n, kv], DType::F32, rings)),
        dkv_share: passing("dkv.share", &[n, kv], DType::F32, class),
        dq_out: passing("dq.out", &[n, q], c, class),
        dkv_out: passing("dkv.out", &[n, kv], c, class),
    }))
}
