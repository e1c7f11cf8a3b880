//! Op executors: plain functions over tensors, forward and backward written out by hand.
//!
//! Callers hold a no-grad guard. Results land in the given output tensors (views into an arena), never in new
//! ones. What an op allocates on the way lives until it returns at most, and the `*_temporaries` function beside
//! it gives the peak in bytes on the CPU, leaving out scalars (under 4 KiB together). Row loops keep working sets
//! near [`CHUNK_BYTES`], which also keeps them in cache. Reductions have a fixed order: equal inputs, shapes
//! and thread count give equal bits.
//!
//! `math` dtype below: what an op computes in, f32 for f32 and bf16 operands, f64 for f64.
//!
//! Not here: which op runs when, what buffer it uses (the `Program`), CUDA kernels.

use tch::{Kind, Tensor};

use crate::error::{Error, Result};

pub mod linear;
pub mod norm;
pub mod residual;
pub mod swiglu;

/// Working set that a row loop aims at: half of a server core's L2 cache.
pub const CHUNK_BYTES: i64 = 1 << 20;

/// The dtype an op computes in for operands of `kind`: f64 for f64, else f32.
pub fn math_kind(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}

/// Bytes of one element of the math dtype.
pub fn math_bytes(kind: Kind) -> i64 {
    size_of_kind(math_kind(kind))
}

/// Bytes of one element.
pub fn size_of_kind(kind: Kind) -> i64 {
    i64::try_from(kind.elt_size_in_bytes()).unwrap_or(i64::MAX)
}

/// Whether operands of `kind` are computed on directly, without a converted copy.
pub fn is_math(kind: Kind) -> bool {
    kind == math_kind(kind)
}

/// Rows a chunk holds when a row takes `row_bytes` of working set: at least 1, at most `rows`.
pub fn chunk_rows(rows: i64, row_bytes: i64) -> i64 {
    (CHUNK_BYTES / row_bytes.max(1)).clamp(1, rows.max(1))
}

/// `(start, length)` of consecutive chunks of `step` over `total`.
pub fn chunks(total: i64, step: i64) -> impl Iterator<Item = (i64, i64)> {
    let step = step.max(1);
    std::iter::successors(Some(0), move |at| Some(at + step))
        .take_while(move |at| *at < total)
        .map(move |at| (at, step.min(total - at)))
}

/// Uninitialised scratch beside `like`.
pub(crate) fn scratch(like: &Tensor, shape: &[i64], kind: Kind) -> Result<Tensor> {
    Ok(Tensor::f_empty(shape, (kind, like.device()))?)
}

/// The scalar or shape that an op needs, or an error that names the op.
pub(crate) fn operand(ok: bool, op: &'static str, problem: impl FnOnce() -> String) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::Operand { op, problem: problem() }) }
}

/// `[rows, columns]` of a matrix.
pub(crate) fn matrix(t: &Tensor, op: &'static str) -> Result<(i64, i64)> {
    t.size2().map_err(|_| Error::Operand { op, problem: format!("expected a matrix, found {:?}", t.size()) })
}

/// Checks a shape.
pub(crate) fn expect_shape(t: &Tensor, shape: &[i64], op: &'static str, name: &str) -> Result<()> {
    let found = t.size();
    operand(found == shape, op, || format!("{name} must be {shape:?}, found {found:?}"))
}

/// Copies `src` into the leading rows of `buffer` in the buffer's dtype and returns that view.
pub(crate) fn load(buffer: &Tensor, src: &Tensor) -> Result<Tensor> {
    let rows = src.size().first().copied().unwrap_or(0);
    let mut view = buffer.f_narrow(0, 0, rows)?;
    view.f_copy_(src)?;
    Ok(view)
}

/// `t` itself when it has the math dtype, else a converted copy (small tensors only: weights of a norm).
pub(crate) fn in_math(t: &Tensor) -> Result<Tensor> {
    if is_math(t.kind()) { Ok(t.shallow_clone()) } else { Ok(t.f_to_kind(math_kind(t.kind()))?) }
}
