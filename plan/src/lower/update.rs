//! The end of a step: gradient norm, clipping, optimizer.

use super::build::Builder;
use super::params::Param;
use super::schedule::{call, ring};
use super::{LowerError, Lowering, optimizer, transfer, units};
use crate::program::{Axis, Call, SegmentId};

/// Calls of the update.
pub fn write(b: &mut Builder, l: &Lowering) -> Result<Vec<Call>, LowerError> {
    let mut calls = norms(b, l)?;
    let clip = b.add(optimizer::clip(l))?;
    calls.push(call(clip, 0));
    let (blocks, top) = (l.params.block.all(), l.params.top());
    let block = Unit::write(b, l, "block", &blocks)?;
    let top = Unit::write(b, l, "top", &top)?;
    // In the order the next forward pass reads them, so that what is published hides behind it.
    let units = [(&top, 0)].into_iter().chain(l.shape.layers().into_iter().map(|layer| (&block, layer)));
    let units: Vec<(&Unit, u64)> = units.collect();
    // Optimizer tensors that live in host memory come in while the unit before is updated.
    let place = |(unit, layer): (&Unit, u64)| if std::ptr::eq(unit, &top) { None } else { Some(ring(layer)) };
    let mut fetched = 0;
    for (i, (unit, layer)) in units.iter().enumerate() {
        let ahead = units.get(i + 1).filter(|next| place(**next) != place((unit, *layer)));
        for (next, layer) in units.iter().take(i + 1 + usize::from(ahead.is_some())).skip(fetched) {
            calls.extend(next.fetch.map(|s| call(s, *layer)));
            fetched += 1;
        }
        for segment in [unit.optimize, unit.store, unit.publish] {
            calls.extend(segment.map(|s| call(s, *layer)));
        }
    }
    Ok(calls)
}

/// Σ g² after the first micro-batch: beside the sum over all of them it tells how much of a gradient is noise
/// (McCandlish et al. 2018, arXiv 1812.06162, appendix A.1). Empty on a step of one micro-batch, and where other ranks
/// hold a share of the gradient.
pub fn first_norms(b: &mut Builder, l: &Lowering) -> Result<Vec<Call>, LowerError> {
    let Some(sum) = l.acts.first_sq else { return Ok(Vec::new()) };
    let block = b.add_some(optimizer::norm("norm.first.block", &l.params.block.all(), sum))?;
    let top = b.add_some(optimizer::norm("norm.first.top", &l.params.top(), sum))?;
    let layers = l.shape.layers();
    let blocks = layers.iter().filter_map(|layer| block.map(|s| call(s, *layer)));
    Ok(blocks.chain(top.map(|s| call(s, 0))).collect())
}

/// Parameters that are updated together.
struct Unit {
    fetch: Option<SegmentId>,
    optimize: Option<SegmentId>,
    store: Option<SegmentId>,
    publish: Option<SegmentId>,
}

impl Unit {
    fn write(b: &mut Builder, l: &Lowering, name: &str, params: &[&Param]) -> Result<Unit, LowerError> {
        Ok(Unit {
            fetch: b.add_some(transfer::fetch_states(&format!("states.fetch.{name}"), params))?,
            optimize: b.add_some(optimizer::optimize(l, &format!("optimize.{name}"), params))?,
            store: b.add_some(transfer::store_states(&format!("states.store.{name}"), params))?,
            publish: b.add_some(units::publish(&format!("publish.{name}"), params, l.shape))?,
        })
    }
}

/// Σ g² over everything: what tensor ranks hold parts of is summed over them before what they all hold is
/// added once; shards and pipeline ranks hold different parts throughout.
fn norms(b: &mut Builder, l: &Lowering) -> Result<Vec<Call>, LowerError> {
    let (blocks, top) = (l.params.block.all(), l.params.top());
    let grad_sq = l.acts.grad_sq;
    let parallel = l.shape.tensor.0 > 1;
    let ([blocks, blocks_whole], [top, top_whole]) = [blocks, top]
        .map(|params| {
            let (parts, whole) = params.into_iter().partition(|p| !parallel || p.tensor_sharded);
            [parts, whole] as [Vec<&Param>; 2]
        })
        .into();
    let mut norm = |name: &str, params: &[&Param]| b.add_some(optimizer::norm(name, params, grad_sq));
    let (norm_blocks, norm_top) = (norm("norm.block", &blocks)?, norm("norm.top", &top)?);
    let (norm_blocks_whole, norm_top_whole) =
        (norm("norm.block.whole", &blocks_whole)?, norm("norm.top.whole", &top_whole)?);
    let over_parts =
        b.add_some(optimizer::sum("norm.reduce.tensor", &[grad_sq], &[Axis::Tensor], l.shape))?;
    let over_all =
        b.add_some(optimizer::sum("norm.reduce", &[grad_sq], &[Axis::Shard, Axis::Pipeline], l.shape))?;
    let layers = l.shape.layers();
    let each = |segment: Option<SegmentId>| {
        layers.iter().filter_map(move |layer| segment.map(|s| call(s, *layer))).collect::<Vec<Call>>()
    };
    let once = |segment: Option<SegmentId>| segment.map(|s| call(s, 0));
    let mut calls = each(norm_blocks);
    calls.extend(once(norm_top));
    calls.extend(once(over_parts));
    calls.extend(each(norm_blocks_whole));
    calls.extend(once(norm_top_whole));
    calls.extend(once(over_all));
    Ok(calls)
}
