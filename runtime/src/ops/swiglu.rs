//! SwiGLU (Shazeer 2020, arXiv 2002.05202) on the packed product `gate_up` `[n, 2f]`: `out = silu(gate)·up`.

use llmc_plan::op::chunk;
use tch::{Kind, Tensor};

use super::quantise::{cleared, magnitude};
use super::{backend, blocks, expect_shape, is_math, load, math_bytes, math_kind, matrix, require, scratch};
use super::{signed, unsigned};
use crate::cuda;
use crate::error::Result;

const FORWARD: &str = "swiglu.forward";
const BACKWARD: &str = "swiglu.backward";

/// Rows of a block of the loops over `gate_up` `[n, 2f]`.
fn block_rows(gate_up: &Tensor, n: i64, f: i64) -> i64 {
    signed(chunk::swiglu(backend(gate_up), unsigned(n), unsigned(f), math_bytes(gate_up.kind())))
}

/// Half the columns of the packed matrix.
fn width(gate_up: &Tensor, op: &'static str) -> Result<(i64, i64)> {
    let (n, packed) = matrix(gate_up, op)?;
    require(packed % 2 == 0, op, || format!("gate_up must have an even width, found {packed}"))?;
    Ok((n, packed / 2))
}

/// `out` `[n, f]` = silu of the first half of `gate_up` `[n, 2f]` times its second half.
/// `most` `[1]` f32 gets the largest |out|.
pub(super) fn forward(gate_up: &Tensor, out: &Tensor, most: Option<&Tensor>) -> Result<()> {
    let (n, f) = width(gate_up, FORWARD)?;
    expect_shape(out, &[n, f], FORWARD, "out")?;
    if cuda::serves(gate_up) {
        return cuda::swiglu::forward(gate_up, out, cleared(most)?);
    }
    let kind = gate_up.kind();
    let step = block_rows(gate_up, n, f);
    let work = if is_math(kind) { None } else { Some(scratch(out, &[2, step, f], math_kind(kind))?) };
    for (start, rows) in blocks(n, step) {
        let packed = gate_up.f_narrow(0, start, rows)?;
        let (gate, up) = (packed.f_narrow(1, 0, f)?, packed.f_narrow(1, f, f)?);
        let mut oc = out.f_narrow(0, start, rows)?;
        match &work {
            None => {
                let _ = gate.f_silu_out(&oc)?;
                let _ = oc.f_mul_(&up)?;
            }
            Some(w) => {
                let mut g = load(&w.f_get(0)?, &gate)?;
                let u = load(&w.f_get(1)?, &up)?;
                let _ = g.f_silu_()?.f_mul_(&u)?;
                oc.f_copy_(&g)?;
            }
        }
    }
    drop(work);
    most.map_or(Ok(()), |most| magnitude(out, most))
}

/// `d_gate = dy·up·silu'(gate)` and `d_up = dy·silu(gate)` into `d_gate_up` `[n, 2f]`, which may be `gate_up`
/// itself. `dy` is `[n, f]`. `most` `[1]` f32 gets the largest magnitude of both.
pub(super) fn backward(
    dy: &Tensor,
    gate_up: &Tensor,
    d_gate_up: &Tensor,
    most: Option<&Tensor>,
) -> Result<()> {
    let (n, f) = width(gate_up, BACKWARD)?;
    expect_shape(dy, &[n, f], BACKWARD, "dy")?;
    expect_shape(d_gate_up, &[n, 2 * f], BACKWARD, "d_gate_up")?;
    if cuda::serves(gate_up) && d_gate_up.data_ptr() == gate_up.data_ptr() {
        return cuda::swiglu::backward(dy, gate_up, cleared(most)?);
    }
    let kind = gate_up.kind();
    let step = block_rows(gate_up, n, f);
    let work = scratch(dy, &[backward_buffers(kind), step, f], math_kind(kind))?;
    for (start, rows) in blocks(n, step) {
        let (packed, d_packed) = (gate_up.f_narrow(0, start, rows)?, d_gate_up.f_narrow(0, start, rows)?);
        let (mut gate, mut up) = (packed.f_narrow(1, 0, f)?, packed.f_narrow(1, f, f)?);
        let (mut d_gate, mut d_up) = (d_packed.f_narrow(1, 0, f)?, d_packed.f_narrow(1, f, f)?);
        let mut dyc = dy.f_narrow(0, start, rows)?;
        let mut a = work.f_get(0)?.f_narrow(0, 0, rows)?;
        let b = work.f_get(1)?.f_narrow(0, 0, rows)?;
        if is_math(kind) {
            let _ = gate.f_silu_out(&a)?;
            let _ = dyc.f_mul_out(&b, &up)?;
            let _ = dyc.f_mul_out(&d_up, &a)?;
            let _ = gate.f_silu_backward_grad_input(&d_gate, &b)?;
        } else {
            gate = load(&work.f_get(2)?, &gate)?;
            up = load(&b, &up)?;
            dyc = load(&work.f_get(3)?, &dyc)?;
            let _ = gate.f_silu_out(&a)?;
            let _ = a.f_mul_(&dyc)?;
            d_up.f_copy_(&a)?;
            let _ = dyc.f_mul_(&up)?;
            let _ = gate.f_silu_backward_grad_input(&a, &dyc)?;
            d_gate.f_copy_(&a)?;
        }
    }
    drop(work);
    most.map_or(Ok(()), |most| magnitude(d_gate_up, most))
}

fn backward_buffers(kind: Kind) -> i64 {
    if is_math(kind) { 2 } else { 4 }
}
