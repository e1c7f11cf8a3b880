//! Cross-entropy in nats. Loss = Σ w·nll / Σ w over the whole optimizer step; columns beyond the vocabulary do
//! not exist.

use llmc_plan::op::chunk;
use tch::{Kind, Tensor};

use super::{backend, blocks, expect_shape, is_math, load, math_bytes, math_kind, matrix, require, scratch};
use super::{signed, unsigned};
use crate::cuda;
use crate::error::Result;

const OP: &str = "cross_entropy";

/// Adds Σ w·nll of `logits` `[n, v]` to `loss_sum` `[1]`. With `inverse_weight` `[1]` the logits are replaced by
/// `(softmax − onehot(target))·w·inverse_weight`, and columns from `vocab` on by 0; without, they stay. `targets`
/// `[n]` i64 lie inside the vocabulary whatever their weight; `weights` `[n]` are f32. With `by_source`, sources `[n]` i32
/// and sums `[s]`, Σ w·nll of each source's rows is added to its sum.
pub(super) fn cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    weights: &Tensor,
    loss_sum: &Tensor,
    vocab: i64,
    inverse_weight: Option<&Tensor>,
    by_source: Option<[&Tensor; 2]>,
) -> Result<()> {
    let (n, columns) = matrix(logits, OP)?;
    require((1..=columns).contains(&vocab), OP, || format!("vocabulary of {vocab} in {columns} columns"))?;
    expect_shape(targets, &[n], OP, "targets")?;
    expect_shape(weights, &[n], OP, "weights")?;
    if let Some([sources, _]) = by_source {
        expect_shape(sources, &[n], OP, "sources")?;
    }
    if cuda::serves(logits) {
        return cuda::loss::cross_entropy(
            logits,
            targets,
            weights,
            loss_sum,
            vocab,
            inverse_weight,
            by_source,
        );
    }
    let kind = math_kind(logits.kind());
    let step = signed(chunk::loss(backend(logits), unsigned(n), unsigned(vocab), math_bytes(kind)));
    let in_place = inverse_weight.is_some() && is_math(logits.kind());
    let work = if in_place { None } else { Some(scratch(logits, &[step, vocab], kind)?) };
    let small = scratch(logits, &[3, step, 1], kind)?;
    let doubles = scratch(logits, &[2, step], Kind::Double)?;
    let mut total = Tensor::f_zeros([1], (Kind::Double, logits.device()))?;
    let mut apart = match by_source {
        Some([sources, sums]) => Some((sources, sums.f_to_kind(Kind::Double)?)),
        None => None,
    };
    for (start, rows) in blocks(n, step) {
        let all = logits.f_narrow(0, start, rows)?;
        let mut real = all.f_narrow(1, 0, vocab)?;
        let target = targets.f_narrow(0, start, rows)?.f_view([rows, 1])?;
        let weight = weights.f_narrow(0, start, rows)?;
        let small = small.f_narrow(1, 0, rows)?;
        let (mut m, mut t, mut s) = (small.f_get(0)?, small.f_get(1)?, small.f_get(2)?);
        let mut p = match &work {
            None => real.shallow_clone(),
            Some(w) => load(w, &real)?,
        };
        let _ = p.f_amax_out(&m, 1i64, true)?;
        let _ = p.f_gather_out(&t, 1, &target, false)?;
        let _ = p.f_sub_(&m)?.f_exp_()?;
        let _ = p.f_sum_intlist_out(&s, 1i64, true, None)?;
        // nll = max + log Σ exp(logit − max) − logit[target]
        let _ = m.f_sub_(&t)?;
        let _ = s.f_log_out(&t)?;
        let _ = m.f_add_(&t)?;
        let (mut nll64, mut w64) =
            (doubles.f_get(0)?.f_narrow(0, 0, rows)?, doubles.f_get(1)?.f_narrow(0, 0, rows)?);
        nll64.f_copy_(&m.f_view([rows])?)?;
        w64.f_copy_(&weight)?;
        let _ = total.f_add_(&nll64.f_dot(&w64)?)?;
        if let Some((sources, sums)) = &mut apart {
            let _ = nll64.f_mul_(&w64)?;
            // Row after row on the CPU; f64 on another device, where this is no fixed order, is met in tests alone.
            let _ = sums.f_index_add_(0, &sources.f_narrow(0, start, rows)?, &nll64)?;
        }
        if let Some(inverse_weight) = inverse_weight {
            t.f_copy_(&weight.f_view([rows, 1])?)?;
            let _ = t.f_mul_(inverse_weight)?;
            let _ = s.f_reciprocal_()?.f_mul_(&t)?;
            let _ = p.f_mul_(&s)?;
            let _ = p.f_scatter_add_(1, &target, &t.f_neg_()?)?;
            if work.is_some() {
                real.f_copy_(&p)?;
            }
            let _ = all.f_narrow(1, vocab, columns - vocab)?.f_zero_()?;
        }
    }
    let _ = loss_sum.shallow_clone().f_add_(&total)?;
    if let (Some([_, sums]), Some((_, apart))) = (by_source, apart) {
        sums.shallow_clone().f_copy_(&apart)?;
    }
    Ok(())
}
