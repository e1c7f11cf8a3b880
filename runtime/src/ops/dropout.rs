//! Dropout without a stored mask (Srivastava et al. 2014, scaled at training time).

use tch::Tensor;

use super::elementwise::flat_block;
use super::philox::Stream;
use super::{blocks, elements, is_math, math_kind, require, scratch, unsigned};
use crate::cuda;
use crate::error::Result;

const OP: &str = "dropout";

/// Multiplies `x` in place by 0 with probability `p`, else by 1/(1 − p). Element `i` of `x` is element
/// `first + i` of `stream`, so the backward pass is the same call on the gradient.
pub(super) fn dropout(x: &Tensor, p: f64, stream: &Stream, first: u64) -> Result<()> {
    require((0.0..1.0).contains(&p), OP, || format!("probability must be in [0, 1), is {p}"))?;
    // A word below the threshold drops its element.
    let threshold = (p * 4_294_967_296.0) as u32;
    let kept = (1.0 / (1.0 - p)) as f32;
    if cuda::serves(x) {
        return cuda::flat::dropout(x, stream, first, threshold, kept);
    }
    let kind = math_kind(x.kind());
    let flat = x.f_view([-1])?;
    let n = elements(&flat);
    let step = flat_block(&flat, kind);
    let wide = if is_math(x.kind()) { None } else { Some(scratch(x, &[step], kind)?) };
    let (mut words, mut factors) = (Vec::new(), Vec::new());
    for (start, len) in blocks(n, step) {
        words.resize(usize::try_from(len).unwrap_or(0), 0);
        stream.words(first.wrapping_add(unsigned(start)), &mut words);
        factors.clear();
        factors.extend(words.iter().map(|w| if *w < threshold { 0.0 } else { kept }));
        let factor = Tensor::f_from_slice::<f32>(&factors)?.f_to_device(x.device())?;
        let mut part = flat.f_narrow(0, start, len)?;
        match &wide {
            None => {
                let _ = part.f_mul_(&factor)?;
            }
            Some(wide) => {
                let mut product = super::load(wide, &part)?;
                let _ = product.f_mul_(&factor)?;
                part.f_copy_(&product)?;
            }
        }
    }
    Ok(())
}
