//! Cross-entropy, nats a token. Loss = Σ w·nll / Σ w over the whole optimizer step; padded columns are masked.

use serde::{Deserialize, Serialize};

use super::{Kind, Spec, TensorType, arity, shape};

/// Inputs: targets `[n]`, weights `[n]`, inverse weight `[1]` f32 (1/Σ w of the step).
/// Outputs: logits `[n, v]`, replaced in place by their gradient (softmax − onehot)·w·inverse weight;
/// loss sum `[1]` f32, Σ w·nll added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CrossEntropyTrain {
    /// Columns that are real vocabulary; the rest count as −∞.
    pub vocab: u64,
}

impl Spec for CrossEntropyTrain {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (3, 2))?;
        let n = outputs[0].extent(0);
        shape("targets", &inputs[0], &[n])?;
        shape("weights", &inputs[1], &[n])?;
        shape("loss sum", &outputs[1], &[1])
    }

    fn bytes(&self, _inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        2 * outputs[0].bytes()
    }
}

/// Inputs: logits `[n, v]`, targets `[n]`, weights `[n]`. Output: loss sum `[1]` f32, Σ w·nll added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CrossEntropyEval {
    /// Columns that are real vocabulary.
    pub vocab: u64,
}

impl Spec for CrossEntropyEval {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (3, 1))?;
        shape("targets", &inputs[1], &[inputs[0].extent(0)])?;
        shape("loss sum", &outputs[0], &[1])
    }
}
