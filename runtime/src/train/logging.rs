//! What a run writes down: a step's figures, and the summary of its end.

use super::Run;
use crate::device;
use crate::failure::Outcome;
use crate::metrics::StepMetrics;
use crate::report::{Compared, Noise, SourceReport, Summary, median};

impl Run<'_> {
    /// Writes a step's figures wherever they go.
    pub(super) fn log(&mut self, metrics: &StepMetrics, loss: f64, grad_norm: f64) -> Outcome<()> {
        self.metrics.write(metrics)?;
        self.events.scalars(
            metrics.step,
            &[
                ("train/loss", loss),
                ("train/lr", metrics.lr),
                ("train/grad_norm", grad_norm),
                ("speed/tokens_per_second", metrics.tokens_per_second),
                ("speed/mfu", metrics.mfu),
                ("cost/total", metrics.cost),
            ],
        )?;
        let more = [
            ("noise/scale_tokens", metrics.noise_scale),
            ("noise/error_tokens", metrics.noise_scale_error),
            ("train/loss_scale", metrics.loss_scale),
        ];
        let more = more.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let sources = metrics.source_loss.iter().map(|(name, loss)| (format!("source_loss/{name}"), *loss));
        let more: Vec<(String, f64)> = more.chain(sources).collect();
        if !more.is_empty() {
            let more: Vec<(&str, f64)> = more.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            self.events.scalars(metrics.step, &more)?;
        }
        self.progress.step(metrics);
        Ok(())
    }

    /// What the end of the run says.
    pub(super) fn summary(&self, simulated: u64) -> Outcome<Summary> {
        let plan = self.plan();
        let steady = self.step_seconds.get(1..).filter(|s| !s.is_empty()).unwrap_or(&self.step_seconds);
        let seconds = median(steady);
        let (tokens_per_second, mfu) = self.speed(seconds);
        let allocated = plan.memory.stages.first().map_or(0, |s| s.allocated);
        let entropy = self.stream.manifest().validation.unigram_entropy;
        Ok(Summary {
            steps: self.state.step,
            tokens: self.state.tokens,
            skipped_updates: self.state.skipped_updates,
            loss: self.loss,
            eval_loss: self.eval.as_ref().map(|e| e.eval_loss),
            unigram_entropy: self.eval.as_ref().map(|_| entropy),
            seconds: self.state.seconds,
            cost: self.cost(),
            currency: plan.cost.currency.clone(),
            device: device::name(self.device),
            threads: usize::try_from(tch::get_num_threads()).unwrap_or(1),
            peak_memory_bytes: Compared::new(allocated as f64, self.machine.peak_bytes()? as f64),
            simulated_peak_bytes: simulated,
            step_seconds: Compared::new(plan.time.step_seconds, seconds),
            tokens_per_second: Compared::new(plan.time.tokens_per_second, tokens_per_second),
            mfu: Compared::new(plan.time.mfu, mfu),
            sources: self.by_source()?,
            data_wait_share: self.loader.starvation().share(),
            breakdown: self.breakdown.clone(),
            noise_scale: self
                .state
                .noise
                .and_then(|noise| noise.estimate())
                .map(|found| Noise::new(plan.batch.critical_tokens, found)),
        })
    }

    /// What each of several sources gave.
    fn by_source(&self) -> Outcome<Vec<SourceReport>> {
        let tokens = self.source_tokens()?;
        let total: u64 = tokens.values().sum();
        let (losses, eval) = (self.late.losses(), self.eval.as_ref().map(|e| &e.source_eval_loss));
        let report = |(name, tokens): (String, u64)| SourceReport {
            tokens,
            share: tokens as f64 / total.max(1) as f64,
            loss: losses.get(&name).copied(),
            eval_loss: eval.and_then(|eval| eval.get(&name).copied()),
            name,
        };
        Ok(if tokens.len() > 1 { tokens.into_iter().map(report).collect() } else { Vec::new() })
    }
}
