//! Cross-entropy, nats a token. Loss = Σ w·nll / Σ w over the whole optimizer step; padded columns are masked.

use serde::{Deserialize, Serialize};

use super::{Backend, Kind, Spec, TensorType, arity, chunk, fused, is_math, math_bytes, shape, traffic};

/// Inputs: targets `[n]`, weights `[n]`, inverse weight `[1]` f32 (1/Σ w of the step).
/// Outputs: logits `[n, v]`, replaced in place by their gradient (softmax − onehot)·w·inverse weight;
/// loss sum `[1]` f32, Σ w·nll added.
/// With sources `[n]` i32 as one more input, source sums `[s]` f32 as one more output: Σ w·nll of each source's rows
/// added.
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
        let n = outputs.first().map_or(0, |logits| logits.extent(0));
        let more = by_source(n, inputs.get(3), outputs.get(2))?;
        arity(inputs, outputs, (3 + more, 2 + more))?;
        shape("targets", &inputs[0], &[n])?;
        shape("weights", &inputs[1], &[n])?;
        shape("loss sum", &outputs[1], &[1])
    }

    fn bytes(&self, _inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        traffic(&[], &outputs[..1])
    }

    fn workspace(&self, backend: Backend, _inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        workspace(backend, &outputs[0], self.vocab, !is_math(outputs[0].dtype), outputs.get(2))
    }
}

/// Inputs: logits `[n, v]`, targets `[n]`, weights `[n]`. Output: loss sum `[1]` f32, Σ w·nll added. Sources and their
/// sums as in training.
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
        let n = inputs.first().map_or(0, |logits| logits.extent(0));
        let more = by_source(n, inputs.get(3), outputs.get(1))?;
        arity(inputs, outputs, (3 + more, 1 + more))?;
        shape("targets", &inputs[1], &[n])?;
        shape("loss sum", &outputs[0], &[1])
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        workspace(backend, &inputs[0], self.vocab, true, outputs.get(1))
    }
}

/// Checks what tells sources apart; how many operands that is on either side.
pub(super) fn by_source(
    n: u64,
    sources: Option<&TensorType>,
    sums: Option<&TensorType>,
) -> Result<usize, String> {
    let (Some(sources), Some(sums)) = (sources, sums) else { return Ok(0) };
    shape("sources", sources, &[n])?;
    shape("source sums", sums, &[sums.elements()])?;
    Ok(1)
}

/// Three numbers and two f64 a row of a block, an f64 a source, and a copy of the block's logits unless they are used up
/// in place.
fn workspace(
    backend: Backend,
    logits: &TensorType,
    vocab: u64,
    copy: bool,
    source_sums: Option<&TensorType>,
) -> u64 {
    if fused(backend, logits.dtype) {
        return 8 * logits.extent(0); // the loss of each row in f64
    }
    let bytes = math_bytes(logits.dtype);
    let rows = chunk::loss(backend, logits.extent(0), vocab, bytes);
    let sums = source_sums.map_or(0, |sums| sums.elements().saturating_mul(8));
    (rows * (3 * bytes + 16 + if copy { vocab * bytes } else { 0 })).saturating_add(sums)
}
