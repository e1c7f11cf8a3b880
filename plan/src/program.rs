//! The `Program`: the instruction stream of one rank, lowered from a plan and never stored in it.
//!
//! `step` is a list of [`Call`]s of [`Segment`]s; a segment is written once for all layers and
//! micro-batches, so the list does not grow with what a segment holds. Lifetimes are explicit: a transient
//! buffer instance lives from the instruction that first writes it to the one that frees it.
//!
//! Not here: how it is made (`lower`), what it costs (`walk`), whether it is well formed (`verify`).

use serde::{Deserialize, Serialize};

use crate::op::{Backend, Op, TensorType};
use crate::param::ParamSpec;
use crate::plan::DType;

/// Index of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BufferId(pub u32);

/// Index of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentId(pub u32);

/// Index of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamId(pub u32);

/// Index of an event name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(pub u32);

/// Axes of the device mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// Tensor (and sequence) parallel.
    Tensor,
    /// Context parallel.
    Context,
    /// Pipeline.
    Pipeline,
    /// Data parallel inside a shard group (ZeRO).
    Shard,
    /// Data parallel across shard groups.
    Replicate,
}

/// The mesh and this rank's place in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mesh {
    /// (axis, size), innermost (fastest changing rank) first.
    pub axes: Vec<(Axis, u64)>,
    /// This rank's coordinate on each axis, same order.
    pub coordinates: Vec<u64>,
}

impl Mesh {
    /// Size of an axis; 1 when the mesh has no such axis.
    pub fn size(&self, axis: Axis) -> u64 {
        self.axes.iter().find(|(a, _)| *a == axis).map_or(1, |(_, size)| *size)
    }

    /// This rank's coordinate on an axis; 0 when the mesh has no such axis.
    pub fn coordinate(&self, axis: Axis) -> u64 {
        let index = self.axes.iter().position(|(a, _)| *a == axis);
        index.and_then(|i| self.coordinates.get(i)).copied().unwrap_or(0)
    }
}

/// Where a buffer lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Space {
    /// The compute device.
    Device,
    /// Page-locked host memory.
    Pinned,
    /// Ordinary host memory.
    Host,
}

/// What a buffer is for; the plan's memory table groups by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Compute-format parameters.
    Parameter,
    /// Gradient accumulators.
    Gradient,
    /// Masters and moments.
    Optimizer,
    /// Saved for the backward pass, or a transient of forward or backward.
    Activation,
    /// Logits.
    Logits,
    /// Token batches.
    Batch,
    /// Communication: gathered units, buckets, halos.
    Communication,
    /// Device scalars and tables.
    Constant,
}

impl Class {
    /// Whether instances live for the whole run, outside the arena.
    pub fn persistent(self) -> bool {
        matches!(self, Class::Parameter | Class::Gradient | Class::Optimizer | Class::Constant)
    }
}

/// How instances of a buffer are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Index {
    /// One instance.
    One,
    /// One a layer.
    Layer,
    /// One a micro-batch in flight, by the call's micro-batch: what all runs of layers share.
    MicroBatch,
    /// One a pass in flight, by the call's slot.
    Slot,
    /// One a layer and pass in flight; runs of layers share them.
    LayerSlot,
    /// Layers share `slots` instances round robin (double buffering).
    LayerRing,
}

/// Memory that instructions read and write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Buffer {
    /// Name, unique.
    pub name: String,
    /// Where it lives.
    pub space: Space,
    /// Shape of one instance on this rank.
    pub shape: Vec<u64>,
    /// Number format.
    pub dtype: DType,
    /// What it is for.
    pub class: Class,
    /// How instances are told apart.
    pub index: Index,
    /// First layer that has an instance (pipeline stages hold a range).
    pub first_layer: u64,
    /// Instances along the layers (1 unless indexed by layer).
    pub layers: u64,
    /// Ranks of an interleaved pipeline hold several runs of layers: layers with an instance a run; 0 = one run.
    #[serde(default, skip_serializing_if = "is_none")]
    pub run: u64,
    /// Layers from the first of one run to the first of the next; 0 = one run.
    #[serde(default, skip_serializing_if = "is_none")]
    pub period: u64,
    /// Instances along the slots (1 unless indexed by slot or micro-batch), taken in turn.
    pub slots: u64,
    /// Instances share bytes of the arena with nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub apart: bool,
    /// Byte offset of each instance in the arena of its space; empty for persistent classes and before
    /// `arena::assign`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offsets: Vec<u64>,
}

impl Buffer {
    /// Shape and format of one instance.
    pub fn tensor(&self) -> TensorType {
        TensorType { shape: self.shape.clone(), dtype: self.dtype }
    }

    /// Bytes of one instance.
    pub fn bytes(&self) -> u64 {
        self.tensor().bytes()
    }

    /// Number of instances.
    pub fn instances(&self) -> u64 {
        match self.index {
            Index::One => 1,
            Index::Layer => self.layers,
            Index::MicroBatch | Index::Slot | Index::LayerRing => self.slots,
            Index::LayerSlot => self.layers.saturating_mul(self.slots),
        }
    }

    /// Run and position inside it of the layer this far behind the first.
    fn local(&self, layer: u64) -> Option<(u64, u64)> {
        let Some((run, inside)) = layer.checked_div(self.period).zip(layer.checked_rem(self.period)) else {
            return Some((0, layer));
        };
        (inside < self.run).then_some((run, inside))
    }

    /// Which instance a call of this layer, slot and micro-batch means, or `None` when there is no such instance.
    pub fn instance(&self, layer: i64, slot: u64, micro_batch: u64) -> Option<u64> {
        let layer = u64::try_from(layer).ok();
        let local = layer.and_then(|l| l.checked_sub(self.first_layer)).and_then(|l| self.local(l));
        match self.index {
            Index::One => Some(0),
            Index::Layer => {
                let (run, inside) = local?;
                Some(run.saturating_mul(self.run).saturating_add(inside)).filter(|l| *l < self.layers)
            }
            Index::MicroBatch => micro_batch.checked_rem(self.slots),
            Index::Slot => slot.checked_rem(self.slots),
            Index::LayerSlot => {
                let (_, inside) = local.filter(|(_, inside)| *inside < self.layers)?;
                Some(inside.saturating_mul(self.slots).saturating_add(slot.checked_rem(self.slots)?))
            }
            Index::LayerRing => layer.map(|l| l % self.slots.max(1)),
        }
    }
}

/// An operand: an instance of a buffer chosen by the call, or a block of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    /// Which buffer.
    pub buffer: BufferId,
    /// Added to the call's layer (the output of a block is the input of layer + 1).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub layer: i64,
    /// Rows `[start, end)`; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<[u64; 2]>,
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

impl Ref {
    /// The whole instance of the call's own layer.
    pub fn of(buffer: BufferId) -> Ref {
        Ref { buffer, layer: 0, rows: None }
    }

    /// The instance of the layer `offset` away.
    pub fn at_layer(self, offset: i64) -> Ref {
        Ref { layer: offset, ..self }
    }

    /// Only these rows.
    pub fn rows(self, start: u64, end: u64) -> Ref {
        Ref { rows: Some([start, end]), ..self }
    }
}

/// Waits for an event of the same or a neighbouring call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// Which event.
    pub event: EventId,
    /// Added to the call's layer.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub layer: i64,
    /// Added to the call's micro-batch.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub micro_batch: i64,
    /// The event of the previous optimizer step; satisfied at once in the first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub previous_step: bool,
}

/// One instruction. Ops never allocate outputs and never wait for the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instr {
    /// What to do.
    #[serde(flatten)]
    pub op: Op,
    /// Operands read, in the op's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "in")]
    pub inputs: Vec<Ref>,
    /// Operands written, in the op's order; an output may be read too where the op says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "out")]
    pub outputs: Vec<Ref>,
    /// Peak bytes the library below may hold while the op runs.
    #[serde(default, skip_serializing_if = "is_none")]
    pub workspace: u64,
    /// On which stream.
    pub stream: StreamId,
    /// Events it waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<Wait>,
    /// Events it raises, keyed by the call's layer and micro-batch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<EventId>,
    /// Instances that die after it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frees: Vec<Ref>,
    /// Repeats work of the forward pass.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recompute: bool,
}

fn is_none(value: &u64) -> bool {
    *value == 0
}

/// A straight run of instructions, the same for every layer and micro-batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Name, unique: `block.forward`, `head.loss`, `optimizer.block`, …
    pub name: String,
    /// The instructions.
    pub instrs: Vec<Instr>,
}

/// One use of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Which segment.
    pub segment: SegmentId,
    /// For which layer.
    #[serde(default)]
    pub layer: u64,
    /// For which micro-batch of the step.
    #[serde(default)]
    pub micro_batch: u64,
    /// Which instance of slotted buffers, modulo how many a buffer has.
    #[serde(default)]
    pub slot: u64,
}

/// The instruction stream of one rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// `major.minor`, as for plans.
    pub format_version: String,
    /// For which library workspaces were computed.
    pub backend: Backend,
    /// Parameters this rank holds.
    pub params: Vec<ParamSpec>,
    /// Buffers.
    pub buffers: Vec<Buffer>,
    /// Device mesh and place in it.
    pub mesh: Mesh,
    /// Stream names; the first is compute.
    pub streams: Vec<String>,
    /// Event names.
    pub events: Vec<String>,
    /// Segments.
    pub segments: Vec<Segment>,
    /// Run once, before the first step of a fresh run.
    pub init: Vec<Call>,
    /// One optimizer step.
    pub step: Vec<Call>,
    /// One validation micro-batch.
    pub eval: Vec<Call>,
    /// One checkpoint.
    pub save: Vec<Call>,
    /// Bytes of the arena of transients on the device; 0 before `arena::assign`.
    #[serde(default)]
    pub arena_bytes: u64,
}

/// Where an instruction stands: the same text in a simulation, a trace and an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Segment name.
    pub segment: String,
    /// Index inside the segment.
    pub index: u64,
    /// Layer of the call.
    pub layer: u64,
    /// Micro-batch of the call.
    pub micro_batch: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} layer {} micro-batch {}", self.segment, self.index, self.layer, self.micro_batch)
    }
}

impl Program {
    /// A buffer, or `None` for an id outside the program (an edited file may hold any number).
    pub fn buffer(&self, id: BufferId) -> Option<&Buffer> {
        self.buffers.get(id.0 as usize)
    }

    /// A segment, or `None`.
    pub fn segment(&self, id: SegmentId) -> Option<&Segment> {
        self.segments.get(id.0 as usize)
    }

    /// Finds a buffer by name.
    pub fn buffer_named(&self, name: &str) -> Option<BufferId> {
        self.buffers.iter().position(|b| b.name == name).map(|i| BufferId(i as u32))
    }

    /// Finds a segment by name.
    pub fn segment_named(&self, name: &str) -> Option<SegmentId> {
        self.segments.iter().position(|s| s.name == name).map(|i| SegmentId(i as u32))
    }

    /// Every (call, place, instruction) of a list, in issue order.
    pub fn instrs<'a>(
        &'a self,
        calls: &'a [Call],
    ) -> impl Iterator<Item = (Call, u64, &'a Segment, &'a Instr)> {
        calls.iter().flat_map(move |call| {
            let segment = self.segment(call.segment);
            let instrs = segment.map(|s| s.instrs.as_slice()).unwrap_or(&[]);
            instrs
                .iter()
                .enumerate()
                .filter_map(move |(i, instr)| segment.map(|s| (*call, i as u64, s, instr)))
        })
    }

    /// Which instance of its buffer an operand means in a call.
    pub fn instance(&self, call: &Call, reference: &Ref) -> Option<u64> {
        let layer = i64::try_from(call.layer).ok()?.checked_add(reference.layer)?;
        self.buffer(reference.buffer)?.instance(layer, call.slot, call.micro_batch)
    }

    /// Shape and format of an operand, row range applied.
    pub fn tensor(&self, reference: &Ref) -> Option<TensorType> {
        let mut tensor = self.buffer(reference.buffer)?.tensor();
        if let Some([start, end]) = reference.rows {
            let rows = tensor.shape.first_mut()?;
            if start >= end || end > *rows {
                return None;
            }
            *rows = end - start;
        }
        Some(tensor)
    }
}
