//! Offload to host memory: order, overlap and memory against figures worked out by hand.
#![allow(clippy::unwrap_used)]

mod support;

use llmc_plan::op::{Op, TensorType};
use llmc_plan::plan::*;
use llmc_plan::program::{Instr, Program, Space};
use llmc_plan::walk::{Record, Walk, memory, walk};
use support::{By, peak, programs, spread, wide, words};

fn offload(what: Offload, layers: u64) -> Program {
    let mut plan = spread(1, 1, 1, 1);
    plan.layout.offload = what;
    plan.layout.recompute = Recompute::Full;
    plan.model.layers = layers;
    plan.batch.accumulation = 1;
    programs(&plan).remove(0)
}

/// A copy takes 1 s, a block's forward 1 s, its backward with recompute 1 + 2 s.
fn timed(program: &Program) -> Walk {
    let seconds = By(|instr: &Instr, _: &[TensorType], _: &[TensorType]| match &instr.op {
        Op::AttentionForward(_) | Op::Copy(_) => 1.0,
        Op::AttentionBackward(_) => 2.0,
        _ => 0.0,
    });
    walk(program, &program.step, &seconds)
}

fn span(walk: &Walk, segment: &str, layer: u64) -> (f64, f64) {
    let of = |r: &&Record| r.place.segment.starts_with(segment) && r.place.layer == layer;
    let timed: Vec<&Record> = walk.records.iter().filter(of).filter(|r| r.end > r.start).collect();
    (timed.first().unwrap().start, timed.last().unwrap().end)
}

#[test]
fn order_of_two_layers() {
    let program = offload(Offload::Activations, 2);
    let calls = words(&program, &program.step);
    let passes: Vec<&str> = calls.iter().map(String::as_str).skip_while(|w| *w != "load").take(10).collect();
    assert_eq!(
        passes.join(" "),
        "load embed.forward block.offload@0 block.forward.offload@0 block.forward@1 head.loss \
         block.fetch@0 block.backward@1 block.backward@0 embed.backward"
    );
}

#[test]
fn copies_hide_behind_compute() {
    let program = offload(Offload::Activations, 3);
    let walk = timed(&program);
    assert_eq!(span(&walk, "block.offload", 0), (0.0, 1.0));
    assert_eq!(span(&walk, "block.forward", 0), (0.0, 1.0));
    assert_eq!(span(&walk, "block.offload", 1), (1.0, 2.0));
    assert_eq!(span(&walk, "block.forward", 2), (2.0, 3.0));
    // x₁ comes back where x₃ was, which the head left at 3, and x₀ where x₂ was, in use till 6.
    assert_eq!(span(&walk, "block.fetch", 1), (3.0, 4.0));
    assert_eq!(span(&walk, "block.backward", 2), (3.0, 6.0));
    assert_eq!(span(&walk, "block.fetch", 0), (6.0, 7.0));
    assert_eq!(span(&walk, "block.backward", 1), (6.0, 9.0));
    assert_eq!(span(&walk, "block.backward", 0), (9.0, 12.0));
    assert_eq!(walk.seconds, 12.0);
}

/// Two block inputs are on the device however many layers there are; the others wait in page-locked memory.
#[test]
fn memory_does_not_grow_with_layers() {
    use wide::*;
    for layers in [2, 3, 6] {
        let program = offload(Offload::Activations, layers);
        let persistent = 4 * 4 * (layers * BLOCK + 2 * VOCABULARY + NORM) + CONSTANTS;
        // In the last block's backward: its input and the one before it, dres, and all of the block again.
        let redone = IDS + POSITIONS + CU_SEQLENS + 2 * RESIDUAL + RESIDUAL + KEPT;
        assert_eq!(peak(&program), persistent + redone, "{layers} layers");
        let host = program.buffers.iter().find(|b| b.name == "x.host").unwrap();
        assert_eq!((host.space, host.bytes(), host.layers), (Space::Pinned, RESIDUAL, layers));
    }
}

#[test]
fn optimizer_states_pass_through_the_device() {
    use wide::*;
    let program = offload(Offload::Optimizer, 2);
    let calls = words(&program, &program.step);
    let tail: Vec<&str> = calls.iter().map(String::as_str).skip_while(|w| *w != "clip").skip(1).collect();
    assert_eq!(
        tail.join(" "),
        "states.fetch.top states.fetch.block@0 optimize.top states.store.top \
         states.fetch.block@1 optimize.block@0 states.store.block@0 optimize.block@1 states.store.block@1"
    );
    // Nothing of it lives on the device for good.
    assert_eq!(memory(&program).optimizer, 0);
    let pinned = program.buffers.iter().filter(|b| b.space == Space::Pinned);
    let bytes: u64 = pinned.map(|b| b.bytes() * b.instances()).sum();
    assert_eq!(bytes, 2 * 4 * (2 * BLOCK + 2 * VOCABULARY + NORM));
}
