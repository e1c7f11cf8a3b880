//! Ring context parallelism: who attends to what when, and memory, against figures worked out by hand.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use llmc_plan::op::{Op, TensorType};
use llmc_plan::program::{Instr, Program, StreamId};
use llmc_plan::ranks::walk_ranks;
use llmc_plan::walk::{Instant, walk};
use support::{By, programs, spread, wide};

/// 8 tokens a sequence on two ranks: four blocks of 2, at positions 0, 2, 4, 6. Rank 0 holds the first and the
/// last, rank 1 the two between.
fn ring(ranks: u64) -> Vec<Program> {
    let mut plan = spread(1, 1, ranks, 1);
    plan.batch.accumulation = 1;
    programs(&plan)
}

/// The exchanges and attention of a block's forward or backward: `send`, `receive`, (queries, keys).
fn story(program: &Program, segment: &str) -> String {
    let segment = program.segments.iter().find(|s| s.name == segment).unwrap();
    let word = |instr: &Instr| match &instr.op {
        Op::Send(op) => Some(format!("send-{}", op.tag)),
        Op::Recv(op) => Some(format!("receive-{}", op.tag)),
        Op::AttentionPartial(op) => Some(format!("({},{})", op.query_offset, op.key_offset)),
        Op::AttentionMerge(_) => Some("merge".to_string()),
        Op::Accumulate(_) => Some("add".to_string()),
        _ => None,
    };
    segment.instrs.iter().filter_map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn forward_of_two_ranks() {
    let programs = ring(2);
    assert_eq!(
        story(&programs[0], "block.forward.none"),
        "send-kv receive-kv (0,0) (6,0) (6,6) merge (6,2) merge (6,4) merge"
    );
    assert_eq!(
        story(&programs[1], "block.forward.none"),
        "send-kv receive-kv (2,2) (4,2) (4,4) merge (2,0) merge (4,0) merge"
    );
}

#[test]
fn backward_of_two_ranks() {
    let programs = ring(2);
    assert_eq!(
        story(&programs[0], "block.backward.none"),
        "send-kv receive-kv (0,0) (6,0) (6,6) send-dkv receive-dkv (6,2) (6,4) add send-dkv receive-dkv"
    );
    assert_eq!(
        story(&programs[1], "block.backward.none"),
        "send-kv receive-kv (2,2) (4,2) (4,4) send-dkv receive-dkv (2,0) (4,0) add send-dkv receive-dkv"
    );
}

/// Every pair of a query block and a key block not after it is attended to exactly once, by whoever holds the
/// queries, and every rank has the same FLOPs.
#[test]
fn all_pairs_once_and_evenly() {
    for ranks in [2, 4] {
        let (mut all, mut work) = (Vec::new(), BTreeSet::new());
        for program in ring(ranks) {
            let segment = program.segments.iter().find(|s| s.name == "block.forward.none").unwrap();
            let mut flops = 0.0;
            for instr in &segment.instrs {
                if let Op::AttentionPartial(op) = &instr.op {
                    all.push((op.query_offset, op.key_offset));
                    let types = |refs: &[_]| {
                        refs.iter().map(|r| program.tensor(r).unwrap()).collect::<Vec<TensorType>>()
                    };
                    flops += instr.op.spec().flops(&types(&instr.inputs), &types(&instr.outputs));
                }
            }
            work.insert(flops as u64);
        }
        let tokens = 8 / (2 * ranks);
        let blocks = 0..2 * ranks;
        let want = blocks.flat_map(|q| (0..=q).map(move |k| (q * tokens, k * tokens)));
        all.sort_unstable();
        assert_eq!(all, want.collect::<Vec<_>>());
        assert_eq!(work.len(), 1, "{ranks} ranks do {work:?} FLOPs");
    }
}

/// Passing keys on takes 1 s, each pair 1 s: two rounds of a forward take 3 + 2 s, the exchange hides.
#[test]
fn keys_travel_while_attention_computes() {
    let programs = ring(2);
    let seconds = By(|instr: &Instr, _: &[TensorType], _: &[TensorType]| match &instr.op {
        Op::Send(_) | Op::Recv(_) => 1.0,
        Op::AttentionPartial(op) if !op.backward => 1.0,
        _ => 0.0,
    });
    let walked = walk_ranks(&programs, |p| &p.step, &seconds).unwrap();
    for timed in &walked.timed {
        let forward =
            timed.iter().filter(|t| t.place.segment.starts_with("block.forward") && t.place.layer == 0);
        let pairs: Vec<(f64, f64)> =
            forward.clone().filter(|t| t.op == "attention.partial").map(|t| (t.start, t.end)).collect();
        assert_eq!(pairs, [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0), (4.0, 5.0)]);
        let received = forward.filter(|t| t.op == "recv").map(|t| (t.start, t.end)).next().unwrap();
        assert_eq!(received, (0.0, 1.0));
    }
}

#[test]
fn memory_of_a_ring() {
    use wide::*;
    let program = &ring(2)[0];
    let walked = walk(program, &program.step, &Instant);
    // Half of everything that has tokens; keys and values of 2 heads each are half of qkv.
    let persistent = 4 * 4 * (2 * BLOCK + 2 * VOCABULARY + NORM) + CONSTANTS;
    let batch = (IDS + TARGETS + POSITIONS + WEIGHTS) / 2 + CU_SEQLENS;
    let (residual, row, qkv, heads, lse) = (RESIDUAL / 2, ROW / 2, QKV / 2, HEADS / 2, LSE / 2);
    let passing = qkv / 2; // keys and values of the other rank
    let partial = heads / 2 + lse / 2; // one half of the queries
    let merge = persistent + batch + 2 * residual + row + qkv + heads + lse + passing + partial;
    let at = |r: &&llmc_plan::walk::Record| r.op == "attention.merge" && r.place.layer == 0;
    assert_eq!(walked.records.iter().rev().find(at).unwrap().live_bytes, merge);
}

/// Keys and gradients on one stream each way: a rank offers a gradient to one that waits for keys.
#[test]
fn one_stream_for_keys_and_gradients_deadlocks() {
    let mut programs = ring(4);
    assert!(walk_ranks(&programs, |p| &p.step, &Instant).is_ok());
    for program in &mut programs {
        let stream = |name: &str| program.streams.iter().position(|s| s == name).unwrap() as u32;
        let pairs = [("ring.gradient.send", "ring.send"), ("ring.gradient.receive", "ring.receive")];
        let pairs = pairs.map(|(from, to)| (StreamId(stream(from)), StreamId(stream(to))));
        for instr in program.segments.iter_mut().flat_map(|s| &mut s.instrs) {
            for (from, to) in pairs {
                if instr.stream == from {
                    instr.stream = to;
                }
            }
        }
    }
    let stuck = walk_ranks(&programs, |p| &p.step, &Instant).unwrap_err();
    assert!(stuck.iter().any(|s| s.starts_with("rank 0 waits for ever at block.backward")), "{stuck:?}");
}
