//! Uneven pipeline stages: how many layers each stage holds under which policy, so that the slowest stage is as fast
//! as possible and every stage fits. A mixed-integer programme with a count per (stage, policy), as in
//! Mist (Dazz993/Mist, `mist/analyzer/inter_tuning_mip.py`), solved in pure Rust; its relaxation prices a gibibyte.
//!
//! Not here: which pipelines are worth asking about (`search`).

use good_lp::{
    Expression, ProblemVariables, ResolutionError, Solution, SolverModel, Variable, constraint, microlp,
    variable,
};

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

/// A split and its slowest stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// Layers by stage and policy.
    pub counts: Vec<Vec<u64>>,
    /// Seconds of the slowest stage.
    pub slowest: f64,
}

/// Gibibyte, for scaling: a solver wants coefficients near 1.
const GIB: f64 = 1073741824.0;
/// Solver's own tolerance on integers.
const WHOLE: f64 = 1e-6;

/// The variables and the objective; integers or their relaxation.
fn solve(
    layers: u64,
    policies: &[Policy],
    stages: &[Stage],
    extra: f64,
    integer: bool,
) -> Result<(Vec<Vec<f64>>, f64), ResolutionError> {
    let mut vars = ProblemVariables::new();
    let count = |vars: &mut ProblemVariables| {
        let bounded = variable().min(0.0).max(layers as f64);
        vars.add(if integer { bounded.integer() } else { bounded })
    };
    let counts: Vec<Vec<Variable>> =
        stages.iter().map(|_| policies.iter().map(|_| count(&mut vars)).collect()).collect();
    let slowest = vars.add(variable().min(0.0));
    // Milliseconds and gibibytes keep the coefficients near 1.
    let mut model = vars.minimise(slowest).using(microlp);
    let all: Expression = counts.iter().flatten().copied().sum();
    model = model.with(constraint!(all == layers as f64));
    for (stage, row) in stages.iter().zip(&counts) {
        let busy: Expression = row.iter().zip(policies).map(|(c, p)| *c * (p.seconds * 1e3)).sum();
        model = model.with(constraint!(busy + stage.seconds * 1e3 <= slowest));
        let bytes: Expression = row.iter().zip(&stage.layer).map(|(c, b)| *c * (*b / GIB)).sum();
        model = model.with(constraint!(bytes <= (stage.room + extra) / GIB));
        let held: Expression = row.iter().copied().sum();
        model = model.with(constraint!(held >= 1.0));
    }
    let solution = model.solve()?;
    let values = counts.iter().map(|row| row.iter().map(|v| solution.value(*v)).collect()).collect();
    Ok((values, solution.value(slowest) / 1e3))
}

/// The best split of `layers`; `None` when none fits. Every stage holds at least one layer.
pub fn split(layers: u64, policies: &[Policy], stages: &[Stage]) -> Option<Split> {
    let (values, _) = solve(layers, policies, stages, 0.0, true).ok()?;
    let whole = |v: &f64| {
        let near = v.round();
        ((v - near).abs() < WHOLE * layers.max(1) as f64).then_some(near as u64)
    };
    let counts: Vec<Vec<u64>> =
        values.iter().map(|row| row.iter().map(whole).collect::<Option<_>>()).collect::<Option<_>>()?;
    let busy = |(stage, row): (&Stage, &Vec<u64>)| {
        stage.seconds + row.iter().zip(policies).map(|(c, p)| *c as f64 * p.seconds).sum::<f64>()
    };
    let slowest = stages.iter().zip(&counts).map(busy).fold(0.0, f64::max);
    Some(Split { counts, slowest })
}

/// Seconds that the slowest stage of the relaxed programme gains by one gibibyte more on every stage: the price of
/// memory. 0 where memory binds nowhere, `None` where nothing fits even then.
pub fn gibibyte(layers: u64, policies: &[Policy], stages: &[Stage]) -> Option<f64> {
    let now = solve(layers, policies, stages, 0.0, false).ok()?.1;
    let more = solve(layers, policies, stages, GIB, false).ok()?.1;
    Some((now - more).max(0.0))
}

/// Bytes that every stage lacks, at the least, for `layers` to fit: the elastic programme. 0 when they fit.
pub fn lacking(layers: u64, stages: &[Stage]) -> Option<f64> {
    let mut vars = ProblemVariables::new();
    let cheapest: Vec<f64> =
        stages.iter().map(|s| s.layer.iter().copied().fold(f64::INFINITY, f64::min) / GIB).collect();
    let counts: Vec<Variable> =
        stages.iter().map(|_| vars.add(variable().integer().min(1.0).max(layers as f64))).collect();
    let slack = vars.add(variable().min(0.0));
    let mut model = vars.minimise(slack).using(microlp);
    let all: Expression = counts.iter().copied().sum();
    model = model.with(constraint!(all == layers as f64));
    for ((stage, count), bytes) in stages.iter().zip(&counts).zip(&cheapest) {
        model = model.with(constraint!(*count * *bytes <= slack + stage.room / GIB));
    }
    model.solve().ok().map(|solution| solution.value(slack) * GIB)
}
