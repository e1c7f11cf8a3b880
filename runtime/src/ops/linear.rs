//! Linear map without bias: `y = x·Wᵀ`, `W` `[m, k]` as Hugging Face stores it. One GEMM each.

use tch::{Kind, Tensor};

use super::{CHUNK_BYTES, chunks, expect_shape, is_math, load, math_bytes, math_kind, matrix, scratch};
use crate::error::Result;
use crate::shim;

const FORWARD: &str = "linear.forward";
const BACKWARD_INPUT: &str = "linear.backward_input";
const BACKWARD_WEIGHT: &str = "linear.backward_weight";

/// `y = x·Wᵀ` with `x` `[n, k]`, `weight` `[m, k]`, `y` `[n, m]`, all of one dtype.
pub fn forward(x: &Tensor, weight: &Tensor, y: &Tensor) -> Result<()> {
    let ((n, k), (m, _)) = (matrix(x, FORWARD)?, matrix(weight, FORWARD)?);
    expect_shape(weight, &[m, k], FORWARD, "weight")?;
    expect_shape(y, &[n, m], FORWARD, "y")?;
    shim::gemm(y, x, &weight.f_transpose(0, 1)?, 0.0, 1.0)
}

/// `dx = dy·W`, added to `dx` `[n, k]` when `accumulate`.
pub fn backward_input(dy: &Tensor, weight: &Tensor, dx: &Tensor, accumulate: bool) -> Result<()> {
    let ((n, m), (_, k)) = (matrix(dy, BACKWARD_INPUT)?, matrix(weight, BACKWARD_INPUT)?);
    expect_shape(weight, &[m, k], BACKWARD_INPUT, "weight")?;
    expect_shape(dx, &[n, k], BACKWARD_INPUT, "dx")?;
    shim::gemm(dx, dy, weight, if accumulate { 1.0 } else { 0.0 }, 1.0)
}

/// Peak temporary bytes of [`forward`] and [`backward_input`] on the CPU with a weight `[m, k]`: none in f32 and
/// f64. In bf16 an upper bound, because oneDNN's scratch depends on the CPU: a reordered weight and blocks of
/// both edges (measured on a Sapphire Rapids core, 2026-11, m and k up to 4,096: 10 KiB + 256·k bytes forward, up
/// to the weight's own bytes backward).
pub fn gemm_temporaries(m: i64, k: i64, kind: Kind) -> i64 {
    let padded = |x: i64| x.div_euclid(64) * 64 + 64;
    if is_math(kind) { 0 } else { 2 * padded(m) * padded(k) + 256 * (m + k) + 65_536 }
}

/// `dW += dyᵀ·x` into the accumulator `dw` `[m, k]` of the math dtype (f32 for bf16 operands).
pub fn backward_weight(dy: &Tensor, x: &Tensor, dw: &Tensor) -> Result<()> {
    let ((n, m), (_, k)) = (matrix(dy, BACKWARD_WEIGHT)?, matrix(x, BACKWARD_WEIGHT)?);
    expect_shape(x, &[n, k], BACKWARD_WEIGHT, "x")?;
    expect_shape(dw, &[m, k], BACKWARD_WEIGHT, "dw")?;
    if is_math(x.kind()) {
        return shim::gemm(dw, &dy.f_transpose(0, 1)?, x, 1.0, 1.0);
    }
    // The CPU has no bf16 GEMM with an f32 result: convert a block of rows at a time.
    let step = wide_rows(n, m, k);
    let dy_work = scratch(dy, &[step, m], math_kind(dy.kind()))?;
    let x_work = scratch(x, &[step, k], math_kind(x.kind()))?;
    for (start, rows) in chunks(n, step) {
        let dyc = load(&dy_work, &dy.f_narrow(0, start, rows)?)?;
        let xc = load(&x_work, &x.f_narrow(0, start, rows)?)?;
        shim::gemm(dw, &dyc.f_transpose(0, 1)?, &xc, 1.0, 1.0)?;
    }
    Ok(())
}

/// Rows converted at once: a GEMM with a short inner dimension rereads `dw` for every block, so this loop takes
/// four times the usual chunk.
fn wide_rows(n: i64, m: i64, k: i64) -> i64 {
    (4 * CHUNK_BYTES / ((m + k).max(1) * 4)).clamp(1, n.max(1))
}

/// Peak temporary bytes of [`backward_weight`] on the CPU: none in f32 and f64; in bf16 one f32 block of both.
pub fn backward_weight_temporaries(n: i64, m: i64, k: i64, kind: Kind) -> i64 {
    if is_math(kind) { 0 } else { wide_rows(n, m, k) * (m + k) * math_bytes(kind) }
}
