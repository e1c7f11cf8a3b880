//! Figures about tokens and documents.

use crate::error::Result;
use crate::indexed::Indexed;
use llmc_plan::data::{Manifest, SplitInfo};
use serde::Serialize;
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

/// `bytes / tokens`, 0 for no tokens.
pub fn bytes_per_token(bytes: u64, tokens: u64) -> f64 {
    if tokens == 0 { 0.0 } else { bytes as f64 / tokens as f64 }
}

/// Frequencies of ids. Counters are small, so that most of them stay in the nearest cache.
pub struct Tally {
    low: Vec<u16>,
    /// What the counters held when they were full.
    before: Vec<u64>,
}

impl Tally {
    /// Of ids below `vocab`, none seen yet.
    pub fn new(vocab: u32) -> Self {
        vec![0; vocab as usize].into()
    }

    /// Ids are below this.
    pub fn vocab(&self) -> usize {
        self.low.len()
    }

    /// Counts an id; false for one that has no counter.
    #[inline]
    pub fn add(&mut self, id: u32) -> bool {
        let Some(count) = self.low.get_mut(id as usize) else { return false };
        *count = count.wrapping_add(1);
        if *count == 0 {
            self.carry(id);
        }
        true
    }

    #[cold]
    fn carry(&mut self, id: u32) {
        if let Some(sum) = self.before.get_mut(id as usize) {
            *sum += 1 << u16::BITS;
        }
    }

    /// Adds the frequencies to others.
    pub fn add_to(&self, sums: &mut [u64]) {
        let counts = self.before.iter().zip(&self.low).map(|(sum, &low)| sum + u64::from(low));
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
}

impl From<Vec<u64>> for Tally {
    fn from(before: Vec<u64>) -> Self {
        Self { low: vec![0; before.len()], before }
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

    #[test]
    fn a_tally_counts_past_its_counters() {
        let mut tally = Tally::from(vec![0, 5, 0]);
        assert!((0..200_000).all(|_| tally.add(1)) && tally.add(2) && !tally.add(3));
        let mut sums = [1, 1, 1];
        tally.add_to(&mut sums);
        assert_eq!(sums, [1, 200_006, 2]);
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
