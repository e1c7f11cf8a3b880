//! The learning rate at a step.
//!
//! Not here: which schedule and which peak (compiler), the factor of one parameter (`ParamSpec`).

use llmc_plan::plan::{LearningRate, LrSchedule};

/// One-cycle starts at peak ÷ 25: `div_factor` of torch.optim.lr_scheduler.OneCycleLR.
const ONE_CYCLE_START: f64 = 1.0 / 25.0;

/// Learning rate of optimizer step `step` (from 1) in a run of `steps`.
///
/// Warm-up is linear from 0 and reaches the peak at step `warmup_steps`; the last step has
/// `peak · final_fraction` under every schedule but the constant one. Steps beyond the last keep its value.
pub fn learning_rate(lr: &LearningRate, steps: u64, step: u64) -> f64 {
    let warmup = lr.warmup_steps.min(steps);
    let step = step.min(steps.max(1));
    if step <= warmup {
        let rise = step as f64 / warmup.max(1) as f64;
        return lr.peak * if lr.schedule == LrSchedule::Onecycle { one_cycle_rise(rise) } else { rise };
    }
    lr.peak * factor(lr, step - warmup, steps - warmup, steps)
}

/// Share of the peak, `done` steps after the warm-up of `left`.
fn factor(lr: &LearningRate, done: u64, left: u64, steps: u64) -> f64 {
    let last = lr.final_fraction;
    let progress = done as f64 / left.max(1) as f64;
    match lr.schedule {
        LrSchedule::Constant => 1.0,
        // Loshchilov & Hutter 2017, arXiv 1608.03983, equation 5, one period. The one-cycle policy (Smith &
        // Topin 2017, arXiv 1708.07120) falls the same way in torch's OneCycleLR (anneal_strategy cos).
        LrSchedule::Cosine | LrSchedule::Onecycle => last + (1.0 - last) * half_cosine(progress),
        LrSchedule::Linear => 1.0 - (1.0 - last) * progress,
        LrSchedule::Wsd => {
            // Warm-up, stable, decay (MiniCPM, arXiv 2404.06395) with the 1 − √x decay that Hägele et al.
            // 2024, arXiv 2405.18392, section 4 found best.
            let decay = (lr.decay_fraction * steps as f64).clamp(0.0, left as f64);
            let into = done as f64 - (left as f64 - decay);
            if into <= 0.0 || decay <= 0.0 {
                return 1.0;
            }
            last + (1.0 - last) * (1.0 - (into / decay).min(1.0).sqrt())
        }
    }
}

/// 1 at 0, 0 at 1, with flat ends.
fn half_cosine(x: f64) -> f64 {
    0.5 * (1.0 + libm::cos(std::f64::consts::PI * x))
}

fn one_cycle_rise(x: f64) -> f64 {
    1.0 + (ONE_CYCLE_START - 1.0) * half_cosine(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lr(schedule: LrSchedule) -> LearningRate {
        LearningRate { peak: 2.0, schedule, warmup_steps: 10, final_fraction: 0.1, decay_fraction: 0.2 }
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    }

    #[test]
    fn warm_up_is_linear_and_meets_the_peak() {
        for schedule in [LrSchedule::Constant, LrSchedule::Cosine, LrSchedule::Linear, LrSchedule::Wsd] {
            close(learning_rate(&lr(schedule), 110, 1), 0.2);
            close(learning_rate(&lr(schedule), 110, 5), 1.0);
            close(learning_rate(&lr(schedule), 110, 10), 2.0);
        }
    }

    #[test]
    fn the_last_step_has_the_final_rate() {
        for schedule in [LrSchedule::Cosine, LrSchedule::Linear, LrSchedule::Wsd, LrSchedule::Onecycle] {
            close(learning_rate(&lr(schedule), 110, 110), 0.2);
            close(learning_rate(&lr(schedule), 110, 500), 0.2);
        }
        close(learning_rate(&lr(LrSchedule::Constant), 110, 110), 2.0);
    }

    #[test]
    fn the_middle_of_each_schedule_by_hand() {
        close(learning_rate(&lr(LrSchedule::Cosine), 110, 60), 2.0 * 0.55);
        close(learning_rate(&lr(LrSchedule::Linear), 110, 60), 2.0 * 0.55);
        // Decay takes the last 22 of 110 steps: flat until 88, then 1 − √(1/4) at a quarter of it.
        close(learning_rate(&lr(LrSchedule::Wsd), 110, 88), 2.0);
        close(learning_rate(&lr(LrSchedule::Wsd), 110, 99), 2.0 * (0.1 + 0.9 * (1.0 - 0.5f64.sqrt())));
        // One-cycle rises from peak/25: halfway up is the mean of start and peak.
        close(learning_rate(&lr(LrSchedule::Onecycle), 110, 5), 2.0 * (1.0 + 0.04) / 2.0);
    }

    #[test]
    fn degenerate_lengths_stay_finite() {
        for schedule in [LrSchedule::Constant, LrSchedule::Cosine, LrSchedule::Linear, LrSchedule::Wsd] {
            for steps in [0, 1, 5, 10] {
                for step in [0, 1, 5, 11] {
                    let value = learning_rate(&lr(schedule), steps, step);
                    assert!(value.is_finite() && (0.0..=2.0).contains(&value), "{schedule:?} {steps} {step}");
                }
            }
        }
    }
}
