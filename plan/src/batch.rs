//! The batch a step reads: what `LoadBatch` fills and attention, loss and metrics consume.
//!
//! Plain data, filled by the corpus and uploaded by the runtime. How documents become samples is
//! in the corpus; what a kernel does with `cu_seqlens` is in the runtime.

use serde::{Deserialize, Serialize};

/// The fixed sizes of one micro-batch on one rank. All buffers have these sizes at every step, so
/// that memory is exact and a step can be captured in a CUDA graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BatchShape {
    /// Sequences in the micro-batch.
    pub sequences: u32,
    /// Tokens in a sequence.
    pub context: u32,
    /// Most attention segments in the micro-batch: `sequences` × segments allowed in one sequence.
    /// Without a document mask this is `sequences`. Documents beyond a sequence's allowance share
    /// its last segment and are counted in [`Batch::merged_documents`].
    pub max_documents: u32,
}

impl BatchShape {
    /// Tokens in the micro-batch: the length of `ids`, `targets`, `positions` and `weights`.
    pub fn tokens(&self) -> u64 {
        u64::from(self.sequences) * u64::from(self.context)
    }

    /// Length of [`Batch::cu_seqlens`].
    pub fn cu_seqlens_len(&self) -> u64 {
        u64::from(self.max_documents) + 1
    }

    /// Segments one sequence may hold; at least one. A property of the run, not of the layout:
    /// it must not change when micro-batch size or rank count change, or resumed samples differ.
    pub fn documents_per_sequence(&self) -> u32 {
        self.max_documents.checked_div(self.sequences).unwrap_or(1).max(1)
    }
}

/// One micro-batch. Token arrays are flat, `[sequences × context]`, row major.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Input token ids, each below the vocabulary size. `[sequences × context]`
    pub ids: Vec<u32>,
    /// The token after each input. Where there is none (end of the data, or of a document under a
    /// document mask) it is any valid id and its weight is zero. `[sequences × context]`
    pub targets: Vec<u32>,
    /// Position for RoPE, from 0 at the start of each segment. `[sequences × context]`
    pub positions: Vec<u32>,
    /// Start of each attention segment as an index into the flat tokens, ascending from 0, then the
    /// token count, repeated to the fixed length. A sequence start is always a segment start.
    /// `[max_documents + 1]`
    pub cu_seqlens: Vec<u32>,
    /// Loss weights: loss = Σ w·nll / Σ w over the whole step. `[sequences × context]`
    pub weights: Vec<f32>,
    /// Index of each sequence's source in the data specification, or [`NO_SOURCE`] for a sequence
    /// that is only padding. `[sequences]`
    pub sources: Vec<u32>,
    /// Document boundaries that found no segment of their own (see [`BatchShape::max_documents`]).
    pub merged_documents: u32,
}

/// The source index of a sequence that holds only padding (the last validation batch).
pub const NO_SOURCE: u32 = u32::MAX;

impl Batch {
    /// Σ w of this micro-batch. Exact: the sum is taken in f64.
    pub fn weight(&self) -> f64 {
        self.weights.iter().map(|&w| f64::from(w)).sum()
    }

    /// Σ w of each of `sources` sources in this micro-batch. Exact.
    pub fn source_weights(&self, sources: usize) -> Vec<f64> {
        let mut sums = vec![0.0; sources];
        let context = self.weights.len() / self.sources.len().max(1);
        for (source, row) in self.sources.iter().zip(self.weights.chunks(context.max(1))) {
            if let Some(sum) = sums.get_mut(*source as usize) {
                *sum += row.iter().map(|&w| f64::from(w)).sum::<f64>();
            }
        }
        sums
    }

    /// Sequences of each of `sources` sources in this micro-batch.
    pub fn source_counts(&self, sources: usize) -> Vec<u64> {
        let mut counts = vec![0; sources];
        for &source in &self.sources {
            if let Some(count) = counts.get_mut(source as usize) {
                *count += 1;
            }
        }
        counts
    }
}
