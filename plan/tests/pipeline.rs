//! Pipeline schedules: order, time and memory against figures worked out by hand.
#![allow(clippy::unwrap_used)]

mod support;

use llmc_plan::op::Op;
use llmc_plan::plan::*;
use llmc_plan::program::Program;
use llmc_plan::ranks::{Ranks, walk_ranks};
use support::{By, passes, peak, programs, spread, wide};

/// A pipeline with one layer a chunk.
fn pipeline(schedule: Schedule, ranks: u64, chunks: u64, micro_batches: u64) -> Vec<Program> {
    let mut plan = spread(1, 1, 1, ranks);
    plan.layout.schedule = schedule;
    plan.layout.vp = chunks;
    plan.model.layers = ranks * chunks;
    plan.batch.accumulation = micro_batches;
    programs(&plan)
}

/// Forward of a block takes 1 s, its input gradient 1 s, its weight gradient 1 s; all else is instantaneous.
/// The three are told by attention and by the weight gradients of the two
/// projections `[8, 16]` that end the branches.
fn timed(programs: &[Program]) -> Ranks {
    let seconds =
        By(
            |instr: &llmc_plan::program::Instr, _: &[_], outputs: &[llmc_plan::op::TensorType]| match &instr
                .op
            {
                Op::AttentionForward(_) | Op::AttentionBackward(_) => 1.0,
                Op::Gemm(gemm) if gemm.transpose_a && outputs[0].shape == [8, 16] => 0.5,
                _ => 0.0,
            },
        );
    walk_ranks(programs, |p| &p.step, &seconds).unwrap()
}

#[test]
fn one_forward_one_backward_on_two_ranks() {
    let programs = pipeline(Schedule::OneFOneB, 2, 1, 4);
    assert_eq!(passes(&programs[0], false), "F0 F1 B0 F2 B1 F3 B2 B3");
    assert_eq!(passes(&programs[1], false), "F0 B0 F1 B1 F2 B2 F3 B3");
    // (m + p − 1)·(F + B) with B = 2: the bubble is (p − 1)/(m + p − 1)
    let walked = timed(&programs);
    assert_eq!(walked.seconds, 5.0 * 3.0);
    assert!(walked.bubble.iter().all(|b| (b - 0.2).abs() < 1e-12), "{:?}", walked.bubble);
}

#[test]
fn one_forward_one_backward_on_four_ranks() {
    let programs = pipeline(Schedule::OneFOneB, 4, 1, 6);
    assert_eq!(passes(&programs[0], false), "F0 F1 F2 F3 B0 F4 B1 F5 B2 B3 B4 B5");
    assert_eq!(passes(&programs[1], false), "F0 F1 F2 B0 F3 B1 F4 B2 F5 B3 B4 B5");
    assert_eq!(passes(&programs[2], false), "F0 F1 B0 F2 B1 F3 B2 F4 B3 F5 B4 B5");
    assert_eq!(passes(&programs[3], false), "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 F5 B5");
    assert_eq!(timed(&programs).seconds, (6.0 + 3.0) * 3.0);
    // In flight: min(p − rank, m) micro-batches.
    let slots = programs.iter().map(|p| p.buffers[p.buffer_named("n1").unwrap().0 as usize].slots);
    assert_eq!(slots.collect::<Vec<u64>>(), [4, 3, 2, 1]);
}

/// What a rank keeps for the whole run: 1 block, and embedding or norm and head; weight, gradient, m, v.
fn persistent(top: u64) -> u64 {
    4 * 4 * (wide::BLOCK + top) + wide::CONSTANTS
}

#[test]
fn memory_of_one_forward_one_backward() {
    use wide::*;
    let programs = pipeline(Schedule::OneFOneB, 2, 1, 4);
    // Rank 0 peaks as the second micro-batch's forward ends while the first is kept: for both the batch, the
    // block's input and what it saved; and the output on its way to rank 1.
    let kept = IDS + POSITIONS + CU_SEQLENS + RESIDUAL + KEPT;
    assert_eq!(peak(&programs[0]), persistent(VOCABULARY) + 2 * kept + RESIDUAL);
    // Rank 1 peaks in the head: one micro-batch, x₁ and x₂, the normed x₂, its gradient, rstd, the logits.
    let kept = TARGETS + WEIGHTS + POSITIONS + CU_SEQLENS + RESIDUAL + KEPT;
    let head = RESIDUAL + 2 * RESIDUAL + ROW + LOGITS;
    assert_eq!(peak(&programs[1]), persistent(VOCABULARY + NORM) + kept + head);
}

#[test]
fn interleaved_on_two_ranks() {
    let programs = pipeline(Schedule::Interleaved, 2, 2, 4);
    assert_eq!(
        passes(&programs[0], true),
        "F0@0 F1@0 F0@2 F1@2 F2@0 B0@2 F3@0 B1@2 F2@2 B0@0 F3@2 B1@0 B2@2 B3@2 B2@0 B3@0"
    );
    assert_eq!(
        passes(&programs[1], true),
        "F0@1 F1@1 F0@3 B0@3 F1@3 B1@3 F2@1 B0@1 F3@1 B1@1 F2@3 B2@3 F3@3 B3@3 B2@1 B3@1"
    );
    // Each chunk takes 3 s a micro-batch: m·v of them and p − 1 in the bubble, 1/v of 1F1B's share.
    let walked = timed(&programs);
    assert_eq!(walked.seconds, (4.0 * 2.0 + 1.0) * 3.0);
    assert!(walked.bubble.iter().all(|b| (b - 1.0 / 9.0).abs() < 1e-12), "{:?}", walked.bubble);
}

#[test]
fn interleaved_ranks_hold_runs_of_layers() {
    let programs = pipeline(Schedule::Interleaved, 2, 2, 4);
    let names = |p: &Program| -> Vec<String> {
        let qkv = p.params.iter().filter(|p| p.name.ends_with("qkv"));
        qkv.map(|p| p.parts[0].hf_name.clone()).collect()
    };
    let name = |layer| format!("model.layers.{layer}.self_attn.q_proj.weight");
    assert_eq!(names(&programs[0]), [name(0), name(2)]);
    assert_eq!(names(&programs[1]), [name(1), name(3)]);
    let x = &programs[1].buffers[programs[1].buffer_named("x").unwrap().0 as usize];
    // Layers 1 and 3, each with its output, in the instances that both runs share; none for layer 0.
    let slots = x.slots;
    assert_eq!(slots, 3);
    let instance = |layer| x.instance(layer, 0, 0);
    assert_eq!([0, 1, 2, 3, 4].map(instance), [None, Some(0), Some(slots), Some(0), Some(slots)]);
}

#[test]
fn zero_bubble_on_two_ranks() {
    let programs = pipeline(Schedule::ZeroBubble, 2, 1, 4);
    assert_eq!(passes(&programs[0], false), "F0 F1 B0 W0 F2 B1 W1 F3 B2 W2 B3 W3");
    assert_eq!(passes(&programs[1], false), "F0 B0 F1 B1 W0 F2 B2 W1 F3 B3 W2 W3");
    // m·(F + B + W) + (p − 1)·(F + B − W) (arXiv 2401.10241, table 2), where 1F1B has (p − 1)·(F + B + W)
    assert_eq!(timed(&programs).seconds, 12.0 + 1.0);
}

#[test]
fn zero_bubble_on_four_ranks() {
    let programs = pipeline(Schedule::ZeroBubble, 4, 1, 8);
    assert_eq!(
        passes(&programs[3], false),
        "F0 B0 F1 B1 F2 B2 F3 B3 W0 F4 B4 W1 F5 B5 W2 F6 B6 W3 F7 B7 W4 W5 W6 W7"
    );
    assert_eq!(timed(&programs).seconds, 24.0 + 3.0);
    // No rank holds more micro-batches than the first does.
    let slots = programs.iter().map(|p| p.buffers[p.buffer_named("n1").unwrap().0 as usize].slots);
    assert_eq!(slots.collect::<Vec<u64>>(), [4, 4, 4, 4]);
}

#[test]
fn memory_of_zero_bubble() {
    use wide::*;
    let programs = pipeline(Schedule::ZeroBubble, 2, 1, 4);
    // What waits for a weight gradient once the input gradient is through: n1, n2, act, the gradients of
    // gate_up and qkv, o, and a copy of the gradient at each of the two branches.
    let waiting = 2 * RESIDUAL + FFN + 2 * FFN + QKV + HEADS + 2 * RESIDUAL;
    // Rank 1 peaks in the attention gradient of micro-batch 1 while micro-batch 0 waits for its weight
    // gradients: of what was kept x₂ and its rstd are gone; there are the gradient and its two copies, and those
    // of the attention output and of qkv.
    let kept = POSITIONS + CU_SEQLENS + RESIDUAL + KEPT - RESIDUAL - ROW;
    let gradients = 3 * RESIDUAL + HEADS + QKV;
    assert_eq!(peak(&programs[1]), persistent(VOCABULARY + NORM) + waiting + kept + gradients);
}

#[test]
fn ranks_that_disagree_on_the_order_wait_for_ever() {
    let mut programs = pipeline(Schedule::OneFOneB, 2, 1, 1);
    // Rank 0 asks for the gradient of micro-batch 0 before it has sent its activations.
    let find = |program: &Program, name: &str| {
        let of = |c: &llmc_plan::program::Call| program.segments[c.segment.0 as usize].name.starts_with(name);
        program.step.iter().position(of).unwrap()
    };
    let (send, backward) = (find(&programs[0], "send.forward"), find(&programs[0], "block.backward"));
    let call = programs[0].step.remove(send);
    programs[0].step.insert(backward, call);
    // All on one stream, as a program without care for directions would have it.
    for instr in programs[0].segments.iter_mut().flat_map(|s| &mut s.instrs) {
        instr.stream = llmc_plan::program::StreamId(0);
    }
    let stuck = walk_ranks(&programs, |p| &p.step, &llmc_plan::walk::Instant).unwrap_err();
    assert!(stuck.iter().any(|s| s.starts_with("rank 0 waits for ever at receive.backward")), "{stuck:?}");
}

#[test]
fn a_missing_receive_is_named() {
    let mut programs = pipeline(Schedule::OneFOneB, 2, 1, 2);
    let receive = |p: &Program, c: &llmc_plan::program::Call| {
        p.segments[c.segment.0 as usize].name.starts_with("receive.forward")
    };
    let copy = programs[1].clone();
    programs[1].step.retain(|call| !(receive(&copy, call) && call.micro_batch == 1));
    let wrong = walk_ranks(&programs, |p| &p.step, &llmc_plan::walk::Instant).unwrap_err();
    assert_eq!(wrong, ["rank 0 send.forward/0 layer 1 micro-batch 1: rank 1 never takes part"]);
}

#[test]
fn stages_hold_what_the_plan_says_and_recompute_what_it_says() {
    let mut plan = spread(1, 1, 1, 2);
    plan.layout.schedule = Schedule::OneFOneB;
    plan.model.layers = 5;
    plan.batch.accumulation = 4;
    let even = programs(&plan);
    let stage = |layers, selective, full| StageLayers { layers, selective, full, offload: 0 };
    plan.layout.stages = vec![stage(4, 1, 2), stage(1, 0, 0)];
    let uneven = programs(&plan);
    let calls = |program: &Program, name: &str| {
        let named = |call: &&llmc_plan::program::Call| program.segment(call.segment).unwrap().name == name;
        program.step.iter().filter(named).map(|call| call.layer).collect::<std::collections::BTreeSet<u64>>()
    };
    let layers = |wanted: &[u64]| wanted.iter().copied().collect::<std::collections::BTreeSet<u64>>();
    assert_eq!(calls(&uneven[0], "block.forward.full"), layers(&[0, 1]));
    assert_eq!(calls(&uneven[0], "block.forward.selective"), layers(&[2]));
    assert_eq!(calls(&uneven[0], "block.forward.none"), layers(&[3]));
    assert_eq!(calls(&uneven[1], "block.forward.none"), layers(&[4]));
    // Four layers, two of which keep their input only, need less than three that keep everything would.
    plan.layout.stages = vec![stage(4, 0, 0), stage(1, 0, 0)];
    let kept = programs(&plan);
    assert!(peak(&uneven[0]) < peak(&kept[0]) && peak(&kept[0]) > peak(&even[0]));
    // Ranks agree on who sends what: the pair runs to its end.
    assert!(timed(&uneven).seconds > 0.0);
    for wrong in
        [vec![stage(4, 0, 0)], vec![stage(4, 3, 2), stage(1, 0, 0)], vec![stage(5, 0, 0), stage(0, 0, 0)]]
    {
        plan.layout.stages = wrong;
        let place = llmc_plan::lower::Coordinates::default();
        let refused = llmc_plan::lower::lower(&plan, &place, llmc_plan::op::Backend::Cpu);
        assert!(matches!(refused, Err(llmc_plan::lower::LowerError::Invalid { path: "layout.stages", .. })));
    }
}
