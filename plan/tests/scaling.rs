//! Scalars of a step: the norm after the first micro-batch, and the loss scale of fp16.

#![allow(clippy::unwrap_used)]

mod support;

use llmc_plan::arena::assign;
use llmc_plan::lower::{Coordinates, lower};
use llmc_plan::op::{Backend, Op};
use llmc_plan::plan::*;
use llmc_plan::program::Program;
use llmc_plan::verify::verify;

fn program(plan: &Plan) -> Program {
    let mut program = lower(plan, &Coordinates::default(), Backend::Cpu).unwrap();
    assign(&mut program);
    program
}

/// Segments of a step in order, repetitions once.
fn segments(program: &Program) -> Vec<&str> {
    let mut names: Vec<&str> =
        program.step.iter().map(|c| program.segment(c.segment).unwrap().name.as_str()).collect();
    names.dedup();
    names
}

#[test]
fn the_first_micro_batch_of_several_has_its_norm() {
    let mut plan = support::toy();
    let two = program(&plan);
    let names = segments(&two);
    let first = names.iter().position(|n| *n == "norm.first.block").unwrap();
    assert_eq!(names[first - 1..first + 3], ["embed.backward", "norm.first.block", "norm.first.top", "load"]);
    assert_eq!(names.iter().filter(|n| n.starts_with("norm.first")).count(), 2, "once a step");
    plan.batch.accumulation = 1;
    assert!(program(&plan).segment_named("norm.first.block").is_none());
    assert!(program(&plan).buffer_named("grad_sq.first").is_none());
}

#[test]
fn fp16_scales_its_loss_and_a_deleted_part_of_that_is_refused_or_only_changes_values() {
    let mut plan = support::toy();
    plan.precision = Precision::Fp16;
    let program = program(&plan);
    assert_eq!(verify(&program), []);
    let clip = &program.segments[program.segment_named("clip").unwrap().0 as usize].instrs;
    let keys: Vec<&str> = clip.iter().map(|i| i.op.key()).collect();
    assert_eq!(keys, ["loss_scale.remove", "clip", "loss_scale.adjust"]);
    // The loss reads the scaled weight, and nothing else reads the plain one.
    let plain = program.buffer_named("inv_weight").unwrap();
    let readers = program
        .segments
        .iter()
        .flat_map(|s| &s.instrs)
        .filter(|i| i.inputs.iter().any(|r| r.buffer == plain));
    assert!(readers.into_iter().all(|i| matches!(i.op, Op::ScaleLoss(_))));
}
