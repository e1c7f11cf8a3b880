//! A small plan to vary; every figure is chosen so that sizes can be worked out by hand.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;

use llmc_plan::arena::assign;
use llmc_plan::lower::{Coordinates, Options, lower_with};
use llmc_plan::model::{Model, Rope, RopeMethod};
use llmc_plan::op::{Backend, TensorType};
use llmc_plan::plan::*;
use llmc_plan::program::{Call, Instr, Program};
use llmc_plan::walk::{Durations, Instant, walk};

/// 2 layers, h = 8, 2 query heads and 1 key-value head of 4, f = 16, vocabulary 30 padded to 32, context 6,
/// 2 sequences a micro-batch (12 tokens), 2 micro-batches, AdamW, f32, one device.
pub fn toy() -> Plan {
    let mut model = Model {
        family: "llama".to_string(),
        params: 0,
        params_non_embedding: 0,
        layers: 2,
        hidden: 8,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        ffn: 16,
        vocab: 30,
        vocab_padded: 32,
        context: 6,
        rope: Rope { method: RopeMethod::None, factor: 1.0, original_context: 6, theta: 10_000.0 },
        tied: false,
        norm_eps: 1e-5,
        dropout: 0.0,
        init_std: 0.02,
    };
    model.params = model.count_params();
    model.params_non_embedding = model.count_params_non_embedding();
    Plan {
        format_version: FORMAT_VERSION.to_string(),
        recipe: Recipe { hash: String::new(), edition: 2026, text: String::new() },
        model,
        budget: Budget { tokens: 240, trained_tokens: 240, flops: 0.0, flops_6nt: 0.0, steps: 10 },
        batch: Batch {
            global_tokens: 24,
            global_sequences: 4,
            micro_batch_sequences: 2,
            accumulation: 2,
            critical_tokens: 24,
        },
        hardware: HardwareSummary { name: "cpu".to_string(), memory_bytes: 1 << 30, peak_bf16_flops: 1e11 },
        layout: Layout {
            nodes: 1,
            gpus: 1,
            dp: 1,
            tp: 1,
            sequence_parallel: false,
            cp: 1,
            pp: 1,
            vp: 1,
            zero_stage: 0,
            shard_group: 1,
            schedule: Schedule::None,
            recompute: Recompute::None,
            offload: Offload::None,
            stages: Vec::new(),
        },
        optimizer: Optimizer {
            kind: OptimizerKind::Adamw,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
            state_dtype: DType::F32,
            master: Master::F32,
            gradient_dtype: DType::F32,
        },
        lr: LearningRate {
            peak: 1e-3,
            schedule: LrSchedule::Cosine,
            warmup_steps: 1,
            final_fraction: 0.1,
            decay_fraction: 0.0,
        },
        precision: Precision::F32,
        determinism: Determinism::Bitwise,
        seed: 1,
        freeze: Vec::new(),
        from: None,
        schedule: RunSchedule {
            checkpoint_every_steps: 0,
            checkpoint_keep: 1,
            checkpoint_zstd: 0,
            eval_every_steps: 0,
            eval_sequences: 0,
            skip_steps: 10,
        },
        storage: None,
        memory: Memory { device_bytes: 0, stages: Vec::new() },
        time: Time {
            step_seconds: 0.0,
            tokens_per_second: 0.0,
            tokens_per_second_per_gpu: 0.0,
            mfu: 0.0,
            breakdown: BTreeMap::new(),
            train_seconds: 0.0,
            goodput: 1.0,
        },
        cost: Cost {
            currency: "CNY".to_string(),
            gpu_hours: 0.0,
            gpu: 0.0,
            electricity_kwh: 0.0,
            electricity: 0.0,
            other: 0.0,
            total: 0.0,
            gpu_per_hour: 0.0,
            power_kw: 0.0,
            pue: 1.0,
            electricity_per_kwh: 0.0,
            assumed: Vec::new(),
            spares: 0.0,
            storage: 0.0,
            network: 0.0,
            failures: 0.0,
            ownership: None,
        },
        loss: Loss { predicted: 3.0, low: 2.9, high: 3.1, law: "none".to_string() },
        search: Search {
            considered: 1,
            evaluated: 1,
            feasible: 1,
            rejected_by: BTreeMap::new(),
            runner_up: None,
            pareto: Vec::new(),
            extrapolated: Vec::new(),
            pruned_by: BTreeMap::new(),
            milp: 0,
            memory_price: None,
            laws: Vec::new(),
            exchange: Vec::new(),
            ramp: Vec::new(),
        },
        facts: BTreeMap::new(),
    }
}

/// The programs of all ranks, addresses assigned.
pub fn programs(plan: &Plan) -> Vec<Program> {
    programs_with(plan, &Options::new(Backend::Cpu))
}

/// The same with options.
pub fn programs_with(plan: &Plan, options: &Options) -> Vec<Program> {
    let lower = |rank| {
        let coordinates = Coordinates::of_rank(plan, rank);
        let mut program = lower_with(plan, &coordinates, options).unwrap();
        assign(&mut program);
        program
    };
    (0..plan.layout.gpus).map(lower).collect()
}

/// The toy with room to be cut: 4 heads, 2 key-value heads, context 8, 4 micro-batches of 2 sequences.
pub fn wide_toy() -> Plan {
    let mut plan = toy();
    plan.model.heads = 4;
    plan.model.kv_heads = 2;
    plan.model.context = 8;
    plan.batch.accumulation = 4;
    plan
}

/// A plan of the wide toy over dp × tp × cp × pp devices.
pub fn spread(dp: u64, tp: u64, cp: u64, pp: u64) -> Plan {
    let mut plan = wide_toy();
    let layout = &mut plan.layout;
    (layout.dp, layout.tp, layout.cp, layout.pp) = (dp, tp, cp, pp);
    layout.gpus = dp * tp * cp * pp;
    layout.shard_group = dp;
    layout.sequence_parallel = tp > 1;
    layout.schedule = if pp > 1 { Schedule::OneFOneB } else { Schedule::None };
    plan
}

/// Layouts to run every check on, each with a name.
pub fn layouts() -> Vec<(String, Plan)> {
    let mut plans = Vec::new();
    for zero in 0..4 {
        let sizes = [(2, 1, 1, 1, 2), (4, 1, 1, 1, 2), (2, 2, 1, 1, 2), (2, 1, 2, 1, 2), (2, 1, 1, 2, 2)];
        for (dp, tp, cp, pp, group) in sizes {
            let mut plan = spread(dp, tp, cp, pp);
            plan.layout.zero_stage = zero;
            plan.layout.shard_group = group;
            plans.push((format!("zero {zero} dp {dp} (groups of {group}) tp {tp} cp {cp} pp {pp}"), plan));
        }
    }
    let mut all_axes = spread(2, 2, 2, 2);
    all_axes.layout.zero_stage = 1;
    plans.push(("zero 1 on every axis".to_string(), all_axes));
    for (tp, cp) in [(2, 1), (1, 2), (1, 4), (2, 2)] {
        plans.push((format!("tp {tp} cp {cp}"), spread(1, tp, cp, 1)));
    }
    for (schedule, pp, vp, layers) in [
        (Schedule::OneFOneB, 2, 1, 2),
        (Schedule::OneFOneB, 4, 1, 5),
        (Schedule::Interleaved, 2, 2, 4),
        (Schedule::Interleaved, 4, 2, 16),
        (Schedule::ZeroBubble, 2, 1, 2),
        (Schedule::ZeroBubble, 4, 1, 4),
    ] {
        for tp in [1, 2] {
            for zero in [0, 1] {
                let mut plan = spread(2, tp, 1, pp);
                plan.model.layers = layers;
                plan.layout.schedule = schedule;
                plan.layout.vp = vp;
                plan.layout.zero_stage = zero;
                plan.batch.accumulation = 8;
                plans.push((format!("{schedule:?} pp {pp} vp {vp} tp {tp} zero {zero}"), plan));
            }
        }
    }
    for offload in [Offload::Activations, Offload::Optimizer] {
        for zero in [0, 1, 3] {
            for layers in [1, 2, 5] {
                let mut plan = spread(2, 1, 1, 1);
                plan.model.layers = layers;
                plan.layout.zero_stage = zero;
                plan.layout.offload = offload;
                plan.layout.recompute = Recompute::Full;
                plans.push((format!("offload {offload:?} zero {zero} layers {layers}"), plan));
            }
        }
    }
    // Every layout again with recompute, in bf16, with dropout, tied and frozen parts in turn.
    let mut all = plans.clone();
    for (i, (name, plan)) in plans.iter().enumerate() {
        let mut plan = plan.clone();
        plan.precision = Precision::Bf16;
        plan.model.dropout = 0.1;
        plan.model.vocab_padded = 33 * plan.layout.tp; // of no shard group a multiple: padded blocks
        if i % 3 == 0 {
            plan.optimizer.master = Master::Split;
        }
        if i % 2 == 0 {
            plan.layout.recompute = Recompute::Full;
            plan.model.tied = plan.layout.pp == 1;
        } else if plan.layout.offload != Offload::Activations {
            plan.layout.recompute = Recompute::Selective;
            plan.freeze = vec!["embeddings".to_string(), "attention".to_string()];
        }
        all.push((format!("{name}, {:?} bf16 dropout", plan.layout.recompute), plan));
    }
    all
}

/// Durations from a function of the instruction and its operands.
pub struct By<F>(pub F);

impl<F: Fn(&Instr, &[TensorType], &[TensorType]) -> f64> Durations for By<F> {
    fn seconds(&self, instr: &Instr, inputs: &[TensorType], outputs: &[TensorType]) -> f64 {
        (self.0)(instr, inputs, outputs)
    }
}

/// The list of calls, one word each: segment without its policy and copy number, `@layer` for what has a
/// layer, `:micro-batch` for passes.
pub fn words(program: &Program, calls: &[Call]) -> Vec<String> {
    let word = |call: &Call| {
        let name = &program.segments[call.segment.0 as usize].name;
        let dropped =
            |part: &&str| !["none", "selective", "full"].contains(part) && part.parse::<u64>().is_err();
        let name: Vec<&str> = name.split('.').filter(dropped).collect();
        let name = name.join(".");
        if name.contains("block") { format!("{name}@{}", call.layer) } else { name }
    };
    calls.iter().map(word).collect()
}

/// Passes of a pipeline rank: `F0` is the forward of micro-batch 0, `B` backward, `W` weight gradients; with
/// `layers`, `F0@2` names the layer.
pub fn passes(program: &Program, layers: bool) -> String {
    let mut words = Vec::new();
    for call in &program.step {
        let name = &program.segments[call.segment.0 as usize].name;
        let starts = [("block.forward", "F"), ("block.backward", "B"), ("block.weight", "W")];
        if let Some((_, letter)) = starts.iter().find(|(start, _)| name.starts_with(start)) {
            let layer = if layers { format!("@{}", call.layer) } else { String::new() };
            words.push(format!("{letter}{}{layer}", call.micro_batch));
        }
    }
    words.join(" ")
}

/// Sizes of the wide toy in bytes (f32): 16 tokens a micro-batch on one rank that holds them all.
pub mod wide {
    pub const N: u64 = 16;
    /// [n, h]
    pub const RESIDUAL: u64 = N * 8 * 4;
    /// Scalars a token, f32.
    pub const ROW: u64 = N * 4;
    /// Packed queries, keys, values: (4 + 2·2) heads of 4.
    pub const QKV: u64 = N * 32 * 4;
    /// 4 heads of 4.
    pub const HEADS: u64 = N * 16 * 4;
    pub const LSE: u64 = 4 * N * 4;
    pub const FFN: u64 = N * 16 * 4;
    pub const LOGITS: u64 = N * 32 * 4;
    pub const IDS: u64 = N * 8;
    pub const TARGETS: u64 = N * 8;
    pub const POSITIONS: u64 = N * 8;
    pub const WEIGHTS: u64 = N * 4;
    pub const CU_SEQLENS: u64 = 3 * 4;
    /// What a block keeps without recompute, its input apart: n1 rstd1 qkv o lse x2 n2 rstd2 gate_up act.
    pub const KEPT: u64 = QKV + HEADS + LSE + RESIDUAL + 2 * FFN + 2 * (RESIDUAL + ROW) + FFN;
    /// Elements of norm1, qkv, o, norm2, gate_up, down.
    pub const BLOCK: u64 = 8 + 32 * 8 + 8 * 16 + 8 + 32 * 8 + 8 * 16;
    /// Elements of embedding or head.
    pub const VOCABULARY: u64 = 32 * 8;
    /// Elements of a norm.
    pub const NORM: u64 = 8;
    /// Bytes of the rope tables [8, 2] and 7 scalars.
    pub const CONSTANTS: u64 = 4 * (2 * 8 * 2 + 7);
}

/// Largest live bytes of a step.
pub fn peak(program: &Program) -> u64 {
    walk(program, &program.step, &Instant).records.iter().map(|r| r.live_bytes).max().unwrap()
}
