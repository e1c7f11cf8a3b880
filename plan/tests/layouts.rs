//! Every layout lowers to sound programs on every rank.
#![allow(clippy::unwrap_used)]

mod support;

use llmc_plan::lower::Options;
use llmc_plan::op::Backend;
use llmc_plan::plan::*;
use llmc_plan::program::{Call, Program};
use llmc_plan::ranks::walk_ranks;
use llmc_plan::walk::Instant;

#[test]
fn every_layout_is_sound_and_its_ranks_meet() {
    let several = Options { sources: 3, ..Options::new(Backend::Cpu) };
    let cases = support::layouts().into_iter().flat_map(|(name, plan)| {
        let apart = support::programs_with(&plan, &several);
        [(name.clone(), support::programs(&plan)), (format!("{name}, three sources"), apart)]
    });
    for (name, programs) in cases {
        for list in [(|p| &p.init) as fn(&Program) -> &[Call], |p| &p.step, |p| &p.eval, |p| &p.save] {
            let met = walk_ranks(&programs, list, &Instant);
            assert!(met.is_ok(), "{name}: {:#?}", met.unwrap_err());
        }
        for (rank, program) in programs.iter().enumerate() {
            let violations = llmc_plan::verify::verify(program);
            let shown: Vec<String> = violations.iter().take(5).map(|v| v.to_string()).collect();
            assert!(violations.is_empty(), "{name}, rank {rank}: {shown:#?}");
        }
    }
}

#[test]
fn what_is_not_lowered_is_refused_with_a_reason() {
    let refuse = |change: fn(&mut Plan)| {
        let mut plan = support::toy();
        change(&mut plan);
        llmc_plan::lower::lower(&plan, &Default::default(), llmc_plan::op::Backend::Cpu)
            .unwrap_err()
            .to_string()
    };
    let fp8 = refuse(|p| p.precision = Precision::Fp8);
    assert_eq!(
        fp8,
        "plan.precision cannot be run: 8-bit products need multiples of 16, 12 is none: choose bf16"
    );
    let gpus = refuse(|p| p.layout.gpus = 3);
    assert_eq!(gpus, "plan.layout.gpus is impossible: dp·tp·pp·cp is 1, not 3");
    let heads = refuse(|p| p.model.kv_heads = 7);
    assert_eq!(heads, "plan.model.kv_heads is impossible: model.heads, 2, is not a multiple of 7");
    let offload = refuse(|p| p.layout.offload = Offload::Activations);
    assert_eq!(
        offload,
        "plan.layout.offload cannot be run: only block inputs are offloaded: choose recompute full"
    );
    let huge = refuse(|p| p.model.hidden = u64::MAX);
    assert!(huge.starts_with("plan.model.hidden is impossible"), "{huge}");
}
