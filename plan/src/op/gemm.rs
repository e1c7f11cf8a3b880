//! Dense matrix product: forward (x·Wᵀ), input gradient (dy·W) and weight gradient (dyᵀ·x, accumulated) are
//! one op.

use serde::{Deserialize, Serialize};

use super::{Backend, Kind, Spec, TensorType, arity, chunk, is_math, math_bytes, shape};

/// Inputs: a, b (matrices). Output: c = op(a)·op(b), or c += op(a)·op(b).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gemm {
    /// a is used transposed.
    pub transpose_a: bool,
    /// b is used transposed.
    pub transpose_b: bool,
    /// Add to c; the sum is kept in c's format.
    pub accumulate: bool,
}

impl Gemm {
    /// y = x·Wᵀ.
    pub const FORWARD: Gemm = Gemm { transpose_a: false, transpose_b: true, accumulate: false };
    /// dx = dy·W.
    pub const INPUT_GRADIENT: Gemm = Gemm { transpose_a: false, transpose_b: false, accumulate: false };
    /// dW += dyᵀ·x.
    pub const WEIGHT_GRADIENT: Gemm = Gemm { transpose_a: true, transpose_b: false, accumulate: true };

    /// (m, n, k) of the product, or `None` when the inner extents differ.
    pub fn extents(&self, a: &TensorType, b: &TensorType) -> Option<(u64, u64, u64)> {
        let (m, k) = if self.transpose_a { (a.extent(1), a.extent(0)) } else { (a.extent(0), a.extent(1)) };
        let (kb, n) = if self.transpose_b { (b.extent(1), b.extent(0)) } else { (b.extent(0), b.extent(1)) };
        (k == kb).then_some((m, n, k))
    }
}

impl Spec for Gemm {
    fn kind(&self) -> Kind {
        Kind::Gemm
    }

    fn updates(&self, _output: usize) -> bool {
        self.accumulate
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (2, 1))?;
        match self.extents(&inputs[0], &inputs[1]) {
            Some((m, n, _)) => shape("c", &outputs[0], &[m, n]),
            None => Err(format!("inner extents differ: {:?}, {:?}", inputs[0].shape, inputs[1].shape)),
        }
    }

    fn flops(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> f64 {
        let (m, n, k) = self.extents(&inputs[0], &inputs[1]).unwrap_or((0, 0, 0));
        2.0 * m as f64 * n as f64 * k as f64
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        let (m, n, k) = self.extents(&inputs[0], &inputs[1]).unwrap_or((0, 0, 0));
        let bytes = math_bytes(inputs[0].dtype);
        if inputs[0].dtype != outputs[0].dtype {
            // A block of both operands in f32.
            return chunk::weight_gradient(backend, k, m, n, bytes) * (m + n) * bytes;
        }
        if is_math(inputs[0].dtype) || backend == Backend::Cuda {
            return 0;
        }
        // oneDNN's scratch depends on the CPU. An upper bound: b reordered, and blocks of both edges. Measured on
        // a Sapphire Rapids core, 2026-11, extents up to 4,096: 10 KiB + 256·k with b transposed, up to b's own
        // bytes without.
        let padded = |extent: u64| extent / 64 * 64 + 64;
        2 * padded(n) * padded(k) + 256 * (n + k) + 65_536
    }
}
