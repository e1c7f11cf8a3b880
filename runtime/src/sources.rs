//! The loss of each source, where there are several.
//!
//! Not here: how rows are told apart (`cross_entropy` in [`crate::ops`]), what follows from it ([`crate::train`]).

use std::collections::BTreeMap;

use llmc_corpus::Stream;

use crate::failure::Outcome;
use crate::interpret::Machine;

/// Device sums of w·nll by source.
const SOURCE_LOSS: &str = "source_loss";

/// Σ w·nll and Σ w of each source over a stretch of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SourceSums {
    names: Vec<String>,
    /// Σ w·nll, Σ w.
    sums: Vec<(f64, f64)>,
}

impl SourceSums {
    /// Nothing yet. Empty where the program does not tell sources apart.
    pub fn new(machine: &Machine<'_>, stream: &Stream) -> SourceSums {
        let apart = machine.program().buffer_named(SOURCE_LOSS).is_some();
        let names = stream.sources().into_iter().filter(|_| apart).map(|(name, ..)| name.to_owned());
        let names: Vec<String> = names.collect();
        SourceSums { sums: vec![(0.0, 0.0); names.len()], names }
    }

    /// Adds what the list just run has summed up; `weights` are its Σ w by source.
    ///
    /// # Errors
    /// When the device's sums cannot be read.
    pub fn add(&mut self, machine: &Machine<'_>, weights: &[f64]) -> Outcome<()> {
        if self.names.is_empty() {
            return Ok(());
        }
        let losses = machine.get_all(SOURCE_LOSS)?;
        for ((sum, loss), weight) in self.sums.iter_mut().zip(losses).zip(weights) {
            *sum = (sum.0 + loss, sum.1 + weight);
        }
        Ok(())
    }

    /// Their names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Σ w·nll and Σ w of each.
    pub fn sums(&self) -> &[(f64, f64)] {
        &self.sums
    }

    /// Mean loss of each source that has been met, where finite, nats a token.
    pub fn losses(&self) -> BTreeMap<String, f64> {
        let mean = |(name, (loss, weight)): (&String, &(f64, f64))| {
            let mean = loss / weight;
            mean.is_finite().then(|| (name.clone(), mean))
        };
        self.names.iter().zip(&self.sums).filter_map(mean).collect()
    }
}
