//! Dense matrix product: forward `x·Wᵀ`, input gradient `dy·W` and weight gradient `dyᵀ·x` are one op.

use llmc_plan::op::{Backend, Gemm, chunk};
use tch::{Kind, Tensor};

use super::{backend, blocks, elementwise, expect_shape, is_math, load, math_kind, matrix, require, scratch};
use super::{signed, unsigned};
use crate::cuda::blas::{self, Format, Shape};
use crate::error::Result;
use crate::shim;

const OP: &str = "gemm";

/// `c = op(a)·op(b)`, or `c += op(a)·op(b)` with the sum kept in c's dtype. Dtypes are equal, or c is wider and
/// `a` alone is transposed: the weight gradient of bf16 operands in an f32 accumulator. `rest`: of operands of 8 bits
/// (into bf16 or f32) their scales, then what is added.
pub(super) fn gemm(op: &Gemm, a: &Tensor, b: &Tensor, c: &Tensor, rest: &[Tensor]) -> Result<()> {
    let turned = |t: &Tensor, turn: bool| -> Result<Tensor> {
        matrix(t, OP)?;
        if turn { Ok(t.f_transpose(0, 1)?) } else { Ok(t.shallow_clone()) }
    };
    let (at, bt) = (turned(a, op.transpose_a)?, turned(b, op.transpose_b)?);
    let ((m, k), (kb, n)) = (matrix(&at, OP)?, matrix(&bt, OP)?);
    require(k == kb, OP, || format!("inner extents differ: {:?}, {:?}", a.size(), b.size()))?;
    expect_shape(c, &[m, n], OP, "c")?;
    let (scales, added) = match rest {
        [] => (None, None),
        [added] => (None, Some(added)),
        [of_a, of_b] => (Some([of_a, of_b]), None),
        [of_a, of_b, added] => (Some([of_a, of_b]), Some(added)),
        other => {
            return require(false, OP, || format!("takes 2 to 5 inputs, given {}", 2 + other.len()));
        }
    };
    require(added.is_some() == op.add, OP, || "what is added and the op do not agree".into())?;
    if let Some(added) = added {
        expect_shape(added, &[m, n], OP, "what is added")?;
        let fits = added.kind() == c.kind() && added.device() == c.device();
        require(fits, OP, || format!("what is added must be {:?} on {:?}", c.kind(), c.device()))?;
    }
    if backend(a) == Backend::Cuda
        && let Some(shape) = library_shape(op, (a, b, c), (m, n, k))
        && added.is_none_or(Tensor::is_contiguous)
    {
        return blas::matmul(&shape, (a, b), (added.unwrap_or(c), c), scales);
    }
    if let Some(added) = added {
        elementwise::copy(added, c)?;
    }
    let beta = if op.accumulate || op.add { 1.0 } else { 0.0 };
    if let Some(scales) = scales {
        return eight_bit(&at, &bt, c, beta, scales);
    }
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

/// What cuBLASLt is asked for; none where libtorch multiplies: f32 and f64, and rows that are not contiguous.
fn library_shape(
    op: &Gemm,
    (a, b, c): (&Tensor, &Tensor, &Tensor),
    (m, n, k): (i64, i64, i64),
) -> Option<Shape> {
    let dense = [a, b, c].iter().all(|t| t.is_contiguous());
    let [fa, fb, fc] = [Format::of(a.kind())?, Format::of(b.kind())?, Format::of(c.kind())?];
    (dense && fa != Format::F32).then(|| Shape {
        m: unsigned(m),
        n: unsigned(n),
        k: unsigned(k),
        transpose_a: op.transpose_a,
        transpose_b: op.transpose_b,
        accumulate: op.accumulate || op.add,
        a: fa,
        b: fb,
        c: fc,
    })
}

/// A product of 8-bit operands on the CPU, in f32.
fn eight_bit(at: &Tensor, bt: &Tensor, c: &Tensor, beta: f64, [of_a, of_b]: [&Tensor; 2]) -> Result<()> {
    let (wide_a, wide_b) = (at.f_to_kind(Kind::Float)?, bt.f_to_kind(Kind::Float)?);
    let scale = of_a.f_double_value(&[0])? * of_b.f_double_value(&[0])?;
    if c.kind() == Kind::Float {
        return shim::gemm(c, &wide_a, &wide_b, beta, scale);
    }
    let wide_c = c.f_to_kind(Kind::Float)?;
    shim::gemm(&wide_c, &wide_a, &wide_b, beta, scale)?;
    c.shallow_clone().f_copy_(&wide_c)?;
    Ok(())
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
