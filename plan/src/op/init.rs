//! Fills parameters and tables before the first step.

use serde::{Deserialize, Serialize};

use super::{Backend, Kind, Spec, TensorType, arity, chunk, shape};

/// Output: one parameter. The values come from the parameter's `ParamSpec` (Philox keyed by seed, name and
/// global element index), so they are the same under every layout. No inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Initialise {}

impl Spec for Initialise {
    fn kind(&self) -> Kind {
        Kind::Host
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (0, 1))
    }

    fn workspace(&self, backend: Backend, _inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        // A block of f32 values on their way from the host.
        4 * chunk::flat(backend, outputs[0].elements(), 4)
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
