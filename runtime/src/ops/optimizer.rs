//! One optimizer step of one parameter; learning rate, gradient scale, skip flag and step number are scalars on
//! the device.

use llmc_plan::op::Optimize;
use llmc_plan::plan::OptimizerKind;
use tch::{Kind, Tensor};

use super::elementwise::flat_block;
use super::philox::Stream;
use super::{adamw, blocks, elements, load, require, scratch};
use crate::cuda;
use crate::cuda::optimizer::Weights;
use crate::error::Result;

const OP: &str = "optimize";

/// Device scalars of a step, each `[1]` f32, and its random numbers.
pub(super) struct Scalars<'a> {
    /// Learning rate, before the parameter's own factor.
    pub lr: &'a Tensor,
    /// Gradients are divided by it.
    pub grad_scale: &'a Tensor,
    /// 1 leaves parameter and states as they are.
    pub skip: &'a Tensor,
    /// Steps made, this one included.
    pub step: &'a Tensor,
    /// Random words of this parameter and step, and the index of its first element here in the whole parameter.
    pub random: (Stream, u64),
}

/// Updates a parameter, however it is kept, and `states` by `gradient`. On the CPU AdamW divides the gradient by its
/// scale in place; the others leave it. Nothing waits for the device.
pub(super) fn optimize(
    op: &Optimize,
    gradient: &Tensor,
    scalars: &Scalars<'_>,
    kept: Weights<'_>,
    states: &[Tensor],
) -> Result<()> {
    let lr = scalars.lr.f_mul_scalar(op.lr_multiplier)?;
    let adamw = matches!(op.kind, OptimizerKind::Adamw | OptimizerKind::PagedAdamw);
    let (master, copy) = match (kept, states) {
        (_, [m, v]) if adamw && cuda::serves(gradient) => {
            return adamw::fused(op, gradient, scalars, kept, [m, v]);
        }
        _ if gradient.kind() == Kind::BFloat16 => {
            // A twin for tests of what is one kernel on a GPU.
            let wide = load(&scratch(gradient, &gradient.size(), Kind::Float)?, gradient)?;
            return optimize(op, &wide, scalars, kept, states);
        }
        (Weights::Whole(master), _) => (master, None),
        (Weights::Master { master, copy }, _) => (master, Some(copy)),
        (Weights::Split { weights, missing }, [m, v]) if adamw => {
            return adamw::in_blocks(op, gradient, scalars, &lr, weights, Some(missing), [m, v]);
        }
        (Weights::Stochastic(weights), [m, v]) if adamw => {
            return adamw::in_blocks(op, gradient, scalars, &lr, weights, None, [m, v]);
        }
        _ => return require(false, OP, || format!("{:?} needs an f32 master", op.kind)),
    };
    match (op.kind, states) {
        (OptimizerKind::Adamw | OptimizerKind::PagedAdamw, [m, v]) => {
            adamw::step(op, gradient, scalars, &lr, master, [m, v])?;
        }
        (OptimizerKind::Lion, [m]) => lion(op, gradient, scalars, &lr, master, m)?,
        (OptimizerKind::Adafactor, [r, c]) => adafactor_matrix(op, gradient, scalars, &lr, master, r, c)?,
        (OptimizerKind::Adafactor, [v]) => adafactor_vector(op, gradient, scalars, &lr, master, v)?,
        (kind, states) => require(false, OP, || format!("{kind:?} with {} states", states.len()))?,
    }
    copy.map_or(Ok(()), |copy| super::elementwise::copy(master, copy))
}

/// What makes a step of plain tensors leave everything as it is when the skip flag is set, without asking the
/// device: gradients count as zero, since they may not be finite, and every rate as zero.
struct Gate {
    /// The flag as a boolean.
    skip: Tensor,
    /// 1 − flag.
    keep: Tensor,
}

impl Gate {
    fn new(scalars: &Scalars<'_>) -> Result<Gate> {
        Ok(Gate { skip: scalars.skip.f_ne(0.0)?, keep: scalars.skip.f_neg()?.f_add_scalar(1.0)? })
    }

    /// `t`, or zeros in its place.
    fn shut(&self, mut t: Tensor) -> Result<Tensor> {
        Ok(t.f_masked_fill_(&self.skip, 0.0)?)
    }
}

/// Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2): `c = β₁m + (1−β₁)g`, `p −= lr·(sign(c) + λp)`,
/// `m = β₂m + (1−β₂)g`.
fn lion(
    op: &Optimize,
    gradient: &Tensor,
    scalars: &Scalars<'_>,
    lr: &Tensor,
    p: &Tensor,
    m: &Tensor,
) -> Result<()> {
    let [g, p, m] = [gradient, p, m].map(|t| t.f_view([-1]));
    let (g, p, m) = (g?, p?, m?);
    let step = flat_block(&g, Kind::Float);
    let work = scratch(&g, &[2, step], Kind::Float)?;
    let gate = Gate::new(scalars)?;
    let (lr, moment_rate) = (lr.f_mul(&gate.keep)?, gate.keep.f_mul_scalar(1.0 - op.beta2)?);
    for (start, len) in blocks(elements(&g), step) {
        let mut gc = load(&work.f_get(0)?, &g.f_narrow(0, start, len)?)?;
        let mut c = load(&work.f_get(1)?, &m.f_narrow(0, start, len)?)?;
        let (mut pc, mut mc) = (p.f_narrow(0, start, len)?, m.f_narrow(0, start, len)?);
        let _ = gc.f_div_(scalars.grad_scale)?;
        gc = gate.shut(gc)?;
        let _ = mc.f_lerp_tensor_(&gc, &moment_rate)?;
        let _ = c.f_lerp_(&gc, 1.0 - op.beta1)?.f_sign_()?;
        // The gradient block is done with: it takes λp.
        gc.f_copy_(&pc)?;
        let _ = gc.f_mul_scalar_(op.weight_decay)?;
        let _ = c.f_add_(&gc)?.f_mul_(&lr)?;
        let _ = pc.f_sub_(&c)?;
    }
    Ok(())
}

/// 1 − β̂₂ = t^−0.8 as a device scalar (Shazeer and Stern 2018, arXiv 1804.04235, section 7.2).
fn adafactor_rate(scalars: &Scalars<'_>) -> Result<Tensor> {
    Ok(scalars.step.f_pow_tensor_scalar(-0.8)?)
}

/// Adafactor on a matrix (arXiv 1804.04235, algorithm 4 without relative step size): `r` and `c` keep decaying
/// means of g² + ε along rows and columns, `u = g/√(r·c/mean(r))` is clipped to root mean square 1.
fn adafactor_matrix(
    op: &Optimize,
    gradient: &Tensor,
    scalars: &Scalars<'_>,
    lr: &Tensor,
    p: &Tensor,
    r: &Tensor,
    c: &Tensor,
) -> Result<()> {
    let (rows, columns) = super::matrix(p, OP)?;
    let gate = Gate::new(scalars)?;
    let (rate, lr) = (adafactor_rate(scalars)?.f_mul(&gate.keep)?, &lr.f_mul(&gate.keep)?);
    let step = (flat_block(p, Kind::Float) / columns.max(1)).clamp(1, rows.max(1));
    let work = scratch(p, &[2, step, columns], Kind::Float)?;
    let column_sum = Tensor::f_zeros([columns], (Kind::Float, p.device()))?;
    let row_mean = scratch(p, &[rows], Kind::Float)?;
    let scaled = |start: i64, len: i64| -> Result<Tensor> {
        let mut g = load(&work.f_get(0)?, &gradient.f_narrow(0, start, len)?)?;
        gate.shut(g.f_div_(scalars.grad_scale)?)
    };
    for (start, len) in blocks(rows, step) {
        let square = work.f_get(1)?.f_narrow(0, 0, len)?;
        let _ = scaled(start, len)?.f_square_out(&square)?;
        let square = square.shallow_clone().f_add_scalar_(op.eps)?;
        let _ = square.f_mean_out(&row_mean.f_narrow(0, start, len)?, 1i64, false, None)?;
        let _ = column_sum.shallow_clone().f_add_(&square.f_sum_dim_intlist(0i64, false, None)?)?;
    }
    let column_mean = column_sum.shallow_clone().f_div_scalar_(rows as f64)?;
    let (mut r, mut c) = (r.shallow_clone(), c.shallow_clone());
    let _ = r.f_lerp_tensor_(&row_mean, &rate)?;
    let _ = c.f_lerp_tensor_(&column_mean, &rate)?;
    // u = g · (r/mean(r))^−½ · c^−½
    let mut row_factor = row_mean;
    row_factor.f_copy_(&r)?;
    let _ = row_factor.f_div_(&r.f_mean(None)?)?.f_rsqrt_()?;
    let mut column_factor = column_mean;
    column_factor.f_copy_(&c)?;
    let _ = column_factor.f_rsqrt_()?;
    let unclipped = |start: i64, len: i64| -> Result<Tensor> {
        let mut u = scaled(start, len)?;
        let _ = u.f_mul_(&row_factor.f_narrow(0, start, len)?.f_view([len, 1])?)?;
        // A skipped first step has no second moment to divide by.
        gate.shut(u.f_mul_(&column_factor)?)
    };
    let mut sum = Tensor::f_zeros([1], (Kind::Double, p.device()))?;
    for (start, len) in blocks(rows, step) {
        let square = work.f_get(1)?.f_narrow(0, 0, len)?;
        let _ = unclipped(start, len)?.f_square_out(&square)?;
        let _ = sum.f_add_(&square.f_sum(Kind::Float)?)?;
    }
    let factor = clipped_rate(&sum, elements(p), lr)?;
    for (start, len) in blocks(rows, step) {
        apply(op, unclipped(start, len)?, &factor, lr, &p.f_narrow(0, start, len)?)?;
    }
    Ok(())
}

/// Adafactor on a vector, whose second moment `v` is kept whole.
fn adafactor_vector(
    op: &Optimize,
    gradient: &Tensor,
    scalars: &Scalars<'_>,
    lr: &Tensor,
    p: &Tensor,
    v: &Tensor,
) -> Result<()> {
    let gate = Gate::new(scalars)?;
    let (rate, lr) = (adafactor_rate(scalars)?.f_mul(&gate.keep)?, &lr.f_mul(&gate.keep)?);
    let mut g = gate.shut(gradient.f_div(scalars.grad_scale)?)?;
    let square = g.f_square()?.f_add_scalar_(op.eps)?;
    let mut v = v.shallow_clone();
    let _ = v.f_lerp_tensor_(&square, &rate)?;
    let u = gate.shut(g.f_mul_(&v.f_rsqrt()?)?)?;
    let factor = clipped_rate(&u.f_square()?.f_sum(Kind::Float)?.f_view([1])?, elements(p), lr)?;
    apply(op, u, &factor, lr, p)
}

/// lr / max(1, RMS(u)/d) with d = 1 (arXiv 1804.04235, section 6), from Σ u².
fn clipped_rate(sum: &Tensor, n: i64, lr: &Tensor) -> Result<Tensor> {
    let rms = sum.f_div_scalar(n as f64)?.f_sqrt()?.f_clamp_min(1.0)?.f_to_kind(Kind::Float)?;
    Ok(lr.f_div(&rms)?)
}

/// `p −= factor·u + lr·λ·p`; `u` is used up.
fn apply(op: &Optimize, mut u: Tensor, factor: &Tensor, lr: &Tensor, p: &Tensor) -> Result<()> {
    let mut p = p.shallow_clone();
    let _ = u.f_mul_(factor)?;
    let keep = lr.f_mul_scalar(-op.weight_decay)?.f_add_scalar(1.0)?;
    let _ = p.f_mul_(&keep)?.f_sub_(&u)?;
    Ok(())
}
