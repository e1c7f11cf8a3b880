//! Can a mixture be had? Quotas, epoch limits and stages as a linear programme: which constraints bind, what one more
//! token of a source is worth, the nearest shares that can be had, and the largest budget the text allows.
//!
//! Variables are the share of each source in each stage. Not here: the shares a run reads (the corpus scales what is
//! inside its bounds in proportion), the order of samples.

use std::collections::BTreeMap;

use good_lp::{Expression, ProblemVariables, Solution, SolverModel, Variable, constraint, microlp, variable};

use crate::settle;

/// Shares closer than this are equal: what a solver in f64 leaves.
const EQUAL: f64 = 1e-7;
/// More sources than this are not searched for a smallest conflict; the constraints that must move are named instead.
const SMALL: usize = 48;
/// Breaking an epoch limit costs this many times what moving a share does: shares give way first.
const EPOCHS_FIRST: f64 = 1e3;

/// One source and what is asked of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Source {
    /// Name in the recipe.
    pub name: String,
    /// Training tokens it has; `None` before it was built.
    pub tokens: Option<f64>,
    /// Times it may be read; `None` = as often as wanted.
    pub epochs: Option<f64>,
    /// Fixed share.
    pub fixed: Option<f64>,
    /// Smallest share.
    pub least: Option<f64>,
    /// Largest share.
    pub most: Option<f64>,
}

/// From `start` (a share of the run) on, these sources have these shares instead of their own.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stage {
    /// Share of the run, 0 to 1.
    pub start: f64,
    /// Source by its place → share.
    pub fixed: BTreeMap<usize, f64>,
}

/// A mixture as asked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ask {
    /// The sources, at least one.
    pub sources: Vec<Source>,
    /// Later stages, by start.
    pub stages: Vec<Stage>,
    /// Tokens of the run; `None` = any.
    pub tokens: Option<f64>,
}

/// What a constraint is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The source's share is fixed.
    Fixed,
    /// The source's share has a lower bound.
    Least,
    /// The source's share has an upper bound.
    Most,
    /// The source may be read only so often.
    Epochs,
}

/// One constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Constraint {
    /// What it is about.
    pub kind: Kind,
    /// Source by its place.
    pub source: usize,
    /// Stage, 0 being the start; of epochs always 0.
    pub stage: usize,
}

/// The largest budget and what it is worth to have more of a source.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// Tokens of the longest run.
    pub tokens: f64,
    /// Source by its place → tokens that the run grows by for one more token of that source; only where it binds.
    pub worth: BTreeMap<usize, f64>,
    /// Tokens that the run grows by for one percent point of a share, and whether the share is raised for it, else lowered;
    /// only of those that bind.
    pub shares: Vec<(Constraint, f64, bool)>,
}

/// A mixture that can be had.
#[derive(Debug, Clone, PartialEq)]
pub struct Mix {
    /// Some shares that meet everything, by stage and source.
    pub shares: Vec<Vec<f64>>,
    /// The longest run, where the text limits it.
    pub limit: Option<Limit>,
}

/// A mixture that cannot.
#[derive(Debug, Clone, PartialEq)]
pub struct Conflict {
    /// Constraints that cannot all hold; with any one of them gone the rest can (up to [`SMALL`] sources).
    pub binding: Vec<Constraint>,
    /// The shares that change least of what was asked, by stage and source.
    pub nearest: Vec<Vec<f64>>,
    /// Constraints that those shares break, and the value each then has: a share, or epochs.
    pub moved: Vec<(Constraint, f64)>,
    /// The longest run that meets every constraint; `None` when there is none of any length.
    pub limit: Option<Box<Limit>>,
}

impl Ask {
    /// Share of the run that each stage covers.
    fn lengths(&self) -> Vec<f64> {
        let starts: Vec<f64> = std::iter::once(0.0).chain(self.stages.iter().map(|s| s.start)).collect();
        let ends = starts.iter().skip(1).copied().chain(std::iter::once(1.0));
        starts.iter().zip(ends).map(|(start, end)| (end - start).max(0.0)).collect()
    }

    /// The fixed share of a source in a stage; a share set by a stage holds until a later one sets it again.
    pub fn fixed(&self, stage: usize, source: usize) -> Option<f64> {
        let later = self.stages.iter().take(stage).rev().find_map(|s| s.fixed.get(&source)).copied();
        later.or_else(|| self.sources.get(source).and_then(|s| s.fixed))
    }

    /// Every constraint with its bound: a share, or tokens that may be read.
    fn constraints(&self) -> Vec<(Constraint, f64)> {
        let mut all = Vec::new();
        for stage in 0..=self.stages.len() {
            let given: Vec<f64> = (0..self.sources.len()).filter_map(|i| self.fixed(stage, i)).collect();
            // Shares of every source that leave some over are relative (`SourceSpec::weight`).
            let total: f64 = given.iter().sum();
            let relative = given.len() == self.sources.len() && total > 0.0 && total < 1.0;
            let scale = if relative { total } else { 1.0 };
            for (source, s) in self.sources.iter().enumerate() {
                let mut add = |kind, bound: Option<f64>| {
                    all.extend(bound.map(|b| (Constraint { kind, source, stage }, b)));
                };
                // What a share is fixed to stands instead of its bounds.
                let fixed = self.fixed(stage, source).map(|share| share / scale);
                add(Kind::Fixed, fixed);
                if fixed.is_none() {
                    add(Kind::Least, s.least);
                    add(Kind::Most, s.most);
                }
                if stage == 0 {
                    add(Kind::Epochs, s.tokens.zip(s.epochs).map(|(tokens, epochs)| tokens * epochs));
                }
            }
        }
        all
    }
}

/// Are there shares for a run of `tokens` that meet `constraints`? With `elastic`, the shares that break them least and
/// by how much each is broken.
fn shares(
    ask: &Ask,
    constraints: &[(Constraint, f64)],
    tokens: Option<f64>,
    elastic: bool,
) -> Option<Vec<Vec<f64>>> {
    let lengths = ask.lengths();
    let mut vars = ProblemVariables::new();
    let x: Vec<Vec<Variable>> = (lengths.iter())
        .map(|_| ask.sources.iter().map(|_| vars.add(variable().min(0.0).max(1.0))).collect())
        .collect();
    let slack = |vars: &mut ProblemVariables| {
        let v = variable().min(0.0);
        vars.add(if elastic { v } else { v.max(0.0) })
    };
    let slacks: Vec<[Variable; 2]> =
        constraints.iter().map(|_| [slack(&mut vars), slack(&mut vars)]).collect();
    let at = |c: &Constraint| x.get(c.stage).and_then(|row| row.get(c.source)).copied();
    let length = |c: &Constraint| lengths.get(c.stage).copied().unwrap_or(0.0);
    let cost: Expression = (constraints.iter().zip(&slacks))
        .map(|((c, _), [up, down])| {
            let price = if c.kind == Kind::Epochs { EPOCHS_FIRST } else { length(c).max(1e-3) };
            price * (*up + *down)
        })
        .sum();
    let mut model = vars.minimise(cost).using(microlp);
    for row in &x {
        let whole: Expression = row.iter().copied().sum();
        model = model.with(constraint!(whole == 1.0));
    }
    for ((c, bound), [up, down]) in constraints.iter().zip(&slacks) {
        if c.kind == Kind::Epochs {
            // Shares of the run, so that the coefficients stay near 1.
            let Some(tokens) = tokens.filter(|t| *t > 0.0) else { continue };
            let read: Expression = (x.iter().zip(&lengths))
                .filter_map(|(row, length)| Some(*length * *row.get(c.source)?))
                .sum();
            model = model.with(constraint!(read - *up <= (*bound / tokens).min(2.0)));
            continue;
        }
        let Some(share) = at(c) else { continue };
        model = match c.kind {
            Kind::Least => model.with(constraint!(share + *down >= *bound)),
            Kind::Most => model.with(constraint!(share - *up <= *bound)),
            _ => model.with(constraint!(share + *down - *up == *bound)),
        };
    }
    let solution = model.solve().ok()?;
    Some(x.iter().map(|row| row.iter().map(|v| settle(solution.value(*v))).collect()).collect())
}

/// The longest run that meets every constraint, in tokens; infinite where the text sets none, `None` where the shares
/// contradict themselves.
fn longest(ask: &Ask, constraints: &[(Constraint, f64)]) -> Option<f64> {
    let caps: Vec<f64> =
        constraints.iter().filter(|(c, _)| c.kind == Kind::Epochs).map(|(_, bound)| *bound).collect();
    shares(ask, constraints, None, false)?;
    let largest = caps.iter().copied().fold(0.0, f64::max);
    if largest <= 0.0 {
        return Some(if caps.is_empty() { f64::INFINITY } else { 0.0 });
    }
    // Tokens by stage and source, in units of the largest source: linear in both tokens and the run's length.
    let lengths = ask.lengths();
    let mut vars = ProblemVariables::new();
    let run = vars.add(variable().min(0.0).max(1e6));
    let y: Vec<Vec<Variable>> = (lengths.iter())
        .map(|_| ask.sources.iter().map(|_| vars.add(variable().min(0.0))).collect())
        .collect();
    let mut model = vars.maximise(run).using(microlp);
    for (row, length) in y.iter().zip(&lengths) {
        let whole: Expression = row.iter().copied().sum();
        model = model.with(constraint!(whole == *length * run));
    }
    for (c, bound) in constraints {
        if c.kind == Kind::Epochs {
            let read: Expression = y.iter().filter_map(|row| row.get(c.source).copied()).sum();
            model = model.with(constraint!(read <= *bound / largest));
            continue;
        }
        let Some(read) = y.get(c.stage).and_then(|row| row.get(c.source)).copied() else { continue };
        let part = lengths.get(c.stage).copied().unwrap_or(0.0) * *bound;
        model = match c.kind {
            Kind::Least => model.with(constraint!(read >= part * run)),
            Kind::Most => model.with(constraint!(read <= part * run)),
            _ => model.with(constraint!(read == part * run)),
        };
    }
    let most = model.solve().ok()?.value(run);
    Some(if most >= 1e6 * (1.0 - 1e-9) { f64::INFINITY } else { most * largest })
}

/// The longest run, and what one more token of each source adds to it, by solving again with a thousandth more of it.
fn limit(ask: &Ask, constraints: &[(Constraint, f64)]) -> Option<Limit> {
    let tokens = longest(ask, constraints).filter(|t| t.is_finite())?;
    let mut worth = BTreeMap::new();
    for (i, (c, bound)) in constraints.iter().enumerate() {
        if c.kind != Kind::Epochs || constraints.len() > 4 * SMALL {
            continue;
        }
        let mut more = constraints.to_vec();
        let step = bound * 1e-3;
        if let Some(changed) = more.get_mut(i) {
            changed.1 += step;
        }
        let epochs = ask.sources.get(c.source).and_then(|s| s.epochs).unwrap_or(1.0);
        let gain = (longest(ask, &more).unwrap_or(tokens).min(1e18) - tokens) / step * epochs;
        if gain > 1e-6 {
            worth.insert(c.source, libm::round(gain * 1e6) / 1e6);
        }
    }
    Some(Limit { tokens: settle(tokens), worth, shares: points(ask, constraints, tokens) })
}

/// What a percent point of each share is worth to the longest run, by solving again with a tenth of one.
fn points(ask: &Ask, constraints: &[(Constraint, f64)], tokens: f64) -> Vec<(Constraint, f64, bool)> {
    const STEP: f64 = 1e-3;
    let mut all = Vec::new();
    if constraints.len() > 4 * SMALL {
        return all;
    }
    for (i, (c, bound)) in constraints.iter().enumerate() {
        let ways: &[bool] = match c.kind {
            Kind::Least => &[false],
            Kind::Most => &[true],
            Kind::Fixed => &[false, true],
            Kind::Epochs => continue,
        };
        let gain = |raised: bool| {
            let mut moved = constraints.to_vec();
            let share = if raised { bound + STEP } else { bound - STEP };
            moved.get_mut(i)?.1 = Some(share).filter(|share| (0.0..=1.0).contains(share))?;
            let longer = longest(ask, &moved)?.min(1e18);
            Some(((longer - tokens) / STEP * 0.01, raised))
        };
        let best = ways.iter().filter_map(|raised| gain(*raised)).max_by(|a, b| a.0.total_cmp(&b.0));
        all.extend(
            best.filter(|(gain, _)| *gain > 1e-6 * tokens).map(|(gain, raised)| (*c, settle(gain), raised)),
        );
    }
    all
}

/// Decides whether the mixture can be had.
///
/// # Errors
/// [`Conflict`]: the constraints that clash, and the nearest shares that can be had.
pub fn solve(ask: &Ask) -> Result<Mix, Conflict> {
    let constraints = ask.constraints();
    if let Some(shares) = shares(ask, &constraints, ask.tokens, false) {
        return Ok(Mix { shares, limit: limit(ask, &constraints) });
    }
    let nearest = shares(ask, &constraints, ask.tokens, true).unwrap_or_default();
    let moved = moved(ask, &constraints, &nearest);
    let mut binding: Vec<Constraint> = constraints.iter().map(|(c, _)| *c).collect();
    if ask.sources.len() <= SMALL {
        // Deletion filter (Chinneck & Dravnieks 1991): what can go while the conflict stays is no part of it.
        let mut kept = constraints.clone();
        let mut i = 0;
        while i < kept.len() {
            let mut fewer = kept.clone();
            fewer.remove(i);
            if shares(ask, &fewer, ask.tokens, false).is_none() { kept = fewer } else { i += 1 }
        }
        binding = kept.into_iter().map(|(c, _)| c).collect();
    } else {
        binding.retain(|c| moved.iter().any(|(m, _)| m == c));
    }
    Err(Conflict { binding, nearest, moved, limit: limit(ask, &constraints).map(Box::new) })
}

/// The constraints that `shares` break, each with what it has become.
fn moved(ask: &Ask, constraints: &[(Constraint, f64)], shares: &[Vec<f64>]) -> Vec<(Constraint, f64)> {
    let lengths = ask.lengths();
    let of = |c: &Constraint| shares.get(c.stage).and_then(|row| row.get(c.source)).copied().unwrap_or(0.0);
    let mut out = Vec::new();
    for (c, bound) in constraints {
        match c.kind {
            Kind::Epochs => {
                let part = |(row, length): (&Vec<f64>, &f64)| row.get(c.source).unwrap_or(&0.0) * length;
                let read: f64 = shares.iter().zip(&lengths).map(part).sum();
                let tokens = read * ask.tokens.unwrap_or(0.0);
                if tokens > bound * (1.0 + EQUAL) {
                    let had = ask.sources.get(c.source).and_then(|s| s.tokens).unwrap_or(0.0);
                    out.push((*c, settle(tokens / had.max(1.0))));
                }
            }
            Kind::Least if of(c) < bound - EQUAL => out.push((*c, of(c))),
            Kind::Most if of(c) > bound + EQUAL => out.push((*c, of(c))),
            Kind::Fixed if (of(c) - bound).abs() > EQUAL => out.push((*c, of(c))),
            _ => {}
        }
    }
    out
}
