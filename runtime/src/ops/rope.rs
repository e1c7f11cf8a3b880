//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864) in the rotate-half convention of Hugging Face's
//! LLaMA, and the context extensions that change its frequencies.

use llmc_plan::model::{Rope, RopeMethod};
use llmc_plan::op::{RopeRotate, chunk};
use tch::Tensor;

use super::quantise::{cleared, magnitude};
use super::{backend, blocks, elements, expect_shape, is_math, math_bytes, math_kind, require, scratch};
use super::{signed, unsigned};
use crate::cuda;
use crate::error::Result;

const ROTATE: &str = "rope.rotate";
const TABLES: &str = "rope.tables";

/// Angle per position of each pair of dimensions, `head_dim/2` values, and the factor on cosine and sine.
///
/// - `none`: θ^(−2i/d).
/// - `pi`: positions, hence frequencies, divided by the factor (Chen et al. 2023, arXiv 2306.15595).
/// - `ntk`: base θ·factor^(d/(d−2)), so that the lowest frequency is interpolated by the factor and the highest
///   kept (bloc97 2023, "NTK-aware scaled RoPE"; YaRN paper, definition 1).
/// - `yarn`: by-parts interpolation between α = 1 and β = 32 rotations over the original context and attention
///   temperature 0.1·ln(factor) + 1 (Peng et al. 2023, arXiv 2309.00071, equations 18–22; the correction range is
///   rounded outwards as in Hugging Face `modeling_rope_utils.py`, `_compute_yarn_parameters`).
/// - `llama3`: wavelengths above original/1 divided by the factor, below original/4 kept, smooth between (Llama
///   3.1; `_compute_llama3_parameters` in the same file, low and high frequency factor 1 and 4).
pub fn frequencies(rope: &Rope, head_dim: u64) -> (Vec<f64>, f64) {
    let d = head_dim as f64;
    let half = head_dim / 2;
    let base = match rope.method {
        RopeMethod::Ntk if head_dim > 2 => rope.theta * libm::pow(rope.factor, d / (d - 2.0)),
        _ => rope.theta,
    };
    let plain = (0..half).map(|i| libm::pow(base, -2.0 * i as f64 / d));
    match rope.method {
        RopeMethod::None | RopeMethod::Ntk => (plain.collect(), 1.0),
        RopeMethod::Pi => (plain.map(|f| f / rope.factor).collect(), 1.0),
        RopeMethod::Yarn => yarn(rope, d, plain),
        RopeMethod::Llama3 => (plain.map(|f| llama3(rope, f)).collect(), 1.0),
    }
}

fn yarn(rope: &Rope, d: f64, plain: impl Iterator<Item = f64>) -> (Vec<f64>, f64) {
    const BETA_FAST: f64 = 32.0;
    const BETA_SLOW: f64 = 1.0;
    let original = rope.original_context as f64;
    // The dimension pair that turns `rotations` times over the original context.
    let pair = |rotations: f64| {
        d * libm::log(original / (rotations * std::f64::consts::TAU)) / (2.0 * libm::log(rope.theta))
    };
    let low = libm::floor(pair(BETA_FAST)).max(0.0);
    let high = libm::ceil(pair(BETA_SLOW)).min(d - 1.0);
    let width = if high > low { high - low } else { 0.001 };
    let frequencies = plain.enumerate().map(|(i, f)| {
        let interpolated = ((i as f64 - low) / width).clamp(0.0, 1.0);
        f / rope.factor * interpolated + f * (1.0 - interpolated)
    });
    let attention = if rope.factor > 1.0 { 0.1 * libm::log(rope.factor) + 1.0 } else { 1.0 };
    (frequencies.collect(), attention)
}

fn llama3(rope: &Rope, frequency: f64) -> f64 {
    const LOW: f64 = 1.0;
    const HIGH: f64 = 4.0;
    let original = rope.original_context as f64;
    let wavelength = std::f64::consts::TAU / frequency;
    if wavelength > original / LOW {
        frequency / rope.factor
    } else if wavelength < original / HIGH {
        frequency
    } else {
        let smooth = (original / wavelength - LOW) / (HIGH - LOW);
        (1.0 - smooth) * frequency / rope.factor + smooth * frequency
    }
}

/// Fills `cos` and `sin` `[context, head_dim/2]`. Angles are computed in f64: Hugging Face's f32 product of
/// position and frequency is off by up to 5e-4 at position 8,192.
pub(super) fn tables(rope: &Rope, cos: &Tensor, sin: &Tensor) -> Result<()> {
    let (context, half) = super::matrix(cos, TABLES)?;
    expect_shape(sin, &[context, half], TABLES, "sin")?;
    let (frequencies, attention) = frequencies(rope, 2 * unsigned(half));
    let mut row = vec![0.0f64; frequencies.len()];
    for position in 0..context {
        for (table, function) in [(cos, libm::cos as fn(f64) -> f64), (sin, libm::sin)] {
            for (slot, f) in row.iter_mut().zip(&frequencies) {
                *slot = attention * function(position as f64 * f);
            }
            table.f_get(position)?.f_copy_(&Tensor::f_from_slice(&row)?)?;
        }
    }
    Ok(())
}

/// Heads in a packed row `[q heads | k heads | v heads]`.
#[derive(Clone, Copy, Debug)]
pub struct Packed {
    /// Query heads.
    pub heads: i64,
    /// Key heads, and as many value heads.
    pub kv_heads: i64,
    /// Width of one head.
    pub head_dim: i64,
}

impl Packed {
    /// Of an op.
    pub fn of(op: &RopeRotate) -> Packed {
        Packed { heads: signed(op.heads), kv_heads: signed(op.kv_heads), head_dim: signed(op.head_dim) }
    }

    /// Columns of a packed row.
    pub fn width(&self) -> i64 {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

/// Rotates queries and keys of `qkv` `[n, width]` in place by the rows `positions` `[n]` of `cos` and `sin`
/// `[context, head_dim/2]`: `(x₁, x₂) → (x₁·cos − x₂·sin, x₂·cos + x₁·sin)` for the two halves of a head.
/// `inverse` rotates back, which is the gradient up to the attention factor in the tables. `most` `[1]` f32 becomes the
/// largest |qkv|.
pub(super) fn rotate(
    (cos, sin): (&Tensor, &Tensor),
    positions: &Tensor,
    qkv: &Tensor,
    packed: Packed,
    inverse: bool,
    most: Option<&Tensor>,
) -> Result<()> {
    let n = elements(positions);
    let (rotated, half) = (packed.heads + packed.kv_heads, packed.head_dim / 2);
    require(packed.head_dim % 2 == 0, ROTATE, || format!("head_dim must be even, is {}", packed.head_dim))?;
    expect_shape(qkv, &[n, packed.width()], ROTATE, "qkv")?;
    if cuda::serves(qkv) {
        let angles = cuda::rope::Angles { cos, sin, positions };
        return cuda::rope::rotate(angles, qkv, packed, inverse, cleared(most)?);
    }
    let kind = math_kind(qkv.kind());
    require(cos.kind() == kind && sin.kind() == kind, ROTATE, || format!("tables must be {kind:?}"))?;
    let width = unsigned(rotated * packed.head_dim);
    let step = signed(chunk::rope(backend(qkv), unsigned(n), width, math_bytes(qkv.kind())));
    let angles = scratch(qkv, &[3, step, 1, half], kind)?;
    let product = scratch(qkv, &[step, rotated, half], kind)?;
    let wide =
        if is_math(qkv.kind()) { None } else { Some(scratch(qkv, &[step, rotated, packed.head_dim], kind)?) };
    for (start, rows) in blocks(n, step) {
        let at = positions.f_narrow(0, start, rows)?;
        let angles = angles.f_narrow(1, 0, rows)?;
        let (c, mut s, mut minus) = (angles.f_get(0)?, angles.f_get(1)?, angles.f_get(2)?);
        let _ = cos.f_index_select_out(&c.f_view([rows, half])?, 0, &at)?;
        let _ = sin.f_index_select_out(&s.f_view([rows, half])?, 0, &at)?;
        let _ = s.f_neg_out(&minus)?;
        if inverse {
            std::mem::swap(&mut s, &mut minus);
        }
        let narrow = qkv
            .f_narrow(0, start, rows)?
            .f_narrow(1, 0, rotated * packed.head_dim)?
            .f_unflatten(1, [rotated, packed.head_dim])?;
        let x = match &wide {
            None => narrow.shallow_clone(),
            Some(w) => super::load(w, &narrow)?,
        };
        let (mut x1, mut x2) = (x.f_narrow(2, 0, half)?, x.f_narrow(2, half, half)?);
        let turned = product.f_narrow(0, 0, rows)?;
        let _ = x1.f_mul_out(&turned, &s)?;
        let _ = x1.f_mul_(&c)?.f_addcmul_(&x2, &minus)?;
        let _ = x2.f_mul_(&c)?.f_add_(&turned)?;
        if wide.is_some() {
            narrow.shallow_clone().f_copy_(&x)?;
        }
    }
    drop((angles, product, wide));
    most.map_or(Ok(()), |most| magnitude(qkv, most))
}
