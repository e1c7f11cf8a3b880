//! Elementwise plumbing: residual addition, accumulation into wider dtypes, zero fill, conversion.

use tch::{Kind, Tensor};

use super::{CHUNK_BYTES, chunks, operand, scratch, size_of_kind};
use crate::error::{Error, Result};

/// `out = a + b`, shapes and dtypes equal; `out` may be either operand. No temporaries; bf16 sums are made in
/// f32 and rounded once.
pub fn add(a: &Tensor, b: &Tensor, out: &Tensor) -> Result<()> {
    const OP: &str = "add";
    operand(a.size() == b.size() && a.size() == out.size(), OP, || {
        format!("shapes differ: {:?}, {:?}, {:?}", a.size(), b.size(), out.size())
    })?;
    operand(a.kind() == b.kind() && a.kind() == out.kind(), OP, || {
        format!("dtypes differ: {:?}, {:?}, {:?}", a.kind(), b.kind(), out.kind())
    })?;
    let _ = a.f_add_out(out, b)?;
    Ok(())
}

/// `acc += x`, where `acc` may be wider than `x`. Both contiguous, of equal shape.
pub fn accumulate(x: &Tensor, acc: &Tensor) -> Result<()> {
    const OP: &str = "accumulate";
    operand(x.size() == acc.size(), OP, || format!("shapes differ: {:?}, {:?}", x.size(), acc.size()))?;
    if x.kind() == acc.kind() {
        let _ = acc.shallow_clone().f_add_(x)?;
        return Ok(());
    }
    let (x, acc) = (x.f_view([-1])?, acc.f_view([-1])?);
    let n = element_count(&x)?;
    let step = flat_chunk(n, acc.kind());
    let work = scratch(&acc, &[step], acc.kind())?;
    for (start, len) in chunks(n, step) {
        let mut w = work.f_narrow(0, 0, len)?;
        w.f_copy_(&x.f_narrow(0, start, len)?)?;
        let _ = acc.f_narrow(0, start, len)?.f_add_(&w)?;
    }
    Ok(())
}

/// Peak temporary bytes of [`accumulate`] of `n` elements on the CPU.
pub fn accumulate_temporaries(n: i64, kind: Kind, acc_kind: Kind) -> i64 {
    if kind == acc_kind { 0 } else { flat_chunk(n, acc_kind) * size_of_kind(acc_kind) }
}

/// Fills with zeros. No temporaries.
pub fn zero(t: &Tensor) -> Result<()> {
    let _ = t.shallow_clone().f_zero_()?;
    Ok(())
}

/// Copies `src` into `dst` of equal shape, converting dtype. No temporaries.
pub fn copy(src: &Tensor, dst: &Tensor) -> Result<()> {
    operand(src.size() == dst.size(), "copy", || {
        format!("shapes differ: {:?}, {:?}", src.size(), dst.size())
    })?;
    dst.shallow_clone().f_copy_(src)?;
    Ok(())
}

/// Elements of a flat loop's chunk.
pub(crate) fn flat_chunk(n: i64, kind: Kind) -> i64 {
    (CHUNK_BYTES / size_of_kind(kind)).clamp(1, n.max(1))
}

/// Elements of a tensor as libtorch counts them.
pub(crate) fn element_count(t: &Tensor) -> Result<i64> {
    i64::try_from(t.numel())
        .map_err(|_| Error::Operand { op: "element_count", problem: format!("{} elements", t.numel()) })
}
