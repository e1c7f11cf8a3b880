//! RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467): y = x · rstd · w, rstd = 1/√(mean(x²) + ε).

use serde::{Deserialize, Serialize};

use super::{Kind, Spec, TensorType, arity, shape};

/// Inputs: x `[n, h]`, weight `[h]`. Outputs: y `[n, h]`, rstd `[n]` f32.
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
        arity(inputs, outputs, (2, 2))?;
        shape("weight", &inputs[1], &[inputs[0].extent(1)])?;
        shape("y", &outputs[0], &inputs[0].shape)?;
        shape("rstd", &outputs[1], &[inputs[0].extent(0)])
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

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (4, 1))?;
        shape("x", &inputs[1], &inputs[0].shape)?;
        shape("dx", &outputs[0], &inputs[0].shape)
    }
}

/// Inputs: dy `[n, h]`, x `[n, h]`, rstd `[n]`. Output: weight gradient `[h]`, accumulated: Σₙ dy·x·rstd.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NormBackwardWeight {}

impl Spec for NormBackwardWeight {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (3, 1))?;
        shape("x", &inputs[1], &inputs[0].shape)?;
        shape("gradient", &outputs[0], &[inputs[0].extent(1)])
    }
}
