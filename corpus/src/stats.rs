//! Figures about tokens and documents.

use crate::error::Result;
use crate::indexed::Indexed;
use llmc_plan::data::{Manifest, SplitInfo};
use serde::Serialize;
use std::ops::Range;
use std::path::Path;

/// −Σ p ln p of the frequencies in `counts`, nats a token; 0 for no tokens.
pub fn unigram_entropy(counts: &[u64]) -> f64 {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return 0.0;
    }
    // Σ over equal counts only differs by order, and the order is the ids'.
    let entropy: f64 = counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| {
            let p = count as f64 / total as f64;
            -p * libm::log(p)
        })
        .sum();
    entropy.max(0.0)
}

/// Of a split, all of so many first tokens are counted,
const WHOLE: u64 = 1 << 20;
/// and from there on the first `RUN` of every `EVERY`, each for as many as it stands for.
const RUN: u64 = 1 << 12;
const EVERY: u64 = 1 << 15;

/// Which of `tokens` that follow `position` others of their split have their ids counted while it is written, and for how many
/// each: counting all took 3 % of a build (2-core AMD EPYC VM, 2026-11-30).
pub fn counted(position: u64, tokens: usize) -> impl Iterator<Item = (Range<usize>, u32)> {
    let end = position.saturating_add(tokens as u64);
    let mut at = position;
    std::iter::from_fn(move || {
        let (first, last, weight) = if at < WHOLE {
            (at, WHOLE, 1)
        } else {
            let window = at - at % EVERY;
            let (first, window) =
                if at - window < RUN { (at, window) } else { (window + EVERY, window + EVERY) };
            (first, window + RUN, (EVERY / RUN) as u32)
        };
        let last = last.min(end);
        at = last.max(WHOLE.min(end));
        (first < last).then(|| ((first - position) as usize..(last - position) as usize, weight))
    })
}

/// `bytes / tokens`, 0 for no tokens.
pub fn bytes_per_token(bytes: u64, tokens: u64) -> f64 {
    if tokens == 0 { 0.0 } else { bytes as f64 / tokens as f64 }
}

/// Frequencies of ids.
pub struct Tally {
    /// Of the last tokens: one for each id, and for at least every `u16`.
    recent: Vec<u32>,
    /// Tokens in `recent`.
    tokens: usize,
    /// Of those before, one for each id.
    before: Vec<u64>,
}

/// Ids of two bytes.
const SMALL_IDS: usize = 1 << 16;

impl Tally {
    /// Of ids below `vocab`, none seen yet.
    pub fn new(vocab: u32) -> Self {
        vec![0; vocab as usize].into()
    }

    /// Counts ids that lie below the vocabulary, each for `weight`.
    pub fn count(&mut self, ids: impl ExactSizeIterator<Item = u32>, weight: u32) {
        self.make_room(ids.len(), weight);
        for id in ids {
            if let Some(count) = self.recent.get_mut(id as usize) {
                // A check would cost as much as the rest, and there is room.
                *count = count.wrapping_add(weight);
            }
        }
    }

    /// As [`Tally::count`] for ids of two bytes.
    pub fn count_small(&mut self, ids: impl ExactSizeIterator<Item = u16>, weight: u32) {
        self.make_room(ids.len(), weight);
        if let Some(counters) = self.recent.first_chunk_mut::<SMALL_IDS>() {
            for id in ids {
                // No id of two bytes is outside of the counters.
                let count = &mut counters[usize::from(id)];
                *count = count.wrapping_add(weight);
            }
        }
    }

    fn make_room(&mut self, ids: usize, weight: u32) {
        let tokens = ids.saturating_mul(weight as usize);
        self.tokens = self.tokens.saturating_add(tokens);
        if self.tokens > u32::MAX as usize {
            let counts = self.recent.iter_mut().map(std::mem::take);
            self.before.iter_mut().zip(counts).for_each(|(sum, count)| *sum += u64::from(count));
            self.tokens = tokens;
        }
    }

    /// Adds the frequencies to others.
    pub fn add_to(&self, sums: &mut [u64]) {
        let counts = self.before.iter().zip(&self.recent).map(|(sum, &recent)| sum + u64::from(recent));
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
}

impl From<Vec<u64>> for Tally {
    fn from(before: Vec<u64>) -> Self {
        Self { recent: vec![0; before.len().max(SMALL_IDS)], tokens: 0, before }
    }
}

/// How long the documents of a split are.
#[derive(Debug, Default, Serialize)]
pub struct Lengths {
    /// Shortest document, tokens.
    pub least: u64,
    /// Longest document, tokens.
    pub most: u64,
    /// Documents by length: entry k counts lengths from 2^k to 2^(k+1) − 1 tokens.
    pub histogram: Vec<u64>,
}

/// Reads the document lengths of one split from its index files.
///
/// # Errors
/// A missing or damaged shard.
pub fn lengths(dir: &Path, manifest: &Manifest, split: &SplitInfo) -> Result<Lengths> {
    let mut found = Lengths { least: u64::MAX, ..Lengths::default() };
    for shard in &split.shards {
        let shard = Indexed::open(&dir.join(shard), manifest.tokenizer.vocab)?;
        let mut previous = 0;
        shard.document_starts(0, shard.tokens(), |start| {
            let length = start - previous;
            previous = start;
            found.least = found.least.min(length);
            found.most = found.most.max(length);
            let bucket = length.max(1).ilog2() as usize;
            if found.histogram.len() <= bucket {
                found.histogram.resize(bucket + 1, 0);
            }
            if let Some(count) = found.histogram.get_mut(bucket) {
                *count += 1;
            }
        })?;
    }
    found.least = found.least.min(found.most);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever pieces a split comes in, the same tokens are counted: all of the first million, and of the rest an eighth for
    /// all of them.
    #[test]
    fn what_is_counted_depends_on_the_place_alone() {
        let all = 5 << 20;
        let of = |pieces: &mut dyn Iterator<Item = usize>| {
            let (mut position, mut weights) = (0u64, vec![0; all]);
            for piece in pieces {
                let piece = piece.min(all - position as usize);
                for (part, weight) in counted(position, piece) {
                    assert!(part.start < part.end && part.end <= piece);
                    weights[position as usize + part.start..position as usize + part.end].fill(weight);
                }
                position += piece as u64;
            }
            assert_eq!(position as usize, all);
            weights
        };
        let whole = of(&mut std::iter::once(all));
        for piece in [77_777, 4_096, 1_048_577, 524_287, 99] {
            assert!(of(&mut std::iter::repeat_n(piece, all.div_ceil(piece))) == whole, "{piece}");
        }
        assert!(whole[..1 << 20].iter().all(|&weight| weight == 1));
        assert_eq!(whole[1 << 20..].iter().filter(|&&weight| weight == 8).count(), (4 << 20) / 8);
        assert_eq!(whole.iter().sum::<u32>() as usize, all);
    }

    #[test]
    fn both_ways_count_what_is_there() {
        let ids: Vec<u16> = (0..1001u32).map(|n| (n * n % 300) as u16).collect();
        let (mut plain, mut small) = (Tally::new(300), Tally::from(vec![1; 300]));
        plain.count(ids.iter().map(|&id| u32::from(id)), 1);
        small.count_small(ids.iter().copied(), 1);
        // What was counted moves on when there is no room.
        small.make_room(u32::MAX as usize, 1);
        let (mut a, mut b) = (vec![1; 300], vec![0; 300]);
        plain.add_to(&mut a);
        small.add_to(&mut b);
        assert_eq!((a.iter().sum::<u64>(), a), (1301, b));
    }

    #[test]
    fn entropy_of_known_distributions() {
        assert_eq!(unigram_entropy(&[]), 0.0);
        assert_eq!(unigram_entropy(&[7, 0]), 0.0);
        assert!((unigram_entropy(&[5; 8]) - libm::log(8.0)).abs() < 1e-15);
        // −(¼ ln ¼ + ¾ ln ¾)
        assert!((unigram_entropy(&[1, 3]) - 0.562_335_144_618_808_3).abs() < 1e-15);
    }
}
