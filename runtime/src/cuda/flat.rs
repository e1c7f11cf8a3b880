//! Elementwise kernels and the squared norm.

use tch::{Kind, Tensor};

use super::launch::{Launch, aligned, ceil, chunk, element};
use super::source::Program;
use crate::error::Result;
use crate::ops::philox::Stream;
use crate::ops::{elements, require, scratch, signed};
use llmc_plan::op::chunk as plan;

const ACCUMULATE: &str = "accumulate";
const DROPOUT: &str = "dropout";
const INITIALISE: &str = "initialise";
const NORM: &str = "squared_norm";

/// Blocks of a loop over `n` elements, `a_block` a round: four rounds each, so that the last wave of blocks is short.
fn blocks(n: i64, a_block: i64) -> i64 {
    ceil(n, 4 * a_block)
}

/// `acc += x` in f32.
///
/// # Errors
/// Operands that do not fit.
pub fn accumulate(x: &Tensor, acc: &Tensor) -> Result<()> {
    let (n, e) = (elements(x), element(x, ACCUMULATE)?);
    require(elements(acc) == n, ACCUMULATE, || format!("{n} elements into {}", elements(acc)))?;
    Launch::new(x, ACCUMULATE, Program::plain("flat", e, aligned(&[x, acc], n)), "accumulate")?
        .tensor(x, x.kind())
        .tensor(acc, Kind::Float)
        .int(n)
        .run(blocks(n, 256 * chunk(e)), 256)
}

/// Multiplies element i of `x` by 0 where word `first + i` of the stream is below `threshold`, else by `kept`.
///
/// # Errors
/// Operands that do not fit.
pub fn dropout(x: &Tensor, stream: &Stream, first: u64, threshold: u32, kept: f32) -> Result<()> {
    let (n, e) = (elements(x), element(x, DROPOUT)?);
    Launch::new(x, DROPOUT, Program::plain("flat", e, aligned(&[x], n)), "dropout")?
        .tensor(x, x.kind())
        .int(n)
        .int(first.cast_signed())
        .stream(stream)
        .word(threshold)
        .float(f64::from(kept))
        .run(blocks(n, 256 * chunk(e)), 256)
}

/// Whether [`normal`] can fill these elements: it makes four at a time.
pub fn makes_normal(x: &Tensor, first: u64) -> bool {
    super::serves(x) && x.is_contiguous() && elements(x) % 4 == 0 && first.is_multiple_of(4)
}

/// Fills `x` with elements `first..` of the stream as normal numbers of deviation `std`.
///
/// # Errors
/// Operands that do not fit.
pub fn normal(x: &Tensor, stream: &Stream, first: u64, std: f64) -> Result<()> {
    let (n, e) = (elements(x), element(x, INITIALISE)?);
    Launch::new(x, INITIALISE, Program::plain("flat", e, aligned(&[x], n)), "normal")?
        .tensor(x, x.kind())
        .int(n)
        .int(first.cast_signed())
        .stream(stream)
        .double(std)
        .run(blocks(n, 256 * 4), 256)
}

/// Adds Σ x² to `squared` `[1]` f32, squares and sums in f64, in an order that depends on the size alone.
/// Workspace: `plan::op::chunk::norm_parts` sums of 8 bytes.
///
/// # Errors
/// Operands that do not fit.
pub fn squared_norm(x: &Tensor, squared: &Tensor) -> Result<()> {
    let (n, e) = (elements(x), element(x, NORM)?);
    let parts = signed(plan::norm_parts(crate::ops::unsigned(n)));
    let partial = scratch(x, &[parts], Kind::Double)?;
    let program = Program::plain("flat", e, aligned(&[x], n));
    Launch::new(x, NORM, program, "square_sum")?
        .tensor(x, x.kind())
        .tensor(&partial, Kind::Double)
        .int(n)
        .run(parts, 512)?;
    Launch::new(x, NORM, program, "add_total")?
        .tensor(&partial, Kind::Double)
        .tensor(squared, Kind::Float)
        .int(parts)
        .run(1, 512)
}
