//! Rotary positions on packed queries, keys and values.

use tch::{Kind, Tensor};

use super::launch::{Launch, aligned, ceil, chunk, element};
use super::source::Program;
use crate::error::Result;
use crate::ops::rope::Packed;
use crate::ops::{expect_shape, matrix, require};

const ROTATE: &str = "rope.rotate";

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

/// Rotates queries and keys of `qkv` `[n, width]` in place by the angles at the positions; `inverse`: back. `amax`
/// `[1]` f32 (not negative) is raised to the largest |qkv| that results.
///
/// # Errors
/// Operands that do not fit.
pub fn rotate(
    angles: Angles<'_>,
    qkv: &Tensor,
    packed: Packed,
    inverse: bool,
    amax: Option<&Tensor>,
) -> Result<()> {
    let (n, width) = matrix(qkv, ROTATE)?;
    require(width == packed.width(), ROTATE, || {
        format!("{width} columns, the heads have {}", packed.width())
    })?;
    let (e, half) = (element(qkv, ROTATE)?, packed.head_dim / 2);
    let (context, columns) = matrix(angles.cos, ROTATE)?;
    require(columns == half, ROTATE, || format!("tables have {columns} columns, half a head {half}"))?;
    expect_shape(angles.sin, &[context, half], ROTATE, "sin")?;
    let rows: i64 = angles.positions.size().iter().product();
    require(rows == n, ROTATE, || format!("{rows} positions for {n} rows"))?;
    let chunks = ceil(half, chunk(e));
    require((1..=256).contains(&chunks), ROTATE, || format!("no kernel for heads of {}", packed.head_dim))?;
    let lanes = (128 / chunks).clamp(1, (packed.heads + packed.kv_heads).max(1));
    // A chunk never crosses a half of a head: halves that are whole accesses make every row so.
    let fits = aligned(&[qkv], half);
    Launch::new(qkv, ROTATE, Program::plain("rope", e, fits), "rope")?
        .tensor(angles.cos, Kind::Float)
        .tensor(angles.sin, Kind::Float)
        .tensor(angles.positions, Kind::Int64)
        .tensor(qkv, qkv.kind())
        .int(packed.heads)
        .int(packed.kv_heads)
        .int(half)
        .float(if inverse { -1.0 } else { 1.0 })
        .optional(amax, Kind::Float)
        .run(n, ceil(chunks * lanes, 32) * 32)
}
