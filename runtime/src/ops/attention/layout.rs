//! Which rows attend to which, and packed rows as views by head.

use tch::{Kind, Tensor};

use super::OP;
use crate::error::Result;
use crate::ops::{blocks, expect_shape, require, signed};

/// Heads of an attention op.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Heads {
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

    /// Factor on the scores.
    pub fn scale(&self) -> f64 {
        1.0 / libm::sqrt(self.dim as f64)
    }
}

/// Query rows and key rows that attend to each other: query `i` sees key `j` when `j ≤ i + shift`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) struct Span {
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
pub(in crate::ops) fn document_spans(cu_seqlens: &Tensor, n: i64, context: i64) -> Result<Vec<Span>> {
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
pub(in crate::ops) fn sequence_spans(
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
pub(in crate::ops) struct Qkv {
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
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
pub(super) fn queries(t: &Tensor, heads: Heads) -> Result<Tensor> {
    let n = t.size().first().copied().unwrap_or(0);
    expect_shape(t, &[n, heads.q_width()], OP, "queries")?;
    Ok(t.f_unflatten(1, [heads.kv, heads.group, heads.dim])?)
}

/// `[heads, n]` as `[group, kv, n]`.
pub(super) fn by_group(lse: &Tensor, heads: Heads) -> Result<Tensor> {
    Ok(lse.f_unflatten(0, [heads.kv, heads.group])?.f_transpose(0, 1)?)
}

/// Keys and values of a span's heads as views `[heads, keys, dim]`.
pub(super) fn key_views(qkv: &Qkv, span: Span, first: i64, heads: i64) -> Result<[Tensor; 2]> {
    let part = |t: &Tensor| -> Result<Tensor> {
        Ok(t.f_narrow(0, span.key, span.keys)?.f_narrow(1, first, heads)?.f_transpose(0, 1)?)
    };
    Ok([part(&qkv.k)?, part(&qkv.v)?])
}

/// Query rows of a span and heads that are worked on together, and the keys they see.
pub(super) struct Block {
    /// First query row, absolute.
    pub row: i64,
    pub rows: i64,
    /// First key–value head.
    pub head: i64,
    pub heads: i64,
    /// Visible keys: the first ones of the span.
    pub keys: i64,
    /// First key column that some row of the block does not see is `diagonal + 1`.
    pub diagonal: i64,
}

impl Block {
    /// This block of a tensor `[n, kv, group, dim]` as `[group, heads, rows, dim]`.
    pub fn of(&self, t: &Tensor) -> Result<Tensor> {
        Ok(t.f_narrow(0, self.row, self.rows)?.f_narrow(1, self.head, self.heads)?.f_permute([2, 1, 0, 3])?)
    }

    /// This block of statistics `[group, kv, n]` as `[group, heads, rows, 1]`.
    pub fn stats(&self, t: &Tensor) -> Result<Tensor> {
        Ok(t.f_narrow(2, self.row, self.rows)?.f_narrow(1, self.head, self.heads)?.f_unsqueeze(3)?)
    }
}

/// The blocks of a span for one group of heads; rows that see no key are left out.
pub(super) fn span_blocks(span: Span, rows: i64, head: i64, heads: i64) -> impl Iterator<Item = Block> {
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
