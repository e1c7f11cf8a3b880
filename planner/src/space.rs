//! The search space: every layout of `gpus` devices, and the rules that a layout must obey before it is costed.

use std::collections::BTreeMap;

use llmc_plan::plan::{Offload, Recompute, Schedule};

use crate::cost::{Point, Setting};
use crate::question::Pins;

/// Largest micro-batch considered, in sequences; longer ones save nothing once products fill the device.
const MICRO_MAX: u64 = 64;

/// Divisors of `n`, ascending.
pub fn divisors(n: u64) -> Vec<u64> {
    let mut low = Vec::new();
    let mut high = Vec::new();
    let mut i = 1;
    while i * i <= n {
        if n.is_multiple_of(i) {
            low.push(i);
            if i * i != n {
                high.push(n / i);
            }
        }
        i += 1;
    }
    low.extend(high.into_iter().rev());
    low
}

/// A pinned value alone, or all.
fn choices<T: Copy + PartialEq>(pin: Option<T>, all: &[T]) -> Vec<T> {
    match pin {
        Some(value) => vec![value],
        None => all.to_vec(),
    }
}

/// One node: everything of a point but ZeRO, shard group and offload, which the search expands.
#[derive(Debug, Clone)]
pub struct Node {
    /// zero, shard and offload hold their defaults.
    pub point: Point,
}

/// The nodes that obey the rules, and what the others broke.
#[derive(Debug, Default)]
pub struct Space {
    /// Nodes that may be costed.
    pub nodes: Vec<Node>,
    /// Points in all, before any rule or bound.
    pub considered: u64,
    /// Rule → points it rejected.
    pub rejected_by: BTreeMap<&'static str, u64>,
    /// Figures of the first rejection by each rule.
    pub first: BTreeMap<&'static str, BTreeMap<&'static str, f64>>,
    /// Offload choices.
    pub offloads: Vec<Offload>,
}

/// ZeRO stages and shard groups for `dp` ranks: stage 0 alone, and stages 1–3 over every divisor of `dp` above 1. Empty
/// where a pinned group leaves none.
pub fn sharding(pins: &Pins, dp: u64) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    for zero in choices(pins.zero_stage, &[0, 1, 2, 3]) {
        if zero == 0 || dp == 1 {
            if (zero == 0 || pins.zero_stage.is_some()) && pins.shard_group.is_none_or(|group| group == 1) {
                all.push((zero, 1));
            }
            continue;
        }
        for shard in choices(pins.shard_group, &divisors(dp)) {
            if shard > 1 && dp.is_multiple_of(shard) {
                all.push((zero, shard));
            }
        }
    }
    all
}

/// Pipeline schedules with their virtual stages.
fn schedules(s: &Setting, pins: &Pins, pp: u64) -> Vec<(Schedule, u64)> {
    let mut all = Vec::new();
    if pp == 1 {
        all.push((Schedule::None, 1));
    } else {
        all.push((Schedule::OneFOneB, 1));
        all.push((Schedule::ZeroBubble, 1));
        if s.shape.layers.is_multiple_of(pp) {
            all.extend(divisors(s.shape.layers / pp).into_iter().skip(1).map(|v| (Schedule::Interleaved, v)));
        }
    }
    all.retain(|(schedule, v)| {
        pins.schedule.is_none_or(|pin| pin == *schedule) && pins.vp.is_none_or(|pin| pin == *v)
    });
    all
}

/// Rules on the ranks alone; the first that fails, with its figures.
fn broken(s: &Setting, pins: &Pins, p: &Point) -> Option<(&'static str, Vec<(&'static str, f64)>)> {
    let shape = &s.shape;
    let figure = |name, value: u64| (name, value as f64);
    if !shape.heads.is_multiple_of(p.tp) {
        return Some(("heads_divisible", vec![figure("heads", shape.heads), figure("tp", p.tp)]));
    }
    if !shape.kv_heads.is_multiple_of(p.tp) {
        return Some(("kv_heads_divisible", vec![figure("kv_heads", shape.kv_heads), figure("tp", p.tp)]));
    }
    if !shape.ffn.is_multiple_of(p.tp) {
        return Some(("ffn_divisible", vec![figure("ffn", shape.ffn), figure("tp", p.tp)]));
    }
    if !shape.vocab.is_multiple_of(p.tp) {
        return Some(("vocab_divisible", vec![figure("vocab_padded", shape.vocab), figure("tp", p.tp)]));
    }
    if p.tp > s.link_domain && pins.tp.is_none() {
        return Some(("tp_in_node", vec![figure("tp", p.tp), figure("gpus_per_node", s.link_domain)]));
    }
    // Causal context parallelism pairs an early with a late block (zig-zag), so 2·cp blocks.
    let blocks = if p.cp > 1 { 2 * p.cp } else { 1 };
    let context = figure("context", shape.context);
    if !shape.context.is_multiple_of(blocks) {
        return Some(("context_divisible", vec![context, figure("cp", p.cp)]));
    }
    if p.sp && !shape.context.is_multiple_of(blocks * p.tp) {
        return Some(("sequence_divisible", vec![context, figure("tp", p.tp), figure("cp", p.cp)]));
    }
    if p.pp > shape.layers {
        return Some(("stages_hold_a_layer", vec![figure("layers", shape.layers), figure("pp", p.pp)]));
    }
    if !s.sequences.is_multiple_of(p.dp * p.micro) {
        return Some((
            "batch_divisible",
            vec![figure("sequences", s.sequences), figure("dp", p.dp), figure("micro_batch", p.micro)],
        ));
    }
    if p.schedule == Schedule::Interleaved && !s.micro_batches(p).is_multiple_of(p.pp) {
        let m = s.micro_batches(p);
        return Some(("interleaved_micro_batches", vec![figure("accumulation", m), figure("pp", p.pp)]));
    }
    None
}

/// Enumerates the space under `pins`.
pub fn enumerate(s: &Setting, pins: &Pins) -> Space {
    let gpus = s.gpus();
    let parts = divisors(gpus);
    let micros: Vec<u64> = divisors(s.sequences).into_iter().filter(|m| *m <= MICRO_MAX).collect();
    let recomputes = choices(pins.recompute, &[Recompute::None, Recompute::Selective, Recompute::Full]);
    // A CPU's device is its host.
    let all = [Offload::None, Offload::Optimizer, Offload::Activations];
    let offloads = choices(pins.offload, if s.cuda() { &all } else { &all[..1] });
    let mut space = Space { offloads, ..Space::default() };
    let per_node = space.offloads.len() as u64;
    for tp in choices(pins.tp, &parts) {
        for pp in choices(pins.pp, &parts) {
            for cp in choices(pins.cp, &parts) {
                let used = tp.saturating_mul(pp).saturating_mul(cp);
                if used == 0 || !gpus.is_multiple_of(used) || pins.dp.is_some_and(|dp| dp != gpus / used) {
                    if pins.dp.is_some() || pins.tp.is_some() || pins.pp.is_some() || pins.cp.is_some() {
                        let figures = [("gpus", gpus as f64), ("tp_pp_cp", used as f64)];
                        space.first.entry("ranks_make_gpus").or_insert_with(|| figures.into_iter().collect());
                    }
                    continue;
                }
                let dp = gpus / used;
                let expansions = sharding(pins, dp).len() as u64 * per_node;
                let schedules = schedules(s, pins, pp);
                // What pins leave no choice is no point; the rule is named should nothing else be left.
                let none = match () {
                    _ if expansions == 0 => {
                        let group = pins.shard_group.unwrap_or(1) as f64;
                        Some(("shard_group_in_dp", [("shard_group", group), ("dp", dp as f64)]))
                    }
                    _ if tp == 1 && pins.sequence_parallel == Some(true) => {
                        Some(("sequence_parallel_needs_tp", [("tp", 1.0), ("gpus", gpus as f64)]))
                    }
                    _ if schedules.is_empty() => {
                        Some(("schedule_of_stages", [("pp", pp as f64), ("layers", s.shape.layers as f64)]))
                    }
                    _ => None,
                };
                if let Some((rule, figures)) = none {
                    space.first.entry(rule).or_insert_with(|| figures.into_iter().collect());
                    continue;
                }
                for sp in if tp > 1 { choices(pins.sequence_parallel, &[false, true]) } else { vec![false] } {
                    for &(schedule, vp) in &schedules {
                        for micro in choices(pins.micro_batch, &micros) {
                            let point = Point {
                                tp,
                                pp,
                                cp,
                                vp,
                                dp,
                                zero: 0,
                                shard: 1,
                                micro: micro.max(1),
                                recompute: Recompute::None,
                                offload: Offload::None,
                                schedule,
                                sp,
                            };
                            let points = expansions * recomputes.len() as u64;
                            space.considered += points;
                            if let Some((rule, figures)) = broken(s, pins, &point) {
                                *space.rejected_by.entry(rule).or_default() += points;
                                space.first.entry(rule).or_insert_with(|| figures.into_iter().collect());
                                continue;
                            }
                            for &recompute in &recomputes {
                                space.nodes.push(Node { point: Point { recompute, ..point } });
                            }
                        }
                    }
                }
            }
        }
    }
    space
}
