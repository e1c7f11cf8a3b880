//! SwiGLU on packed gate and up.

use tch::{Kind, Tensor};

use super::launch::{Launch, aligned, ceil, chunk, element};
use super::source::Program;
use crate::error::Result;
use crate::ops::{expect_shape, matrix, require};

const FORWARD: &str = "swiglu.forward";
const BACKWARD: &str = "swiglu.backward";

/// Whole warps that take a row of `f` elements, `flight` accesses a thread, in as few rounds as 512 threads can.
fn threads(f: i64, access: i64, flight: i64) -> i64 {
    (ceil(ceil(f, access), flight * 32) * 32).clamp(32, 512)
}

/// `out` `[n, f]` = silu(gate)·up of `gate_up` `[n, 2f]`. `amax` `[1]` f32 (not negative) is raised to the largest
/// |out|.
///
/// # Errors
/// Operands that do not fit.
pub fn forward(gate_up: &Tensor, out: &Tensor, amax: Option<&Tensor>) -> Result<()> {
    let ((n, f), e) = (matrix(out, FORWARD)?, element(out, FORWARD)?);
    expect_shape(gate_up, &[n, 2 * f], FORWARD, "gate_up")?;
    Launch::new(out, FORWARD, Program::plain("swiglu", e, aligned(&[gate_up, out], f)), "swiglu_forward")?
        .tensor(gate_up, out.kind())
        .tensor(out, out.kind())
        .int(f)
        .optional(amax, Kind::Float)
        .run(n, threads(f, chunk(e), 4))
}

/// Replaces `gate_up` `[n, 2f]` by its gradient, of `dy` `[n, f]`. `amax` as in [`forward`], of that gradient.
///
/// # Errors
/// Operands that do not fit.
pub fn backward(dy: &Tensor, gate_up: &Tensor, amax: Option<&Tensor>) -> Result<()> {
    let ((n, f), e) = (matrix(dy, BACKWARD)?, element(dy, BACKWARD)?);
    expect_shape(gate_up, &[n, 2 * f], BACKWARD, "gate_up")?;
    require(dy.data_ptr() != gate_up.data_ptr(), BACKWARD, || "dy and gate_up are one tensor".into())?;
    Launch::new(dy, BACKWARD, Program::plain("swiglu", e, aligned(&[gate_up, dy], f)), "swiglu_backward")?
        .tensor(dy, dy.kind())
        .tensor(gate_up, dy.kind())
        .int(f)
        .optional(amax, Kind::Float)
        .run(n, threads(f, chunk(e), 2))
}
