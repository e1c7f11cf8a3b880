//! Token embedding.

use serde::{Deserialize, Serialize};

use super::{Backend, Kind, Spec, TensorType, arity, chunk, fused, product, shape, traffic};
use crate::plan::DType;

/// Inputs: weight `[v, h]`, ids `[n]`. Output: x `[n, h]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingForward {}

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
}

/// Inputs: dx `[n, h]`, ids `[n]`. Output: gradient `[v, h]`, accumulated, summed in token order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingBackward {}

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
        if fused(backend, inputs[0].dtype) && outputs[0].dtype == DType::F32 {
            return 8 * outputs[0].extent(0); // first and last token of each id
        }
        let (n, row) = (inputs[0].extent(0), inputs[0].extent(1) * outputs[0].dtype.bytes());
        if inputs[0].dtype == outputs[0].dtype { 0 } else { chunk::rows(backend, n, row) * row }
    }
}
