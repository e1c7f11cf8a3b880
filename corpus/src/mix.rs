//! Which source each sample comes from.
//!
//! Shares come from the specification and the token counts; the order is stratified, the strongest
//! known default: no online method beat it consistently in the comparison of Chen et al. 2024
//! (Aioli, arXiv 2411.05735).

use crate::error::{Error, Result};
use llmc_plan::data::DataSpec;

/// Shares are realised as integer counts in a period. The shortest period that states all shares to
/// this accuracy is used, else the longest.
const EXACT: f64 = 1e-9;
const LONGEST_PERIOD: usize = 1 << 17;

/// The share of each source, summing to 1. `tokens` are the sources' training tokens.
///
/// # Errors
/// Fixed weights above 1 in sum, or bounds that no shares satisfy, each with names and figures.
pub fn shares(spec: &DataSpec, tokens: &[u64]) -> Result<Vec<f64>> {
    let sources = &spec.sources;
    let fixed: f64 = sources.iter().filter_map(|s| s.weight).sum();
    let by_size = |tokens: u64| libm::pow(tokens as f64, spec.mix.temperature);
    let free: f64 =
        sources.iter().zip(tokens).filter(|(s, _)| s.weight.is_none()).map(|(_, &t)| by_size(t)).sum();
    let mut wanted = Vec::new();
    if free == 0.0 {
        wanted.extend(sources.iter().map(|s| s.weight.unwrap_or(0.0) / fixed));
    } else {
        if fixed >= 1.0 {
            let names: Vec<_> =
                sources.iter().filter(|s| s.weight.is_none()).map(|s| s.name.as_str()).collect();
            return Err(Error::spec(format!(
                "the fixed weights sum to {fixed}, which leaves nothing for {}: lower them below 1, or give \
                 every source a weight",
                names.join(", ")
            )));
        }
        wanted.extend(
            sources.iter().zip(tokens).map(|(s, &t)| s.weight.unwrap_or((1.0 - fixed) * by_size(t) / free)),
        );
    }
    let bounds: Vec<(f64, f64)> =
        sources.iter().map(|s| (s.min_share.unwrap_or(0.0), s.max_share.unwrap_or(1.0))).collect();
    let (least, most) = bounds.iter().fold((0.0, 0.0), |(l, m), b| (l + b.0, m + b.1));
    if least > 1.0 + EXACT || most < 1.0 - EXACT {
        let list: Vec<_> =
            sources.iter().zip(&bounds).map(|(s, b)| format!("{} {} to {}", s.name, b.0, b.1)).collect();
        // All lower ends lowered, or upper ends raised, by one factor.
        let nearest = |&(low, high): &(f64, f64)| if least > 1.0 { low / least } else { high / most };
        let nearest: Vec<_> =
            sources.iter().zip(&bounds).map(|(s, b)| format!("{} {:.4}", s.name, nearest(b))).collect();
        return Err(Error::spec(format!(
            "no shares meet the bounds, whose lower ends sum to {least} and upper ends to {most}: {}; change \
             them so that 1 lies between, for instance to {}",
            list.join(", "),
            nearest.join(", ")
        )));
    }
    Ok(clamp(&wanted, &bounds))
}

/// `min(max(t·wanted, low), high)` with the factor t for which the sum is 1: what lies inside its
/// bounds keeps its proportions.
fn clamp(wanted: &[f64], bounds: &[(f64, f64)]) -> Vec<f64> {
    let scaled = |t: f64| -> Vec<f64> {
        wanted.iter().zip(bounds).map(|(w, &(low, high))| (t * w).max(low).min(high)).collect()
    };
    if wanted.iter().zip(bounds).all(|(w, &(low, high))| (low..=high).contains(w)) {
        return wanted.to_vec();
    }
    // The sum grows with t, so halving finds it; 200 halvings exhaust f64.
    let (mut low, mut high) = (0.0, 1.0);
    while scaled(high).iter().sum::<f64>() < 1.0 - EXACT && high < 1e300 {
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        if scaled(middle).iter().sum::<f64>() < 1.0 { low = middle } else { high = middle }
    }
    scaled(high)
}

/// A periodic, stratified order of sources.
pub struct Mixture {
    /// Source of each sample of a period, and how often it came before in the period.
    period: Vec<(u32, u32)>,
    /// For each source, where in the period its samples stand.
    places: Vec<Vec<u32>>,
}

impl Mixture {
    /// Orders sources with these shares, at least one. Every prefix holds each source within one
    /// sample of its share.
    pub fn new(shares: &[f64]) -> Self {
        let counts = period_counts(shares);
        let period_len: i64 = counts.iter().sum();
        // Tijdeman 1980, "The chairman assignment problem", Discrete Mathematics 32: among the
        // sources whose next turn is permitted, the one that is due first. The deviation stays
        // at or below 1 − 1/(2S − 2). Everything times (2S − 2)·period, to stay in integers.
        let scale = 2 * shares.len().max(2) as i64 - 2;
        let mut places = vec![Vec::new(); counts.len()];
        let mut period = Vec::with_capacity(period_len as usize);
        for n in 0..period_len {
            let owed =
                |s: usize, taken: usize| counts.get(s).map_or(0, |a| a * (n + 1) - taken as i64 * period_len);
            let next = places
                .iter()
                .enumerate()
                .map(|(s, taken)| (s, owed(s, taken.len()), counts.get(s).copied().unwrap_or(1)))
                .filter(|&(_, owed, _)| owed * scale >= period_len)
                .min_by(|&(a, owed_a, count_a), &(b, owed_b, count_b)| {
                    let slack = |owed: i64| i128::from(period_len * (scale - 1) - owed * scale);
                    let (x, y) = (slack(owed_a) * i128::from(count_b), slack(owed_b) * i128::from(count_a));
                    x.cmp(&y).then(a.cmp(&b))
                })
                .map_or(0, |(s, _, _)| s);
            if let Some(taken) = places.get_mut(next) {
                period.push((next as u32, taken.len() as u32));
                taken.push(n as u32);
            }
        }
        Self { period, places }
    }

    /// Source of a sample, and how many samples of that source come before it.
    pub fn source(&self, sample: u64) -> (usize, u64) {
        let length = self.period.len().max(1) as u64;
        let (source, before) = self.period.get((sample % length) as usize).copied().unwrap_or((0, 0));
        let each = self.places.get(source as usize).map_or(0, Vec::len) as u64;
        (source as usize, sample / length * each + u64::from(before))
    }

    /// The sample at which `source` comes for the `count`-th time, from 0; saturates.
    pub fn sample(&self, source: usize, count: u64) -> u64 {
        let Some(places) = self.places.get(source).filter(|p| !p.is_empty()) else { return u64::MAX };
        let each = places.len() as u64;
        let place = places.get((count % each) as usize).copied().unwrap_or(0);
        (count / each).saturating_mul(self.period.len() as u64).saturating_add(u64::from(place))
    }

    /// How often `source` comes before `sample`.
    pub fn count(&self, source: usize, sample: u64) -> u64 {
        let Some(places) = self.places.get(source) else { return 0 };
        let length = self.period.len().max(1) as u64;
        let rest = places.partition_point(|&place| u64::from(place) < sample % length);
        sample / length * places.len() as u64 + rest as u64
    }

    /// The share each source really has: its count in the period over the period.
    pub fn realised(&self) -> Vec<f64> {
        self.places.iter().map(|p| p.len() as f64 / self.period.len().max(1) as f64).collect()
    }
}

/// Integer counts whose proportions are the shares; every source gets at least one.
fn period_counts(shares: &[f64]) -> Vec<i64> {
    let exact = (1..=LONGEST_PERIOD).find(|&period| {
        shares.iter().all(|share| {
            let count = (share * period as f64).round();
            count >= 1.0 && (count / period as f64 - share).abs() <= EXACT
        })
    });
    let period = exact.unwrap_or(LONGEST_PERIOD) as f64;
    shares.iter().map(|share| ((share * period).round() as i64).max(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(sources: &str, temperature: f64) -> DataSpec {
        serde_json::from_str(&format!(
            r#"{{"tokenizer": {{"vocab": 300}}, "context": 8, "mix": {{"temperature": {temperature}}},
                 "sources": [{sources}]}}"#
        ))
        .unwrap()
    }

    fn near(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9)
    }

    #[test]
    fn shares_follow_temperature_weights_and_bounds() {
        let two = r#"{"name": "a", "globs": ["a"]}, {"name": "b", "globs": ["b"]}"#;
        assert!(near(&shares(&spec(two, 1.0), &[900, 100]).unwrap(), &[0.9, 0.1]));
        assert!(near(&shares(&spec(two, 0.5), &[900, 100]).unwrap(), &[0.75, 0.25]));
        assert!(near(&shares(&spec(two, 0.0), &[900, 100]).unwrap(), &[0.5, 0.5]));
        let relative =
            r#"{"name": "a", "globs": ["a"], "weight": 3}, {"name": "b", "globs": ["b"], "weight": 1}"#;
        assert!(near(&shares(&spec(relative, 1.0), &[1, 9]).unwrap(), &[0.75, 0.25]));
        let law = r#"{"name": "base", "globs": ["a"]}, {"name": "law", "globs": ["b"], "weight": 0.6}"#;
        assert!(near(&shares(&spec(law, 1.0), &[1, 9]).unwrap(), &[0.4, 0.6]));
        let floor = r#"{"name": "web", "globs": ["w"]}, {"name": "code", "globs": ["c"], "min_share": 0.1},
                       {"name": "zh", "globs": ["z"]}"#;
        assert!(near(
            &shares(&spec(floor, 1.0), &[750, 50, 200]).unwrap(),
            &[0.9 * 15.0 / 19.0, 0.1, 0.9 * 4.0 / 19.0]
        ));
    }

    #[test]
    fn impossible_shares_name_the_sources() {
        let full = r#"{"name": "a", "globs": ["a"], "weight": 1.0}, {"name": "b", "globs": ["b"]}"#;
        let error = shares(&spec(full, 1.0), &[1, 1]).unwrap_err().to_string();
        assert!(error.contains("leaves nothing for b"), "{error}");
        let bounds = r#"{"name": "a", "globs": ["a"], "min_share": 0.7}, {"name": "b", "globs": ["b"], "min_share": 0.4}"#;
        let error = shares(&spec(bounds, 1.0), &[1, 1]).unwrap_err().to_string();
        assert!(error.contains("a 0.7 to 1, b 0.4 to 1"), "{error}");
        assert!(error.ends_with("for instance to a 0.6364, b 0.3636"), "{error}");
    }

    #[test]
    fn round_shares_have_short_periods() {
        assert_eq!(Mixture::new(&[0.75, 0.25]).period.len(), 4);
        assert_eq!(Mixture::new(&[0.9, 0.06, 0.04]).period.len(), 50);
        assert_eq!(Mixture::new(&[1.0]).period.len(), 1);
    }

    /// Five sources over 10,000 steps of 512 sequences: every step's window against its targets.
    #[test]
    fn a_long_run_stays_on_target() {
        let shares = [0.47, 0.23, 0.17, 0.1, 0.03];
        let mixture = Mixture::new(&shares);
        let mut totals = [0u64; 5];
        let mut worst: f64 = 0.0;
        for step in 0..10_000u64 {
            let mut counts = [0u64; 5];
            (step * 512..(step + 1) * 512).for_each(|sample| counts[mixture.source(sample).0] += 1);
            for s in 0..5 {
                worst = worst.max((counts[s] as f64 - shares[s] * 512.0).abs());
                totals[s] += counts[s];
                let target = shares[s] * 512.0 * (step + 1) as f64;
                assert!((totals[s] as f64 - target).abs() < 1.0, "step {step}, source {s}");
            }
        }
        // A count is an integer and a target is not: from one end of a window to the other the
        // deviation moves by less than twice the bound of a prefix, 1 − 1/8.
        assert!(worst < 1.75, "{worst}");
        for (total, share) in totals.iter().zip(shares) {
            assert!((*total as f64 / 5_120_000.0 - share).abs() < 1e-6 * share);
        }
    }

    proptest! {
        #[test]
        fn every_prefix_is_within_one_sample(weights in prop::collection::vec(1u32..2000, 1..7)) {
            let total: u32 = weights.iter().sum();
            let shares: Vec<f64> = weights.iter().map(|&w| f64::from(w) / f64::from(total)).collect();
            let mixture = Mixture::new(&shares);
            let realised = mixture.realised();
            let mut counts = vec![0u64; shares.len()];
            for sample in 0..3000 {
                let (source, before) = mixture.source(sample);
                prop_assert_eq!(counts[source], before);
                prop_assert_eq!(mixture.sample(source, before), sample);
                prop_assert_eq!(mixture.count(source, sample), before);
                counts[source] += 1;
                for (count, share) in counts.iter().zip(&realised) {
                    prop_assert!((*count as f64 - share * (sample + 1) as f64).abs() < 1.0);
                }
            }
            for (realised, share) in realised.iter().zip(&shares) {
                prop_assert!((realised - share).abs() < 1e-5);
            }
        }
    }
}
