//! Causal grouped-query attention, flash style (Dao 2023, arXiv 2307.08691): the score matrix exists one block
//! at a time, only its log-sum-exp is kept, the backward pass recomputes it from there.
//!
//! One core serves packed self-attention over documents and the key blocks of ring context parallelism
//! (arXiv 2310.01889): both are lists of [`Span`]s.

use std::f64::consts::{LN_2, LOG2_E};

use llmc_plan::op::chunk;
use tch::{Kind, Tensor};

use super::{backend, blocks, expect_shape, is_math, math_bytes, math_kind, require, scratch};
use super::{signed, unsigned};
use crate::error::{Error, Result};
use crate::shim;

const OP: &str = "attention";

/// Heads of an attention op.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    /// Key–value heads.
    pub kv: i64,
    /// Query heads to each of them.
    pub group: i64,
    /// Width of a head.
    pub dim: i64,
}

impl Heads {
    /// Checks that query heads divide evenly.
    pub fn new(heads: u64, kv_heads: u64, head_dim: u64) -> Result<Heads> {
        let fits = kv_heads > 0 && heads.is_multiple_of(kv_heads) && heads > 0 && head_dim > 0;
        require(fits, OP, || format!("{heads} query heads over {kv_heads} key heads of width {head_dim}"))?;
        Ok(Heads { kv: signed(kv_heads), group: signed(heads / kv_heads), dim: signed(head_dim) })
    }

    /// Columns of queries.
    pub fn q_width(&self) -> i64 {
        self.kv * self.group * self.dim
    }

    /// Columns of keys, and of values.
    pub fn kv_width(&self) -> i64 {
        self.kv * self.dim
    }

    fn scale(&self) -> f64 {
        1.0 / libm::sqrt(self.dim as f64)
    }
}

/// Query rows and key rows that attend to each other: query `i` sees key `j` when `j ≤ i + shift`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// First query row.
    pub query: i64,
    /// Query rows.
    pub queries: i64,
    /// First key row.
    pub key: i64,
    /// Key rows.
    pub keys: i64,
    /// Position of the first query minus position of the first key.
    pub shift: i64,
}

/// The spans of self-attention within each document; `cu_seqlens` `[d+1]` ascends from 0 to `n`.
pub(super) fn document_spans(cu_seqlens: &Tensor, n: i64, context: i64) -> Result<Vec<Span>> {
    require(cu_seqlens.kind() == Kind::Int, OP, || "cumulative lengths must be 32-bit integers".into())?;
    let bounds: Vec<i64> = Vec::<i32>::try_from(cu_seqlens)?.into_iter().map(i64::from).collect();
    let ends = (bounds.first(), bounds.last());
    require(ends == (Some(&0), Some(&n)), OP, || {
        format!("cumulative lengths run from 0 to {n}, found {ends:?}")
    })?;
    let mut spans = Vec::new();
    for pair in bounds.windows(2) {
        let &[start, end] = pair else { continue };
        require(end >= start && end - start <= context, OP, || {
            format!("document from {start} to {end} in a context of {context}")
        })?;
        if end > start {
            spans.push(Span { query: start, queries: end - start, key: start, keys: end - start, shift: 0 });
        }
    }
    Ok(spans)
}

/// The spans of `sequences` equal sequences, queries and keys at their offsets inside the sequence.
pub(super) fn sequence_spans(
    n: i64,
    m: i64,
    sequences: i64,
    query_offset: i64,
    key_offset: i64,
) -> Result<Vec<Span>> {
    let whole = sequences > 0 && n % sequences == 0 && m % sequences == 0;
    require(whole, OP, || format!("{n} queries and {m} keys in {sequences} sequences"))?;
    let (queries, keys) = (n / sequences, m / sequences);
    let shift = query_offset - key_offset;
    Ok((0..sequences).map(|s| Span { query: s * queries, queries, key: s * keys, keys, shift }).collect())
}

/// Queries, keys and values as views: `q` `[n, kv, group, dim]`, `k` and `v` `[m, kv, dim]`.
pub(super) struct Qkv {
    q: Tensor,
    k: Tensor,
    v: Tensor,
}

impl Qkv {
    /// Of packed rows `[q | k | v]`.
    pub fn packed(qkv: &Tensor, heads: Heads) -> Result<Qkv> {
        let n = qkv.size().first().copied().unwrap_or(0);
        expect_shape(qkv, &[n, heads.q_width() + 2 * heads.kv_width()], OP, "qkv")?;
        let q = qkv.f_narrow(1, 0, heads.q_width())?;
        Qkv::apart(&q, &qkv.f_narrow(1, heads.q_width(), 2 * heads.kv_width())?, heads)
    }

    /// Of queries and packed `[k | v]` rows.
    pub fn apart(q: &Tensor, kv: &Tensor, heads: Heads) -> Result<Qkv> {
        let m = kv.size().first().copied().unwrap_or(0);
        expect_shape(kv, &[m, 2 * heads.kv_width()], OP, "kv")?;
        Ok(Qkv {
            q: queries(q, heads)?,
            k: kv.f_narrow(1, 0, heads.kv_width())?.f_unflatten(1, [heads.kv, heads.dim])?,
            v: kv.f_narrow(1, heads.kv_width(), heads.kv_width())?.f_unflatten(1, [heads.kv, heads.dim])?,
        })
    }
}

/// `[n, heads·dim]` as `[n, kv, group, dim]`.
fn queries(t: &Tensor, heads: Heads) -> Result<Tensor> {
    let n = t.size().first().copied().unwrap_or(0);
    expect_shape(t, &[n, heads.q_width()], OP, "queries")?;
    Ok(t.f_unflatten(1, [heads.kv, heads.group, heads.dim])?)
}

/// `[heads, n]` as `[group, kv, n]`.
fn by_group(lse: &Tensor, heads: Heads) -> Result<Tensor> {
    Ok(lse.f_unflatten(0, [heads.kv, heads.group])?.f_transpose(0, 1)?)
}

/// Scratch of one op and the block sizes it was made for.
struct Work {
    heads: Heads,
    /// Query rows of a block.
    rows: i64,
    /// Key–value heads of a block.
    chunk: i64,
    /// Flat, one score block each.
    scores: Vec<Tensor>,
    /// Flat, `[group, chunk, rows, dim]`.
    result: Tensor,
    /// `[2, group·chunk·rows]` row statistics.
    stats: Tensor,
    /// −∞ strictly above the diagonal, `[rows, rows]`.
    mask: Tensor,
    /// Math-dtype copies of a span's keys and values `[2, keys·chunk·dim]` when they are narrower.
    kv: Option<Tensor>,
    /// Sums of their gradients, likewise.
    kv_grad: Option<Tensor>,
    /// Math-dtype copies of a block's queries (and output gradients), flat.
    q: Option<Tensor>,
}

impl Work {
    fn new(like: &Tensor, heads: Heads, spans: &[Span], backward: bool, keys: i64) -> Result<Work> {
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
    fn score(&self, index: usize, heads: i64, rows: i64, keys: i64) -> Result<Tensor> {
        let flat = self.scores.get(index).ok_or_else(|| missing("score block"))?;
        shaped(flat, &[self.heads.group, heads, rows, keys])
    }

    /// Keys and values of a span's heads as `[heads, keys, dim]` in the math dtype.
    fn keys_values(&self, qkv: &Qkv, span: Span, first: i64, heads: i64) -> Result<[Tensor; 2]> {
        let [k, v] = key_views(qkv, span, first, heads)?;
        match &self.kv {
            None => Ok([k, v]),
            Some(wide) => Ok([converted(&wide.f_get(0)?, &k)?, converted(&wide.f_get(1)?, &v)?]),
        }
    }

    /// Rows of a query-shaped tensor as `[group, heads, rows, dim]` in the math dtype; `copy` picks the scratch.
    fn query_rows(&self, t: &Tensor, block: &Block, copy: i64) -> Result<Tensor> {
        let view = block.of(t)?;
        match &self.q {
            Some(wide) if !is_math(t.kind()) => converted(&wide.f_get(copy)?, &view),
            _ => Ok(view),
        }
    }

    /// Where the gradients of a span's keys and values are summed, `[heads, keys, dim]` each: the gradient itself,
    /// or a math-dtype copy of it that [`Work::store`] writes back.
    fn accumulators(&self, grad: &Qkv, span: Span, first: i64, heads: i64) -> Result<[Tensor; 2]> {
        let [k, v] = key_views(grad, span, first, heads)?;
        match &self.kv_grad {
            Some(wide) if !is_math(k.kind()) => {
                Ok([converted(&wide.f_get(0)?, &k)?, converted(&wide.f_get(1)?, &v)?])
            }
            _ => Ok([k, v]),
        }
    }

    fn store(&self, sums: &[Tensor; 2], grad: &Qkv, span: Span, first: i64, heads: i64) -> Result<()> {
        if self.kv_grad.is_some() && !is_math(grad.k.kind()) {
            for (mut view, sum) in key_views(grad, span, first, heads)?.into_iter().zip(sums) {
                view.f_copy_(sum)?;
            }
        }
        Ok(())
    }
}

/// Keys and values of a span's heads as views `[heads, keys, dim]`.
fn key_views(qkv: &Qkv, span: Span, first: i64, heads: i64) -> Result<[Tensor; 2]> {
    let part = |t: &Tensor| -> Result<Tensor> {
        Ok(t.f_narrow(0, span.key, span.keys)?.f_narrow(1, first, heads)?.f_transpose(0, 1)?)
    };
    Ok([part(&qkv.k)?, part(&qkv.v)?])
}

fn missing(what: &str) -> Error {
    Error::Operand { op: OP, problem: format!("no {what}") }
}

/// The leading elements of flat scratch in a shape.
fn shaped(flat: &Tensor, shape: &[i64]) -> Result<Tensor> {
    Ok(flat.f_narrow(0, 0, shape.iter().product())?.f_view(shape)?)
}

/// A copy of `view` in flat scratch of another dtype.
fn converted(flat: &Tensor, view: &Tensor) -> Result<Tensor> {
    let mut copy = shaped(flat, &view.size())?;
    copy.f_copy_(view)?;
    Ok(copy)
}

/// Query rows of a span and heads that are worked on together, and the keys they see.
struct Block {
    /// First query row, absolute.
    row: i64,
    rows: i64,
    /// First key–value head.
    head: i64,
    heads: i64,
    /// Visible keys: the first ones of the span.
    keys: i64,
    /// First key column that some row of the block does not see is `diagonal + 1`.
    diagonal: i64,
}

impl Block {
    /// This block of a tensor `[n, kv, group, dim]` as `[group, heads, rows, dim]`.
    fn of(&self, t: &Tensor) -> Result<Tensor> {
        Ok(t.f_narrow(0, self.row, self.rows)?.f_narrow(1, self.head, self.heads)?.f_permute([2, 1, 0, 3])?)
    }

    /// This block of statistics `[group, kv, n]` as `[group, heads, rows, 1]`.
    fn stats(&self, t: &Tensor) -> Result<Tensor> {
        Ok(t.f_narrow(2, self.row, self.rows)?.f_narrow(1, self.head, self.heads)?.f_unsqueeze(3)?)
    }
}

/// The blocks of a span for one group of heads; rows that see no key are left out.
fn span_blocks(span: Span, rows: i64, head: i64, heads: i64) -> impl Iterator<Item = Block> {
    let first = (-span.shift).clamp(0, span.queries);
    blocks(span.queries - first, rows).map(move |(start, rows)| {
        let start = first + start;
        Block {
            row: span.query + start,
            rows,
            head,
            heads,
            keys: span.keys.min(start + rows + span.shift),
            diagonal: start + span.shift,
        }
    })
}

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
pub(super) fn forward(
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
pub(super) struct Saved<'a> {
    /// Gradient of the output `[n, heads·dim]`.
    pub dout: &'a Tensor,
    /// Output, over all keys.
    pub out: &'a Tensor,
    /// Log-sum-exp over all keys `[heads, n]`.
    pub lse: &'a Tensor,
}

/// Adds the gradients to `grad`, which has the shapes of `qkv`. Sums over the blocks of a span are made in the
/// math dtype.
pub(super) fn backward(
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
pub(super) fn merge(part: &Tensor, part_lse: &Tensor, out: &Tensor, lse: &Tensor, heads: u64) -> Result<()> {
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
