//! Takes the next micro-batch from the host loader.

use serde::{Deserialize, Serialize};

use super::{Backend, Kind, Spec, TensorType, arity, product, shape};

/// Outputs: ids `[n]` i64, targets `[n]` i64, positions `[n]` i64, cumulative lengths `[d+1]` i32 padded with
/// the last value, loss weights `[n]` f32, and, where losses are told apart, the index of each row's source `[n]`
/// i32; n = sequences·context. No inputs.
///
/// Rows are sequence after sequence. On rank r of c > 1 context-parallel ranks each sequence is cut into 2c
/// blocks of tokens, and the rank's rows are block r of every sequence, then block 2c−1−r of every sequence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadBatch {
    /// Sequences in the micro-batch.
    pub sequences: u64,
    /// Tokens of a sequence on this rank.
    pub context: u64,
}

impl Spec for LoadBatch {
    fn kind(&self) -> Kind {
        Kind::Host
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        let count = outputs.len().clamp(5, 6);
        arity(inputs, outputs, (0, count))?;
        let n = product(&[self.sequences, self.context]);
        for (name, index) in [("ids", 0), ("targets", 1), ("positions", 2), ("weights", 4)] {
            shape(name, &outputs[index], &[n])?;
        }
        outputs.get(5).map_or(Ok(()), |t| shape("sources", t, &[n]))
    }

    fn workspace(&self, _backend: Backend, _inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        // One array of 64-bit ids or lengths on its way from the host.
        8 * outputs.iter().map(TensorType::elements).max().unwrap_or(0)
    }
}
