//! RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467): `out = x · rstd · w`, `rstd = 1/√(mean(x²) + ε)`.

use llmc_plan::op::chunk;
use tch::{Kind, Tensor};

use super::elementwise;
use super::quantise::{cleared, magnitude};
use super::{backend, blocks, expect_shape, in_math, is_math, load, math_bytes, math_kind, matrix, scratch};
use super::{element_bytes, signed, unsigned};
use crate::cuda;
use crate::error::Result;

const FORWARD: &str = "norm.forward";
const BACKWARD: &str = "norm.backward";
const BACKWARD_INPUT: &str = "norm.backward_input";
const BACKWARD_WEIGHT: &str = "norm.backward_weight";

/// Rows of a block of the loops over `x` `[n, h]`.
fn block_rows(x: &Tensor, n: i64, h: i64) -> i64 {
    signed(chunk::norm(backend(x), unsigned(n), unsigned(h), math_bytes(x.kind())))
}

/// Normalises `x` `[n, h]` with `weight` `[h]` into `out` `[n, h]`; keeps `rstd` `[n]` (math dtype) for backward.
/// `most` `[1]` f32 gets the largest |out|.
pub(super) fn forward(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    out: &Tensor,
    rstd: &Tensor,
    most: Option<&Tensor>,
) -> Result<()> {
    let (n, h) = matrix(x, FORWARD)?;
    expect_shape(weight, &[h], FORWARD, "weight")?;
    expect_shape(out, &[n, h], FORWARD, "out")?;
    expect_shape(rstd, &[n], FORWARD, "rstd")?;
    if cuda::serves(x) {
        return cuda::norm::forward(x, None, weight, eps, out, rstd, cleared(most)?);
    }
    let step = block_rows(x, n, h);
    let direct = is_math(x.kind());
    let weight = in_math(weight)?;
    let work = if direct { None } else { Some(scratch(x, &[2, step, h], math_kind(x.kind()))?) };
    for (start, rows) in blocks(n, step) {
        let (xc, oc) = (x.f_narrow(0, start, rows)?, out.f_narrow(0, start, rows)?);
        let mut r = rstd.f_narrow(0, start, rows)?.f_view([rows, 1])?;
        let (xm, mut om) = match &work {
            None => (xc, oc.shallow_clone()),
            Some(w) => (load(&w.f_get(0)?, &xc)?, w.f_get(1)?.f_narrow(0, 0, rows)?),
        };
        let _ = xm.f_square_out(&om)?;
        let _ = om.f_mean_out(&r, 1i64, true, None)?;
        let _ = r.f_add_scalar_(eps)?.f_rsqrt_()?;
        let _ = xm.f_mul_out(&om, &r)?;
        let _ = om.f_mul_(&weight)?;
        if work.is_some() {
            oc.shallow_clone().f_copy_(&om)?;
        }
    }
    drop((work, weight));
    most.map_or(Ok(()), |most| magnitude(out, most))
}

/// [`forward`] of `sum`, which gets `x + b` first, rounded to its format: the two ops one after the other, in one pass
/// where there is a kernel.
pub(super) fn add_forward(
    (x, b, sum): (&Tensor, &Tensor, &Tensor),
    weight: &Tensor,
    eps: f64,
    out: &Tensor,
    rstd: &Tensor,
    most: Option<&Tensor>,
) -> Result<()> {
    if cuda::serves(x) {
        return cuda::norm::forward(x, Some((b, sum)), weight, eps, out, rstd, cleared(most)?);
    }
    elementwise::add(x, b, sum)?;
    forward(sum, weight, eps, out, rstd, most)
}

/// Both gradients: [`backward_weight`] and [`backward_input`] in one pass where there is a kernel.
pub(super) fn backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    rstd: &Tensor,
    (dx, dw): (&Tensor, &Tensor),
    accumulate: bool,
    most: Option<&Tensor>,
) -> Result<()> {
    let (_, h) = matrix(x, BACKWARD)?;
    if cuda::serves(x) && chunk::norm_fits(unsigned(h), unsigned(element_bytes(x))) {
        return cuda::norm::backward(dy, x, weight, rstd, (dx, dw), accumulate, cleared(most)?);
    }
    backward_weight(dy, x, rstd, dw)?;
    backward_input(dy, x, weight, rstd, dx, accumulate)?;
    most.map_or(Ok(()), |most| magnitude(dx, most))
}

/// Gradient with respect to the input, with `a = dy·w` and `k = mean(a·x)·rstd²`: `dx = rstd·a − x·k·rstd`.
/// Written to `dx` `[n, h]`, or added to it when `accumulate` (the residual branch that joins here).
pub(super) fn backward_input(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    rstd: &Tensor,
    dx: &Tensor,
    accumulate: bool,
) -> Result<()> {
    let (n, h) = matrix(x, BACKWARD_INPUT)?;
    expect_shape(dy, &[n, h], BACKWARD_INPUT, "dy")?;
    expect_shape(weight, &[h], BACKWARD_INPUT, "weight")?;
    expect_shape(rstd, &[n], BACKWARD_INPUT, "rstd")?;
    expect_shape(dx, &[n, h], BACKWARD_INPUT, "dx")?;
    let kind = x.kind();
    let step = block_rows(x, n, h);
    let weight = in_math(weight)?;
    let work = scratch(x, &[backward_buffers(kind), step, h], math_kind(kind))?;
    let k = scratch(x, &[step, 1], math_kind(kind))?;
    for (start, rows) in blocks(n, step) {
        let r = rstd.f_narrow(0, start, rows)?.f_view([rows, 1])?;
        let xc = x.f_narrow(0, start, rows)?;
        let dyc = dy.f_narrow(0, start, rows)?;
        let mut dxc = dx.f_narrow(0, start, rows)?;
        let mut a = work.f_get(0)?.f_narrow(0, 0, rows)?;
        let mut p = work.f_get(1)?.f_narrow(0, 0, rows)?;
        let xm = if is_math(kind) {
            let _ = dyc.f_mul_out(&a, &weight)?;
            xc
        } else {
            a.f_copy_(&dyc)?;
            let _ = a.f_mul_(&weight)?;
            load(&work.f_get(2)?, &xc)?
        };
        let mut k = k.f_narrow(0, 0, rows)?;
        let _ = a.f_mul_out(&p, &xm)?;
        let _ = p.f_mean_out(&k, 1i64, true, None)?;
        let _ = k.f_mul_(&r)?.f_mul_(&r)?;
        let _ = xm.f_mul_out(&p, &k)?;
        let _ = a.f_sub_(&p)?;
        let _ = a.f_mul_(&r)?;
        match (accumulate, is_math(kind)) {
            (false, _) => dxc.f_copy_(&a)?,
            (true, true) => {
                let _ = dxc.f_add_(&a)?;
            }
            (true, false) => {
                p.f_copy_(&dxc)?;
                let _ = a.f_add_(&p)?;
                dxc.f_copy_(&a)?;
            }
        }
    }
    Ok(())
}

fn backward_buffers(kind: Kind) -> i64 {
    if is_math(kind) { 2 } else { 3 }
}

/// Adds the weight gradient `Σ_rows dy·x·rstd` to `dw` `[h]` (math dtype).
pub(super) fn backward_weight(dy: &Tensor, x: &Tensor, rstd: &Tensor, dw: &Tensor) -> Result<()> {
    let (n, h) = matrix(x, BACKWARD_WEIGHT)?;
    expect_shape(dy, &[n, h], BACKWARD_WEIGHT, "dy")?;
    expect_shape(rstd, &[n], BACKWARD_WEIGHT, "rstd")?;
    expect_shape(dw, &[h], BACKWARD_WEIGHT, "dw")?;
    let kind = x.kind();
    let step = block_rows(x, n, h);
    let buffers = if is_math(kind) { 1 } else { 2 };
    let work = scratch(x, &[buffers, step, h], math_kind(kind))?;
    let mut dw = dw.shallow_clone();
    for (start, rows) in blocks(n, step) {
        let (dyc, xc) = (dy.f_narrow(0, start, rows)?, x.f_narrow(0, start, rows)?);
        let mut p = work.f_get(0)?.f_narrow(0, 0, rows)?;
        if is_math(kind) {
            let _ = dyc.f_mul_out(&p, &xc)?;
        } else {
            p.f_copy_(&dyc)?;
            let _ = p.f_mul_(&load(&work.f_get(1)?, &xc)?)?;
        }
        let _ = dw.f_addmv_(&p.f_transpose(0, 1)?, &rstd.f_narrow(0, start, rows)?)?;
    }
    Ok(())
}
