//! Causal grouped-query attention, flash style (Dao 2023, arXiv 2307.08691): the score matrix exists one block
//! at a time, only its log-sum-exp is kept, the backward pass recomputes it from there.
//!
//! One core serves packed self-attention over documents and the key blocks of ring context parallelism
//! (arXiv 2310.01889): both are lists of [`Span`]s.

pub(super) mod fused;
pub(crate) use fused::{goes_to_cudnn, open};
mod layout;
mod work;

use std::f64::consts::{LN_2, LOG2_E};

use tch::Tensor;

use super::{blocks, expect_shape, is_math, require, scratch, unsigned};
use crate::error::Result;
use crate::shim;
use layout::{Block, by_group, queries, span_blocks};
pub(super) use layout::{Heads, Qkv, Span, document_spans, sequence_spans};
use work::{Work, shaped};

const OP: &str = "attention";

/// `log₂e·scale·q·kᵀ`, −∞ where a query does not see a key: `[group, heads, rows, keys]`. Base 2, because
/// libtorch's f32 `exp` takes up to 90 times longer where it underflows, as in every masked element, and `exp2`
/// does not (2026-11, Sapphire Rapids, 262,144 elements, half of them −100: 4.2 ms against 0.06 ms).
fn scores(work: &Work, block: &Block, q: &Tensor, k: &Tensor) -> Result<Tensor> {
    let s = work.score(0, block.heads, block.rows, block.keys)?;
    let kt = k.f_narrow(1, 0, block.keys)?.f_transpose(1, 2)?;
    for g in 0..work.heads.group {
        shim::gemm(&s.f_get(g)?, &q.f_get(g)?, &kt, 0.0, LOG2_E * work.heads.scale())?;
    }
    let hidden = block.keys - block.diagonal;
    if hidden > 1 {
        let mask = work.mask.f_narrow(0, 0, block.rows)?.f_narrow(1, 0, hidden)?;
        let _ = s.f_narrow(3, block.diagonal, hidden)?.f_add_(&mask)?;
    }
    Ok(s)
}

/// Writes `out` `[n, heads·dim]` and the log-sum-exp `lse` `[heads, n]` (math dtype). Rows that see no key get
/// 0 and −∞. `keys` bounds the keys of a span.
pub(in crate::ops) fn forward(
    qkv: &Qkv,
    out: &Tensor,
    lse: &Tensor,
    heads: Heads,
    spans: &[Span],
    keys: i64,
) -> Result<()> {
    let out = queries(out, heads)?;
    let lse = by_group(lse, heads)?;
    if spans.iter().any(|s| s.shift < 0) {
        let _ = out.shallow_clone().f_zero_()?;
        let _ = lse.shallow_clone().f_fill_(f64::NEG_INFINITY)?;
    }
    let work = Work::new(&qkv.q, heads, spans, false, keys)?;
    for &span in spans {
        for (head, count) in blocks(heads.kv, work.chunk) {
            let [k, v] = work.keys_values(qkv, span, head, count)?;
            for block in span_blocks(span, work.rows, head, count) {
                forward_block(&work, &block, qkv, &k, &v, &out, &lse)?;
            }
        }
    }
    Ok(())
}

fn forward_block(
    work: &Work,
    block: &Block,
    qkv: &Qkv,
    k: &Tensor,
    v: &Tensor,
    out: &Tensor,
    lse: &Tensor,
) -> Result<()> {
    let q = work.query_rows(&qkv.q, block, 0)?;
    let mut s = scores(work, block, &q, k)?;
    let lanes = [work.heads.group, block.heads, block.rows, 1];
    let (mut max, sum) = (shaped(&work.stats.f_get(0)?, &lanes)?, shaped(&work.stats.f_get(1)?, &lanes)?);
    let _ = s.f_amax_out(&max, 3i64, true)?;
    let _ = s.f_sub_(&max)?.f_exp2_()?;
    let _ = s.f_sum_intlist_out(&sum, 3i64, true, None)?;
    let mut o = shaped(&work.result, &[work.heads.group, block.heads, block.rows, work.heads.dim])?;
    let v = v.f_narrow(1, 0, block.keys)?;
    for g in 0..work.heads.group {
        shim::gemm(&o.f_get(g)?, &s.f_get(g)?, &v, 0.0, 1.0)?;
    }
    let _ = o.f_div_(&sum)?;
    block.of(out)?.f_copy_(&o)?;
    let _ = max.f_add_(&sum.shallow_clone().f_log2_()?)?.f_mul_scalar_(LN_2)?;
    block.stats(lse)?.f_copy_(&max)?;
    Ok(())
}

/// What the backward pass of a forward needs besides queries, keys and values.
pub(in crate::ops) struct Saved<'a> {
    /// Gradient of the output `[n, heads·dim]`.
    pub dout: &'a Tensor,
    /// Output, over all keys.
    pub out: &'a Tensor,
    /// Log-sum-exp over all keys `[heads, n]`.
    pub lse: &'a Tensor,
}

/// Adds the gradients to `grad`, which has the shapes of `qkv`. Sums over the blocks of a span are made in the
/// math dtype.
pub(in crate::ops) fn backward(
    qkv: &Qkv,
    saved: &Saved<'_>,
    grad: &Qkv,
    heads: Heads,
    spans: &[Span],
    keys: i64,
) -> Result<()> {
    let pass = Backward {
        work: Work::new(&qkv.q, heads, spans, true, keys)?,
        q: &qkv.q,
        dq: &grad.q,
        dout: queries(saved.dout, heads)?,
        out: queries(saved.out, heads)?,
        lse: by_group(saved.lse, heads)?,
    };
    for &span in spans {
        for (head, count) in blocks(heads.kv, pass.work.chunk) {
            let kv = pass.work.keys_values(qkv, span, head, count)?;
            let sums = pass.work.accumulators(grad, span, head, count)?;
            for block in span_blocks(span, pass.work.rows, head, count) {
                pass.block(&block, &kv, &sums)?;
            }
            pass.work.store(&sums, grad, span, head, count)?;
        }
    }
    Ok(())
}

struct Backward<'a> {
    work: Work,
    q: &'a Tensor,
    dq: &'a Tensor,
    dout: Tensor,
    out: Tensor,
    lse: Tensor,
}

impl Backward<'_> {
    /// With P = exp(S − lse), δ = rowsum(dO∘O), dS = P∘(dO·Vᵀ − δ): dV += Pᵀ·dO, dK += scale·dSᵀ·Q,
    /// dQ += scale·dS·K (arXiv 2307.08691, section 2.3.2).
    fn block(&self, block: &Block, [k, v]: &[Tensor; 2], [dk, dv]: &[Tensor; 2]) -> Result<()> {
        let (work, heads) = (&self.work, self.work.heads);
        let group = 0..heads.group;
        let dout = work.query_rows(&self.dout, block, 1)?;
        let out = work.query_rows(&self.out, block, 0)?;
        let tile = shaped(&work.result, &[heads.group, block.heads, block.rows, heads.dim])?;
        let delta = shaped(&work.stats.f_get(0)?, &[heads.group, block.heads, block.rows, 1])?;
        let _ = dout.f_mul_out(&tile, &out)?;
        let _ = tile.f_sum_intlist_out(&delta, 3i64, true, None)?;

        let q = work.query_rows(self.q, block, 0)?;
        let mut p = scores(work, block, &q, k)?;
        let mut lse = shaped(&work.stats.f_get(1)?, &delta.size())?;
        lse.f_copy_(&block.stats(&self.lse)?)?;
        let _ = p.f_sub_(&lse.f_mul_scalar_(LOG2_E)?)?.f_exp2_()?;
        let vt = v.f_narrow(1, 0, block.keys)?.f_transpose(1, 2)?;
        let mut ds = work.score(1, block.heads, block.rows, block.keys)?;
        for g in group.clone() {
            shim::gemm(&ds.f_get(g)?, &dout.f_get(g)?, &vt, 0.0, 1.0)?;
        }
        let _ = ds.f_sub_(&delta)?.f_mul_(&p)?;

        let columns = shaped(&work.result, &[block.heads, block.keys, heads.dim])?;
        for (sum, rows, right, scale) in [(dv, &p, &dout, 1.0), (dk, &ds, &q, heads.scale())] {
            for g in group.clone() {
                let beta = if g == 0 { 0.0 } else { 1.0 };
                shim::gemm(&columns, &rows.f_get(g)?.f_transpose(1, 2)?, &right.f_get(g)?, beta, scale)?;
            }
            let _ = sum.f_narrow(1, 0, block.keys)?.f_add_(&columns)?;
        }
        let k = k.f_narrow(1, 0, block.keys)?;
        for g in group {
            shim::gemm(&tile.f_get(g)?, &ds.f_get(g)?, &k, 0.0, heads.scale())?;
        }
        let mut dq = work.query_rows(self.dq, block, 0)?;
        let _ = dq.f_add_(&tile)?;
        if !is_math(self.dq.kind()) {
            block.of(self.dq)?.f_copy_(&dq)?;
        }
        Ok(())
    }
}

/// Joins a partial result into the running one by their log-sum-exps, in place:
/// `lse' = log(eˡ¹ + eˡ²)`, `out' = out₁·e^(l₁−lse') + out₂·e^(l₂−lse')`. Rows neither side saw stay 0 and −∞.
pub(in crate::ops) fn merge(
    part: &Tensor,
    part_lse: &Tensor,
    out: &Tensor,
    lse: &Tensor,
    heads: u64,
) -> Result<()> {
    let (h, n) = super::matrix(lse, OP)?;
    require(unsigned(h) == heads, OP, || format!("log-sum-exp of {h} heads, expected {heads}"))?;
    expect_shape(part_lse, &[h, n], OP, "partial log-sum-exp")?;
    let d = super::matrix(out, OP)?.1.checked_div(h).unwrap_or(0);
    expect_shape(out, &[n, h * d], OP, "running out")?;
    expect_shape(part, &[n, h * d], OP, "partial out")?;
    require(part.kind() == out.kind() && is_math(out.kind()), OP, || {
        format!("partial and running out must be f32, are {:?} and {:?}", part.kind(), out.kind())
    })?;
    let (part, mut out) = (part.f_view([n, h, d])?, out.f_view([n, h, d])?);
    let joint = scratch(lse, &[h, n], lse.kind())?;
    let _ = lse.f_logaddexp_out(&joint, part_lse)?;
    let factors = scratch(lse, &[2, h, n], lse.kind())?;
    let factor = |i: i64, side: &Tensor| -> Result<Tensor> {
        let mut f = factors.f_get(i)?;
        let _ = side.f_sub_out(&f, &joint)?;
        // −∞ − −∞: neither side saw a key, and its output is 0 already.
        let _ = f.f_exp_()?.f_nan_to_num_(0.0, None, None)?;
        Ok(f.f_transpose(0, 1)?.f_unsqueeze(2)?)
    };
    let (running, partial) = (factor(0, lse)?, factor(1, part_lse)?);
    let _ = out.f_mul_(&running)?.f_addcmul_(&part, &partial)?;
    lse.shallow_clone().f_copy_(&joint)?;
    Ok(())
}
