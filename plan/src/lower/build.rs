//! Writes programs: buffers by name, segments instruction by instruction, every operand checked.

use super::LowerError;
use super::params::RING;
use super::pipeline::Windows;
use super::shape::Shape;
use crate::op::{Backend, Op};
use crate::plan::DType;
use crate::program::{
    Buffer, BufferId, Class, Index, Instr, Mesh, Program, Ref, Segment, SegmentId, Space, StreamId,
};

/// The stream everything runs on that nothing else is said of.
pub const COMPUTE: &str = "compute";

/// A program under construction.
pub struct Builder {
    /// What is built so far.
    pub program: Program,
    first_layer: u64,
    layers: u64,
    run: u64,
    period: u64,
    windows: Windows,
}

impl Builder {
    /// An empty program with one stream.
    pub fn new(shape: &Shape, backend: Backend) -> Builder {
        let program = Program {
            format_version: crate::plan::FORMAT_VERSION.to_string(),
            backend,
            params: Vec::new(),
            buffers: Vec::new(),
            mesh: Mesh { axes: shape.axes.clone(), coordinates: shape.coordinates.clone() },
            streams: vec![COMPUTE.to_string()],
            events: Vec::new(),
            segments: Vec::new(),
            init: Vec::new(),
            step: Vec::new(),
            eval: Vec::new(),
            save: Vec::new(),
            arena_bytes: 0,
        };
        let first = shape.chunks.first();
        Builder {
            program,
            first_layer: first.map_or(0, |c| c.first),
            layers: shape.chunks.iter().map(|c| c.layers).sum(),
            run: if shape.period > 0 { first.map_or(0, |c| c.layers) } else { 0 },
            period: shape.period,
            windows: shape.windows,
        }
    }

    /// Declares a device buffer whose instances the index tells apart; layers and slots are this rank's.
    pub fn buffer(&mut self, name: &str, shape: &[u64], dtype: DType, class: Class, index: Index) -> Ref {
        let by_layer = matches!(index, Index::Layer | Index::LayerSlot);
        self.program.buffers.push(Buffer {
            name: name.to_string(),
            space: Space::Device,
            shape: shape.to_vec(),
            dtype,
            class,
            index,
            first_layer: if by_layer { self.first_layer } else { 0 },
            layers: match index {
                // Runs of layers share what belongs to a pass.
                Index::LayerSlot if self.run > 0 => self.run,
                _ if by_layer => self.layers,
                _ => 1,
            },
            run: if by_layer { self.run } else { 0 },
            period: if by_layer { self.period } else { 0 },
            slots: match index {
                Index::LayerRing => RING,
                Index::MicroBatch => self.windows.micro_batches,
                Index::Slot | Index::LayerSlot => self.windows.passes,
                Index::One | Index::Layer => 1,
            },
            apart: false,
            offsets: Vec::new(),
        });
        Ref::of(BufferId(self.program.buffers.len() as u32 - 1))
    }

    /// A buffer that several owners pass through: declared once.
    pub fn shared(&mut self, name: &str, shape: &[u64], dtype: DType, class: Class, index: Index) -> Ref {
        match self.program.buffer_named(name) {
            Some(id) => Ref::of(id),
            None => self.buffer(name, shape, dtype, class, index),
        }
    }

    /// Number of a stream; declares it on first use.
    pub fn stream(&mut self, name: &str) -> StreamId {
        let known = self.program.streams.iter().position(|s| s == name);
        StreamId(known.unwrap_or_else(|| {
            self.program.streams.push(name.to_string());
            self.program.streams.len() - 1
        }) as u32)
    }

    /// The buffer just declared or any other, to adjust.
    pub fn edit(&mut self, reference: Ref) -> Option<&mut Buffer> {
        self.program.buffers.get_mut(reference.buffer.0 as usize)
    }

    /// Adds a segment unless it is empty.
    pub fn add_some(&mut self, draft: Draft) -> Result<Option<SegmentId>, LowerError> {
        if draft.is_empty() { Ok(None) } else { self.add(draft).map(Some) }
    }

    /// Adds a segment: checks every instruction against its operands and computes its workspace.
    pub fn add(&mut self, draft: Draft) -> Result<SegmentId, LowerError> {
        let Draft { name, mut instrs, streams, .. } = draft;
        for (index, (instr, stream)) in instrs.iter_mut().zip(streams).enumerate() {
            instr.stream = self.stream(stream);
            let bug = |reason: String| LowerError::Bug { place: format!("{name}/{index}"), reason };
            let types =
                |refs: &[Ref]| refs.iter().map(|r| self.program.tensor(r)).collect::<Option<Vec<_>>>();
            let (Some(inputs), Some(outputs)) = (types(&instr.inputs), types(&instr.outputs)) else {
                return Err(bug("an operand is outside its buffer".to_string()));
            };
            let spec = instr.op.spec();
            spec.check(&inputs, &outputs).map_err(|e| bug(format!("{}: {e}", instr.op.key())))?;
            instr.workspace = spec.workspace(self.program.backend, &inputs, &outputs);
        }
        self.program.segments.push(Segment { name, instrs });
        Ok(SegmentId(self.program.segments.len() as u32 - 1))
    }
}

/// A segment under construction.
pub struct Draft {
    name: String,
    instrs: Vec<Instr>,
    /// Stream of each instruction, by name.
    streams: Vec<&'static str>,
    stream: &'static str,
    recompute: bool,
}

impl Draft {
    /// An empty segment on the compute stream.
    pub fn new(name: impl Into<String>) -> Draft {
        Draft {
            name: name.into(),
            instrs: Vec::new(),
            streams: Vec::new(),
            stream: COMPUTE,
            recompute: false,
        }
    }

    /// Issues what follows on another stream.
    pub fn on(&mut self, stream: &'static str) {
        self.stream = stream;
    }

    /// Issues one thing on another stream.
    pub fn on_for(&mut self, stream: &'static str, write: impl FnOnce(&mut Draft)) {
        let before = std::mem::replace(&mut self.stream, stream);
        write(self);
        self.stream = before;
    }

    /// Whether it has no instructions.
    pub fn is_empty(&self) -> bool {
        self.instrs.is_empty()
    }

    /// Marks what follows as repeated forward work, or not.
    pub fn recompute(&mut self, on: bool) {
        self.recompute = on;
    }

    /// Appends an instruction.
    pub fn op(
        &mut self,
        op: impl Into<Op>,
        inputs: impl IntoIterator<Item = Ref>,
        outputs: impl IntoIterator<Item = Ref>,
    ) {
        self.instrs.push(Instr {
            op: op.into(),
            inputs: inputs.into_iter().collect(),
            outputs: outputs.into_iter().collect(),
            workspace: 0,
            stream: StreamId(0),
            waits: Vec::new(),
            signals: Vec::new(),
            frees: Vec::new(),
            recompute: self.recompute,
        });
        self.streams.push(self.stream);
    }

    /// Frees instances after the last instruction so far.
    pub fn free(&mut self, refs: impl IntoIterator<Item = Ref>) {
        if let Some(last) = self.instrs.last_mut() {
            last.frees.extend(refs.into_iter().map(|r| Ref { rows: None, ..r }));
        }
    }
}
