//! Around the passes: initialisation, zeroing, gradient norm, clipping, the optimizer, checkpoints.

use super::Lowering;
use super::build::Draft;
use super::params::Param;
use crate::op::{Clip, Copy, Fill, Initialise, Optimize, RopeTables, Snapshot, SquaredNorm};
use crate::plan::Plan;

/// Fills weights, masters and states of some parameters.
pub fn init(name: &str, params: &[&Param]) -> Draft {
    let mut s = Draft::new(name);
    for param in params {
        match param.master {
            Some(master) => {
                s.op(Initialise {}, [], [master]);
                s.op(Copy {}, [master], [param.weight]);
            }
            None => s.op(Initialise {}, [], [param.weight]),
        }
        for filled in param.gradient.iter().chain(&param.states) {
            s.op(Fill { value: 0.0 }, [], [*filled]);
        }
    }
    s
}

/// Fills the tables.
pub fn tables(l: &Lowering) -> Draft {
    let mut s = Draft::new("init.tables");
    s.op(RopeTables { rope: l.plan.model.rope.clone() }, [], l.acts.rope);
    s
}

/// Clears what a step sums up.
pub fn begin(l: &Lowering) -> Draft {
    let mut s = Draft::new("step.begin");
    for scalar in [l.acts.loss_sum, l.acts.grad_sq] {
        s.op(Fill { value: 0.0 }, [], [scalar]);
    }
    s
}

/// Clears what an evaluation sums up.
pub fn eval_begin(l: &Lowering) -> Draft {
    let mut s = Draft::new("eval.begin");
    s.op(Fill { value: 0.0 }, [], [l.acts.loss_sum]);
    s
}

/// Clears gradient accumulators.
pub fn zero(name: &str, params: &[&Param]) -> Draft {
    let mut s = Draft::new(name);
    for gradient in params.iter().filter_map(|p| p.gradient) {
        s.op(Fill { value: 0.0 }, [], [gradient]);
    }
    s
}

/// Adds the squared norms of gradients.
pub fn norm(l: &Lowering, name: &str, params: &[&Param]) -> Draft {
    let mut s = Draft::new(name);
    for gradient in params.iter().filter_map(|p| p.gradient) {
        s.op(SquaredNorm {}, [gradient], [l.acts.grad_sq]);
    }
    s
}

/// Clip divisor and skip flag from the squared norm.
pub fn clip(l: &Lowering) -> Draft {
    let mut s = Draft::new("clip");
    let op = Clip { max_norm: l.plan.optimizer.clip };
    s.op(op, [l.acts.grad_sq], [l.acts.grad_scale, l.acts.skip]);
    s
}

/// Updates parameters.
pub fn optimize(l: &Lowering, name: &str, params: &[&Param]) -> Draft {
    let a = l.acts;
    let mut s = Draft::new(name);
    for param in params {
        let Some(gradient) = param.gradient else { continue };
        let updated = param.master.unwrap_or(param.weight);
        let copy = param.master.map(|_| param.weight);
        let outputs = [updated].into_iter().chain(param.states.iter().copied()).chain(copy);
        let op = settings(l.plan, param);
        s.op(op, [gradient, a.lr, a.grad_scale, a.skip, a.step], outputs);
    }
    s
}

/// The optimizer op of one parameter.
fn settings(plan: &Plan, param: &Param) -> Optimize {
    let o = &plan.optimizer;
    Optimize {
        kind: o.kind,
        beta1: o.beta1,
        beta2: o.beta2,
        eps: o.eps,
        weight_decay: if param.decay { o.weight_decay } else { 0.0 },
        lr_multiplier: 1.0,
        master: param.master.is_some(),
    }
}

/// Hands everything a resumed run needs to the checkpoint writer; a weight with a master is derived from it.
pub fn save(name: &str, params: &[&Param]) -> Draft {
    let mut s = Draft::new(name);
    let saved =
        params.iter().flat_map(|p| [p.master.unwrap_or(p.weight)].into_iter().chain(p.states.clone()));
    let saved: Vec<_> = saved.collect();
    s.op(Snapshot {}, saved, []);
    s
}
