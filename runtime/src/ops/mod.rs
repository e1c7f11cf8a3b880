//! Op executors: plain functions over tensors, forward and backward written out by hand.
//!
//! Callers hold a no-grad guard. Results land in the given output tensors (views into an arena), never in new
//! ones. What an op allocates on the way is gone when it returns, and its peak is the `workspace` that the op's
//! file in `llmc_plan::op` declares, give or take 4 KiB of scalars; loops are cut by `llmc_plan::op::chunk` on
//! both sides. Reductions have a fixed order: equal inputs, shapes and thread count give equal bits.
//!
//! "Math" dtype below: what an op computes in, f32 for f32 and bf16 operands, f64 for f64.
//!
//! Not here: which op runs when, what buffer it uses (the `Program`), CUDA kernels.

use llmc_plan::op::Backend;
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};

mod adamw;
mod attention;
mod dropout;
mod elementwise;
mod embedding;
mod execute;
mod gemm;
mod init;
mod loss;
mod loss_parts;
mod loss_scale;
mod norm;
mod optimizer;
pub mod philox;
mod quantise;
mod reduce;
pub mod rope;
pub(crate) mod split;
mod swiglu;

pub(crate) use attention::{goes_to_cudnn, open as open_attention};
pub use execute::{Context, Host, execute};
pub(crate) use reduce::squared_norm;

/// The dtype an op computes in for operands of `kind`: f64 for f64, else f32.
pub fn math_kind(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}

/// Bytes of one element of the math dtype.
fn math_bytes(kind: Kind) -> u64 {
    if kind == Kind::Double { 8 } else { 4 }
}

/// Bytes of one element of a tensor.
fn element_bytes(t: &Tensor) -> i64 {
    i64::try_from(t.kind().elt_size_in_bytes()).unwrap_or(1)
}

/// Whether operands of `kind` are computed on directly, without a converted copy.
fn is_math(kind: Kind) -> bool {
    kind == math_kind(kind)
}

/// The back end whose block sizes apply to `t`.
fn backend(t: &Tensor) -> Backend {
    if matches!(t.device(), Device::Cuda(_)) { Backend::Cuda } else { Backend::Cpu }
}

/// A tensor extent as the plan counts it; libtorch extents are never negative.
pub(crate) fn unsigned(extent: i64) -> u64 {
    u64::try_from(extent).unwrap_or(0)
}

/// A block size as libtorch counts it.
pub(crate) fn signed(extent: u64) -> i64 {
    i64::try_from(extent).unwrap_or(i64::MAX)
}

/// Elements of a tensor.
pub(crate) fn elements(t: &Tensor) -> i64 {
    t.size().iter().product()
}

/// `(start, length)` of consecutive blocks of `step` over `total`.
fn blocks(total: i64, step: i64) -> impl Iterator<Item = (i64, i64)> {
    let step = step.max(1);
    std::iter::successors(Some(0), move |at| Some(at + step))
        .take_while(move |at| *at < total)
        .map(move |at| (at, step.min(total - at)))
}

/// Uninitialised scratch beside `like`.
pub(crate) fn scratch(like: &Tensor, shape: &[i64], kind: Kind) -> Result<Tensor> {
    Ok(Tensor::f_empty(shape, (kind, like.device()))?)
}

/// An error that names the op unless `ok`.
pub(crate) fn require(ok: bool, op: &'static str, problem: impl FnOnce() -> String) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::Operand { op, problem: problem() }) }
}

/// `[rows, columns]` of a matrix.
pub(crate) fn matrix(t: &Tensor, op: &'static str) -> Result<(i64, i64)> {
    t.size2().map_err(|_| Error::Operand { op, problem: format!("expected a matrix, found {:?}", t.size()) })
}

/// Checks a shape.
pub(crate) fn expect_shape(t: &Tensor, shape: &[i64], op: &'static str, name: &str) -> Result<()> {
    let found = t.size();
    require(found == shape, op, || format!("{name} must be {shape:?}, is {found:?}"))
}

/// Copies `src` into the leading rows of `buffer` in the buffer's dtype and returns that view.
fn load(buffer: &Tensor, src: &Tensor) -> Result<Tensor> {
    let rows = src.size().first().copied().unwrap_or(0);
    let mut view = buffer.f_narrow(0, 0, rows)?;
    view.f_copy_(src)?;
    Ok(view)
}

/// `t` itself when it has the math dtype, else a converted copy (small tensors only: weights of a norm).
fn in_math(t: &Tensor) -> Result<Tensor> {
    if is_math(t.kind()) { Ok(t.shallow_clone()) } else { Ok(t.f_to_kind(math_kind(t.kind()))?) }
}
