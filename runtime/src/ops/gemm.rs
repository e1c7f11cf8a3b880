//! Dense matrix product: forward `x·Wᵀ`, input gradient `dy·W` and weight gradient `dyᵀ·x` are one op.

use llmc_plan::op::chunk;
use tch::Tensor;

use super::{backend, blocks, expect_shape, is_math, load, math_bytes, math_kind, matrix, require, scratch};
use super::{signed, unsigned};
use crate::error::Result;
use crate::shim;

const OP: &str = "gemm";

/// `c = op(a)·op(b)`, or `c += op(a)·op(b)` with the sum kept in c's dtype. Dtypes are equal, or c is wider and
/// `a` is transposed: the weight gradient of bf16 operands in an f32 accumulator.
pub(super) fn gemm(
    a: &Tensor,
    b: &Tensor,
    c: &Tensor,
    transpose_a: bool,
    transpose_b: bool,
    accumulate: bool,
) -> Result<()> {
    let (a_op, b_op) = (turned(a, transpose_a)?, turned(b, transpose_b)?);
    let ((m, k), (kb, n)) = (matrix(&a_op, OP)?, matrix(&b_op, OP)?);
    require(k == kb, OP, || format!("inner extents differ: {:?}, {:?}", a.size(), b.size()))?;
    expect_shape(c, &[m, n], OP, "c")?;
    let beta = if accumulate { 1.0 } else { 0.0 };
    if a.kind() == b.kind() && b.kind() == c.kind() {
        return shim::gemm(c, &a_op, &b_op, beta, 1.0);
    }
    let widens = a.kind() == b.kind() && !is_math(a.kind()) && c.kind() == math_kind(a.kind());
    require(widens && transpose_a && !transpose_b, OP, || {
        format!(
            "no product of {:?} and {:?} into {:?} with these transpositions",
            a.kind(),
            b.kind(),
            c.kind()
        )
    })?;
    // The CPU has no bf16 GEMM with an f32 result: convert a block of the inner extent at a time.
    let step =
        chunk::weight_gradient(backend(a), unsigned(k), unsigned(m), unsigned(n), math_bytes(a.kind()));
    let step = signed(step);
    let a_work = scratch(a, &[step, m], c.kind())?;
    let b_work = scratch(b, &[step, n], c.kind())?;
    for (start, rows) in blocks(k, step) {
        let ac = load(&a_work, &a.f_narrow(0, start, rows)?)?;
        let bc = load(&b_work, &b.f_narrow(0, start, rows)?)?;
        let beta = if start == 0 { beta } else { 1.0 };
        shim::gemm(c, &ac.f_transpose(0, 1)?, &bc, beta, 1.0)?;
    }
    Ok(())
}

fn turned(t: &Tensor, transpose: bool) -> Result<Tensor> {
    matrix(t, OP)?;
    if transpose { Ok(t.f_transpose(0, 1)?) } else { Ok(t.shallow_clone()) }
}
