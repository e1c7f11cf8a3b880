//! The bench that every op test runs on: seeded tensors, comparison, ops run under the counting allocator.

use std::sync::{Mutex, MutexGuard, PoisonError};

use llmc_plan::batch::Batch;
use llmc_plan::op::{Backend, Op, TensorType};
use llmc_plan::param::ParamSpec;
use llmc_plan::plan::DType;
use llmc_runtime::error::{Error, Result};
use llmc_runtime::ops::{Context, Host, execute};
use llmc_runtime::shim;
use tch::{Device, Kind, Tensor};

static LOCK: Mutex<()> = Mutex::new(());

/// The device that ops run on: the CPU, or `LLMC_TEST_DEVICE=cuda`.
pub fn device() -> Device {
    match std::env::var("LLMC_TEST_DEVICE").as_deref() {
        Ok("cuda") => Device::Cuda(0),
        _ => Device::Cpu,
    }
}

/// Installs the counting allocator, fixes threads and seed, and keeps other tests out until dropped.
pub fn bench() -> MutexGuard<'static, ()> {
    let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    shim::install_cpu_allocator().expect("install the counting allocator");
    if device() != Device::Cpu {
        llmc_runtime::device::load_cuda().expect("load the CUDA back end");
    }
    tch::set_num_threads(2);
    tch::manual_seed(7);
    guard
}

/// Peak bytes allocated above what was live, while `f` runs.
pub fn temporaries<T>(f: impl FnOnce() -> T) -> (u64, T) {
    let before = shim::cpu_stats().live_bytes;
    shim::reset_cpu_peak();
    let value = f();
    (shim::cpu_stats().peak_bytes - before, value)
}

/// Standard normal numbers.
pub fn randn(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(shape, (Kind::Double, Device::Cpu)).to_kind(kind)
}

/// Output to be: filled with NaN, so that an element an op forgets shows.
pub fn unset(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::full(shape, f64::NAN, (kind, Device::Cpu))
}

/// One f32 device scalar.
pub fn scalar(value: f64) -> Tensor {
    Tensor::from_slice(&[value as f32])
}

/// Largest norm-wise relative error of `got` against `want`, computed in f64; infinite when not finite.
pub fn relative_error(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.size(), want.size(), "shapes differ");
    let (got, want) = (got.detach().to_kind(Kind::Double), want.detach().to_kind(Kind::Double));
    let difference = (&got - &want).norm().double_value(&[]);
    let scale = want.norm().double_value(&[]);
    let error = if scale > 0.0 { difference / scale } else { difference };
    if error.is_finite() { error } else { f64::INFINITY }
}

/// A host for ops that need none, or a batch.
#[derive(Default)]
pub struct TestHost {
    pub batch: Option<Batch>,
    pub saved: Vec<Tensor>,
}

impl Host for TestHost {
    fn next_batch(&mut self) -> Result<Batch> {
        self.batch.clone().ok_or_else(|| Error::Operand { op: "load_batch", problem: "no batch".into() })
    }

    fn snapshot(&mut self, tensors: &[Tensor]) -> Result<()> {
        self.saved = tensors.iter().map(Tensor::copy).collect();
        Ok(())
    }

    fn exchange(&mut self, op: &Op, _: &[Tensor], _: &[Tensor]) -> Result<()> {
        Err(Error::Operand { op: op.key(), problem: "one rank".into() })
    }
}

/// The place of an instruction in a run.
#[derive(Clone, Copy, Default)]
pub struct At<'a> {
    pub seed: u64,
    pub step: u64,
    pub layer: u64,
    pub micro_batch: u64,
    pub first_token: u64,
    pub parameter: Option<(&'a ParamSpec, u64)>,
}

/// Runs `op` through the executor at step 0 and checks it, see [`run_at`].
pub fn run(op: impl Into<Op>, inputs: &[&Tensor], outputs: &[&Tensor]) {
    run_at(op, &mut TestHost::default(), At::default(), inputs, outputs);
}

/// Runs `op` through the executor, after the plan's own check of its operands, and asserts that it allocated what
/// the plan declares, give or take 4 KiB of scalars.
pub fn run_at(op: impl Into<Op>, host: &mut dyn Host, at: At<'_>, inputs: &[&Tensor], outputs: &[&Tensor]) {
    let op = op.into();
    let (input_types, output_types) = (types(inputs), types(outputs));
    op.spec().check(&input_types, &output_types).unwrap_or_else(|e| panic!("{}: {e}", op.key()));
    let (measured, done) = temporaries(|| try_run(&op, host, at, inputs, outputs));
    done.unwrap_or_else(|e| panic!("{}: {e}", op.key()));
    if device() != Device::Cpu {
        return; // CUDA libraries keep workspaces of their own
    }
    let declared = op.spec().workspace(Backend::Cpu, &input_types, &output_types);
    // A bound for initial values, whose block does not reach across the tensors of a packed parameter.
    let bound_only = op.key() == "initialise";
    let ok = measured <= declared + 4096 && (bound_only || measured + 4096 >= declared);
    assert!(ok, "{} on {input_types:?}: allocated {measured} bytes, the plan declares {declared}", op.key());
}

/// Runs `op` and returns its error.
pub fn refused(op: impl Into<Op>, inputs: &[&Tensor], outputs: &[&Tensor]) -> String {
    let outcome = try_run(&op.into(), &mut TestHost::default(), At::default(), inputs, outputs);
    outcome.expect_err("the op accepts wrong operands").to_string()
}

/// Runs `op` through the executor without any check. On another device than the CPU, on copies there.
pub fn try_run(
    op: &Op,
    host: &mut dyn Host,
    at: At<'_>,
    inputs: &[&Tensor],
    outputs: &[&Tensor],
) -> Result<()> {
    let At { seed, step, layer, micro_batch, first_token, parameter } = at;
    let mut context = Context { seed, step, layer, micro_batch, first_token, parameter, host };
    let device = device();
    let mut there: Vec<(usize, Tensor)> = Vec::new();
    let mut handle = |t: &&Tensor| {
        // An operand given twice is one tensor there too.
        let place = t.data_ptr() as usize;
        let known = there.iter().find(|(p, copy)| *p == place && copy.size() == t.size());
        let copy = known.map_or_else(|| t.to_device(device), |(_, copy)| copy.shallow_clone());
        there.push((place, copy.shallow_clone()));
        copy
    };
    let inputs: Vec<Tensor> = inputs.iter().map(&mut handle).collect();
    let results: Vec<Tensor> = outputs.iter().map(&mut handle).collect();
    tch::no_grad(|| execute(op, &mut context, &inputs, &results))?;
    if device != Device::Cpu {
        for (output, result) in outputs.iter().zip(&results) {
            output.shallow_clone().f_copy_(result)?;
        }
    }
    Ok(())
}

/// Shapes and formats as the plan names them.
pub fn types(tensors: &[&Tensor]) -> Vec<TensorType> {
    tensors
        .iter()
        .map(|t| TensorType { shape: t.size().iter().map(|e| *e as u64).collect(), dtype: dtype(t.kind()) })
        .collect()
}

fn dtype(kind: Kind) -> DType {
    match kind {
        Kind::Double => DType::F64,
        Kind::Float => DType::F32,
        Kind::BFloat16 => DType::Bf16,
        Kind::Int64 => DType::I64,
        Kind::Int => DType::I32,
        Kind::Int16 => DType::I16,
        Kind::Float8e4m3fn => DType::F8E4m3,
        Kind::Float8e5m2 => DType::F8E5m2,
        other => panic!("no plan format for {other:?}"),
    }
}
