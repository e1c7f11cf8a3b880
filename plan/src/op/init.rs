//! Fills parameters and tables before the first step.

use serde::{Deserialize, Serialize};

use super::{Backend, Kind, Spec, TensorType, arity, chunk, dtype, shape};
use crate::plan::DType;

/// Output: one parameter; or, of a split master, bf16 weights and what they lack of it (i16). The values come from the parameter's `ParamSpec` (Philox keyed by seed, name and
/// global element index), so they are the same under every layout. No inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Initialise {}

impl Spec for Initialise {
    fn kind(&self) -> Kind {
        Kind::Host
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        if let [weight, missing] = outputs {
            shape("missing bits", missing, &weight.shape)?;
            dtype("weight", weight, DType::Bf16)?;
            dtype("missing bits", missing, DType::I16)?;
        }
        arity(inputs, outputs, (0, outputs.len().clamp(1, 2)))
    }

    fn workspace(&self, backend: Backend, _inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        // A block of f32 values on their way from the host.
        let weight = &outputs[0];
        if outputs.len() == 1 {
            return 4 * chunk::flat(backend, weight.elements(), 4);
        }
        let columns = weight.elements() / weight.extent(0).max(1);
        12 * columns * chunk::split_rows(backend, weight.extent(0), columns)
    }
}

/// Outputs: cosine and sine tables `[context, head_dim/2]` f32 of the plan's RoPE settings. No inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RopeTables {
    /// Settings, as in the plan.
    pub rope: crate::model::Rope,
}

impl Spec for RopeTables {
    fn kind(&self) -> Kind {
        Kind::Host
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (0, 2))?;
        shape("sine table", &outputs[1], &outputs[0].shape)
    }
}
