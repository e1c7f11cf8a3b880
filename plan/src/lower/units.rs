//! ZeRO: weights gathered before use, gradients reduced after it (Rajbhandari et al. 2020, arXiv 1910.02054).
//!
//! Stage 1 shards the optimizer, stage 2 the gradients too, stage 3 the weights too. Each unit (a block, the
//! embedding, the head) is gathered and reduced parameter by parameter, on streams of their own, so that the
//! next unit is on its way while one computes. Sums over replicas follow once a step.

use super::build::Draft;
use super::params::Param;
use super::shape::Shape;
use crate::op::{AllReduce, Gather, ReduceScatter};
use crate::program::{Axis, Ref};

/// Stream of what is gathered.
pub const GATHER: &str = "gather";
const REDUCE: &str = "reduce";

/// Gathered weights of some parameters: what their last reader frees.
pub fn gathered(params: &[&Param]) -> Vec<Ref> {
    params.iter().filter_map(|p| p.gathered).collect()
}

/// Gradient accumulators that pass through a ring: cleared before each use.
pub fn passing_gradients(params: &[&Param], shape: &Shape) -> Vec<Ref> {
    if shape.zero < 2 { Vec::new() } else { params.iter().filter_map(|p| p.gradient_whole()).collect() }
}

/// Fetches the whole weights of a unit; empty unless weights are sharded.
pub fn gather(name: &str, params: &[&Param]) -> Draft {
    let mut s = Draft::new(name);
    s.on(GATHER);
    for param in params {
        if let Some(gathered) = param.gathered {
            s.op(Gather { axis: Axis::Shard }, [param.weight], [gathered]);
        }
    }
    s
}

/// Adds a unit's gradients of one micro-batch to the owners' sums; empty unless gradients are sharded.
pub fn reduce(name: &str, params: &[&Param], shape: &Shape) -> Draft {
    let mut s = Draft::new(name);
    s.on(REDUCE);
    if shape.zero >= 2 {
        for (whole, owned) in params.iter().filter_map(|p| p.gradient_whole().zip(p.reduced)) {
            s.op(ReduceScatter { axis: Axis::Shard, accumulate: true }, [whole], [owned]);
            s.free([whole]);
        }
    }
    s
}

/// Completes a unit's gradients after the last micro-batch: to the owners under stage 1 (in place: a rank's
/// block of the sum replaces its block), then over everything that holds other tokens.
pub fn finish(name: &str, params: &[&Param], shape: &Shape) -> Draft {
    let mut s = Draft::new(name);
    s.on(REDUCE);
    for param in params {
        let Some((whole, owned)) = param.gradient_whole().zip(param.reduced) else { continue };
        if shape.zero == 1 {
            s.op(ReduceScatter { axis: Axis::Shard, accumulate: false }, [whole], [owned]);
        }
        for axis in [Axis::Tensor, Axis::Context, Axis::Replicate] {
            let same = axis == Axis::Tensor && param.tensor_sharded;
            if shape.size(axis) > 1 && !same {
                s.op(AllReduce { axis }, [], [owned]);
            }
        }
    }
    s
}

/// Hands updated blocks of whole weights to every rank; empty unless the optimizer alone is sharded.
pub fn publish(name: &str, params: &[&Param], shape: &Shape) -> Draft {
    let mut s = Draft::new(name);
    s.on(GATHER);
    if shape.zero == 1 || shape.zero == 2 {
        for param in params.iter().filter(|p| p.gradient.is_some()) {
            s.op(Gather { axis: Axis::Shard }, [param.own], [param.weight]);
        }
    }
    s
}
