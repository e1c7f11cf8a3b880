//! Validation loss: the program's `eval` list over the validation split.

use std::time::Instant;

use llmc_corpus::Stream;

use crate::failure::Outcome;
use crate::host::{Session, Source, data_failure};
use crate::interpret::{Machine, Pass};
use crate::metrics::EvalMetrics;
use crate::sources::SourceSums;

/// Evaluates on the first `sequences` validation samples (0 = all), a fair sample of every source. `None` when
/// the corpus has no validation text.
///
/// # Errors
/// A damaged shard, or the failure of an instruction.
pub fn evaluate(
    machine: &mut Machine<'_>,
    stream: &Stream,
    sequences: u64,
    micro_batch_sequences: u64,
    steps_done: u64,
) -> Outcome<Option<EvalMetrics>> {
    let clock = Instant::now();
    let all = stream.validation_batches();
    let batches =
        if sequences == 0 { all } else { all.min(sequences.div_ceil(micro_batch_sequences.max(1))) };
    let (mut loss, mut weight, mut tokens) = (0.0, 0.0, 0);
    let mut sources = SourceSums::new(machine, stream);
    for index in 0..batches {
        let batch = stream.validation_batch(index).map_err(data_failure)?;
        weight += batch.weight();
        let weights = batch.source_weights(stream.sources().len());
        tokens += batch.weights.iter().filter(|w| **w > 0.0).count() as u64;
        let pass = Pass { list: "eval", steps_done };
        let calls = &machine.program().eval;
        machine.run(calls, pass, &mut Session::new(Source::Given(batch)), None)?;
        loss += machine.get("loss_sum")?;
        sources.add(machine, &weights)?;
    }
    if weight == 0.0 {
        return Ok(None);
    }
    let eval_loss = loss / weight;
    Ok(Some(EvalMetrics {
        step: steps_done,
        eval_loss,
        source_eval_loss: sources.losses(),
        perplexity: libm::exp(eval_loss),
        eval_tokens: tokens,
        seconds: clock.elapsed().as_secs_f64(),
    }))
}
