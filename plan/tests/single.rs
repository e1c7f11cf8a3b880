//! Lowering for one device: sound under every variation, and memory as worked out by hand.

#![allow(clippy::unwrap_used)]

mod support;

use llmc_plan::arena::assign;
use llmc_plan::lower::{Coordinates, lower};
use llmc_plan::op::Backend;
use llmc_plan::plan::*;
use llmc_plan::program::{Class, Program};
use llmc_plan::verify::verify;
use llmc_plan::walk::{Instant, memory, walk};

fn program(plan: &Plan) -> Program {
    let mut program = lower(plan, &Coordinates::default(), Backend::Cpu).unwrap();
    assign(&mut program);
    program
}

fn variations() -> Vec<(String, Plan)> {
    let mut plans = Vec::new();
    for recompute in [Recompute::None, Recompute::Selective, Recompute::Full] {
        for precision in [Precision::F32, Precision::Bf16, Precision::Fp16] {
            for tied in [false, true] {
                for dropout in [0.0, 0.1] {
                    for freeze in ["", "embeddings", "norms", "attention ffn", "embeddings norms", "head"] {
                        let mut plan = support::toy();
                        plan.layout.recompute = recompute;
                        plan.precision = precision;
                        plan.model.tied = tied;
                        plan.model.dropout = dropout;
                        plan.freeze = freeze.split_whitespace().map(str::to_string).collect();
                        let name = format!(
                            "{recompute:?} {precision:?} tied {tied} dropout {dropout} freeze {freeze}"
                        );
                        plans.push((name, plan));
                    }
                }
            }
        }
    }
    plans
}

#[test]
fn every_variation_is_sound() {
    for (name, plan) in variations() {
        assert_eq!(verify(&program(&plan)), [], "{name}");
    }
}

#[test]
fn every_optimizer_is_sound() {
    for kind in [OptimizerKind::Lion, OptimizerKind::Adafactor, OptimizerKind::PagedAdamw] {
        let mut plan = support::toy();
        plan.optimizer.kind = kind;
        assert_eq!(verify(&program(&plan)), [], "{kind:?}");
    }
}

/// The arena never needs more than the largest sum of (256-aligned) live transients.
#[test]
fn the_arena_has_no_gaps() {
    for (name, plan) in variations() {
        let program = program(&plan);
        let footprint = memory(&program);
        let persistent =
            footprint.parameters + footprint.gradients + footprint.optimizer + footprint.constants;
        let peak =
            walk(&program, &program.step, &Instant).records.iter().map(|r| r.live_bytes).max().unwrap();
        let slack = 256 * 40; // each of at most 40 live tensors is padded by less than 256 bytes
        assert!(footprint.arena <= peak - persistent + slack, "{name}: {} {peak}", footprint.arena);
    }
}

/// Sizes of the toy in bytes (f32): n = 12 tokens.
mod toy {
    pub const N: u64 = 12;
    pub const RESIDUAL: u64 = N * 8 * 4; // [n, h]
    pub const QKV: u64 = N * 16 * 4; // (2 + 2·1) heads of 4
    pub const HEADS: u64 = N * 8 * 4; // 2 heads of 4
    pub const LSE: u64 = 2 * N * 4;
    pub const ROW: u64 = N * 4; // one f32 a token
    pub const FFN: u64 = N * 16 * 4;
    pub const BATCH: u64 = 3 * N * 8 + 3 * 4 + N * 4; // ids, targets, positions; 3 cumulative lengths; weights
    pub const LOGITS: u64 = N * 32 * 4;
    /// norm1, qkv, o, norm2, gate_up, down.
    pub const BLOCK_PARAMS: u64 = 8 + 16 * 8 + 8 * 8 + 8 + 32 * 8 + 8 * 16;
    /// embed, norm_f, head.
    pub const TOP_PARAMS: u64 = 32 * 8 + 8 + 32 * 8;
    pub const PARAMS: u64 = 4 * (2 * BLOCK_PARAMS + TOP_PARAMS);
    /// rope tables [6, 2] twice, 8 scalars: of two micro-batches, the first has a norm of its own.
    pub const CONSTANTS: u64 = 4 * (2 * 6 * 2 + 8);
}

#[test]
fn persistent_memory_by_hand() {
    let footprint = memory(&program(&support::toy()));
    assert_eq!(footprint.parameters, toy::PARAMS);
    assert_eq!(footprint.gradients, toy::PARAMS);
    assert_eq!(footprint.optimizer, 2 * toy::PARAMS);
    assert_eq!(footprint.constants, toy::CONSTANTS);

    let mut plan = support::toy();
    plan.precision = Precision::Bf16;
    let footprint = memory(&program(&plan));
    assert_eq!(footprint.parameters, toy::PARAMS / 2);
    assert_eq!(footprint.gradients, toy::PARAMS);
    assert_eq!(footprint.optimizer, 3 * toy::PARAMS);

    plan.precision = Precision::Fp16;
    let footprint = memory(&program(&plan));
    assert_eq!(footprint.parameters, toy::PARAMS / 2);
    assert_eq!(footprint.optimizer, 3 * toy::PARAMS + 8, "the loss scale and its count of good steps");
    assert_eq!(footprint.constants, toy::CONSTANTS + 4);
}

/// What a block keeps for its backward pass, its input apart.
fn kept(policy: Recompute) -> u64 {
    use toy::*;
    let always = QKV + HEADS + LSE + RESIDUAL + 2 * FFN; // qkv, o, lse, x2, gate_up
    match policy {
        Recompute::None => always + 2 * (RESIDUAL + ROW) + FFN, // n1 rstd1 n2 rstd2 act
        Recompute::Selective => always,
        Recompute::Full => 0,
    }
}

/// The head is the peak of the toy unless blocks are redone: both blocks' savings, three residual streams, the
/// batch, and the head's own tensors. Under full recompute the peak is inside the backward pass of the last
/// block, whose tensors are all back at once.
#[test]
fn peak_by_hand() {
    use toy::*;
    for policy in [Recompute::None, Recompute::Selective, Recompute::Full] {
        let mut plan = support::toy();
        plan.layout.recompute = policy;
        let program = program(&plan);
        let walked = walk(&program, &program.step, &Instant);
        let persistent = 4 * PARAMS + CONSTANTS;
        let at_head = 3 * RESIDUAL + 2 * kept(policy) + BATCH + LOGITS + 2 * RESIDUAL + ROW; // xf, dxf, rstdf
        let batch = BATCH - N * 8 - N * 4; // targets and weights are gone
        // x0, x1, dres and all of the block again, before act has been read
        let in_block = 3 * RESIDUAL + batch + kept(Recompute::None);
        let (want, segment) = match policy {
            Recompute::Full => (at_head.max(in_block), "block.backward.full"),
            _ => (at_head, "head.loss"),
        };
        let live = walked.records.iter().map(|r| r.live_bytes).max().unwrap();
        assert_eq!(live, persistent + want, "{policy:?}");
        assert_eq!(walked.peak_at.unwrap().segment, segment, "{policy:?}");
        assert_eq!(walked.peak_by_class[&Class::Parameter], PARAMS);
    }
}

#[test]
fn accumulation_does_not_move_the_peak() {
    let mut plan = support::toy();
    plan.batch.accumulation = 64;
    let all = memory(&program(&plan));
    let options = llmc_plan::lower::Options {
        accumulation_cap: Some(2),
        ..llmc_plan::lower::Options::new(Backend::Cpu)
    };
    let mut capped = llmc_plan::lower::lower_with(&plan, &Coordinates::default(), &options).unwrap();
    assign(&mut capped);
    assert_eq!(memory(&capped), all);
    assert!(capped.step.len() < 50);
}

/// A split master takes 2 B a parameter where an f32 one takes 4, stochastic rounding none; both need AdamW and bf16.
#[test]
fn masters_take_what_they_say() {
    let with = |master| {
        let mut plan = support::toy();
        plan.precision = Precision::Bf16;
        plan.optimizer.master = master;
        plan
    };
    let bytes = |master| {
        let program = program(&with(master));
        assert_eq!(verify(&program), [], "{master:?}");
        memory(&program).optimizer
    };
    let params = support::toy().model.count_params();
    let padded = params + 2 * 2 * 8; // embedding and head have 2 rows of 8 beyond the vocabulary
    assert_eq!(bytes(Master::F32), padded * 12);
    assert_eq!(bytes(Master::Split), padded * 10);
    assert_eq!(bytes(Master::Stochastic), padded * 8);
    let refused = |change: fn(&mut Plan)| {
        let mut plan = with(Master::Split);
        change(&mut plan);
        lower(&plan, &Coordinates::default(), Backend::Cpu).unwrap_err().to_string()
    };
    assert!(refused(|plan| plan.optimizer.kind = OptimizerKind::Lion).contains("optimizer.master"));
    assert!(refused(|plan| plan.precision = Precision::F32).contains("optimizer.master"));
    assert!(refused(|plan| plan.precision = Precision::Fp16).contains("optimizer.master"));
}

/// Gradients of the blocks' matrices in 2 bytes instead of 4; they too need AdamW and bf16.
#[test]
fn narrow_gradients_take_what_they_say() {
    let with = |gradient_dtype| {
        let mut plan = support::toy();
        plan.precision = Precision::Bf16;
        plan.optimizer.gradient_dtype = gradient_dtype;
        plan
    };
    let bytes = |dtype| {
        let program = program(&with(dtype));
        assert_eq!(verify(&program), [], "{dtype:?}");
        memory(&program).gradients
    };
    let m = support::toy().model;
    let (q, kv) = (m.heads * m.head_dim, m.kv_heads * m.head_dim);
    let matrices = m.layers * m.hidden * (2 * q + 2 * kv + 3 * m.ffn);
    assert_eq!(bytes(DType::F32) - bytes(DType::Bf16), 2 * matrices);
    let refused = |change: fn(&mut Plan)| {
        let mut plan = with(DType::Bf16);
        change(&mut plan);
        lower(&plan, &Coordinates::default(), Backend::Cpu).unwrap_err().to_string()
    };
    assert!(refused(|plan| plan.optimizer.kind = OptimizerKind::Lion).contains("optimizer.gradient_dtype"));
    assert!(refused(|plan| plan.precision = Precision::F32).contains("optimizer.gradient_dtype"));
    assert!(
        refused(|plan| plan.optimizer.gradient_dtype = DType::F8E4m3).contains("optimizer.gradient_dtype")
    );
}
