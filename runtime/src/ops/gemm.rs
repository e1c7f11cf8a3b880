//! Dense matrix product: forward `x·Wᵀ`, input gradient `dy·W` and weight gradient `dyᵀ·x` are one op.

use llmc_plan::op::{Backend, Gemm, chunk};
use tch::{Kind, Tensor};

use super::{backend, blocks, expect_shape, is_math, load, math_kind, matrix, require, scratch};
use super::{signed, unsigned};
use crate::error::Result;
use crate::shim;

const OP: &str = "gemm";

/// `c = op(a)·op(b)`, or `c += op(a)·op(b)` with the sum kept in c's dtype. Dtypes are equal, or c is wider and
/// `a` alone is transposed: the weight gradient of bf16 operands in an f32 accumulator.
pub(super) fn gemm(op: &Gemm, a: &Tensor, b: &Tensor, c: &Tensor) -> Result<()> {
    let turned = |t: &Tensor, turn: bool| -> Result<Tensor> {
        matrix(t, OP)?;
        if turn { Ok(t.f_transpose(0, 1)?) } else { Ok(t.shallow_clone()) }
    };
    let (at, bt) = (turned(a, op.transpose_a)?, turned(b, op.transpose_b)?);
    let ((m, k), (kb, n)) = (matrix(&at, OP)?, matrix(&bt, OP)?);
    require(k == kb, OP, || format!("inner extents differ: {:?}, {:?}", a.size(), b.size()))?;
    expect_shape(c, &[m, n], OP, "c")?;
    let beta = if op.accumulate { 1.0 } else { 0.0 };
    let same = a.kind() == b.kind() && b.kind() == c.kind();
    let widens = a.kind() == b.kind() && !is_math(a.kind()) && c.kind() == math_kind(a.kind());
    require(same || widens && op.transpose_a && !op.transpose_b, OP, || {
        format!(
            "no product of {:?} and {:?} into {:?} with these transpositions",
            a.kind(),
            b.kind(),
            c.kind()
        )
    })?;
    if is_math(a.kind()) || backend(a) == Backend::Cuda {
        shim::gemm(c, &at, &bt, beta, 1.0)
    } else if same {
        narrow(&at, &bt, c, beta)
    } else {
        weight_gradient(a, b, c, beta)
    }
}

/// A product of narrow operands on the CPU, made in f32 and rounded once: tiles of `c` with whole inner extents.
fn narrow(at: &Tensor, bt: &Tensor, c: &Tensor, beta: f64) -> Result<()> {
    let ((m, k), (_, n)) = (matrix(at, OP)?, matrix(bt, OP)?);
    let (rows, columns) = chunk::narrow_gemm(backend(c), unsigned(m), unsigned(n), unsigned(k));
    let (rows, columns) = (signed(rows), signed(columns));
    let a_work = scratch(c, &[rows, k], Kind::Float)?;
    let b_work = scratch(c, &[columns, k], Kind::Float)?;
    let c_work = scratch(c, &[rows * columns], Kind::Float)?;
    for (left, columns) in blocks(n, columns) {
        let wide_b = load(&b_work, &bt.f_narrow(1, left, columns)?.f_transpose(0, 1)?)?.f_transpose(0, 1)?;
        for (top, rows) in blocks(m, rows) {
            let wide_a = load(&a_work, &at.f_narrow(0, top, rows)?)?;
            let mut tile = c.f_narrow(0, top, rows)?.f_narrow(1, left, columns)?;
            let mut wide_c = c_work.f_narrow(0, 0, rows * columns)?.f_view([rows, columns])?;
            if beta != 0.0 {
                wide_c.f_copy_(&tile)?;
            }
            shim::gemm(&wide_c, &wide_a, &wide_b, beta, 1.0)?;
            tile.f_copy_(&wide_c)?;
        }
    }
    Ok(())
}

/// `c (+)= aᵀ·b` of narrow operands into a wide `c` on the CPU, a block of the inner extent at a time.
fn weight_gradient(a: &Tensor, b: &Tensor, c: &Tensor, beta: f64) -> Result<()> {
    let ((k, m), (_, n)) = (matrix(a, OP)?, matrix(b, OP)?);
    let step = signed(chunk::weight_gradient(backend(a), unsigned(k), unsigned(m), unsigned(n), 4));
    let a_work = scratch(a, &[step, m], c.kind())?;
    let b_work = scratch(b, &[step, n], c.kind())?;
    for (start, rows) in blocks(k, step) {
        let wide_a = load(&a_work, &a.f_narrow(0, start, rows)?)?;
        let wide_b = load(&b_work, &b.f_narrow(0, start, rows)?)?;
        let beta = if start == 0 { beta } else { 1.0 };
        shim::gemm(c, &wide_a.f_transpose(0, 1)?, &wide_b, beta, 1.0)?;
    }
    Ok(())
}
