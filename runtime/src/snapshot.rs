//! Between a program's tensors and a checkpoint's: names, row blocks, formats.
//!
//! `model.safetensors` holds Hugging Face tensors: the parts of each packed parameter, without the rows that only
//! pad the vocabulary. `optimizer.safetensors` holds masters and moments under the program's own names, whole.
//! Not here: files and hashes ([`crate::checkpoint`]).

use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;

use llmc_plan::param::ParamSpec;
use llmc_plan::plan::DType;
use llmc_plan::program::{BufferId, Call, Program, Ref};
use llmc_plan::say;
use safetensors::{Dtype, View};
use tch::{Device, Kind, Tensor};

use crate::checkpoint::{Checkpoint, MODEL_FILE, OPTIMIZER_FILE, TensorFile};
use crate::failure::{Failure, Outcome};
use crate::memory::{Memory, kind};
use crate::ops::split;

/// What a saved buffer is to its parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    /// Compute-format weights without a master.
    Weight,
    /// f32 master.
    Master,
    /// What the weights saved before it lack of a split master.
    Missing,
    /// Optimizer state of this name.
    State(String),
}

/// A tensor on its way to a file: bytes are copied to the host when asked for, in the format of the file.
pub struct Saved {
    tensor: Tensor,
    /// What makes an f32 master of it.
    missing: Option<Tensor>,
    kind: Kind,
    dtype: Dtype,
    shape: Vec<usize>,
    /// `View` cannot fail; a failure waits here and is looked at after writing.
    failure: Rc<RefCell<Option<Failure>>>,
}

/// Tensors for the two files, and where a failed copy reports.
pub struct Snapshot {
    /// Hugging Face tensors.
    pub model: Vec<(String, Saved)>,
    /// Masters and optimizer states.
    pub optimizer: Vec<(String, Saved)>,
    failure: Rc<RefCell<Option<Failure>>>,
}

impl Snapshot {
    /// Names what the `save` list handed over. `vocab` is the vocabulary without padding.
    ///
    /// # Errors
    /// When the list saves something that belongs to no parameter.
    pub fn new(program: &Program, tensors: &[Tensor], vocab: u64) -> Outcome<Snapshot> {
        let references = program
            .instrs(&program.save)
            .flat_map(|(call, _, _, instr)| instr.inputs.iter().map(move |reference| (call, *reference)));
        let failure = Rc::new(RefCell::new(None));
        let mut snapshot = Snapshot { model: Vec::new(), optimizer: Vec::new(), failure: failure.clone() };
        let mut before: Option<&Tensor> = None;
        for ((call, reference), tensor) in references.zip(tensors) {
            let (param, role) = owner(program, &call, &reference).ok_or_else(|| {
                let name = program.buffer(reference.buffer).map_or("?", |b| b.name.as_str());
                Failure::environment(say!(
                    "the program saves `{name}`, which belongs to no parameter",
                    "程序保存了 `{name}`，它不属于任何参数"
                ))
            })?;
            if role == Role::Weight || role == Role::Master {
                let weight = program.buffer(param.buffers.weight).map_or(DType::F32, |b| b.dtype);
                for (name, start, rows) in parts(param, vocab) {
                    let rows = tensor.f_narrow(0, start as i64, rows as i64)?;
                    snapshot.model.push((name.to_owned(), Saved::new(rows, weight, &failure)));
                }
            }
            let saved = match (&role, before) {
                (Role::Weight, _) => None,
                (Role::Missing, Some(weights)) => {
                    let master = Saved::new(weights.shallow_clone(), DType::F32, &failure);
                    Some(Saved { missing: Some(tensor.shallow_clone()), ..master })
                }
                _ => {
                    let dtype = program.buffer(reference.buffer).map_or(DType::F32, |b| b.dtype);
                    Some(Saved::new(tensor.shallow_clone(), dtype, &failure))
                }
            };
            snapshot.optimizer.extend(saved.map(|saved| (state_name(param, &role), saved)));
            before = Some(tensor);
        }
        Ok(snapshot)
    }

    /// The failure of a copy while the files were written, if any.
    pub fn failure(failure: &Rc<RefCell<Option<Failure>>>) -> Outcome<()> {
        failure.borrow_mut().take().map_or(Ok(()), Err)
    }

    /// Where copies report.
    pub fn reports(&self) -> Rc<RefCell<Option<Failure>>> {
        self.failure.clone()
    }
}

/// Fills weights, masters and states from a checkpoint.
///
/// # Errors
/// Exit code 2 naming file, tensor and both shapes when the checkpoint is of another model or format.
pub fn restore(program: &Program, memory: &Memory, checkpoint: &Checkpoint, vocab: u64) -> Outcome<()> {
    let _no_grad = tch::no_grad_guard();
    let mut model = TensorFile::open(&checkpoint.folder.join(MODEL_FILE))?;
    let mut optimizer = TensorFile::open(&checkpoint.folder.join(OPTIMIZER_FILE))?;
    for param in &program.params {
        let weight = parameter_tensor(program, memory, param, param.buffers.weight)?;
        if let Some(master) = param.buffers.master {
            let tensor = parameter_tensor(program, memory, param, master)?;
            fill(&mut optimizer, &state_name(param, &Role::Master), &tensor)?;
            weight.shallow_clone().f_copy_(&tensor)?;
        } else if let Some(missing) = param.buffers.missing {
            let missing = parameter_tensor(program, memory, param, missing)?;
            let master = Tensor::f_empty(weight.size(), (Kind::Float, Device::Cpu))?;
            fill(&mut optimizer, &state_name(param, &Role::Master), &master)?;
            split_into(&master, &weight, &missing)?;
        } else {
            // Padding rows are not in the file; no gradient ever reaches them, so zero is as good as any value.
            let _ = weight.shallow_clone().f_zero_()?;
            for (name, start, rows) in parts(param, vocab) {
                fill(&mut model, name, &weight.f_narrow(0, start as i64, rows as i64)?)?;
            }
        }
        for state in &param.buffers.states {
            let tensor = parameter_tensor(program, memory, param, *state)?;
            fill(&mut optimizer, &state_name(param, &Role::State(prefix(program, *state))), &tensor)?;
        }
    }
    Ok(())
}

/// Takes an f32 master apart, in host memory.
pub fn split_into(master: &Tensor, weights: &Tensor, missing: &Tensor) -> Outcome<()> {
    let flat = master.f_contiguous()?.f_view([-1])?;
    let like = |kind| Tensor::f_empty(flat.size(), (kind, Device::Cpu));
    let (upper, rest) = (like(Kind::BFloat16)?, like(Kind::Int16)?);
    split::split(&flat, &like(Kind::Int)?, &upper, &rest)?;
    weights.f_view([-1])?.f_copy_(&upper)?;
    missing.f_view([-1])?.f_copy_(&rest)?;
    Ok(())
}

/// The instance of a buffer that belongs to a parameter.
pub fn parameter_tensor(
    program: &Program,
    memory: &Memory,
    param: &ParamSpec,
    buffer: BufferId,
) -> Outcome<Tensor> {
    let layer = param.layer.map_or(0, |l| l as i64);
    let instance = program.buffer(buffer).and_then(|b| b.instance(layer, 0, 0));
    let tensor = instance.and_then(|i| memory.instance(buffer, i));
    tensor.map(Tensor::shallow_clone).ok_or_else(|| {
        let (name, id) = (&param.name, buffer.0);
        Failure::environment(say!("parameter {name} has no buffer {id}", "参数 {name} 没有缓冲区 {id}"))
    })
}

/// Hugging Face name, first row and rows of each part, without the rows that pad the vocabulary.
pub fn parts(param: &ParamSpec, vocab: u64) -> impl Iterator<Item = (&str, u64, u64)> {
    param.parts.iter().scan(0, move |start, part| {
        let first = *start;
        *start += part.rows;
        let padded = ["model.embed_tokens.weight", "lm_head.weight"].contains(&part.hf_name.as_str());
        let rows = if padded { part.rows.min(vocab) } else { part.rows };
        Some((part.hf_name.as_str(), first, rows))
    })
}

/// Which parameter a saved operand belongs to, and as what.
fn owner<'p>(program: &'p Program, call: &Call, reference: &Ref) -> Option<(&'p ParamSpec, Role)> {
    let by_layer = program.buffer(reference.buffer)?.layers > 1
        || program.params.iter().any(|p| p.layer.is_some() && holds(p, reference.buffer));
    let layer = by_layer.then_some(call.layer.checked_add_signed(reference.layer)?);
    let param = program.params.iter().find(|p| p.layer == layer && holds(p, reference.buffer))?;
    let role = if param.buffers.states.contains(&reference.buffer) {
        Role::State(prefix(program, reference.buffer))
    } else if param.buffers.master == Some(reference.buffer) {
        Role::Master
    } else if param.buffers.missing == Some(reference.buffer) {
        Role::Missing
    } else {
        Role::Weight
    };
    Some((param, role))
}

fn holds(param: &ParamSpec, buffer: BufferId) -> bool {
    let b = &param.buffers;
    b.weight == buffer || [b.master, b.missing].contains(&Some(buffer)) || b.states.contains(&buffer)
}

/// `m` of buffer `m.qkv`.
fn prefix(program: &Program, buffer: BufferId) -> String {
    let name = program.buffer(buffer).map_or("", |b| b.name.as_str());
    name.split('.').next().unwrap_or(name).to_owned()
}

fn state_name(param: &ParamSpec, role: &Role) -> String {
    match role {
        Role::State(state) => format!("{}.{state}", param.name),
        Role::Master | Role::Missing | Role::Weight => format!("{}.master", param.name),
    }
}

/// Copies one tensor of a file into `target`, which has its shape and format.
fn fill(file: &mut TensorFile, name: &str, target: &Tensor) -> Outcome<()> {
    let size = target.size();
    let shape: Vec<usize> = size.iter().map(|d| *d as usize).collect();
    let bytes = file.read(name, safetensors_dtype(target.kind())?, &shape)?;
    let tensor = Tensor::f_from_data_size(&bytes, &size, target.kind())?;
    target.shallow_clone().f_copy_(&tensor)?;
    Ok(())
}

fn safetensors_dtype(kind: Kind) -> Outcome<Dtype> {
    Ok(match kind {
        Kind::Double => Dtype::F64,
        Kind::Float => Dtype::F32,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Half => Dtype::F16,
        Kind::Float8e4m3fn => Dtype::F8_E4M3,
        Kind::Float8e5m2 => Dtype::F8_E5M2,
        other => return Err(Failure::bug(format!("{other:?} is not a format of checkpoints"))),
    })
}

/// Bytes converted or copied at a time, so that a snapshot takes no memory worth planning.
const CHUNK_BYTES: usize = 1 << 20;

impl Saved {
    fn new(tensor: Tensor, dtype: DType, failure: &Rc<RefCell<Option<Failure>>>) -> Saved {
        let shape = tensor.size().iter().map(|d| *d as usize).collect();
        let kind = kind(dtype);
        let named = safetensors_dtype(kind).unwrap_or_else(|f| {
            *failure.borrow_mut() = Some(f);
            Dtype::F32
        });
        Saved { tensor, missing: None, kind, dtype: named, shape, failure: failure.clone() }
    }

    fn copy(&self) -> Outcome<Vec<u8>> {
        let _no_grad = tch::no_grad_guard();
        let size = self.kind.elt_size_in_bytes();
        let flat = |t: &Tensor| t.f_contiguous()?.f_view([-1]);
        let missing = self.missing.as_ref().map(flat).transpose()?;
        let flat = flat(&self.tensor)?;
        let mut out = vec![0; self.data_len()];
        let mut done = 0;
        for chunk in out.chunks_mut(CHUNK_BYTES / size * size) {
            let elements = chunk.len() / size;
            let part = |t: &Tensor| t.f_narrow(0, done as i64, elements as i64);
            let part = match &missing {
                Some(missing) => {
                    let [weights, missing] = [&flat, missing].map(|t| part(t)?.f_to_device(Device::Cpu));
                    split::joined(&weights?, &missing?)?
                }
                None => part(&flat)?.f_to_kind(self.kind)?.f_to_device(Device::Cpu)?,
            };
            part.f_copy_data_u8(chunk, elements)?;
            done += elements;
        }
        Ok(out)
    }
}

impl View for Saved {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self.copy() {
            Ok(bytes) => bytes.into(),
            Err(failure) => {
                *self.failure.borrow_mut() = Some(failure);
                vec![0; self.data_len()].into()
            }
        }
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.kind.elt_size_in_bytes()
    }
}
