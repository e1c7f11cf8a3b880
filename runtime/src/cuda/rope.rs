//! Rotary positions on packed queries, keys and values.

use tch::{Kind, Tensor};

use super::launch::{Launch, aligned, ceil, chunk, element};
use super::source::Program;
use crate::error::Result;
use crate::ops::rope::Packed;
use crate::ops::{expect_shape, matrix, require};

const ROTATE: &str = "rope.rotate";
const PACK: &str = "rope.pack_inverse";

/// Cosines and sines `[context, head_dim/2]` f32 and the positions `[n]` i64 of the rows.
#[derive(Clone, Copy)]
pub struct Angles<'a> {
    /// Cosines.
    pub cos: &'a Tensor,
    /// Sines.
    pub sin: &'a Tensor,
    /// Positions; they lie inside the tables.
    pub positions: &'a Tensor,
}

/// Rotates queries and keys of `qkv` `[n, width]` in place by the angles at the positions; `inverse`: back.
///
/// # Errors
/// Operands that do not fit.
pub fn rotate(angles: Angles<'_>, qkv: &Tensor, packed: Packed, inverse: bool) -> Result<()> {
    let d = packed.head_dim;
    let (n, width) = matrix(qkv, ROTATE)?;
    require(width == packed.width(), ROTATE, || {
        format!("{width} columns, the heads have {}", packed.width())
    })?;
    let bytes = usize::try_from(packed.heads * d).unwrap_or(0) * qkv.kind().elt_size_in_bytes();
    let q = qkv.data_ptr() as usize;
    let fits = aligned(&[qkv], width) && aligned(&[qkv], d / 2);
    launch(ROTATE, angles, qkv, packed, inverse, fits, n, [(q, width), (q + bytes, width), (0, 0)], None)
}

/// Writes gradients of queries `[n, heads·d]`, keys and values `[n, kv_heads·d]` as the gradient of packed rows
/// `out` `[n, (heads + 2·kv_heads)·d]`: queries and keys rotated back, values copied. `amax` `[1]` f32 (not negative)
/// is raised to the largest |out|.
///
/// # Errors
/// Operands that do not fit.
pub fn pack_inverse(
    angles: Angles<'_>,
    [dq, dk, dv]: [&Tensor; 3],
    out: &Tensor,
    packed: Packed,
    amax: Option<&Tensor>,
) -> Result<()> {
    let (n, width) = matrix(out, PACK)?;
    let d = packed.head_dim;
    require(width == packed.width(), PACK, || format!("{width} columns, the heads have {}", packed.width()))?;
    for (t, heads, name) in
        [(dq, packed.heads, "dq"), (dk, packed.kv_heads, "dk"), (dv, packed.kv_heads, "dv")]
    {
        expect_shape(t, &[n, heads * d], PACK, name)?;
        let fits = t.is_contiguous() && t.kind() == out.kind() && t.device() == out.device();
        require(fits, PACK, || format!("{name} must be contiguous {:?} on {:?}", out.kind(), out.device()))?;
    }
    let sources = [dq, dk, dv].map(|t| (t.data_ptr() as usize, t.size().last().copied().unwrap_or(0)));
    // A chunk never crosses a half of a head: halves that are whole accesses make every row so.
    let fits = aligned(&[dq, dk, dv, out], d / 2);
    launch(PACK, angles, out, packed, true, fits, n, sources, amax)
}

#[allow(clippy::too_many_arguments)] // two callers; a struct would only rename them
fn launch(
    op: &'static str,
    angles: Angles<'_>,
    out: &Tensor,
    packed: Packed,
    inverse: bool,
    fits: bool,
    n: i64,
    [q, k, v]: [(usize, i64); 3],
    amax: Option<&Tensor>,
) -> Result<()> {
    let (e, half) = (element(out, op)?, packed.head_dim / 2);
    let (context, columns) = matrix(angles.cos, op)?;
    require(columns == half, op, || format!("tables have {columns} columns, half a head {half}"))?;
    expect_shape(angles.sin, &[context, half], op, "sin")?;
    let rows: i64 = angles.positions.size().iter().product();
    require(rows == n, op, || format!("{rows} positions for {n} rows"))?;
    let chunks = ceil(half, chunk(e));
    require((1..=256).contains(&chunks), op, || format!("no kernel for heads of {}", packed.head_dim))?;
    let lanes = (128 / chunks).clamp(1, (packed.heads + packed.kv_heads).max(1));
    Launch::new(out, op, Program::plain("rope", e, fits), "rope")?
        .tensor(angles.cos, Kind::Float)
        .tensor(angles.sin, Kind::Float)
        .tensor(angles.positions, Kind::Int64)
        .address(q.0)
        .int(q.1)
        .address(k.0)
        .int(k.1)
        .address(v.0)
        .int(v.1)
        .tensor(out, out.kind())
        .int(packed.heads)
        .int(packed.kv_heads)
        .int(half)
        .float(if inverse { -1.0 } else { 1.0 })
        .optional(amax, Kind::Float)
        .run(n, ceil(chunks * lanes, 32) * 32)
}
