//! Which algorithm multiplies which shape: measured once a run, stored in its folder, never measured again.
//!
//! Under `determinism bitwise` nothing is measured: two runs could choose differently. Not here: how an algorithm is
//! measured ([`crate::cuda::blas`]).

use std::collections::BTreeSet;
use std::path::Path;

use llmc_plan::lang::Lang;
use llmc_plan::op::Op;
use llmc_plan::plan::{DType, Determinism};
use llmc_plan::program::{Instr, Program};
use llmc_plan::say;
use tch::Device;

use crate::cuda::blas::{self, Format, Shape, Table};
use crate::failure::{Failure, Outcome};
use crate::run_folder::write_whole;

/// File of a run folder with the algorithms.
const FILE: &str = "gemm.json";

/// Chooses an algorithm for every product of `program`, or takes those that `folder` holds. `search`: takes a minute to
/// choose under load, and takes none that was chosen without.
///
/// # Errors
/// When a product cannot be run, or the file cannot be written.
pub fn tune(
    program: &Program,
    determinism: Determinism,
    device: Device,
    folder: &Path,
    search: bool,
    lang: Lang,
) -> Outcome<()> {
    if !matches!(device, Device::Cuda(_)) || determinism == Determinism::Bitwise {
        return Ok(());
    }
    let path = folder.join(FILE);
    let stored =
        std::fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str::<Table>(&text).ok());
    let thorough = search || stored.as_ref().is_some_and(|table| table.thorough);
    if let Some(table) = stored.as_ref().filter(|table| table.thorough || !search)
        && !blas::adopt(table)?
    {
        let said = say!(
            "{path}: made with another cuBLASLt, measured again",
            "{path}：由另一版本的 cuBLASLt 生成，已重新测量",
            path = path.display()
        );
        eprintln!("{}", said.text(lang));
    }
    let table = blas::tune(shapes(program), device, thorough)?;
    if stored.as_ref() != Some(&table) {
        let text = serde_json::to_string(&table).map_err(|e| Failure::bug(e.to_string()))?;
        write_whole(&path, &format!("{text}\n"))?;
    }
    Ok(())
}

/// Every product of a step or an evaluation that cuBLASLt makes.
fn shapes(program: &Program) -> BTreeSet<Shape> {
    let calls = [&program.step, &program.eval].map(|calls| program.instrs(calls));
    calls.into_iter().flatten().filter_map(|(_, _, _, instr)| shape(program, instr)).collect()
}

fn shape(program: &Program, instr: &Instr) -> Option<Shape> {
    let Op::Gemm(gemm) = &instr.op else { return None };
    let [a, b, ..] = instr.inputs.as_slice() else { return None };
    let [a, b, c] = [a, b, instr.outputs.first()?].map(|r| program.tensor(r));
    let (a, b, c) = (a?, b?, c?);
    let (m, n, k) = gemm.extents(&a, &b)?;
    let [fa, fb, fc] = [format(a.dtype)?, format(b.dtype)?, format(c.dtype)?];
    (fa != Format::F32).then_some(Shape {
        m,
        n,
        k,
        transpose_a: gemm.transpose_a,
        transpose_b: gemm.transpose_b,
        accumulate: gemm.accumulate || gemm.add,
        a: fa,
        b: fb,
        c: fc,
    })
}

fn format(dtype: DType) -> Option<Format> {
    Some(match dtype {
        DType::F32 => Format::F32,
        DType::Bf16 => Format::Bf16,
        DType::F16 => Format::F16,
        DType::F8E4m3 => Format::F8E4m3,
        DType::F8E5m2 => Format::F8E5m2,
        DType::F64 | DType::I64 | DType::I32 | DType::I16 => return None,
    })
}
