//! Cross-entropy over a vocabulary whose columns tensor-parallel ranks share (Shoeybi et al. 2019, arXiv 1909.08053,
//! section 3): each rank reduces its columns to three numbers a row, all ranks read those of all, and the gradient
//! stays local. Where Megatron-LM sums maxima, sums and targets up in three all-reduces, one gather carries them.

use serde::{Deserialize, Serialize};

use super::embedding::LOCATED;
use super::loss::by_source;
use super::{Backend, Kind, Spec, TensorType, arity, chunk, dtype, is_math, math_bytes, shape, traffic};
use crate::plan::DType;

/// Inputs: logits `[n, v]` of this rank's columns, targets `[n]` of the whole vocabulary.
/// Output: `[n, 3]` in f32 (f64 for f64): largest logit, Σ exp(logit − largest), logit of the target or 0 where another
/// rank has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CrossEntropyPart {
    /// Id of the first column.
    pub first: u64,
    /// Columns that are real vocabulary; the rest count as −∞. May be 0.
    pub vocab: u64,
}

/// Inputs: parts `[r·n, 3]` of r ranks as [`CrossEntropyPart`] gives them, rank after rank, targets `[n]`, weights
/// `[n]`, inverse weight `[1]` f32.
/// Outputs: logits `[n, v]` of this rank's columns, replaced by their gradient; loss sum `[1]` f32, Σ w·nll added, the
/// same on every rank. Sources and their sums as in [`super::CrossEntropyTrain`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CrossEntropyTrainParts {
    /// Id of the first column.
    pub first: u64,
    /// Columns that are real vocabulary.
    pub vocab: u64,
}

/// Inputs: parts `[r·n, 3]`, weights `[n]`. Output: loss sum `[1]` f32, Σ w·nll added. Sources and their sums as in
/// training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CrossEntropyEvalParts {}

impl Spec for CrossEntropyPart {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (2, 1))?;
        let (n, v) = (inputs[0].extent(0), inputs[0].extent(1));
        if self.vocab > v {
            return Err(format!("{} real columns of {v}", self.vocab));
        }
        shape("targets", &inputs[1], &[n])?;
        shape("parts", &outputs[0], &[n, 3])?;
        dtype("parts", &outputs[0], math(inputs[0].dtype))
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        let bytes = math_bytes(inputs[0].dtype);
        let rows = chunk::loss(backend, inputs[0].extent(0), self.vocab, bytes);
        rows * (self.vocab.saturating_add(3) * bytes + LOCATED)
    }
}

impl Spec for CrossEntropyTrainParts {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn updates(&self, _output: usize) -> bool {
        true
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        let n = outputs.first().map_or(0, |logits| logits.extent(0));
        let more = by_source(n, inputs.get(4), outputs.get(2))?;
        arity(inputs, outputs, (4 + more, 2 + more))?;
        if self.vocab > outputs[0].extent(1) {
            return Err(format!("{} real columns of {}", self.vocab, outputs[0].extent(1)));
        }
        parts(n, &inputs[0])?;
        dtype("parts", &inputs[0], math(outputs[0].dtype))?;
        shape("targets", &inputs[1], &[n])?;
        shape("weights", &inputs[2], &[n])?;
        shape("loss sum", &outputs[1], &[1])
    }

    fn bytes(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        traffic(&inputs[..1], &outputs[..1])
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        let logits = &outputs[0];
        let (n, bytes) = (logits.extent(0), math_bytes(logits.dtype));
        let copied = if is_math(logits.dtype) {
            0
        } else {
            chunk::loss(backend, n, self.vocab, bytes) * self.vocab * bytes
        };
        n * 3 * bytes + joined(n, &inputs[0], outputs.get(2)).max(n * LOCATED + copied)
    }
}

impl Spec for CrossEntropyEvalParts {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn updates(&self, _output: usize) -> bool {
        true
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        let n = inputs.get(1).map_or(0, |weights| weights.extent(0));
        let more = by_source(n, inputs.get(2), outputs.get(1))?;
        arity(inputs, outputs, (2 + more, 1 + more))?;
        parts(n, &inputs[0])?;
        shape("loss sum", &outputs[0], &[1])
    }

    fn workspace(&self, _backend: Backend, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        let n = inputs[1].extent(0);
        n * 3 * math_bytes(inputs[0].dtype) + joined(n, &inputs[0], outputs.get(1))
    }
}

/// What numbers of a row are kept in.
fn math(logits: DType) -> DType {
    if logits == DType::F64 { DType::F64 } else { DType::F32 }
}

/// Refuses parts that are not three numbers for each of `n` rows of some ranks.
fn parts(n: u64, parts: &TensorType) -> Result<(), String> {
    let ranks = parts.extent(0) / n.max(1);
    shape("parts", parts, &[ranks.max(1).saturating_mul(n), 3])
}

/// Beside three numbers a row, one of each part; or two f64 a row, and an f64 a source.
fn joined(n: u64, parts: &TensorType, source_sums: Option<&TensorType>) -> u64 {
    let sums = source_sums.map_or(0, |sums| sums.elements().saturating_mul(8));
    parts.extent(0).saturating_mul(math_bytes(parts.dtype)).max((16 * n).saturating_add(sums))
}
