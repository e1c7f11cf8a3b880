//! Gradient noise scale on line: how large a batch is worth its tokens, from two squared norms of every step.
//!
//! McCandlish et al. 2018, arXiv 1812.06162, appendix A.1: a gradient over B tokens has the expected squared norm
//! |G|² + tr(Σ)/B. With the norm after the first micro-batch and the one over all of them, both |G|² and S = tr(Σ)
//! follow; each is far too noisy in a single step, so they are averaged over steps before they are divided:
//! B_simple = S/|G|².

use serde::{Deserialize, Serialize};

/// Weight of the past at each new step: a memory of about a hundred steps, over which B_simple moves little (figure 4
/// there: it grows by a factor over a whole run).
const MEMORY: f64 = 0.99;

/// Steps before anything is said: the error needs a variance.
const FEWEST: u64 = 5;

/// Moving averages of both estimates and of their products. Part of a checkpoint: a resumed run goes on with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "[u64; 8]", from = "[u64; 8]")]
pub struct NoiseScale {
    steps: u64,
    /// Σ of weights, and of their squares.
    weight: f64,
    weight_sq: f64,
    /// Weighted sums of S, |G|², S², |G|⁴, S·|G|².
    s: f64,
    g: f64,
    ss: f64,
    gg: f64,
    sg: f64,
}

/// As bits: a decimal that is read back may be another number.
impl From<NoiseScale> for [u64; 8] {
    fn from(n: NoiseScale) -> [u64; 8] {
        let sums = [n.weight, n.weight_sq, n.s, n.g, n.ss, n.gg, n.sg].map(f64::to_bits);
        let [weight, weight_sq, s, g, ss, gg, sg] = sums;
        [n.steps, weight, weight_sq, s, g, ss, gg, sg]
    }
}

impl From<[u64; 8]> for NoiseScale {
    fn from([steps, rest @ ..]: [u64; 8]) -> NoiseScale {
        let [weight, weight_sq, s, g, ss, gg, sg] = rest.map(f64::from_bits);
        NoiseScale { steps, weight, weight_sq, s, g, ss, gg, sg }
    }
}

/// B_simple and one standard error of it, in tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Batch at which noise and signal of a gradient are equal.
    pub tokens: f64,
    /// Standard error, steps taken as independent.
    pub error: f64,
}

impl NoiseScale {
    /// Counts a step: squared norm and tokens of the gradient over the first micro-batch, and of the one over the
    /// whole step, each the mean over its tokens. What is not finite, or not two batches, says nothing.
    pub fn add(&mut self, small: (f64, f64), big: (f64, f64)) {
        let ((small_sq, small), (big_sq, big)) = (small, big);
        let g = (big * big_sq - small * small_sq) / (big - small);
        let s = (small_sq - big_sq) / (1.0 / small - 1.0 / big);
        if !(g.is_finite() && s.is_finite() && small > 0.0 && big > small) {
            return;
        }
        self.steps += 1;
        self.weight_sq = MEMORY * MEMORY * self.weight_sq + 1.0;
        let sums = [
            (&mut self.weight, 1.0),
            (&mut self.s, s),
            (&mut self.g, g),
            (&mut self.ss, s * s),
            (&mut self.gg, g * g),
            (&mut self.sg, s * g),
        ];
        for (sum, value) in sums {
            *sum = MEMORY * *sum + value;
        }
    }

    /// B_simple so far. None while there are few steps, or noise hides the gradient's own norm altogether. The error
    /// is that of a ratio of two means, to first order.
    pub fn estimate(&self) -> Option<Estimate> {
        if self.steps < FEWEST {
            return None;
        }
        let [s, g, ss, gg, sg] = [self.s, self.g, self.ss, self.gg, self.sg].map(|sum| sum / self.weight);
        if s <= 0.0 || g <= 0.0 {
            return None;
        }
        // Steps that the weights are worth (Kish 1965).
        let steps = self.weight * self.weight / self.weight_sq;
        let of_mean = |product: f64, mean: f64| (product - mean) / (steps - 1.0);
        let (var_s, var_g, cov) = (of_mean(ss, s * s), of_mean(gg, g * g), of_mean(sg, s * g));
        let relative = var_s / (s * s) + var_g / (g * g) - 2.0 * cov / (s * g);
        let tokens = s / g;
        let error = tokens * relative.max(0.0).sqrt();
        (tokens.is_finite() && error.is_finite()).then_some(Estimate { tokens, error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gradients drawn as the theory has them: G plus noise of covariance Σ/B, the large batch holding the small one.
    #[test]
    fn a_known_noise_scale_is_found_within_its_error() {
        let (dimensions, tr) = (40, 40.0 * 9.0); // Σ = 9·1
        let signal = 0.25; // each entry of G
        let want = tr / (signal * signal * dimensions as f64);
        let (micro, accumulation) = (16.0, 8);
        let mut state = 12_345u64;
        // Sum of 12 uniform numbers less 6: variance 1 (central limit).
        let mut normal = || {
            let mut uniform = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 11) as f64 / (1u64 << 53) as f64
            };
            (0..12).map(|_| uniform()).sum::<f64>() - 6.0
        };
        let mut noise = NoiseScale::default();
        for step in 0..400 {
            let (mut small_sq, mut big_sq) = (0.0, 0.0);
            for _ in 0..dimensions {
                let parts: Vec<f64> =
                    (0..accumulation).map(|_| signal + 3.0 / f64::sqrt(micro) * normal()).collect();
                let mean = parts.iter().sum::<f64>() / f64::from(accumulation);
                (small_sq, big_sq) = (small_sq + parts[0] * parts[0], big_sq + mean * mean);
            }
            assert!(step >= 4 || noise.estimate().is_none(), "nothing is said of {step} steps");
            noise.add((small_sq, micro), (big_sq, micro * f64::from(accumulation)));
        }
        let found = noise.estimate().expect("an estimate");
        assert!((found.tokens - want).abs() < 3.0 * found.error, "{found:?}, not {want}");
        assert!(found.error < 0.15 * want && found.error > 0.01 * want, "{found:?}");
    }

    #[test]
    fn what_says_nothing_is_left_out() {
        let mut noise = NoiseScale::default();
        for (small, big) in [
            ((f64::NAN, 8.0), (1.0, 64.0)),
            ((1.0, 8.0), (f64::INFINITY, 64.0)),
            ((1.0, 64.0), (1.0, 64.0)),
            ((1.0, 0.0), (1.0, 64.0)),
        ] {
            noise.add(small, big);
        }
        assert_eq!(noise, NoiseScale::default());
    }
}
