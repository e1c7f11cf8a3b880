//! Documents to samples of `context` tokens: sample i of a shard, as a row of a batch.
//!
//! Packing is concatenate-and-split: documents lie end to end as in the shard, and sample i is its
//! tokens from i·context on. No index is needed, so opening a shard costs nothing at any size.

use crate::error::Result;
use crate::indexed::Indexed;
use llmc_plan::batch::{Batch, BatchShape, NO_SOURCE};

/// How a run turns tokens into rows; the same for every shard.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Tokens in a sample.
    pub context: u32,
    /// Segments follow documents.
    pub document_mask: bool,
    /// Segments a sample may have.
    pub documents: u32,
    /// Stands where there is no token.
    pub padding: u32,
}

/// Shards with their samples numbered through.
pub struct Samples {
    shards: Vec<Shard>,
    rule: Rule,
}

struct Shard {
    tokens: Indexed,
    source: u32,
    /// Samples up to and including this shard.
    end: u64,
}

impl Samples {
    /// Numbers the samples of shards, each with the index of its source.
    pub fn new(shards: Vec<(u32, Indexed)>, rule: Rule) -> Self {
        let mut end = 0;
        let shards = shards
            .into_iter()
            .map(|(source, tokens)| {
                end += tokens.tokens().div_ceil(u64::from(rule.context));
                Shard { tokens, source, end }
            })
            .collect();
        Self { shards, rule }
    }

    /// Samples in all shards.
    pub fn len(&self) -> u64 {
        self.shards.last().map_or(0, |shard| shard.end)
    }

    /// The shard of a sample, with its first token and its number of tokens; all but the last sample
    /// of a shard are full.
    fn locate(&self, sample: u64) -> Option<(&Shard, u64, usize)> {
        let at = self.shards.partition_point(|shard| shard.end <= sample);
        let before = at.checked_sub(1).and_then(|i| self.shards.get(i)).map_or(0, |shard| shard.end);
        let shard = self.shards.get(at)?;
        let from = (sample - before) * u64::from(self.rule.context);
        let rest = shard.tokens.tokens().saturating_sub(from);
        Some((shard, from, rest.min(u64::from(self.rule.context)) as usize))
    }

    /// Σ w of a sample, without reading its tokens.
    ///
    /// # Errors
    /// A damaged index.
    pub fn weight(&self, sample: u64) -> Result<u64> {
        let Some((shard, from, length)) = self.locate(sample) else { return Ok(0) };
        let to = from + length as u64;
        // A token has no target where a document ends under a mask, and where the shard ends.
        let mut without = u64::from(to == shard.tokens.tokens());
        if self.rule.document_mask {
            without = 0;
            shard.tokens.document_starts(from, to, |_| without += 1)?;
        }
        Ok(length as u64 - without)
    }

    /// Appends a sample to a batch as its next sequence; a sample beyond the end is all padding.
    ///
    /// # Errors
    /// A damaged shard.
    pub fn append(&self, sample: u64, batch: &mut Batch) -> Result<()> {
        let context = self.rule.context as usize;
        let base = batch.ids.len();
        let end = base + context;
        batch.ids.resize(end, self.rule.padding);
        batch.targets.resize(end, self.rule.padding);
        batch.weights.resize(end, 0.0);
        batch.cu_seqlens.push(base as u32);
        let located = self.locate(sample);
        let mut starts = Vec::new();
        if let Some((shard, from, length)) = located {
            let to = from + length as u64;
            let ids = batch.ids.get_mut(base..base + length).unwrap_or_default();
            let targets = batch.targets.get_mut(base..base + length).unwrap_or_default();
            let weights = batch.weights.get_mut(base..base + length).unwrap_or_default();
            shard.tokens.read(from, ids)?;
            weights.fill(1.0);
            if let Some((last, shifted)) = targets.split_last_mut() {
                shifted.copy_from_slice(ids.get(1..).unwrap_or_default());
                match to < shard.tokens.tokens() {
                    true => shard.tokens.read(to, std::slice::from_mut(last))?,
                    false => weights.iter_mut().rev().take(1).for_each(|w| *w = 0.0),
                }
            }
            if self.rule.document_mask {
                shard.tokens.document_starts(from, to, |start| {
                    let start = (start - from) as usize;
                    if let Some(weight) = start.checked_sub(1).and_then(|before| weights.get_mut(before)) {
                        *weight = 0.0;
                    }
                    if start < length {
                        starts.push(start);
                    }
                })?;
                let allowed = self.rule.documents as usize - 1;
                batch.merged_documents += starts.len().saturating_sub(allowed) as u32;
                // Padding is a segment of its own where there is room.
                starts.extend((length < context).then_some(length));
                starts.truncate(allowed);
            }
        }
        batch.sources.push(located.map_or(NO_SOURCE, |(shard, ..)| shard.source));
        batch.cu_seqlens.extend(starts.iter().map(|&start| (base + start) as u32));
        let mut segment = 0;
        for next in starts.into_iter().chain([context]) {
            batch.positions.extend(0..(next - segment) as u32);
            segment = next;
        }
        Ok(())
    }
}

/// An empty batch with room for its shape.
pub fn empty(shape: BatchShape) -> Batch {
    let tokens = shape.tokens() as usize;
    Batch {
        ids: Vec::with_capacity(tokens),
        targets: Vec::with_capacity(tokens),
        positions: Vec::with_capacity(tokens),
        cu_seqlens: Vec::with_capacity(shape.cu_seqlens_len() as usize),
        weights: Vec::with_capacity(tokens),
        sources: Vec::with_capacity(shape.sequences as usize),
        merged_documents: 0,
    }
}

/// Brings `cu_seqlens` to its fixed length.
pub fn finish(batch: &mut Batch, shape: BatchShape) {
    let tokens = batch.ids.len() as u32;
    batch.cu_seqlens.resize(shape.cu_seqlens_len() as usize, tokens);
}
