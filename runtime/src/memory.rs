//! The tensors of a program: one a persistent instance, and one arena that every transient is a view into.
//!
//! Not here: where in the arena an instance lies (`plan::arena`), when it is alive (the interpreter).

use llmc_plan::plan::DType;
use llmc_plan::program::{Buffer, BufferId, Call, Program, Ref, Space};
use llmc_plan::say;
use tch::{Device, Kind, Tensor};

use crate::cuda;
use crate::failure::{Failure, Outcome};

/// All tensors of one rank.
#[derive(Debug)]
pub struct Memory {
    /// By buffer, then instance.
    instances: Vec<Vec<Tensor>>,
}

/// libtorch's name of a number format.
pub fn kind(dtype: DType) -> Kind {
    match dtype {
        DType::F64 => Kind::Double,
        DType::F32 => Kind::Float,
        DType::Bf16 => Kind::BFloat16,
        DType::F16 => Kind::Half,
        DType::F8E4m3 => Kind::Float8e4m3fn,
        DType::F8E5m2 => Kind::Float8e5m2,
        DType::I64 => Kind::Int64,
        DType::I32 => Kind::Int,
        DType::I16 => Kind::Int16,
    }
}

/// The other way round; 64-bit floats for what no program holds.
pub fn dtype(kind: Kind) -> DType {
    match kind {
        Kind::Float => DType::F32,
        Kind::BFloat16 => DType::Bf16,
        Kind::Half => DType::F16,
        Kind::Float8e4m3fn => DType::F8E4m3,
        Kind::Float8e5m2 => DType::F8E5m2,
        Kind::Int64 => DType::I64,
        Kind::Int => DType::I32,
        Kind::Int16 => DType::I16,
        _ => DType::F64,
    }
}

impl Memory {
    /// Allocates everything the program will ever use. Persistent instances start as zeros.
    ///
    /// # Errors
    /// Exit code 2 when the device has not that much, 70 when the program asks for what cannot be laid out.
    pub fn allocate(program: &Program, device: Device) -> Outcome<Memory> {
        let arena = bytes(program.arena_bytes, device).map_err(|e| {
            let bytes = program.arena_bytes;
            Failure::environment(say!(
                "no {bytes} bytes for transients: {e}",
                "无法为临时张量分配 {bytes} 字节：{e}"
            ))
        })?;
        let instances = program.buffers.iter().map(|buffer| instances(buffer, &arena, device));
        Ok(Memory { instances: instances.collect::<Outcome<_>>()? })
    }

    /// One instance of a buffer.
    pub fn instance(&self, buffer: BufferId, instance: u64) -> Option<&Tensor> {
        self.instances.get(buffer.0 as usize)?.get(instance as usize)
    }

    /// The only instance of a buffer, by name.
    pub fn named(&self, program: &Program, name: &str) -> Outcome<&Tensor> {
        let found = program.buffer_named(name).and_then(|id| self.instance(id, 0));
        found.ok_or_else(|| {
            Failure::environment(say!("the program has no buffer `{name}`", "程序中没有缓冲区 `{name}`"))
        })
    }

    /// What an operand means in a call: its buffer, instance and tensor, row range applied.
    pub fn resolve(
        &self,
        program: &Program,
        reference: &Ref,
        call: &Call,
    ) -> Outcome<(BufferId, u64, Tensor)> {
        let missing = || {
            let name = program.buffer(reference.buffer).map_or("?", |b| b.name.as_str());
            let layer = call.layer as i64 + reference.layer;
            Failure::environment(say!(
                "buffer `{name}` has no instance for layer {layer}, slot {slot}",
                "缓冲区 `{name}` 没有第 {layer} 层、槽位 {slot} 的实例",
                slot = call.slot
            ))
        };
        let buffer = program.buffer(reference.buffer).ok_or_else(missing)?;
        let layer = i64::try_from(call.layer).unwrap_or(i64::MAX).saturating_add(reference.layer);
        let instance = buffer.instance(layer, call.slot, call.micro_batch).ok_or_else(missing)?;
        let tensor = self.instance(reference.buffer, instance).ok_or_else(missing)?;
        let tensor = match reference.rows {
            None => tensor.shallow_clone(),
            Some([start, end]) => tensor.f_narrow(0, start as i64, end.saturating_sub(start) as i64)?,
        };
        Ok((reference.buffer, instance, tensor))
    }
}

fn bytes(count: u64, device: Device) -> Result<Tensor, tch::TchError> {
    Tensor::f_empty([i64::try_from(count).unwrap_or(i64::MAX)], (Kind::Uint8, device))
}

/// All instances of one buffer.
fn instances(buffer: &Buffer, arena: &Tensor, device: Device) -> Outcome<Vec<Tensor>> {
    let home = if buffer.space == Space::Device { device } else { Device::Cpu };
    let shape: Vec<i64> = buffer.shape.iter().map(|d| i64::try_from(*d).unwrap_or(i64::MAX)).collect();
    if buffer.class.persistent() || buffer.space != Space::Device {
        let one = || {
            let tensor = Tensor::f_zeros(&shape, (kind(buffer.dtype), home)).map_err(|e| {
                let (bytes, name) = (buffer.bytes(), &buffer.name);
                Failure::environment(say!(
                    "no {bytes} bytes for `{name}`: {e}",
                    "无法为 `{name}` 分配 {bytes} 字节：{e}"
                ))
            })?;
            if buffer.space == Space::Pinned && device != Device::Cpu {
                // Not libtorch's pinned allocator, which rounds up to powers of two.
                cuda::streams::pin(&tensor)?;
            }
            Ok(tensor)
        };
        return (0..buffer.instances()).map(|_| one()).collect();
    }
    if buffer.offsets.len() as u64 != buffer.instances() {
        return Err(Failure::environment(say!(
            "buffer `{name}` has {addresses} addresses for {instances} instances",
            "缓冲区 `{name}` 有 {addresses} 个地址，却有 {instances} 个实例",
            name = buffer.name,
            addresses = buffer.offsets.len(),
            instances = buffer.instances()
        )));
    }
    let view = |offset: &u64| -> Outcome<Tensor> {
        let flat = arena.f_narrow(0, *offset as i64, buffer.bytes() as i64)?;
        Ok(flat.f_view_dtype(kind(buffer.dtype))?.f_view(shape.as_slice())?)
    };
    buffer.offsets.iter().map(view).collect()
}
