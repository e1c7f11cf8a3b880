//! Conversion to 8-bit floats with one scale a tensor.

use tch::{Kind, Tensor};

use super::elementwise::flat_block;
use super::{blocks, elements, load, require, scratch};
use crate::cuda;
use crate::error::Result;

const OP: &str = "quantise";

/// `scale` `[1]` f32 = largest |x| ÷ the format's largest value (1 for a tensor of zeros), `q` = x ÷ scale. The
/// largest values are 448 (e4m3) and 57,344 (e5m2): Micikevicius et al. 2022, arXiv 2209.05433, table 1. `turned`
/// gets the transpose of `q`. `most` is the largest |x| where that is known.
pub(super) fn quantise(
    x: &Tensor,
    most: Option<&Tensor>,
    q: &Tensor,
    turned: &Tensor,
    scale: &Tensor,
) -> Result<()> {
    let largest = match q.kind() {
        Kind::Float8e4m3fn => 448.0,
        Kind::Float8e5m2 => 57_344.0,
        other => return require(false, OP, || format!("output must be an 8-bit float, is {other:?}")),
    };
    if cuda::serves(x) && x.kind() != Kind::Float {
        if let Some(most) = most {
            return cuda::quantise::quantise(x, most, scale, Some(q), Some(turned));
        }
        let found = Tensor::f_zeros([1], (Kind::Float, x.device()))?;
        cuda::quantise::amax(x, &found)?;
        return cuda::quantise::quantise(x, &found, scale, Some(q), Some(turned));
    }
    let whole = q;
    let (x, q) = (x.f_view([-1])?, q.f_view([-1])?);
    let n = elements(&x);
    let step = flat_block(&x, Kind::Float);
    let mut scale = scale.f_view([1])?;
    match most {
        Some(most) => scale.f_copy_(most)?,
        None => magnitude(&x, &scale)?,
    }
    let work = scratch(&x, &[step], Kind::Float)?;
    let _ = scale.f_div_scalar_(largest)?;
    scale.f_copy_(&scale.f_where_self(&scale.f_gt(0.0)?, &scale.f_ones_like()?)?)?;
    for (start, len) in blocks(n, step) {
        let mut part = load(&work, &x.f_narrow(0, start, len)?)?;
        // Rounding may carry the largest element past the format's end, where e4m3 has no infinity but NaN.
        let _ = part.f_div_(&scale)?.f_clamp_(-largest, largest)?;
        q.f_narrow(0, start, len)?.f_copy_(&part)?;
    }
    // Copied as bytes: libtorch moves those on every device.
    let bytes = |t: &Tensor| t.f_view_dtype(Kind::Uint8);
    bytes(turned)?.f_copy_(&bytes(whole)?.f_transpose(0, 1)?)?;
    Ok(())
}

/// `most` `[1]` f32 = largest |x|.
pub(super) fn magnitude(x: &Tensor, most: &Tensor) -> Result<()> {
    let x = x.f_view([-1])?;
    let (n, step) = (elements(&x), flat_block(&x, Kind::Float));
    let work = scratch(&x, &[step], Kind::Float)?;
    let mut most = most.f_view([1])?;
    let _ = most.f_zero_()?;
    for (start, len) in blocks(n, step) {
        let peak = load(&work, &x.f_narrow(0, start, len)?)?.f_abs_()?.f_amax(0i64, true)?;
        most.f_copy_(&most.f_maximum(&peak)?)?;
    }
    Ok(())
}

/// A largest magnitude before the kernel that raises it.
pub(super) fn cleared(most: Option<&Tensor>) -> Result<Option<&Tensor>> {
    if let Some(most) = most {
        let _ = most.shallow_clone().f_zero_()?;
    }
    Ok(most)
}
