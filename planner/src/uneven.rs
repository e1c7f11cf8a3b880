//! Pipelines whose stages differ: layers shared out unevenly, some of them recomputed or offloaded, by the programme of
//! [`crate::milp`]. It is solved only where a lower bound beats the best plan found so far, which there is none of where no
//! even layout fits.
//!
//! Bytes of a stage are linear in its layers, so each coefficient is the difference of two calls of the closed form.

use llmc_plan::plan::{Offload, Recompute, Schedule, StageLayers, StageMemory};

use crate::cost::layer::{LayerTime, scheduled};
use crate::cost::memory::{
    Parts, freed, host_bytes, layer_activations, most_params, stage_params, states, totals, whole_bytes,
    working,
};
use crate::cost::step::{Compute, filled, layer_seconds, optimizer, pipeline, sends, step, wire};
use crate::cost::{Point, Setting};
use crate::milp::{Policy, Programme, Stage};
use crate::question::Pins;
use crate::search::{Costed, Found, consider, refused};
use crate::space::sharding;

/// Stages of all programmes that are written at most; what is left out then is counted (`uneven_work`).
const WORK: u64 = 20_000;
/// Longest pipeline whose stages are shared out; longer ones hold few layers a stage.
const LONGEST: u64 = 128;

/// A way to run a layer.
#[derive(Debug, Clone, Copy)]
struct Way {
    recompute: Recompute,
    travels: bool,
    /// Parts of a layer and micro-batch under it.
    time: LayerTime,
    /// Seconds a layer keeps a rank busy, exposed traffic included.
    seconds: f64,
    /// Of these, exposed traffic.
    travel: f64,
}

/// A node of the search: layout and micro-batch, with the plain times of a layer and of the ends.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// ZeRO, shard group, offload and recompute hold their defaults.
    pub point: Point,
    /// Layer without recomputation.
    pub plain: LayerTime,
    /// Embedding and head.
    pub ends: (f64, f64),
}

/// Settings in which every stage holds one count of layers, for the coefficients.
struct Scales {
    two: Setting,
    three: Setting,
}

/// A setting in which every stage holds this many layers.
fn each_holds(s: &Setting, layers: u64) -> Setting {
    Setting { split: vec![layers; s.shape.layers as usize], ..s.clone() }
}

/// Bytes of a stage whose layers all run one way.
fn of_one_way(s: &Setting, point: &Point, stage: u64, way: &Way) -> Parts {
    let offload = if way.travels { Offload::Activations } else { point.offload };
    let point = Point { recompute: way.recompute, offload, ..*point };
    states(s, &point, stage).plus(&working(s, &point, stage), 1.0)
}

impl Scales {
    fn new(s: &Setting) -> Scales {
        Scales { two: each_holds(s, 2), three: each_holds(s, 3) }
    }

    /// Bytes of a stage without layers, and of one layer of it, under a way; a little more than that where it holds one
    /// layer, which has no use for a second buffer of what passes through.
    fn parts(&self, point: &Point, stage: u64, way: &Way) -> (Parts, Parts) {
        let of = |s: &Setting| of_one_way(s, point, stage, way);
        let (two, three) = (of(&self.two), of(&self.three));
        let each = three.plus(&two, -1.0);
        (two.plus(&each, -2.0), each)
    }
}

/// Ways that the pins leave, fastest first.
fn ways(s: &Setting, pins: &Pins, node: &Node, travel: bool) -> Vec<Way> {
    let kinds = [Recompute::None, Recompute::Selective, Recompute::Full];
    let open = kinds.into_iter().filter(|r| pins.recompute.is_none_or(|pin| pin == *r));
    let mut all: Vec<Way> = Vec::new();
    for recompute in open {
        let point = Point { recompute, ..node.point };
        let mut time = node.plain;
        time.recompute = crate::cost::layer::recompute(s, &point, &node.plain);
        let time = scheduled(s, &point, time);
        let seconds = layer_seconds(s, &point, &time);
        all.push(Way { recompute, travels: false, time, seconds, travel: 0.0 });
        if recompute == Recompute::Full && travel {
            // Its input goes out beside its forward and comes back beside a later one.
            let wire = layer_activations(s, &point, recompute) / s.hardware.host_bandwidth;
            let hidden = wire.min(time.forward());
            let travel = 2.0 * (wire - hidden) + s.profile.comm.tax * 2.0 * hidden;
            all.push(Way { recompute, travels: true, time, seconds: seconds + travel, travel });
        }
    }
    all
}

/// The programme of one layout, and the bytes behind its coefficients.
struct Asked {
    programme: Programme,
    /// By stage and way: bytes without layers, bytes a layer.
    parts: Vec<Vec<(Parts, Parts)>>,
    /// By way: bytes that the backward pass of a layer frees.
    freed: Vec<f64>,
}

fn asked(s: &Setting, scales: &Scales, point: &Point, node: &Node, ways: &[Way], limit: u64) -> Asked {
    // Device bytes = allocated × (1 + slack) + the rest: what may be allocated.
    let (_, rest) = totals(s, point, 0.0);
    let allocated = (limit as f64 - rest) / (1.0 + s.profile.fixed.slack);
    let mut parts = Vec::new();
    let mut stages = Vec::new();
    for stage in 0..point.pp {
        let row: Vec<(Parts, Parts)> = ways.iter().map(|way| scales.parts(point, stage, way)).collect();
        let base = row.iter().map(|(base, _)| base.allocated()).fold(0.0, f64::max);
        let mut seconds = 0.0;
        if stage == 0 {
            seconds += node.ends.0;
        }
        if stage == point.pp - 1 {
            seconds += node.ends.1;
        }
        stages.push(Stage {
            seconds,
            room: allocated - base,
            layer: row.iter().map(|(_, each)| each.allocated().max(1.0)).collect(),
        });
        parts.push(row);
    }
    let policies = ways.iter().map(|way| Policy { seconds: way.seconds }).collect();
    let programme = Programme {
        layers: s.shape.layers,
        policies,
        stages,
        micro_batches: s.micro_batches(point) as f64,
        filled: filled(s, point, &node.plain),
    };
    let under = |way: &Way| freed(s, &Point { recompute: way.recompute, ..*point });
    let freed = ways.iter().map(|way| if way.travels { 0.0 } else { under(way) }).collect();
    Asked { programme, parts, freed }
}

/// Memory of every stage under a split, by kind.
///
/// Layers that recompute most come first in a stage (`StageLayers::recompute`), so those of later ways, which are listed
/// before, are not there yet in their forward pass and gone in their backward pass.
fn memories(
    s: &Setting,
    point: &Point,
    ways: &[Way],
    asked: &Asked,
    counts: &[Vec<u64>],
) -> Vec<StageMemory> {
    let one = |(stage, counts): (usize, &Vec<u64>)| {
        let row = asked.parts.get(stage).map(Vec::as_slice).unwrap_or_default();
        if let (1, Some(at)) = (counts.iter().sum(), counts.iter().position(|n| *n > 0)) {
            let alone = ways.get(at).map(|way| of_one_way(&each_holds(s, 1), point, stage as u64, way));
            return whole_bytes(s, point, alone.unwrap_or_default());
        }
        let (mut most, mut sum, mut later) = (None, Parts::default(), 0.0);
        let of = row.iter().zip(&asked.freed).zip(counts).filter(|(_, n)| **n > 0);
        for (((base, each), freed), n) in of {
            let base = Parts { activations: base.activations - later, ..*base };
            let deeper = |known: &Parts| known.allocated() < base.allocated();
            if most.as_ref().is_none_or(deeper) {
                most = Some(base);
            }
            sum = sum.plus(each, *n as f64);
            later += *n as f64 * freed;
        }
        whole_bytes(s, point, sum.plus(&most.unwrap_or_default(), 1.0))
    };
    counts.iter().enumerate().map(one).collect()
}

/// What stages hold under a split of `s`, for the plan.
fn layers_of(ways: &[Way], counts: &[u64]) -> StageLayers {
    let of = |keep: &dyn Fn(&Way) -> bool| -> u64 {
        ways.iter().zip(counts).filter(|(w, _)| keep(w)).map(|(_, n)| *n).sum()
    };
    StageLayers {
        layers: counts.iter().sum(),
        selective: of(&|w| w.recompute == Recompute::Selective),
        full: of(&|w| w.recompute == Recompute::Full),
        offload: of(&|w| w.travels),
    }
}

/// Memory of the stages that a plan names, for its `memory.stages`.
pub fn stage_memories(
    s: &Setting,
    pins: &Pins,
    node: &Node,
    point: &Point,
    held: &[StageLayers],
) -> Vec<StageMemory> {
    let travel = held.iter().any(|h| h.offload > 0);
    let ways = ways(s, pins, node, travel);
    let asked = asked(s, &Scales::new(s), point, node, &ways, u64::MAX);
    let counts: Vec<Vec<u64>> = (held.iter())
        .map(|h| {
            let count = |w: &Way| match (w.recompute, w.travels) {
                (Recompute::None, _) => h.layers - h.selective - h.full,
                (Recompute::Selective, _) => h.selective,
                (Recompute::Full, true) => h.offload,
                (Recompute::Full, false) => h.full - h.offload,
            };
            ways.iter().map(count).collect()
        })
        .collect();
    memories(s, point, &ways, &asked, &counts)
}

/// The whole cost of a split.
fn cost(
    s: &Setting,
    node: &Node,
    point: &Point,
    ways: &[Way],
    counts: &[Vec<u64>],
    device: u64,
) -> (Costed, Vec<StageLayers>) {
    let held: Vec<StageLayers> = counts.iter().map(|row| layers_of(ways, row)).collect();
    let ends = |stage: usize| {
        (if stage == 0 { node.ends.0 } else { 0.0 })
            + (if stage + 1 == counts.len() { node.ends.1 } else { 0.0 })
    };
    let busy = |(stage, row): (usize, &Vec<u64>)| {
        ends(stage) + row.iter().zip(ways).map(|(n, w)| *n as f64 * w.seconds).sum::<f64>()
    };
    let (mut slowest, mut sum, mut at) = (0.0, 0.0, 0);
    for (stage, seconds) in counts.iter().enumerate().map(|x| (x.0, busy(x))) {
        sum += seconds;
        if seconds > slowest {
            (slowest, at) = (seconds, stage);
        }
    }
    let row = counts.get(at).map(Vec::as_slice).unwrap_or_default();
    let layers = row.iter().sum::<u64>() as f64;
    let over = |f: &dyn Fn(&Way) -> f64| row.iter().zip(ways).map(|(n, w)| *n as f64 * f(w)).sum::<f64>();
    let mut time = node.plain;
    time.recompute = over(&|w| w.time.recompute) / layers.max(1.0);
    let mut compute: Compute = pipeline(s, point, time, node.ends, (slowest, layers, sum));
    compute.travel = over(&|w| w.travel);
    let split = Setting { split: held.iter().map(|h| h.layers).collect(), ..s.clone() };
    let step = step(&split, point, &compute);
    // What most layers do stands for the whole; the stages say the rest.
    let total = |f: &dyn Fn(&StageLayers) -> u64| held.iter().map(f).sum::<u64>();
    let (all, full, selective) = (total(&|h| h.layers), total(&|h| h.full), total(&|h| h.selective));
    let recompute = if 2 * full >= all {
        Recompute::Full
    } else if 2 * (full + selective) >= all {
        Recompute::Selective
    } else {
        Recompute::None
    };
    (Costed { point: Point { recompute, ..*point }, compute, step, device, split: None }, held)
}

/// Lower bound of the pipeline of a node in constant time: all layers shared out to the second.
fn quick(s: &Setting, node: &Node, each: f64) -> f64 {
    let (p, m) = (node.point.pp as f64, s.micro_batches(&node.point) as f64);
    let sum = s.shape.layers as f64 * each + node.ends.0 + node.ends.1;
    let slowest = (sum / p).max(each + node.ends.0.max(node.ends.1));
    m * slowest
        + (sum - slowest - filled(s, &node.point, &node.plain)).max(0.0)
        + sends(s, &node.point, f64::INFINITY)
}

/// Least seconds of data parallelism and optimizer under any split: as if the parameters were shared out evenly to the
/// last one, and all traffic that may hide did.
fn least_rest(s: &Setting, point: &Point) -> f64 {
    let total: f64 = (0..point.pp).map(|stage| stage_params(s, point, stage)).sum();
    let share = (total / point.pp as f64 / most_params(s, point)).min(1.0);
    share * (wire(s, point) * (1.0 - s.profile.comm.overlap) + optimizer(s, point))
}

/// Looks for uneven stages that beat what `found` has; adds what it finds.
pub fn improve(
    s: &Setting,
    pins: &Pins,
    limit: u64,
    offloads: &[Offload],
    nodes: &[Node],
    found: &mut Found,
) {
    let x = libm::log2(s.gpus() as f64);
    let wait = 1.0 + s.profile.comm.straggler * libm::sqrt(x) * x / (x + 1.0);
    let scales = Scales::new(s);
    let mut work = WORK;
    let mut order: Vec<(f64, usize)> = Vec::new();
    let mut kinds: Vec<Vec<Way>> = Vec::with_capacity(nodes.len());
    for (i, node) in nodes.iter().enumerate() {
        let pipeline = node.point.pp > 1;
        let ways = ways(s, pins, node, pipeline && offloads.contains(&Offload::Activations));
        let each = ways.iter().map(|w| w.seconds).fold(f64::INFINITY, f64::min);
        // One rank with one policy has nothing to share out; interleaved runs must be even.
        let open = (pipeline || ways.len() > 1)
            && node.point.pp <= LONGEST
            // A pipeline that never fills gains nothing by even stages.
            && s.micro_batches(&node.point) >= node.point.pp
            && node.point.schedule != Schedule::Interleaved
            && (s.shape.layers >= 2 * node.point.pp || node.point.pp == 1);
        if open {
            order.push(((quick(s, node, each) + s.profile.fixed.step) * wait, i));
        }
        kinds.push(ways);
    }
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    for (bound, i) in order {
        let (Some(node), Some(ways)) = (nodes.get(i), kinds.get(i)) else { continue };
        let beaten =
            |found: &Found, bound: f64| found.best.as_ref().is_some_and(|best| bound >= best.step.total);
        if beaten(found, bound) {
            *found.pruned_by.entry("uneven_bound").or_default() += 1;
            continue;
        }
        for &offload in offloads.iter().filter(|o| **o != Offload::Activations) {
            for (zero, shard) in sharding(pins, node.point.dp) {
                let point = Point { offload, zero, shard, ..node.point };
                if refused(s, &point).is_some() {
                    continue;
                }
                // Sends, and what data parallelism and the optimizer take at the least, with layers shared out to the
                // second: what computation cannot hide of the traffic, and the optimizer's share.
                let rest = sends(s, &point, f64::INFINITY) + s.profile.fixed.step + least_rest(s, &point);
                let most = found.best.as_ref().map_or(f64::INFINITY, |b| b.step.total);
                let room = most / wait - rest;
                let each = ways.iter().map(|w| w.seconds).fold(f64::INFINITY, f64::min);
                if quick(s, node, each) - sends(s, &point, f64::INFINITY) >= room {
                    *found.pruned_by.entry("uneven_bound").or_default() += 1;
                    continue;
                }
                if work < point.pp {
                    *found.pruned_by.entry("uneven_work").or_default() += 1;
                    continue;
                }
                work -= point.pp;
                let asked = asked(s, &scales, &point, node, ways, limit);
                let programme = &asked.programme;
                if programme.bound() >= room {
                    *found.pruned_by.entry("uneven_bound").or_default() += 1;
                    continue;
                }
                let Some(open) = Some(programme).filter(|p| p.fits()).and_then(|p| p.worth(room)) else {
                    *found.pruned_by.entry("uneven_memory").or_default() += 1;
                    continue;
                };
                found.milp += 1;
                let Some(split) = programme.solved(&open) else { continue };
                let device = memories(s, &point, ways, &asked, &split.counts).iter().map(|m| m.device).max();
                let (mut costed, held) = cost(s, node, &point, ways, &split.counts, device.unwrap_or(0));
                let even =
                    held.iter().enumerate().all(|(stage, h)| {
                        h.layers == s.stage_layers(point.pp, stage as u64) && h.offload == 0
                    }) && held.windows(2).all(|w| w.first().map(share) == w.last().map(share))
                        && held.first().is_some_and(|h| matches!(share(h), (0, 0) | (1, 0) | (0, 1)));
                let travels = held.iter().any(|h| h.offload > 0);
                let full = Point { offload: Offload::Activations, recompute: Recompute::Full, ..point };
                let host = !travels || host_bytes(s, &full) <= s.hardware.host_memory_bytes as f64;
                if even || costed.device > limit || !host || beaten(found, costed.step.total) {
                    continue;
                }
                costed.split = Some(found.splits.len());
                found.splits.push((held, *node));
                // Beside the even points: counted as one more everywhere, so that no more fit than were evaluated.
                found.considered += 1;
                found.evaluated += 1;
                found.feasible += 1;
                consider(found, costed);
            }
        }
    }
}

/// Whether all, none or some layers of a stage recompute selectively and fully: 1, 0, 2.
fn share(h: &StageLayers) -> (u64, u64) {
    let part = |n: u64| {
        if n == 0 {
            0
        } else if n == h.layers {
            1
        } else {
            2
        }
    };
    (part(h.selective), part(h.full))
}

/// What a gibibyte more on every device saves a layout, seconds a step: by the relaxed programme (the dual price of
/// memory), and in whole layers.
pub fn gibibyte(s: &Setting, pins: &Pins, node: &Node, costed: &Costed, limit: u64) -> Option<(f64, f64)> {
    let ways = ways(s, pins, node, false);
    let scales = Scales::new(s);
    let point = &costed.point;
    if point.schedule == Schedule::Interleaved || ways.len() < 2 && point.pp == 1 {
        return None;
    }
    let relaxed = asked(s, &scales, point, node, &ways, limit).programme.gibibyte()?;
    if relaxed <= 0.0 {
        return Some((0.0, 0.0));
    }
    let more = asked(s, &scales, point, node, &ways, limit.saturating_add(1 << 30)).programme;
    let own = costed.compute.pipeline - costed.compute.sends;
    let Some(more) = more.worth(own).and_then(|open| more.solved(&open)) else { return Some((relaxed, 0.0)) };
    Some((relaxed, (own - more.seconds).max(0.0)))
}
