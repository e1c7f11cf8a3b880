//! ZeRO: order, overlap and memory against figures worked out by hand. Two layers on two ranks.
#![allow(clippy::unwrap_used)]

mod support;

use llmc_plan::op::{Op, TensorType};
use llmc_plan::program::{Instr, Program};
use llmc_plan::walk::{Instant, Record, Walk, memory, walk};
use support::{By, programs, spread, wide, words};

fn zero(stage: u64, layers: u64, micro_batches: u64) -> Program {
    let mut plan = spread(2, 1, 1, 1);
    plan.layout.zero_stage = stage;
    plan.model.layers = layers;
    plan.batch.accumulation = micro_batches;
    programs(&plan).remove(0)
}

/// Gathering or reducing a block takes 1 s, its forward 1 s, its backward 2 s; all else is instantaneous. Each
/// is charged to the instruction that moves or reads the down projection.
fn timed(program: &Program) -> Walk {
    let [down, gradient] = ["u.down", "gu.down"].map(|name| program.buffer_named(name).unwrap());
    let seconds = By(|instr: &Instr, _: &[TensorType], _: &[TensorType]| {
        let reads = |buffer| instr.inputs.iter().any(|r| r.buffer == buffer);
        match &instr.op {
            Op::Gather(_) if instr.outputs[0].buffer == down => 1.0,
            Op::ReduceScatter(_) if reads(gradient) => 1.0,
            Op::Gemm(gemm) if reads(down) => {
                if gemm.transpose_b {
                    1.0
                } else {
                    2.0
                }
            }
            _ => 0.0,
        }
    });
    walk(program, &program.step, &seconds)
}

/// When a segment of a layer starts to compute and ends.
fn span(walk: &Walk, segment: &str, layer: u64) -> (f64, f64) {
    let of = |r: &&Record| r.place.segment.starts_with(segment) && r.place.layer == layer;
    let timed: Vec<&Record> = walk.records.iter().filter(of).filter(|r| r.end > r.start).collect();
    (timed.first().unwrap().start, timed.last().unwrap().end)
}

fn live(walk: &Walk, segment: &str, layer: u64, op: &str) -> u64 {
    let of = |r: &&Record| r.place.segment.starts_with(segment) && r.place.layer == layer && r.op == op;
    walk.records.iter().find(of).unwrap().live_bytes
}

#[test]
fn stage_3_prefetches_every_unit() {
    let program = zero(3, 2, 1);
    let want = "step.begin grads.zero.top grads.zero.block@0 grads.zero.block@1 load \
        gather.embed gather.block@0 embed.forward \
        gather.block@1 block.forward@0 \
        gather.head block.forward@1 \
        gather.block@1 head.loss reduce.head \
        gather.block@0 block.backward@1 reduce.block@1 \
        block.backward@0 reduce.block@0 \
        embed.backward reduce.embed \
        loss.reduce norm.block@0 norm.block@1 norm.top norm.reduce clip \
        optimize.top optimize.block@0 optimize.block@1";
    assert_eq!(
        words(&program, &program.step).join(" "),
        want.split_whitespace().collect::<Vec<_>>().join(" ")
    );
}

#[test]
fn stage_3_overlaps_exchanges_with_compute() {
    let program = zero(3, 2, 1);
    let walk = timed(&program);
    let forward = |layer| span(&walk, "block.forward", layer);
    let backward = |layer| span(&walk, "block.backward", layer);
    assert_eq!(forward(0), (1.0, 2.0)); // layer 0 is gathered in [0, 1], nothing to hide it behind
    assert_eq!(forward(1), (2.0, 3.0)); // gathered in [1, 2], behind layer 0
    assert_eq!(backward(1), (4.0, 6.0)); // gathered again in [3, 4]: its place in the ring was in use till 3
    assert_eq!(backward(0), (6.0, 8.0)); // gathered in [4, 5]
    assert_eq!(span(&walk, "reduce.block", 1), (6.0, 7.0));
    assert_eq!(span(&walk, "reduce.block", 0), (8.0, 9.0));
    assert_eq!(walk.seconds, 9.0);
}

#[test]
fn a_place_in_the_ring_is_not_overwritten_while_in_use() {
    let program = zero(3, 4, 1);
    let walk = timed(&program);
    let gather = |layer| span(&walk, "gather.block", layer).0;
    let forward = |layer| span(&walk, "block.forward", layer);
    // Layers 0 and 2, 1 and 3 share a place.
    assert_eq!([gather(0), gather(1), gather(2), gather(3)], [0.0, 1.0, 2.0, 3.0]);
    assert_eq!([forward(0).1, forward(1).1], [2.0, 3.0]);
}

/// Elements of all parameters.
const ALL: u64 = 2 * wide::BLOCK + 2 * wide::VOCABULARY + wide::NORM;

#[test]
fn persistent_memory_of_each_stage() {
    let bytes = |stage| {
        let f = memory(&zero(stage, 2, 2));
        [f.parameters, f.gradients, f.optimizer]
    };
    assert_eq!(bytes(0), [4 * ALL, 4 * ALL, 8 * ALL]);
    assert_eq!(bytes(1), [4 * ALL, 4 * ALL, 8 * ALL / 2]);
    assert_eq!(bytes(2), [4 * ALL, 4 * ALL / 2, 8 * ALL / 2]);
    assert_eq!(bytes(3), [4 * ALL / 2, 4 * ALL / 2, 8 * ALL / 2]);
}

#[test]
fn live_memory_of_stage_3() {
    use wide::*;
    let program = zero(3, 2, 1);
    let walk = walk(&program, &program.step, &Instant);
    let persistent = 4 * 4 * ALL / 2 + CONSTANTS;
    let batch = IDS + TARGETS + POSITIONS + WEIGHTS + CU_SEQLENS;
    // Into layer 1: its weights and the head's are whole, layer 0 has saved its tensors, x₁ becomes n₁.
    let whole = 4 * (BLOCK + VOCABULARY + NORM);
    let into_1 = persistent + batch + whole + 2 * RESIDUAL + KEPT + RESIDUAL + ROW;
    assert_eq!(live(&walk, "block.forward", 1, "norm.forward"), into_1);
    // In layer 1's backward: both places of the weight ring, one of the gradient ring (f32), x₀, x₁ and what
    // both blocks saved (act has given way to its gradient), dres; targets and loss weights are gone.
    let rings = 4 * 2 * BLOCK + 4 * BLOCK;
    let backward = persistent + IDS + POSITIONS + CU_SEQLENS + rings + 2 * RESIDUAL + 2 * KEPT + RESIDUAL;
    assert_eq!(live(&walk, "block.backward", 1, "swiglu.backward"), backward);
}

#[test]
fn stage_1_reduces_once_and_publishes_behind_the_next_forward() {
    let program = zero(1, 2, 2);
    let calls = words(&program, &program.step);
    let of = |word: &str| calls.iter().filter(|c| c.starts_with(word)).count();
    assert_eq!(of("block.backward"), 4); // 2 layers × 2 micro-batches
    assert_eq!(of("finish.block"), 2); // after the last micro-batch alone
    let tail = calls[calls.len() - 6..].join(" ");
    assert_eq!(
        tail,
        "optimize.top publish.top optimize.block@0 publish.block@0 optimize.block@1 publish.block@1"
    );
    // The first micro-batch's forward of a layer waits for that layer alone, published in the previous step.
    let first = |layer| {
        program.step.iter().find(|c| c.layer == layer && name(&program, c).starts_with("block.forward"))
    };
    for layer in [0, 1] {
        let call = first(layer).unwrap();
        let instrs = &program.segments[call.segment.0 as usize].instrs;
        let waits: Vec<_> = instrs.iter().flat_map(|i| &i.waits).collect();
        assert!(!waits.is_empty());
        for wait in waits {
            assert!(program.events[wait.event.0 as usize].starts_with("publish.block/"));
            assert!(wait.previous_step && wait.layer == 0 && wait.micro_batch == 0);
        }
    }
}

fn name<'a>(program: &'a Program, call: &llmc_plan::program::Call) -> &'a str {
    &program.segments[call.segment.0 as usize].name
}

#[test]
fn stage_2_reduces_every_micro_batch() {
    let program = zero(2, 2, 2);
    let calls = words(&program, &program.step);
    let of = |word: &str| calls.iter().filter(|c| c.starts_with(word)).count();
    assert_eq!((of("reduce.block"), of("reduce.head"), of("reduce.embed")), (4, 2, 2));
    // Replicas beyond the shard group are summed once, after the last micro-batch.
    let mut plan = spread(4, 1, 1, 1);
    plan.layout.zero_stage = 2;
    plan.layout.shard_group = 2;
    let hybrid = programs(&plan).remove(0);
    let calls = words(&hybrid, &hybrid.step);
    assert_eq!(calls.iter().filter(|c| c.starts_with("finish.block")).count(), 2);
}

/// Rows that do not divide are padded: 33 rows of vocabulary are two blocks of 17.
#[test]
fn blocks_are_equal_and_padded() {
    let mut plan = spread(2, 1, 1, 1);
    plan.layout.zero_stage = 3;
    plan.model.vocab_padded = 33;
    let program = programs(&plan).remove(1);
    let shape = |name: &str| program.buffers[program.buffer_named(name).unwrap().0 as usize].shape.clone();
    assert_eq!(shape("w.embed"), [17, 8]);
    assert_eq!(shape("m.embed"), [17, 8]);
    assert_eq!(shape("u.vocab"), [34, 8]);
    let embed = program.params.iter().find(|p| p.name == "embed").unwrap();
    assert_eq!(embed.global_shape, [33, 8]);
}
