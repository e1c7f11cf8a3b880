//! `llmc-worker bench`: steps of a plan on random tokens, timed, without a corpus, checkpoints or a run folder.
//!
//! One JSON object: what a step took, what it reached, where its time went, instruction by instruction, and what the
//! plan predicted. Not here: comparing with other trainers (`benches/gpu`).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use llmc_plan::lang::Lang;
use llmc_plan::op::{Backend, Kind};
use llmc_plan::plan::Plan;
use llmc_plan::walk;
use serde::Serialize;
use tch::Device;

use crate::failure::Outcome;
use crate::interpret::{Machine, Pass};
use crate::profile::{Profile, Timed, by_kind};
use crate::report::{Compared, median};
use crate::synthetic::Synthetic;
use crate::warm::warm;
use crate::{device, prepare, schedule, shim};

/// What `bench` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// Tokens an optimizer step.
    pub tokens: u64,
    /// Seconds of each step after the first two.
    pub steps: Vec<f64>,
    /// Their median against the plan's.
    pub step_seconds: Compared,
    /// By the median.
    pub tokens_per_second: Compared,
    /// By the median, against dense bf16 peak.
    pub mfu: Compared,
    /// Peak bytes of tensors against the simulation of this program.
    pub peak_bytes: Compared,
    /// Peak bytes taken from the device.
    pub reserved_bytes: u64,
    /// Blocks taken from the device after the second step; 0 when memory is steady.
    pub late_allocations: u64,
    /// Seconds from the start of the process to the end of the first step.
    pub first_step_seconds: f64,
    /// When each phase before it was done, in seconds from the start of the process.
    pub started: BTreeMap<&'static str, f64>,
    /// Loss of the first and the last step.
    pub losses: [f64; 2],
    /// Seconds of the watched step, and by kind of work.
    pub watched_seconds: f64,
    /// Sums to what the device was busy.
    pub by_kind: BTreeMap<Kind, f64>,
    /// Every instruction of the watched step.
    pub instructions: Vec<Timed>,
}

/// Makes `steps` timed steps of `plan` after two to warm up, then one that is watched. `search`: GEMM algorithms are
/// chosen at length (see [`crate::tune::tune`]). `began` is when the process started.
///
/// # Errors
/// What a run of the plan would fail with.
pub fn bench(
    plan: &Plan,
    steps: u64,
    table: &Path,
    search: bool,
    began: Instant,
    lang: Lang,
) -> Outcome<Report> {
    let mut started = BTreeMap::new();
    let mut done = |phase| started.insert(phase, began.elapsed().as_secs_f64());
    let device = device::prepare(plan, 0, None)?;
    done("device");
    let backend = if device == Device::Cpu { Backend::Cpu } else { Backend::Cuda };
    let program = prepare::lowered_for(plan, None, backend)?;
    device::check_memory(plan, device, walk::memory(&program).total)?;
    done("program");
    warm(plan, &program, device, table, search, lang)?;
    done("kernels and algorithms");
    let mut machine = Machine::new(&program, device, plan.seed)?;
    let mut host = Synthetic::uniform(plan, plan.seed);
    machine.run(&program.init, Pass { list: "init", steps_done: 0 }, &mut host, None)?;
    done("initial values");
    let weight = plan.batch.global_tokens as f64;
    let (mut seconds, mut losses, mut first, mut allocations) = (Vec::new(), Vec::new(), 0.0, 0);
    let mut step = |machine: &mut Machine<'_>, done: u64, profile: Option<&mut Profile>| -> Outcome<f64> {
        let clock = Instant::now();
        machine.set("lr", schedule::learning_rate(&plan.lr, plan.budget.steps, done + 1))?;
        machine.set("inv_weight", 1.0 / weight)?;
        machine.set("step", (done + 1) as f64)?;
        let observer = profile.map(|p| p as &mut dyn crate::interpret::Observer);
        machine.run(&program.step, Pass { list: "step", steps_done: done }, &mut host, observer)?;
        losses.push(machine.get("loss_sum")? / weight); // waits for the device
        Ok(clock.elapsed().as_secs_f64())
    };
    for done in 0..steps + 2 {
        let took = step(&mut machine, done, None)?;
        match done {
            0 => first = began.elapsed().as_secs_f64(),
            1 => allocations = device_allocations(device)?,
            _ => seconds.push(took),
        }
    }
    let late_allocations = device_allocations(device)?.saturating_sub(allocations);
    let mut profile = Profile::start(device)?;
    let watched_seconds = step(&mut machine, steps + 2, Some(&mut profile))?;
    let instructions = profile.finish()?.rows;
    let typical = median(&seconds);
    let rate = weight / typical;
    let flops = plan.model.flops_per_token();
    Ok(Report {
        device: format!("{device:?}").to_lowercase(),
        tokens: plan.batch.global_tokens,
        step_seconds: Compared::new(plan.time.step_seconds, typical),
        tokens_per_second: Compared::new(plan.time.tokens_per_second, rate),
        mfu: Compared::new(plan.time.mfu, rate * flops / plan.hardware.peak_bf16_flops),
        peak_bytes: Compared::new(walk::memory(&program).total as f64, machine.peak_bytes()? as f64),
        reserved_bytes: reserved(device)?,
        late_allocations,
        first_step_seconds: first,
        started,
        losses: [losses.first(), losses.last()].map(|l| l.copied().unwrap_or(f64::NAN)),
        steps: seconds,
        watched_seconds,
        by_kind: by_kind(&instructions),
        instructions,
    })
}

fn device_allocations(device: Device) -> Outcome<u64> {
    match device {
        Device::Cuda(index) => Ok(shim::device_stats(i8::try_from(index).unwrap_or(0))?.device_allocations),
        _ => Ok(0),
    }
}

fn reserved(device: Device) -> Outcome<u64> {
    match device {
        Device::Cuda(index) => Ok(shim::device_stats(i8::try_from(index).unwrap_or(0))?.peak_reserved_bytes),
        _ => Ok(0),
    }
}
