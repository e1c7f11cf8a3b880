//! Uneven pipeline stages: how many layers each stage holds under which policy, so that the step is as short as
//! possible and every stage fits. A mixed-integer programme with a count per (stage, policy), as in
//! Mist (Dazz993/Mist, `mist/analyzer/inter_tuning_mip.py`), solved in pure Rust; its relaxation prices a gibibyte.
//!
//! Not here: which pipelines are worth asking about (`uneven`).

use good_lp::{
    Expression, ProblemVariables, ResolutionError, Solution, SolverModel, Variable, WithInitialSolution,
    WithMipGap, constraint, microlp, variable,
};

/// Choices that exclude each other: weights of counts, by position.
type Cut = Vec<(f64, Vec<u64>)>;

/// One way to run a layer: recompute nothing, some, all; keep or offload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Seconds a layer and micro-batch, forward and backward.
    pub seconds: f64,
}

/// One pipeline rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Seconds besides layers: embedding, head, loss.
    pub seconds: f64,
    /// Bytes that layers may use.
    pub room: f64,
    /// Bytes a layer under each policy; earlier stages keep more micro-batches.
    pub layer: Vec<f64>,
}

/// The whole programme: minimise `micro_batches · T + idle`, T the slowest stage and
/// `idle ≥ Σ stages − T − filled` what fill and drain cost (Alpa, arXiv 2201.12023: Σ stage + (m − 1)·max).
#[derive(Debug, Clone, PartialEq)]
pub struct Programme {
    /// Layers to share out.
    pub layers: u64,
    /// Ways to run a layer.
    pub policies: Vec<Policy>,
    /// Pipeline ranks, each of which holds a layer at least.
    pub stages: Vec<Stage>,
    /// Micro-batches a step.
    pub micro_batches: f64,
    /// Idle seconds that a zero-bubble schedule fills with weight gradients; 0 in 1F1B.
    pub filled: f64,
}

/// A split and what it costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// Layers by stage and policy.
    pub counts: Vec<Vec<u64>>,
    /// Seconds of the slowest stage.
    pub slowest: f64,
    /// Seconds of the pipeline, sends aside.
    pub seconds: f64,
}

/// The fastest mixes of a programme's stages, and the least slowest stage: what its cuts are made of.
#[derive(Debug, Clone)]
pub struct Open {
    table: Vec<Cut>,
    least: f64,
}

/// Gibibyte, for scaling: a solver wants coefficients near 1.
const GIB: f64 = 1073741824.0;
/// Solver's own tolerance on integers.
const WHOLE: f64 = 1e-6;
/// Splits of at most [`FEW`] counts are proven best to this share of the objective.
const EXACT: f32 = 1e-8;
/// Larger ones start from the dynamic programme's, which is the best: the solver stops where its bound comes this near.
const CLOSE: f32 = 5e-2;
/// Bounds of the slowest stage that the dynamic programme tries at most.
const BOUNDS: usize = 64;
/// Counts (stages × policies) up to which branching proves the best within milliseconds.
const FEW: usize = 12;

impl Programme {
    /// Seconds of the pipeline whose stages take these.
    pub fn seconds(&self, stages: impl Iterator<Item = f64>) -> (f64, f64) {
        let (slowest, sum) = stages.fold((0.0, 0.0), |(most, sum), x| (f64::max(most, x), sum + x));
        (slowest, self.micro_batches * slowest + (sum - slowest - self.filled).max(0.0))
    }

    /// Seconds below which no split can stay, memory forgotten: the fastest policy everywhere, layers whole.
    pub fn bound(&self) -> f64 {
        let each = self.policies.iter().map(|p| p.seconds).fold(f64::INFINITY, f64::min);
        let most = self.stages.iter().map(|s| s.seconds).fold(0.0, f64::max);
        // The k-th layer of a stage ends at seconds + k·each: the slowest stage is one of these.
        let holds = |t: f64| -> u64 {
            let held = |s: &Stage| ((t - s.seconds) / each * (1.0 + 1e-12)).floor().max(0.0) as u64;
            self.stages.iter().map(held).fold(0, u64::saturating_add)
        };
        let ends =
            self.stages.iter().flat_map(|s| (1..=self.layers).map(move |k| s.seconds + k as f64 * each));
        let mut ends: Vec<f64> = ends.filter(|t| *t >= most + each * (1.0 - 1e-12)).collect();
        ends.sort_by(f64::total_cmp);
        let at = ends.partition_point(|t| holds(*t) < self.layers);
        let slowest = ends.get(at).copied().unwrap_or(f64::INFINITY);
        let sum = self.layers as f64 * each + self.stages.iter().map(|s| s.seconds).sum::<f64>();
        self.micro_batches * slowest + (sum - slowest - self.filled).max(0.0)
    }

    /// Whether the layers fit at all, each under its smallest policy: the integer programme is feasible exactly then.
    pub fn fits(&self) -> bool {
        let held = |s: &Stage| {
            let least = s.layer.iter().copied().fold(f64::INFINITY, f64::min);
            (s.room / least * (1.0 + 1e-12)).floor().max(0.0) as u64
        };
        self.stages.iter().all(|s| held(s) >= 1)
            && self.stages.iter().map(held).fold(0, u64::saturating_add) >= self.layers
            && self.layers >= self.stages.len() as u64
    }

    /// Fastest mix of policies under which `stage` holds `layers`; `None` when no mix fits.
    fn mix(&self, stage: &Stage, layers: u64) -> Option<(f64, Vec<u64>)> {
        let kinds: Vec<(f64, f64)> =
            self.policies.iter().map(|p| p.seconds).zip(stage.layer.iter().copied()).collect();
        let mut best: Option<(f64, Vec<u64>)> = None;
        let mut counts = vec![0; kinds.len()];
        mixes(&kinds, layers, stage.room * (1.0 + 1e-12), 0, &mut counts, &mut best, 0.0);
        best.map(|(seconds, counts)| (stage.seconds + seconds, counts))
    }

    /// Of every stage, the fastest mix of 1, 2, … layers, as far as they fit and take no longer than `slowest`.
    fn table(&self, slowest: f64) -> Vec<Cut> {
        let most = (self.layers + 1).saturating_sub(self.stages.len() as u64);
        let each = self.policies.iter().map(|p| p.seconds).fold(f64::INFINITY, f64::min);
        let row = |s: &Stage| {
            let in_time = (1..=most).take_while(|n| s.seconds + *n as f64 * each <= slowest);
            in_time.map_while(|n| self.mix(s, n).filter(|(t, _)| *t <= slowest)).collect()
        };
        self.stages.iter().map(row).collect()
    }

    /// The least slowest stage under which all layers fit: a cut, for no split is faster.
    fn least_slowest(&self, table: &[Cut]) -> Option<f64> {
        let held = |limit: f64| -> u64 {
            table
                .iter()
                .map(|row| row.partition_point(|(t, _)| *t <= limit) as u64)
                .fold(0, u64::saturating_add)
        };
        let first = table.iter().filter_map(|row| row.first().map(|(t, _)| *t)).fold(0.0, f64::max);
        let mut times: Vec<f64> = table.iter().flatten().map(|(t, _)| *t).filter(|t| *t >= first).collect();
        times.sort_by(f64::total_cmp);
        times.get(times.partition_point(|t| held(*t) < self.layers)).copied()
    }

    /// How far from the best a split may be.
    fn gap(&self) -> f32 {
        if self.stages.len() * self.policies.len() <= FEW { EXACT } else { CLOSE }
    }

    /// Layers of each stage in the best split, by a dynamic programme over stages under one bound of the slowest after the
    /// other: a higher bound costs `micro_batches` times its rise and saves at most what the sum of stages can fall.
    fn start(&self, table: &[Cut], least: f64) -> Option<Vec<usize>> {
        let mut bounds: Vec<f64> = table.iter().flatten().map(|(t, _)| *t).filter(|t| *t >= least).collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        let objective =
            |slowest: f64, sum: f64| self.micro_batches * slowest + (sum - slowest - self.filled).max(0.0);
        let free = self.shared(table, f64::INFINITY)?.0;
        let mut best: Option<(f64, Vec<usize>)> = None;
        for bound in bounds.into_iter().take(BOUNDS) {
            if best.as_ref().is_some_and(|(found, _)| objective(bound, free) >= *found) {
                break;
            }
            let Some((sum, held)) = self.shared(table, bound) else { continue };
            let value = objective(bound, sum);
            if best.as_ref().is_none_or(|(found, _)| value < *found) {
                best = Some((value, held));
            }
        }
        best.map(|(_, held)| held)
    }

    /// The split with the least sum of stages' seconds among those whose stages take `bound` at most, and that sum.
    fn shared(&self, table: &[Cut], bound: f64) -> Option<(f64, Vec<usize>)> {
        let layers = self.layers as usize;
        let mut sums = vec![f64::INFINITY; layers + 1];
        *sums.first_mut()? = 0.0;
        let mut taken: Vec<Vec<usize>> = Vec::with_capacity(table.len());
        for row in table {
            let mut next = vec![f64::INFINITY; layers + 1];
            let mut from = vec![0; layers + 1];
            for (n, (seconds, _)) in row.iter().enumerate().filter(|(_, (t, _))| *t <= bound) {
                for (before, sum) in sums.iter().enumerate().filter(|(_, sum)| sum.is_finite()) {
                    let all = before + n + 1;
                    let (Some(place), Some(by)) = (next.get_mut(all), from.get_mut(all)) else { break };
                    if sum + seconds < *place {
                        (*place, *by) = (sum + seconds, n + 1);
                    }
                }
            }
            sums = next;
            taken.push(from);
        }
        let sum = sums.last().copied().filter(|sum| sum.is_finite())?;
        let mut left = layers;
        let mut held = Vec::with_capacity(table.len());
        for from in taken.iter().rev() {
            let n = *from.get(left)?;
            held.push(n);
            left -= n;
        }
        held.reverse();
        Some((sum, held))
    }

    /// The programme in numbers: integers or their relaxation. Milliseconds and gibibytes keep the coefficients near 1.
    /// With `cuts`, what is known about whole layers is added: a stage takes no less than the lower convex hull of its
    /// fastest mixes, and the slowest no less than the least there is.
    fn solve(
        &self,
        extra: f64,
        cuts: Option<(&[Cut], f64)>,
    ) -> Result<(Vec<Vec<f64>>, f64), ResolutionError> {
        let mut vars = ProblemVariables::new();
        let start = cuts.and_then(|(table, slowest)| self.start(table, slowest));
        let counts: Vec<Vec<Variable>> = (self.stages.iter())
            .map(|_| {
                let one = |_| {
                    let bounded = variable().min(0.0).max(self.layers as f64);
                    vars.add(if cuts.is_some() { bounded.integer() } else { bounded })
                };
                self.policies.iter().map(one).collect()
            })
            .collect();
        let slowest = vars.add(variable().min(cuts.map_or(0.0, |(_, least)| least * 1e3 * (1.0 - 1e-12))));
        let idle = vars.add(variable().min(0.0));
        let busy: Vec<Expression> = (self.stages.iter().zip(&counts))
            .map(|(stage, row)| {
                let layers: Expression =
                    row.iter().zip(&self.policies).map(|(c, p)| *c * (p.seconds * 1e3)).sum();
                layers + stage.seconds * 1e3
            })
            .collect();
        let sum: Expression = busy.iter().cloned().sum();
        let mut model = vars.minimise(self.micro_batches * slowest + idle).using(microlp);
        model = model.with(constraint!(idle >= sum - slowest - self.filled * 1e3));
        let all: Expression = counts.iter().flatten().copied().sum();
        model = model.with(constraint!(all == self.layers as f64));
        for (i, ((stage, row), busy)) in self.stages.iter().zip(&counts).zip(busy).enumerate() {
            let bytes: Expression = row.iter().zip(&stage.layer).map(|(c, b)| *c * (*b / GIB)).sum();
            model = model.with(constraint!(bytes <= (stage.room + extra) / GIB));
            let held: Expression = row.iter().copied().sum();
            model = model.with(constraint!(held.clone() >= 1.0));
            for (slope, level) in
                cuts.and_then(|(table, _)| table.get(i)).map(|row| hull(row)).unwrap_or_default()
            {
                // Coefficients that cancel to rounding noise would mislead the solver's pivots.
                let over: Vec<f64> = (self.policies.iter())
                    .map(|p| p.seconds * 1e3 - slope)
                    .map(|c| if c.abs() < 1e-9 * slope { 0.0 } else { c })
                    .collect();
                let least = (level - stage.seconds * 1e3) * (1.0 + 1e-9) - 1e-7;
                if least <= 0.0 && over.iter().all(|c| *c >= 0.0) {
                    continue;
                }
                let above: Expression = row.iter().zip(&over).map(|(c, over)| *c * *over).sum();
                model = model.with(constraint!(above >= least));
            }
            model = model.with(constraint!(busy <= slowest));
        }
        if let (Some((table, _)), Some(start)) = (cuts, start) {
            let rows: Vec<&(f64, Vec<u64>)> =
                table.iter().zip(&start).filter_map(|(row, n)| row.get(n.checked_sub(1)?)).collect();
            let (most, objective) = self.seconds(rows.iter().map(|(t, _)| *t));
            let values = counts
                .iter()
                .flatten()
                .copied()
                .zip(rows.iter().flat_map(|(_, c)| c.iter().map(|n| *n as f64)));
            let ends = [(slowest, most * 1e3), (idle, (objective - self.micro_batches * most) * 1e3)];
            model = model.with_initial_solution(values.chain(ends));
            model = model.with_mip_gap(self.gap()).map_err(|e| ResolutionError::Str(e.to_string()))?;
        }
        let solution = model.solve()?;
        let values = counts.iter().map(|row| row.iter().map(|v| solution.value(*v)).collect()).collect();
        Ok((values, (self.micro_batches * solution.value(slowest) + solution.value(idle)) / 1e3))
    }

    /// The best split; `None` when none fits.
    pub fn split(&self) -> Option<Split> {
        if self.fits() { self.worth(f64::INFINITY).and_then(|open| self.solved(&open)) } else { None }
    }

    /// What is known about whole layers, if by that a split may take less than `limit` seconds.
    pub fn worth(&self, limit: f64) -> Option<Open> {
        let table = self.table(limit / self.micro_batches.max(1.0));
        let least = self.least_slowest(&table)?;
        let each = self.policies.iter().map(|p| p.seconds).fold(f64::INFINITY, f64::min);
        let sum = self.layers as f64 * each + self.stages.iter().map(|s| s.seconds).sum::<f64>();
        let bound = self.micro_batches * least + (sum - least - self.filled).max(0.0);
        (bound < limit).then_some(Open { table, least })
    }

    /// Solves the programme.
    pub fn solved(&self, open: &Open) -> Option<Split> {
        let Open { table, least } = open;
        let (values, _) = self.solve(0.0, Some((table, *least))).ok()?;
        let whole = |v: &f64| {
            let near = v.round();
            ((v - near).abs() < WHOLE * self.layers.max(1) as f64).then_some(near as u64)
        };
        let counts: Vec<Vec<u64>> =
            values.iter().map(|row| row.iter().map(whole).collect::<Option<_>>()).collect::<Option<_>>()?;
        let busy = |(stage, row): (&Stage, &Vec<u64>)| {
            stage.seconds + row.iter().zip(&self.policies).map(|(c, p)| *c as f64 * p.seconds).sum::<f64>()
        };
        let (slowest, seconds) = self.seconds(self.stages.iter().zip(&counts).map(busy));
        Some(Split { counts, slowest, seconds })
    }

    /// Seconds that the relaxed programme gains by one gibibyte more on every stage: the dual price of memory, over a
    /// whole gibibyte. 0 where memory binds nowhere, `None` where nothing fits.
    pub fn gibibyte(&self) -> Option<f64> {
        let now = self.solve(0.0, None).ok()?.1;
        let more = self.solve(GIB, None).ok()?.1;
        Some((now - more).max(0.0))
    }
}

/// Tries every count of all but the last two policies, whose best counts follow; keeps the fastest mix in `best`.
fn mixes(
    kinds: &[(f64, f64)],
    left: u64,
    room: f64,
    at: usize,
    counts: &mut Vec<u64>,
    best: &mut Option<(f64, Vec<u64>)>,
    seconds: f64,
) {
    let Some(((fast, large), rest)) = kinds.get(at..).and_then(|k| k.split_first()) else { return };
    let mut offer = |n: u64, other: u64, seconds: f64| {
        if best.as_ref().is_none_or(|(least, _)| seconds < *least) {
            let mut found = counts.clone();
            for (place, count) in [(at, n), (at + 1, other)] {
                if let Some(c) = found.get_mut(place) {
                    *c = count;
                }
            }
            *best = Some((seconds, found));
        }
    };
    match rest {
        [] if left as f64 * large <= room => offer(left, 0, seconds + left as f64 * fast),
        [] => {}
        [(slow, small)] => {
            let total = |n: u64| n as f64 * fast + (left - n) as f64 * slow;
            let fits = |n: u64| n as f64 * large + (left - n) as f64 * small <= room;
            // Linear in n: the best is at one end of what fits.
            let edge = ((room - left as f64 * small) / (large - small)).floor();
            let near = if edge.is_finite() { (edge.max(0.0) as u64).min(left) } else { 0 };
            for n in [0, near.saturating_sub(1), near, (near + 1).min(left), left] {
                if fits(n) {
                    offer(n, left - n, seconds + total(n));
                }
            }
        }
        _ => {
            for n in 0..=left {
                if let Some(c) = counts.get_mut(at) {
                    *c = n;
                }
                mixes(
                    kinds,
                    left - n,
                    room - n as f64 * large,
                    at + 1,
                    counts,
                    best,
                    seconds + n as f64 * fast,
                );
            }
            if let Some(c) = counts.get_mut(at) {
                *c = 0;
            }
        }
    }
}

/// Lower convex hull of (layers, milliseconds), as slopes and levels of the lines that bound it.
fn hull(row: &[(f64, Vec<u64>)]) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = Vec::new();
    for (i, (seconds, _)) in row.iter().enumerate() {
        let next = ((i + 1) as f64, seconds * 1e3);
        while let [.., a, b] = points[..] {
            if (b.1 - a.1) * (next.0 - b.0) < (next.1 - b.1) * (b.0 - a.0) {
                break;
            }
            points.pop();
        }
        points.push(next);
    }
    let line = |pair: &[(f64, f64)]| match pair {
        [a, b] => {
            let slope = (b.1 - a.1) / (b.0 - a.0);
            Some((slope, a.1 - slope * a.0))
        }
        _ => None,
    };
    points.windows(2).filter_map(line).collect()
}
