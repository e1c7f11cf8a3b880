//! Exchanges between ranks, by mesh axis.

use serde::{Deserialize, Serialize};

use super::{Kind, Spec, TensorType, arity, shape, traffic};
use crate::program::Axis;

/// Input: shard `[r, …]`. Output: whole `[r·size, …]`, shards in rank order along the rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gather {
    /// Along which axis of the mesh.
    pub axis: Axis,
}

/// Input: whole `[r·size, …]`. Output: this rank's row block of the sum, `[r, …]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReduceScatter {
    /// Along which axis of the mesh.
    pub axis: Axis,
    /// Add to the output instead of writing it.
    pub accumulate: bool,
}

/// Output: x, summed over the axis in place. No inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AllReduce {
    /// Along which axis of the mesh.
    pub axis: Axis,
}

/// Input: x, sent to the rank `offset` places along the axis (a ring). No outputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Send {
    /// Along which axis of the mesh.
    pub axis: Axis,
    /// How far along it, wrapping around.
    pub offset: i64,
    /// Matches the receiver's tag.
    pub tag: String,
}

/// Output: x, from the rank `offset` places along the axis (a ring). No inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recv {
    /// Along which axis of the mesh.
    pub axis: Axis,
    /// How far along it, wrapping around.
    pub offset: i64,
    /// Matches the sender's tag.
    pub tag: String,
}

impl Spec for Gather {
    fn kind(&self) -> Kind {
        Kind::Collective
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (1, 1))?;
        whole_of("output", &outputs[0], &inputs[0])
    }
}

impl Spec for ReduceScatter {
    fn kind(&self) -> Kind {
        Kind::Collective
    }

    fn updates(&self, _output: usize) -> bool {
        self.accumulate
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (1, 1))?;
        whole_of("input", &inputs[0], &outputs[0])
    }
}

impl Spec for AllReduce {
    fn kind(&self) -> Kind {
        Kind::Collective
    }

    fn updates(&self, _output: usize) -> bool {
        true
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (0, 1))
    }

    fn bytes(&self, _inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        traffic(&[], outputs)
    }
}

impl Spec for Send {
    fn kind(&self) -> Kind {
        Kind::Collective
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (1, 0))
    }
}

impl Spec for Recv {
    fn kind(&self) -> Kind {
        Kind::Collective
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (0, 1))
    }
}

/// Refuses a whole that is not a row multiple of its shard.
fn whole_of(name: &str, whole: &TensorType, shard: &TensorType) -> Result<(), String> {
    let rows = shard.extent(0).max(1);
    if !whole.extent(0).is_multiple_of(rows) {
        return Err(format!("{name} has {} rows, not a multiple of the shard's {rows}", whole.extent(0)));
    }
    let mut want = shard.shape.clone();
    if let Some(first) = want.first_mut() {
        *first = whole.extent(0);
    }
    shape(name, whole, &want)
}
