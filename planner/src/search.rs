//! The layout search: every node is bounded, nodes are visited from the lowest bound, each is expanded over ZeRO,
//! shard group and offload, and the fastest point that fits wins.
//!
//! Exhaustive: a node is skipped only when its compute alone takes [`FRONTIER`] times as long as a plan already
//! found, so the optimum and the frontier within that factor are exact inside the model. Of a point that fits the step
//! is timed only where its compute leaves it a place among the first or on the frontier.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use llmc_plan::plan::{Offload, Recompute, Schedule, StageLayers};

use crate::cost::layer::{LayerTime, ends, plain_layer, recompute};
use crate::cost::memory::{Parts, host_bytes, states, totals, working};
use crate::cost::step::{Compute, Step, assemble, step};
use crate::cost::{Point, Setting};
use crate::question::Pins;
use crate::space::{enumerate, sharding};
use crate::uneven::{self, Node};

/// Candidates kept for confirmation by the walk over their programs.
const TOP: usize = 64;

/// What memory is priced by.
const GIB: u64 = 1 << 30;

/// The frontier shows plans at most this much slower than the best.
const FRONTIER: f64 = 2.0;

/// What a layer's time depends on: tp, sp, cp, micro-batch.
type LayerKey = (u64, bool, u64, u64);

/// A point with its cost.
#[derive(Debug, Clone, Copy)]
pub struct Costed {
    /// The layout.
    pub point: Point,
    /// Compute part.
    pub compute: Compute,
    /// Whole step.
    pub step: Step,
    /// Device bytes of the fullest stage.
    pub device: u64,
    /// Place of its uneven stages in [`Found::splits`]; `None` = even stages, one policy.
    pub split: Option<usize>,
}

impl Costed {
    /// The total order of plans: step time, then memory, then the point itself (fewer ranks of each kind first).
    pub fn order(&self, other: &Costed) -> Ordering {
        self.step
            .total
            .total_cmp(&other.step.total)
            .then(self.device.cmp(&other.device))
            .then(self.point.cmp(&other.point))
    }
}

/// What a search found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The best point.
    pub best: Option<Costed>,
    /// The second in the same order.
    pub runner_up: Option<Costed>,
    /// The first [`TOP`] in that order.
    pub top: Vec<Costed>,
    /// Points no other beats in both time and memory, fastest first.
    pub frontier: Vec<Costed>,
    /// Of the points that did not fit, the one with the smallest need, and its fullest stage.
    pub nearest: Option<(Costed, u64)>,
    /// Points in all.
    pub considered: u64,
    /// Points costed.
    pub evaluated: u64,
    /// Points that fit.
    pub feasible: u64,
    /// Rule → points.
    pub rejected_by: BTreeMap<&'static str, u64>,
    /// Figures of the first rejection by each rule.
    pub first: BTreeMap<&'static str, BTreeMap<&'static str, f64>>,
    /// Bound → points it spared.
    pub pruned_by: BTreeMap<&'static str, u64>,
    /// Mixed-integer programmes solved: where a bound beat the best plan found so far.
    pub milp: u64,
    /// What uneven stages hold, and the node they share out.
    pub splits: Vec<(Vec<StageLayers>, Node)>,
    /// Best of the points that a gibibyte more on every device would let in.
    pub roomier: Option<Costed>,
}

/// Device bytes of the fullest stage and which it is, of those of [`stages`].
fn fullest(s: &Setting, point: &Point, work: &[Parts]) -> (u64, u64) {
    let mut most = (0.0, 0);
    for (stage, w) in stages(s, point).zip(work) {
        let device = totals(s, point, states(s, point, stage).allocated() + w.allocated()).1;
        if device > most.0 {
            most = (device, stage);
        }
    }
    (most.0.ceil() as u64, most.1)
}

/// Stages that decide. Between the first and the last, memory falls with the stage; under a zero-bubble schedule it rises
/// until as many micro-batches wait for their weight gradients as there are, falls once fewer are in flight, and the last that
/// holds a layer more than others decides too ([`Setting::stage_layers`]).
fn stages(s: &Setting, point: &Point) -> impl Iterator<Item = u64> + use<> {
    let (p, m) = (point.pp, s.micro_batches(point));
    let (rises, more, before_last) =
        (point.schedule == Schedule::ZeroBubble, s.shape.layers % p, p.saturating_sub(2));
    let bend = |stage: u64| (stage, rises && stage > 1 && stage < before_last);
    let inner = [
        (1, p > 2),
        bend(m.saturating_sub(1)),
        bend(p.saturating_sub(m)),
        bend(more),
        (before_last, rises && p > 3),
        (p - 1, p > 1),
    ];
    std::iter::once(0).chain(inner.into_iter().filter(|(_, there)| *there).map(|(stage, _)| stage))
}

fn works(s: &Setting, point: &Point) -> Vec<Parts> {
    stages(s, point).map(|stage| working(s, point, stage)).collect()
}

/// Costs one point in full; `None` when host memory does not hold what it offloads.
pub fn evaluate(s: &Setting, point: &Point) -> Costed {
    let mut layer = plain_layer(s, point);
    layer.recompute = recompute(s, point, &layer);
    let compute = assemble(s, point, layer, ends(s, point));
    let work = works(s, point);
    Costed {
        point: *point,
        compute,
        step: step(s, point, &compute),
        device: fullest(s, point, &work).0,
        split: None,
    }
}

/// Rules on a whole point that need no cost.
pub fn refused(s: &Setting, point: &Point) -> Option<&'static str> {
    if point.offload == Offload::Activations && point.recompute != Recompute::Full {
        // Only block inputs travel (`plan.layout.offload`), and those are what full recomputation keeps.
        return Some("offload_needs_full_recompute");
    }
    if point.offload == Offload::Optimizer && s.state.paged > 0.0 {
        return Some("optimizer_already_paged");
    }
    if (point.offload != Offload::None || s.state.paged > 0.0)
        && host_bytes(s, point) > s.hardware.host_memory_bytes as f64
    {
        return Some("host_memory");
    }
    None
}

/// Seconds below which no expansion of a node can fall: its pipeline, before data parallelism, optimizer and the rest.
pub fn compute_bound(compute: &Compute) -> f64 {
    compute.pipeline
}

/// Searches all layouts of `s` under `pins` that need at most `limit` device bytes.
pub fn search(s: &Setting, pins: &Pins, limit: u64) -> Found {
    search_by(s, pins, limit, compute_bound)
}

/// [`search`] under a given lower bound; a bound that is not one gives a wrong answer, which the tests plant.
pub fn search_by(s: &Setting, pins: &Pins, limit: u64, bound: fn(&Compute) -> f64) -> Found {
    run(s, pins, limit, bound, true)
}

/// [`search`] without uneven stages, for a question asked of many counts of devices.
pub fn search_even(s: &Setting, pins: &Pins, limit: u64) -> Found {
    run(s, pins, limit, compute_bound, false)
}

fn run(s: &Setting, pins: &Pins, limit: u64, bound: fn(&Compute) -> f64, uneven: bool) -> Found {
    let space = enumerate(s, pins);
    let mut found = Found {
        considered: space.considered,
        rejected_by: space.rejected_by,
        first: space.first,
        ..Found::default()
    };
    let mut open: Vec<Node> = Vec::new();
    let mut layers: HashMap<LayerKey, (LayerTime, (f64, f64))> = HashMap::new();
    let first = pins.recompute.unwrap_or(Recompute::None);
    let mut nodes: Vec<(f64, Point, Compute)> = Vec::with_capacity(space.nodes.len());
    for node in &space.nodes {
        let p = &node.point;
        let (plain, both) =
            layers.entry((p.tp, p.sp, p.cp, p.micro)).or_insert_with(|| (plain_layer(s, p), ends(s, p)));
        if p.recompute == first {
            open.push(Node { point: *p, plain: *plain, ends: *both });
        }
        let mut time = *plain;
        time.recompute = recompute(s, p, plain);
        let compute = assemble(s, p, time, *both);
        nodes.push((bound(&compute), *p, compute));
    }
    nodes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));

    let mut groups: HashMap<u64, Vec<(u64, u64)>> = HashMap::new();
    for (bound, node, compute) in &nodes {
        let shards = groups.entry(node.dp).or_insert_with(|| sharding(pins, node.dp));
        let points = (shards.len() * space.offloads.len()) as u64;
        if found.best.as_ref().is_some_and(|best| *bound > FRONTIER * best.step.total) {
            *found.pruned_by.entry("compute_bound").or_default() += points;
            continue;
        }
        for &offload in &space.offloads {
            let at = Point { offload, ..*node };
            let mut work = None;
            for &(zero, shard) in shards.iter() {
                let point = Point { zero, shard, ..at };
                if let Some(rule) = refused(s, &point) {
                    *found.rejected_by.entry(rule).or_default() += 1;
                    continue;
                }
                found.evaluated += 1;
                let (device, stage) = fullest(s, &point, work.get_or_insert_with(|| works(s, &at)));
                if device > limit {
                    if device <= limit + GIB {
                        let more = Costed {
                            point,
                            compute: *compute,
                            step: step(s, &point, compute),
                            device,
                            split: None,
                        };
                        if found.roomier.is_none_or(|known| more.order(&known) == Ordering::Less) {
                            found.roomier = Some(more);
                        }
                    }
                    *found.rejected_by.entry("memory").or_default() += 1;
                    if found.best.is_none() && found.nearest.as_ref().is_none_or(|n| device < n.0.device) {
                        let step = step(s, &point, compute);
                        found.nearest =
                            Some((Costed { point, compute: *compute, step, device, split: None }, stage));
                    }
                    continue;
                }
                found.feasible += 1;
                if outdone(&found, *bound, device) {
                    continue;
                }
                let costed =
                    Costed { point, compute: *compute, step: step(s, &point, compute), device, split: None };
                consider(&mut found, costed);
            }
        }
    }
    // On one device the walk over the program has the last word on memory: less is asked of the closed form, in steps.
    let shares: &[f64] = if s.gpus() == 1 { &[0.95, 0.92, 0.88] } else { &[1.0] };
    for share in shares.iter().filter(|_| uneven) {
        uneven::improve(s, pins, (limit as f64 * share) as u64, &space.offloads, &open, &mut found);
    }
    found.frontier.retain(|c| found.best.as_ref().is_some_and(|b| c.step.total <= FRONTIER * b.step.total));
    found
}

/// Whether a point of `device` bytes that takes no less than `bound` seconds is neither among the first [`TOP`] nor on the
/// frontier, so that its step need not be timed.
fn outdone(found: &Found, bound: f64, device: u64) -> bool {
    let faster = found.frontier.partition_point(|other| other.step.total < bound);
    // The frontier falls in memory as it rises in time.
    let smaller = faster.checked_sub(1).and_then(|last| found.frontier.get(last));
    smaller.is_some_and(|other| other.device <= device)
        && found.top.len() == TOP
        && found.top.last().is_some_and(|last| last.step.total < bound)
}

/// Places a feasible point among best, runner-up and frontier.
pub(crate) fn consider(found: &mut Found, costed: Costed) {
    if found.top.len() < TOP || found.top.last().is_some_and(|last| costed.order(last) == Ordering::Less) {
        let place = found.top.partition_point(|other| other.order(&costed) == Ordering::Less);
        found.top.insert(place, costed);
        found.top.truncate(TOP);
        found.best = found.top.first().copied();
        found.runner_up = found.top.get(1).copied();
    }
    let beats = |a: &Costed, b: &Costed| a.device <= b.device && a.order(b) == Ordering::Less;
    if !found.frontier.iter().any(|other| beats(other, &costed)) {
        found.frontier.retain(|other| !beats(&costed, other));
        let place = found.frontier.partition_point(|other| other.order(&costed) == Ordering::Less);
        found.frontier.insert(place, costed);
    }
}
