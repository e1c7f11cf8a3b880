//! Token embedding: rows of the weight by id, and their gradient summed in token order.

use tch::{Kind, Tensor};

use super::{backend, blocks, elements, expect_shape, load, matrix, scratch, signed, unsigned};
use crate::cuda;
use crate::error::Result;
use llmc_plan::op::{Backend, chunk};

const FORWARD: &str = "embedding.forward";
const BACKWARD: &str = "embedding.backward";

/// Where ids lie among `count` from `first` on, 0 where they do not, and which do not: both `[n]`.
pub(super) fn locate(ids: &Tensor, first: u64, count: i64) -> Result<(Tensor, Tensor)> {
    let mut place = ids.f_sub_scalar(signed(first))?;
    let mut outside = place.f_lt(0)?;
    let _ = outside.f_logical_or_(&place.f_ge(count)?)?;
    let _ = place.f_masked_fill_(&outside, 0)?;
    Ok((place, outside))
}

/// `x[i] = weight[ids[i]]`: `weight` `[v, h]`, `ids` `[n]` i64, `x` `[n, h]`. An id outside the vocabulary is an
/// error on the CPU. No temporaries. With `first` the weight has the ids from it on, and others give 0.
pub(super) fn forward(weight: &Tensor, ids: &Tensor, x: &Tensor, first: Option<u64>) -> Result<()> {
    let (v, h) = matrix(weight, FORWARD)?;
    expect_shape(x, &[elements(ids), h], FORWARD, "x")?;
    if let Some(first) = first {
        let (place, outside) = locate(&ids.f_view([-1])?, first, v)?;
        let _ = weight.f_index_select_out(x, 0, &place)?;
        let _ = x.shallow_clone().f_masked_fill_(&outside.f_view([-1, 1])?, 0.0)?;
        return Ok(());
    }
    if cuda::serves(weight) {
        return cuda::embedding::forward(weight, ids, x);
    }
    let _ = weight.f_index_select_out(x, 0, &ids.f_view([-1])?)?;
    Ok(())
}

/// `gradient[ids[i]] += dx[i]` in a fixed order: libtorch's CPU `index_add_` walks the index serially; its CUDA one
/// adds by atomics, where `index_put_` sorts first. With `first` the gradient is of the ids from it on; the rows of others
/// add 0 to the first.
pub(super) fn backward(dx: &Tensor, ids: &Tensor, gradient: &Tensor, first: Option<u64>) -> Result<()> {
    let (n, h) = matrix(dx, BACKWARD)?;
    expect_shape(ids, &[n], BACKWARD, "ids")?;
    expect_shape(gradient, &[gradient.size().first().copied().unwrap_or(0), h], BACKWARD, "gradient")?;
    if first.is_none() && cuda::serves(dx) && gradient.kind() == Kind::Float {
        return cuda::embedding::backward(dx, ids, gradient);
    }
    let mut gradient = gradient.shallow_clone();
    let (count, _) = matrix(&gradient, BACKWARD)?;
    let (kind, same) = (gradient.kind(), dx.kind() == gradient.kind());
    let mut add = |ids: &Tensor, rows: &Tensor| -> Result<()> {
        let _ = match backend(rows) {
            Backend::Cpu => gradient.f_index_add_(0, ids, rows)?,
            Backend::Cuda => gradient.f_index_put_(&[Some(ids)], rows, true)?,
        };
        Ok(())
    };
    if same && first.is_none() {
        return add(ids, dx);
    }
    let bytes = u64::try_from(kind.elt_size_in_bytes()).unwrap_or(8);
    let step = signed(chunk::rows(backend(dx), unsigned(n), unsigned(h) * bytes));
    let work = scratch(dx, &[step, h], kind)?;
    for (start, rows) in blocks(n, step) {
        let mut wide = load(&work, &dx.f_narrow(0, start, rows)?)?;
        let ids = ids.f_narrow(0, start, rows)?;
        let Some(first) = first else {
            add(&ids, &wide)?;
            continue;
        };
        let (place, outside) = locate(&ids, first, count)?;
        let _ = wide.f_masked_fill_(&outside.f_view([-1, 1])?, 0.0)?;
        add(&place, &wide)?;
    }
    Ok(())
}
