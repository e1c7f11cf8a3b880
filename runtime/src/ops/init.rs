//! Parameters before the first step.

use llmc_plan::op::chunk;
use llmc_plan::param::{Init, ParamSpec};
use tch::{Kind, Tensor};

use super::elementwise::flat_block;
use super::philox::Stream;
use super::{backend, elements, require, scratch, signed, split, unsigned};
use crate::cuda;
use crate::error::Result;

const OP: &str = "initialise";

/// Fills `weight` with the starting values of the rows `[first_row, first_row + rows)` of a parameter.
///
/// A normal element is element (row, column) of the Hugging Face tensor it belongs to, in the stream of that
/// tensor's name: packing, sharding and layout do not change it.
pub(super) fn initialise(spec: &ParamSpec, seed: u64, first_row: u64, weight: &Tensor) -> Result<()> {
    let Init::Normal { std } = spec.init else {
        let _ = weight.shallow_clone().f_fill_(1.0)?;
        return Ok(());
    };
    let (rows, columns) = rows_and_columns(weight);
    let (rows, columns) = (unsigned(rows), unsigned(columns));
    let whole: u64 = spec.global_shape.iter().skip(1).product();
    require(columns == whole, OP, || format!("{} has {whole} columns, the buffer {columns}", spec.name))?;
    let end = first_row.saturating_add(rows);
    let mut part_start = 0u64;
    for part in &spec.parts {
        let part_end = part_start.saturating_add(part.rows);
        let (from, to) = (first_row.max(part_start), end.min(part_end));
        if from < to {
            let stream = Stream::new(seed, &part.hf_name, 0);
            let block = weight.f_narrow(0, signed(from - first_row), signed(to - from))?;
            normal(&block, &stream, (from - part_start).saturating_mul(columns), std)?;
        }
        part_start = part_end;
    }
    require(end <= part_start, OP, || {
        format!("{} has {part_start} rows, the buffer ends at {end}", spec.name)
    })
}

/// The same of a split master: bf16 weights, and what they lack of the f32 values.
pub(super) fn initialise_split(
    spec: &ParamSpec,
    seed: u64,
    first_row: u64,
    [weights, missing]: [&Tensor; 2],
) -> Result<()> {
    let (rows, columns) = rows_and_columns(weights);
    let step = signed(chunk::split_rows(backend(weights), unsigned(rows), unsigned(columns)));
    let block = |kind| scratch(weights, &[step * columns], kind);
    let (values, work) = (block(Kind::Float)?, block(Kind::Int)?);
    for (start, len) in super::blocks(rows, step) {
        let part = |t: &Tensor| t.f_narrow(0, 0, len * columns);
        let flat = |t: &Tensor| -> Result<Tensor> { Ok(t.f_narrow(0, start, len)?.f_view([-1])?) };
        let values = part(&values)?;
        let first_row = first_row.saturating_add(unsigned(start));
        initialise(spec, seed, first_row, &values.f_view([len, columns])?)?;
        split::split(&values, &part(&work)?, &flat(weights)?, &flat(missing)?)?;
    }
    Ok(())
}

fn rows_and_columns(t: &Tensor) -> (i64, i64) {
    let rows = t.size().first().copied().unwrap_or(0);
    (rows, elements(t).checked_div(rows).unwrap_or(0))
}

/// Fills `x` with elements `first..` of the stream as normal numbers.
fn normal(x: &Tensor, stream: &Stream, first: u64, std: f64) -> Result<()> {
    let flat = x.f_view([-1])?;
    if cuda::flat::makes_normal(&flat, first) {
        return cuda::flat::normal(&flat, stream, first, std);
    }
    let n = elements(&flat);
    let mut values = Vec::new();
    for (start, len) in super::blocks(n, flat_block(&flat, tch::Kind::Float)) {
        values.resize(usize::try_from(len).unwrap_or(0), 0.0);
        parallel_normal(stream, first.wrapping_add(unsigned(start)), std, &mut values);
        flat.f_narrow(0, start, len)?.f_copy_(&Tensor::f_from_slice::<f32>(&values)?)?;
    }
    Ok(())
}

/// [`Stream::normal`] over the cores that libtorch may use; any split gives the same numbers.
fn parallel_normal(stream: &Stream, first: u64, std: f64, out: &mut [f32]) {
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1).max(1);
    let share = out.len().div_ceil(threads).max(4096);
    std::thread::scope(|scope| {
        for (i, part) in out.chunks_mut(share).enumerate() {
            scope.spawn(move || stream.normal(first.wrapping_add((i * share) as u64), std, part));
        }
    });
}
