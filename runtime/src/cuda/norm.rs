//! RMSNorm.

use llmc_plan::op::chunk;
use tch::{Kind, Tensor};

use super::launch::{ACCESS, Launch, aligned, ceil, chunk as access, element};
use super::source::Program;
use crate::error::Result;
use crate::ops::{expect_shape, matrix, require, scratch, signed, unsigned};

const FORWARD: &str = "norm.forward";
const BACKWARD: &str = "norm.backward";

/// Chunks of a row that a thread keeps, as in `norm.cu`.
const KEPT: i64 = 4;
/// Operands of the backward kernel that are fetched a row ahead, as in `norm.cu`.
const STAGES: i64 = 3;

/// Threads for a row of `h` elements: whole warps.
fn threads(h: i64, access: i64) -> i64 {
    (ceil(ceil(h, access), KEPT * 32) * 32).max(32)
}

/// `y = x·rstd·w` of `x` `[n, h]`; `rstd` `[n]` f32. `amax` `[1]` f32 (not negative) is raised to the largest |y|.
/// With `added`, a second tensor and where its sum with x goes (all `[n, h]`), the sum is normalised, as it was rounded.
///
/// # Errors
/// Operands that do not fit; rows beyond 32,768 elements of 16 bits.
#[allow(clippy::too_many_arguments)] // the op's operands; a struct would only rename them
pub fn forward(
    x: &Tensor,
    added: Option<(&Tensor, &Tensor)>,
    weight: &Tensor,
    eps: f64,
    y: &Tensor,
    rstd: &Tensor,
    amax: Option<&Tensor>,
) -> Result<()> {
    let ((n, h), e) = (matrix(x, FORWARD)?, element(x, FORWARD)?);
    expect_shape(weight, &[h], FORWARD, "weight")?;
    expect_shape(y, &[n, h], FORWARD, "y")?;
    expect_shape(rstd, &[n], FORWARD, "rstd")?;
    let threads = threads(h, access(e));
    require(threads <= 1024, FORWARD, || format!("a row of {h} elements is too wide"))?;
    let mut rows = vec![x, weight, y];
    if let Some((branch, sum)) = added {
        expect_shape(branch, &[n, h], FORWARD, "b")?;
        expect_shape(sum, &[n, h], FORWARD, "sum")?;
        rows.extend([branch, sum]);
    }
    let program = Program::plain("norm", e, aligned(&rows, h));
    Launch::new(x, FORWARD, program, "norm_forward")?
        .tensor(x, x.kind())
        .optional(added.map(|(branch, _)| branch), x.kind())
        .tensor(weight, x.kind())
        .optional(added.map(|(_, sum)| sum), x.kind())
        .tensor(y, x.kind())
        .tensor(rstd, Kind::Float)
        .int(h)
        .float(eps)
        .optional(amax, Kind::Float)
        .run(n, threads)
}

/// Gradient of the input into `dx` `[n, h]` (added to it when `accumulate`), and of the weight added to `dw` `[h]`
/// f32. `amax` as in [`forward`], of dx. Sums over rows go through one f32 row a block: `plan::op::chunk::norm_partials`.
///
/// # Errors
/// Operands that do not fit; rows that `plan::op::chunk::norm_fits` denies.
#[allow(clippy::too_many_arguments)] // the op's operands; a struct would only rename them
pub fn backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    rstd: &Tensor,
    (dx, dw): (&Tensor, &Tensor),
    accumulate: bool,
    amax: Option<&Tensor>,
) -> Result<()> {
    let ((n, h), e) = (matrix(x, BACKWARD)?, element(x, BACKWARD)?);
    for (t, name) in [(dy, "dy"), (dx, "dx")] {
        expect_shape(t, &[n, h], BACKWARD, name)?;
    }
    for (t, name) in [(weight, "weight"), (dw, "dw")] {
        expect_shape(t, &[h], BACKWARD, name)?;
    }
    expect_shape(rstd, &[n], BACKWARD, "rstd")?;
    let threads = threads(h, access(e));
    require(threads <= 512, BACKWARD, || format!("a row of {h} elements is too wide"))?;
    // Eight named barriers; at most 512 threads, whose chunks take 96 KiB of shared memory (cards of compute capability
    // 8.6 have 99 KiB a block: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
    let groups = (512 / threads).clamp(1, 8).min(n.max(1));
    let blocks = signed(chunk::norm_partials(unsigned(n))).min(ceil(n, groups));
    let partial = scratch(x, &[signed(chunk::norm_partials(unsigned(n))), h], Kind::Float)?;
    let program = Program::plain("norm", e, aligned(&[dy, x, weight, dx], h));
    let shared = STAGES * KEPT * signed(ACCESS as u64) * threads * groups;
    Launch::new(x, BACKWARD, program, "norm_backward")?
        .tensor(dy, x.kind())
        .tensor(x, x.kind())
        .tensor(weight, x.kind())
        .tensor(rstd, Kind::Float)
        .tensor(dx, x.kind())
        .tensor(&partial, Kind::Float)
        .int(n)
        .int(h)
        .int(groups)
        .int(i64::from(accumulate))
        .optional(amax, Kind::Float)
        .run_with((blocks, 1), threads * groups, shared)?;
    Launch::new(x, BACKWARD, program, "column_sum")?
        .tensor(&partial, Kind::Float)
        .tensor(dw, Kind::Float)
        .int(blocks)
        .int(h)
        .run(ceil(h, 32), 512)
}
