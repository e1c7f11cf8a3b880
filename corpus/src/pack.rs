//! Samples of `context` tokens: sample i of a source, as a row of a batch.
//!
//! Under concatenate-and-split, documents lie end to end as in the shard and sample i is its tokens
//! from i·context on: no index is needed, so opening a shard costs nothing at any size. Other
//! policies take their rows from [`crate::packing`].

use crate::error::Result;
use crate::indexed::Indexed;
use crate::packing::{PackIndex, Piece};
use llmc_plan::batch::{Batch, BatchShape, NO_SOURCE};

/// How a run turns tokens into rows; the same for every shard.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Tokens in a row.
    pub context: u32,
    /// Tokens of a sample whose documents are concatenated; the rest of its row is padding.
    pub window: u32,
    /// Tokens from one such sample to the next. What a sample repeats of the one before has no weight.
    pub stride: u32,
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

/// A shard with the index of its source and, unless its documents are concatenated, its rows.
pub struct Opened {
    /// Index in the specification.
    pub source: u32,
    /// The shard.
    pub tokens: Indexed,
    /// Its rows.
    pub rows: Option<PackIndex>,
}

struct Shard {
    opened: Opened,
    /// Samples up to and including this shard.
    end: u64,
}

/// What is reused from row to row.
#[derive(Default)]
pub struct Scratch {
    pieces: Vec<Piece>,
    starts: Vec<usize>,
}

impl Samples {
    /// Numbers the samples of shards.
    pub fn new(shards: Vec<Opened>, rule: Rule) -> Self {
        let mut end = 0;
        let shards = shards
            .into_iter()
            .map(|opened| {
                let concatenated = || {
                    let beyond = opened.tokens.tokens().saturating_sub(u64::from(rule.window));
                    1 + beyond.div_ceil(u64::from(rule.stride))
                };
                end += opened.rows.as_ref().map_or_else(concatenated, PackIndex::rows);
                Shard { opened, end }
            })
            .collect();
        Self { shards, rule }
    }

    /// Samples in all shards.
    pub fn len(&self) -> u64 {
        self.shards.last().map_or(0, |shard| shard.end)
    }

    /// Tokens in all shards.
    pub fn tokens(&self) -> u64 {
        self.shards.iter().map(|shard| shard.opened.tokens.tokens()).sum()
    }

    /// Finds a sample's pieces, and where documents start inside a concatenated one.
    fn locate(&self, sample: u64, scratch: &mut Scratch) -> Result<Option<&Opened>> {
        scratch.pieces.clear();
        scratch.starts.clear();
        let index = self.shards.partition_point(|shard| shard.end <= sample);
        let before = index.checked_sub(1).and_then(|i| self.shards.get(i)).map_or(0, |shard| shard.end);
        let Some(shard) = self.shards.get(index) else { return Ok(None) };
        let tokens = &shard.opened.tokens;
        if let Some(rows) = &shard.opened.rows {
            rows.pieces(sample - before, &mut scratch.pieces)?;
            return Ok(Some(&shard.opened));
        }
        // All but the last sample of a shard are full.
        let start = (sample - before) * u64::from(self.rule.stride);
        let length = tokens.tokens().saturating_sub(start).min(u64::from(self.rule.window));
        let to = start + length;
        let mut ends = to == tokens.tokens();
        if self.rule.document_mask {
            tokens.document_starts(start, to, |document| {
                ends |= document == to;
                if document < to {
                    scratch.starts.push((document - start) as usize);
                }
            })?;
        }
        scratch.pieces.push(Piece { start, length: length as u32, at: 0, ends });
        Ok(Some(&shard.opened))
    }

    /// Σ w of a sample, without reading its tokens.
    ///
    /// # Errors
    /// A damaged index.
    pub fn weight(&self, sample: u64, scratch: &mut Scratch) -> Result<u64> {
        self.locate(sample, scratch)?;
        let pieces = &scratch.pieces;
        let tokens: u64 = pieces.iter().map(|piece| u64::from(piece.length)).sum();
        // A token has no target where a document ends under a mask, and where the row's tokens end.
        let without = pieces
            .iter()
            .enumerate()
            .filter(|&(n, piece)| piece.ends && (self.rule.document_mask || n + 1 == pieces.len()));
        Ok(tokens - without.count() as u64 - scratch.starts.len() as u64)
    }

    /// Writes a sample as row `row` of a batch that [`prepare`] has sized; a sample beyond the end is
    /// all padding.
    ///
    /// # Errors
    /// A damaged shard.
    pub fn fill(&self, sample: u64, row: usize, batch: &mut Batch, scratch: &mut Scratch) -> Result<()> {
        let context = self.rule.context as usize;
        let base = row * context;
        let opened = self.locate(sample, scratch)?;
        batch.sources.push(opened.map_or(NO_SOURCE, |opened| opened.source));
        batch.cu_seqlens.push(base as u32);
        let whole = base..base + context;
        let ids = batch.ids.get_mut(whole.clone()).unwrap_or_default();
        let targets = batch.targets.get_mut(whole.clone()).unwrap_or_default();
        let weights = batch.weights.get_mut(whole.clone()).unwrap_or_default();
        let positions = batch.positions.get_mut(whole).unwrap_or_default();
        let Scratch { pieces, starts } = scratch;
        let mut filled = 0;
        for (n, piece) in pieces.iter().enumerate() {
            let Some(tokens) = opened.map(|opened| &opened.tokens) else { break };
            let (from, to) = (piece.at as usize, piece.at as usize + piece.length as usize);
            pad(filled..from, ids, targets, weights, self.rule.padding);
            filled = to;
            let ids = ids.get_mut(from..to).unwrap_or_default();
            tokens.read(piece.start, ids)?;
            let targets = targets.get_mut(from..to).unwrap_or_default();
            let weights = weights.get_mut(from..to).unwrap_or_default();
            weights.fill(1.0);
            let (Some((target, shifted)), Some(weight)) = (targets.split_last_mut(), weights.last_mut())
            else {
                continue;
            };
            shifted.copy_from_slice(ids.get(1..).unwrap_or_default());
            let next = if !piece.ends {
                Some(piece.start + u64::from(piece.length))
            } else if self.rule.document_mask {
                None
            } else {
                pieces.get(n + 1).map(|next| next.start)
            };
            *target = self.rule.padding;
            match next {
                Some(next) => tokens.read(next, std::slice::from_mut(target))?,
                None => *weight = 0.0,
            }
            if n > 0 && self.rule.document_mask {
                starts.push(from);
            }
        }
        pad(filled..context, ids, targets, weights, self.rule.padding);
        for &start in starts.iter() {
            // Inside a concatenated piece; between pieces it is zero already.
            if let Some(weight) = start.checked_sub(1).and_then(|before| weights.get_mut(before)) {
                *weight = 0.0;
            }
        }
        let repeated =
            pieces.first().filter(|piece| piece.start > 0).map_or(0, |_| self.rule.window - self.rule.stride);
        weights.iter_mut().take(repeated as usize).for_each(|weight| *weight = 0.0);
        if self.rule.document_mask {
            let allowed = self.rule.documents as usize - 1;
            batch.merged_documents += starts.len().saturating_sub(allowed) as u32;
            // Padding is a segment of its own where there is room.
            starts.extend((filled > 0 && filled < context).then_some(filled));
            starts.truncate(allowed);
        }
        batch.cu_seqlens.extend(starts.iter().map(|&start| (base + start) as u32));
        let mut segment = 0;
        for next in starts.iter().copied().chain([context]) {
            let positions = positions.get_mut(segment..next).unwrap_or_default();
            // A range with an end: one without would be checked for overflow at every token.
            let numbers = 0..positions.len() as u32;
            positions.iter_mut().zip(numbers).for_each(|(position, n)| *position = n);
            segment = next;
        }
        Ok(())
    }
}

fn pad(
    range: std::ops::Range<usize>,
    ids: &mut [u32],
    targets: &mut [u32],
    weights: &mut [f32],
    padding: u32,
) {
    ids.get_mut(range.clone()).unwrap_or_default().fill(padding);
    targets.get_mut(range.clone()).unwrap_or_default().fill(padding);
    weights.get_mut(range).unwrap_or_default().fill(0.0);
}

/// Sizes a batch for its shape; what it held before is to be overwritten.
pub fn prepare(batch: &mut Batch, shape: BatchShape) {
    let tokens = shape.tokens() as usize;
    batch.ids.resize(tokens, 0);
    batch.targets.resize(tokens, 0);
    batch.positions.resize(tokens, 0);
    batch.weights.resize(tokens, 0.0);
    batch.cu_seqlens.clear();
    batch.sources.clear();
    batch.merged_documents = 0;
}

/// Brings `cu_seqlens` to its fixed length.
pub fn finish(batch: &mut Batch, shape: BatchShape) {
    let tokens = batch.ids.len() as u32;
    batch.cu_seqlens.resize(shape.cu_seqlens_len() as usize, tokens);
}
