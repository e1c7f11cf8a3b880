//! f32 masters kept as bf16 weights and the 16 bits that those lack (Split-SGD, Kalamkar et al. 2020, arXiv
//! 2005.04680): the weight is the master rounded to nearest, halves upwards, and the rest is the master's bits less the
//! weight's, from −32,768 to 32,767. Plain tensors; `kernels/optimizer.cu` does the same inside its update.

use tch::{Kind, Tensor};

use super::scratch;
use crate::error::Result;

/// Half a unit of a bf16, in the bits of an f32.
const HALF: i64 = 0x8000;

/// Takes `master` (f32, flat, used up) apart. `work`: i32, as long.
///
/// # Errors
/// Operands that do not fit.
pub(crate) fn split(master: &Tensor, work: &Tensor, weights: &Tensor, missing: &Tensor) -> Result<()> {
    let (mut bits, mut upper) = (master.f_view_dtype(Kind::Int)?, work.shallow_clone());
    upper.f_copy_(&bits)?;
    let _ = upper.f_add_scalar_(HALF)?.f_bitwise_right_shift_tensor_scalar_(16)?;
    weights.f_view_dtype(Kind::Int16)?.f_copy_(&upper)?;
    let _ = upper.f_bitwise_left_shift_tensor_scalar_(16)?;
    let _ = bits.f_sub_(&upper)?;
    missing.shallow_clone().f_copy_(&bits)?;
    Ok(())
}

/// Puts `master` (f32, flat) together. `work`: i32, as long.
///
/// # Errors
/// Operands that do not fit.
pub(crate) fn join(weights: &Tensor, missing: &Tensor, work: &Tensor, master: &Tensor) -> Result<()> {
    let (mut bits, mut rest) = (master.f_view_dtype(Kind::Int)?, work.shallow_clone());
    bits.f_copy_(&weights.f_view_dtype(Kind::Int16)?)?;
    rest.f_copy_(missing)?;
    let _ = bits.f_bitwise_left_shift_tensor_scalar_(16)?.f_add_(&rest)?;
    Ok(())
}

/// The masters of flat weights, in new memory.
///
/// # Errors
/// Operands that do not fit.
pub(crate) fn joined(weights: &Tensor, missing: &Tensor) -> Result<Tensor> {
    let master = scratch(weights, &weights.size(), Kind::Float)?;
    join(weights, missing, &scratch(weights, &weights.size(), Kind::Int)?, &master)?;
    Ok(master)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every master comes back to the bit, and its weight is the nearest bf16.
    #[test]
    fn nothing_is_lost() {
        let special =
            [0.0, -0.0, 1.0, -1.5, 1.0 + 1.0 / 256.0, f32::MAX, f32::MIN_POSITIVE, 1e-45, f32::INFINITY];
        let bits = (0..200_000u32).map(|i| i.wrapping_mul(2_654_435_761)).map(f32::from_bits);
        let values: Vec<f32> = special.into_iter().chain(bits.filter(|x| !x.is_nan())).collect();
        let master = Tensor::from_slice(&values);
        let n = master.size1().expect("flat");
        let cpu = tch::Device::Cpu;
        let (weights, missing) =
            (Tensor::zeros([n], (Kind::BFloat16, cpu)), Tensor::zeros([n], (Kind::Int16, cpu)));
        let (work, back) = (Tensor::zeros([n], (Kind::Int, cpu)), Tensor::zeros([n], (Kind::Float, cpu)));
        split(&master.copy(), &work, &weights, &missing).expect("split");
        join(&weights, &missing, &work, &back).expect("join");
        assert!(back.view_dtype(Kind::Int).equal(&master.view_dtype(Kind::Int)));
        // To nearest: where libtorch rounds otherwise it was a half, which it rounds to even.
        let other = weights.ne_tensor(&master.to_kind(Kind::BFloat16));
        let halves = missing.eq(-HALF);
        assert!(other.logical_and(&halves.logical_not()).any().int64_value(&[]) == 0);
    }
}
