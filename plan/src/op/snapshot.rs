//! Hands tensors to the checkpoint writer.

use serde::{Deserialize, Serialize};

use super::{Kind, Spec, TensorType};

/// Inputs: the tensors to save, any number. No outputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {}

impl Spec for Snapshot {
    fn kind(&self) -> Kind {
        Kind::Host
    }

    fn check(&self, _inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        if outputs.is_empty() { Ok(()) } else { Err("has no outputs".to_string()) }
    }
}
