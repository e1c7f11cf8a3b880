//! Scratch of an attention op, sized by `llmc_plan::op::chunk::attention`.

use llmc_plan::op::chunk;
use tch::Tensor;

use super::OP;
use super::layout::{Block, Heads, Qkv, Span, key_views};
use crate::error::{Error, Result};
use crate::ops::{backend, is_math, math_bytes, math_kind, require, scratch, signed, unsigned};

/// Scratch of one op and the block sizes it was made for.
pub(super) struct Work {
    pub heads: Heads,
    /// Query rows of a block.
    pub rows: i64,
    /// Key–value heads of a block.
    pub chunk: i64,
    /// Flat, one score block each.
    scores: Vec<Tensor>,
    /// Flat, `[group, chunk, rows, dim]`.
    pub result: Tensor,
    /// `[2, group·chunk·rows]` row statistics.
    pub stats: Tensor,
    /// −∞ strictly above the diagonal, `[rows, rows]`.
    pub mask: Tensor,
    /// Math-dtype copies of a span's keys and values `[2, keys·chunk·dim]` when they are narrower.
    kv: Option<Tensor>,
    /// Sums of their gradients, likewise.
    kv_grad: Option<Tensor>,
    /// Math-dtype copies of a block's queries (and output gradients), flat.
    q: Option<Tensor>,
}

impl Work {
    pub fn new(like: &Tensor, heads: Heads, spans: &[Span], backward: bool, keys: i64) -> Result<Work> {
        let kind = math_kind(like.kind());
        let longest = spans.iter().map(|s| s.keys).max().unwrap_or(0);
        require(longest <= keys, OP, || {
            format!("a span of {longest} keys where at most {keys} were declared")
        })?;
        let (rows, chunk) = chunk::attention(
            backend(like),
            unsigned(keys),
            unsigned(heads.group),
            unsigned(heads.kv),
            math_bytes(like.kind()),
        );
        let (rows, chunk) = (signed(rows), signed(chunk));
        let lanes = heads.group * chunk * rows;
        let copies = if backward { 2 } else { 1 };
        let narrow = !is_math(like.kind());
        let kv_copy = || scratch(like, &[2, keys * chunk * heads.dim], kind).map(Some);
        let mask = Tensor::f_full([rows, rows], f64::NEG_INFINITY, (kind, like.device()))?.f_triu_(1)?;
        Ok(Work {
            heads,
            rows,
            chunk,
            scores: (0..copies).map(|_| scratch(like, &[lanes * keys], kind)).collect::<Result<_>>()?,
            result: scratch(like, &[lanes.max(if backward { chunk * keys } else { 0 }) * heads.dim], kind)?,
            stats: scratch(like, &[2, lanes], kind)?,
            mask,
            kv: if narrow { kv_copy()? } else { None },
            kv_grad: if narrow && backward { kv_copy()? } else { None },
            q: if narrow { Some(scratch(like, &[copies, lanes * heads.dim], kind)?) } else { None },
        })
    }

    /// Score block `index` as `[group, heads, rows, keys]`.
    pub fn score(&self, index: usize, heads: i64, rows: i64, keys: i64) -> Result<Tensor> {
        let flat = self.scores.get(index).ok_or_else(|| missing("score block"))?;
        shaped(flat, &[self.heads.group, heads, rows, keys])
    }

    /// Keys and values of a span's heads as `[heads, keys, dim]` in the math dtype.
    pub fn keys_values(&self, qkv: &Qkv, span: Span, first: i64, heads: i64) -> Result<[Tensor; 2]> {
        let [k, v] = key_views(qkv, span, first, heads)?;
        match &self.kv {
            None => Ok([k, v]),
            Some(wide) => Ok([converted(&wide.f_get(0)?, &k)?, converted(&wide.f_get(1)?, &v)?]),
        }
    }

    /// Rows of a query-shaped tensor as `[group, heads, rows, dim]` in the math dtype; `copy` picks the scratch.
    pub fn query_rows(&self, t: &Tensor, block: &Block, copy: i64) -> Result<Tensor> {
        let view = block.of(t)?;
        match &self.q {
            Some(wide) if !is_math(t.kind()) => converted(&wide.f_get(copy)?, &view),
            _ => Ok(view),
        }
    }

    /// Where the gradients of a span's keys and values are summed, `[heads, keys, dim]` each: the gradient itself,
    /// or a math-dtype copy of it that [`Work::store`] writes back.
    pub fn accumulators(&self, grad: &Qkv, span: Span, first: i64, heads: i64) -> Result<[Tensor; 2]> {
        let [k, v] = key_views(grad, span, first, heads)?;
        match &self.kv_grad {
            Some(wide) if !is_math(k.kind()) => {
                Ok([converted(&wide.f_get(0)?, &k)?, converted(&wide.f_get(1)?, &v)?])
            }
            _ => Ok([k, v]),
        }
    }

    pub fn store(&self, sums: &[Tensor; 2], grad: &Qkv, span: Span, first: i64, heads: i64) -> Result<()> {
        if self.kv_grad.is_some() && !is_math(grad.k.kind()) {
            for (mut view, sum) in key_views(grad, span, first, heads)?.into_iter().zip(sums) {
                view.f_copy_(sum)?;
            }
        }
        Ok(())
    }
}

fn missing(what: &str) -> Error {
    Error::Operand { op: OP, problem: format!("no {what}") }
}

/// The leading elements of flat scratch in a shape.
pub(super) fn shaped(flat: &Tensor, shape: &[i64]) -> Result<Tensor> {
    Ok(flat.f_narrow(0, 0, shape.iter().product())?.f_view(shape)?)
}

/// A copy of `view` in flat scratch of another dtype.
pub(super) fn converted(flat: &Tensor, view: &Tensor) -> Result<Tensor> {
    let mut copy = shaped(flat, &view.size())?;
    copy.f_copy_(view)?;
    Ok(copy)
}
