//! 8-bit floats with one scale a tensor.

use tch::{Kind, Tensor};

use super::launch::{Launch, aligned, ceil, chunk, element};
use super::source::Program;
use crate::error::{Error, Result};
use crate::ops::{elements, expect_shape, matrix, require};

const AMAX: &str = "amax";
const OP: &str = "quantise";

/// Oldest card with conversions to 8-bit floats.
const OLDEST: u32 = 89;

/// Raises `amax` `[1]` f32 (not negative: clear it first) to the largest |x|. NaN counts as larger than everything.
///
/// # Errors
/// Operands that do not fit.
pub fn amax(x: &Tensor, amax: &Tensor) -> Result<()> {
    let (n, e) = (elements(x), element(x, AMAX)?);
    Launch::new(x, AMAX, Program::plain("flat", e, aligned(&[x], n)), "largest")?
        .tensor(x, x.kind())
        .tensor(amax, Kind::Float)
        .int(n)
        .run(ceil(n, 512 * 4 * chunk(e)).min(132 * 4), 512)
}

/// `scale` `[1]` f32 = amax ÷ the format's largest value (1 when amax is 0), `q` `[n, c]` = x ÷ scale and `transposed`
/// `[c, n]` its transpose, of `x` `[n, c]` bf16 or f16 in one pass. Either output may be left out; both have the same
/// format, e4m3 or e5m2.
///
/// # Errors
/// Operands that do not fit; a card older than compute capability 8.9.
pub fn quantise(
    x: &Tensor,
    amax: &Tensor,
    scale: &Tensor,
    q: Option<&Tensor>,
    transposed: Option<&Tensor>,
) -> Result<()> {
    let ((n, c), e) = (matrix(x, OP)?, element(x, OP)?);
    require(x.kind() != Kind::Float, OP, || "the kernel takes 16-bit floats, given f32".into())?;
    let capability = super::gpu(x)?.capability;
    if capability < OLDEST {
        return Err(Error::Cuda(format!(
            "8-bit floats need compute capability 8.9 or newer, the card has {}.{}",
            capability / 10,
            capability % 10
        )));
    }
    let Some(format) = q.or(transposed).map(Tensor::kind) else { return Ok(()) };
    let mode = match format {
        Kind::Float8e4m3fn => 0,
        Kind::Float8e5m2 => 1,
        other => return require(false, OP, || format!("output must be an 8-bit float, is {other:?}")),
    };
    if let Some(q) = q {
        expect_shape(q, &[n, c], OP, "q")?;
    }
    if let Some(transposed) = transposed {
        expect_shape(transposed, &[c, n], OP, "transposed")?;
    }
    let whole = |t: Option<&Tensor>, width| t.is_none_or(|t| aligned(&[t], width));
    // Eight bytes a row of q and sixteen of its transpose are whole accesses.
    let fits = aligned(&[x], c) && whole(q, 16) && whole(transposed, n);
    let program = Program { mode, ..Program::plain(OP, e, fits) };
    Launch::new(x, OP, program, "quantise")?
        .tensor(x, x.kind())
        .tensor(amax, Kind::Float)
        .tensor(scale, Kind::Float)
        .optional(q, format)
        .optional(transposed, format)
        .int(n)
        .int(c)
        .run_with((ceil(c, 128), ceil(n, 128)), 256, 0)
}
