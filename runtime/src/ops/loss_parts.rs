//! Cross-entropy where tensor-parallel ranks share the columns of the logits: plain tensors on every device.

use llmc_plan::op::chunk;
use tch::{Kind, Tensor};

use super::embedding::locate;
use super::{backend, blocks, expect_shape, is_math, load, math_bytes, math_kind, matrix, require, scratch};
use super::{signed, unsigned};
use crate::error::Result;

const OP: &str = "cross_entropy.parts";

/// Writes `[n, 3]`: largest of the first `vocab` columns of `logits` `[n, v]`, Σ exp(logit − largest), logit of the
/// target; `targets` `[n]` i64 count from `first`, and one that is elsewhere gives 0.
pub(super) fn part(logits: &Tensor, targets: &Tensor, part: &Tensor, first: u64, vocab: i64) -> Result<()> {
    let (n, columns) = matrix(logits, OP)?;
    require((0..=columns).contains(&vocab), OP, || format!("vocabulary of {vocab} in {columns} columns"))?;
    expect_shape(targets, &[n], OP, "targets")?;
    expect_shape(part, &[n, 3], OP, "part")?;
    if vocab == 0 {
        let _ = part.f_narrow(1, 0, 1)?.f_fill_(f64::NEG_INFINITY)?;
        let _ = part.f_narrow(1, 1, 2)?.f_zero_()?;
        return Ok(());
    }
    let kind = math_kind(logits.kind());
    let step = signed(chunk::loss(backend(logits), unsigned(n), unsigned(vocab), math_bytes(kind)));
    let work = scratch(logits, &[step, vocab], kind)?;
    let small = scratch(logits, &[3, step, 1], kind)?;
    for (start, rows) in blocks(n, step) {
        let small = small.f_narrow(1, 0, rows)?;
        let (m, s, mut t) = (small.f_get(0)?, small.f_get(1)?, small.f_get(2)?);
        let mut p = load(&work, &logits.f_narrow(0, start, rows)?.f_narrow(1, 0, vocab)?)?;
        let (place, outside) = locate(&targets.f_narrow(0, start, rows)?, first, vocab)?;
        let _ = p.f_amax_out(&m, 1i64, true)?;
        let _ = p.f_gather_out(&t, 1, &place.f_view([rows, 1])?, false)?;
        let _ = t.f_masked_fill_(&outside.f_view([rows, 1])?, 0.0)?;
        let _ = p.f_sub_(&m)?.f_exp_()?.f_sum_intlist_out(&s, 1i64, true, None)?;
        let rows_of = part.f_narrow(0, start, rows)?;
        for (column, value) in (0..).zip([m, s, t]) {
            rows_of.f_narrow(1, column, 1)?.f_copy_(&value)?;
        }
    }
    Ok(())
}

/// What every rank's part of some rows says together: two numbers a row `[n, 1]`, the largest logit and Σ exp(logit −
/// largest), and one more to work with. Adds Σ w·nll to `loss_sum`, and each source's to its sum.
fn join(
    parts: &Tensor,
    weights: &Tensor,
    loss_sum: &Tensor,
    by_source: Option<[&Tensor; 2]>,
) -> Result<[Tensor; 3]> {
    let (all, _) = matrix(parts, OP)?;
    let n = weights.size1()?;
    require(n > 0 && all % n == 0, OP, || format!("{all} parts of {n} rows"))?;
    expect_shape(parts, &[all, 3], OP, "parts")?;
    if let Some([sources, _]) = by_source {
        expect_shape(sources, &[n], OP, "sources")?;
    }
    let parts = parts.f_view([all / n, n, 3])?;
    let small = scratch(&parts, &[3, n], parts.kind())?;
    let (m, s, mut t) = (small.f_get(0)?, small.f_get(1)?, small.f_get(2)?);
    let _ = parts.f_select(2, 0)?.f_amax_out(&m, 0i64, false)?;
    let mut e = parts.f_select(2, 0)?.f_sub(&m)?;
    let _ = e.f_exp_()?.f_mul_(&parts.f_select(2, 1)?)?.f_sum_intlist_out(&s, 0i64, false, None)?;
    drop(e);
    // nll = largest + log Σ exp(logit − largest) − logit[target], in f64 beside the weight of its row.
    let doubles = scratch(&parts, &[2, n], Kind::Double)?;
    let (mut nll, mut weight) = (doubles.f_get(0)?, doubles.f_get(1)?);
    let _ = s.f_log_out(&t)?;
    let _ = t.f_add_(&m)?;
    nll.f_copy_(&t)?;
    let _ = parts.f_select(2, 2)?.f_sum_intlist_out(&t, 0i64, false, None)?;
    weight.f_copy_(&t)?;
    let _ = nll.f_sub_(&weight)?;
    weight.f_copy_(weights)?;
    let _ = loss_sum.shallow_clone().f_add_(&nll.f_dot(&weight)?)?;
    if let Some([sources, sums]) = by_source {
        let mut apart = sums.f_to_kind(Kind::Double)?;
        let _ = apart.f_index_add_(0, sources, &nll.f_mul_(&weight)?)?;
        sums.shallow_clone().f_copy_(&apart)?;
    }
    Ok([m.f_view([n, 1])?, s.f_view([n, 1])?, t.f_view([n, 1])?])
}

/// Adds Σ w·nll of `parts` `[r·n, 3]` of all ranks to `loss_sum` `[1]`; `weights` `[n]`.
pub(super) fn evaluate(
    parts: &Tensor,
    weights: &Tensor,
    loss_sum: &Tensor,
    by_source: Option<[&Tensor; 2]>,
) -> Result<()> {
    join(parts, weights, loss_sum, by_source).map(drop)
}

/// As [`evaluate`], and replaces `logits` `[n, v]` of this rank's columns by `(softmax − onehot(target))·w·inverse_weight`,
/// columns from `vocab` on by 0.
pub(super) fn train(
    [parts, targets, weights, inverse_weight]: [&Tensor; 4],
    [logits, loss_sum]: [&Tensor; 2],
    first: u64,
    vocab: i64,
    by_source: Option<[&Tensor; 2]>,
) -> Result<()> {
    let (n, columns) = matrix(logits, OP)?;
    require((0..=columns).contains(&vocab), OP, || format!("vocabulary of {vocab} in {columns} columns"))?;
    expect_shape(targets, &[n], OP, "targets")?;
    expect_shape(weights, &[n], OP, "weights")?;
    let [m, mut s, mut t] = join(parts, weights, loss_sum, by_source)?;
    let _ = logits.f_narrow(1, vocab, columns - vocab)?.f_zero_()?;
    if vocab == 0 {
        return Ok(());
    }
    t.f_copy_(&weights.f_view([n, 1])?)?;
    let _ = t.f_mul_(inverse_weight)?;
    let _ = s.f_reciprocal_()?.f_mul_(&t)?;
    let (place, outside) = locate(targets, first, vocab)?;
    let _ = t.f_neg_()?.f_masked_fill_(&outside.f_view([n, 1])?, 0.0)?;
    let kind = math_kind(logits.kind());
    let step = signed(chunk::loss(backend(logits), unsigned(n), unsigned(vocab), math_bytes(kind)));
    let work = if is_math(logits.kind()) { None } else { Some(scratch(logits, &[step, vocab], kind)?) };
    for (start, rows) in blocks(n, step) {
        let some = |of: &Tensor| of.f_narrow(0, start, rows);
        let mut real = some(logits)?.f_narrow(1, 0, vocab)?;
        let mut p = match &work {
            None => real.shallow_clone(),
            Some(w) => load(w, &real)?,
        };
        let _ = p.f_sub_(&some(&m)?)?.f_exp_()?.f_mul_(&some(&s)?)?;
        let _ = p.f_scatter_add_(1, &some(&place)?.f_view([rows, 1])?, &some(&t)?)?;
        if work.is_some() {
            real.f_copy_(&p)?;
        }
    }
    Ok(())
}
