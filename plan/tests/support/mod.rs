//! A small plan to vary; every figure is chosen so that sizes can be worked out by hand.
#![allow(dead_code)]

use std::collections::BTreeMap;

use llmc_plan::model::{Model, Rope, RopeMethod};
use llmc_plan::plan::*;

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
        },
        optimizer: Optimizer {
            kind: OptimizerKind::Adamw,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
            state_dtype: DType::F32,
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
        },
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
        },
        facts: BTreeMap::new(),
    }
}
