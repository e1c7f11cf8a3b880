//! Seconds of one optimizer step of a layout, as a sum of exposed terms.

use std::collections::BTreeMap;

use llmc_plan::plan::{Offload, Recompute, Schedule};

use super::comm::{Group, all_reduce, scatter, send};
use super::kernels::bandwidth;
use super::layer::{LayerTime, ends, gathered_late, layer, scheduled, tokens};
use super::memory::{layer_activations, most_params};
use super::{Point, Setting};

/// Parts of a step that depend on tp, sp, cp, pp, vp, schedule, micro-batch and recompute, not on ZeRO or offload.
#[derive(Debug, Clone, Copy, Default)]
pub struct Compute {
    /// One layer and micro-batch.
    pub layer: LayerTime,
    /// Embedding of one micro-batch.
    pub embedding: f64,
    /// Head and loss of one micro-batch.
    pub head: f64,
    /// Layers of the slowest stage.
    pub layers: f64,
    /// Micro-batches.
    pub micro_batches: f64,
    /// Time one stage is busy with one micro-batch, slowest stage.
    pub stage: f64,
    /// Whole pipeline: fill, steady state, drain; without data parallelism and optimizer.
    pub pipeline: f64,
    /// Of `pipeline`, idle time of the slowest stage.
    pub bubble: f64,
    /// Of `pipeline`, exposed sends.
    pub sends: f64,
    /// Of `stage`, exposed traffic of block inputs to host memory, where only some of the layers send theirs.
    pub travel: f64,
}

/// Terms of a step, seconds; their sum is the step.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Step {
    /// Exposed gradient reduction and parameter gathering.
    pub data_parallel: f64,
    /// Slow-down of computation that runs beside communication.
    pub interference: f64,
    /// Optimizer pass and gradient norm.
    pub optimizer: f64,
    /// Exposed host traffic.
    pub offload: f64,
    /// Fixed costs.
    pub overhead: f64,
    /// Waiting for the slowest device.
    pub straggler: f64,
    /// All of it, with the pipeline.
    pub total: f64,
}

/// The compute part of `point`.
pub fn compute(s: &Setting, point: &Point) -> Compute {
    assemble(s, point, layer(s, point), ends(s, point))
}

/// The compute part of `point` over its layer and its (embedding, head), which many points share.
pub fn assemble(s: &Setting, point: &Point, time: LayerTime, (embedding, head): (f64, f64)) -> Compute {
    let p = point.pp;
    let time = scheduled(s, point, time);
    let each = layer_seconds(s, point, &time);
    let mut slowest = 0.0_f64;
    let mut layers = 0.0;
    for stage in [0, p.min(2) - 1, p - 1].iter().copied() {
        let busy = stage_time(s, p, stage, each, embedding, head);
        if busy > slowest {
            slowest = busy;
            layers = s.stage_layers(p, stage) as f64;
        }
    }
    // Every stage once: the layers are shared out, so the sum needs no walk over stages.
    let sum = s.shape.layers as f64 * each + embedding + head;
    pipeline(s, point, time, (embedding, head), (slowest, layers, sum))
}

/// Seconds a layer and micro-batch keep a rank busy, forward and backward.
pub fn layer_seconds(s: &Setting, point: &Point, time: &LayerTime) -> f64 {
    // The host must enqueue a layer faster than the device runs it.
    let collectives = match (point.tp > 1, point.sp) {
        (false, _) => 0.0,
        (true, false) => 2.0,
        (true, true) => 4.0,
    };
    let host = s.profile.fixed.host_layer + collectives * s.profile.fixed.host_collective;
    let again = if point.recompute == Recompute::Full { 3.0 } else { 2.0 };
    slower(time.forward(), host) + slower(time.backward(), again * host)
}

/// Idle seconds that the schedule fills with weight gradients: two W a stage of the (p − 1)(F + B + W) of 1F1B. So it is in
/// the order of plan/src/lower/pipeline.rs (`planner/tests/walk_time.rs`); ZB-H1 promises three (arXiv 2401.10241, table 2)
/// where the last rank's weight gradients wait for nothing.
pub fn filled(s: &Setting, point: &Point, time: &LayerTime) -> f64 {
    if point.schedule != Schedule::ZeroBubble {
        return 0.0;
    }
    let p = point.pp;
    let each = time.gemm_weight + gathered_late(s, point);
    2.0 * each * s.shape.layers as f64 * (p - 1) as f64 / p as f64
}

/// Exposed sends of a step, where a stage waits `slack` seconds a micro-batch for the slowest one anyway; with endless slack
/// the least there can be.
pub fn sends(s: &Setting, point: &Point, slack: f64) -> f64 {
    let p = point.pp;
    if p == 1 {
        return 0.0;
    }
    let crossing = point.tp * point.cp * point.dp >= s.link_domain;
    let whole = tokens(s, point) * s.shape.hidden as f64 * s.act();
    let split = point.sp || s.shape.variant.scattered_sends;
    let mut each = send(s, whole / if split { point.tp as f64 } else { 1.0 }, crossing && s.nodes > 1);
    if split && !point.sp {
        each += scatter(s, Group::strided(point.tp, 1, s.link_domain), whole);
    }
    // Every chunk boundary is a send.
    let rounds = s.micro_batches(point) as f64 * point.vp as f64;
    let exposed = if s.own() { (each - slack).max(0.0) } else { each };
    2.0 * (p - 1) as f64 * each + rounds * exposed
}

/// The pipeline over its slowest stage, that stage's layers, and the sum of all stages.
pub fn pipeline(
    s: &Setting,
    point: &Point,
    time: LayerTime,
    (embedding, head): (f64, f64),
    (slowest, layers, sum): (f64, f64, f64),
) -> Compute {
    let m = s.micro_batches(point) as f64;
    let bubble = match point.schedule {
        Schedule::None => 0.0,
        // Fill and drain: every other stage once (Alpa, arXiv 2201.12023: Σ stage + (m − 1)·max).
        Schedule::OneFOneB => sum - slowest,
        // Each of v chunks is 1/v as long (arXiv 2104.04473, section 2.2).
        Schedule::Interleaved => (sum - slowest) / point.vp as f64,
        Schedule::ZeroBubble => (sum - slowest - filled(s, point, &time)).max(0.0),
    };
    // A rank repeats its last layer's forward pass before the gradient arrives.
    let early = if s.own() && point.recompute == Recompute::Full { time.recompute } else { 0.0 };
    let bubble = (bubble - (point.pp - 1) as f64 * early).max(0.0);
    // Others wait for the slowest stage; weight gradients that run apart leave room for the round trip of two sends.
    let others = (sum - slowest) / (point.pp - 1).max(1) as f64;
    let apart = if point.schedule == Schedule::ZeroBubble { layers * time.gemm_weight / 2.0 } else { 0.0 };
    let slack = (slowest - others) / point.vp as f64 + apart;
    let sends = sends(s, point, slack) + contention(s, point) * (m * slowest + bubble);
    Compute {
        layer: time,
        embedding,
        head,
        layers,
        micro_batches: m,
        stage: slowest,
        pipeline: m * slowest + bubble + sends,
        bubble,
        sends,
        travel: 0.0,
    }
}

/// Share of a pipeline's time lost to the other pipelines on its machines (see [`crate::profile::Comm::contention`]).
fn contention(s: &Setting, point: &Point) -> f64 {
    let c = s.profile.comm.contention;
    let machine = s.gpus_per_node;
    if c == 0.0 || point.pp == 1 || s.nodes == 1 || point.tp >= machine || point.dp <= machine {
        return 0.0;
    }
    let replicas = (machine / point.tp) as f64;
    c * (replicas - 1.0) * libm::log2(point.dp as f64 / machine as f64)
}

/// Seconds of a device part whose kernels the host enqueues in `host` seconds: the larger of both where they are far
/// apart, more where they are close, since layers differ and the host jitters (4-norm).
fn slower(device: f64, host: f64) -> f64 {
    let (a, b) = (device * device, host * host);
    (a * a + b * b).sqrt().sqrt()
}

/// Busy seconds of a stage for one micro-batch.
fn stage_time(s: &Setting, pp: u64, stage: u64, layer: f64, embedding: f64, head: f64) -> f64 {
    let mut time = s.stage_layers(pp, stage) as f64 * layer;
    if stage == 0 {
        time += embedding;
    }
    if stage == pp - 1 {
        time += head;
    }
    time
}

/// Collectives of data parallelism and ZeRO over one step: (exposed, hidden beside computation).
///
/// ZeRO-0: one all-reduce of the gradients. ZeRO-1: reduce-scatter once, all-gather of weights once. ZeRO-2: the
/// gradients are sharded, so a reduce-scatter every micro-batch. ZeRO-3: two gathers and a reduce-scatter every
/// micro-batch. A shard group smaller than dp adds an all-reduce of the shards over the replicas. Context-parallel
/// ranks hold the same weights and join the reduction.
fn data_parallel(s: &Setting, point: &Point, c: &Compute) -> (f64, f64) {
    let replicas = point.dp * point.cp;
    if replicas <= 1 {
        return (0.0, 0.0);
    }
    let params = most_params(s, point);
    let gradient = params * s.state.reduced - narrower(s, point);
    let weight = params * s.state.weight;
    let shard = if point.zero == 0 { 1 } else { s.sharded(point) };
    let apart = point.tp * if s.own() { point.cp } else { 1 };
    let inner = Group::strided(shard, apart, s.link_domain);
    let outer = Group::strided(replicas / shard.max(1), point.tp * shard, s.link_domain);
    let o = if s.shape.variant.late_reduction && point.zero < 3 { 0.0 } else { s.profile.comm.overlap };
    let m = c.micro_batches;
    // Of an interleaved pipeline's chunks the last one's gradients are whole once it has seen every micro-batch, while the
    // others still work through their last round of them; weights are gathered for the first rounds alike (Megatron-LM,
    // `grad_sync_func` and `param_sync_func` in core/pipeline_parallel/schedules.py).
    let passes = if point.schedule == Schedule::Interleaved && !s.own() {
        let v = point.vp as f64;
        (m.min(point.pp as f64) * (v - 1.0) + 1.0) / v
    } else {
        1.0
    };
    let backward = passes * c.layers * c.layer.backward();
    let forward = passes * c.layers * c.layer.forward();
    // What is still to be reduced when the last layer of a backward ends, or to be gathered before the first.
    let edge = 1.0 / c.layers.max(1.0);
    let expose = |wire: f64, room: f64| {
        let exposed = (wire - room).max(wire * edge).max(wire * (1.0 - o));
        (exposed, wire - exposed)
    };
    let mut exposed = 0.0;
    let mut hidden = 0.0;
    // Ours goes on with the next micro-batch meanwhile, so only the step's first or last layer has nothing beside it.
    let of_step = |wire: f64, room: f64| {
        let each = (wire - room).max(wire * (1.0 - o));
        let exposed = (each + (wire * edge - each).max(0.0) / m).min(wire);
        (exposed, wire - exposed)
    };
    let each = |wire: f64, room: f64| if s.own() { of_step(wire, room) } else { expose(wire, room) };
    // Each layer's updated weights travel beside the update of the next.
    let published = |wire: f64| {
        let (exposed, hidden) = expose(wire, forward);
        if s.own() { (wire * (1.0 - o), wire * o) } else { (exposed, hidden) }
    };
    let mut add = |(e, h): (f64, f64), times: f64| {
        exposed += e * times;
        hidden += h * times;
    };
    let replicate = all_reduce(s, outer, gradient / shard.max(1) as f64);
    match point.zero {
        0 => add(expose(all_reduce(s, outer, gradient), backward), 1.0),
        1 => {
            add(expose(scatter(s, inner, gradient) + replicate, backward), 1.0);
            add(published(scatter(s, inner, weight)), 1.0);
        }
        // Under a pipeline, PyTorch gathers once and reduces after the last micro-batch (torch/distributed/pipelining/
        // stage.py, `backward_maybe_with_nosync`).
        2.. if point.pp > 1 && !s.own() => {
            add(expose(scatter(s, inner, gradient) + replicate, backward), 1.0);
            add(expose(scatter(s, inner, weight), forward), 1.0);
        }
        2 => {
            add(each(scatter(s, inner, gradient), backward), m);
            add(expose(replicate, backward), 1.0);
            add(published(scatter(s, inner, weight)), 1.0);
        }
        _ => {
            add(each(scatter(s, inner, weight), forward), m);
            add(each(scatter(s, inner, weight) + scatter(s, inner, gradient), backward), m);
            add(expose(replicate, backward), 1.0);
        }
    }
    (exposed, hidden)
}

/// Seconds that data parallelism keeps the links busy in a step, hidden or not.
pub fn wire(s: &Setting, point: &Point) -> f64 {
    let one = Compute { micro_batches: s.micro_batches(point) as f64, ..Compute::default() };
    let (exposed, hidden) = data_parallel(s, point, &one);
    exposed + hidden
}

/// Bytes that the gradients of a rank take less for matrices that sum them in 16 bits.
fn narrower(s: &Setting, point: &Point) -> f64 {
    let matrices = s.shape.layer_matrix_params() as f64 / point.tp as f64;
    s.stage_layers(point.pp, 0) as f64 * matrices * s.state.narrower
}

/// Seconds of the optimizer's pass and of the gradient norm.
pub fn optimizer(s: &Setting, point: &Point) -> f64 {
    let params = most_params(s, point);
    let mine = if point.zero >= 1 { params / s.sharded(point) as f64 } else { params };
    // Read and write master and moments, read gradient, write weight; the norm reads the gradients once before.
    let pass = mine * (2.0 * s.state.optimizer + s.state.gradient + s.state.weight);
    let normed = if point.zero >= 2 { mine } else { params };
    let less = narrower(s, point) * (mine + normed) / params.max(1.0);
    // Alone on a device the norm after the first of several micro-batches is taken too (plan/src/lower/update.rs).
    let again = if s.own() && s.gpus() == 1 && s.micro_batches(point) > 1 { 1.0 } else { 0.0 };
    let first = again * (params * s.state.gradient - narrower(s, point));
    (pass + normed * s.state.gradient - less + first)
        / (s.hardware.memory_bandwidth * s.profile.memory.optimizer)
}

/// The whole step of `point` over its compute part.
pub fn step(s: &Setting, point: &Point, c: &Compute) -> Step {
    let (exposed, hidden) = data_parallel(s, point, c);
    let params = most_params(s, point);
    let mine = if point.zero >= 1 { params / s.sharded(point) as f64 } else { params };
    let optimizer = optimizer(s, point);
    let mut offload = 0.0;
    if point.offload == Offload::Optimizer {
        // Master and moments travel to the device and back; the link works both ways at once at 0.83 of its rate
        // (45.4 of 55 GB/s each way, measured on an H100).
        offload += mine * s.state.optimizer / (s.hardware.host_bandwidth * 0.83);
    } else if s.state.paged > 0.0 {
        offload += mine * s.state.paged / (s.hardware.host_bandwidth * 0.83);
    }
    // Gradients that pass through to their owners are cleared before each micro-batch.
    let cleared = if s.own() && point.zero >= 2 && point.shard > 1 {
        let bytes = params * s.state.gradient - narrower(s, point);
        s.profile.fixed.stack * c.micro_batches * bytes / bandwidth(s)
    } else {
        0.0
    };
    let exposed = exposed + cleared;
    let mut beside = hidden;
    if point.offload == Offload::Activations {
        let bytes = c.layers * layer_activations(s, point, point.recompute) * c.micro_batches;
        let wire = bytes / s.hardware.host_bandwidth;
        let room = c.micro_batches * c.layers * c.layer.forward();
        offload += 2.0 * (wire - room).max(wire / (c.layers * c.micro_batches));
        beside += 2.0 * wire.min(room);
    }
    let interference = s.profile.comm.tax * beside;
    let overhead = s.profile.fixed.step;
    let x = libm::log2(s.gpus() as f64);
    let wait = s.profile.comm.straggler * libm::sqrt(x) * x / (x + 1.0);
    let sum = c.pipeline + exposed + interference + optimizer + offload + overhead;
    let straggler = wait * sum;
    Step {
        data_parallel: exposed,
        interference,
        optimizer,
        offload,
        overhead,
        straggler,
        total: sum + straggler,
    }
}

/// Terms of a step by name; they sum to the step.
pub fn breakdown(c: &Compute, step: &Step) -> BTreeMap<String, f64> {
    let m = c.micro_batches;
    let l = &c.layer;
    let per_layer = [
        ("gemm", l.gemm_forward + l.gemm_input + l.gemm_weight),
        ("attention", l.attention_forward + l.attention_backward),
        ("pointwise", l.pointwise_forward + l.pointwise_backward),
        ("recompute", l.recompute),
        ("tensor_parallel", l.tensor_forward + l.tensor_backward),
        ("context_parallel", l.context),
    ];
    let mut terms = BTreeMap::new();
    for (name, seconds) in per_layer {
        terms.insert(name.to_string(), m * c.layers * seconds);
    }
    let layers: f64 = terms.values().sum();
    let ends = (m * (c.stage - c.travel - c.layers * (l.forward() + l.backward())))
        .max(0.0)
        .min(m * (c.head + c.embedding));
    terms.insert("head".to_string(), ends);
    let travel = m * c.travel;
    terms.insert("launch".to_string(), (m * c.stage - layers - ends - travel).max(0.0));
    terms.insert("pipeline_bubble".to_string(), c.bubble);
    terms.insert("pipeline_send".to_string(), c.sends);
    terms.insert("data_parallel".to_string(), step.data_parallel);
    terms.insert("interference".to_string(), step.interference);
    terms.insert("optimizer".to_string(), step.optimizer);
    terms.insert("offload".to_string(), step.offload + travel);
    terms.insert("overhead".to_string(), step.overhead);
    terms.insert("straggler".to_string(), step.straggler);
    // What cancels to rounding noise is no term.
    terms.retain(|_, seconds| *seconds > 1e-12 * step.total);
    terms
}
