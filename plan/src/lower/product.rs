//! The three products of a block's matrix, in the compute format or in 8 bits.
//!
//! In 8 bits every operand is quantised once, both ways round: as it is for the product that reads it now, transposed
//! for the weight gradient. What is saved for the backward pass is the 8-bit transpose, half of what bf16 takes.

use super::Lowering;
use super::activations::{EIGHT, EightBits};
use super::build::Draft;
use super::params::{Eight, Param};
use super::shape::Shape;
use crate::op::{Gemm, Quantise};
use crate::program::Ref;

/// The 8-bit operands of a parameter's products: input, gradient of the output, weight.
pub fn eight(l: &Lowering, param: &Param) -> Option<[Eight; 3]> {
    let bits = l.acts.eight.as_ref()?;
    let at = EIGHT.iter().position(|name| *name == param.name)?;
    Some([*bits.inputs.get(at)?, *bits.gradients.get(at)?, param.eight?])
}

/// Where the op that makes a parameter's input leaves its largest magnitude; none outside 8 bits.
pub fn magnitude(l: &Lowering, param: &Param) -> Option<Ref> {
    at(l, param, |bits| &bits.input_magnitudes)
}

/// The same for the gradient of its output.
pub fn gradient_magnitude(l: &Lowering, param: &Param) -> Option<Ref> {
    at(l, param, |bits| &bits.gradient_magnitudes)
}

/// Where the ops that make the residual stream's gradient leave its largest magnitude.
pub fn residual_magnitude(l: &Lowering) -> Option<Ref> {
    l.acts.eight.as_ref()?.residual
}

fn at(l: &Lowering, param: &Param, of: fn(&EightBits) -> &[Option<Ref>; 4]) -> Option<Ref> {
    let at = EIGHT.iter().position(|name| *name == param.name)?;
    of(l.acts.eight.as_ref()?).get(at).copied().flatten()
}

/// Quantises, by the magnitude that is known or else by one it finds itself.
fn quantise(s: &mut Draft, x: Ref, magnitude: Option<Ref>, eight: &Eight) {
    s.op(Quantise {}, [x].into_iter().chain(magnitude), eight.all());
    s.free(magnitude);
}

/// y = x·Wᵀ, plus `added`. `keep`: the weight gradient will read what this leaves.
pub fn forward(
    l: &Lowering,
    s: &mut Draft,
    param: &Param,
    x: Ref,
    (y, added): (Ref, Option<Ref>),
    keep: bool,
) {
    let gemm = Gemm { add: added.is_some(), ..Gemm::FORWARD };
    let Some([input, _, weight]) = eight(l, param) else {
        return s.op(gemm, [x, param.read].into_iter().chain(added), [y]);
    };
    quantise(s, x, magnitude(l, param), &input);
    let operands = [input.whole, weight.whole, input.scale, weight.scale];
    s.op(gemm, operands.into_iter().chain(added), [y]);
    s.free([input.whole]);
    if !keep {
        s.free([input.turned, input.scale]);
    }
}

/// Quantises an input again for the weight gradient alone, and frees it; nothing outside 8 bits.
pub fn requantise(l: &Lowering, s: &mut Draft, param: &Param, x: Ref) {
    if let Some([input, ..]) = eight(l, param) {
        quantise(s, x, magnitude(l, param), &input);
        s.free([input.whole, x]);
    }
}

/// Quantises the gradient of an output, before the products that read it; nothing outside 8 bits.
pub fn quantise_gradient(l: &Lowering, s: &mut Draft, param: &Param, dy: Ref) {
    if let Some([_, gradient, _]) = eight(l, param) {
        quantise(s, dy, gradient_magnitude(l, param), &gradient);
        if param.gradient.is_none() {
            s.free([gradient.turned]);
        }
    }
}

/// Whether the products of a parameter begin its gradient's sum over the step. Where gradients are sharded, a sum of
/// one micro-batch passes through a ring with rows that no product writes.
pub fn begins(param: &Param, shape: &Shape) -> bool {
    shape.zero < 2 && EIGHT.contains(&param.name)
}

/// gW += dyᵀ·x. In 8 bits it frees what it read.
pub fn weight_gradient(l: &Lowering, s: &mut Draft, param: &Param, gradient: Ref, dy: Ref, x: Ref) {
    let begins = begins(param, l.shape);
    let Some([input, output, _]) = eight(l, param) else {
        return s.op(Gemm { begins, ..Gemm::WEIGHT_GRADIENT }, [dy, x], [gradient]);
    };
    let operands = [output.turned, input.turned, output.scale, input.scale];
    s.op(Gemm { begins, ..Gemm::WEIGHT_GRADIENT_8 }, operands, [gradient]);
    s.free([output.turned, input.turned, input.scale]);
}

/// dx = dy·W. In 8 bits the last reader of dy, which it frees.
pub fn input_gradient(l: &Lowering, s: &mut Draft, param: &Param, dy: Ref, dx: Ref) {
    let Some([_, output, weight]) = eight(l, param) else {
        return s.op(Gemm::INPUT_GRADIENT, [dy, param.read], [dx]);
    };
    s.op(Gemm::FORWARD, [output.whole, weight.turned, output.scale, weight.scale], [dx]);
    s.free([output.whole, output.scale]);
}

/// The weights of some parameters in 8 bits; empty where there are none.
pub fn quantise_weights(params: &[&Param]) -> Draft {
    let mut s = Draft::new("weights.quantise");
    for param in params {
        if let Some(eight) = param.eight {
            s.op(Quantise {}, [param.read], eight.all());
        }
    }
    s
}
