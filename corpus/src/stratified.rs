//! The order of sources: stratified, the strongest known default (no online method beat it
//! consistently in the comparison of Chen et al. 2024, Aioli, arXiv 2411.05735).
//!
//! A window is a fixed number of samples, those of one optimizer step unless the specification says
//! otherwise. With w the window and p a source's share, every window holds ⌊w·p⌋ or ⌈w·p⌉ of its
//! samples, and the first n windows together ⌊n·w·p⌋ or ⌈n·w·p⌉: both deviate from the target by
//! less than one sample. What a window has left after the ⌊w·p⌋ is the problem of sharing processors
//! out among tasks in proportion to their weights (Baruah, Cohen, Plaxton and Varvel 1996,
//! "Proportionate progress", Algorithmica 15), and PD² solves it for every number of sources and
//! processors (Anderson and Srinivasan 2004, JCSS 68). Windows that begin elsewhere are differences of
//! two prefixes, so they deviate by less than two; less than one everywhere does not exist for most
//! shares of three or more sources (Altman, Gaujal and Hordijk 2000, "Balanced sequences and optimal
//! routing").

use std::cmp::Reverse;

/// Shares are realised as integer counts in a period of whole windows. The shortest period that states
/// all shares to this accuracy is used, else the longest.
const EXACT: f64 = 1e-9;
/// Samples from which on a period states any share closely enough: 3·10⁻⁸ of all samples off at most.
const LONG: u64 = 1 << 24;
/// Windows of the longest period, and entries of its table.
const MOST_WINDOWS: u64 = 1 << 17;
const MOST_ENTRIES: u64 = 1 << 22;
/// Samples a window may have, so that products of two places fit 64 bits.
pub const MOST_SAMPLES: u64 = 1 << 31;

/// A periodic order of sources. Inside a window the samples of a source are spread evenly, and
/// numbered in no particular order.
pub struct Mixture {
    /// Samples of a window.
    window: u64,
    /// Windows of a period.
    period: u64,
    sources: Vec<Share>,
    /// Samples of a window that are the same in all of them: its first places.
    fixed: u64,
    /// Sources of the other places, window by window.
    rest: Vec<u32>,
    /// Sample i of a window has place i·stride mod window: multiples of the golden ratio spread any
    /// run of places evenly (three-distance theorem, Sós 1958).
    stride: u64,
    inverse: u64,
}

struct Share {
    /// First of its fixed places, and how many they are.
    first: u64,
    fixed: u64,
    /// Windows of a period in which it has one more.
    more: Vec<u32>,
}

impl Share {
    /// Its samples before a window of a period.
    fn before(&self, window: u64) -> u64 {
        self.fixed * window + self.more.partition_point(|&w| u64::from(w) < window) as u64
    }

    fn in_window(&self, window: u64) -> u64 {
        self.fixed + u64::from(self.more.binary_search(&(window as u32)).is_ok())
    }
}

impl Mixture {
    /// Orders sources with these shares, at least one and summing to 1, in windows of 1 to
    /// [`MOST_SAMPLES`] samples.
    pub fn new(shares: &[f64], window: u64) -> Self {
        let window = window.clamp(1, MOST_SAMPLES);
        let (period, counts) = period_counts(shares, window);
        let mut first = 0;
        let mut sources: Vec<Share> = counts
            .iter()
            .map(|&count| {
                let share = Share { first, fixed: count / period, more: Vec::new() };
                first += share.fixed;
                share
            })
            .collect();
        let rest = proportionate(&counts.iter().map(|count| count % period).collect::<Vec<_>>(), period);
        let each = (window - first).max(1) as usize;
        for (number, chosen) in rest.chunks(each).enumerate() {
            for &source in chosen {
                if let Some(share) = sources.get_mut(source as usize) {
                    share.more.push(number as u32);
                }
            }
        }
        // One source is read in order, so that its first epoch is its first samples.
        let (stride, inverse) = if shares.len() == 1 { (1, 1) } else { golden(window) };
        Self { window, period, sources, fixed: first, rest, stride, inverse }
    }

    /// Samples of a window.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// Source of a sample, and its number among the samples of that source.
    pub fn source(&self, sample: u64) -> (usize, u64) {
        let (number, place) = (sample / self.window, sample % self.window * self.stride % self.window);
        let (periods, window) = (number / self.period, number % self.period);
        let (source, index) = match place.checked_sub(self.fixed) {
            None => {
                let source = self.sources.partition_point(|share| share.first <= place).saturating_sub(1);
                (source, place - self.sources.get(source).map_or(0, |share| share.first))
            }
            Some(at) => {
                let source = self.rest_of(window).get(at as usize).map_or(0, |&source| source as usize);
                (source, self.sources.get(source).map_or(0, |share| share.fixed))
            }
        };
        let before = self.sources.get(source).map_or(0, |share| share.before(window));
        (source, periods * self.each(source) + before + index)
    }

    /// The sample with this number of a source; saturates.
    pub fn sample(&self, source: usize, number: u64) -> u64 {
        self.find(source, number).map_or(u64::MAX, |(start, places)| {
            places.start.map_or(u64::MAX, |place| start.saturating_add(self.place_to_sample(place)))
        })
    }

    /// The first sample whose number in its source is `number` or higher; saturates.
    pub fn reaches(&self, source: usize, number: u64) -> u64 {
        let Some((start, places)) = self.find(source, number) else { return u64::MAX };
        let rest = places.fixed.map(|place| self.place_to_sample(place));
        let first = rest.chain(places.last.map(|place| self.place_to_sample(place))).min();
        first.map_or(u64::MAX, |first| start.saturating_add(first))
    }

    /// How many samples of `source` come before a window.
    pub fn before(&self, source: usize, window: u64) -> u64 {
        let inside = self.sources.get(source).map_or(0, |share| share.before(window % self.period));
        (window / self.period).saturating_mul(self.each(source)).saturating_add(inside)
    }

    /// The share each source really has: its count in the period over the period.
    pub fn realised(&self) -> Vec<f64> {
        let samples = (self.period * self.window) as f64;
        (0..self.sources.len()).map(|source| self.each(source) as f64 / samples).collect()
    }

    /// Samples of a source in a period.
    fn each(&self, source: usize) -> u64 {
        self.sources.get(source).map_or(0, |share| share.before(self.period))
    }

    fn rest_of(&self, window: u64) -> &[u32] {
        let each = self.window - self.fixed;
        let from = (window * each) as usize;
        self.rest.get(from..from + each as usize).unwrap_or_default()
    }

    fn place_to_sample(&self, place: u64) -> u64 {
        place * self.inverse % self.window
    }

    /// The first sample of the window that holds a number of a source, and the places from that number on.
    fn find(&self, source: usize, number: u64) -> Option<(u64, Places)> {
        let share = self.sources.get(source)?;
        let each = share.before(self.period);
        let (periods, left) = (number.checked_div(each)?, number % each);
        let (mut low, mut high) = (0, self.period);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if share.before(middle) <= left { low = middle } else { high = middle }
        }
        let index = left - share.before(low);
        let more = share.in_window(low) > share.fixed;
        let at = self.rest_of(low).iter().position(|&s| s as usize == source).filter(|_| more);
        let last = at.map(|at| self.fixed + at as u64);
        let fixed = share.first + index..share.first + share.fixed;
        let start = if fixed.is_empty() { last } else { Some(fixed.start) };
        let window = periods.saturating_mul(self.period).saturating_add(low);
        Some((window.saturating_mul(self.window), Places { start, fixed, last }))
    }
}

struct Places {
    start: Option<u64>,
    fixed: std::ops::Range<u64>,
    last: Option<u64>,
}

/// Windows of a period, and integer counts in it whose proportions are the shares; every source gets
/// at least one, and they fill the period.
fn period_counts(shares: &[f64], window: u64) -> (u64, Vec<u64>) {
    let sources = shares.len().max(1) as u64;
    let longest = (LONG / window).clamp(1, MOST_WINDOWS).min(MOST_ENTRIES / sources).max(1);
    let longest = longest.max(sources.div_ceil(window));
    let exact = (1..=longest).find(|&period| {
        let samples = (period * window) as f64;
        shares.iter().all(|share| {
            let count = (share * samples).round();
            count >= 1.0 && (count / samples - share).abs() <= EXACT
        })
    });
    let period = exact.unwrap_or(longest);
    let samples = period * window;
    let due: Vec<f64> = shares.iter().map(|share| share * samples as f64).collect();
    let mut counts: Vec<u64> = due.iter().map(|due| (due.round() as u64).max(1)).collect();
    // Rounding may miss the sum by a few: those who got least of what is due, or most, give way.
    loop {
        let sum: u64 = counts.iter().sum();
        let error =
            |s: &usize| counts.get(*s).zip(due.get(*s)).map_or(0.0, |(&count, due)| count as f64 - due);
        let by_error = |a: &usize, b: &usize| error(a).total_cmp(&error(b)).then(b.cmp(a));
        let (changed, step) = match sum.cmp(&samples) {
            std::cmp::Ordering::Equal => break,
            std::cmp::Ordering::Less => ((0..counts.len()).min_by(by_error), 1),
            std::cmp::Ordering::Greater => {
                let more = (0..counts.len()).filter(|&s| counts.get(s).is_some_and(|&count| count > 1));
                (more.max_by(by_error), -1)
            }
        };
        let Some(count) = changed.and_then(|s| counts.get_mut(s)) else { break };
        *count = count.saturating_add_signed(step);
    }
    (period, counts)
}

/// The sources of each window, Σ weights / period of them: PD², with source s in `weights[s]` of
/// `period` windows.
fn proportionate(weights: &[u64], period: u64) -> Vec<u32> {
    let mut turns: Vec<Turn> = weights
        .iter()
        .zip(0..)
        .filter(|&(&weight, _)| weight > 0)
        .map(|(&weight, source)| Turn::of(source, weight, period, 1))
        .collect();
    let each = (weights.iter().sum::<u64>() / period.max(1)) as usize;
    let mut chosen = Vec::with_capacity(each * period as usize);
    if each == 0 {
        return chosen;
    }
    for window in 0..period {
        // Those whose turn may not come yet go last.
        turns.sort_unstable_by_key(|turn| (turn.release > window, turn.priority, turn.source));
        for turn in turns.iter_mut().take(each) {
            chosen.push(turn.source);
            *turn = Turn::of(turn.source, turn.weight, period, turn.number + 1);
        }
    }
    chosen
}

/// The n-th turn of a source, n from 1: a subtask in the papers.
struct Turn {
    source: u32,
    weight: u64,
    number: u64,
    /// First window it may have.
    release: u64,
    /// Deadline; then, among equals, whose next turn overlaps this one; then whose cascade of
    /// overlaps ends later.
    priority: (u64, bool, Reverse<u64>),
}

impl Turn {
    fn of(source: u32, weight: u64, period: u64, number: u64) -> Self {
        let (release, deadline) = ((number - 1) * period / weight, (number * period).div_ceil(weight));
        let apart = (number * period).is_multiple_of(weight);
        let light = 2 * weight < period;
        let idle = period - weight;
        let cascade =
            if light { 0 } else { ((deadline * idle).div_ceil(period) * period).div_ceil(idle.max(1)) };
        Self { source, weight, number, release, priority: (deadline, apart, Reverse(cascade)) }
    }
}

/// A stride without common divisor with the window and near its golden section, and its inverse.
fn golden(window: u64) -> (u64, u64) {
    /// (√5 − 1) / 2
    const RATIO: f64 = 0.618_033_988_749_894_8;
    let near = (window as f64 * RATIO) as u64;
    (near.max(1)..).find_map(|stride| Some((stride, inverse(stride, window)?))).unwrap_or((1, 1))
}

/// x with value·x = 1 modulo `modulus`, by Euclid.
fn inverse(value: u64, modulus: u64) -> Option<u64> {
    let modulus = i128::from(modulus);
    let (mut a, mut b) = (i128::from(value), modulus);
    let (mut x, mut y) = (1, 0);
    while b != 0 {
        let quotient = a / b;
        (a, b) = (b, a - quotient * b);
        (x, y) = (y, x - quotient * y);
    }
    if a == 1 { u64::try_from(x.rem_euclid(modulus)).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn round_shares_have_short_periods() {
        assert_eq!(Mixture::new(&[0.75, 0.25], 1).period, 4);
        assert_eq!(Mixture::new(&[0.75, 0.25], 512).period, 1);
        assert_eq!(Mixture::new(&[0.9, 0.06, 0.04], 4).period, 25);
        assert_eq!(Mixture::new(&[1.0], 8).period, 1);
    }

    /// Five sources over 10,000 steps of 512 sequences: every step and every prefix of steps within one
    /// sequence of its targets, totals within 0.01 %. Once with round shares, once with any.
    #[test]
    fn a_long_run_stays_on_target() {
        let (steps, window) = (10_000u64, 512u64);
        let irrational = [0.470_368_1, 0.229_913_7, 0.168_842_3, 0.101_003_9];
        let irrational = [&irrational[..], &[1.0 - irrational.iter().sum::<f64>()]].concat();
        for shares in [vec![0.47, 0.23, 0.17, 0.1, 0.03], irrational] {
            let mixture = Mixture::new(&shares, window);
            let mut totals = [0u64; 5];
            let (mut worst, mut worst_prefix): (f64, f64) = (0.0, 0.0);
            for step in 0..steps {
                let mut counts = [0u64; 5];
                (step * window..(step + 1) * window).for_each(|n| counts[mixture.source(n).0] += 1);
                for s in 0..5 {
                    worst = worst.max((counts[s] as f64 - shares[s] * window as f64).abs());
                    totals[s] += counts[s];
                    let target = shares[s] * (window * (step + 1)) as f64;
                    worst_prefix = worst_prefix.max((totals[s] as f64 - target).abs());
                }
            }
            println!("window {worst:.4}, prefix {worst_prefix:.4} sequences off target at most");
            assert!(worst < 1.0 && worst_prefix < 1.1, "{worst} {worst_prefix}");
            for (total, share) in totals.iter().zip(&shares) {
                let target = share * (steps * window) as f64;
                assert!((*total as f64 - target).abs() < 1e-4 * target);
            }
        }
    }

    #[test]
    fn one_source_is_read_in_order() {
        let mixture = Mixture::new(&[1.0], 24);
        assert!((0..100).all(|n| mixture.source(n) == (0, n) && mixture.reaches(0, n) == n));
    }

    /// Inside a window, too, no source comes in a lump: any 32 of 512 samples in a row.
    #[test]
    fn a_window_is_spread_evenly() {
        let mixture = Mixture::new(&[0.5, 0.25, 0.25], 512);
        for from in 0..480 {
            let count = (from..from + 32).filter(|&n| mixture.source(n).0 == 1).count();
            assert!((6..=10).contains(&count), "{count} of 8 from {from}");
        }
    }

    proptest! {
        #[test]
        fn windows_and_prefixes_are_within_one_sample(
            weights in prop::collection::vec(1u32..2000, 1..9), window in 1u64..40
        ) {
            let total: u32 = weights.iter().sum();
            let shares: Vec<f64> = weights.iter().map(|&w| f64::from(w) / f64::from(total)).collect();
            let mixture = Mixture::new(&shares, window);
            let realised = mixture.realised();
            prop_assert!((realised.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            let mut seen: Vec<std::collections::BTreeSet<u64>> = vec![Default::default(); shares.len()];
            for number in 0..300 {
                let mut counts = vec![0u64; shares.len()];
                for sample in number * window..(number + 1) * window {
                    let (source, index) = mixture.source(sample);
                    prop_assert_eq!(mixture.sample(source, index), sample);
                    prop_assert!(mixture.reaches(source, index) <= sample);
                    prop_assert!(seen[source].insert(index), "twice");
                    counts[source] += 1;
                }
                for (s, share) in realised.iter().enumerate() {
                    prop_assert!((counts[s] as f64 - share * window as f64).abs() < 1.0 - 1e-9);
                    let all = mixture.before(s, number + 1);
                    prop_assert!((all as f64 - share * ((number + 1) * window) as f64).abs() < 1.0 - 1e-9);
                    // The numbers up to here are used, each once, and none above.
                    prop_assert_eq!(seen[s].len() as u64, all);
                    prop_assert!(seen[s].last().is_none_or(|&last| last + 1 == all));
                }
            }
            for (realised, share) in realised.iter().zip(&shares) {
                prop_assert!((realised - share).abs() < 1e-5);
            }
        }

        #[test]
        fn what_is_reached_is_the_first(
            weights in prop::collection::vec(1u32..50, 1..5), window in 1u64..20, number in 0u64..100
        ) {
            let total: u32 = weights.iter().sum();
            let shares: Vec<f64> = weights.iter().map(|&w| f64::from(w) / f64::from(total)).collect();
            let mixture = Mixture::new(&shares, window);
            let first = (0..).find(|&n| { let (s, i) = mixture.source(n); s == 0 && i >= number });
            prop_assert_eq!(Some(mixture.reaches(0, number)), first);
        }
    }
}
