//! Cross-entropy.

use tch::{Kind, Tensor};

use super::launch::{ACCESS, Launch, aligned, ceil, chunk, element};
use super::source::Program;
use crate::error::Result;
use crate::ops::{elements, expect_shape, matrix, require, scratch, signed};

const OP: &str = "cross_entropy";
/// Bytes of a row that waits in shared memory: what a block may have on every card (capability 8.6: 99 KiB).
const MOST_KEPT: i64 = 96 << 10;

/// Adds Σ w·nll of `logits` `[n, v]` over their first `vocab` columns to `loss_sum` `[1]` f32. With `inverse_weight`
/// `[1]` f32 the logits become `(softmax − onehot(target))·w·inverse_weight`, and 0 from `vocab` on. `targets` `[n]`
/// i64, `weights` `[n]` f32. With `by_source`, sources `[n]` i32 and sums `[s]` f32, the Σ w·nll of each source's rows is
/// added to its sum. A target outside the vocabulary makes the loss NaN. Workspace: 8 bytes a row.
///
/// # Errors
/// Operands that do not fit.
pub fn cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    weights: &Tensor,
    loss_sum: &Tensor,
    vocab: i64,
    inverse_weight: Option<&Tensor>,
    by_source: Option<[&Tensor; 2]>,
) -> Result<()> {
    let ((n, columns), e) = (matrix(logits, OP)?, element(logits, OP)?);
    require((1..=columns).contains(&vocab), OP, || format!("vocabulary of {vocab} in {columns} columns"))?;
    expect_shape(targets, &[n], OP, "targets")?;
    expect_shape(weights, &[n], OP, "weights")?;
    let losses = scratch(logits, &[n], Kind::Double)?;
    let mode = u8::from(inverse_weight.is_some());
    let program = Program { mode, ..Program::plain("loss", e, aligned(&[logits], columns)) };
    // Three whole rows of 32,000 on a card of 228 KiB of shared memory, one on a card of 100 KiB.
    let row = ceil(columns, chunk(e)) * signed(ACCESS as u64);
    let kept = if mode == 1 && row <= MOST_KEPT { row } else { 0 };
    Launch::new(logits, OP, program, "cross_entropy")?
        .tensor(logits, logits.kind())
        .tensor(targets, Kind::Int64)
        .tensor(weights, Kind::Float)
        .optional(inverse_weight, Kind::Float)
        .tensor(&losses, Kind::Double)
        .int(columns)
        .int(vocab)
        .int(i64::from(kept > 0))
        .run_with((n, 1), 512, kept)?;
    Launch::new(logits, OP, program, "add_sum")?
        .tensor(&losses, Kind::Double)
        .tensor(loss_sum, Kind::Float)
        .int(n)
        .run(1, 1024)?;
    let Some([sources, sums]) = by_source else { return Ok(()) };
    Launch::new(logits, OP, program, "add_by_source")?
        .tensor(&losses, Kind::Double)
        .tensor(sources, Kind::Int)
        .tensor(sums, Kind::Float)
        .int(n)
        .run(elements(sums), 1024)
}
