//! The walk over a lowered program, timed by the cost model, against the closed form of the same plan.
#![allow(clippy::unwrap_used)] // a plan that cannot be made is a broken test

mod common;

use common::{laid_out, model, question};
use llmc_plan::lower::{Coordinates, Options, lower_with};
use llmc_plan::op::Backend;
use llmc_plan::plan::{Offload, Plan, Recompute, Schedule};
use llmc_plan::program::{Axis, Program};
use llmc_plan::ranks::steady_seconds;
use llmc_plan::walk::walk;
use llmc_planner::cost::Point;
use llmc_planner::cost::comm::{Group, scatter};
use llmc_planner::cost::step::{compute, step};
use llmc_planner::durations::Model;
use llmc_planner::question::{Budget, Cluster, Question};
use llmc_planner::{own_setting, solve};

fn both(q: &Question) -> (Plan, f64) {
    let plan = solve(q).unwrap().plan;
    let cluster = Cluster { nodes: 1, gpus_per_node: 1 };
    let setting = own_setting(q, cluster, plan.batch.global_sequences).unwrap();
    let program = lower_with(&plan, &Coordinates::default(), &Options::new(Backend::Cuda)).unwrap();
    let seconds = walk(&program, &program.step, &Model::new(&setting)).seconds;
    (plan, seconds)
}

#[test]
fn one_device_steps_agree_with_the_closed_form() {
    for (layers, hidden, heads, ffn, context) in
        [(26, 3072, 24, 8192, 4096), (26, 3072, 24, 8192, 8192), (24, 2048, 16, 5504, 4096)]
    {
        let mut q = question(model(layers, hidden, heads, heads, ffn, 32000, context), "H100", 1, 1);
        q.budget = vec![Budget::Tokens(1_000_000_000)];
        q.batch_tokens = Some(131_072);
        let (plan, walked) = both(&q);
        let closed = plan.time.step_seconds;
        println!(
            "{hidden} {context}: closed {closed:.3} s, walked {walked:.3} s, {:+.3}",
            walked / closed - 1.0
        );
        // The host and a step's fixed costs are in the closed form alone.
        assert!((walked / closed - 1.0).abs() < 0.05, "{hidden} {context}: {closed} s against {walked} s");
    }
}

#[test]
fn rings_share_the_way_between_the_halves_of_a_machine_without_links() {
    let seconds = |card: &str, ranks, stride| {
        let q = question(model(8, 2048, 16, 16, 5504, 32000, 4096), card, 1, 8);
        let s = own_setting(&q, Cluster { nodes: 1, gpus_per_node: 8 }, 8).unwrap();
        scatter(&s, Group::strided(ranks, stride, 8), 8e9)
    };
    // Two of eight devices, four apart: four rings cross. With links it does not matter who is next to whom.
    let [near, far] = [1, 4].map(|stride| seconds("A100-PCIe", 2, stride));
    assert!(far > 4.0 * near, "{far} {near}");
    assert_eq!(seconds("A100", 2, 1), seconds("A100", 2, 4));
    // Four stay in a half, eight cross once.
    let bytes = |ranks: u64| 8e9 * (ranks - 1) as f64 / ranks as f64 / seconds("A100-PCIe", ranks, 1);
    assert!(bytes(8) < 0.8 * bytes(4), "{} {}", bytes(8), bytes(4));
}

/// The closed form's seconds of a step ÷ the walk's of the programs of all ranks together, both without what no program
/// knows: fixed costs, slower neighbours, the host, and how far computation and communication disturb each other.
fn ratio(q: &Question, point: &Point, m: u64, nodes: u64) -> f64 {
    let (plan, mut s) = laid_out(q, point, m, nodes);
    let (fixed, comm) = (&mut s.profile.fixed, &mut s.profile.comm);
    (fixed.host_layer, fixed.host_collective, fixed.step) = (0.0, 0.0, 0.0);
    (comm.overlap, comm.tax, comm.straggler) = (1.0, 0.0, 0.0);
    let walked = steady_seconds(&ranks(&plan), &Model::of(&s, point)).unwrap();
    let closed = step(&s, point, &compute(&s, point)).total;
    println!("{:+.4} {m} micro-batches on {nodes} {point:?}", closed / walked - 1.0);
    closed / walked
}

/// The programs of the pipeline and context ranks; those beside them do the same at the same time.
fn ranks(plan: &Plan) -> Vec<Program> {
    let kept = [Axis::Pipeline, Axis::Context];
    let of = |(pipeline, context)| {
        let at = Coordinates { pipeline, context, ..Coordinates::default() };
        let mut program = lower_with(plan, &at, &Options::new(Backend::Cuda)).unwrap();
        for (axis, size) in &mut program.mesh.axes {
            *size = if kept.contains(axis) { *size } else { 1 };
        }
        program
    };
    let all = (0..plan.layout.pp).flat_map(|p| (0..plan.layout.cp).map(move |c| (p, c)));
    all.map(of).collect()
}

const ALONE: Point = Point {
    tp: 1,
    pp: 1,
    cp: 1,
    vp: 1,
    dp: 1,
    zero: 0,
    shard: 1,
    micro: 1,
    recompute: Recompute::None,
    offload: Offload::None,
    schedule: Schedule::None,
    sp: false,
};

fn asked() -> Question {
    let mut q = question(model(16, 4096, 32, 32, 11008, 32000, 4096), "H100", 1, 1);
    q.hardware.memory_bytes = 1 << 50;
    q.batch_tokens = Some(4096);
    q
}

/// All within `bound` of the walk.
fn near(cases: &[(Point, u64, u64)], bound: f64) {
    let q = asked();
    for (point, m, nodes) in cases {
        let gap = ratio(&q, point, *m, *nodes) - 1.0;
        assert!(gap.abs() < bound, "{m} micro-batches, {point:?}: {gap:+.4}");
    }
}

const POLICIES: [Recompute; 3] = [Recompute::None, Recompute::Selective, Recompute::Full];

#[test]
fn tensor_and_context_ranks_agree() {
    let mut cases = Vec::new();
    for recompute in POLICIES {
        let base = Point { recompute, ..ALONE };
        cases.push((base, 4, 1));
        cases.extend([2, 4, 8].map(|tp| (Point { tp, sp: true, ..base }, 4, 1)));
        cases.extend([2, 4].map(|cp| (Point { cp, ..base }, 4, 1)));
    }
    near(&cases, 0.01);
}

#[test]
fn sharded_ranks_agree() {
    let mut cases = Vec::new();
    for zero in 0..4 {
        for (dp, nodes) in [(8, 1), (16, 2)] {
            let shard = if zero == 0 { 1 } else { 8 };
            cases.push((Point { dp, zero, shard, ..ALONE }, 4, nodes));
        }
    }
    near(&cases, 0.01);
}

/// Pipelines under one schedule: of several lengths and numbers of micro-batches, with tensor and data-parallel ranks.
fn pipelines(schedule: Schedule, vp: u64) -> Vec<(Point, u64, u64)> {
    let base = Point { schedule, vp, ..ALONE };
    let mut cases = Vec::new();
    for pp in [2, 4, 8] {
        cases.extend([1, 2, 4].map(|times| (Point { pp, ..base }, times * pp, 1)));
    }
    cases.push((Point { pp: 4, tp: 2, sp: true, ..base }, 16, 1));
    cases.push((Point { pp: 4, recompute: Recompute::Full, ..base }, 8, 1));
    // Deferred weight gradients need whole accumulators.
    let most = if schedule == Schedule::ZeroBubble { 1 } else { 3 };
    cases.extend((1..=most).map(|zero| (Point { pp: 4, dp: 2, zero, shard: 2, ..base }, 16, 1)));
    cases
}

#[test]
fn one_forward_one_backward_agrees() {
    near(&pipelines(Schedule::OneFOneB, 1), 0.01);
}

#[test]
fn interleaved_agrees() {
    near(&pipelines(Schedule::Interleaved, 2), 0.01);
    let base = Point { schedule: Schedule::Interleaved, ..ALONE };
    let runs = [(2, 4), (2, 8), (4, 4)].map(|(pp, vp)| (Point { pp, vp, ..base }, 16, 1));
    near(&runs, 0.01);
}

#[test]
fn zero_bubble_agrees() {
    near(&pipelines(Schedule::ZeroBubble, 1), 0.01);
}
