//! Programs run in this process.

use llmc_plan::plan::{OptimizerKind, Precision, Recompute};
use llmc_plan::walk;

use crate::support::{alone, bytes, machine, plan, program, step, stream, tensors};

#[test]
fn the_loss_falls() {
    let _alone = alone();
    let plan = plan();
    let (program, stream) = (program(&plan), stream(&plan));
    let mut machine = machine(&program, &plan);
    let losses: Vec<f64> = (0..8).map(|done| step(&mut machine, &plan, &stream, done)).collect();
    eprintln!("{losses:?}");
    let uniform = libm::log(300.0);
    assert!(
        (losses[0] - uniform).abs() < 0.1,
        "an untrained model knows nothing: {} and {uniform}",
        losses[0]
    );
    assert!(losses[7] < losses[0] - 0.3, "{losses:?}");
}

/// Losses and weights after several steps do not depend on what is recomputed, with dropout on.
#[test]
fn recompute_policies_are_bit_equal() {
    let _alone = alone();
    let mut outcomes = Vec::new();
    for policy in [Recompute::None, Recompute::Selective, Recompute::Full] {
        let mut plan = plan();
        plan.layout.recompute = policy;
        plan.model.dropout = 0.1;
        let (program, stream) = (program(&plan), stream(&plan));
        let mut machine = machine(&program, &plan);
        let losses: Vec<u64> =
            (0..4).map(|done| step(&mut machine, &plan, &stream, done).to_bits()).collect();
        let weights: Vec<_> = tensors(&machine, "w.").iter().map(|(n, t)| (n.clone(), bytes(t))).collect();
        outcomes.push((losses, weights, walk::memory(&program).arena));
    }
    for other in &outcomes[1..] {
        assert_eq!(outcomes[0].0, other.0, "losses");
        assert!(outcomes[0].1 == other.1, "weights");
    }
    assert!(outcomes[0].2 > outcomes[1].2 && outcomes[1].2 > outcomes[2].2, "and memory falls");
}

#[test]
fn measured_peak_is_the_simulated_one() {
    let _alone = alone();
    let plan = plan();
    let (program, stream) = (program(&plan), stream(&plan));
    let before = llmc_runtime::shim::cpu_stats().live_bytes;
    llmc_runtime::shim::reset_cpu_peak();
    let mut machine = machine(&program, &plan);
    for done in 0..2 {
        step(&mut machine, &plan, &stream, done);
    }
    let measured = machine.peak_bytes().expect("peak") - before;
    let simulated = walk::memory(&program).total;
    let error = measured as f64 / simulated as f64 - 1.0;
    eprintln!("measured {measured} simulated {simulated} {error:+.4}");
    assert!(error.abs() < 0.02, "measured {measured}, simulated {simulated}");
}

/// A paged update works through a ring of two layers and host memory, and makes the same weights.
#[test]
fn a_paged_update_is_bit_equal() {
    let _alone = alone();
    let mut outcomes = Vec::new();
    for kind in [OptimizerKind::Adamw, OptimizerKind::PagedAdamw] {
        let mut plan = plan();
        plan.optimizer.kind = kind;
        plan.precision = Precision::Bf16;
        let (program, stream) = (program(&plan), stream(&plan));
        let mut machine = machine(&program, &plan);
        let losses: Vec<u64> =
            (0..4).map(|done| step(&mut machine, &plan, &stream, done).to_bits()).collect();
        let kept = ["w.", "master.", "m.", "v."].map(|prefix| tensors(&machine, prefix));
        let named = kept.iter().flatten().filter(|(name, _)| !name.contains(".work."));
        let values: Vec<_> = named.map(|(n, t)| (n.clone(), bytes(t))).collect();
        outcomes.push((losses, values, walk::memory(&program).optimizer));
    }
    assert_eq!(outcomes[0].0, outcomes[1].0, "losses");
    assert!(outcomes[0].1 == outcomes[1].1, "weights, masters and moments");
    assert!(outcomes[0].2 > 0 && outcomes[1].2 == 0, "states leave the device");
}
