//! `llmc-worker selftest`: does this machine's device compute what the CPU computes?
//!
//! Every op is run on the CPU and, from the same operands, on the device; then a small model is trained on both, in
//! f32, bf16 and fp8. One JSON object says how far apart they are, and whether runs that must be bit-equal are. Not here: tests against autograd (`tests/`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use llmc_plan::op::Backend;
use llmc_plan::plan::{Plan, Precision};
use llmc_plan::say;
use llmc_plan::walk;
use serde::Serialize;
use tch::Device;

use crate::failure::{Failure, Outcome};
use crate::host::{Session, Source};
use crate::interpret::{Machine, Observer, Pass};
use crate::synthetic::Synthetic;
use crate::{device, prepare, schedule, shim};

mod exact;
mod extra;
pub mod gradients;
mod lockstep;

use exact::Exact;
use lockstep::{Compared, Lockstep};

/// Steps of the small model.
const STEPS: u64 = 20;

/// Largest difference of losses over those steps, relative: f32 differs by the order of sums only; in bf16 every
/// rounded activation may differ by 2⁻⁸, in fp8 by 2⁻⁴.
const LOSS_TOLERANCE: [(Precision, f64); 3] =
    [(Precision::F32, 1e-4), (Precision::Bf16, 1e-2), (Precision::Fp8, 2e-2)];

/// What `selftest` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// Everything below is within its tolerance.
    pub ok: bool,
    /// By op and number format.
    pub ops: BTreeMap<String, Compared>,
    /// By precision.
    pub training: BTreeMap<String, Training>,
    /// Runs under `determinism bitwise`, by width and precision: `tiny bf16`.
    pub bitwise: BTreeMap<String, Exact>,
}

/// A small model trained on the CPU and on the device.
#[derive(Debug, Clone, Serialize)]
pub struct Training {
    /// Losses on the device agree with those on the CPU and fall.
    pub ok: bool,
    /// Largest relative difference of a loss.
    pub worst: f64,
    /// Largest that is accepted.
    pub tolerance: f64,
    /// Whether a second run on the device gave the same bits.
    pub repeats: bool,
    /// Losses on the device.
    pub losses: Vec<f64>,
    /// Losses on the CPU.
    pub cpu_losses: Vec<f64>,
    /// Tokens a second on the device, mean of the steps after the first.
    pub tokens_per_second: f64,
    /// Peak bytes of tensors on the device, and what the simulation gives.
    pub peak_bytes: u64,
    /// From the walk.
    pub simulated_peak_bytes: u64,
}

/// Runs everything on `cpu` or `cuda`.
///
/// # Errors
/// Exit code 2 when there is no such device, or the failure of an instruction.
pub fn selftest(name: &str) -> Outcome<Report> {
    let device = device_named(name)?;
    let mut ops = BTreeMap::new();
    let mut training = BTreeMap::new();
    for precision in [Precision::F32, Precision::Bf16, Precision::Fp8] {
        let plan = plan(precision)?;
        let mut lockstep = Lockstep::new(device, precision);
        train(&plan, Device::Cpu, 1, Some(&mut lockstep))?;
        extra::compare(&mut lockstep)?;
        ops.extend(lockstep.results);
        training.insert(lockstep::label(precision).to_owned(), compare_training(&plan, device)?);
    }
    let bitwise = exact::compare(device)?;
    let ok = ops.values().all(|c| c.ok) && training.values().all(|t| t.ok) && bitwise.values().all(|e| e.ok);
    Ok(Report { device: format!("{device:?}").to_lowercase(), ok, ops, training, bitwise })
}

/// `cpu` or `cuda`, with libtorch readied for it.
fn device_named(name: &str) -> Outcome<Device> {
    shim::install_cpu_allocator()?;
    match name {
        "cpu" => Ok(Device::Cpu),
        "cuda" => {
            device::load_cuda().map_err(device::no_cuda)?;
            Ok(Device::Cuda(0))
        }
        other => Err(Failure::environment(say!(
            "device `{other}` is neither cpu nor cuda",
            "设备 `{other}` 既不是 cpu 也不是 cuda"
        ))),
    }
}

/// The small model: every kind of op that a program of one device has, dropout included.
fn plan(precision: Precision) -> Outcome<Plan> {
    let text = include_str!("../../data/selftest.json");
    let mut plan = Plan::from_json(text).map_err(|e| Failure::bug(format!("selftest plan: {e}")))?;
    plan.precision = precision;
    Ok(plan)
}

fn compare_training(plan: &Plan, device: Device) -> Outcome<Training> {
    let cpu = train(plan, Device::Cpu, STEPS, None)?;
    let run = train(plan, device, STEPS, None)?;
    let again = train(plan, device, STEPS, None)?;
    let tolerance = LOSS_TOLERANCE.iter().find(|(p, _)| *p == plan.precision).map_or(0.0, |(_, t)| *t);
    let differences = run.losses.iter().zip(&cpu.losses).map(|(a, b)| (a / b - 1.0).abs());
    let worst = differences.fold(0.0, |worst: f64, d| if d.is_finite() { worst.max(d) } else { f64::MAX });
    let falls = run.losses.last() < run.losses.first();
    Ok(Training {
        ok: worst <= tolerance && falls,
        worst,
        tolerance,
        repeats: run.losses == again.losses,
        losses: run.losses,
        cpu_losses: cpu.losses,
        tokens_per_second: run.tokens_per_second,
        peak_bytes: run.peak_bytes,
        simulated_peak_bytes: run.simulated_peak_bytes,
    })
}

struct Trained {
    losses: Vec<f64>,
    tokens_per_second: f64,
    peak_bytes: u64,
    simulated_peak_bytes: u64,
}

/// Trains the small model on made-up text.
fn train(plan: &Plan, device: Device, steps: u64, mut observer: Option<&mut Lockstep>) -> Outcome<Trained> {
    let backend = if device == Device::Cpu { Backend::Cpu } else { Backend::Cuda };
    let program = prepare::lowered_for(plan, None, backend)?;
    let mut machine = Machine::new(&program, device, plan.seed)?;
    let begin = Pass { list: "init", steps_done: 0 };
    machine.run(&program.init, begin, &mut Session::new(Source::None), seen(&mut observer))?;
    let mut losses = make(&mut machine, plan, 0..steps.min(1), &mut observer)?;
    let clock = Instant::now();
    losses.extend(make(&mut machine, plan, 1..steps, &mut observer)?);
    let seconds = clock.elapsed().as_secs_f64().max(1e-9);
    if observer.is_some() {
        let pass = Pass { list: "eval", steps_done: steps };
        machine.run(&program.eval, pass, &mut Synthetic::learnable(plan, steps), seen(&mut observer))?;
    }
    Ok(Trained {
        losses,
        tokens_per_second: steps.saturating_sub(1) as f64 * plan.batch.global_tokens as f64 / seconds,
        peak_bytes: machine.peak_bytes()?,
        simulated_peak_bytes: walk::memory(&program).total,
    })
}

/// Makes the steps of these numbers; their losses.
fn make(
    machine: &mut Machine<'_>,
    plan: &Plan,
    numbers: Range<u64>,
    observer: &mut Option<&mut Lockstep>,
) -> Outcome<Vec<f64>> {
    let weight = plan.batch.global_tokens as f64;
    let mut losses = Vec::new();
    for done in numbers {
        machine.set("lr", schedule::learning_rate(&plan.lr, STEPS, done + 1))?;
        machine.set("inv_weight", 1.0 / weight)?;
        machine.set("step", (done + 1) as f64)?;
        let calls = &machine.program().step;
        let pass = Pass { list: "step", steps_done: done };
        machine.run(calls, pass, &mut Synthetic::learnable(plan, done), seen(observer))?;
        losses.push(machine.get("loss_sum")? / weight);
    }
    Ok(losses)
}

fn seen<'a>(observer: &'a mut Option<&mut Lockstep>) -> Option<&'a mut dyn Observer> {
    observer.as_mut().map(|o| &mut **o as &mut dyn Observer)
}
