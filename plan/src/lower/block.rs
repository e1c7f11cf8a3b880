//! One decoder block: forward, backward and evaluation, under each recompute policy.
//!
//! Arithmetic is the same, instruction by instruction, under every policy: only what is freed and redone
//! differs, so losses and gradients are bit-equal.

use super::Lowering;
use super::attention;
use super::build::Draft;
use super::params::Param;
use super::{product, units};
use crate::op::{
    Add, AddNorm, Copy, Dropout, Fill, Gather, NormBackward, NormBackwardInput, NormBackwardWeight,
    NormForward, ReduceScatter, SwigluBackward, SwigluForward,
};
use crate::plan::Recompute;
use crate::program::{Axis, Ref};

/// For what the forward is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Forward of training. `kept`: the block input stays for the backward pass.
    Train { policy: Recompute, kept: bool },
    /// Again in the backward pass, up to the feed-forward's activation; keeps what backward reads.
    Redo,
    /// Forward without dropout, nothing kept.
    Eval,
}

/// Forward of a training step; keeps what the policy says, and the block input if it does not wait in host
/// memory.
pub fn forward(l: &Lowering, policy: Recompute, kept: bool) -> Draft {
    let suffix = if kept { "" } else { ".offload" };
    let mut draft = Draft::new(format!("block.forward.{}{suffix}", policy_name(policy)));
    let acts = l.acts.under(policy, false);
    pass(&Lowering { acts: &acts, ..*l }, &mut draft, Pass::Train { policy, kept });
    draft.free(units::gathered(&l.params.block.all()));
    draft
}

/// Forward of a validation micro-batch, in the buffers of the training step's under a policy.
pub fn eval(l: &Lowering, policy: Recompute) -> Draft {
    let mut draft = Draft::new(match policy {
        Recompute::None => "block.eval".to_string(),
        _ => format!("block.eval.{}", policy_name(policy)),
    });
    let acts = l.acts.under(policy, false);
    pass(&Lowering { acts: &acts, ..*l }, &mut draft, Pass::Eval);
    draft.free(units::gathered(&l.params.block.all()));
    draft
}

/// Suffix of a policy in segment names.
pub fn policy_name(policy: Recompute) -> &'static str {
    match policy {
        Recompute::None => "none",
        Recompute::Selective => "selective",
        Recompute::Full => "full",
    }
}

fn pass(l: &Lowering, s: &mut Draft, pass: Pass) {
    let (a, w) = (l.acts, &l.params.block);
    let norm = NormForward { eps: l.plan.model.norm_eps };
    let eval = pass == Pass::Eval;
    let policy = match pass {
        Pass::Train { policy, .. } => policy,
        Pass::Redo => Recompute::None,
        Pass::Eval => Recompute::Full,
    };
    // What is given up at its last reader in this pass: inputs of weight gradients unless one will read them,
    // and everything but the block input when the policy redoes the block.
    let redone = policy == Recompute::Full;
    let eight_bit = l.acts.eight.is_some();
    let unread = |p: &Param| p.gradient.is_none() || policy != Recompute::None;
    let redone_norm = |reader: &Param| policy == Recompute::Selective && reader.gradient.is_some();
    let drop = |s: &mut Draft, when: bool, refs: &[Ref]| {
        if when {
            s.free(refs.iter().copied());
        }
    };

    let normed = [a.n1, a.rstd1].into_iter().chain(product::magnitude(l, &w.qkv));
    s.op(norm.clone(), [a.x, w.norm1.read], normed);
    let input = widen(l, s, a.n1);
    attention::project(l, s, input, !unread(&w.qkv));
    release_wide(l, s, input);
    drop(s, unread(&w.qkv) || eight_bit, &[a.n1]);
    drop(s, redone || redone_norm(&w.qkv), &[a.rstd1]);
    attention::forward(l, s);
    drop(s, redone, &attention::saved(l));
    // The output is kept under every policy but `full`: attention's backward pass reads it too.
    let apart = apart(l, eval);
    project(l, s, a.o, &w.o, (!apart).then_some((a.x2, a.x)), w.o.gradient.is_some() && !redone);
    drop(s, redone, &[a.o]);
    let normed = [a.n2, a.rstd2].into_iter().chain(product::magnitude(l, &w.gate_up));
    if apart {
        dropout(l, s, !eval, "attention", a.branch);
        let sum_and_normed = [a.x2].into_iter().chain(normed);
        s.op(AddNorm { eps: norm.eps }, [a.x, a.branch, w.norm2.read], sum_and_normed);
        s.free([a.branch]);
    } else {
        s.op(norm, [a.x2, w.norm2.read], normed);
    }
    drop(s, eval || matches!(pass, Pass::Train { kept: false, .. }), &[a.x]);
    let input = widen(l, s, a.n2);
    product::forward(l, s, &w.gate_up, input, (a.gate_up, None), !unread(&w.gate_up));
    release_wide(l, s, input);
    drop(s, unread(&w.gate_up) || eight_bit, &[a.n2]);
    drop(s, redone || redone_norm(&w.gate_up), &[a.rstd2]);
    if pass == Pass::Redo {
        return;
    }
    s.op(SwigluForward {}, [a.gate_up], [a.act].into_iter().chain(product::magnitude(l, &w.down)));
    drop(s, redone, &[a.gate_up]);
    let next = a.x.at_layer(1);
    project(l, s, a.act, &w.down, (!apart).then_some((next, a.x2)), !unread(&w.down));
    drop(s, unread(&w.down) || eight_bit, &[a.act]);
    if apart {
        dropout(l, s, !eval, "ffn", a.branch);
        s.op(Add {}, [a.x2, a.branch], [next]);
        s.free([a.branch]);
    }
    drop(s, redone, &[a.x2]);
}

/// Backward under a policy. `first`: nothing below is trained, so the gradient stops here.
///
/// Gives the backward pass and, where weight gradients are deferred, a second segment with them.
pub fn backward(l: &Lowering, policy: Recompute, first: bool) -> (Draft, Option<Draft>) {
    let suffix = if first { ".first" } else { "" };
    let name = |pass: &str| format!("block.{pass}.{}{suffix}", policy_name(policy));
    let later = l.shape.deferred.then(|| Draft::new(name("weight")));
    let acts = l.acts.under(policy, true);
    let l = &Lowering { acts: &acts, ..*l };
    let mut b = Backward { l, s: Draft::new(name("backward")), later };
    let (a, w) = (l.acts, &l.params.block);

    for passing in units::passing_gradients(&w.all(), l.shape) {
        b.s.op(Fill { value: 0.0 }, [], [passing]);
    }
    b.s.recompute(true);
    if policy == Recompute::Full {
        pass(l, &mut b.s, Pass::Redo);
    }
    if policy != Recompute::None && w.down.gradient.is_some() {
        let product = [a.act].into_iter().chain(product::magnitude(l, &w.down));
        b.s.op(SwigluForward {}, [a.gate_up], product);
        product::requantise(l, &mut b.s, &w.down, a.act);
    }
    b.s.recompute(false);

    let dy = b.branch(&w.down, "ffn", a.dy_ffn);
    let dy_wide = widen(l, &mut b.s, dy);
    product::quantise_gradient(l, &mut b.s, &w.down, dy_wide);
    b.weight(&w.down, (dy, dy_wide), a.act, &[a.act], &[dy]);
    product::input_gradient(l, &mut b.s, &w.down, dy_wide, a.dact);
    release_wide(l, &mut b.s, dy_wide);
    b.release(&w.down, dy);
    let replaced = [a.gate_up].into_iter().chain(product::gradient_magnitude(l, &w.gate_up));
    b.s.op(SwigluBackward {}, [a.dact], replaced);
    b.s.free([a.dact]);
    b.redo_norm(policy, &w.gate_up, [a.x2, w.norm2.read], [a.n2, a.rstd2]);
    product::quantise_gradient(l, &mut b.s, &w.gate_up, a.gate_up);
    b.weight(&w.gate_up, (a.gate_up, a.gate_up), a.n2, &[a.n2], &[a.gate_up]);
    b.narrow(|s, dn| product::input_gradient(l, s, &w.gate_up, a.gate_up, dn));
    b.done_with(&w.gate_up, &[a.gate_up]);
    b.norm(&w.norm2, [a.dn, a.x2, a.rstd2], Some(a.dres));
    b.s.free([a.dn, a.x2, a.rstd2]);

    let dy = b.branch(&w.o, "attention", a.dy_attention);
    let dy_wide = widen(l, &mut b.s, dy);
    product::quantise_gradient(l, &mut b.s, &w.o, dy_wide);
    b.weight(&w.o, (dy, dy_wide), a.o, &[], &[dy, a.o]);
    product::input_gradient(l, &mut b.s, &w.o, dy_wide, a.d_o);
    release_wide(l, &mut b.s, dy_wide);
    b.release(&w.o, dy);
    attention::backward(l, &mut b.s);
    b.done_with(&w.o, &[a.o]);
    b.redo_norm(policy, &w.qkv, [a.x, w.norm1.read], [a.n1, a.rstd1]);
    for dqkv in attention::gradients(l) {
        product::quantise_gradient(l, &mut b.s, &w.qkv, dqkv);
    }
    b.qkv_weight();
    if !first || w.norm1.gradient.is_some() {
        b.narrow(|s, dn| attention::input_gradient(l, s, dn));
        b.norm(&w.norm1, [a.dn, a.x, a.rstd1], (!first).then_some(a.dres));
        b.s.free([a.dn]);
    } else if let Some([_, gradient, _]) = product::eight(l, &w.qkv) {
        b.s.free([gradient.whole, gradient.scale]);
    }
    b.done_with(&w.qkv, &attention::gradients(l));
    b.s.free([a.x, a.rstd1]);
    if first {
        b.s.free([a.dres, a.positions, a.cu_seqlens]);
    }
    b.s.free(units::gathered(&w.all()));
    (b.s, b.later)
}

/// A backward pass under construction.
struct Backward<'a> {
    l: &'a Lowering<'a>,
    s: Draft,
    /// Weight gradients, where they run apart.
    later: Option<Draft>,
}

impl Backward<'_> {
    /// Whether a parameter's weight gradient runs later, and reads what this pass leaves.
    fn deferred(&self, param: &Param) -> bool {
        self.later.is_some() && param.gradient.is_some()
    }

    /// Gradient of a residual branch's output: `dres` itself, or a copy where dropout changes it or a deferred
    /// weight gradient reads it after `dres` has moved on.
    fn branch(&mut self, param: &Param, site: &str, copy: Ref) -> Ref {
        let dres = self.l.acts.dres;
        if self.l.plan.model.dropout == 0.0 && !self.deferred(param) {
            return dres;
        }
        self.s.op(Copy {}, [dres], [copy]);
        dropout(self.l, &mut self.s, true, site, copy);
        copy
    }

    /// The branch's gradient is done with, unless it is `dres` or read later.
    fn release(&mut self, param: &Param, dy: Ref) {
        if dy != self.l.acts.dres {
            self.done_with(param, &[dy]);
        }
    }

    /// Frees here what a deferred weight gradient of the parameter would free.
    fn done_with(&mut self, param: &Param, refs: &[Ref]) {
        if !self.deferred(param) {
            self.s.free(refs.iter().copied());
        }
    }

    /// gW += dyᵀ·x unless frozen, now or later; frees `always` after it, and `held` too when it is later.
    /// `dy` is given as it is kept and as it is used: all tokens of it.
    fn weight(&mut self, param: &Param, (dy, used): (Ref, Ref), x: Ref, always: &[Ref], held: &[Ref]) {
        let (l, later) = (self.l, self.later.is_some());
        let Some(gradient) = param.gradient else { return };
        let s = self.later.as_mut().unwrap_or(&mut self.s);
        let again = later && dy != used;
        let dy = if again { widen(l, s, dy) } else { used };
        let split = x == l.acts.n2;
        let x = if split { widen(l, s, x) } else { x };
        product::weight_gradient(l, s, param, gradient, dy, x);
        if again || split {
            s.free(l.acts.wide);
        }
        if l.acts.eight.is_none() {
            s.free(always.iter().copied());
        }
        if later {
            s.free(held.iter().copied());
        }
    }

    /// The same for the projection of queries, keys and values.
    fn qkv_weight(&mut self) {
        let (l, a) = (self.l, self.l.acts);
        let Some(gradient) = l.params.block.qkv.gradient else { return };
        let later = self.later.is_some();
        let s = self.later.as_mut().unwrap_or(&mut self.s);
        let n = widen(l, s, a.n1);
        attention::weight_gradient(l, s, gradient, n);
        release_wide(l, s, n);
        if l.acts.eight.is_none() {
            s.free([a.n1]);
        }
        if later {
            s.free(attention::gradients(l));
        }
    }

    /// Under `selective`, the norm again, right before the weight gradient that reads it.
    fn redo_norm(&mut self, policy: Recompute, reader: &Param, inputs: [Ref; 2], outputs: [Ref; 2]) {
        if policy == Recompute::Selective && reader.gradient.is_some() {
            self.s.recompute(true);
            let known = product::magnitude(self.l, reader);
            let outputs_and = outputs.into_iter().chain(known);
            self.s.op(NormForward { eps: self.l.plan.model.norm_eps }, inputs, outputs_and);
            product::requantise(self.l, &mut self.s, reader, outputs[0]);
            self.s.recompute(false);
        }
    }

    /// Backward of a norm from [dy, x, rstd]: its weight's gradient unless frozen, and dx added to `dx`.
    fn norm(&mut self, param: &Param, [dy, x, rstd]: [Ref; 3], dx: Option<Ref>) {
        norm_backward(self.l, &mut self.s, param, [dy, x, rstd], dx.map(|dx| (dx, true)));
    }

    /// Lets `write` fill the gradient of a norm's output: partial sums over tensor ranks are reduced to this
    /// rank's rows.
    fn narrow(&mut self, write: impl FnOnce(&mut Draft, Ref)) {
        let dn = self.l.acts.dn;
        match self.l.acts.wide {
            None => write(&mut self.s, dn),
            Some(wide) => {
                write(&mut self.s, wide);
                self.s.op(ReduceScatter { axis: Axis::Tensor, accumulate: false }, [wide], [dn]);
                self.s.free([wide]);
            }
        }
    }
}

/// Whether a residual branch is made apart from the stream it joins: dropout changes it, or it comes in parts from the
/// tensor ranks. Else the product that ends it adds the stream itself.
fn apart(l: &Lowering, eval: bool) -> bool {
    l.acts.wide.is_some() || !eval && l.plan.model.dropout > 0.0
}

/// The projection that ends a residual branch: into the first of `joined`, the second added, or into `branch`, where
/// partial sums over tensor ranks are reduced to this rank's rows. `keep`: the weight gradient will read `x`.
fn project(l: &Lowering, s: &mut Draft, x: Ref, param: &Param, joined: Option<(Ref, Ref)>, keep: bool) {
    if let Some((sum, stream)) = joined {
        return product::forward(l, s, param, x, (sum, Some(stream)), keep);
    }
    let branch = l.acts.branch;
    product::forward(l, s, param, x, (l.acts.wide.unwrap_or(branch), None), keep);
    if let Some(wide) = l.acts.wide {
        s.op(ReduceScatter { axis: Axis::Tensor, accumulate: false }, [wide], [branch]);
        s.free([wide]);
    }
}

/// Backward of a norm from [dy, x, rstd]: its weight's gradient unless frozen, and dx if asked for, written or added
/// to. One op where both are wanted: it reads dy and x once.
pub fn norm_backward(
    l: &Lowering,
    s: &mut Draft,
    param: &Param,
    [dy, x, rstd]: [Ref; 3],
    dx: Option<(Ref, bool)>,
) {
    match (param.gradient, dx) {
        (Some(gradient), Some((dx, accumulate))) => {
            let outputs = [dx, gradient].into_iter().chain(product::residual_magnitude(l));
            s.op(NormBackward { accumulate }, [dy, x, param.read, rstd], outputs);
        }
        (Some(gradient), None) => s.op(NormBackwardWeight {}, [dy, x, rstd], [gradient]),
        (None, Some((dx, accumulate))) => {
            s.op(NormBackwardInput { accumulate }, [dy, x, param.read, rstd], [dx]);
        }
        (None, None) => {}
    }
}

/// All tokens of a tensor of which this rank holds its rows.
pub fn widen(l: &Lowering, s: &mut Draft, x: Ref) -> Ref {
    let Some(wide) = l.acts.wide else { return x };
    s.op(Gather { axis: Axis::Tensor }, [x], [wide]);
    wide
}

/// Frees the result of [`widen`], if it is not the tensor itself.
fn release_wide(l: &Lowering, s: &mut Draft, x: Ref) {
    if l.acts.wide == Some(x) {
        s.free([x]);
    }
}

/// Dropout in place, if the plan has any and the pass wants it.
pub fn dropout(l: &Lowering, s: &mut Draft, on: bool, site: &str, x: Ref) {
    let p = l.plan.model.dropout;
    if on && p > 0.0 {
        s.op(Dropout { p, site: site.to_string() }, [], [x]);
    }
}
