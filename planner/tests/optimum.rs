//! The search against a naive enumerator that shares no loop, no rule and no bound with it.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use llmc_plan::plan::{Offload, Recompute, Schedule};
use llmc_planner::cost::memory::stage_memory;
use llmc_planner::cost::step::Compute;
use llmc_planner::cost::{Point, Setting};
use llmc_planner::question::*;
use llmc_planner::search::{Costed, compute_bound, evaluate, search_by};
use llmc_planner::{own_setting, setting};

/// Every tuple of numbers that multiplies up to the devices, tried one by one.
fn naive(s: &Setting, pins: &Pins, limit: u64) -> Option<Costed> {
    let (shape, gpus) = (&s.shape, s.gpus());
    let mut best: Option<Costed> = None;
    let fits = |pin: Option<u64>, value: u64| pin.is_none() || pin == Some(value);
    let widest = if pins.tp.is_some() { gpus } else { gpus.min(s.gpus_per_node) };
    for tp in 1..=widest {
        if shape.heads % tp + shape.kv_heads % tp + shape.ffn % tp + shape.vocab % tp > 0
            || !fits(pins.tp, tp)
        {
            continue;
        }
        for (pp, cp) in (1..=gpus.min(shape.layers)).flat_map(|pp| (1..=gpus).map(move |cp| (pp, cp))) {
            if gpus % (tp * pp * cp) != 0 || !fits(pins.pp, pp) || !fits(pins.cp, cp) {
                continue;
            }
            let dp = gpus / (tp * pp * cp);
            for (micro, vp) in (1..=64).flat_map(|m| (1..=shape.layers).map(move |v| (m, v))) {
                if !s.sequences.is_multiple_of(dp * micro) || !fits(pins.micro_batch, micro) {
                    continue;
                }
                let m = s.sequences / (dp * micro);
                for sp in [false, true] {
                    if (sp && tp == 1) || pins.sequence_parallel.is_some_and(|pin| pin != sp) {
                        continue;
                    }
                    let pieces = if cp > 1 { 2 * cp } else { 1 } * if sp { tp } else { 1 };
                    if shape.context % pieces != 0 {
                        continue;
                    }
                    let orders: &[Schedule] = match (pp, vp) {
                        (1, 1) => &[Schedule::None],
                        (1, _) => &[],
                        (_, 1) => &[Schedule::OneFOneB, Schedule::ZeroBubble],
                        _ if shape.layers % (pp * vp) == 0 && m.is_multiple_of(pp) => {
                            &[Schedule::Interleaved]
                        }
                        _ => &[],
                    };
                    for &schedule in orders {
                        for (zero, shard) in (0..=3).flat_map(|z| (1..=dp).map(move |g| (z, g))) {
                            let plain = zero == 0 && shard == 1;
                            let split = zero > 0 && shard > 1 && dp % shard == 0;
                            if !(plain || split) || !fits(pins.zero_stage, zero) {
                                continue;
                            }
                            for recompute in [Recompute::None, Recompute::Selective, Recompute::Full] {
                                for offload in [Offload::None, Offload::Optimizer, Offload::Activations] {
                                    if offload == Offload::Activations && recompute != Recompute::Full {
                                        continue;
                                    }
                                    if pins.recompute.is_some_and(|pin| pin != recompute) {
                                        continue;
                                    }
                                    let point = Point {
                                        tp,
                                        pp,
                                        cp,
                                        vp,
                                        dp,
                                        zero,
                                        shard,
                                        micro,
                                        recompute,
                                        offload,
                                        schedule,
                                        sp,
                                    };
                                    let costed = evaluate(s, &point);
                                    if costed.device <= limit
                                        && best.as_ref().is_none_or(|b| costed.order(b).is_lt())
                                    {
                                        best = Some(costed);
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    best
}

fn random(dice: &mut Dice) -> (Setting, Pins, u64) {
    let heads = dice.pick(&[4, 6, 8, 12]);
    let hidden = heads * dice.pick(&[64, 128]);
    let layers = dice.pick(&[2, 3, 4, 6, 8]);
    let kv = heads / dice.pick(&[1, 2]);
    let shape = model(layers, hidden, heads, kv, hidden * 2, 32000, dice.pick(&[512, 2048, 8192]));
    let q = question(
        shape,
        dice.pick(&["H100", "A100-40G", "RTX4090"]),
        dice.pick(&[1, 2]),
        dice.pick(&[1, 2, 4, 6]),
    );
    let s = setting(&q, q.cluster.unwrap(), dice.pick(&[1, 4, 6, 8, 12, 24])).unwrap();
    let mut pins = Pins::default();
    match dice.pick(&[0, 1, 2, 3, 4, 5, 6]) {
        0 => pins.tp = Some(dice.pick(&[1, 2])),
        1 => pins.pp = Some(dice.pick(&[1, 2])),
        2 => pins.zero_stage = Some(dice.pick(&[1, 2])),
        3 => pins.recompute = Some(Recompute::Full),
        4 => pins.micro_batch = Some(dice.pick(&[1, 2])),
        _ => {}
    }
    // Pinning a sharded stage on one device means that stage with nothing to shard; the naive search has no such case.
    if q.cluster.unwrap().gpus() < 4 {
        pins.zero_stage = None;
    }
    let limit = dice.pick(&[4_u64, 8, 24, 70]) << 30;
    (s, pins, limit)
}

/// Questions on which `bound` leads the search astray, out of `count`.
fn wrong(count: u64, bound: fn(&Compute) -> f64) -> Vec<String> {
    let mut dice = Dice(7);
    let mut wrong = Vec::new();
    for i in 0..count {
        let (s, pins, limit) = random(&mut dice);
        let all = search_by(&s, &pins, limit, bound);
        // Uneven stages come on top of the space enumerated here (`milp` against its own oracle); they only ever win.
        let found = all.top.iter().find(|c| c.split.is_none()).copied();
        assert!(all.best.is_none_or(|b| found.is_none_or(|f| b.step.total <= f.step.total)));
        let expected = naive(&s, &pins, limit);
        let points = (found.map(|c| c.point), expected.map(|c| c.point));
        // A stage pinned where only one rank is left to shard over: see `random`.
        if pins.zero_stage.is_some() && found.is_some_and(|c| c.point.dp == 1) {
            continue;
        }
        if points.0 != points.1 {
            wrong.push(format!("{i}: found {points:?}"));
        }
    }
    wrong
}

#[test]
fn the_search_finds_the_optimum_on_a_thousand_random_questions() {
    let wrong = wrong(1000, compute_bound);
    assert!(wrong.is_empty(), "{} wrong, first {}", wrong.len(), wrong[0]);
}

#[test]
fn a_planted_wrong_bound_is_caught() {
    // Favouring full recomputation twentyfold is no lower bound: points that win are cut.
    assert!(!wrong(200, |c| if c.layer.recompute > 0.0 { c.pipeline } else { c.pipeline * 20.0 }).is_empty());
}

/// The search looks at few stages of a pipeline; whether a layout fits is a question of all of them.
#[test]
fn the_fullest_stage_of_any_pipeline_is_found() {
    let mut dice = Dice(11);
    for i in 0..600 {
        let pp = dice.pick(&[2, 3, 4, 5, 8, 16, 24, 64]);
        let (layers, tp) =
            (pp * dice.pick(&[1, 2, 3]) + dice.pick(&[0, 1, pp / 2, pp - 1]), dice.pick(&[1, 2]));
        let shape = model(layers, 1024, 8, dice.pick(&[2, 8]), 2816, dice.pick(&[1024, 128_000]), 2048);
        let q = question(shape, "H100", pp, 2);
        let m = dice.pick(&[1, 2, pp / 2 + 1, pp - 1, pp, 2 * pp]);
        let (dp, sp) = (2 / tp, tp > 1);
        let s = setting(&q, q.cluster.unwrap(), dp * m).unwrap();
        let schedule = dice.pick(&[Schedule::OneFOneB, Schedule::ZeroBubble]);
        let recompute = dice.pick(&[Recompute::None, Recompute::Selective, Recompute::Full]);
        let zero = dice.pick(&[0, 1]);
        let point = Point {
            tp,
            pp,
            cp: 1,
            vp: 1,
            dp,
            zero,
            shard: if zero > 0 { dp } else { 1 },
            micro: 1,
            recompute,
            offload: Offload::None,
            schedule,
            sp,
        };
        let most = (0..pp).map(|stage| stage_memory(&s, &point, stage).device).max().unwrap();
        let device = evaluate(&s, &point).device;
        // Whole bytes are rounded up kind by kind.
        assert!(device.abs_diff(most) < 64, "{i}: {device} of {most}: {layers} layers, m {m}: {point:?}");
    }
}

/// What a pin leaves is a part of the space: its best takes no less than the best of all.
#[test]
fn no_pin_beats_the_free_optimum() {
    let mut dice = Dice(5);
    for i in 0..150 {
        let (s, _, limit) = random(&mut dice);
        let free = search_by(&s, &Pins::default(), limit, compute_bound).best;
        let mut pins = Pins::default();
        match i % 8 {
            0 => pins.tp = Some(dice.pick(&[1, 2])),
            1 => pins.pp = Some(dice.pick(&[1, 2])),
            2 => pins.zero_stage = Some(dice.pick(&[1, 2, 3])),
            3 => pins.recompute = Some(dice.pick(&[Recompute::None, Recompute::Selective])),
            4 => pins.offload = Some(dice.pick(&[Offload::None, Offload::Optimizer])),
            5 => pins.schedule = Some(dice.pick(&[Schedule::None, Schedule::ZeroBubble])),
            6 => pins.cp = Some(dice.pick(&[1, 2])),
            _ => pins.micro_batch = Some(1),
        }
        let Some(pinned) = search_by(&s, &pins, limit, compute_bound).best else { continue };
        let (free, pinned) = (free.unwrap().step.total, pinned.step.total);
        assert!(free <= pinned * (1.0 + 1e-9), "{i}: {free} {pinned} {pins:?}");
    }
}

/// Eight stages of four layers of a 7B hold too much on the first; three there and five at the end fit.
#[test]
fn stages_that_fit_when_uneven_alone_are_found() {
    let q = question(llama_7b(8192), "A100-40G", 1, 8);
    let s = setting(&q, q.cluster.unwrap(), 128).unwrap();
    let pins = Pins { pp: Some(8), recompute: Some(Recompute::None), ..Pins::default() };
    let limit = (0.97 * s.hardware.memory_bytes as f64) as u64;
    let found = search_by(&s, &pins, limit, compute_bound);
    let best = found.best.unwrap();
    assert!(found.top.iter().all(|c| c.split.is_some()) && best.device <= limit);
    let (held, _) = &found.splits[best.split.unwrap()];
    assert_eq!(held.iter().map(|h| h.layers).sum::<u64>(), 32);
    assert!(held[0].layers < 4 && held.iter().all(|h| h.full == 0), "{held:?}");
}

/// Without sequence parallelism every tensor rank works on the whole stream.
#[test]
fn a_sequence_that_is_not_cut_takes_longer() {
    let q = question(llama_7b(8192), "H100", 1, 8);
    let s = own_setting(&q, q.cluster.unwrap(), 64).unwrap();
    let at = |sp| {
        let found = search_by(
            &s,
            &Pins { tp: Some(4), cp: Some(1), pp: Some(1), sequence_parallel: Some(sp), ..Pins::default() },
            s.hardware.memory_bytes,
            compute_bound,
        );
        let point = found.best.unwrap().point;
        (evaluate(&s, &point), point)
    };
    let ((cut, point), (_, whole)) = (at(true), at(false));
    assert!(!whole.sp && point.sp);
    let whole = evaluate(&s, &Point { sp: false, ..point });
    assert!(whole.compute.layer.pointwise_forward > 1.2 * cut.compute.layer.pointwise_forward);
    assert!(whole.device > cut.device);
}
