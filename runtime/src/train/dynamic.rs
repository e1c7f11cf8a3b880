//! A mixture that follows the losses of its sources: measured over some steps, changed between two, every change in a
//! ledger before the first sample it decides.
//!
//! What the ledger says about a sample that is read again after a kill is followed and not measured anew, so the samples
//! of a run are a function of recipe, seed, ledger and sample number on every machine. Not here: the rule
//! ([`llmc_corpus::dynamic`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use llmc_corpus::Stream;
use llmc_corpus::loader::Part;
use llmc_corpus::schedule::{append_ledger, read_ledger};
use llmc_plan::say;
use serde::{Deserialize, Serialize};

use super::{Run, read_ahead};
use crate::failure::{Failure, Outcome};
use crate::host::data_failure;
use crate::interpret::Machine;
use crate::run_folder::RunFolder;
use crate::sources::SourceSums;

/// Losses since the last change, in whole numbers: decimals of an f64 may come back from a checkpoint as another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Σ w·nll of each source in millionths of a nat.
    pub micronats: Vec<u64>,
    /// Σ w of each source.
    pub tokens: Vec<u64>,
}

impl Measured {
    /// Adds a step that is finite throughout.
    fn add(&mut self, step: &SourceSums) {
        let sums = step.sums();
        if sums.iter().any(|(loss, _)| !loss.is_finite()) {
            return;
        }
        self.micronats.resize(sums.len(), 0);
        self.tokens.resize(sums.len(), 0);
        for ((micronats, tokens), (loss, weight)) in self.micronats.iter_mut().zip(&mut self.tokens).zip(sums)
        {
            *micronats = micronats.saturating_add((1e6 * loss).round() as u64);
            *tokens = tokens.saturating_add(weight.round() as u64);
        }
    }

    /// Mean loss of each source, nats a token; none where there was no token.
    fn losses(&self) -> Vec<Option<f64>> {
        let mean = |(micronats, tokens): (&u64, &u64)| {
            (*tokens > 0).then(|| *micronats as f64 / 1e6 / *tokens as f64)
        };
        self.micronats.iter().zip(&self.tokens).map(mean).collect()
    }
}

/// Where the ledger of a run lies, and up to which sample it decides.
#[derive(Debug)]
pub struct Following {
    path: PathBuf,
    every: u64,
    decided: u64,
}

/// Makes the changes of the ledger, where the data asks for any; of a run that begins anew there is none.
///
/// # Errors
/// Exit code 2 when the ledger cannot be read or followed, or the program does not tell sources apart.
pub fn open(
    folder: &RunFolder,
    stream: &mut Stream,
    machine: &Machine<'_>,
    resume: bool,
) -> Outcome<Option<Following>> {
    let Some(every) = stream.dynamic().map(|rule| rule.every_steps).filter(|every| *every > 0) else {
        return Ok(None);
    };
    if SourceSums::new(machine, stream).sums().is_empty() {
        return Err(Failure::environment(say!(
            "the mixture is to follow losses, and this program does not tell the losses of sources apart: add \
             `source_loss` to it, or take `dynamic` out of `mix`",
            "混合比例要跟随损失，而该程序不区分各来源的损失：请在程序中加入 `source_loss`，或从 `mix` 中去掉 `dynamic`"
        )));
    }
    let path = folder.path.join("mix.jsonl");
    if !resume {
        remove(&path)?;
    }
    let ledger = read_ledger(&path).map_err(data_failure)?;
    stream.replay(&ledger).map_err(data_failure)?;
    Ok(Some(Following { path, every, decided: ledger.last().map_or(0, |stage| stage.at_sample) }))
}

fn remove(path: &Path) -> Outcome<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::io("remove", path, &e)),
        _ => Ok(()),
    }
}

impl Run<'_> {
    /// After a step: adds its losses, and changes the mixture when it is time.
    pub(super) fn follow(&mut self, step: &SourceSums) -> Outcome<()> {
        let Some(following) = &self.following else { return Ok(()) };
        let (done, steps) = (self.state.step, self.folder.plan.budget.steps);
        let measured = self.state.mix.get_or_insert_default();
        measured.add(step);
        if !done.is_multiple_of(following.every) || done >= steps {
            return Ok(());
        }
        let measured = std::mem::take(measured);
        let at = self.stream.change_sample(done).map_err(data_failure)?;
        let losses = measured.losses();
        // Nothing was measured where every step since was not finite.
        if at <= following.decided || losses.is_empty() {
            return Ok(());
        }
        let Some(weights) = self.stream.followed(done, steps, &losses).map_err(data_failure)? else {
            return Ok(());
        };
        let met = step
            .names()
            .iter()
            .zip(&losses)
            .filter_map(|(name, loss)| Some(format!("{name} {:.4}", (*loss)?)));
        let reason = format!("losses up to step {done}: {}", met.collect::<Vec<_>>().join(", "));
        self.loader.stop();
        let stream = Arc::get_mut(&mut self.stream)
            .ok_or_else(|| Failure::bug("the corpus is still read while its mixture changes"))?;
        let stage = stream.change_mix(done, weights, &reason).map_err(data_failure)?;
        append_ledger(&following.path, &stage).map_err(data_failure)?;
        let shares: Vec<String> =
            stage.weights.iter().map(|(name, share)| format!("{name} {:.1} %", 100.0 * share)).collect();
        self.progress.note(&say!(
            "step {done}  mixture now {shares}",
            "第 {done} 步  混合比例改为 {shares}",
            shares = shares.join("  ")
        ));
        if let Some(following) = &mut self.following {
            following.decided = stage.at_sample;
        }
        let part = Part { first_step: done, ..self.part };
        self.loader.go_on(self.stream.clone(), part, read_ahead(&self.folder.plan));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_of_what_was_met() {
        let measured = Measured { micronats: vec![3_000_000, 0], tokens: vec![2, 0] };
        assert_eq!(measured.losses(), [Some(1.5), None]);
    }
}
