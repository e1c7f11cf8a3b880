//! The global gradient norm and the clip factor, both as device scalars.

use tch::{Kind, Tensor};

use super::elementwise::flat_block;
use super::{blocks, elements, load, scratch};
use crate::cuda;
use crate::error::Result;

/// Adds Σ g² to `squared` `[1]` f32. Squares and sums are made in f64.
pub(crate) fn squared_norm(gradient: &Tensor, squared: &Tensor) -> Result<()> {
    if cuda::serves(gradient) {
        return cuda::flat::squared_norm(gradient, squared);
    }
    let flat = gradient.f_view([-1])?;
    let step = flat_block(&flat, Kind::Double);
    let work = scratch(gradient, &[step], Kind::Double)?;
    let mut total = Tensor::f_zeros([1], (Kind::Double, gradient.device()))?;
    for (start, len) in blocks(elements(&flat), step) {
        let wide = load(&work, &flat.f_narrow(0, start, len)?)?;
        let _ = total.f_add_(&wide.f_dot(&wide)?)?;
    }
    let _ = squared.shallow_clone().f_add_(&total)?;
    Ok(())
}

/// `scale` `[1]` = max(1, norm/max_norm), by which gradients are divided (1 when `max_norm` is 0: never clip);
/// `skip` `[1]` = 1 when the norm is not finite, else 0. Pascanu et al. 2013, arXiv 1211.5063.
pub(super) fn clip(squared: &Tensor, max_norm: f64, scale: &Tensor, skip: &Tensor) -> Result<()> {
    let (mut scale, mut skip) = (scale.shallow_clone(), skip.shallow_clone());
    skip.f_copy_(&squared.f_isfinite()?.f_logical_not()?)?;
    if max_norm > 0.0 {
        let _ = squared.f_sqrt_out(&scale)?;
        let _ = scale.f_div_scalar_(max_norm)?.f_clamp_min_(1.0)?;
    } else {
        let _ = scale.f_fill_(1.0)?;
    }
    Ok(())
}
