//! Token embedding.

use tch::{Kind, Tensor};

use super::launch::{Launch, aligned, ceil, chunk, element};
use super::source::Program;
use crate::error::Result;
use crate::ops::{expect_shape, matrix, require, scratch};

const FORWARD: &str = "embedding.forward";
const BACKWARD: &str = "embedding.backward";

/// `x[i] = weight[ids[i]]`: `weight` `[v, h]`, `ids` `[n]` i64, `x` `[n, h]`. An id outside the vocabulary gives NaN.
///
/// # Errors
/// Operands that do not fit.
pub fn forward(weight: &Tensor, ids: &Tensor, x: &Tensor) -> Result<()> {
    let ((v, h), (n, width), e) = (matrix(weight, FORWARD)?, matrix(x, FORWARD)?, element(x, FORWARD)?);
    require(h == width, FORWARD, || format!("rows of {h} into rows of {width}"))?;
    expect_shape(ids, &[n], FORWARD, "ids")?;
    Launch::new(x, FORWARD, Program::plain("embedding", e, aligned(&[weight, x], h)), "embedding_forward")?
        .tensor(weight, x.kind())
        .tensor(ids, Kind::Int64)
        .tensor(x, x.kind())
        .int(v)
        .int(h)
        .run(n, (ceil(ceil(h, chunk(e)), 64) * 32).clamp(32, 256))
}

/// `gradient[ids[i]] += dx[i]` in token order: `dx` `[n, h]`, `gradient` `[v, h]` f32. Ids outside the vocabulary are
/// left out. Workspace: 8 bytes a row of the gradient.
///
/// # Errors
/// Operands that do not fit.
pub fn backward(dx: &Tensor, ids: &Tensor, gradient: &Tensor) -> Result<()> {
    let ((n, h), (v, width), e) =
        (matrix(dx, BACKWARD)?, matrix(gradient, BACKWARD)?, element(dx, BACKWARD)?);
    require(h == width, BACKWARD, || format!("rows of {h} into rows of {width}"))?;
    expect_shape(ids, &[n], BACKWARD, "ids")?;
    require(i32::try_from(n).is_ok(), BACKWARD, || format!("{n} tokens are too many"))?;
    let places = scratch(dx, &[2, v], Kind::Int)?;
    let (first, last) = (places.f_get(0)?, places.f_get(1)?);
    let program = Program::plain("embedding", e, aligned(&[dx], h));
    for kernel in ["embedding_prepare", "embedding_mark"] {
        Launch::new(dx, BACKWARD, program, kernel)?
            .tensor(ids, Kind::Int64)
            .tensor(&first, Kind::Int)
            .tensor(&last, Kind::Int)
            .int(n)
            .int(v)
            .run(ceil(n, 256), 256)?;
    }
    Launch::new(dx, BACKWARD, program, "embedding_backward")?
        .tensor(dx, dx.kind())
        .tensor(ids, Kind::Int64)
        .tensor(&first, Kind::Int)
        .tensor(&last, Kind::Int)
        .tensor(gradient, Kind::Float)
        .int(n)
        .int(v)
        .int(h)
        .run_with((n, ceil(h, 128 * chunk(e))), 128, 0)
}
