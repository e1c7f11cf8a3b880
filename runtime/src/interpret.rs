//! The interpreter: the only place that loops over the calls and instructions of a program.
//!
//! It binds operands, keeps lifetimes, runs the executor of each op and holds every instruction to the
//! workspace it declared. It decides nothing: what is computed, kept, freed and redone is in the program.
//! Not here: executors ([`crate::ops`]), tensors ([`crate::memory`]), when a list is run ([`crate::train`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use llmc_plan::op::Op;
use llmc_plan::param::ParamSpec;
use llmc_plan::program::{Buffer, Call, Instr, Place, Program, Segment, Space};
use llmc_plan::say;
use tch::{Device, Tensor};

use crate::cuda::Stream;
use crate::cuda::streams::{self, Streams};
use crate::failure::{Failure, Outcome};
use crate::memory::Memory;
use crate::meter::{Measured, Meter};
use crate::ops::{Context, Host, execute};

/// Bytes an instruction may take beyond its declared workspace: the scalars that libtorch makes on the way
/// (`ops`: "leaving out scalars, under 4 KiB together").
pub const SCALAR_BYTES: u64 = 4096;

/// Optimizer steps whose instructions are metered on an accelerator.
const METERED_STEPS: u64 = 2;

/// A program with its tensors.
pub struct Machine<'p> {
    program: &'p Program,
    device: Device,
    seed: u64,
    memory: Memory,
    meter: Meter,
    /// Of an accelerator; none where everything runs in the order it is issued.
    streams: Option<Streams>,
    /// Which parameter an instance is the weight or master of.
    owners: BTreeMap<(u32, u64), &'p ParamSpec>,
    /// The same for masters on their way through a buffer that layers share: by buffer and layer.
    passing: BTreeMap<(u32, u64), &'p ParamSpec>,
    /// Tokens of one micro-batch.
    tokens: u64,
    /// Transient instances alive now, and the bytes of everything alive.
    alive: BTreeSet<(u32, u64)>,
    live_bytes: u64,
}

/// Inputs, outputs, and the parameter (with the first row) that the first output belongs to.
type Operands<'p> = (Vec<Tensor>, Vec<Tensor>, Option<(&'p ParamSpec, u64)>);

/// One instruction and what it is run on, as an [`Observer`] sees it.
pub struct Event<'a> {
    /// Where it stands.
    pub place: Place,
    /// The instruction.
    pub instr: &'a Instr,
    /// Name of its stream.
    pub stream: &'a str,
    /// Which run of which list.
    pub pass: Pass,
    /// Seed of the run.
    pub seed: u64,
    /// Index of the micro-batch's first token in its step.
    pub first_token: u64,
    /// Parameter that the first output belongs to, and its first row there.
    pub parameter: Option<(&'a ParamSpec, u64)>,
    /// Operands read.
    pub inputs: &'a [Tensor],
    /// Operands written.
    pub outputs: &'a [Tensor],
    /// Bytes of all live instances while it runs, by the program's lifetimes.
    pub live_bytes: u64,
}

/// Sees every instruction before and after it runs: a trace, a comparison with another device.
pub trait Observer {
    /// Whether the device is waited for after every instruction, so that host times mean something.
    fn waits(&self) -> bool {
        true
    }

    /// Before it runs.
    ///
    /// # Errors
    /// Ends the run.
    fn before(&mut self, event: &Event<'_>) -> Outcome<()> {
        let _ = event;
        Ok(())
    }

    /// After it ran. `seconds` are its start and end since the list began.
    ///
    /// # Errors
    /// Ends the run.
    fn after(&mut self, event: &Event<'_>, measured: Measured, seconds: (f64, f64)) -> Outcome<()>;
}

/// Which run of which list.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// `init`, `step`, `eval` or `save`.
    pub list: &'static str,
    /// Optimizer steps finished before.
    pub steps_done: u64,
}

impl<'p> Machine<'p> {
    /// Allocates the program's memory on `device`.
    ///
    /// # Errors
    /// As [`Memory::allocate`].
    pub fn new(program: &'p Program, device: Device, seed: u64) -> Outcome<Machine<'p>> {
        let (mut owners, mut passing) = (BTreeMap::new(), BTreeMap::new());
        for param in &program.params {
            if let Some(id) = param.buffers.master_work {
                passing.insert((id.0, param.layer.unwrap_or(0)), param);
            }
            for id in [Some(param.buffers.weight), param.buffers.master].into_iter().flatten() {
                let layer = param.layer.map_or(0, |l| l as i64);
                if let Some(instance) = program.buffer(id).and_then(|b| b.instance(layer, 0, 0)) {
                    owners.insert((id.0, instance), param);
                }
            }
        }
        let persistent = program.buffers.iter().filter(|b| b.class.persistent());
        Ok(Machine {
            program,
            device,
            seed,
            streams: match device {
                Device::Cuda(_) if program.streams.len() > 1 => Some(Streams::new(program.streams.len())?),
                _ => None,
            },
            memory: Memory::allocate(program, device)?,
            meter: Meter::new(device),
            owners,
            passing,
            tokens: micro_batch_tokens(program),
            alive: BTreeSet::new(),
            live_bytes: persistent.map(device_bytes).sum(),
        })
    }

    /// Its tensors.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Its program.
    pub fn program(&self) -> &'p Program {
        self.program
    }

    /// Highest bytes of tensors the allocator had live so far.
    ///
    /// # Errors
    /// When the accelerator's statistics cannot be read.
    pub fn peak_bytes(&self) -> Outcome<u64> {
        self.meter.highest()
    }

    /// Writes a device scalar, without waiting for the device.
    ///
    /// # Errors
    /// When the program has no such buffer.
    pub fn set(&self, name: &str, value: f64) -> Outcome<()> {
        let _ = self.memory.named(self.program, name)?.shallow_clone().f_fill_(value)?;
        Ok(())
    }

    /// Reads a device scalar.
    ///
    /// # Errors
    /// When the program has no such buffer.
    pub fn get(&self, name: &str) -> Outcome<f64> {
        Ok(self.memory.named(self.program, name)?.f_double_value(&[0])?)
    }

    /// Reads a device tensor of one axis.
    ///
    /// # Errors
    /// When the program has no such buffer.
    pub fn get_all(&self, name: &str) -> Outcome<Vec<f64>> {
        let tensor = self.memory.named(self.program, name)?;
        let host = tensor.f_to_device(Device::Cpu)?.f_to_kind(tch::Kind::Double)?;
        Ok(Vec::<f64>::try_from(&host)?)
    }

    /// Runs a list of calls in order.
    ///
    /// # Errors
    /// The failure of the first instruction that fails, with its place; code 70 when an instruction takes more
    /// memory than it declares or does not give it back.
    pub fn run(
        &mut self,
        calls: &[Call],
        pass: Pass,
        host: &mut dyn Host,
        mut observer: Option<&mut dyn Observer>,
    ) -> Outcome<()> {
        let _no_grad = tch::no_grad_guard();
        if let (Device::Cuda(index), true) = (self.device, pass.list != "step" && self.streams.is_some()) {
            tch::Cuda::synchronize(index as i64); // no event reaches from one list into another
        }
        let clock = Instant::now();
        for (id, _) in std::mem::take(&mut self.alive) {
            self.live_bytes -= self.program.buffers.get(id as usize).map_or(0, |b| b.bytes());
        }
        for call in calls {
            let segment = self.program.segment(call.segment);
            let segment = segment.ok_or_else(|| {
                Failure::environment(say!(
                    "the program has no segment {id}",
                    "程序中没有段 {id}",
                    id = call.segment.0
                ))
            })?;
            for (index, instr) in segment.instrs.iter().enumerate() {
                let place = place(segment, index, call);
                let observer = observer.as_mut().map(|o| &mut **o as &mut dyn Observer);
                self.step(call, instr, place, pass, host, &clock, observer)?;
            }
        }
        Ok(())
    }

    /// Runs one instruction.
    #[allow(clippy::too_many_arguments)] // one caller, and a struct of these would only rename them
    fn step(
        &mut self,
        call: &Call,
        instr: &Instr,
        place: Place,
        pass: Pass,
        host: &mut dyn Host,
        clock: &Instant,
        mut observer: Option<&mut dyn Observer>,
    ) -> Outcome<()> {
        let (inputs, outputs, parameter) = self.bind(call, instr)?;
        let event = Event {
            place,
            instr,
            stream: self.program.streams.get(instr.stream.0 as usize).map_or("", String::as_str),
            pass,
            seed: self.seed,
            first_token: call.micro_batch * self.tokens,
            parameter,
            inputs: &inputs,
            outputs: &outputs,
            live_bytes: self.live_bytes,
        };
        if let Some(observer) = &mut observer {
            observer.before(&event)?;
        }
        // Statistics cost host time that a small model has not got: the first passes tell all there is to see.
        let metered = observer.is_some() || self.device == Device::Cpu || pass.steps_done < METERED_STEPS;
        let before = if metered { self.meter.begin()? } else { 0 };
        let start = clock.elapsed().as_secs_f64();
        let mut context = event.context(host);
        let ran = match &mut self.streams {
            None => execute(&instr.op, &mut context, &inputs, &outputs),
            Some(streams) => on_stream(streams, call, instr, || match (&instr.op, &*inputs, &*outputs) {
                (Op::Copy(_), [source], [destination]) if streams::crosses(source, destination) => {
                    streams::copy(source, destination, Stream::current())
                }
                _ => execute(&instr.op, &mut context, &inputs, &outputs),
            }),
        };
        ran.map_err(|e| at(&event.place, &instr.op, e.into()))?;
        if let (Device::Cuda(index), Some(true)) = (self.device, observer.as_ref().map(|o| o.waits())) {
            tch::Cuda::synchronize(index as i64);
        }
        let end = clock.elapsed().as_secs_f64();
        let measured = if metered { self.meter.end(before)? } else { Measured { peak: 0, left: 0 } };
        // CUDA libraries keep workspaces of their own in the caching allocator: measured there, not judged.
        if self.device == Device::Cpu {
            hold_to_workspace(&event.place, instr, measured.peak, measured.left)?;
        }
        if let Some(observer) = observer {
            observer.after(&event, measured, (start, end))?;
        }
        self.free(call, instr)
    }

    /// Operands of an instruction; instances written for the first time come alive.
    fn bind(&mut self, call: &Call, instr: &Instr) -> Outcome<Operands<'p>> {
        let mut inputs = Vec::with_capacity(instr.inputs.len());
        for reference in &instr.inputs {
            inputs.push(self.memory.resolve(self.program, reference, call)?.2);
        }
        let (mut outputs, mut parameter) = (Vec::with_capacity(instr.outputs.len()), None);
        for reference in &instr.outputs {
            let (id, instance, tensor) = self.memory.resolve(self.program, reference, call)?;
            let first_row = reference.rows.map_or(0, |[start, _]| start);
            let layer = call.layer.saturating_add_signed(reference.layer);
            let owner = self.owners.get(&(id.0, instance)).or_else(|| self.passing.get(&(id.0, layer)));
            parameter = parameter.or_else(|| Some((*owner?, first_row)));
            if let Some(buffer) = self.program.buffer(id).filter(|b| passes(b))
                && self.alive.insert((id.0, instance))
            {
                self.live_bytes += buffer.bytes();
            }
            outputs.push(tensor);
        }
        Ok((inputs, outputs, parameter))
    }

    fn free(&mut self, call: &Call, instr: &Instr) -> Outcome<()> {
        for reference in &instr.frees {
            let (id, instance, _) = self.memory.resolve(self.program, reference, call)?;
            if self.alive.remove(&(id.0, instance)) {
                self.live_bytes -= self.program.buffer(id).map_or(0, |b| b.bytes());
            }
        }
        Ok(())
    }
}

impl Event<'_> {
    /// What the executor of this instruction may ask.
    pub fn context<'h>(&'h self, host: &'h mut dyn Host) -> Context<'h> {
        Context {
            seed: self.seed,
            step: self.pass.steps_done,
            layer: self.place.layer,
            micro_batch: self.place.micro_batch,
            first_token: self.first_token,
            parameter: self.parameter,
            host,
        }
    }
}

/// Refuses an instruction that took more than it declared, or kept some.
fn hold_to_workspace(place: &Place, instr: &Instr, peak: u64, left: i64) -> Outcome<()> {
    let key = instr.op.key();
    if peak > instr.workspace + SCALAR_BYTES {
        return Err(Failure::bug(format!(
            "{place} ({key}) took {peak} bytes from the allocator, it declares {}",
            instr.workspace
        )));
    }
    if left != 0 {
        return Err(Failure::bug(format!("{place} ({key}) left {left} bytes in the allocator")));
    }
    Ok(())
}

fn place(segment: &Segment, index: usize, call: &Call) -> Place {
    Place {
        segment: segment.name.clone(),
        index: index as u64,
        layer: call.layer,
        micro_batch: call.micro_batch,
    }
}

/// Adds the place to a failure that is ours; what the host says already stands on its own.
fn at(place: &Place, op: &Op, failure: Failure) -> Failure {
    if failure.code == 70 {
        Failure::bug(format!("{place} ({}): {}", op.key(), failure.message.en))
    } else {
        failure
    }
}

/// Runs `work` on the stream of an instruction, after what it waits for, and raises its events.
fn on_stream(
    streams: &mut Streams,
    call: &Call,
    instr: &Instr,
    work: impl FnOnce() -> crate::error::Result<()>,
) -> crate::error::Result<()> {
    let stream = streams.get(instr.stream.0);
    for wait in &instr.waits {
        let layer = call.layer.wrapping_add_signed(wait.layer);
        let micro_batch = call.micro_batch.wrapping_add_signed(wait.micro_batch);
        // The event of the previous step is the one raised last: this step has not come to it yet.
        streams.wait(stream, (wait.event.0, layer, micro_batch))?;
    }
    stream.make_current();
    let done = work();
    Stream::DEFAULT.make_current();
    done?;
    for event in &instr.signals {
        streams.signal(stream, (event.0, call.layer, call.micro_batch))?;
    }
    Ok(())
}

/// Whether instances of a buffer come and go on the device.
fn passes(buffer: &Buffer) -> bool {
    !buffer.class.persistent() && buffer.space == Space::Device
}

/// Bytes of all instances, on the device.
fn device_bytes(buffer: &Buffer) -> u64 {
    if buffer.space == Space::Device { buffer.bytes() * buffer.instances() } else { 0 }
}

/// Tokens of a micro-batch, from the instruction that loads it.
fn micro_batch_tokens(program: &Program) -> u64 {
    let loads = program.segments.iter().flat_map(|s| &s.instrs).find_map(|i| match &i.op {
        Op::LoadBatch(load) => Some(load.sequences * load.context),
        _ => None,
    });
    loads.unwrap_or(0)
}
