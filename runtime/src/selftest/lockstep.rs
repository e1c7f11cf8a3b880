//! Runs every instruction of a CPU run a second time on a device, from the same operands, and compares.

use std::collections::BTreeMap;

use llmc_plan::op::Op;
use llmc_plan::plan::Precision;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::failure::Outcome;
use crate::host::{Session, Source};
use crate::interpret::{Event, Observer};
use crate::meter::Measured;
use crate::ops::{Context, execute};

/// Norm-wise relative difference that is accepted: sums in another order in f32; in bf16 a result may round to
/// its neighbour (2⁻⁸), and probabilities inside attention too; in 8 bits the neighbour is 2⁻⁴ away for a few.
const TOLERANCE: [(Precision, f64); 3] =
    [(Precision::F32, 1e-5), (Precision::Bf16, 1e-2), (Precision::Fp8, 3e-2)];

/// How far apart an op is on the two devices.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Compared {
    /// Within the tolerance.
    pub ok: bool,
    /// Times it was compared.
    pub cases: u64,
    /// Largest norm-wise relative difference of an output.
    pub worst: f64,
    /// Largest that is accepted.
    pub tolerance: f64,
}

/// The comparison under way.
pub struct Lockstep {
    device: Device,
    precision: Precision,
    /// Copies of the operands before the CPU ran.
    twins: Option<(Vec<Tensor>, Vec<Tensor>)>,
    /// By `op format`.
    pub results: BTreeMap<String, Compared>,
}

impl Lockstep {
    /// Compares with `device`.
    pub fn new(device: Device, precision: Precision) -> Lockstep {
        Lockstep { device, precision, twins: None, results: BTreeMap::new() }
    }

    /// Number format of the run.
    pub fn kind(&self) -> Kind {
        if self.precision == Precision::F32 { Kind::Float } else { Kind::BFloat16 }
    }

    /// Copies operands to the device.
    pub fn prepare(&mut self, inputs: &[Tensor], outputs: &[Tensor]) -> Outcome<()> {
        let copies = |tensors: &[Tensor]| -> Outcome<Vec<Tensor>> {
            let copy = |t: &Tensor| {
                let mut copy = Tensor::f_empty(t.size(), (t.kind(), self.device))?;
                copy.f_copy_(t)?;
                Ok(copy)
            };
            tensors.iter().map(copy).collect()
        };
        self.twins = Some((copies(inputs)?, copies(outputs)?));
        Ok(())
    }

    /// Runs the op on the copies and compares with what the CPU gave.
    pub fn compare(&mut self, op: &Op, context: &mut Context<'_>, outputs: &[Tensor]) -> Outcome<()> {
        let Some((inputs, twins)) = self.twins.take() else { return Ok(()) };
        execute(op, context, &inputs, &twins)?;
        for (twin, output) in twins.iter().zip(outputs) {
            let difference = difference(twin, output)?;
            let tolerance = TOLERANCE.iter().find(|(p, _)| *p == self.precision).map_or(0.0, |(_, t)| *t);
            let format = label(self.precision);
            let entry = self.results.entry(format!("{} {format}", op.key()));
            let result = entry.or_insert(Compared { ok: true, cases: 0, worst: 0.0, tolerance });
            result.cases += 1;
            result.worst = result.worst.max(difference);
            result.ok = result.worst <= tolerance;
        }
        Ok(())
    }
}

/// A precision in reports.
pub fn label(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
        Precision::Fp16 => "fp16",
        Precision::Fp8 => "fp8",
    }
}

/// Batches and checkpoints are the host's: nothing is computed.
fn computes(op: &Op) -> bool {
    !matches!(op, Op::LoadBatch(_) | Op::Snapshot(_))
}

impl Observer for Lockstep {
    fn before(&mut self, event: &Event<'_>) -> Outcome<()> {
        if computes(&event.instr.op) { self.prepare(event.inputs, event.outputs) } else { Ok(()) }
    }

    fn after(&mut self, event: &Event<'_>, _measured: Measured, _seconds: (f64, f64)) -> Outcome<()> {
        let mut host = Session::new(Source::None);
        self.compare(&event.instr.op, &mut event.context(&mut host), event.outputs)
    }
}

/// Norm of the difference over the norm, in f64; a huge number when one is not finite and the other is.
fn difference(twin: &Tensor, output: &Tensor) -> Outcome<f64> {
    let in_f64 = |t: &Tensor| -> Outcome<Tensor> { Ok(t.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?) };
    let (got, want) = (in_f64(twin)?, in_f64(output)?);
    let difference = got.f_sub(&want)?.f_norm()?.f_double_value(&[])?;
    let norm = want.f_norm()?.f_double_value(&[])?;
    let relative = if norm > 0.0 { difference / norm } else { difference };
    Ok(if relative.is_finite() { relative } else { f64::MAX })
}
