//! RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467): y = x · rstd · w, rstd = 1/√(mean(x²) + ε).

use serde::{Deserialize, Serialize};

use super::{
    Add, Backend, Kind, Spec, TensorType, arity, chunk, fused, is_math, magnitude, magnitude_workspace,
    math_bytes, shape, traffic,
};

/// Inputs: x `[n, h]`, weight `[h]`. Outputs: y `[n, h]`, rstd `[n]` f32; and where y will be quantised, its largest
/// magnitude `[1]` f32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NormForward {
    /// ε inside the root.
    pub eps: f64,
}

impl Spec for NormForward {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (2, outputs.len().clamp(2, 3)))?;
        shape("weight", &inputs[1], &[inputs[0].extent(1)])?;
        magnitude(outputs.get(2))?;
        shape("y", &outputs[0], &inputs[0].shape)?;
        shape("rstd", &outputs[1], &[inputs[0].extent(0)])
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        if fused(backend, inputs[0].dtype) {
            return 0;
        }
        // Narrow formats: x and y of a block, and the weight, in f32.
        let loops = if is_math(inputs[0].dtype) {
            0
        } else {
            block(backend, &inputs[0], 2, 0) + 4 * inputs[1].elements()
        };
        loops.max(magnitude_workspace(backend, &outputs[0], outputs.get(2)))
    }
}

/// A residual sum and its norm in one pass. Inputs: a, b `[n, h]`, weight `[h]`. Outputs: a + b `[n, h]`, rounded to its
/// format before it is normalised; then as [`NormForward`] makes them of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AddNorm {
    /// ε inside the root.
    pub eps: f64,
}

impl AddNorm {
    /// The norm alone, and its operands among this op's.
    fn norm(
        &self,
        inputs: &[TensorType],
        outputs: &[TensorType],
    ) -> (NormForward, [TensorType; 2], Vec<TensorType>) {
        let norm = NormForward { eps: self.eps };
        (norm, [outputs[0].clone(), inputs[2].clone()], outputs[1..].to_vec())
    }
}

impl Spec for AddNorm {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (3, outputs.len().clamp(3, 4)))?;
        Add {}.check(&inputs[..2], &outputs[..1])?;
        let (norm, inputs, outputs) = self.norm(inputs, outputs);
        norm.check(&inputs, &outputs)
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        let (norm, inputs, outputs) = self.norm(inputs, outputs);
        norm.workspace(backend, &inputs, &outputs)
    }
}

/// Both gradients in one pass. Inputs: dy `[n, h]`, x `[n, h]`, weight `[h]`, rstd `[n]`. Outputs: dx `[n, h]` as
/// [`NormBackwardInput`] makes it, weight gradient `[h]` as [`NormBackwardWeight`] does; and where dx
/// will be quantised, its largest magnitude `[1]` f32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NormBackward {
    /// Add to dx instead of writing it: the residual branch joins here.
    pub accumulate: bool,
}

impl Spec for NormBackward {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn updates(&self, output: usize) -> bool {
        (self.accumulate && output == 0) || output == 1
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (4, outputs.len().clamp(2, 3)))?;
        magnitude(outputs.get(2))?;
        shape("x", &inputs[1], &inputs[0].shape)?;
        shape("weight", &inputs[2], &[inputs[1].extent(1)])?;
        shape("dx", &outputs[0], &inputs[0].shape)?;
        shape("gradient", &outputs[1], &[inputs[0].extent(1)])
    }

    fn bytes(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        let (dx, dw) = outputs.split_at(1);
        let dw = dw.get(..1).unwrap_or_default();
        let (once, both) = if self.accumulate { (&[][..], dx) } else { (dx, &[][..]) };
        [traffic(inputs, dw), traffic(once, both)].iter().fold(0, |sum: u64, b| sum.saturating_add(*b))
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        let (n, h) = (inputs[1].extent(0), inputs[1].extent(1));
        if fused(backend, inputs[1].dtype) && chunk::norm_fits(h, inputs[1].dtype.bytes()) {
            return 4 * h * chunk::norm_partials(n);
        }
        // The two ops one after the other.
        let input = NormBackwardInput { accumulate: self.accumulate };
        let weight = NormBackwardWeight {};
        let apart = [inputs[0].clone(), inputs[1].clone(), inputs[3].clone()];
        let input = input.workspace(backend, inputs, &outputs[..1]);
        let weight = weight.workspace(backend, &apart, &outputs[1..2]);
        input.max(weight).max(magnitude_workspace(backend, &outputs[0], outputs.get(2)))
    }
}

/// Inputs: dy `[n, h]`, x `[n, h]`, weight `[h]`, rstd `[n]`. Output: dx `[n, h]`.
/// With x̂ = x·rstd and g = dy·w: dx = rstd·(g − x̂·mean(g·x̂)).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NormBackwardInput {
    /// Add to dx instead of writing it: the residual branch joins here.
    pub accumulate: bool,
}

impl Spec for NormBackwardInput {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn updates(&self, _output: usize) -> bool {
        self.accumulate
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (4, 1))?;
        shape("x", &inputs[1], &inputs[0].shape)?;
        shape("dx", &outputs[0], &inputs[0].shape)
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        // g and a product; narrow formats also x and the weight in f32. One mean a row.
        if is_math(inputs[0].dtype) {
            block(backend, &inputs[0], 2, 1)
        } else {
            block(backend, &inputs[0], 3, 1) + 4 * inputs[2].elements()
        }
    }
}

/// Inputs: dy `[n, h]`, x `[n, h]`, rstd `[n]`. Output: weight gradient `[h]`, accumulated: Σₙ dy·x·rstd.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NormBackwardWeight {}

impl Spec for NormBackwardWeight {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn updates(&self, _output: usize) -> bool {
        true
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (3, 1))?;
        shape("x", &inputs[1], &inputs[0].shape)?;
        shape("gradient", &outputs[0], &[inputs[0].extent(1)])
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        block(backend, &inputs[0], if is_math(inputs[0].dtype) { 1 } else { 2 }, 0)
    }
}

/// Bytes of `wide` rows of `x` and `scalars` numbers for each row of a block.
fn block(backend: Backend, x: &TensorType, wide: u64, scalars: u64) -> u64 {
    let (n, h, bytes) = (x.extent(0), x.extent(1), math_bytes(x.dtype));
    chunk::norm(backend, n, h, bytes) * (wide * h + scalars) * bytes
}
