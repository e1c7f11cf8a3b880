//! Elementwise plumbing: residual addition, accumulation into wider dtypes, fill, conversion.

use llmc_plan::op::chunk;
use tch::{Kind, Tensor};

use super::{backend, blocks, elements, require, scratch, signed, unsigned};
use crate::cuda;
use crate::error::Result;

/// Elements of a block of a flat loop over `t` whose elements become `kind`.
pub(super) fn flat_block(t: &Tensor, kind: Kind) -> i64 {
    let bytes = u64::try_from(kind.elt_size_in_bytes()).unwrap_or(8);
    signed(chunk::flat(backend(t), unsigned(elements(t)), bytes))
}

/// `out = a + b`, shapes and dtypes equal; `out` may be either operand. No temporaries; bf16 sums are made in
/// f32 and rounded once.
pub(super) fn add(a: &Tensor, b: &Tensor, out: &Tensor) -> Result<()> {
    const OP: &str = "add";
    require(a.size() == b.size() && a.size() == out.size(), OP, || {
        format!("shapes differ: {:?}, {:?}, {:?}", a.size(), b.size(), out.size())
    })?;
    require(a.kind() == b.kind() && a.kind() == out.kind(), OP, || {
        format!("dtypes differ: {:?}, {:?}, {:?}", a.kind(), b.kind(), out.kind())
    })?;
    let _ = a.f_add_out(out, b)?;
    Ok(())
}

/// `acc += x`, where `acc` may be wider than `x`. Both contiguous, of equal shape.
pub(super) fn accumulate(x: &Tensor, acc: &Tensor) -> Result<()> {
    const OP: &str = "accumulate";
    require(x.size() == acc.size(), OP, || format!("shapes differ: {:?}, {:?}", x.size(), acc.size()))?;
    if x.kind() == acc.kind() {
        let _ = acc.shallow_clone().f_add_(x)?;
        return Ok(());
    }
    if cuda::serves(x) && acc.kind() == Kind::Float {
        return cuda::flat::accumulate(x, acc);
    }
    let (x, acc) = (x.f_view([-1])?, acc.f_view([-1])?);
    let (n, step) = (elements(&x), flat_block(&x, acc.kind()));
    let work = scratch(&acc, &[step], acc.kind())?;
    for (start, len) in blocks(n, step) {
        let mut w = work.f_narrow(0, 0, len)?;
        w.f_copy_(&x.f_narrow(0, start, len)?)?;
        let _ = acc.f_narrow(0, start, len)?.f_add_(&w)?;
    }
    Ok(())
}

/// Sets every element to `value`. No temporaries.
pub(super) fn fill(t: &Tensor, value: f64) -> Result<()> {
    let _ = t.shallow_clone().f_fill_(value)?;
    Ok(())
}

/// Copies `src` into `dst` of equal shape, converting dtype. No temporaries.
pub(super) fn copy(src: &Tensor, dst: &Tensor) -> Result<()> {
    require(src.size() == dst.size(), "copy", || {
        format!("shapes differ: {:?}, {:?}", src.size(), dst.size())
    })?;
    dst.shallow_clone().f_copy_(src)?;
    Ok(())
}
