//! Token embedding.

use serde::{Deserialize, Serialize};

use super::{Backend, Kind, Spec, TensorType, arity, chunk, fused, product, shape, traffic};
use crate::plan::DType;

/// Inputs: weight `[v, h]`, ids `[n]`. Output: x `[n, h]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingForward {
    /// The weight holds the ids from this one on, other ranks the others, of which x is 0; none: it holds all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
}

impl Spec for EmbeddingForward {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (2, 1))?;
        shape("output", &outputs[0], &[inputs[1].elements(), inputs[0].extent(1)])
    }

    fn bytes(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        traffic(&inputs[1..], outputs) // only the rows asked for are read
    }

    fn workspace(&self, _backend: Backend, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        self.first.map_or(0, |_| LOCATED * inputs[1].elements())
    }
}

/// Inputs: dx `[n, h]`, ids `[n]`. Output: gradient `[v, h]`, accumulated, summed in token order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingBackward {
    /// As in [`EmbeddingForward`]: other ids add nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
}

/// Bytes a token while ids are found among a rank's: its place, and whether it is outside (twice, from either side).
pub(super) const LOCATED: u64 = 8 + 2;

impl Spec for EmbeddingBackward {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn updates(&self, _output: usize) -> bool {
        true
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (2, 1))?;
        shape("dx", &inputs[0], &[inputs[1].elements(), outputs[0].extent(1)])
    }

    fn bytes(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        inputs[0].bytes().saturating_add(product(&[2, inputs[0].elements(), outputs[0].dtype.bytes()]))
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        if self.first.is_none() && fused(backend, inputs[0].dtype) && outputs[0].dtype == DType::F32 {
            return 8 * outputs[0].extent(0); // first and last token of each id
        }
        let (n, row) = (inputs[0].extent(0), inputs[0].extent(1) * outputs[0].dtype.bytes());
        match self.first {
            None if inputs[0].dtype == outputs[0].dtype => 0,
            None => chunk::rows(backend, n, row) * row,
            Some(_) => chunk::rows(backend, n, row) * (row + LOCATED),
        }
    }
}
