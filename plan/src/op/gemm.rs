//! Dense matrix product: forward (x·Wᵀ), input gradient (dy·W) and weight gradient (dyᵀ·x, accumulated) are
//! one op.

use serde::{Deserialize, Serialize};

use super::{Backend, Kind, Spec, TensorType, arity, chunk, is_math, shape};

/// Inputs: a, b (matrices); 8-bit ones also the scales of a and b, `[1]` f32; with `add` a last one of c's shape and
/// format. Output: c = op(a)·op(b) (times both scales), plus what is added, or c += the product.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gemm {
    /// a is used transposed.
    pub transpose_a: bool,
    /// b is used transposed.
    pub transpose_b: bool,
    /// Add to c; the sum is kept in c's format.
    pub accumulate: bool,
    /// The first micro-batch of a step writes c instead of adding to it, which therefore nobody clears.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub begins: bool,
    /// Add the last input, before the result is rounded: the residual stream that a branch joins.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub add: bool,
}

impl Gemm {
    /// y = x·Wᵀ.
    pub const FORWARD: Gemm =
        Gemm { transpose_a: false, transpose_b: true, accumulate: false, begins: false, add: false };
    /// dx = dy·W.
    pub const INPUT_GRADIENT: Gemm = Gemm { transpose_b: false, ..Gemm::FORWARD };
    /// dW += dyᵀ·x.
    pub const WEIGHT_GRADIENT: Gemm =
        Gemm { transpose_a: true, transpose_b: false, accumulate: true, ..Gemm::FORWARD };
    /// The same for 8-bit operands that were quantised the other way round: Hopper multiplies them only with the
    /// inner extent last on both sides (cuBLAS documentation, 3.1.4 FP8 data types).
    pub const WEIGHT_GRADIENT_8: Gemm = Gemm { accumulate: true, ..Gemm::FORWARD };

    /// Whether c is added to in a micro-batch of a step.
    pub fn adds(&self, micro_batch: u64) -> bool {
        self.accumulate && !(self.begins && micro_batch == 0)
    }

    /// (m, n, k) of the product, or `None` when the inner extents differ.
    pub fn extents(&self, a: &TensorType, b: &TensorType) -> Option<(u64, u64, u64)> {
        let (m, k) = if self.transpose_a { (a.extent(1), a.extent(0)) } else { (a.extent(0), a.extent(1)) };
        let (kb, n) = if self.transpose_b { (b.extent(1), b.extent(0)) } else { (b.extent(0), b.extent(1)) };
        (k == kb).then_some((m, n, k))
    }
}

/// Scratch that cuBLASLt may use, as NVIDIA recommends for Hopper (cuBLAS documentation, 2.1.8 cublasSetWorkspace).
const CUBLAS_WORKSPACE: u64 = 32 << 20;

impl Spec for Gemm {
    fn kind(&self) -> Kind {
        Kind::Gemm
    }

    fn updates(&self, _output: usize) -> bool {
        self.accumulate
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        let eight = inputs.iter().take(2).any(|t| t.dtype.bytes() == 1);
        let operands = if eight { 4 } else { 2 };
        arity(inputs, outputs, (operands + usize::from(self.add), 1))?;
        if let Some(added) = inputs.get(operands) {
            shape("what is added", added, &outputs[0].shape)?;
            if self.accumulate || added.dtype != outputs[0].dtype {
                return Err("a product is added to c, or to a tensor of c's format".into());
            }
        }
        if eight {
            shape("scale of a", &inputs[2], &[1])?;
            shape("scale of b", &inputs[3], &[1])?;
        }
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
        if is_math(inputs[0].dtype) {
            return 0;
        }
        if backend == Backend::Cuda {
            return CUBLAS_WORKSPACE;
        }
        if inputs[0].dtype.bytes() == 1 {
            return 4 * (m * k + n * k + m * n); // all of it in f32: a twin for tests
        }
        // Narrow formats are multiplied in f32, a block at a time: oneDNN's own narrow products take scratch that
        // depends on the CPU (up to 33 MB for a 64 × 4,096 weight on one of them).
        if inputs[0].dtype == outputs[0].dtype {
            let (rows, columns) = chunk::narrow_gemm(backend, m, n, k);
            4 * (rows * k + columns * k + rows * columns)
        } else {
            4 * chunk::weight_gradient(backend, k, m, n, 4) * (m + n)
        }
    }
}
