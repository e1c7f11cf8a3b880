//! The closed form of a stage's bytes against the walk over the lowered program, over random layouts.
#![allow(clippy::unwrap_used)] // a plan that cannot be made is a broken test

mod common;

use common::{Dice, model, question};
use llmc_plan::lower::{Coordinates, LowerError, Options, lower_with};
use llmc_plan::op::Backend;
use llmc_plan::plan::{DType, Offload, OptimizerKind, Plan, Precision, Recompute, Schedule};
use llmc_plan::walk::memory;
use llmc_planner::cost::memory::stage_memory;
use llmc_planner::cost::{Point, Setting};
use llmc_planner::question::Cluster;
use llmc_planner::{setting, solve};

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
    let mut plan = solve(&q).unwrap().plan;
    let (tp, cp, pp) = (dice.pick(&[1, 1, 2, 4]), dice.pick(&[1, 1, 1, 2, 4]), dice.pick(&[1, 1, 2, 4]));
    let (dp, micro) = (dice.pick(&[1, 2, 4, 8]), dice.pick(&[1, 2]));
    let schedule = match pp {
        1 => Schedule::None,
        _ => dice.pick(&[Schedule::OneFOneB, Schedule::Interleaved, Schedule::ZeroBubble]),
    };
    let vp = if schedule == Schedule::Interleaved { 2 } else { 1 };
    let zero = if dp > 1 { dice.pick(&[0, 1, 1, 2, 3]) } else { 0 };
    let shard = if zero > 0 { dice.pick(&[dp, dp, 2]) } else { 1 };
    let accumulation = pp * dice.pick(&[1, 2, 4]);
    let recompute = dice.pick(&[Recompute::None, Recompute::Selective, Recompute::Full]);
    let offload = match (recompute, pp) {
        (Recompute::Full, 1) => dice.pick(&[Offload::None, Offload::Optimizer, Offload::Activations]),
        _ => dice.pick(&[Offload::None, Offload::None, Offload::Optimizer]),
    };
    let offload = if q.optimizer.kind == OptimizerKind::PagedAdamw { Offload::None } else { offload };
    let sp = tp > 1;
    let gpus = dp * tp * cp * pp;
    let l = &mut plan.layout;
    (l.nodes, l.gpus, l.dp, l.tp, l.cp, l.pp, l.vp) = (1, gpus, dp, tp, cp, pp, vp);
    (l.zero_stage, l.shard_group, l.schedule, l.sequence_parallel) = (zero, shard, schedule, sp);
    (l.recompute, l.offload) = (recompute, offload);
    let b = &mut plan.batch;
    (b.micro_batch_sequences, b.accumulation) = (micro, accumulation);
    b.global_sequences = dp * micro * accumulation;
    b.global_tokens = b.global_sequences * context;
    let cluster = Cluster { nodes: 1, gpus_per_node: gpus };
    let setting = setting(&q, cluster, b.global_sequences).unwrap();
    let point = Point { tp, pp, cp, vp, dp, zero, shard, micro, recompute, offload, schedule, sp };
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

#[test]
fn closed_form_and_walk_agree_on_every_layout_that_is_lowered() {
    let mut dice = Dice(11);
    let (mut refused, mut straight, mut folded) = (0, Vec::new(), Vec::new());
    for i in 0..150 {
        let Case { plan, setting, point } = case(&mut dice);
        for stage in 0..point.pp {
            let walked = match walked(&plan, stage) {
                Ok(bytes) => bytes,
                Err(LowerError::Bug { place, reason }) => panic!("{i}: {place}: {reason}"),
                Err(_) => {
                    refused += 1;
                    break;
                }
            };
            let closed = stage_memory(&setting, &point, stage).allocated;
            let gap = closed as f64 / walked as f64 - 1.0;
            let what = format!(
                "{i}, stage {stage}: {gap:+.4} {:?} {:?} {point:?}",
                setting.precision, plan.optimizer
            );
            match point.schedule {
                Schedule::None | Schedule::OneFOneB => straight.push((gap.abs(), what)),
                Schedule::Interleaved | Schedule::ZeroBubble => folded.push((gap.abs(), what)),
            }
        }
    }
    for of in [&mut straight, &mut folded] {
        of.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    let mean = |of: &[(f64, String)]| of.iter().map(|g| g.0).sum::<f64>() / of.len() as f64;
    let (worst, mean_folded) = (straight.last().unwrap(), mean(&folded));
    println!(
        "{} straight, worst {worst:?}; {} folded, mean {mean_folded:.4}, worst {:?}; {refused} not lowered",
        straight.len(),
        folded.len(),
        folded.last()
    );
    assert!(straight.len() > 90 && folded.len() > 50 && refused < 60);
    assert!(worst.0 < 0.01, "{worst:?}");
    // Their micro-batches take turns in addresses that are given out once: how much is lost between them follows no short
    // rule (plan/src/arena.rs), so these are only close.
    assert!(mean_folded < 0.03 && folded.last().unwrap().0 < 0.12, "{:?}", folded.last());
}
