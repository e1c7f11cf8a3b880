//! Batch, learning rate and layout under one objective: the time (on given devices also the money) to the loss that the
//! budget reaches at the best batch. A larger batch runs more tokens a second but needs more of them; what each departure
//! costs is printed as an exchange rate.
//!
//! Not here: the layout search for one batch (`search`), the laws themselves (`laws`).

use llmc_plan::plan::{Exchange, RampStep};

use crate::assemble::{Outcome, Run};
use crate::cost::Setting;
use crate::derive::{batch_tokens, whole_sequences};
use crate::money::Rates;
use crate::question::Question;
use crate::search::evaluate;
use crate::{laws, settle};

/// Batches tried, relative to the laws'.
const FACTORS: [f64; 6] = [0.5, 0.75, 1.5, 2.0, 3.0, 4.0];
/// Another batch is searched in full when, at the layout found, it comes this close to the best.
const CLOSE: f64 = 1.02;
/// And taken when it saves at least this.
const MIN_GAIN: f64 = 0.005;
/// Loss above the optimum at half and at twice the best learning rate, as shares: means over the 17 (N, D) cells of Step
/// Law's public grid (step-law/steplaw, `data/1004_fitted_lr_bs_scaling_model_parameters.csv` and its 1,911 runs,
/// recomputed 2026-11). Four times the best diverges in a tenth of them.
const HALF_LR: f64 = 0.0038;
const TWICE_LR: f64 = 0.0073;

/// Tokens that a batch needs for the loss that `tokens` reach at the best batch, as a multiple of `tokens`.
pub fn tokens_factor(q: &Question, tokens: f64, batch: f64) -> f64 {
    let (best, _) = batch_tokens(&q.model, tokens);
    let loss = laws::loss(q.model.params as f64, tokens, q.model.vocab).0;
    laws::tokens_factor(q.model.params as f64, tokens, batch, best, laws::critical_batch(loss))
}

/// Seconds a step and sequence of the layout found, at another batch; `None` where the layout does not divide it.
fn at_batch(out: &Outcome, sequences: u64) -> Option<f64> {
    let p = &out.best.point;
    let whole = sequences > 0 && sequences.is_multiple_of(p.dp * p.micro);
    let m = sequences / (p.dp * p.micro);
    if !whole || (p.vp > 1 && !m.is_multiple_of(p.pp)) {
        return None;
    }
    let s = Setting { sequences, ..out.setting.clone() };
    Some(evaluate(&s, p).step.total)
}

/// Another batch than the laws' that may reach the loss sooner, in sequences.
pub fn candidate(q: &Question, out: &Outcome, spread: u64) -> Option<u64> {
    let context = q.model.context as f64;
    let tokens = out.tokens as f64;
    let now = out.setting.sequences;
    let effort = |sequences: u64, step: f64| {
        tokens_factor(q, tokens, sequences as f64 * context) * step / sequences as f64
    };
    let best = effort(now, out.best.step.total) * CLOSE;
    let mut found: Option<(f64, u64)> = None;
    for factor in FACTORS {
        let sequences = whole_sequences(now as f64 * factor, spread);
        if sequences == now || sequences as f64 * context > tokens {
            continue;
        }
        let Some(step) = at_batch(out, sequences) else { continue };
        let value = effort(sequences, step);
        if value < best && found.is_none_or(|(least, _)| value < least) {
            found = Some((value, sequences));
        }
    }
    found.map(|(_, sequences)| sequences)
}

/// Whether `other` reaches the loss enough sooner than `out`.
pub fn wins(q: &Question, out: &Outcome, other: &Outcome) -> bool {
    let effort = |o: &Outcome| {
        tokens_factor(q, o.tokens as f64, o.global_tokens() as f64) * o.best.step.total
            / o.setting.sequences as f64
    };
    effort(other) < effort(out) * (1.0 - MIN_GAIN)
}

/// What departures cost: seconds and money until the plan's loss is reached, and the loss when the tokens stay.
pub fn exchange(q: &Question, out: &Outcome, run: &Run, rates: &Rates) -> Vec<Exchange> {
    let params = q.model.params as f64;
    let tokens = (run.steps * out.global_tokens()) as f64;
    let money = rates.bill(out.setting.gpus(), run.seconds).total;
    let own = tokens_factor(q, tokens, out.global_tokens() as f64);
    let loss = laws::BESIROGLU.loss(params, tokens / own);
    let floor = laws::BESIROGLU;
    let mut list = Vec::new();
    // `more`: tokens for the plan's loss ÷ the plan's tokens; `slower`: seconds a token ÷ the plan's.
    let mut add = |change: &str, relative_loss: f64, more: f64, slower: f64| {
        if more.is_finite() && slower.is_finite() {
            list.push(Exchange {
                change: change.into(),
                loss: settle(relative_loss),
                tokens: settle((more - 1.0) * tokens),
                seconds: settle((more * slower - 1.0) * run.seconds),
                cost: settle((more * slower - 1.0) * money),
            });
        }
    };
    let worth = |relative: f64| floor.tokens_for(params, loss * (1.0 - relative)) * own / tokens;
    add("loss -0.1%", -0.001, worth(0.001), 1.0);
    for (name, factor) in [("batch x2", 2.0), ("batch x0.5", 0.5)] {
        let sequences = (out.setting.sequences as f64 * factor) as u64;
        let Some(step) = at_batch(out, sequences) else { continue };
        let more = tokens_factor(q, tokens, sequences as f64 * q.model.context as f64) / own;
        let slower = step / sequences as f64 * out.setting.sequences as f64 / out.best.step.total;
        add(name, floor.loss(params, tokens / own / more) / loss - 1.0, more, slower);
    }
    add("lr x2", TWICE_LR, worth(TWICE_LR), 1.0);
    add("lr x0.5", HALF_LR, worth(HALF_LR), 1.0);
    list
}

/// A batch ramp: an eighth, a quarter, a half of the batch for as long as the critical batch of the loss so far is below
/// what comes next (McCandlish et al. 2018, arXiv 1812.06162; the staged ramp of GPT-3, arXiv 2005.14165, appendix B).
/// Empty where the critical batch is above the plan's from the first hundredth of the run on.
pub fn ramp(q: &Question, out: &Outcome) -> Vec<RampStep> {
    let batch = out.global_tokens();
    let critical =
        |tokens: f64| laws::critical_batch(laws::loss(q.model.params as f64, tokens, q.model.vocab).0);
    let total = out.tokens as f64;
    let mut steps: Vec<RampStep> = Vec::new();
    let mut from = 0;
    for part in [8, 4, 2, 1] {
        let here = batch / part / q.model.context * q.model.context;
        if here == 0 {
            continue;
        }
        steps.push(RampStep { from_tokens: from, global_tokens: here });
        // Until the critical batch reaches the next: the loss falls with the tokens, so halving finds where.
        let next = 2.0 * here as f64;
        let (mut low, mut high) = (from as f64, total);
        if critical(high) < next || part == 1 {
            break;
        }
        for _ in 0..60 {
            let middle = (low + high) / 2.0;
            if critical(middle) < next { low = middle } else { high = middle }
        }
        let end = (high / here as f64).ceil() as u64 * here;
        if end <= out.tokens / 100 {
            // Shorter than a hundredth of the run: not worth a stage.
            steps.pop();
        } else {
            from = end;
        }
    }
    if let Some(first) = steps.first_mut() {
        first.from_tokens = 0;
    }
    if steps.len() > 1 { steps } else { Vec::new() }
}
