//! `llmc-worker gradients`: how far the gradients of a run's number formats are from f64.
//!
//! A two-layer model at the width of a real one makes one forward and backward pass on the device, in bf16 and in fp8,
//! from random weights; the same program with every float as f64 makes it on the CPU, from the same (rounded) weights
//! and tokens. One JSON object says the cosine between them, tensor by tensor. Not here: single ops
//! ([`super::selftest`]).

use std::collections::BTreeMap;
use std::time::Instant;

use llmc_plan::op::{Backend, Op};
use llmc_plan::plan::{DType, OptimizerKind, Plan, Precision};
use llmc_plan::program::{Call, Program, Ref};
use llmc_plan::say;
use llmc_plan::{arena, verify};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::device_named;
use super::lockstep::label;
use crate::failure::{Failure, Outcome};
use crate::interpret::{Machine, Pass};
use crate::prepare;
use crate::snapshot::parameter_tensor;
use crate::synthetic::Synthetic;

/// Least cosine of a tensor's gradient to f64's: a product of bf16 numbers is off by 2⁻⁸, of 8-bit ones by 2⁻⁴, at
/// random, so that sums over many are closer.
const LEAST: [(Precision, f64); 3] =
    [(Precision::F32, 0.999_999), (Precision::Bf16, 0.999), (Precision::Fp8, 0.98)];

/// Widths: name, hidden, heads, feed-forward, vocabulary. The real ones are those of `benches/gpu/recipes`.
const WIDTHS: [(&str, [u64; 4]); 3] =
    [("tiny", [256, 4, 704, 1000]), ("1b", [2048, 16, 5504, 32_000]), ("3b", [3072, 24, 8192, 32_000])];

/// What `gradients` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// Every cosine is at least what it must be.
    pub ok: bool,
    /// By width and precision: `3b bf16`.
    pub cases: BTreeMap<String, Case>,
}

/// One model in one precision.
#[derive(Debug, Clone, Serialize)]
pub struct Case {
    /// Every cosine is at least `least`.
    pub ok: bool,
    /// Tokens of the pass.
    pub tokens: u64,
    /// Loss a token on the device.
    pub loss: f64,
    /// Loss a token in f64.
    pub reference_loss: f64,
    /// What a cosine must be at least.
    pub least: f64,
    /// The smallest.
    pub worst: f64,
    /// Seconds of pass and reference, initialisation included.
    pub seconds: [f64; 2],
    /// Every gradient.
    pub tensors: BTreeMap<String, Compared>,
}

/// A gradient beside f64's.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Compared {
    /// Cosine of the angle between them.
    pub cosine: f64,
    /// Norm over f64's norm.
    pub norm: f64,
}

/// Compares the passes of `widths` (`tiny`, `1b`, `3b`) over one sequence of `tokens`.
///
/// # Errors
/// Exit code 2 for an unknown width or a device that is not there, or the failure of an instruction.
pub fn gradients(device: &str, widths: &[String], tokens: u64) -> Outcome<Report> {
    let device = device_named(device)?;
    let mut cases = BTreeMap::new();
    for width in widths {
        for precision in [Precision::Bf16, Precision::Fp8] {
            let plan = plan(width, precision, tokens)?;
            cases.insert(format!("{width} {}", label(precision)), case(&plan, device)?);
        }
    }
    let ok = cases.values().all(|case| case.ok);
    Ok(Report { device: format!("{device:?}").to_lowercase(), ok, cases })
}

/// A two-layer model of one of the widths; one micro-batch of one sequence.
pub(super) fn plan(width: &str, precision: Precision, tokens: u64) -> Outcome<Plan> {
    let mut plan = super::plan(precision)?;
    let Some((_, [hidden, heads, ffn, vocab])) = WIDTHS.iter().find(|(name, _)| *name == width) else {
        let known: Vec<&str> = WIDTHS.iter().map(|(name, _)| *name).collect();
        return Err(Failure::environment(say!(
            "width `{width}` is none of {known}",
            "宽度 `{width}` 不在 {known} 之列",
            known = known.join(", ")
        )));
    };
    let m = &mut plan.model;
    (m.layers, m.hidden, m.heads, m.kv_heads, m.head_dim) = (2, *hidden, *heads, *heads, hidden / heads);
    (m.ffn, m.vocab, m.vocab_padded) = (*ffn, *vocab, vocab.next_multiple_of(64));
    (m.context, m.rope.original_context, m.dropout) = (tokens, tokens / 2, 0.0);
    (m.params, m.params_non_embedding) = (m.count_params(), m.count_params_non_embedding());
    (plan.batch.global_tokens, plan.batch.global_sequences) = (tokens, 1);
    (plan.batch.micro_batch_sequences, plan.batch.accumulation) = (1, 1);
    plan.layout.recompute = llmc_plan::plan::Recompute::None;
    // Neither clips nor updates: the gradients stay as the backward pass leaves them.
    plan.optimizer.clip = 0.0;
    Ok(plan)
}

fn case(plan: &Plan, device: Device) -> Outcome<Case> {
    let clock = Instant::now();
    let backend = if device == Device::Cpu { Backend::Cpu } else { Backend::Cuda };
    let mut program = prepare::lowered_for(plan, None, backend)?;
    without(&mut program, |segment| segment.starts_with("optimize"));
    let mut machine = Machine::new(&program, device, plan.seed)?;
    let begin = Pass { list: "init", steps_done: 0 };
    machine.run(&program.init, begin, &mut Synthetic::learnable(plan, 0), None)?;
    let loss = pass(&mut machine, plan)?;
    let seconds = clock.elapsed().as_secs_f64();

    let clock = Instant::now();
    let mut exact = plan.clone();
    // Adafactor's states are small: nothing is updated.
    (exact.precision, exact.optimizer.kind) = (Precision::F32, OptimizerKind::Adafactor);
    let mut wide = in_f64(prepare::lowered_for(&exact, None, Backend::Cpu)?)?;
    let makes = |program: &Program, call: &Call| {
        let segment = program.segment(call.segment);
        segment.is_some_and(|s| s.instrs.iter().any(|i| matches!(i.op, Op::Initialise(_))))
    };
    wide.init = wide.init.iter().filter(|call| !makes(&wide, call)).copied().collect();
    let mut reference = Machine::new(&wide, Device::Cpu, plan.seed)?;
    reference.run(&wide.init, begin, &mut Synthetic::learnable(plan, 0), None)?;
    for (param, other) in wide.params.iter().zip(&program.params) {
        let weight = parameter_tensor(&wide, reference.memory(), param, param.buffers.weight)?;
        let same = parameter_tensor(&program, machine.memory(), other, other.buffers.weight)?;
        weight.shallow_clone().f_copy_(&same)?;
    }
    let reference_loss = pass(&mut reference, plan)?;
    let mut tensors = BTreeMap::new();
    for (param, other) in wide.params.iter().zip(&program.params) {
        let (Some(want), Some(got)) = (param.buffers.gradient, other.buffers.gradient) else { continue };
        let want = parameter_tensor(&wide, reference.memory(), param, want)?;
        let got = parameter_tensor(&program, machine.memory(), other, got)?;
        tensors.insert(param.name.clone(), compare(&got, &want)?);
    }
    let least = LEAST.iter().find(|(p, _)| *p == plan.precision).map_or(1.0, |(_, least)| *least);
    // A cosine that is no number is the worst there is.
    let worst = tensors.values().map(|t| if t.cosine.is_finite() { t.cosine } else { -1.0 });
    let worst = worst.fold(1.0, f64::min);
    Ok(Case {
        ok: worst >= least && !tensors.is_empty(),
        tokens: plan.batch.global_tokens,
        loss,
        reference_loss,
        least,
        worst,
        seconds: [seconds, clock.elapsed().as_secs_f64()],
        tensors,
    })
}

/// One step without an update; the loss a token.
fn pass(machine: &mut Machine<'_>, plan: &Plan) -> Outcome<f64> {
    let weight = plan.batch.global_tokens as f64;
    machine.set("lr", 0.0)?;
    machine.set("inv_weight", 1.0 / weight)?;
    machine.set("step", 1.0)?;
    let calls = &machine.program().step;
    machine.run(calls, Pass { list: "step", steps_done: 0 }, &mut Synthetic::learnable(plan, 0), None)?;
    Ok(machine.get("loss_sum")? / weight)
}

fn compare(got: &Tensor, want: &Tensor) -> Outcome<Compared> {
    let flat = |t: &Tensor| t.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_view([-1]);
    let (got, want) = (flat(got)?, flat(want)?);
    let norm = |t: &Tensor| t.f_norm()?.f_double_value(&[]);
    let (a, b) = (norm(&got)?, norm(&want)?);
    Ok(Compared { cosine: got.f_dot(&want)?.f_double_value(&[])? / (a * b), norm: a / b })
}

/// Leaves out the calls of a step whose segment is meant.
fn without(program: &mut Program, meant: impl Fn(&str) -> bool) {
    let segments = &program.segments;
    program.step.retain(|call| segments.get(call.segment.0 as usize).is_none_or(|s| !meant(&s.name)));
}

/// The program with every 32-bit float as a 64-bit one, and no update: the optimizer's scalars are 32-bit by
/// definition.
///
/// # Errors
/// Code 70 when the result does not verify.
pub fn in_f64(mut program: Program) -> Outcome<Program> {
    for buffer in program.buffers.iter_mut().filter(|b| b.dtype == DType::F32) {
        buffer.dtype = DType::F64;
    }
    let view = program.clone();
    let types = |refs: &[Ref]| refs.iter().map(|r| view.tensor(r)).collect::<Option<Vec<_>>>();
    for instr in program.segments.iter_mut().flat_map(|s| &mut s.instrs) {
        let (Some(inputs), Some(outputs)) = (types(&instr.inputs), types(&instr.outputs)) else {
            return Err(Failure::bug("an operand is outside its buffer"));
        };
        instr.workspace = instr.op.spec().workspace(view.backend, &inputs, &outputs);
    }
    arena::assign(&mut program);
    if let Some(violation) = verify::verify(&program).first() {
        return Err(Failure::bug(format!("in f64: {violation}")));
    }
    without(&mut program, |segment| segment.starts_with("optimize"));
    Ok(program)
}
