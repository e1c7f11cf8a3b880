//! Dynamic loss scaling on the device, for gradients that pass through fp16 (Micikevicius et al. 2018, arXiv
//! 1710.03740, section 3.2): the loss is multiplied by a scale, what the optimizer sees is divided by it; a step whose
//! gradients overflow is left out and lowers the scale, many good ones in a row raise it.

use serde::{Deserialize, Serialize};

use super::{Kind, Spec, TensorType, arity, shape};

/// Inputs: inverse weight `[1]`, scale `[1]`. Output: their product `[1]` f32, which takes the inverse weight's place
/// in the loss, so that every gradient is `scale` times too large.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScaleLoss {}

/// Input: scale `[1]`. Outputs: squared norms `[1]` f32 of scaled gradients, divided by scale² in place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnscaleNorms {}

/// Input: skip flag `[1]`. Outputs: gradient scale `[1]`, multiplied by the scale that this step used; scale `[1]`,
/// times `backoff` but at least 1 after a skipped step, times `growth` after `interval` good ones in a row; good steps
/// since the scale last changed `[1]`. All f32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdjustScale {
    /// Above 1.
    pub growth: f64,
    /// Below 1.
    pub backoff: f64,
    /// Good steps before the scale grows.
    pub interval: u64,
}

impl AdjustScale {
    /// The scale of the first step.
    pub const FIRST: f64 = 65_536.0;

    /// The customary constants (PyTorch, `torch/amp/grad_scaler.py`; with [`AdjustScale::FIRST`]).
    pub const CUSTOMARY: AdjustScale = AdjustScale { growth: 2.0, backoff: 0.5, interval: 2000 };
}

fn scalars(inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
    inputs.iter().chain(outputs).try_for_each(|t| shape("scalar", t, &[1]))
}

impl Spec for ScaleLoss {
    fn kind(&self) -> Kind {
        Kind::Optimizer
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (2, 1))?;
        scalars(inputs, outputs)
    }
}

impl Spec for UnscaleNorms {
    fn kind(&self) -> Kind {
        Kind::Optimizer
    }

    fn updates(&self, _output: usize) -> bool {
        true
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (1, outputs.len().max(1)))?;
        scalars(inputs, outputs)
    }
}

impl Spec for AdjustScale {
    fn kind(&self) -> Kind {
        Kind::Optimizer
    }

    fn updates(&self, _output: usize) -> bool {
        true
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (1, 3))?;
        scalars(inputs, outputs)
    }
}
