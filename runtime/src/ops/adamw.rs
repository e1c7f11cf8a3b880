//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101): the fused kernel on a device, libtorch's own on the CPU, and
//! the CPU's twin of the kernel for bf16 moments, which libtorch has not.

use llmc_plan::op::Optimize;
use tch::{Kind, Tensor};

use super::elementwise::flat_block;
use super::optimizer::Scalars;
use super::philox::Stream;
use super::{blocks, elements, require, scratch, split, unsigned};
use crate::cuda::optimizer::{Settings, Weights, adamw};
use crate::error::Result;
use crate::shim::{self, AdamwScalars, AdamwTensors};

const OP: &str = "optimize";

/// The kernel, which also writes a bf16 copy.
pub(super) fn fused(
    op: &Optimize,
    gradient: &Tensor,
    scalars: &Scalars<'_>,
    kept: Weights<'_>,
    moments: [&Tensor; 2],
) -> Result<()> {
    let (weights, copy) = match kept {
        Weights::Master { master, copy } if copy.kind() != Kind::BFloat16 => {
            (Weights::Whole(master), Some((master, copy)))
        }
        other => (other, None),
    };
    let settings = Settings {
        beta1: op.beta1,
        beta2: op.beta2,
        eps: op.eps,
        weight_decay: op.weight_decay,
        lr_multiplier: op.lr_multiplier,
        lr: scalars.lr,
        grad_scale: scalars.grad_scale,
        skip: scalars.skip,
        step: scalars.step,
        stream: &scalars.random.0,
        first: scalars.random.1,
    };
    adamw(&settings, gradient, weights, moments)?;
    copy.map_or(Ok(()), |(master, copy)| super::elementwise::copy(master, copy))
}

/// A step on a f32 master, on the CPU.
pub(super) fn step(
    op: &Optimize,
    gradient: &Tensor,
    scalars: &Scalars<'_>,
    lr: &Tensor,
    master: &Tensor,
    moments: [&Tensor; 2],
) -> Result<()> {
    let step = if moments[0].kind() == master.kind() { plain } else { bf16_moments };
    step(op, gradient, scalars, lr, master, moments)
}

/// bf16 weights whose f32 master is split, or that have none and are rounded stochastically: a block at a time becomes
/// a master, makes the step of one, and is taken apart. On the CPU; every value as the kernel makes it, but for the sum
/// order of libtorch's own step.
pub(super) fn in_blocks(
    op: &Optimize,
    gradient: &Tensor,
    scalars: &Scalars<'_>,
    lr: &Tensor,
    weights: &Tensor,
    missing: Option<&Tensor>,
    [m, v]: [&Tensor; 2],
) -> Result<()> {
    if scalars.skip.f_double_value(&[0])? != 0.0 {
        return Ok(());
    }
    require(weights.kind() == Kind::BFloat16, OP, || format!("weights in {:?}", weights.kind()))?;
    let flat = |t: &Tensor| t.f_view([-1]);
    let (gradient, weights, m, v) = (flat(gradient)?, flat(weights)?, flat(m)?, flat(v)?);
    let missing = missing.map(flat).transpose()?;
    let block = flat_block(&weights, Kind::Float);
    let (values, work) = (scratch(&weights, &[block], Kind::Float)?, scratch(&weights, &[block], Kind::Int)?);
    for (start, len) in blocks(elements(&weights), block) {
        let part = |t: &Tensor| t.f_narrow(0, start, len);
        let (master, work) = (values.f_narrow(0, 0, len)?, work.f_narrow(0, 0, len)?);
        let (weights, missing) = (part(&weights)?, missing.as_ref().map(part).transpose()?);
        match &missing {
            Some(missing) => split::join(&weights, missing, &work, &master)?,
            None => master.shallow_clone().f_copy_(&weights)?,
        }
        let (stream, first) = &scalars.random;
        let first = first.wrapping_add(unsigned(start));
        let here = Scalars { random: (*stream, first), ..*scalars };
        step(op, &part(&gradient)?, &here, lr, &master, [&part(&m)?, &part(&v)?])?;
        match &missing {
            Some(missing) => split::split(&master, &work, &weights, missing)?,
            None => round_at_random(&master, stream, first, &weights)?,
        }
    }
    Ok(())
}

/// Rounds f32 values to bf16 with the lower half of the first of each element's two words.
fn round_at_random(values: &Tensor, stream: &Stream, first: u64, weights: &Tensor) -> Result<()> {
    let size = usize::try_from(elements(values)).unwrap_or(0);
    let (mut exact, mut words) = (vec![0f32; size], vec![0u32; 2 * size]);
    values.f_copy_data(&mut exact, size)?;
    stream.words(2 * first, &mut words);
    let rounded: Vec<i16> =
        exact.iter().zip(words.iter().step_by(2)).map(|(x, word)| at_random(*x, *word)).collect();
    weights.f_view_dtype(Kind::Int16)?.f_copy_(&Tensor::f_from_slice(&rounded)?)?;
    Ok(())
}

/// Plain tensors of one format, by libtorch. Divides the gradient by its scale in place.
fn plain(
    op: &Optimize,
    gradient: &Tensor,
    scalars: &Scalars<'_>,
    lr: &Tensor,
    master: &Tensor,
    [exp_avg, exp_avg_sq]: [&Tensor; 2],
) -> Result<()> {
    let group = [AdamwTensors { param: master, grad: gradient, exp_avg, exp_avg_sq, step: scalars.step }];
    let constants = AdamwScalars {
        lr,
        beta1: op.beta1,
        beta2: op.beta2,
        weight_decay: op.weight_decay,
        eps: op.eps,
        grad_scale: Some(scalars.grad_scale),
        found_inf: Some(scalars.skip),
    };
    shim::fused_adamw(&group, &constants)
}

/// f32 master and gradient, bf16 moments rounded stochastically (Gupta et al. 2015, arXiv 1502.02551): to nearest, a
/// second moment would stop moving once an update is below half a unit, as it is at β₂ = 0.999. On the CPU, where
/// reading a scalar waits for nothing.
fn bf16_moments(
    op: &Optimize,
    gradient: &Tensor,
    scalars: &Scalars<'_>,
    lr: &Tensor,
    master: &Tensor,
    [m, v]: [&Tensor; 2],
) -> Result<()> {
    if scalars.skip.f_double_value(&[0])? != 0.0 {
        return Ok(());
    }
    let f32s = [gradient, master].map(Tensor::kind) == [Kind::Float; 2];
    require(f32s && [m, v].map(Tensor::kind) == [Kind::BFloat16; 2], OP, || {
        format!("no AdamW of {:?} with moments in {:?} and {:?}", master.kind(), m.kind(), v.kind())
    })?;
    let (t, lr) = (scalars.step.f_double_value(&[0])?, lr.f_double_value(&[0])?);
    let inverse_scale = (1.0 / scalars.grad_scale.f_double_value(&[0])?) as f32;
    let keep = (1.0 - lr * op.weight_decay) as f32;
    let rate = (lr / (1.0 - libm::pow(op.beta1, t))) as f32;
    let root = (1.0 / libm::sqrt(1.0 - libm::pow(op.beta2, t))) as f32;
    let (beta2, rest1, rest2) = (op.beta2 as f32, (1.0 - op.beta1) as f32, (1.0 - op.beta2) as f32);
    let eps = op.eps as f32;

    let flat = |t: &Tensor| t.f_view([-1]);
    let (gradient, master) = (flat(gradient)?, flat(master)?);
    let (m, v) = (flat(m)?.f_view_dtype(Kind::Int16)?, flat(v)?.f_view_dtype(Kind::Int16)?);
    let (stream, first) = &scalars.random;
    for (start, len) in blocks(elements(&master), flat_block(&master, Kind::Float)) {
        let part = |t: &Tensor| t.f_narrow(0, start, len);
        let size = usize::try_from(len).unwrap_or(0);
        let (mut p, mut g) = (vec![0f32; size], vec![0f32; size]);
        let (mut ms, mut vs) = (vec![0i16; size], vec![0i16; size]);
        part(&master)?.f_copy_data(&mut p, size)?;
        part(&gradient)?.f_copy_data(&mut g, size)?;
        part(&m)?.f_copy_data(&mut ms, size)?;
        part(&v)?.f_copy_data(&mut vs, size)?;
        // Two words an element; the first has 16 bits for a weight, which here is whole, and 16 for the first moment.
        let mut words = vec![0u32; 2 * size];
        stream.words(2 * first.wrapping_add(unsigned(start)), &mut words);
        let moments = ms.iter_mut().zip(&mut vs);
        for (((p, g), (mb, vb)), word) in p.iter_mut().zip(&g).zip(moments).zip(words.chunks_exact(2)) {
            let g = g * inverse_scale;
            let mut m = wide(*mb);
            // Fused where the kernel fuses: the same bits.
            m = rest1.mul_add(g - m, m);
            let v = (rest2 * g).mul_add(g, beta2 * wide(*vb));
            *p = (-rate).mul_add(m / v.sqrt().mul_add(root, eps), *p * keep);
            let [one, two] = [word.first(), word.get(1)].map(|w| w.copied().unwrap_or(0));
            (*mb, *vb) = (at_random(m, one >> 16), at_random(v, two));
        }
        part(&master)?.f_copy_(&Tensor::f_from_slice(&p)?)?;
        part(&m)?.f_copy_(&Tensor::f_from_slice(&ms)?)?;
        part(&v)?.f_copy_(&Tensor::f_from_slice(&vs)?)?;
    }
    Ok(())
}

/// The value of a bf16 given as bits.
fn wide(bits: i16) -> f32 {
    f32::from_bits(u32::from(bits.cast_unsigned()) << 16)
}

/// The upper half of x's bits after 16 random bits were added to them: a bf16 that is x on average.
fn at_random(x: f32, random: u32) -> i16 {
    let bits = x.to_bits();
    let rounded = if x.is_finite() { bits + (random & 0xffff) } else { bits | u32::from(x.is_nan()) << 22 };
    ((rounded >> 16) as u16).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean of many roundings is the number, and each is a neighbour.
    #[test]
    fn stochastic_rounding_is_unbiased() {
        let mut words = vec![0; 40_000];
        Stream::new(1, "round", 0).words(0, &mut words);
        for x in [1.001f32, -3.3e-20, 7.77e8] {
            let sum: f64 = words.iter().map(|w| f64::from(wide(at_random(x, *w)))).sum();
            let (mean, unit) = (sum / 40_000.0, f64::from(x.abs()) / 128.0);
            // A rounding is off by at most a unit: a standard error below unit/2/√40,000.
            assert!((mean - f64::from(x)).abs() < unit * 0.0125, "{x}: {mean}");
        }
        for x in [0.0, -0.0, 1.5, f32::INFINITY] {
            assert_eq!(wide(at_random(x, 0xffff)), x, "what bf16 holds stays");
        }
        assert!(wide(at_random(f32::from_bits(0x7f80_0001), 0)).is_nan());
    }
}
