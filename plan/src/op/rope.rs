//! Rotary positions on packed queries and keys, rotate-half convention of Hugging Face's LLaMA.

use serde::{Deserialize, Serialize};

use super::{
    Backend, Kind, Spec, TensorType, arity, chunk, fused, is_math, math_bytes, packed_width, product, shape,
};

/// Inputs: cosine and sine tables `[context, head_dim/2]`, positions `[n]`.
/// Output: qkv `[n, (heads + 2·kv_heads)·head_dim]`, rotated in place (queries and keys only).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RopeRotate {
    /// Query heads on this rank.
    pub heads: u64,
    /// Key and value heads on this rank.
    pub kv_heads: u64,
    /// Width of one head.
    pub head_dim: u64,
    /// Rotate back: the gradient of the rotation.
    pub inverse: bool,
}

impl Spec for RopeRotate {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn updates(&self, _output: usize) -> bool {
        true
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (3, 1))?;
        let width = packed_width(self.heads, self.kv_heads, self.head_dim);
        shape("qkv", &outputs[0], &[inputs[2].elements(), width])
    }

    fn bytes(&self, _inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        let rotated = self.heads.saturating_add(self.kv_heads);
        product(&[2, outputs[0].extent(0), rotated, self.head_dim, outputs[0].dtype.bytes()])
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        if fused(backend, outputs[0].dtype) {
            return 0;
        }
        let (rotated, half) = (self.heads + self.kv_heads, self.head_dim / 2);
        let (width, bytes) = (rotated * self.head_dim, math_bytes(outputs[0].dtype));
        let rows = chunk::rope(backend, inputs[2].elements(), width, bytes);
        // cos, sin, −sin and one product; narrow formats also the rotated heads in f32.
        let copy = if is_math(outputs[0].dtype) { 0 } else { width };
        rows * (3 * half + rotated * half + copy) * bytes
    }
}
