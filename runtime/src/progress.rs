//! What a run says while it trains: a bar on a terminal, plain lines elsewhere. All of it on stderr.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::metrics::StepMetrics;
use llmc_plan::lang::{Lang, Said};
use llmc_plan::say;

/// Least time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Share of waiting below which a loader keeps up.
pub const STARVED: f64 = 0.01;

/// Progress over optimizer steps.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    steps: u64,
    currency: String,
    lang: Lang,
    plain: bool,
    last_line: Option<Instant>,
    /// Exponential mean of seconds a step, for the time left.
    mean_seconds: Option<f64>,
}

impl Progress {
    /// Progress of a run of `steps`, `done` of which are behind it. `currency` is an ISO code.
    pub fn start(steps: u64, done: u64, currency: &str, lang: Lang) -> Progress {
        let plain = !std::io::stderr().is_terminal();
        let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(steps), target);
        // A template that does not parse leaves indicatif's own style, which also works.
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        bar.set_position(done);
        Progress {
            bar,
            steps,
            currency: symbol(currency).to_owned(),
            lang,
            plain,
            last_line: None,
            mean_seconds: None,
        }
    }

    /// Shows one finished step.
    pub fn step(&mut self, metrics: &StepMetrics) {
        // 0.9 follows a change within ten steps and hides the jitter of single ones.
        let mean = self.mean_seconds.map_or(metrics.seconds, |mean| 0.9 * mean + 0.1 * metrics.seconds);
        self.mean_seconds = Some(mean);
        let left =
            Duration::from_secs_f64((self.steps.saturating_sub(metrics.step) as f64 * mean).clamp(0.0, 1e12));
        let text = describe(metrics, left, &self.currency);
        if !self.plain {
            self.bar.set_message(text.text(self.lang).to_owned());
            self.bar.set_position(metrics.step);
            return;
        }
        let due = self.last_line.is_none_or(|at| at.elapsed() >= LINE_EVERY) || metrics.step == self.steps;
        if due {
            let (step, steps) = (metrics.step, self.steps);
            let line = say!("step {step}/{steps}  {text}", "第 {step}/{steps} 步  {text}", text);
            eprintln!("{}", line.text(self.lang));
            self.last_line = Some(Instant::now());
        }
    }

    /// One line of its own, above the bar.
    pub fn note(&self, said: &Said) {
        let text = said.text(self.lang);
        if self.plain { eprintln!("{text}") } else { self.bar.suspend(|| eprintln!("{text}")) }
    }

    /// Leaves the terminal as it is.
    pub fn finish(&self) {
        self.bar.abandon();
    }
}

/// The figures of a step on one line.
fn describe(m: &StepMetrics, left: Duration, currency: &str) -> Said {
    let loss = m.loss.map_or(say!("not finite", "非有限值"), |loss| Said::same(format!("{loss:.4}")));
    let noise = m.noise_scale.map(grouped);
    let noise =
        noise.map(|tokens| say!("  noise {tokens} tokens", "  噪声 {tokens} 词元")).unwrap_or_default();
    let wait = (m.data_wait >= STARVED).then_some(100.0 * m.data_wait);
    let wait = wait.map(|wait| say!("  data wait {wait:.1} %", "  等待数据 {wait:.1} %")).unwrap_or_default();
    say!(
        "loss {loss}  {rate} tokens/s  MFU {mfu:.1} %{noise}{wait}  {left} left  {currency}{cost:.2}",
        "损失 {loss}  {rate} 词元/秒  MFU {mfu:.1} %{noise}{wait}  剩余 {left}  {currency}{cost:.2}",
        loss,
        rate = grouped(m.tokens_per_second),
        mfu = 100.0 * m.mfu,
        noise,
        wait,
        left = duration(left),
        cost = m.cost
    )
}

/// Thousands with separators, no decimals.
pub fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `12s`, `3m05s`, `2h10m`, `4d06h`.
pub fn duration(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// The sign of a currency, or its code and a space.
pub fn symbol(currency: &str) -> &str {
    match currency {
        "CNY" => "¥",
        "USD" => "$",
        "EUR" => "€",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_well() {
        let metrics = StepMetrics {
            step: 40,
            loss: Some(5.123_456),
            lr: 1e-3,
            grad_norm: Some(1.0),
            tokens: 40_960,
            tokens_per_second: 12_345.6,
            mfu: 0.4567,
            seconds: 0.5,
            data_wait: 0.001,
            source_tokens: Default::default(),
            source_loss: Default::default(),
            cost: 1.234,
            noise_scale: None,
            noise_scale_error: None,
            loss_scale: None,
            skipped: false,
        };
        let said = describe(&metrics, Duration::from_secs(185), "¥");
        assert_eq!(said.en, "loss 5.1235  12,346 tokens/s  MFU 45.7 %  3m05s left  ¥1.23");
        assert_eq!(said.zh, "损失 5.1235  12,346 词元/秒  MFU 45.7 %  剩余 3m05s  ¥1.23");
        let starved = StepMetrics { data_wait: 0.25, ..metrics.clone() };
        assert!(describe(&starved, Duration::ZERO, "¥").en.contains("MFU 45.7 %  data wait 25.0 %  0s left"));
        let broken = StepMetrics { loss: None, ..metrics.clone() };
        assert!(describe(&broken, Duration::from_secs(200_000), "¥").en.starts_with("loss not finite"));
        let noisy = StepMetrics { noise_scale: Some(45_678.9), ..metrics };
        assert!(describe(&noisy, Duration::ZERO, "¥").en.contains("45.7 %  noise 45,679 tokens  0s left"));
        assert_eq!(duration(Duration::from_secs(200_000)), "2d07h");
        assert_eq!(grouped(999.0), "999");
        assert_eq!(grouped(1_234_567.0), "1,234,567");
    }
}
