//! The closed form of a stage's bytes against the walk over the lowered program, over random layouts, also of stages that
//! differ: within 1 %.
#![allow(clippy::unwrap_used)] // a plan that cannot be made is a broken test

mod common;

use common::{Dice, laid_out, model, question};
use llmc_plan::lower::{Coordinates, LowerError, Options, lower_with};
use llmc_plan::op::Backend;
use llmc_plan::plan::{DType, Offload, OptimizerKind, Plan, Precision, Recompute, Schedule, StageLayers};
use llmc_plan::walk::memory;
use llmc_planner::cost::layer::{ends, plain_layer};
use llmc_planner::cost::memory::stage_memory;
use llmc_planner::cost::{Point, Setting};
use llmc_planner::over_time::over_time;
use llmc_planner::question::{Budget, Pins};
use llmc_planner::solve;
use llmc_planner::uneven::{Node, stage_memories};

/// Layers, hidden, heads, key heads, feed-forward, vocabulary, context.
const SHAPES: &[[u64; 7]] = &[
    [8, 512, 8, 8, 1408, 4096, 1024],
    [12, 1024, 8, 4, 2816, 32000, 2048],
    [8, 2048, 16, 16, 5504, 32000, 4096],
    [16, 4096, 32, 8, 14336, 128256, 8192],
    [24, 8192, 64, 8, 28672, 128256, 4096],
];

struct Case {
    plan: Plan,
    setting: Setting,
    point: Point,
}

fn case(dice: &mut Dice) -> Case {
    let [layers, hidden, heads, kv, ffn, vocab, context] = dice.pick(SHAPES);
    let mut q = question(model(layers, hidden, heads, kv, ffn, vocab, context), "H100", 1, 1);
    q.hardware.memory_bytes = 1 << 50;
    q.hardware.host_memory_bytes = 1 << 50;
    q.optimizer.master = llmc_plan::plan::Master::F32;
    q.precision =
        dice.pick(&[Precision::Bf16, Precision::Bf16, Precision::F32, Precision::Fp16, Precision::Fp8]);
    let kinds = [
        OptimizerKind::Adamw,
        OptimizerKind::Adamw,
        OptimizerKind::Lion,
        OptimizerKind::Adafactor,
        OptimizerKind::PagedAdamw,
    ];
    q.optimizer.kind = dice.pick(&kinds);
    q.optimizer.state_dtype = dice.pick(&[DType::F32, DType::Bf16]);
    if matches!(q.precision, Precision::Bf16 | Precision::Fp8)
        && matches!(q.optimizer.kind, OptimizerKind::Adamw | OptimizerKind::PagedAdamw)
    {
        q.optimizer.gradient_dtype = q.optimizer.state_dtype;
    }
    q.batch_tokens = Some(context);
    q.pins.recompute = Some(Recompute::None);
    q.pins.offload = Some(Offload::None);
    let (tp, cp, pp) = (dice.pick(&[1, 1, 2, 4]), dice.pick(&[1, 1, 1, 2, 4]), dice.pick(&[1, 1, 2, 4]));
    let (dp, micro) = (dice.pick(&[1, 2, 4, 8]), dice.pick(&[1, 2]));
    let schedule = match pp {
        1 => Schedule::None,
        _ => dice.pick(&[Schedule::OneFOneB, Schedule::Interleaved, Schedule::ZeroBubble]),
    };
    let vp = if schedule == Schedule::Interleaved { 2 } else { 1 };
    let zero = if dp > 1 { dice.pick(&[0, 1, 1, 2, 3]) } else { 0 };
    let shard = if zero > 0 { dice.pick(&[dp, dp, 2]) } else { 1 };
    let more = if schedule == Schedule::Interleaved { 0 } else { dice.pick(&[0, 0, 1, 2, 3]) };
    let accumulation = pp * dice.pick(&[1, 2, 4]) + more;
    let recompute = dice.pick(&[Recompute::None, Recompute::Selective, Recompute::Full]);
    let offload = match (recompute, pp) {
        (Recompute::Full, 1) => dice.pick(&[Offload::None, Offload::Optimizer, Offload::Activations]),
        _ => dice.pick(&[Offload::None, Offload::None, Offload::Optimizer]),
    };
    let offload = if q.optimizer.kind == OptimizerKind::PagedAdamw { Offload::None } else { offload };
    let sp = tp > 1;
    let point = Point { tp, pp, cp, vp, dp, zero, shard, micro, recompute, offload, schedule, sp };
    let (plan, setting) = laid_out(&q, &point, accumulation, 1);
    Case { plan, setting, point }
}

/// Bytes of a stage's program, its arena assigned.
fn walked(plan: &Plan, stage: u64) -> Result<u64, LowerError> {
    let options = Options { accumulation_cap: Some(2), ..Options::new(Backend::Cuda) };
    let at = Coordinates { pipeline: stage, ..Coordinates::default() };
    let mut program = lower_with(plan, &at, &options)?;
    llmc_plan::arena::assign(&mut program);
    Ok(memory(&program).total)
}

/// Layers shared out unevenly, of which some recompute.
fn uneven(dice: &mut Dice, case: &mut Case) {
    let (layers, pp) = (case.plan.model.layers, case.point.pp);
    let held = |stage: u64, dice: &mut Dice| {
        let each = layers / pp + u64::from(stage + 1 == pp) * (layers % pp);
        let moved = if each > 1 { 1 } else { 0 };
        let layers = match stage {
            0 => each - moved,
            1 => each + if layers / pp > 1 { 1 } else { 0 },
            _ => each,
        };
        let selective = dice.pick(&[0, 1, layers / 2]).min(layers);
        StageLayers {
            layers,
            selective,
            full: dice.pick(&[0, 1, layers / 2]).min(layers - selective),
            offload: 0,
        }
    };
    case.plan.layout.stages = (0..pp).map(|stage| held(stage, dice)).collect();
}

/// What the closed form says of every stage.
fn closed(case: &Case) -> Vec<u64> {
    let Case { plan, setting, point } = case;
    if plan.layout.stages.is_empty() {
        return (0..point.pp).map(|stage| stage_memory(setting, point, stage).allocated).collect();
    }
    let node = Node { point: *point, plain: plain_layer(setting, point), ends: ends(setting, point) };
    let stages = stage_memories(setting, &Pins::default(), &node, point, &plan.layout.stages);
    stages.iter().map(|stage| stage.allocated).collect()
}

/// Gaps of all stages of random layouts, by what they are compared for, with a name each.
fn gaps(seed: u64, cases: u64, unevenly: bool) -> Vec<(Schedule, f64, String)> {
    let mut dice = Dice(seed);
    let mut gaps = Vec::new();
    let mut refused = 0;
    for i in 0..cases {
        let mut case = case(&mut dice);
        if unevenly {
            if !matches!(case.point.schedule, Schedule::OneFOneB | Schedule::ZeroBubble) {
                continue;
            }
            uneven(&mut dice, &mut case);
        }
        let closed = closed(&case);
        let Case { plan, setting, point } = &case;
        for (stage, closed) in (0..point.pp).zip(closed) {
            let walked = match walked(plan, stage) {
                Ok(bytes) => bytes,
                Err(LowerError::Bug { place, reason }) => {
                    assert!(reason.is_empty(), "{i}: {place}: {reason}");
                    break;
                }
                Err(_) => {
                    refused += 1;
                    break;
                }
            };
            let gap = closed as f64 / walked as f64 - 1.0;
            let m = plan.batch.accumulation;
            let what = format!(
                "{i}, stage {stage}: {gap:+.4}, {m} micro-batches, {:?} {:?} {point:?} {:?}",
                setting.precision, plan.optimizer.kind, plan.layout.stages
            );
            gaps.push((point.schedule, gap.abs(), what));
        }
    }
    assert!(3 * refused < cases, "{refused} of {cases} not lowered");
    gaps.sort_by(|a, b| b.1.total_cmp(&a.1));
    gaps
}

/// The mean of those that `are` so, and the worst with its name.
fn worst(gaps: &[(Schedule, f64, String)], are: impl Fn(Schedule) -> bool) -> (usize, f64, f64) {
    let of: Vec<_> = gaps.iter().filter(|g| are(g.0)).collect();
    let mean = of.iter().map(|g| g.1).sum::<f64>() / of.len().max(1) as f64;
    println!("{} stages, mean {mean:.4}, worst {}", of.len(), of.first().map_or("", |g| &g.2));
    (of.len(), mean, of.first().map_or(0.0, |g| g.1))
}

#[test]
fn closed_form_and_walk_agree_under_every_schedule() {
    let gaps = gaps(11, 400, false);
    for schedule in [Schedule::None, Schedule::OneFOneB, Schedule::Interleaved, Schedule::ZeroBubble] {
        let (count, mean, most) = worst(&gaps, |s| s == schedule);
        assert!(count > 50 && mean < 0.003 && most < 0.01, "{schedule:?}: {most}");
    }
}

#[test]
fn they_agree_where_stages_differ() {
    let gaps = gaps(5, 300, true);
    let (count, mean, most) = worst(&gaps, |_| true);
    assert!(count > 100 && mean < 0.003 && most < 0.01, "{most}");
}

#[test]
fn a_stage_taken_for_its_neighbour_is_seen() {
    let mut dice = Dice(3);
    let middle =
        |c: &Case| c.point.pp == 4 && c.point.recompute == Recompute::None && walked(&c.plan, 1).is_ok();
    let case = std::iter::repeat_with(|| case(&mut dice)).find(middle).unwrap();
    let (closed, walked) = (closed(&case), walked(&case.plan, 1).unwrap() as f64);
    assert!((closed[1] as f64 / walked - 1.0).abs() < 0.01 && (closed[2] as f64 / walked - 1.0).abs() > 0.01);
}

#[test]
fn memory_in_use_rises_and_falls_within_what_is_allocated() {
    for (pp, offload) in [(1, Offload::None), (2, Offload::None), (4, Offload::Optimizer)] {
        let mut q = question(model(16, 2048, 16, 16, 5504, 32000, 4096), "H100", 1, 4);
        q.budget = vec![Budget::Tokens(1_000_000_000)];
        q.pins = Pins { pp: Some(pp), offload: Some(offload), ..Pins::default() };
        let plan = solve(&q).unwrap().plan;
        let over = over_time(&q, &plan).unwrap();
        let most = over.moments.iter().map(|m| m.live).max().unwrap();
        let allocated = plan.memory.stages[over.stage as usize].allocated;
        assert!(most <= allocated + allocated / 100 && most > allocated / 2, "{pp}: {most} of {allocated}");
        assert!(over.moments.iter().any(|m| m.live < most), "{pp}");
        assert!(over.moments.windows(2).all(|two| two[0].until < two[1].until));
    }
}
