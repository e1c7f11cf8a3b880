//! Shares that follow measured losses.
//!
//! Not here: when they are changed (the run), how a change becomes samples ([`crate::schedule`]).

use crate::mix::clamp;
use llmc_plan::data::DynamicSpec;

/// Shares are whole multiples of this, which a ledger's decimals give back to the bit.
const GRAIN: f64 = 1e6;

/// New shares from the old: each is multiplied by e^(rate · excess), all are normalised and mixed with the even share by
/// `smoothing`, so that no source dies out (DoReMi, Xie et al. 2023, arXiv 2305.10429, algorithm 1, there per token;
/// here a source's mean). Excess is the loss above the reference, at least 0; a source without a loss has the mean
/// excess of the others. What lies outside its bounds is moved inside last.
pub fn follow(
    shares: &[f64],
    losses: &[Option<f64>],
    references: &[f64],
    rule: &DynamicSpec,
    bounds: &[(f64, f64)],
) -> Vec<f64> {
    let excess: Vec<Option<f64>> = losses
        .iter()
        .zip(references)
        .map(|(loss, reference)| loss.filter(|loss| loss.is_finite()).map(|loss| (loss - reference).max(0.0)))
        .collect();
    let met = excess.iter().flatten().count().max(1) as f64;
    let mean = excess.iter().flatten().sum::<f64>() / met;
    let excess: Vec<f64> = excess.iter().map(|excess| excess.unwrap_or(mean)).collect();
    // Only differences count, and these powers do not overflow.
    let most = excess.iter().copied().fold(0.0, f64::max);
    let raised: Vec<f64> = shares
        .iter()
        .zip(&excess)
        .map(|(share, excess)| share * libm::exp(rule.rate * (excess - most)))
        .collect();
    let total: f64 = raised.iter().sum();
    let even = 1.0 / shares.len().max(1) as f64;
    let share = |raised: &f64| if total > 0.0 { raised / total } else { even };
    let mixed: Vec<f64> =
        raised.iter().map(|raised| (1.0 - rule.smoothing) * share(raised) + rule.smoothing * even).collect();
    clamp(&mixed, bounds).iter().map(|share| (share * GRAIN).round().max(1.0) / GRAIN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(rate: f64, smoothing: f64) -> DynamicSpec {
        DynamicSpec { every_steps: 1, rate, smoothing, references: Default::default() }
    }

    const FREE: [(f64, f64); 2] = [(0.0, 1.0); 2];

    #[test]
    fn harder_sources_gain_share() {
        let shares = follow(&[0.5, 0.5], &[Some(3.0), Some(2.0)], &[2.0, 2.0], &rule(1.0, 0.1), &FREE);
        // 0.9·e/(1 + e) + 0.05
        assert!((shares[0] - (0.9 * 0.731_058_578_630_005 + 0.05)).abs() < 1e-6, "{shares:?}");
        // Below its reference a source asks for nothing, and one that was not met keeps its part.
        assert_eq!(
            follow(&[0.3, 0.7], &[Some(1.0), Some(2.0)], &[2.0, 2.0], &rule(1.0, 0.0), &FREE),
            [0.3, 0.7]
        );
        assert_eq!(follow(&[0.3, 0.7], &[None, Some(9.0)], &[0.0, 0.0], &rule(1.0, 0.0), &FREE), [0.3, 0.7]);
    }

    #[test]
    fn bounds_hold_and_nothing_overflows() {
        let bounded = follow(
            &[0.5, 0.5],
            &[Some(9.0), Some(1.0)],
            &[0.0; 2],
            &rule(1.0, 0.0),
            &[(0.0, 0.6), (0.1, 1.0)],
        );
        assert_eq!(bounded, [0.6, 0.4]);
        let wild = follow(&[0.5, 0.5], &[Some(1e9), Some(f64::INFINITY)], &[0.0; 2], &rule(1e3, 0.0), &FREE);
        assert_eq!(wild, [0.5, 0.5]);
        let wild = follow(&[0.5, 0.5], &[Some(1e9), Some(0.0)], &[0.0; 2], &rule(1e3, 0.0), &FREE);
        assert_eq!(wild, [1.0, 1e-6], "never none: a source must be met to be measured");
    }

    proptest! {
        #[test]
        fn shares_come_back_from_their_decimals(
            losses in prop::collection::vec(0.0f64..12.0, 1..8), rate in 0.0f64..3.0, smoothing in 0.0f64..0.5
        ) {
            let n = losses.len();
            let asked: Vec<Option<f64>> = losses.into_iter().map(Some).collect();
            let even = vec![1.0 / n as f64; n];
            let shares = follow(&even, &asked, &vec![0.0; n], &rule(rate, smoothing), &vec![(0.0, 1.0); n]);
            prop_assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-5);
            let text = serde_json::to_string(&shares).unwrap();
            prop_assert_eq!(serde_json::from_str::<Vec<f64>>(&text).unwrap(), shares);
        }
    }
}
