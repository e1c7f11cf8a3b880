//! SwiGLU (Shazeer 2020, arXiv 2002.05202): silu(gate)·up on packed gate and up.

use serde::{Deserialize, Serialize};

use super::{
    Backend, Kind, Spec, TensorType, arity, chunk, fused, is_math, magnitude, magnitude_workspace,
    math_bytes, shape, traffic,
};

/// Input: gate_up `[n, 2f]`. Output: product `[n, f]`; and where it will be quantised, its largest magnitude `[1]` f32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SwigluForward {}

impl Spec for SwigluForward {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (1, outputs.len().clamp(1, 2)))?;
        magnitude(outputs.get(1))?;
        shape("product", &outputs[0], &[inputs[0].extent(0), inputs[0].extent(1) / 2])
    }

    fn workspace(&self, backend: Backend, _inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        // Narrow formats: gate and up of a block in f32.
        if fused(backend, outputs[0].dtype) {
            return 0;
        }
        let loops = if is_math(outputs[0].dtype) { 0 } else { 2 * block(backend, &outputs[0]) };
        loops.max(magnitude_workspace(backend, &outputs[0], outputs.get(1)))
    }
}

/// Input: dproduct `[n, f]`. Output: gate_up `[n, 2f]`, read and replaced by its gradient in place; and where that will
/// be quantised, its largest magnitude `[1]` f32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SwigluBackward {}

impl Spec for SwigluBackward {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn updates(&self, output: usize) -> bool {
        output == 0
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (1, outputs.len().clamp(1, 2)))?;
        magnitude(outputs.get(1))?;
        shape("dproduct", &inputs[0], &[outputs[0].extent(0), outputs[0].extent(1) / 2])
    }

    fn bytes(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        traffic(inputs, outputs)
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        if fused(backend, inputs[0].dtype) {
            return 0;
        }
        // silu(gate) and dy·up; narrow formats also gate and dy in f32.
        let blocks = if is_math(inputs[0].dtype) { 2 } else { 4 };
        let loops = blocks * block(backend, &inputs[0]);
        loops.max(magnitude_workspace(backend, &outputs[0], outputs.get(1)))
    }
}

/// Bytes of a block of rows of width f.
fn block(backend: Backend, product: &TensorType) -> u64 {
    let (n, f, bytes) = (product.extent(0), product.extent(1), math_bytes(product.dtype));
    chunk::swiglu(backend, n, f, bytes) * f * bytes
}
