//! Bytes of one pipeline stage, in closed form, by kind; three totals: allocated, reserved, device.
//!
//! Activations after Korthikanti et al. 2022 (arXiv 2205.05198) with fused attention; states after Rajbhandari et al.
//! 2020 (arXiv 1910.02054). Here: as Megatron, DeepSpeed and FSDP hold them; [`super::own`]: as our lowering does.

use llmc_plan::plan::{Offload, Recompute, Schedule, StageMemory};

use super::layer::tokens;
use super::{Point, Setting, own};
use crate::question::Redone;

/// Bytes that one layer keeps from forward to backward, one micro-batch.
///
/// Per token: input, two norm outputs, the stream after attention (4h), q and attention output (2q), k and v (2kv),
/// gate, up and product (3f), each in the activation's width, and one f32 log-sum-exp a head.
pub fn layer_activations(s: &Setting, point: &Point, recompute: Recompute) -> f64 {
    let shape = &s.shape;
    let variant = &shape.variant;
    let n = tokens(s, point);
    let t = point.tp as f64;
    let spread = if point.sp { t } else { 1.0 };
    let b = s.act();
    let h = shape.hidden as f64;
    if recompute == Recompute::Full {
        let stream = if variant.autocast { 4.0 } else { b };
        return n * h * stream / spread;
    }
    let q = (shape.heads * shape.head_dim) as f64 / t;
    let kv = (shape.kv_heads * shape.head_dim) as f64 / t;
    let f = shape.ffn as f64 / t;
    let heads = shape.heads as f64 / t;
    let wide = match (shape.gated(), variant.eager || variant.kept_gate) {
        (true, false) => 3.0,
        (true, true) => 4.0,
        // Its input, half of that, tanh, one more and the output; powers run in f32 under autocast, and so what follows (`NewGELUActivation`,
        // transformers/activations.py).
        (false, true) if variant.composite_gelu && variant.autocast => 8.0,
        (false, true) if variant.composite_gelu => 5.0,
        (false, _) => 2.0,
    };
    if recompute == Recompute::Selective && variant.redone == Redone::Layers {
        // Every second layer keeps its input alone.
        let each = |recompute| layer_activations(s, point, recompute);
        return 0.5 * (each(Recompute::None) + each(Recompute::Full));
    }
    if recompute == Recompute::Selective && variant.selective_products {
        // torchtitan's per-operator policy keeps attention's output and products 1, 3, 5, 7 of q, k, v, o, gate, up, down
        // (torchtitan/models/*/infra/parallelize.py, `mm_count % 2`), and the layer's input. No backward reads the output
        // of down, which a compiler therefore drops.
        let streams = if variant.eager { 2.0 } else { 1.0 };
        return n * (b * (streams * h / spread + 2.0 * q + kv + f) + 4.0 * heads);
    }
    let selective = recompute == Recompute::Selective && !variant.selective_scores;
    let (streams, products) = match selective {
        // Of the feed-forward only the stream that it starts from.
        true if variant.selective_feed_forward => (3.0, 0.0),
        true => (2.0, wide - 1.0),
        false => (4.0, wide),
    };
    let mut bytes = n * (b * (streams * h / spread + 2.0 * q + 2.0 * kv + products * f) + 4.0 * heads);
    let [queries, keys] = variant.attention_copies.map(|n| n as f64);
    bytes += n * b * (queries * q + keys * kv);
    if variant.repeated_keys && !selective {
        bytes += n * b * 2.0 * (q - kv);
    }
    if variant.gathered_norms && !selective {
        bytes += n * b * 2.0 * (h - h / spread);
    }
    if variant.quantised_copies > 0 && !selective {
        // Both norms' outputs and the feed-forward's product take a byte less; attention's output has an 8-bit copy, as
        // attention itself needs the other.
        bytes -= n * (2.0 * h / spread + f - q);
    }
    if variant.copied_inputs && point.tp > 1 && !selective {
        // Queries, keys, values and the feed-forward's instead of two norm outputs.
        bytes += n * b * (1.0 + if shape.gated() { 2.0 } else { 1.0 }) * h / spread;
    }
    if shape.dropout {
        bytes += n * 2.0 * h / spread;
    }
    if variant.upcast_norms {
        // Each of two norms: the input in f32 instead of 16 bits, which nothing else reads, and the normalised stream.
        bytes += n * 2.0 * if variant.wide_norms { 6.0 } else { 4.0 } * h / spread;
    }
    if variant.autocast {
        // The stream is twice as wide and each product keeps its own copy of a norm's output; RMSNorm in eager mode keeps the normalised
        // stream in f32 too. Compiled, 6 a width: five runs of our own (2026-12-01, H200).
        bytes += n * h / spread
            * match (variant.layer_norm, variant.eager) {
                (true, _) => 4.0,
                (false, true) => 10.0,
                (false, false) => 6.0,
            };
    }
    if variant.unfused_attention && recompute == Recompute::None {
        // Softmax output, its dropout and mask.
        let score = if variant.score_bytes > 0 { variant.score_bytes as f64 } else { 2.0 * b + 1.0 };
        bytes += n * shape.context as f64 * heads * score;
    }
    bytes
}

/// Micro-batches in flight on pipeline rank `stage`, in whole-stage units, where an interleaved pipeline turns to its next
/// chunk after `group` of them (0: after as many as there are stages).
pub fn in_flight(point: &Point, stage: u64, micro_batches: u64, group: u64) -> f64 {
    match point.schedule {
        Schedule::None => 1.0,
        Schedule::OneFOneB | Schedule::ZeroBubble => (point.pp - stage).min(micro_batches) as f64,
        // Warm-up chunks of Megatron's interleaved schedule: 2(p−i−1) + (v−1)g + 1 of v a micro-batch
        // (megatron/core/pipeline_parallel/schedules.py, `get_pp_rank_microbatches`).
        Schedule::Interleaved => {
            let group = if group > 0 { group } else { point.pp };
            let ahead = (point.vp - 1).saturating_mul(group);
            let chunks = ahead.saturating_add(2 * (point.pp - stage - 1) + 1);
            chunks.min(micro_batches * point.vp) as f64 / point.vp as f64
        }
    }
}

/// Parameters that one rank of pipeline stage `stage` holds before any ZeRO sharding.
pub fn stage_params(s: &Setting, point: &Point, stage: u64) -> f64 {
    let shape = &s.shape;
    let t = point.tp as f64;
    let layers = s.stage_layers(point.pp, stage) as f64;
    if s.own() {
        let each = shape.layer_matrix_params() as f64 / t + shape.layer_vector_params() as f64;
        return layers * each + own::end_params(s, point, stage);
    }
    let mut params = layers * (shape.layer_matrix_params() as f64 / t + shape.layer_vector_params() as f64);
    if stage == 0 {
        params += shape.embedding_params() as f64 / t;
    }
    if stage == point.pp - 1 {
        params += shape.head_params() as f64 / t;
        if shape.tied && point.pp > 1 {
            params += shape.embedding_params() as f64 / t;
        }
    }
    params
}

/// Parameters of the rank that holds most. Of even stages that is the first or the last.
pub fn most_params(s: &Setting, point: &Point) -> f64 {
    let ends = stage_params(s, point, 0).max(stage_params(s, point, point.pp - 1));
    let inner = 1..if s.split.is_empty() { 1 } else { point.pp };
    inner.map(|stage| stage_params(s, point, stage)).fold(ends, f64::max)
}

/// Sum of the parts, as floats; [`stage_memory`] rounds them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts {
    /// Weights and gathered units.
    pub parameters: f64,
    /// Accumulators and unsharded transients.
    pub gradients: f64,
    /// Master copies and moments on the device.
    pub optimizer: f64,
    /// Kept activations and the backward's transients.
    pub activations: f64,
    /// Logits and loss.
    pub logits: f64,
    /// Batches, receive buffers, library workspaces.
    pub buffers: f64,
}

impl Parts {
    /// Bytes in live tensors at the peak.
    pub fn allocated(&self) -> f64 {
        self.parameters + self.gradients + self.optimizer + self.activations + self.logits + self.buffers
    }

    /// These and `times` the others.
    pub fn plus(&self, other: &Parts, times: f64) -> Parts {
        Parts {
            parameters: self.parameters + times * other.parameters,
            gradients: self.gradients + times * other.gradients,
            optimizer: self.optimizer + times * other.optimizer,
            activations: self.activations + times * other.activations,
            logits: self.logits + times * other.logits,
            buffers: self.buffers + times * other.buffers,
        }
    }
}

/// What depends on the states only: parameters, gradients, optimizer.
pub fn states(s: &Setting, point: &Point, stage: u64) -> Parts {
    if s.own() {
        return own::states(s, point, stage);
    }
    let params = stage_params(s, point, stage);
    let g = s.sharded(point) as f64;
    let layer = s.shape.layer_matrix_params() as f64 / point.tp as f64;
    let split = |from: u64| match point.zero >= from {
        true if s.shape.variant.host_states => 0.0,
        true => params / g,
        false => params,
    };
    let mut p = Parts {
        parameters: split(3) * s.state.weight,
        gradients: split(2) * s.state.gradient,
        optimizer: split(1) * (s.state.optimizer - s.state.paged),
        ..Parts::default()
    };
    if point.offload == Offload::Optimizer {
        // Two blocks of master and moments in flight between host and device.
        p.optimizer = (2.0 * 12.0 * 33554432.0_f64).min(p.optimizer);
    }
    if point.zero >= 2 && g > 1.0 {
        p.gradients += 2.0 * layer * s.state.gradient;
    }
    p.parameters += gathered(s, point, stage);
    p
}

/// Bytes of weights that are gathered while layers run: those of the layer that runs and of the next, or of all; FSDP and DeepSpeed
/// gather the head whole, where its gradient is whole too.
fn gathered(s: &Setting, point: &Point, stage: u64) -> f64 {
    if point.zero < 3 || s.sharded(point) <= 1 {
        return 0.0;
    }
    let layer = s.shape.layer_matrix_params() as f64 / point.tp as f64;
    let layers = if s.shape.variant.held_weights { s.stage_layers(point.pp, stage) as f64 } else { 2.0 };
    layers * layer * s.state.weight + 2.0 * head_gradient(s, point, stage)
}

/// What depends on the micro-batch only: activations, logits, buffers.
pub fn working(s: &Setting, point: &Point, stage: u64) -> Parts {
    if s.own() {
        return own::working(s, point, stage);
    }
    let variant = &s.shape.variant;
    let n = tokens(s, point);
    let b = s.act();
    let t = point.tp as f64;
    let h = s.shape.hidden as f64;
    let spread = if point.sp { t } else { 1.0 };
    let layers = s.stage_layers(point.pp, stage) as f64;
    let flying = in_flight(point, stage, s.micro_batches(point), s.shape.variant.chunk_group);
    let kept = layer_activations(s, point, point.recompute);
    let mut activations = layers * flying * kept + casts(s, point, stage);
    if point.offload == Offload::Activations {
        // Two layers' inputs stay while they travel.
        activations = activations.min(2.0 * kept);
    }
    let vocab = s.shape.vocab as f64 / t;
    // A whole micro-batch's logits, and copies for the loss; or a block of rows where they are fused.
    let (rows, width) = if s.shape.variant.logit_bytes > 0 {
        (n, s.shape.variant.logit_bytes as f64)
    } else {
        (n.min((67108864.0 / (vocab * b)).max(1024.0)), b)
    };
    let logits = if stage == point.pp - 1 { rows * vocab * width } else { 0.0 };
    let layer = backward_transient(s, point);
    // Where softmax and gradient of the loss are counted, they are gone when the first layer runs backward.
    // So is a recomputed layer's work.
    let gone =
        width > 6.0 || width <= 2.0 || variant.fleeting_gradients || point.recompute == Recompute::Full;
    activations += if gone { (layer - logits).max(0.0) } else { layer };
    let mut buffers = n * 32.0;
    if point.pp > 1 {
        buffers += 4.0 * n * h * b / spread;
    }
    if point.tp > 1 && point.sp {
        buffers += n * h * b;
    }
    if point.cp > 1 {
        // Of the ring all keys and values that come by, and each step's output until they are merged (Transformer Engine's
        // attention/dot_product_attention/context_parallel.py, `p2p_comm_buffers` and `out_per_step`).
        let passing = ((2 * s.shape.kv_heads + s.shape.heads) * s.shape.head_dim) as f64;
        buffers += point.cp as f64 * n * passing / t * b;
    }
    if stage == point.pp - 1 {
        let waiting = s.shape.variant.deferred_heads.min(s.micro_batches(point)) as f64;
        buffers += waiting * n * b * (vocab + h / spread);
    }
    if s.shape.variant.dummy_gradients {
        buffers += b * s.shape.layer_matrix_params() as f64 / t;
        buffers += if stage == point.pp - 1 { b * h * vocab } else { 0.0 };
    }
    buffers += s.profile.fixed.workspace_bytes as f64;
    if s.shape.variant.quantised_copies > 0 {
        // `get_weight_workspace` and its transpose (transformer_engine/pytorch/module/linear.py).
        buffers +=
            s.shape.variant.quantised_copies as f64 * layers * s.shape.layer_matrix_params() as f64 / t;
    }
    Parts { activations, logits, buffers, ..Parts::default() }
}

/// 16-bit copies of the products' f32 weights, which a forward pass makes once and its backward pass reads (`cache_enabled` of
/// torch.autocast). A tied head casts the embedding.
fn casts(s: &Setting, point: &Point, stage: u64) -> f64 {
    let shape = &s.shape;
    let unread =
        if stage == 0 && !shape.tied { shape.embedding_params() as f64 / point.tp as f64 } else { 0.0 };
    if shape.variant.autocast { s.act() * (stage_params(s, point, stage) - unread) } else { 0.0 }
}

/// Bytes that the update of a rank's share works through.
fn update(s: &Setting, point: &Point, stage: u64) -> f64 {
    if s.shape.variant.host_states {
        return 0.0;
    }
    let ranks = if point.zero >= 1 { s.sharded(point) as f64 } else { 1.0 };
    s.state.scratch * stage_params(s, point, stage) / ranks
}

/// Bytes that the backward pass of a layer frees; of other stacks' programs nothing is said.
pub fn freed(s: &Setting, point: &Point) -> f64 {
    if s.own() { own::freed(s, point) } else { 0.0 }
}

/// Allocated, reserved, device of a sum of parts.
pub fn totals(s: &Setting, point: &Point, allocated: f64) -> (f64, f64) {
    let fixed = &s.profile.fixed;
    let reserved = allocated * (1.0 + fixed.slack);
    let groups = [point.tp, point.cp, point.pp, point.dp].iter().filter(|n| **n > 1).count() as u64;
    let groups = (groups + s.communicators) as f64;
    (reserved, reserved + fixed.context_bytes as f64 + groups * fixed.communicator_bytes as f64)
}

/// All figures of pipeline rank `stage`.
pub fn stage_memory(s: &Setting, point: &Point, stage: u64) -> StageMemory {
    let variant = &s.shape.variant;
    let fleeting = variant.update_in_backward
        || (variant.fleeting_gradients && s.micro_batches(point) == 1 && point.pp == 1);
    let working = working(s, point, stage);
    let mut parts = states(s, point, stage).plus(&working, 1.0);
    if !fleeting {
        // What the update alone needs is there when activations are gone.
        let update = if s.own() { 0.0 } else { update(s, point, stage) };
        parts.buffers += (update - working.allocated()).max(0.0);
        return whole_bytes(s, point, parts);
    }
    let head = head_gradient(s, point, stage);
    let all = parts.gradients + head * s.state.gradient / s.act();
    parts.parameters -= head;
    parts.gradients = fleeting_gradients(s, point, stage, &working, head);
    let mut memory = whole_bytes(s, point, parts);
    if point.zero >= 2 && s.sharded(point) > 1 {
        // Sharded gradients and what is reduced into them lie in the pool of the stream that reduces, which serves no other
        // (torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py, `foreach_reduce`; CUDACachingAllocator: a block is its stream's).
        let apart = (all - parts.gradients).max(0.0) as u64;
        memory.reserved += apart;
        memory.device += apart;
    }
    memory
}

/// The same at the end of the first step: moments, `moments` bytes a parameter, are made by the update when activations are gone.
pub fn first_step(s: &Setting, point: &Point, stage: u64, moments: f64) -> StageMemory {
    let mut before = s.clone();
    before.state.optimizer = (s.state.optimizer - moments).max(0.0);
    before.state.scratch = 0.0;
    let passes = stage_memory(&before, point, stage);
    let mut parts = states(s, point, stage);
    parts.buffers += s.profile.fixed.workspace_bytes as f64 + update(s, point, stage);
    let rest = whole_bytes(s, point, parts);
    let [reserved, device] = [rest.reserved.max(passes.reserved), rest.device.max(passes.device)];
    let most = if rest.allocated > passes.allocated { rest } else { passes };
    StageMemory { reserved, device, ..most }
}

/// Gradients at the peak of a pass without accumulation, where none outlives its update (torch/optim/optimizer.py, `zero_grad`:
/// `set_to_none`): a rank's grow from the last layer to the first as activations and logits go, so that the peak is at the loss, in the
/// last layer's backward pass, or after the first's.
fn fleeting_gradients(s: &Setting, point: &Point, stage: u64, working: &Parts, head: f64) -> f64 {
    let sharded = point.zero >= 2 && s.sharded(point) > 1;
    let ranks = if sharded { s.sharded(point) as f64 } else { 1.0 };
    let held = match s.shape.variant.update_in_backward || s.shape.variant.host_states {
        true => 0.0,
        false => stage_params(s, point, stage) * s.state.gradient / ranks,
    };
    // One that is complete and one that is being made: whole until they are reduced.
    let layer = s.shape.layer_matrix_params() as f64 / point.tp as f64 * s.state.gradient;
    let made = if sharded { 2.0 * layer } else { layer };
    let layers = s.stage_layers(point.pp, stage) as f64;
    let kept = match point.offload {
        Offload::Activations => working.activations.min(2.0 * layer_activations(s, point, point.recompute)),
        _ => layers * layer_activations(s, point, point.recompute) + casts(s, point, stage),
    };
    let transient = backward_transient(s, point);
    let last = kept + transient + made + head;
    let first = held + if sharded { made } else { 0.0 } + kept / layers + transient;
    // Whole gradients and gathered weights are gone when the update begins.
    let updated = held + update(s, point, stage) + head - gathered(s, point, stage);
    (last.max(first).max(updated) - working.activations - working.logits).max(0.0)
}

/// The head's gradient, whole in 16 bits until it is scattered.
fn head_gradient(s: &Setting, point: &Point, stage: u64) -> f64 {
    let whole = point.zero >= 3 && s.sharded(point) > 1 && stage == point.pp - 1;
    if whole { s.act() * (s.shape.vocab * s.shape.hidden) as f64 / point.tp as f64 } else { 0.0 }
}

/// What a layer's backward pass needs beside what is kept for it.
fn backward_transient(s: &Setting, point: &Point) -> f64 {
    let n = tokens(s, point);
    let b = s.act();
    let spread = if point.sp { point.tp as f64 } else { 1.0 };
    let whole = layer_activations(s, point, Recompute::None);
    let stream = n * b * s.shape.hidden as f64 / spread;
    let wide = n * b * s.shape.ffn as f64 / point.tp as f64;
    // Gradients of SwiGLU's product, gate and up.
    let wides = if s.shape.variant.gate_in_place { 1.0 } else { 3.0 };
    (whole - layer_activations(s, point, point.recompute)).max(0.0) + 2.0 * stream + wides * wide
}

/// Parts as whole bytes, with their totals.
pub fn whole_bytes(s: &Setting, point: &Point, parts: Parts) -> StageMemory {
    let whole = |x: f64| x.ceil().max(0.0) as u64;
    let mut m = StageMemory {
        parameters: whole(parts.parameters),
        gradients: whole(parts.gradients),
        optimizer: whole(parts.optimizer),
        activations: whole(parts.activations),
        logits: whole(parts.logits),
        buffers: whole(parts.buffers),
        allocated: 0,
        reserved: 0,
        device: 0,
    };
    m.allocated = m.parameters + m.gradients + m.optimizer + m.activations + m.logits + m.buffers;
    let (reserved, device) = totals(s, point, m.allocated as f64);
    let mut torn = s.state_slack * (parts.parameters + parts.gradients + parts.optimizer);
    if point.recompute == Recompute::Full {
        torn += s.logit_slack * parts.optimizer.min(parts.logits);
    }
    m.reserved = whole(reserved + torn);
    m.device = whole(device + torn);
    m
}

/// Host bytes that one machine must hold for `point`.
pub fn host_bytes(s: &Setting, point: &Point) -> f64 {
    let mut each = 0.0_f64;
    let params = most_params(s, point);
    let share = if point.zero >= 1 { params / s.sharded(point) as f64 } else { params };
    if point.offload == Offload::Optimizer {
        each += share * (s.state.optimizer + s.state.gradient);
    } else {
        each += share * s.state.paged;
    }
    if point.offload == Offload::Activations {
        let flying = in_flight(point, 0, s.micro_batches(point), s.shape.variant.chunk_group);
        each += s.stage_layers(point.pp, 0) as f64 * flying * layer_activations(s, point, point.recompute);
    }
    each * s.gpus_per_node.min(s.gpus()) as f64
}
