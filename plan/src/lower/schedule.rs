//! The order of calls: every micro-batch's passes as the pipeline orders them, then the update.
//!
//! Prefetch is a matter of order: what the next unit needs is issued before the present one computes, on its
//! own stream. Events follow from what is read and written ([`crate::sync`]).

use super::build::{Builder, Draft};
use super::params::{Param, RING};
use super::pipeline::{Action, Pass};
use super::shape::Chunk;
use super::{LowerError, Lowering, block, head, optimizer, product, transfer, units, update};
use crate::plan::Recompute;
use crate::program::{Axis, Call, SegmentId};

/// Writes every segment and the four call lists.
pub fn write(b: &mut Builder, l: &Lowering) -> Result<(), LowerError> {
    let (blocks, top, layers) = (l.params.block.all(), l.params.top(), l.shape.layers());
    let each = |segment: Option<SegmentId>| {
        layers.iter().filter_map(move |layer| segment.map(|s| call(s, *layer))).collect::<Vec<Call>>()
    };
    let once = |segment: Option<SegmentId>| segment.map(|s| call(s, 0));

    let tables = b.add_some(optimizer::tables(l))?;
    let init_top = b.add_some(optimizer::init("init.top", &top, l.shape))?;
    let init_block = b.add_some(optimizer::init("init.block", &blocks, l.shape))?;
    b.program.init = once(tables).into_iter().chain(once(init_top)).chain(each(init_block)).collect();

    let begin = b.add_some(optimizer::begin_step(l))?;
    let zero_top = b.add_some(optimizer::zero("grads.zero.top", &top, l.shape))?;
    let zero_block = b.add_some(optimizer::zero("grads.zero.block", &blocks, l.shape))?;
    let segments = Segments::write(b, l)?;
    let quantise = b.add_some(product::quantise_weights(&blocks))?;
    let mut step: Vec<Call> = once(begin).into_iter().chain(once(zero_top)).collect();
    // A paged update still reads the gradients while the next forward pass runs: cleared before the backward pass.
    let late = if l.acts.applied.is_some() { zero_block } else { None };
    step.extend(each(zero_block.filter(|_| late.is_none())));
    step.extend(each(quantise));
    let first_norms = update::first_norms(b, l)?;
    step.extend(gathered_ahead(passes(l, &segments, late, &first_norms)));
    // Tensor ranks all have the loss of the same tokens.
    let everywhere = [Axis::Context, Axis::Shard, Axis::Replicate, Axis::Pipeline];
    let loss_sum = b.add_some(optimizer::sum("loss.reduce", &optimizer::losses(l), &everywhere, l.shape))?;
    step.extend(once(loss_sum));
    step.extend(update::write(b, l)?);
    b.program.step = step;

    let eval_begin = b.add_some(optimizer::begin("eval.begin", optimizer::losses(l)))?;
    let mut eval: Vec<Call> = once(eval_begin).into_iter().collect();
    eval.extend(each(quantise));
    eval.extend(gathered_ahead(evaluation(l, &segments)));
    eval.extend(once(loss_sum));
    b.program.eval = eval;

    let save_block = b.add_some(optimizer::save("save.block", &blocks))?;
    let save_top = b.add_some(optimizer::save("save.top", &top))?;
    b.program.save = each(save_block).into_iter().chain(once(save_top)).collect();
    Ok(())
}

/// A call in slot 0 of micro-batch 0.
pub fn call(segment: SegmentId, layer: u64) -> Call {
    Call { segment, layer, micro_batch: 0, slot: 0 }
}

/// Position in a ring buffer of what belongs to a layer.
pub fn ring(layer: u64) -> u64 {
    layer % RING
}

/// Segments of the passes; none where this rank has no such thing.
struct Segments {
    load: SegmentId,
    embed: Option<SegmentId>,
    embed_eval: Option<SegmentId>,
    embed_backward: Option<SegmentId>,
    head: Option<SegmentId>,
    head_eval: Option<SegmentId>,
    /// By policy.
    blocks: [(Recompute, Block); 3],
    /// By policy; the first alone where all use the same buffers.
    block_eval: Vec<(Recompute, SegmentId)>,
    receive_forward: Option<SegmentId>,
    send_forward: Option<SegmentId>,
    send_eval: Option<SegmentId>,
    receive_backward: Option<SegmentId>,
    send_backward: Option<SegmentId>,
    /// Of the first run of layers: the rank is done with the micro-batch.
    send_backward_last: Option<SegmentId>,
    offload: Option<SegmentId>,
    fetch: Option<SegmentId>,
    embed_unit: Unit,
    block_unit: Unit,
    head_unit: Unit,
}

/// A block's passes under one recompute policy.
#[derive(Clone, Copy)]
struct Block {
    forward: SegmentId,
    /// Forward of a block whose input waits in host memory.
    forward_offload: SegmentId,
    backward: SegmentId,
    weight: Option<SegmentId>,
    /// The same for layer 0 when the gradient stops there.
    first_backward: SegmentId,
    first_weight: Option<SegmentId>,
}

/// What ZeRO and data parallelism do with the parameters of a unit.
#[derive(Clone, Copy)]
struct Unit {
    gather: Option<SegmentId>,
    reduce: Option<SegmentId>,
    finish: Option<SegmentId>,
}

impl Unit {
    /// `owned`: whose gradients are complete after this unit's backward pass (a tied head's are not).
    fn write(
        b: &mut Builder,
        l: &Lowering,
        name: &str,
        params: &[&Param],
        owned: &[&Param],
    ) -> Result<Unit, LowerError> {
        Ok(Unit {
            gather: b.add_some(units::gather(&format!("gather.{name}"), params))?,
            reduce: b.add_some(units::reduce(&format!("reduce.{name}"), params, l.shape))?,
            finish: b.add_some(units::finish(&format!("finish.{name}"), owned, l.shape))?,
        })
    }
}

impl Segments {
    fn write(b: &mut Builder, l: &Lowering) -> Result<Segments, LowerError> {
        let p = l.params;
        let pipeline = l.shape.size(Axis::Pipeline) > 1;
        let runs = l.shape.chunks.len();
        let (embeds, has_head) = l.shape.ends;
        let some = |b: &mut Builder, draft: Option<Draft>| draft.map(|d| b.add(d)).transpose();
        let receives = pipeline && (!embeds || runs > 1);
        let sends = pipeline && (!has_head || runs > 1);
        let host = l.acts.x_host;
        Ok(Segments {
            load: b.add(head::load(l))?,
            embed: some(b, head::embed_forward(l))?,
            blocks: block_passes(b, l)?,
            head: some(b, head::loss(l))?,
            embed_backward: some(b, head::embed_backward(l))?,
            embed_eval: some(b, head::embed_eval(l))?,
            block_eval: block_evals(b, l)?,
            head_eval: some(b, head::eval(l))?,
            receive_forward: some(b, receives.then(|| transfer::receive_forward(l)))?,
            send_forward: some(b, sends.then(|| transfer::send_forward(l, false)))?,
            send_eval: some(b, sends.then(|| transfer::send_forward(l, true)))?,
            receive_backward: some(b, sends.then(|| transfer::receive_backward(l)))?,
            send_backward: some(b, receives.then(|| transfer::send_backward(l, false)))?,
            send_backward_last: some(b, receives.then(|| transfer::send_backward(l, true)))?,
            offload: some(b, host.map(|host| transfer::offload(l, host)))?,
            fetch: some(b, host.map(|host| transfer::fetch(l, host)))?,
            embed_unit: Unit::write(b, l, "embed", &p.embed_unit(), &p.embed_unit())?,
            block_unit: Unit::write(b, l, "block", &p.block.all(), &p.block.all())?,
            head_unit: Unit::write(b, l, "head", &p.head_unit(), &p.head_owned())?,
        })
    }
}

/// Writes the block under every policy, also those of no layer: a pass over the program can change the policy of a
/// layer by changing its calls.
fn block_passes(b: &mut Builder, l: &Lowering) -> Result<[(Recompute, Block); 3], LowerError> {
    let stops = l.params.embed.as_ref().is_some_and(|embed| embed.gradient.is_none());
    let mut passes = |policy| {
        let forward = b.add(block::forward(l, policy, true))?;
        let forward_offload = if l.shape.offload_activations && policy == Recompute::Full {
            b.add(block::forward(l, policy, false))?
        } else {
            forward
        };
        let mut add = |(pass, weight): (Draft, Option<Draft>)| -> Result<_, LowerError> {
            let weight = weight.filter(|w| !w.is_empty());
            Ok((b.add(pass)?, weight.map(|w| b.add(w)).transpose()?))
        };
        let (backward, weight) = add(block::backward(l, policy, false))?;
        let (first_backward, first_weight) =
            if stops { add(block::backward(l, policy, true))? } else { (backward, weight) };
        Ok((policy, Block { forward, forward_offload, backward, weight, first_backward, first_weight }))
    };
    Ok([passes(Recompute::None)?, passes(Recompute::Selective)?, passes(Recompute::Full)?])
}

fn block_evals(b: &mut Builder, l: &Lowering) -> Result<Vec<(Recompute, SegmentId)>, LowerError> {
    let all = [Recompute::None, Recompute::Selective, Recompute::Full];
    let apart = if l.shape.deferred { all.as_slice() } else { &all[..1] };
    apart.iter().map(|policy| Ok((*policy, b.add(block::eval(l, *policy))?))).collect()
}

/// Calls that belong together, and what must be gathered before them.
struct Item {
    /// Gathers, and where to: a name for the buffers it fills.
    needs: Option<(Call, Place)>,
    calls: Vec<Call>,
}

/// Buffers that gathered weights pass through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Embedding or head.
    Vocabulary,
    /// The position of a block in the ring.
    Ring(u64),
}

/// Puts each gather before the unit before the one that needs it, unless both pass through the same buffers.
fn gathered_ahead(items: Vec<Item>) -> Vec<Call> {
    let needs: Vec<(Call, Place)> = items.iter().filter_map(|item| item.needs).collect();
    let (mut unit, mut gathered) = (0, 0);
    let mut calls = Vec::new();
    for item in items {
        if let Some((_, place)) = item.needs {
            unit += 1;
            let ahead = needs.get(unit).is_some_and(|(_, next)| *next != place);
            let until = unit + usize::from(ahead);
            calls.extend(needs.iter().take(until).skip(gathered).map(|(call, _)| *call));
            gathered = gathered.max(until);
        }
        calls.extend(item.calls);
    }
    calls
}

/// Writes the calls of one list.
struct Writer<'a> {
    l: &'a Lowering<'a>,
    s: &'a Segments,
    /// Clears a block's gradients before the first backward pass.
    zero: Option<SegmentId>,
    /// Of the pass that is written.
    slot: u64,
    items: Vec<Item>,
}

impl Writer<'_> {
    fn call(&self, segment: SegmentId, layer: u64, micro_batch: u64) -> Call {
        Call { segment, layer, micro_batch, slot: self.slot }
    }

    /// A layer's passes.
    fn passes(&self, layer: u64) -> Block {
        let [(_, none), rest @ ..] = &self.s.blocks;
        let policy = self.l.shape.policy(layer);
        *rest.iter().find(|(p, _)| *p == policy).map_or(none, |(_, block)| block)
    }

    /// Calls without weights.
    fn plain(&mut self, segment: Option<SegmentId>, layer: u64, m: u64) {
        let calls = segment.map(|s| self.call(s, layer, m)).into_iter().collect();
        self.items.push(Item { needs: None, calls });
    }

    /// Calls with the weights of a unit.
    fn with(&mut self, unit: Unit, place: Place, segment: Option<SegmentId>, layer: u64, m: u64) {
        let Some(segment) = segment else { return };
        let needs = unit.gather.map(|gather| (self.call(gather, layer, m), place));
        self.items.push(Item { needs, calls: vec![self.call(segment, layer, m)] });
    }

    fn block(&mut self, segment: SegmentId, layer: u64, m: u64) {
        self.with(self.s.block_unit, Place::Ring(ring(layer)), Some(segment), layer, m);
    }

    /// Gradients of a unit after its backward pass.
    fn reduce(&mut self, unit: Unit, layer: u64, m: u64) {
        self.plain(unit.reduce, layer, m);
        self.finish(unit, layer, m);
    }

    fn finish(&mut self, unit: Unit, layer: u64, m: u64) {
        let last = self.l.shape.actions.iter().map(|a| a.micro_batch).max();
        if last == Some(m) {
            self.plain(unit.finish, layer, m);
        }
    }

    fn forward(&mut self, run: usize, chunk: Chunk, m: u64) {
        let s = self.s;
        if run == 0 {
            self.plain(Some(s.load), 0, m);
        }
        if chunk.first == 0 {
            self.with(s.embed_unit, Place::Vocabulary, s.embed, 0, m);
        } else {
            self.plain(s.receive_forward, chunk.first, m);
        }
        for layer in chunk.range() {
            // The last block's input is needed again at once.
            let stays = layer + 1 == chunk.after();
            self.plain(s.offload.filter(|_| !stays), layer, m);
            let block = self.passes(layer);
            self.block(if stays { block.forward } else { block.forward_offload }, layer, m);
        }
        if chunk.after() < self.l.plan.model.layers {
            self.plain(s.send_forward, chunk.after(), m);
        }
    }

    fn backward(&mut self, run: usize, chunk: Chunk, m: u64) {
        let s = self.s;
        if chunk.after() == self.l.plan.model.layers {
            self.with(s.head_unit, Place::Vocabulary, s.head, chunk.after(), m);
            self.reduce(s.head_unit, chunk.after(), m);
        } else {
            self.plain(s.receive_backward, chunk.after(), m);
        }
        for layer in chunk.range().rev() {
            if layer > chunk.first {
                self.plain(s.fetch, layer - 1, m);
            }
            if m == 0 {
                self.plain(self.zero, layer, m);
            }
            let block = self.passes(layer);
            self.block(if layer == 0 { block.first_backward } else { block.backward }, layer, m);
            if !self.l.shape.deferred {
                self.reduce(s.block_unit, layer, m);
            }
        }
        if chunk.first == 0 {
            self.plain(s.embed_backward, 0, m);
            self.reduce(s.embed_unit, 0, m);
        } else {
            self.plain(if run == 0 { s.send_backward_last } else { s.send_backward }, chunk.first, m);
        }
    }

    fn weight(&mut self, chunk: Chunk, m: u64) {
        for layer in chunk.range().rev() {
            let block = self.passes(layer);
            self.plain(if layer == 0 { block.first_weight } else { block.weight }, layer, m);
            self.finish(self.s.block_unit, layer, m);
        }
    }

    fn eval(&mut self, run: usize, chunk: Chunk) {
        let s = self.s;
        if run == 0 {
            self.plain(Some(s.load), 0, 0);
        }
        if chunk.first == 0 {
            self.with(s.embed_unit, Place::Vocabulary, s.embed_eval, 0, 0);
        } else {
            self.plain(s.receive_forward, chunk.first, 0);
        }
        for layer in chunk.range() {
            let policy = self.l.shape.policy(layer);
            let known = s.block_eval.iter().find(|(p, _)| *p == policy).or(s.block_eval.first());
            if let Some((_, segment)) = known {
                self.block(*segment, layer, 0);
            }
        }
        if chunk.after() == self.l.plan.model.layers {
            self.with(s.head_unit, Place::Vocabulary, s.head_eval, chunk.after(), 0);
        } else {
            let last = run + 1 == self.l.shape.chunks.len();
            self.plain(if last { s.send_eval } else { s.send_forward }, chunk.after(), 0);
        }
    }
}

/// All passes of a step, `after_first` behind those of the first micro-batch.
fn passes(l: &Lowering, s: &Segments, zero: Option<SegmentId>, after_first: &[Call]) -> Vec<Item> {
    let mut writer = Writer { l, s, zero, slot: 0, items: Vec::new() };
    for Action { pass, chunk: run, micro_batch, slot } in &l.shape.actions {
        let run = *run as usize;
        let Some(chunk) = l.shape.chunks.get(run).copied() else { continue };
        writer.slot = *slot;
        match pass {
            Pass::Forward => writer.forward(run, chunk, *micro_batch),
            Pass::Backward => {
                writer.backward(run, chunk, *micro_batch);
                if *micro_batch == 0 {
                    writer.items.push(Item { needs: None, calls: after_first.to_vec() });
                }
            }
            Pass::Weight => writer.weight(chunk, *micro_batch),
        }
    }
    writer.items
}

/// The passes of a validation micro-batch.
fn evaluation(l: &Lowering, s: &Segments) -> Vec<Item> {
    let mut writer = Writer { l, s, zero: None, slot: 0, items: Vec::new() };
    for (run, chunk) in l.shape.chunks.iter().enumerate() {
        writer.eval(run, *chunk);
    }
    writer.items
}
