//! Edited programs: what verification must refuse, and that it never panics.

#![allow(clippy::unwrap_used)]

mod support;

use llmc_plan::arena::assign;
use llmc_plan::lower::{Coordinates, lower};
use llmc_plan::op::Backend;
use llmc_plan::plan::*;
use llmc_plan::program::Program;
use llmc_plan::ranks::walk_ranks;
use llmc_plan::verify::verify;
use llmc_plan::walk::{Instant, memory, walk};

fn program() -> Program {
    let mut plan = support::toy();
    plan.layout.recompute = Recompute::Selective;
    plan.precision = Precision::Bf16;
    plan.model.dropout = 0.1;
    let mut program = lower(&plan, &Coordinates::default(), Backend::Cpu).unwrap();
    assign(&mut program);
    program
}

/// Instructions of the segments a list calls.
fn called(program: &Program) -> Vec<(usize, usize)> {
    let lists = [&program.init, &program.step, &program.eval, &program.save];
    let mut segments: Vec<usize> = lists.into_iter().flatten().map(|c| c.segment.0 as usize).collect();
    segments.sort_unstable();
    segments.dedup();
    let of = |s: usize| (0..program.segments[s].instrs.len()).map(move |i| (s, i));
    segments.into_iter().flat_map(of).collect()
}

/// Ops that change values in place and carry no tensor's life: without one the program is still well formed
/// and computes something else, which the loss shows.
const CHANGES_ONLY_VALUES: &[&str] = &[
    "rope.rotate",
    "rope.tables",
    "dropout",
    "cross_entropy.train",
    "cross_entropy.eval",
    "squared_norm",
    "clip",
    "snapshot",
];

#[test]
fn any_deleted_instruction_is_refused_unless_it_only_changes_values() {
    let sound = program();
    for (segment, index) in called(&sound) {
        let mut program = sound.clone();
        let deleted = program.segments[segment].instrs.remove(index);
        let name = &sound.segments[segment].name;
        if deleted.frees.is_empty() && CHANGES_ONLY_VALUES.contains(&deleted.op.key()) {
            continue;
        }
        if ["init.block", "init.top"].contains(&name.as_str()) && deleted.op.key() == "fill" {
            let gradient = program.buffer(deleted.outputs[0].buffer).unwrap().name.starts_with("g.");
            if gradient {
                continue; // every step clears gradients itself
            }
        }
        assert_ne!(verify(&program), [], "{name}/{index} {}", deleted.op.key());
    }
}

#[test]
fn a_deleted_weight_gradient_names_the_parameter() {
    let mut program = program();
    let segment = program.segment_named("block.backward.selective").unwrap();
    let gradient = program.buffer_named("g.down").unwrap();
    let instrs = &mut program.segments[segment.0 as usize].instrs;
    let index = instrs.iter().position(|i| i.outputs.first().is_some_and(|o| o.buffer == gradient)).unwrap();
    let frees = instrs.remove(index).frees;
    instrs[index].frees.extend(frees); // lifetimes stay right: only the sum is missing
    let reasons: Vec<String> = verify(&program).iter().map(|v| v.to_string()).collect();
    assert_eq!(
        reasons[0],
        "norm.first.block/5 layer 0 micro-batch 0: reads g.down, to which nothing was added in this step"
    );
}

#[test]
fn a_duplicated_creation_is_refused() {
    let sound = program();
    let segment = sound.segment_named("block.forward.selective").unwrap().0 as usize;
    let creating =
        sound.segments[segment].instrs.iter().position(|i| i.op.key() == "swiglu.forward").unwrap();
    let mut program = sound.clone();
    let copy = program.segments[segment].instrs[creating].clone();
    program.segments[segment].instrs.insert(creating, copy);
    let reasons: Vec<String> = verify(&program).into_iter().map(|v| v.reason).collect();
    assert!(reasons.contains(&"creates act again before it was freed".to_string()), "{reasons:?}");
}

#[test]
fn tensors_placed_over_one_another_are_refused() {
    let mut program = program();
    let [x, x2] = ["x", "x2"].map(|name| program.buffer_named(name).unwrap().0 as usize);
    program.buffers[x2].offsets[0] = program.buffers[x].offsets[0];
    let reasons: Vec<String> = verify(&program).into_iter().map(|v| v.reason).collect();
    assert!(reasons.iter().any(|r| r.contains("x and x2 share bytes")), "{reasons:?}");
}

#[test]
fn one_layer_under_another_policy_moves_memory_as_simulated() {
    let before = program();
    let mut after = before.clone();
    llmc_plan::pass::set_recompute(&mut after, 0, Recompute::None).unwrap();
    assign(&mut after);
    assert_eq!(verify(&after), []);
    // bf16: n1 and n2 [12, 8], act [12, 16], and the two rstd [12] in f32 are kept for layer 0
    let kept = 2 * (12 * 8 * 2) + 12 * 16 * 2 + 2 * 12 * 4;
    let live = |p: &Program| walk(p, &p.step, &Instant).records.iter().map(|r| r.live_bytes).max().unwrap();
    assert_eq!(live(&after), live(&before) + kept);
    assert!(memory(&after).total > memory(&before).total);
}

/// A small generator (xorshift, Marsaglia 2003): the same edits on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

/// Random edits of the JSON: numbers replaced, instructions and calls deleted, doubled, exchanged.
fn edit(random: &mut Random, value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::Object(map) if !map.is_empty() => {
            let index = random.below(map.len());
            if let Some((_, child)) = map.iter_mut().nth(index) {
                edit(random, child);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let (a, b) = (random.below(items.len()), random.below(items.len()));
            match random.below(12) {
                0 => drop(items.remove(a)),
                1 => items.insert(a, items[b].clone()),
                2 => items.swap(a, b),
                _ => edit(random, &mut items[a]),
            }
        }
        Value::Number(number) => {
            let choices = [0, 1, 2, 7, u64::from(u32::MAX), i64::MAX as u64, u64::MAX];
            let old = number.as_u64().unwrap_or(3);
            *value = match random.below(10) {
                0 => Value::from(old.wrapping_add(1)),
                1 => Value::from(old.wrapping_sub(1)),
                2 => Value::from(-1),
                i => Value::from(choices[i % choices.len()]),
            };
        }
        Value::Bool(flag) => *flag = !*flag,
        _ => {}
    }
}

#[test]
fn no_edit_makes_verification_panic() {
    let mut sharded = support::spread(2, 1, 1, 1);
    sharded.layout.zero_stage = 3;
    let sharded = support::programs(&sharded);
    let sound = [program(), sharded[0].clone()].map(|p| serde_json::to_value(p).unwrap());
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let (mut parsed, mut refused) = (0, 0);
    for round in 0..300 {
        let mut value = sound[round % 2].clone();
        for _ in 0..1 + random.below(4) {
            edit(&mut random, &mut value);
        }
        let Ok(mut program) = serde_json::from_value::<Program>(value) else { continue };
        parsed += 1;
        let violations = verify(&program);
        refused += usize::from(!violations.is_empty());
        walk(&program, &program.step, &Instant);
        memory(&program);
        assign(&mut program);
        let _ = walk_ranks(&[program.clone(), sharded[1].clone()], |p| &p.step, &Instant);
        llmc_plan::sync::derive(&mut program);
    }
    assert!(parsed > 100 && refused > 50, "{parsed} parsed, {refused} refused");
}

/// Edits numbers of the plan: lowering gives a program that verifies, or says why not; it never panics.
#[test]
fn no_edit_of_a_plan_makes_lowering_panic() {
    let mut random = Random(0x1234_5678_9ABC_DEF1);
    let mut cut = support::spread(2, 2, 1, 2);
    cut.layout.zero_stage = 1;
    let plans = [support::toy(), cut].map(|p| serde_json::to_value(p).unwrap());
    let (mut lowered, mut refused) = (0, 0);
    for round in 0..500 {
        let mut value = plans[round % 2].clone();
        for _ in 0..1 + random.below(3) {
            let part = ["model", "batch", "layout", "optimizer"][random.below(4)];
            edit(&mut random, &mut value[part]);
        }
        let Ok(plan) = serde_json::from_value::<Plan>(value) else { continue };
        let options = llmc_plan::lower::Options {
            documents_per_sequence: [None, Some(0), Some(u64::MAX)][random.below(3)],
            sources: [1, 3, u64::MAX][random.below(3)],
            accumulation_cap: Some(2),
            ..llmc_plan::lower::Options::new(Backend::Cuda)
        };
        match llmc_plan::lower::lower_with(&plan, &Coordinates::of_rank(&plan, 0), &options) {
            Err(_) => refused += 1,
            Ok(mut program) => {
                lowered += 1;
                assign(&mut program);
                assert_eq!(verify(&program), [], "{plan:?}");
            }
        }
    }
    assert!(lowered > 50 && refused > 50, "{lowered} lowered, {refused} refused");
}

#[test]
fn a_policy_changes_in_a_program_of_several_streams() {
    let mut plan = support::spread(2, 1, 1, 1);
    plan.layout.zero_stage = 3;
    let mut program = support::programs(&plan).remove(0);
    let before = program.clone();
    llmc_plan::pass::set_recompute(&mut program, 0, Recompute::Full).unwrap();
    assign(&mut program);
    assert_eq!(verify(&program), []);
    assert!(support::peak(&program) < support::peak(&before));
    llmc_plan::pass::set_recompute(&mut program, 0, Recompute::None).unwrap();
    assign(&mut program);
    assert_eq!(program, before);
    assert!(llmc_plan::pass::set_recompute(&mut program, 7, Recompute::None).is_err());
}

#[test]
fn a_program_survives_json() {
    let program = program();
    let text = serde_json::to_string(&program).unwrap();
    assert_eq!(serde_json::from_str::<Program>(&text).unwrap(), program);
}
