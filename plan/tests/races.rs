//! Streams are kept apart by events, and by no more of them than needed.
#![allow(clippy::unwrap_used)]

mod support;

use llmc_plan::plan::*;
use llmc_plan::program::Program;
use llmc_plan::verify::verify;
use support::{programs, spread};

fn asynchronous() -> Vec<(&'static str, Program)> {
    let rank = |change: fn(&mut Plan), sizes: (u64, u64, u64, u64), rank: usize| {
        let mut plan = spread(sizes.0, sizes.1, sizes.2, sizes.3);
        plan.batch.accumulation = 4;
        change(&mut plan);
        programs(&plan).remove(rank)
    };
    vec![
        ("zero 1", rank(|p| p.layout.zero_stage = 1, (2, 1, 1, 1), 0)),
        ("zero 2", rank(|p| p.layout.zero_stage = 2, (2, 1, 1, 1), 1)),
        ("zero 3", rank(|p| p.layout.zero_stage = 3, (2, 1, 1, 1), 0)),
        ("1f1b", rank(|_| (), (1, 1, 1, 2), 0)),
        ("zero-bubble", rank(|p| p.layout.schedule = Schedule::ZeroBubble, (1, 1, 1, 2), 1)),
        ("ring", rank(|_| (), (1, 1, 2, 1), 0)),
        (
            "offload",
            rank(
                |p| {
                    p.layout.offload = Offload::Activations;
                    p.layout.recompute = Recompute::Full;
                    p.model.layers = 3;
                },
                (1, 1, 1, 1),
                0,
            ),
        ),
    ]
}

#[test]
fn every_single_wait_is_needed() {
    for (name, sound) in asynchronous() {
        assert_eq!(verify(&sound), [], "{name}");
        let mut tried = 0;
        let called: Vec<usize> = [&sound.init, &sound.step, &sound.eval, &sound.save]
            .into_iter()
            .flatten()
            .map(|c| c.segment.0 as usize)
            .collect();
        for (s, segment) in sound.segments.iter().enumerate().filter(|(s, _)| called.contains(s)) {
            for (i, instr) in segment.instrs.iter().enumerate() {
                for w in 0..instr.waits.len() {
                    let mut program = sound.clone();
                    program.segments[s].instrs[i].waits.remove(w);
                    let violations = verify(&program);
                    let place = format!("{name}: {}/{i} wait {w} {:?}", segment.name, instr.waits[w]);
                    assert!(violations.iter().any(|v| v.reason.contains("may still use it")), "{place}");
                    tried += 1;
                }
            }
        }
        assert!(tried > 5, "{name} has {tried} waits");
    }
}

/// The ring of gathered weights without the event that says a layer is done with its place.
#[test]
fn a_ring_overwritten_too_early_is_caught() {
    let mut plan = spread(2, 1, 1, 1);
    plan.layout.zero_stage = 3;
    plan.model.layers = 4;
    let mut program = programs(&plan).remove(0);
    for segment in program.segments.iter_mut().filter(|s| s.name.starts_with("gather.block")) {
        segment.instrs.iter_mut().for_each(|i| i.waits.retain(|w| w.previous_step));
    }
    let violations: Vec<String> = verify(&program).iter().map(|v| v.to_string()).collect();
    assert!(
        violations.iter().any(|v| v.starts_with("gather.block")
            && v.contains("layer 2 micro-batch 0: writes u.norm1 while stream compute may still use it")),
        "{violations:#?}"
    );
}

#[test]
fn a_wait_for_what_nobody_raises_is_caught() {
    let (_, mut program) = asynchronous().swap_remove(2);
    for instr in program.segments.iter_mut().flat_map(|s| &mut s.instrs) {
        instr.signals.clear();
    }
    let violations = verify(&program);
    assert!(violations.iter().any(|v| v.reason.contains("which nobody raised before")));
}
