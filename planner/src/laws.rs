//! What to train: loss, tokens, batch, learning rate, warm-up, each by a published law.
//!
//! Every law states its own N: `params` counts all parameters, `matrix` those without vocabulary.

use libm::{exp, log, pow, sqrt};

/// Constants of `L = E + A/N^α + B/D^β`, nats a token, N all parameters, D tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossLaw {
    /// Name in `loss.law`.
    pub name: &'static str,
    /// Irreducible loss.
    pub e: f64,
    /// Scale of the parameter term.
    pub a: f64,
    /// Scale of the data term.
    pub b: f64,
    /// Exponent of parameters.
    pub alpha: f64,
    /// Exponent of tokens.
    pub beta: f64,
}

/// Hoffmann et al. 2022, arXiv 2203.15556, equation 10.
pub const HOFFMANN: LossLaw =
    LossLaw { name: "chinchilla-hoffmann", e: 1.69, a: 406.4, b: 410.7, alpha: 0.34, beta: 0.28 };
/// Besiroglu et al. 2024, arXiv 2404.10102: the same data fitted again.
pub const BESIROGLU: LossLaw =
    LossLaw { name: "chinchilla-besiroglu", e: 1.8169, a: 482.01, b: 2085.43, alpha: 0.3478, beta: 0.3658 };
/// Standard error of Besiroglu's E (same paper) and mean relative residual of the fit on its 240 runs.
const BESIROGLU_E_ERROR: f64 = 0.0257;
const BESIROGLU_RESIDUAL: f64 = 0.0047;

impl LossLaw {
    /// Loss after `tokens` with `params`.
    pub fn loss(&self, params: f64, tokens: f64) -> f64 {
        self.e + self.a / pow(params, self.alpha) + self.b / pow(tokens, self.beta)
    }

    /// Compute-optimal tokens for `params`: N* = G·(C/6)^(β/(α+β)), D* = (C/6)/N* solved for D at N.
    pub fn optimal_tokens(&self, params: f64) -> f64 {
        let g = pow(self.alpha * self.a / (self.beta * self.b), 1.0 / (self.alpha + self.beta));
        // N = G·X^(β/(α+β)), D = X/N with X = C/6.
        let x = pow(params / g, (self.alpha + self.beta) / self.beta);
        x / params
    }

    /// Tokens that reach `loss` with `params`; infinite below the floor.
    pub fn tokens_for(&self, params: f64, loss: f64) -> f64 {
        let rest = loss - self.e - self.a / pow(params, self.alpha);
        if rest <= 0.0 { f64::INFINITY } else { pow(self.b / rest, 1.0 / self.beta) }
    }
}

/// Loss by Kaplan et al. 2020 (arXiv 2001.08361, equation 1.5 with the fit of table 2), for comparison only: nats a token of
/// WebText2 under its own tokenizer; `matrix` parameters without vocabulary.
pub fn loss_kaplan(matrix: f64, tokens: f64) -> f64 {
    const ALPHA_N: f64 = 0.076;
    const ALPHA_D: f64 = 0.103;
    pow(pow(6.4e13 / matrix, ALPHA_N / ALPHA_D) + 1.8e13 / tokens, ALPHA_D)
}

/// Compute-optimal tokens by Kaplan et al. 2020, table 6: N = 1.3e9·C^0.73 and D = 2e10·C^0.27, C in PF-days; for
/// comparison, superseded by Chinchilla.
pub fn optimal_tokens_kaplan(matrix: f64) -> f64 {
    2e10 * pow(pow(matrix / 1.3e9, 1.0 / 0.73), 0.27)
}

/// Smallest and largest run behind the law: 44M to 16B parameters, 5B to 500B tokens (Hoffmann et al. 2022, appendix D).
pub const LAW_PARAMS: (f64, f64) = (44e6, 16e9);
/// Tokens of those runs.
pub const LAW_TOKENS: (f64, f64) = (5e9, 500e9);

/// Predicted loss with its interval: Besiroglu's value, its 95 % band (E's error and the residual in quadrature),
/// widened to hold Hoffmann's value. Tiny runs lie far outside the law; no model is worse than a uniform guess, ln V.
pub fn loss(params: f64, tokens: f64, vocab: u64) -> (f64, f64, f64) {
    let (middle, low, high) = raw_loss(params, tokens);
    let guess = log(vocab.max(2) as f64);
    (middle.min(guess), low.min(guess), high.min(guess))
}

fn raw_loss(params: f64, tokens: f64) -> (f64, f64, f64) {
    let middle = BESIROGLU.loss(params, tokens);
    let residual = BESIROGLU_RESIDUAL * middle;
    let half = 1.96 * sqrt(BESIROGLU_E_ERROR * BESIROGLU_E_ERROR + residual * residual);
    let other = HOFFMANN.loss(params, tokens);
    (middle, (middle - half).min(other), (middle + half).max(other))
}

/// Tokens without a budget: 20 a parameter (Hoffmann et al. 2022, table 3: 1.4T for 70B).
pub fn default_tokens(params: u64) -> u64 {
    params.saturating_mul(20)
}

/// Batch in tokens, Step Law (Li et al. 2025, arXiv 2503.04715): 0.58·D^0.571.
pub fn batch_step_law(tokens: f64) -> f64 {
    0.58 * pow(tokens, 0.571)
}

/// Batch in tokens, DeepSeek LLM (arXiv 2401.02954): 0.2920·C^0.3271.
pub fn batch_deepseek(flops: f64) -> f64 {
    0.2920 * pow(flops, 0.3271)
}

/// Batch in tokens, MiniCPM (arXiv 2404.06395): 1.21e9 / L^6.24, L the loss reached.
pub fn batch_minicpm(loss: f64) -> f64 {
    1.21e9 / pow(loss, 6.24)
}

/// Critical batch in tokens (Kaplan et al. 2020, arXiv 2001.08361, equation 5.3 with its B* and α_B): 2e8 / L^(1/0.21).
pub fn critical_batch(loss: f64) -> f64 {
    2e8 / pow(loss, 1.0 / 0.21)
}

/// Peak learning rate, Step Law: 1.79·N^−0.713·D^0.307, N without vocabulary.
pub fn lr_step_law(matrix: f64, tokens: f64) -> f64 {
    1.79 * pow(matrix, -0.713) * pow(tokens, 0.307)
}

/// Peak learning rate, DeepSeek LLM: 0.3118·C^−0.1250.
pub fn lr_deepseek(flops: f64) -> f64 {
    0.3118 * pow(flops, -0.1250)
}

/// Peak learning rate, Kaplan et al. 2020, equation D.1: 0.003239 − 0.0001395·ln N; not below a tenth of its scale.
pub fn lr_kaplan(matrix: f64) -> f64 {
    (0.003239 - 0.0001395 * log(matrix)).max(3.239e-5)
}

/// Learning rate moved from the batch its law assumes to another: √ scaling for adaptive optimizers (Malladi et al.
/// 2022, arXiv 2205.10287), downwards only: beyond a law's batch the optimum flattens (arXiv 2405.14578).
pub fn lr_at_batch(lr: f64, law_batch: f64, batch: f64) -> f64 {
    lr * sqrt(batch / law_batch).min(1.0)
}

/// Warm-up steps: 2,000 (LLaMA, arXiv 2302.13971), at most a hundredth of the run, but at least 2/(1−β₂) (Ma & Yarats,
/// arXiv 1910.04209), and never over a tenth.
pub fn warmup(steps: u64, beta2: f64) -> u64 {
    let least = (2.0 / (1.0 - beta2).max(1e-6)).ceil() as u64;
    2000.min(steps / 100).max(least).min(steps / 10).max(u64::from(steps > 1))
}

/// Extra tokens a batch costs: E/E_min = 1 + B/B_crit (McCandlish et al. 2018, arXiv 1812.06162, equation 2.11),
/// relative to the batch `base`.
pub fn token_price_of_batch(batch: f64, base: f64, critical: f64) -> f64 {
    (1.0 + batch / critical) / (1.0 + base / critical)
}

/// Tokens that `batch` needs for the loss that `tokens` reach at the batch `best`, as a multiple of them, 1 or more.
/// Above it the price of a batch; below it the basin of Step Law's public grid, where half the batch costs 0.45 % of loss
/// and a quarter 1.4 % (means over 17 cells): 0.45 % · log2².
pub fn tokens_factor(params: f64, tokens: f64, batch: f64, best: f64, critical: f64) -> f64 {
    if batch >= best {
        return token_price_of_batch(batch, best, critical);
    }
    let halvings = libm::log2(best / batch.max(1.0));
    let loss = BESIROGLU.loss(params, tokens);
    let worse = loss * (1.0 + 0.0045 * halvings * halvings);
    // Tokens that reach that loss at the best batch: this many fewer.
    (tokens / BESIROGLU.tokens_for(params, worse)).max(1.0)
}

/// Value of repeated data (Muennighoff et al. 2023, arXiv 2305.16264, equation 5): unique tokens that `epochs` over
/// `unique` are worth, R* = 15.39.
pub fn repeated(unique: f64, epochs: f64) -> f64 {
    const DECAY: f64 = 15.387756;
    let repeats = (epochs - 1.0).max(0.0);
    if epochs < 1.0 { unique * epochs } else { unique * (1.0 + DECAY * (1.0 - exp(-repeats / DECAY))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(value: f64, expected: f64, relative: f64) {
        assert!((value / expected - 1.0).abs() < relative, "{value} against {expected}");
    }

    #[test]
    fn laws_give_their_published_figures_for_7b_and_1t() {
        // Recomputed figures of the three laws at N = 6.5e9 (without vocabulary), D = 1e12, C = 6·7e9·1e12.
        let c = 6.0 * 7e9 * 1e12;
        close(lr_step_law(7e9, 1e12), 8.7e-4, 0.15);
        close(lr_deepseek(c), 4.7e-4, 0.05);
        close(batch_step_law(1e12), 4.1e6, 0.03);
        close(batch_deepseek(c), 7.2e6, 0.25);
    }

    #[test]
    fn kaplan_gives_its_published_figures() {
        // Without end of data only (6.4e13/N)^0.076 is left; [(6.4e13/174.6e9)^(0.076/0.103) + 1.8e13/300e9]^0.103 is 1.661;
        // 1.3e9 parameters are optimal for one PF-day, with 2e10 tokens.
        close(log(loss_kaplan(174.6e9, 1e30)), 0.076 * log(6.4e13 / 174.6e9), 1e-6);
        close(loss_kaplan(174.6e9, 300e9), 1.6611203, 1e-6);
        close(optimal_tokens_kaplan(1.3e9), 2e10, 1e-9);
    }

    #[test]
    fn optimal_tokens_agree_with_the_published_ratios() {
        // At Chinchilla's own C = 5.88e23 the fits give D/N = 18.4 (Besiroglu).
        let mut n = 1e9;
        for _ in 0..200 {
            let d = BESIROGLU.optimal_tokens(n);
            n *= pow(5.88e23 / (6.0 * n * d), 0.25);
        }
        close(BESIROGLU.optimal_tokens(n) / n, 18.4, 0.02);
    }

    #[test]
    fn optimum_is_where_the_loss_is_least_for_its_compute() {
        let d = BESIROGLU.optimal_tokens(7e9);
        let here = BESIROGLU.loss(7e9, d);
        for move_ in [0.9, 0.97, 1.03, 1.1] {
            assert!(BESIROGLU.loss(7e9 * move_, d / move_) > here);
        }
    }

    #[test]
    fn interval_holds_both_fits() {
        let (middle, low, high) = loss(6.74e9, 1e12, 32000);
        for value in [middle, HOFFMANN.loss(6.74e9, 1e12), BESIROGLU.loss(6.74e9, 1e12)] {
            assert!(low <= value && value <= high);
        }
        // One tenth of a per cent of loss at 7B and 1T is about 7 % of the tokens.
        let more = BESIROGLU.tokens_for(7e9, BESIROGLU.loss(7e9, 1e12) * 0.999);
        close(more / 1e12, 1.07, 0.02);
    }

    #[test]
    fn warmup_stays_within_its_bounds() {
        assert_eq!(warmup(238_419, 0.95), 2000);
        assert_eq!(warmup(20_000, 0.95), 200);
        assert_eq!(warmup(300, 0.95), 30);
        assert_eq!(warmup(3, 0.95), 1);
    }
}
