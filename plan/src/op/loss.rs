//! Cross-entropy, nats a token. Loss = Σ w·nll / Σ w over the whole optimizer step; padded columns are masked.

use serde::{Deserialize, Serialize};

use super::{Backend, Kind, Spec, TensorType, arity, chunk, fused, is_math, math_bytes, shape, traffic};

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

    fn updates(&self, _output: usize) -> bool {
        true
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (3, 2))?;
        let n = outputs[0].extent(0);
        shape("targets", &inputs[0], &[n])?;
        shape("weights", &inputs[1], &[n])?;
        shape("loss sum", &outputs[1], &[1])
    }

    fn bytes(&self, _inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        traffic(&[], &outputs[..1])
    }

    fn workspace(&self, backend: Backend, _inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        workspace(backend, &outputs[0], self.vocab, !is_math(outputs[0].dtype))
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

    fn updates(&self, _output: usize) -> bool {
        true
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (3, 1))?;
        shape("targets", &inputs[1], &[inputs[0].extent(0)])?;
        shape("loss sum", &outputs[0], &[1])
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        workspace(backend, &inputs[0], self.vocab, true)
    }
}

/// Three numbers and two f64 a row of a block, and a copy of the block's logits unless they are used up in place.
fn workspace(backend: Backend, logits: &TensorType, vocab: u64, copy: bool) -> u64 {
    if fused(backend, logits.dtype) {
        return 8 * logits.extent(0); // the loss of each row in f64
    }
    let bytes = math_bytes(logits.dtype);
    let rows = chunk::loss(backend, logits.extent(0), vocab, bytes);
    rows * (3 * bytes + 16 + if copy { vocab * bytes } else { 0 })
}
