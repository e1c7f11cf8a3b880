//! The end of a run: predicted against measured, as a table on stderr and as `summary.json`.

use llmc_plan::columns::{left, right, width};
use llmc_plan::lang::{Lang, Said};
use llmc_plan::say;
use serde::{Deserialize, Serialize};

use crate::breakdown::Breakdown;
use crate::noise::Estimate;
use crate::progress::{STARVED, grouped, symbol};

/// One quantity the plan predicted and the run measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// From the plan.
    pub predicted: f64,
    /// From the run.
    pub measured: f64,
    /// measured ÷ predicted − 1; null when nothing was predicted.
    pub error: Option<f64>,
}

impl Compared {
    /// Compares.
    pub fn new(predicted: f64, measured: f64) -> Compared {
        let error = (predicted > 0.0 && measured.is_finite()).then(|| measured / predicted - 1.0);
        Compared { predicted, measured, error }
    }
}

/// The batch that a run's gradients are worth, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// The plan's critical batch against B_simple, measured.
    pub tokens: Compared,
    /// Standard error of the measured one.
    pub error: f64,
}

impl Noise {
    /// Compares.
    pub fn new(critical_tokens: u64, found: Estimate) -> Noise {
        Noise { tokens: Compared::new(critical_tokens as f64, found.tokens), error: found.error }
    }
}

/// What one of several sources gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceReport {
    /// Its name.
    pub name: String,
    /// Tokens trained on, padding included.
    pub tokens: u64,
    /// Their share of all.
    pub share: f64,
    /// Training loss over the last tenth of the steps, nats a token.
    pub loss: Option<f64>,
    /// Validation loss after the last step.
    pub eval_loss: Option<f64>,
}

/// `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Steps made in all sittings.
    pub steps: u64,
    /// Tokens trained.
    pub tokens: u64,
    /// Updates left out because loss or gradient were not finite.
    pub skipped_updates: u64,
    /// Training loss of the last step.
    pub loss: Option<f64>,
    /// Validation loss after the last step, when the corpus has validation text.
    pub eval_loss: Option<f64>,
    /// Entropy of the token frequencies of the validation text: what a model without context could reach.
    pub unigram_entropy: Option<f64>,
    /// Seconds of all sittings.
    pub seconds: f64,
    /// Cost so far at the plan's prices.
    pub cost: f64,
    /// Currency of the cost.
    pub currency: String,
    /// Where it ran: `cpu`, `cuda:0`.
    pub device: String,
    /// Threads an operation may use.
    pub threads: usize,
    /// Peak bytes of tensors.
    pub peak_memory_bytes: Compared,
    /// Peak bytes the simulation of this very program gives.
    pub simulated_peak_bytes: u64,
    /// Seconds an optimizer step: the median of this sitting, without its first.
    pub step_seconds: Compared,
    /// Tokens a second, by that median.
    pub tokens_per_second: Compared,
    /// Model FLOPs utilisation, by that median.
    pub mfu: Compared,
    /// Of several, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceReport>,
    /// Share of the sitting spent waiting for batches.
    pub data_wait_share: f64,
    /// Where the watched step nearest the end went.
    pub breakdown: Option<Breakdown>,
    /// Gradient noise scale; none where steps have one micro-batch, or noise hides the gradient.
    pub noise_scale: Option<Noise>,
}

impl Summary {
    /// The table people read.
    pub fn table(&self, lang: Lang) -> String {
        let cells = |name: &str, rest: [&str; 3]| {
            let [predicted, measured, error] = rest;
            let line = left(name, 16) + &right(predicted, 14) + &right(measured, 14) + &right(error, 10);
            format!("{}\n", line.trim_end())
        };
        let row = |name: &str, c: &Compared, show: &dyn Fn(f64) -> String| {
            let error = c.error.map_or("–".to_owned(), |e| format!("{:+.1} %", 100.0 * e));
            let predicted = if c.error.is_some() { show(c.predicted) } else { "–".to_owned() };
            cells(name, [&predicted, &show(c.measured), &error])
        };
        let heads = [("predicted", "预测"), ("measured", "实测"), ("error", "误差")];
        let mut text = cells("", heads.map(|(en, zh)| lang.say(en, zh)));
        let mib = |v: f64| format!("{:.1} MiB", v / 1_048_576.0);
        text += &row(lang.say("peak memory", "峰值显存"), &self.peak_memory_bytes, &mib);
        text += &row(lang.say("step time", "每步时间"), &self.step_seconds, &|v| format!("{v:.3} s"));
        text += &row(lang.say("tokens/s", "词元/秒"), &self.tokens_per_second, &|v| format!("{v:.0}"));
        text += &row("MFU", &self.mfu, &|v| format!("{:.1} %", 100.0 * v));
        if let Some(noise) = &self.noise_scale {
            let unit = lang.say("tok", "词元");
            let tokens = |v: f64| format!("{} {unit}", grouped(v));
            text += &row(lang.say("critical batch", "临界批大小"), &noise.tokens, &tokens);
            text += &cells("", ["", &format!("± {}", tokens(noise.error)), ""]);
        }
        if let Some(breakdown) = &self.breakdown {
            let ms = |v: f64| format!("{:.1} ms", 1e3 * v);
            for share in &breakdown.terms {
                text += &row(&format!("  {}", share.term.label().text(lang)), &share.seconds, &ms);
            }
            let step = breakdown.step;
            let sum = say!("  = step {step}", "  = 第 {step} 步");
            text += &row(sum.text(lang), &breakdown.step_seconds, &ms);
        }
        text += &self.by_source(lang);
        if self.data_wait_share >= STARVED {
            let share = 100.0 * self.data_wait_share;
            let said = say!("waited for data {share:.1} % of the time\n", "等待数据的时间占 {share:.1} %\n");
            text += said.text(lang);
        }
        text += self.totals().text(lang);
        text
    }

    /// Steps, tokens, money and validation loss on one line.
    fn totals(&self) -> Said {
        let entropy = self.unigram_entropy.zip(self.eval_loss).map(|(entropy, loss)| {
            let side = if loss <= entropy { say!("below", "低") } else { say!("above", "高") };
            let gap = (entropy - loss).abs();
            say!(
                ", {gap:.2} nats {side} the unigram entropy {entropy:.4}",
                "，比一元熵 {entropy:.4} {side} {gap:.2} nat",
                side
            )
        });
        let entropy = entropy.unwrap_or_default();
        let loss = self.eval_loss.map(|loss| {
            say!("; validation loss {loss:.4}{entropy}", "；验证损失 {loss:.4}{entropy}", entropy)
        });
        say!(
            "{steps} steps, {tokens} tokens, {symbol}{cost:.2}{loss}",
            "{steps} 步，{tokens} 词元，{symbol}{cost:.2}{loss}",
            steps = self.steps,
            tokens = self.tokens,
            symbol = symbol(&self.currency),
            cost = self.cost,
            loss = loss.unwrap_or_default()
        )
    }
}

impl Summary {
    /// A row a source.
    fn by_source(&self, lang: Lang) -> String {
        let Some(longest) = self.sources.iter().map(|s| width(&s.name)).max() else { return String::new() };
        let row = |name: &str, [tokens, share, loss, validation]: [&str; 4]| {
            let figures = right(tokens, 20) + &right(share, 8) + &right(loss, 10) + &right(validation, 12);
            format!("{}{figures}\n", left(name, longest.max(16)))
        };
        let heads = [("tokens", "词元"), ("share", "占比"), ("loss", "损失"), ("validation", "验证")];
        let mut text = row(lang.say("source", "来源"), heads.map(|(en, zh)| lang.say(en, zh)));
        for s in &self.sources {
            let loss = |loss: Option<f64>| loss.map_or("–".to_owned(), |loss| format!("{loss:.4}"));
            let (tokens, share) = (grouped(s.tokens as f64), format!("{:.1} %", 100.0 * s.share));
            text += &row(&s.name, [&tokens, &share, &loss(s.loss), &loss(s.eval_loss)]);
        }
        text
    }
}

/// Median of what is there; NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
    if sorted.len() % 2 == 1 { at(middle) } else { (at(middle.wrapping_sub(1)) + at(middle)) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breakdown::{Share, Term};

    #[test]
    fn the_table_reads_well() {
        let summary = Summary {
            steps: 300,
            tokens: 614_400,
            skipped_updates: 0,
            loss: Some(4.0),
            eval_loss: Some(4.25),
            unigram_entropy: Some(6.5),
            seconds: 90.0,
            cost: 0.0123,
            currency: "CNY".into(),
            device: "cpu".into(),
            threads: 2,
            peak_memory_bytes: Compared::new(104_857_600.0, 105_906_176.0),
            simulated_peak_bytes: 105_906_176,
            step_seconds: Compared::new(0.25, 0.2),
            tokens_per_second: Compared::new(0.0, 10_240.0),
            mfu: Compared::new(0.4, 0.5),
            sources: Vec::new(),
            data_wait_share: 0.0,
            breakdown: None,
            noise_scale: None,
        };
        // No line continuation: it would swallow the leading blanks.
        let want = "                     predicted      measured     error
peak memory          100.0 MiB     101.0 MiB    +1.0 %
step time              0.250 s       0.200 s   -20.0 %
tokens/s                     –         10240         –
MFU                     40.0 %        50.0 %   +25.0 %
300 steps, 614400 tokens, ¥0.01; validation loss 4.2500, 2.25 nats below the unigram entropy 6.5000";
        assert_eq!(summary.table(Lang::En), want);
        let want = "                          预测          实测      误差
峰值显存             100.0 MiB     101.0 MiB    +1.0 %
每步时间               0.250 s       0.200 s   -20.0 %
词元/秒                      –         10240         –
MFU                     40.0 %        50.0 %   +25.0 %
300 步，614400 词元，¥0.01；验证损失 4.2500，比一元熵 6.5000 低 2.25 nat";
        assert_eq!(summary.table(Lang::Zh), want);

        let share = |term, predicted, measured| Share { term, seconds: Compared::new(predicted, measured) };
        let whole = Summary {
            breakdown: Some(Breakdown {
                step: 299,
                step_seconds: Compared::new(0.25, 0.2),
                terms: vec![share(Term::Gemm, 0.2, 0.15), share(Term::Idle, 0.0, 0.05)],
            }),
            noise_scale: Some(Noise::new(40_000, Estimate { tokens: 50_000.0, error: 4_000.0 })),
            ..summary
        };
        let want = "critical batch      40,000 tok    50,000 tok   +25.0 %
                                 ± 4,000 tok
  GEMM                200.0 ms      150.0 ms   -25.0 %
  idle                       –       50.0 ms         –
  = step 299          250.0 ms      200.0 ms   -20.0 %
300 steps";
        assert!(whole.table(Lang::En).contains(want), "{}", whole.table(Lang::En));

        let source = |name: &str, share: f64, loss, eval_loss| SourceReport {
            name: name.into(),
            tokens: (share * 614_400.0) as u64,
            share,
            loss,
            eval_loss,
        };
        let mixed = Summary {
            sources: vec![source("code", 0.25, Some(2.0), None), source("web", 0.75, Some(4.5), Some(4.25))],
            data_wait_share: 0.03,
            ..whole
        };
        let want = "
source                        tokens   share      loss  validation
code                         153,600  25.0 %    2.0000           –
web                          460,800  75.0 %    4.5000      4.2500
waited for data 3.0 % of the time
300 steps";
        assert!(mixed.table(Lang::En).contains(want), "{}", mixed.table(Lang::En));
    }

    #[test]
    fn the_median_by_hand() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
