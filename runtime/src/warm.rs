//! What a run on a CUDA device waits for before its first step, all at once: kernels compiled or read from the cache,
//! cuDNN opened, GEMM algorithms measured. From the start of the process to the end of the first step a 1B took 6.7 and 8.1 s
//! on two machines just started while they came one after another, 5.2 s on one since (2026-11, H100).

use std::path::Path;

use llmc_plan::lang::{Lang, Said};
use llmc_plan::op::Op;
use llmc_plan::plan::{Plan, Precision};
use llmc_plan::program::Program;
use tch::{Device, Kind};

use crate::failure::{Failure, Outcome};
use crate::ops::open_attention;
use crate::{cuda, tune};

/// Readies `device` for `program`. `folder` and `search`: as [`tune::tune`], which this calls.
///
/// # Errors
/// As [`cuda::prepare`] (the machine's fault, code 2) and [`tune::tune`].
pub fn warm(
    plan: &Plan,
    program: &Program,
    device: Device,
    folder: &Path,
    search: bool,
    lang: Lang,
) -> Outcome<()> {
    if device == Device::Cpu {
        return Ok(());
    }
    let kind = match plan.precision {
        Precision::F32 => Kind::Float,
        Precision::Fp16 => Kind::Half,
        Precision::Bf16 | Precision::Fp8 => Kind::BFloat16,
    };
    let attention = program.instrs(&program.step).find_map(|(_, _, _, instr)| match &instr.op {
        Op::AttentionForward(attention) => Some(attention.clone()),
        _ => None,
    });
    std::thread::scope(|scope| {
        let kernels = scope.spawn(|| cuda::prepare(device, kind));
        // What it cannot open, the first step says, with its place.
        scope.spawn(move || attention.map(|attention| open_attention(&attention, kind, device)));
        let tuned = tune::tune(program, plan.determinism, device, folder, search, lang);
        let stopped = |_| Err(crate::error::Error::Cuda("a compilation stopped".into()));
        kernels.join().unwrap_or_else(stopped).map_err(|e| Failure::environment(Said::same(e)))?;
        tuned
    })
}
