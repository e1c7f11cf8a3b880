//! Around the passes: initialisation, zeroing, gradient norm, clipping, the optimizer, checkpoints.

use super::Lowering;
use super::build::Draft;
use super::params::Param;
use super::product;
use super::shape::Shape;
use super::transfer;
use super::units::GATHER;
use crate::op::{
    AdjustScale, AllReduce, Clip, Copy, Fill, Gather, Initialise, Optimize, RopeTables, ScaleLoss, Snapshot,
    SquaredNorm, UnscaleNorms, Weights,
};
use crate::plan::DType;
use crate::program::{Axis, Ref};

/// A paged update runs beside the next step's first forward pass, which waits for it layer by layer.
const UPDATE: &str = "update";

/// Fills weights, masters, accumulators and states of some parameters. Masters are filled shard by shard and
/// gathered; weights without a master are filled whole: the values do not depend on who makes them.
pub fn init(name: &str, params: &[&Param], shape: &Shape) -> Draft {
    let mut s = Draft::new(name);
    for param in params {
        match (param.master, param.missing) {
            (None, None) => s.op(Initialise {}, [], [param.weight]),
            (None, Some(missing)) => {
                s.op(Initialise {}, [], [param.own, missing.work]);
                transfer::store(&mut s, missing);
                gather_own(&mut s, param);
            }
            (Some(master), _) => {
                // Made where the optimizer works on it: a host would take minutes for a large model.
                s.op(Initialise {}, [], [master.work]);
                s.op(Copy {}, [master.work], [param.own]);
                transfer::store(&mut s, master);
                gather_own(&mut s, param);
            }
        }
        let states = param.states.iter().map(|stored| stored.home);
        for filled in accumulator(param, shape).into_iter().chain(states) {
            s.op(Fill { value: 0.0 }, [], [filled]);
        }
    }
    s
}

/// Hands every rank's block of the initial weights to all.
fn gather_own(s: &mut Draft, param: &Param) {
    if param.own != param.weight {
        s.on_for(GATHER, |s| s.op(Gather { axis: Axis::Shard }, [param.own], [param.weight]));
    }
}

/// What sums up a parameter's gradient over a step.
fn accumulator(param: &Param, shape: &Shape) -> Option<Ref> {
    if shape.zero >= 2 { param.reduced } else { param.gradient_whole() }
}

/// Fills the tables.
pub fn tables(l: &Lowering) -> Draft {
    let mut s = Draft::new("init.tables");
    s.op(RopeTables { rope: l.plan.model.rope.clone() }, [], l.acts.rope);
    if let Some(scaled) = l.acts.loss_scale {
        s.op(Fill { value: AdjustScale::FIRST }, [], [scaled.scale]);
        s.op(Fill { value: 0.0 }, [], [scaled.good]);
    }
    s
}

/// Clears scalars that are summed up.
pub fn begin(name: &str, scalars: impl IntoIterator<Item = Ref>) -> Draft {
    let mut s = Draft::new(name);
    for scalar in scalars {
        s.op(Fill { value: 0.0 }, [], [scalar]);
    }
    s
}

/// Sums of losses.
pub fn losses(l: &Lowering) -> Vec<Ref> {
    [l.acts.loss_sum].into_iter().chain(l.acts.by_source.map(|s| s.loss)).collect()
}

/// As [`begin`] for a step, and the factor of its loss.
pub fn begin_step(l: &Lowering) -> Draft {
    let a = l.acts;
    let mut s = begin("step.begin", losses(l).into_iter().chain([a.grad_sq]).chain(a.first_sq));
    if let Some(scaled) = a.loss_scale {
        s.op(ScaleLoss {}, [a.inv_weight, scaled.scale], [scaled.weight]);
    }
    s
}

/// Clears gradient accumulators that no product begins.
pub fn zero(name: &str, params: &[&Param], shape: &Shape) -> Draft {
    let mut s = Draft::new(name);
    let cleared = params.iter().filter(|p| !product::begins(p, shape));
    for gradient in cleared.filter_map(|p| accumulator(p, shape)) {
        s.op(Fill { value: 0.0 }, [], [gradient]);
    }
    s
}

/// Adds the squared norms of gradients to a scalar.
pub fn norm(name: &str, params: &[&Param], sum: Ref) -> Draft {
    let mut s = Draft::new(name);
    for gradient in params.iter().filter_map(|p| p.reduced) {
        s.op(SquaredNorm {}, [gradient], [sum]);
    }
    s
}

/// Sums scalars over those of the axes that there are; empty when there is none.
pub fn sum(name: &str, scalars: &[Ref], axes: &[Axis], shape: &Shape) -> Draft {
    let mut s = Draft::new(name);
    for scalar in scalars {
        for axis in axes.iter().filter(|axis| shape.size(**axis) > 1) {
            s.op(AllReduce { axis: *axis }, [], [*scalar]);
        }
    }
    s
}

/// Clip divisor and skip flag from the squared norm. A paged update goes on while the next step begins: it gets the
/// learning rate and step number of its own step.
pub fn clip(l: &Lowering) -> Draft {
    let a = l.acts;
    let mut s = Draft::new("clip");
    if let Some(scaled) = a.loss_scale {
        s.op(UnscaleNorms {}, [scaled.scale], [a.grad_sq].into_iter().chain(a.first_sq));
    }
    let op = Clip { max_norm: l.plan.optimizer.clip };
    s.op(op, [a.grad_sq], [a.grad_scale, a.skip]);
    if let Some(scaled) = a.loss_scale {
        s.op(AdjustScale::CUSTOMARY, [a.skip], [a.grad_scale, scaled.scale, scaled.good]);
    }
    if let Some([lr, step, grad_scale, skip]) = a.applied {
        for (from, to) in [(a.lr, lr), (a.step, step), (a.grad_scale, grad_scale), (a.skip, skip)] {
            s.op(Copy {}, [from], [to]);
        }
    }
    s
}

/// Updates parameters.
pub fn optimize(l: &Lowering, name: &str, params: &[&Param]) -> Draft {
    let a = l.acts;
    let [lr, step, grad_scale, skip] = a.applied.unwrap_or([a.lr, a.step, a.grad_scale, a.skip]);
    let mut s = Draft::new(name);
    if a.applied.is_some() {
        s.on(UPDATE);
    }
    for param in params {
        let Some(gradient) = param.reduced else { continue };
        let updated = param.master.map_or(param.own, |master| master.work);
        let states = param.states.iter().map(|stored| stored.work);
        let last = param.master.map(|_| param.own).or(param.missing.map(|missing| missing.work));
        let outputs = [updated].into_iter().chain(states).chain(last);
        let op = settings(l, param);
        s.op(op, [gradient, lr, grad_scale, skip, step], outputs);
    }
    s
}

/// The optimizer op of one parameter.
fn settings(l: &Lowering, param: &Param) -> Optimize {
    let o = &l.plan.optimizer;
    Optimize {
        kind: o.kind,
        beta1: o.beta1,
        beta2: o.beta2,
        eps: o.eps,
        weight_decay: if param.decay { o.weight_decay } else { 0.0 },
        lr_multiplier: 1.0,
        weights: match (param.master, param.missing) {
            (Some(_), _) => Weights::Master,
            (None, Some(_)) => Weights::Split,
            (None, None) if l.shape.compute == DType::F32 => Weights::Whole,
            (None, None) => Weights::Stochastic,
        },
    }
}

/// Hands everything a resumed run needs to the checkpoint writer; a weight with a master is derived from it.
pub fn save(name: &str, params: &[&Param]) -> Draft {
    let mut s = Draft::new(name);
    let saved = params.iter().flat_map(|p| {
        let states = p.states.iter().map(|stored| stored.home);
        let missing = p.missing.map(|missing| missing.home);
        [p.master.map_or(p.own, |master| master.home)].into_iter().chain(missing).chain(states)
    });
    let saved: Vec<Ref> = saved.collect();
    if !saved.is_empty() {
        s.op(Snapshot {}, saved, []);
    }
    s
}
