//! The order of calls: one step is every micro-batch's forward and backward, then the update.

use super::build::{Builder, call};
use super::{LowerError, Lowering, block, head, optimizer};
use crate::plan::Recompute;
use crate::program::SegmentId;

/// Writes every segment and the four call lists.
pub fn write(b: &mut Builder, l: &Lowering) -> Result<(), LowerError> {
    let blocks = l.params.block.all();
    let top = l.params.top();
    let layers: Vec<u64> = (l.shape.first_layer..l.shape.first_layer + l.shape.layers).collect();
    let after = l.shape.first_layer + l.shape.layers;

    let init_block = b.add(optimizer::init("init.block", &blocks))?;
    let init_top = b.add(optimizer::init("init.top", &top))?;
    let tables = b.add(optimizer::tables(l))?;
    b.program.init = [call(tables, 0, 0), call(init_top, 0, 0)].to_vec();
    b.program.init.extend(layers.iter().map(|layer| call(init_block, *layer, 0)));

    let begin = b.add(optimizer::begin(l))?;
    let zero_block = b.add(optimizer::zero("grads.zero.block", &blocks))?;
    let zero_top = b.add(optimizer::zero("grads.zero.top", &top))?;
    let load = b.add(head::load(l))?;
    let embed = b.add(head::embed_forward(l))?;
    let passes = passes(b, l)?;
    let loss = b.add(head::loss(l))?;
    let embed_backward = head::embed_backward(l).map(|draft| b.add(draft)).transpose()?;
    let norm_block = b.add(optimizer::norm(l, "norm.block", &blocks))?;
    let norm_top = b.add(optimizer::norm(l, "norm.top", &top))?;
    let clip = b.add(optimizer::clip(l))?;
    let optimize_block = b.add(optimizer::optimize(l, "optimize.block", &blocks))?;
    let optimize_top = b.add(optimizer::optimize(l, "optimize.top", &top))?;

    let mut step = vec![call(begin, 0, 0), call(zero_top, 0, 0)];
    step.extend(layers.iter().map(|layer| call(zero_block, *layer, 0)));
    for m in 0..l.shape.accumulation {
        step.extend([call(load, 0, m), call(embed, 0, m)]);
        step.extend(layers.iter().map(|layer| call(passes.forward, *layer, m)));
        step.push(call(loss, after, m));
        for layer in layers.iter().rev() {
            let segment = if *layer == 0 { passes.first } else { passes.backward };
            step.push(call(segment, *layer, m));
        }
        step.extend(embed_backward.map(|segment| call(segment, 0, m)));
    }
    step.extend(layers.iter().map(|layer| call(norm_block, *layer, 0)));
    step.extend([call(norm_top, 0, 0), call(clip, 0, 0)]);
    step.extend(layers.iter().map(|layer| call(optimize_block, *layer, 0)));
    step.push(call(optimize_top, 0, 0));
    b.program.step = step;

    let eval_begin = b.add(optimizer::eval_begin(l))?;
    let embed_eval = b.add(head::embed_eval(l))?;
    let block_eval = b.add(block::eval(l))?;
    let head_eval = b.add(head::eval(l))?;
    let mut eval = vec![call(eval_begin, 0, 0), call(load, 0, 0), call(embed_eval, 0, 0)];
    eval.extend(layers.iter().map(|layer| call(block_eval, *layer, 0)));
    eval.push(call(head_eval, after, 0));
    b.program.eval = eval;

    let save_block = b.add(optimizer::save("save.block", &blocks))?;
    let save_top = b.add(optimizer::save("save.top", &top))?;
    b.program.save = layers.iter().map(|layer| call(save_block, *layer, 0)).collect();
    b.program.save.push(call(save_top, 0, 0));
    Ok(())
}

/// Segments of a block under the plan's policy.
struct Passes {
    forward: SegmentId,
    backward: SegmentId,
    /// Backward of layer 0: another segment when the gradient stops there.
    first: SegmentId,
}

/// Writes the block under every policy, so that a pass over the program can change the policy of a layer by
/// changing its calls; returns the segments of the plan's.
fn passes(b: &mut Builder, l: &Lowering) -> Result<Passes, LowerError> {
    let stops = l.params.embed.gradient.is_none();
    let mut chosen = None;
    for policy in [Recompute::None, Recompute::Selective, Recompute::Full] {
        let forward = b.add(block::forward(l, policy))?;
        let backward = b.add(block::backward(l, policy, false))?;
        let first = if stops { b.add(block::backward(l, policy, true))? } else { backward };
        if policy == l.plan.layout.recompute {
            chosen = Some(Passes { forward, backward, first });
        }
    }
    chosen.ok_or(LowerError::Bug { place: "recompute".to_string(), reason: "is unknown".to_string() })
}
