//! The programme of uneven stages against a dynamic programme over (stage, layers) with every mix of policies.
#![allow(clippy::unwrap_used)] // random instances are built here

use llmc_planner::milp::{Policy, Stage, gibibyte, lacking, split};

/// A small generator: the instances are the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn among(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    fn share(&mut self) -> f64 {
        self.next() as f64 / (1u64 << 31) as f64
    }
}

const GIB: f64 = 1073741824.0;

fn instance(random: &mut Random) -> (u64, Vec<Policy>, Vec<Stage>) {
    let stages = random.among(1, 4);
    let layers = random.among(stages, 12);
    let kinds = random.among(1, 3) as usize;
    // More memory-saving is never faster.
    let policies: Vec<Policy> = (0..kinds)
        .map(|i| Policy { seconds: 1e-3 * (1.0 + random.share()) * (1.0 + 0.3 * i as f64) })
        .collect();
    let stages = (0..stages)
        .map(|stage| Stage {
            seconds: 1e-3 * random.share() * 2.0,
            room: GIB * (2.0 + 12.0 * random.share()),
            layer: (0..kinds)
                .map(|i| GIB * (0.5 + 2.0 * random.share()) / (1.0 + i as f64) / (1.0 + 0.2 * stage as f64))
                .collect(),
        })
        .collect();
    (layers, policies, stages)
}

/// Fastest way for one stage to hold `layers`, by trying every mix.
fn stage_seconds(layers: u64, policies: &[Policy], stage: &Stage) -> Option<f64> {
    fn mixes(left: u64, kinds: usize) -> Vec<Vec<u64>> {
        if kinds == 1 {
            return vec![vec![left]];
        }
        (0..=left)
            .flat_map(|n| {
                mixes(left - n, kinds - 1).into_iter().map(move |mut rest| {
                    rest.insert(0, n);
                    rest
                })
            })
            .collect()
    }
    mixes(layers, policies.len())
        .into_iter()
        .filter(|mix| {
            let bytes: f64 = mix.iter().zip(&stage.layer).map(|(n, b)| *n as f64 * b).sum();
            bytes <= stage.room * (1.0 + 1e-12)
        })
        .map(|mix| stage.seconds + mix.iter().zip(policies).map(|(n, p)| *n as f64 * p.seconds).sum::<f64>())
        .min_by(f64::total_cmp)
}

/// Best slowest stage, by dynamic programming over (stage, layers so far).
fn oracle(layers: u64, policies: &[Policy], stages: &[Stage]) -> Option<f64> {
    let mut best: Vec<Option<f64>> = vec![None; layers as usize + 1];
    best[0] = Some(0.0);
    for stage in stages {
        let mut next = vec![None; layers as usize + 1];
        for (before, slowest) in best.iter().enumerate() {
            let Some(slowest) = slowest else { continue };
            for held in 1..=layers - before as u64 {
                let Some(seconds) = stage_seconds(held, policies, stage) else { continue };
                let value = f64::max(*slowest, seconds);
                let place: &mut Option<f64> = &mut next[before + held as usize];
                if place.is_none_or(|old| value < old) {
                    *place = Some(value);
                }
            }
        }
        best = next;
    }
    best[layers as usize]
}

#[test]
fn equals_the_dynamic_programme_on_500_instances() {
    let mut random = Random(20261124);
    let mut solved = 0;
    for at in 0..500 {
        let (layers, policies, stages) = instance(&mut random);
        let found = split(layers, &policies, &stages);
        match oracle(layers, &policies, &stages) {
            None => assert!(found.is_none(), "{at}: {found:?} where nothing fits"),
            Some(best) => {
                let found = found.unwrap_or_else(|| panic!("{at}: nothing found, {best} is there"));
                assert!((found.slowest / best - 1.0).abs() < 1e-6, "{at}: {} against {best}", found.slowest);
                assert_eq!(found.counts.iter().flatten().sum::<u64>(), layers);
                solved += 1;
            }
        }
    }
    assert!(solved > 200 && solved < 500, "{solved} of 500 fit: the instances test one side only");
}

#[test]
fn memory_has_a_price_where_it_binds() {
    let policies = [Policy { seconds: 1e-3 }, Policy { seconds: 1.3e-3 }];
    let stage = |room: f64| Stage { seconds: 0.0, room: room * GIB, layer: vec![2.0 * GIB, 0.5 * GIB] };
    // Eight layers on two stages: 16 GiB keep everything, 8 GiB force half of each stage to recompute.
    let loose = gibibyte(8, &policies, &[stage(16.0), stage(16.0)]).unwrap();
    let tight = gibibyte(8, &policies, &[stage(5.0), stage(5.0)]).unwrap();
    assert_eq!(loose, 0.0);
    // One layer switched saves 1.5 GiB and costs 0.3 ms.
    assert!((tight - 0.3e-3 / 1.5).abs() < 1e-9, "{tight}");
    assert!((lacking(8, &[stage(1.0), stage(1.0)]).unwrap() / GIB - 1.0).abs() < 1e-6);
    assert_eq!(lacking(8, &[stage(5.0), stage(5.0)]).unwrap(), 0.0);
}
