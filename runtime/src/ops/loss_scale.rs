//! Dynamic loss scaling: scalars on the device, none of which the host waits for.

use llmc_plan::op::AdjustScale;
use tch::Tensor;

use crate::error::Result;

/// A scale that no longer fits f32 would make every later step overflow.
const LARGEST: f64 = (1u128 << 100) as f64;

/// `product` = `weight`·`scale`.
pub(super) fn apply(weight: &Tensor, scale: &Tensor, product: &Tensor) -> Result<()> {
    let _ = weight.f_mul_out(product, scale)?;
    Ok(())
}

/// Divides squared norms by scale². The scale is a power of two, so that nothing is rounded.
pub(super) fn remove(scale: &Tensor, squared: &[Tensor]) -> Result<()> {
    for norm in squared {
        let _ = norm.shallow_clone().f_div_(scale)?.f_div_(scale)?;
    }
    Ok(())
}

/// Multiplies `grad_scale` by `scale`, then settles the scale of the next step.
pub(super) fn adjust(
    op: &AdjustScale,
    skip: &Tensor,
    grad_scale: &Tensor,
    scale: &Tensor,
    good: &Tensor,
) -> Result<()> {
    let (mut grad_scale, mut scale, mut good) =
        (grad_scale.shallow_clone(), scale.shallow_clone(), good.shallow_clone());
    let _ = grad_scale.f_mul_(&scale)?;
    let skipped = skip.f_ne(0.0)?;
    let _ = good.f_add_scalar_(1.0)?.f_masked_fill_(&skipped, 0.0)?;
    let grown = good.f_ge(op.interval as f64)?;
    let lower = scale.f_mul_scalar(op.backoff)?.f_clamp_min(1.0)?;
    let higher = scale.f_mul_scalar(op.growth)?.f_clamp_max(LARGEST)?;
    let next = higher.f_where_self(&grown, &scale)?;
    let next = lower.f_where_self(&skipped, &next)?;
    scale.f_copy_(&next)?;
    let _ = good.f_masked_fill_(&grown, 0.0)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn scalar(value: f64) -> Tensor {
        Tensor::full([1], value, (Kind::Float, Device::Cpu))
    }

    #[test]
    fn the_scale_halves_on_a_skip_and_doubles_after_good_steps() {
        let op = AdjustScale { growth: 2.0, backoff: 0.5, interval: 3 };
        let (scale, good) = (scalar(1024.0), scalar(0.0));
        let mut seen = Vec::new();
        for skipped in [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0] {
            let grad_scale = scalar(1.5);
            let used = scale.double_value(&[0]);
            adjust(&op, &scalar(skipped), &grad_scale, &scale, &good).expect("adjust");
            assert_eq!(grad_scale.double_value(&[0]), 1.5 * used);
            seen.push((scale.double_value(&[0]), good.double_value(&[0])));
        }
        let want = [
            (512.0, 0.0),
            (512.0, 1.0),
            (512.0, 2.0),
            (256.0, 0.0),
            (256.0, 1.0),
            (256.0, 2.0),
            (512.0, 0.0),
            (512.0, 1.0),
        ];
        assert_eq!(seen, want);
        let low = scalar(1.0);
        adjust(&op, &scalar(1.0), &scalar(1.0), &low, &good).expect("adjust");
        assert_eq!(low.double_value(&[0]), 1.0, "never below 1");
    }

    #[test]
    fn norms_lose_the_scale() {
        let norms = [scalar(4096.0 * 4096.0 * 3.0), scalar(f64::INFINITY)];
        remove(&scalar(4096.0), &norms).expect("remove");
        assert_eq!(norms[0].double_value(&[0]), 3.0);
        assert!(norms[1].double_value(&[0]).is_infinite());
    }
}
