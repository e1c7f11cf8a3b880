//! Derived settings of a run that do not depend on the layout: batch, learning rate, warm-up.

use llmc_plan::model::Model;
use llmc_plan::plan::{LearningRate, LrSchedule};

use crate::answer::Candidate;
use crate::laws;
use crate::question::{Peak, Question, Span};
use crate::settle;

/// Parameters without vocabulary, the N of Step Law and Kaplan.
fn matrix_params(model: &Model) -> f64 {
    (model.layers * model.params_per_block()) as f64
}

/// Training FLOPs, 6·N·T with all parameters.
pub fn flops_6nt(model: &Model, tokens: f64) -> f64 {
    6.0 * model.params as f64 * tokens
}

/// Batch that the laws ask for, in tokens, with every law's value.
pub fn batch_tokens(model: &Model, tokens: f64) -> (f64, Vec<Candidate>) {
    let loss = laws::loss(model.params as f64, tokens, model.vocab).0;
    let step_law = laws::batch_step_law(tokens);
    let critical = laws::critical_batch(loss);
    let path = "batch.global_tokens";
    let spread = vec![
        Candidate { path, rule: "step_law", value: settle(step_law) },
        Candidate { path, rule: "deepseek", value: settle(laws::batch_deepseek(flops_6nt(model, tokens))) },
        Candidate { path, rule: "minicpm", value: settle(laws::batch_minicpm(loss)) },
        Candidate { path, rule: "critical_kaplan", value: settle(critical) },
    ];
    (step_law.min(critical), spread)
}

/// Compute-optimal tokens for the model and the loss after `tokens`, by both fits of Chinchilla's law and by Kaplan's.
pub fn loss_laws(model: &Model, tokens: f64) -> Vec<Candidate> {
    let (params, matrix) = (model.params as f64, matrix_params(model));
    let laws = [laws::HOFFMANN, laws::BESIROGLU];
    let of = |path, value: fn(&laws::LossLaw, f64, f64) -> f64| {
        laws.map(|law| Candidate { path, rule: law.name, value: settle(value(&law, params, tokens)) })
    };
    let optimal = of("budget.tokens", |law, params, _| law.optimal_tokens(params));
    let kaplan = |path, value: f64| vec![Candidate { path, rule: "kaplan", value: settle(value) }];
    [
        optimal.to_vec(),
        kaplan("budget.tokens", laws::optimal_tokens_kaplan(matrix)),
        of("loss.predicted", laws::LossLaw::loss).to_vec(),
        kaplan("loss.predicted", laws::loss_kaplan(matrix, tokens)),
    ]
    .concat()
}

/// Sequences nearest to `wanted` (in ratio) that spread over `gpus`: a multiple of them with no prime factor above 3,
/// or, below them, one of their divisors. The smaller wins a tie.
pub fn whole_sequences(wanted: f64, gpus: u64) -> u64 {
    let mut best = (f64::INFINITY, 1);
    let mut offer = |sequences: u64| {
        let ratio = sequences as f64 / wanted.max(1e-9);
        let distance = ratio.max(1.0 / ratio);
        if distance < best.0 {
            best = (distance, sequences);
        }
    };
    crate::space::divisors(gpus).into_iter().for_each(&mut offer);
    let mut two: u64 = 1;
    while two <= 1 << 30 {
        let mut smooth = two;
        while smooth <= 1 << 30 {
            offer(gpus.saturating_mul(smooth));
            smooth *= 3;
        }
        two *= 2;
    }
    best.1
}

/// Steps that a span covers.
pub fn span_steps(span: Span, steps: u64, global_tokens: u64, step_seconds: f64) -> u64 {
    let count = match span {
        Span::Steps(n) => n as f64,
        Span::Tokens(t) => (t as f64 / global_tokens as f64).ceil(),
        Span::Fraction(f) => (f * steps as f64).ceil(),
        Span::Seconds(s) => (s / step_seconds.max(1e-9)).floor(),
    };
    (count.max(1.0) as u64).min(steps.max(1))
}

/// Learning rate with schedule and warm-up; the rules that decided, by path; every law's peak.
pub fn learning_rate(
    q: &Question,
    tokens: f64,
    global_tokens: u64,
    steps: u64,
    step_seconds: f64,
) -> (LearningRate, Vec<(&'static str, &'static str)>, Vec<Candidate>) {
    let n = matrix_params(&q.model);
    let compute = flops_6nt(&q.model, tokens);
    let batch = global_tokens as f64;
    let own = laws::lr_step_law(n, tokens);
    let step_law = laws::lr_at_batch(own, laws::batch_step_law(tokens), batch);
    let deepseek = laws::lr_at_batch(laws::lr_deepseek(compute), laws::batch_deepseek(compute), batch);
    let path = "lr.peak";
    let spread = vec![
        Candidate { path, rule: "step_law", value: settle(step_law) },
        Candidate { path, rule: "deepseek", value: settle(deepseek) },
        Candidate { path, rule: "kaplan", value: settle(laws::lr_kaplan(n)) },
        // Step Law's rate at its own batch, scaled to this one by either rule.
        Candidate {
            path,
            rule: "sqrt_scaling",
            value: settle(own * libm::sqrt(batch / laws::batch_step_law(tokens))),
        },
        Candidate { path, rule: "linear_scaling", value: settle(own * batch / laws::batch_step_law(tokens)) },
    ];
    let mut why = Vec::new();
    let rule = two_digits(step_law.min(deepseek));
    let base = q.continued.and_then(|c| c.base_peak_lr);
    let peak = match (q.lr.peak, q.continued) {
        (Some(Peak::Absolute(value)), _) => value,
        (Some(Peak::Multiple(times)), _) => {
            why.push(("lr.peak", "lr.rewarm"));
            times * base.unwrap_or(rule)
        }
        // Re-warming to less than the base's peak forgets less (arXiv 2403.08763, section 6).
        (None, Some(_)) => {
            why.push(("lr.peak", "lr.rewarm"));
            0.3 * base.unwrap_or(rule)
        }
        (None, None) => {
            why.push(("lr.peak", "lr.step_law"));
            rule
        }
    };
    let schedule = q.lr.schedule.unwrap_or_else(|| {
        why.push(("lr.schedule", "lr.schedule"));
        LrSchedule::Cosine
    });
    let final_fraction = q.lr.final_fraction.unwrap_or_else(|| {
        why.push(("lr.final_fraction", "lr.schedule"));
        match schedule {
            LrSchedule::Constant => 1.0,
            LrSchedule::Cosine | LrSchedule::Linear => 0.1,
            LrSchedule::Onecycle | LrSchedule::Wsd => 0.0,
        }
    });
    let decay_fraction = if schedule == LrSchedule::Wsd {
        q.lr.decay_fraction.unwrap_or_else(|| {
            why.push(("lr.decay_fraction", "lr.schedule"));
            0.1
        })
    } else {
        0.0
    };
    let warmup_steps = match q.lr.warmup {
        Some(Span::Steps(0)) => 0,
        Some(span) => span_steps(span, steps, global_tokens, step_seconds),
        None => {
            why.push(("lr.warmup_steps", "lr.warmup"));
            laws::warmup(steps, q.optimizer.beta2)
        }
    };
    let lr = LearningRate {
        peak: settle(peak),
        schedule,
        warmup_steps,
        final_fraction: settle(final_fraction),
        decay_fraction: settle(decay_fraction),
    };
    (lr, why, spread)
}

/// Rounded down to two significant digits: a third would pretend to know more than the laws do.
fn two_digits(value: f64) -> f64 {
    let text = format!("{value:.12e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return value };
    let digits: String = mantissa.chars().take(3).collect();
    format!("{digits}e{exponent}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_spread_over_the_devices() {
        for (wanted, gpus, expected) in [
            (503.0, 64, 512),
            (2328.0, 16384, 2048),
            (22.0, 1, 24),
            (0.3, 1, 1),
            (100.0, 24, 96),
            (9.0, 24, 8),
        ] {
            assert_eq!(whole_sequences(wanted, gpus), expected, "{wanted} on {gpus}");
        }
    }

    #[test]
    fn peaks_round_down_to_two_digits() {
        for (value, expected) in [(4.79e-4, 4.7e-4), (4.71e-4, 4.7e-4), (9.99e-4, 9.9e-4), (1e-3, 1e-3)] {
            assert_eq!(two_digits(value), expected);
        }
    }
}
