//! Questions that several tests ask.
#![allow(dead_code)] // each test binary uses its own part
#![allow(clippy::unwrap_used)] // a question that cannot be built is a broken test

use llmc_plan::model::{Model, Rope, RopeMethod};
use llmc_plan::plan::{DType, Master, Optimizer, OptimizerKind, Plan, Precision};
use llmc_planner::cost::{Point, Setting};
use llmc_planner::question::*;
use llmc_planner::{hardware, setting, solve};

pub fn model(
    layers: u64,
    hidden: u64,
    heads: u64,
    kv_heads: u64,
    ffn: u64,
    vocab: u64,
    context: u64,
) -> Model {
    let mut model = Model {
        family: "llama".into(),
        params: 0,
        params_non_embedding: 0,
        layers,
        hidden,
        heads,
        kv_heads,
        head_dim: hidden / heads,
        ffn,
        vocab,
        vocab_padded: vocab.div_ceil(128) * 128,
        context,
        rope: Rope { method: RopeMethod::None, factor: 1.0, original_context: context, theta: 10000.0 },
        tied: false,
        norm_eps: 1e-5,
        dropout: 0.0,
        init_std: 0.02,
    };
    model.params = model.count_params();
    model.params_non_embedding = model.count_params_non_embedding();
    model
}

pub fn llama_7b(context: u64) -> Model {
    model(32, 4096, 32, 32, 11008, 32000, context)
}

pub fn llama_405b(context: u64) -> Model {
    model(126, 16384, 128, 8, 53248, 128256, context)
}

pub fn question(model: Model, name: &str, nodes: u64, gpus_per_node: u64) -> Question {
    Question {
        mount: None,
        fitted: None,
        model,
        variant: Variant::default(),
        hardware: hardware::preset(name).unwrap(),
        cluster: Some(Cluster { nodes, gpus_per_node }),
        budget: Vec::new(),
        batch_tokens: None,
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
            peak: None,
            schedule: None,
            final_fraction: None,
            decay_fraction: None,
            warmup: None,
        },
        precision: if name == "CPU" { Precision::F32 } else { Precision::Bf16 },
        determinism: None,
        pins: Pins::default(),
        prices: Prices::default(),
        reliability: Reliability::default(),
        run: RunAsk::default(),
        seed: 1,
        continued: None,
        memory_limit_bytes: None,
    }
}

/// A plan of `q`, its layout replaced by `point` with `accumulation` micro-batches on `nodes` machines, and the setting of
/// both.
pub fn laid_out(q: &Question, point: &Point, accumulation: u64, nodes: u64) -> (Plan, Setting) {
    let mut plan = solve(q).unwrap().plan;
    let gpus = point.dp * point.tp * point.cp * point.pp;
    let l = &mut plan.layout;
    (l.nodes, l.gpus, l.dp, l.tp, l.cp, l.pp, l.vp) =
        (nodes, gpus, point.dp, point.tp, point.cp, point.pp, point.vp);
    (l.zero_stage, l.shard_group, l.schedule, l.sequence_parallel) =
        (point.zero, point.shard, point.schedule, point.sp);
    (l.recompute, l.offload) = (point.recompute, point.offload);
    let b = &mut plan.batch;
    (b.micro_batch_sequences, b.accumulation) = (point.micro, accumulation);
    b.global_sequences = point.dp * point.micro * accumulation;
    b.global_tokens = b.global_sequences * plan.model.context;
    let cluster = Cluster { nodes, gpus_per_node: gpus / nodes };
    let setting = setting(q, cluster, b.global_sequences).unwrap();
    (plan, setting)
}

/// A linear congruential generator (Knuth, MMIX constants): the same questions in every run.
pub struct Dice(pub u64);

impl Dice {
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        of[(self.0 >> 33) as usize % of.len()]
    }
}
