//! Runs that must be bit-equal under `determinism bitwise`: again, with other recomputation, resumed from a checkpoint.

use std::collections::BTreeMap;

use llmc_plan::op::Backend;
use llmc_plan::plan::{Determinism, Plan, Precision, Recompute};
use serde::Serialize;
use tch::{Device, Tensor};

use super::{gradients, lockstep, make};
use crate::checkpoint::{self, Checkpoint, State, Store};
use crate::failure::{Failure, Outcome};
use crate::host::{Session, Source};
use crate::interpret::{Machine, Pass};
use crate::prepare;
use crate::snapshot::{Snapshot, parameter_tensor, parts, restore};

/// Steps of each run; the resumed one stops after half of them.
const STEPS: u64 = 4;

/// Which runs end with the losses and the weights of the first.
#[derive(Debug, Clone, Serialize)]
pub struct Exact {
    /// All of them.
    pub ok: bool,
    /// The same run again.
    pub repeats: bool,
    /// By what else is recomputed.
    pub recompute: BTreeMap<&'static str, bool>,
    /// Stopped half-way and resumed from the checkpoint written there.
    pub resumes: bool,
}

/// The small model with dropout and, on a GPU, two layers of a real width, whose products the libraries split.
///
/// # Errors
/// The failure of an instruction, or of a file in the temporary folder.
pub fn compare(device: Device) -> Outcome<BTreeMap<String, Exact>> {
    let mut results = BTreeMap::new();
    for precision in [Precision::F32, Precision::Bf16, Precision::Fp8] {
        let mut plans = vec![("tiny", super::plan(precision)?)];
        if device != Device::Cpu && precision != Precision::F32 {
            let mut wide = gradients::plan("1b", precision, 2048)?;
            (wide.batch.global_tokens, wide.batch.global_sequences, wide.batch.accumulation) = (4096, 2, 2);
            wide.optimizer.clip = 1.0;
            plans.push(("1b", wide));
        }
        for (width, plan) in plans {
            results.insert(format!("{width} {}", lockstep::label(precision)), exact(&plan, device)?);
        }
    }
    Ok(results)
}

fn exact(plan: &Plan, device: Device) -> Outcome<Exact> {
    let with = |recompute| {
        let mut plan = plan.clone();
        (plan.determinism, plan.layout.recompute) = (Determinism::Bitwise, recompute);
        plan
    };
    let first = run(&with(Recompute::None), device)?;
    let repeats = first.equals(&run(&with(Recompute::None), device)?)?;
    let mut recompute = BTreeMap::new();
    for (name, policy) in [("selective", Recompute::Selective), ("full", Recompute::Full)] {
        recompute.insert(name, first.equals(&run(&with(policy), device)?)?);
    }
    let resumes = first.equals(&resumed(&with(Recompute::None), device)?)?;
    Ok(Exact { ok: repeats && resumes && recompute.values().all(|same| *same), repeats, recompute, resumes })
}

/// How a run ended.
struct End {
    losses: Vec<f64>,
    weights: Vec<Tensor>,
}

impl End {
    /// Copies what a checkpoint would hold of the weights: not the rows that pad the vocabulary.
    fn of(machine: &Machine<'_>, vocab: u64, losses: Vec<f64>) -> Outcome<End> {
        let program = machine.program();
        let mut weights = Vec::new();
        for param in &program.params {
            let weight = parameter_tensor(program, machine.memory(), param, param.buffers.weight)?;
            for (_, start, rows) in parts(param, vocab) {
                let part = weight.f_narrow(0, start as i64, rows as i64)?;
                let mut copy = Tensor::f_empty(part.size(), (part.kind(), part.device()))?;
                copy.f_copy_(&part)?;
                weights.push(copy);
            }
        }
        Ok(End { losses, weights })
    }

    fn equals(&self, other: &End) -> Outcome<bool> {
        let mut same = self.losses == other.losses && self.weights.len() == other.weights.len();
        for (a, b) in self.weights.iter().zip(&other.weights) {
            same &= a.f_equal(b)?;
        }
        Ok(same)
    }
}

fn run(plan: &Plan, device: Device) -> Outcome<End> {
    let program = prepare::lowered_for(plan, None, backend(device))?;
    let mut machine = begin(&program, device, plan)?;
    let losses = make(&mut machine, plan, 0..STEPS, &mut None)?;
    End::of(&machine, plan.model.vocab, losses)
}

/// Stops half-way, writes a checkpoint as a run does, and goes on from its files with fresh memory.
fn resumed(plan: &Plan, device: Device) -> Outcome<End> {
    let folder = tempfile::tempdir().map_err(|e| Failure::io("create", &std::env::temp_dir(), &e))?;
    let program = prepare::lowered_for(plan, None, backend(device))?;
    let (mut losses, checkpoint) = {
        let mut machine = begin(&program, device, plan)?;
        let losses = make(&mut machine, plan, 0..STEPS / 2, &mut None)?;
        (losses, save(&mut machine, plan, folder.path())?)
    };
    let mut machine = begin(&program, device, plan)?;
    restore(&program, machine.memory(), &checkpoint, plan.model.vocab)?;
    losses.extend(make(&mut machine, plan, STEPS / 2..STEPS, &mut None)?);
    End::of(&machine, plan.model.vocab, losses)
}

fn begin<'p>(program: &'p llmc_plan::program::Program, device: Device, plan: &Plan) -> Outcome<Machine<'p>> {
    let mut machine = Machine::new(program, device, plan.seed)?;
    let pass = Pass { list: "init", steps_done: 0 };
    machine.run(&program.init, pass, &mut Session::new(Source::None), None)?;
    Ok(machine)
}

fn save(machine: &mut Machine<'_>, plan: &Plan, folder: &std::path::Path) -> Outcome<Checkpoint> {
    let mut session = Session::new(Source::None);
    let pass = Pass { list: "save", steps_done: STEPS / 2 };
    let program = machine.program();
    machine.run(&program.save, pass, &mut session, None)?;
    let snapshot = Snapshot::new(program, &session.saved, plan.model.vocab)?;
    let failure = snapshot.reports();
    let texts = [checkpoint::CONFIG_FILE, checkpoint::PLAN_FILE, checkpoint::DATA_FILE]
        .map(|f| (f, "{}\n".to_owned()));
    let tensors =
        [(checkpoint::MODEL_FILE, snapshot.model), (checkpoint::OPTIMIZER_FILE, snapshot.optimizer)];
    let state = State { step: STEPS / 2, ..State::start(String::new(), String::new(), 0) };
    checkpoint::write(folder, state, &texts, tensors, &|| Snapshot::failure(&failure), Store::default())
}

fn backend(device: Device) -> Backend {
    if device == Device::Cpu { Backend::Cpu } else { Backend::Cuda }
}
