//! Moves or converts one tensor: between spaces (device, pinned, host) or number formats.

use serde::{Deserialize, Serialize};

use super::{Kind, Spec, TensorType, arity, shape};

/// Input: source. Output: destination of the same shape, converted to its format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Copy {}

impl Spec for Copy {
    fn kind(&self) -> Kind {
        Kind::Copy
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (1, 1))?;
        shape("destination", &outputs[0], &inputs[0].shape)
    }
}
