//! The programme of uneven stages against a dynamic programme over (stage, layers) with every mix of policies.
#![allow(clippy::unwrap_used)] // random instances are built here

use llmc_planner::milp::{Policy, Programme, Stage};

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

fn instance(random: &mut Random) -> Programme {
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
    let micro_batches = random.among(1, 12) as f64;
    let filled = if random.among(0, 1) == 0 { 0.0 } else { 1e-3 * random.share() * layers as f64 };
    Programme { layers, policies, stages, micro_batches, filled }
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

/// Best objective. The slowest stage is one of finitely many; under each, the least sum of stages, by dynamic
/// programming over (stage, layers so far).
fn oracle(p: &Programme) -> Option<f64> {
    let layers = p.layers as usize;
    let table: Vec<Vec<Option<f64>>> = (p.stages.iter())
        .map(|stage| (0..=layers).map(|n| stage_seconds(n as u64, &p.policies, stage)).collect())
        .collect();
    // A stage within a limit may take less time than its fastest mix only by holding less: times are those of mixes.
    let mut limits: Vec<f64> = table.iter().flat_map(|row| row.iter().skip(1).flatten()).copied().collect();
    limits.sort_by(f64::total_cmp);
    let mut best: Option<f64> = None;
    for limit in limits {
        let mut sums: Vec<Option<f64>> = vec![None; layers + 1];
        sums[0] = Some(0.0);
        for row in &table {
            let mut next = vec![None; layers + 1];
            for (before, sum) in sums.iter().enumerate() {
                let Some(sum) = sum else { continue };
                for held in 1..=layers - before {
                    let Some(seconds) = row[held].filter(|s| *s <= limit) else { continue };
                    let place: &mut Option<f64> = &mut next[before + held];
                    if place.is_none_or(|old| sum + seconds < old) {
                        *place = Some(sum + seconds);
                    }
                }
            }
            sums = next;
        }
        if let Some(sum) = sums[layers] {
            let value = p.micro_batches * limit + (sum - limit - p.filled).max(0.0);
            best = Some(best.map_or(value, |b| b.min(value)));
        }
    }
    best
}

/// A programme with its objectives as a line of JSON, for HiGHS.
fn line(at: usize, p: &Programme, milp: Option<f64>, dynamic: Option<f64>) -> String {
    let stages: Vec<serde_json::Value> = (p.stages.iter())
        .map(|s| serde_json::json!({"seconds": s.seconds, "room": s.room, "layer": s.layer}))
        .collect();
    serde_json::json!({
        "instance": at, "layers": p.layers, "policies": p.policies.iter().map(|p| p.seconds).collect::<Vec<_>>(),
        "stages": stages, "micro_batches": p.micro_batches, "filled": p.filled, "milp": milp, "dynamic": dynamic,
    })
    .to_string()
}

#[test]
fn equals_the_dynamic_programme_on_500_instances() {
    let mut random = Random(20261124);
    let mut solved = 0;
    // Figures of HiGHS, regenerated by `make test-peers`.
    let highs: Vec<Option<f64>> = (include_str!("highs.csv").lines().skip(1))
        .map(|line| line.split_once(',').unwrap().1.parse().ok())
        .collect();
    assert_eq!(highs.len(), 500);
    let mut lines = String::new();
    for (at, highs) in highs.iter().enumerate() {
        let programme = instance(&mut random);
        let found = programme.split();
        let dynamic = oracle(&programme);
        lines += &(line(at, &programme, found.as_ref().map(|f| f.seconds), dynamic) + "\n");
        if std::env::var_os("LLMC_INSTANCES").is_none() {
            assert_eq!(found.is_some(), highs.is_some(), "{at}: HiGHS says otherwise");
            if let Some((ours, theirs)) = found.as_ref().zip(*highs) {
                assert!(
                    (ours.seconds / theirs - 1.0).abs() < 1e-6,
                    "{at}: {} against {theirs}",
                    ours.seconds
                );
            }
        }
        match dynamic {
            None => assert!(found.is_none() && !programme.fits(), "{at}: {found:?} where nothing fits"),
            Some(best) => {
                let found = found.unwrap_or_else(|| panic!("{at}: nothing found, {best} is there"));
                assert!((found.seconds / best - 1.0).abs() < 1e-6, "{at}: {} against {best}", found.seconds);
                assert_eq!(found.counts.iter().flatten().sum::<u64>(), programme.layers);
                assert!(programme.bound() <= found.seconds * (1.0 + 1e-9), "{at}: the bound is none");
                solved += 1;
            }
        }
    }
    if let Some(path) = std::env::var_os("LLMC_INSTANCES") {
        std::fs::write(path, lines).unwrap();
    }
    assert!(solved > 200 && solved < 500, "{solved} of 500 fit: the instances test one side only");
}

#[test]
fn memory_has_a_price_where_it_binds() {
    let policies = [Policy { seconds: 1e-3 }, Policy { seconds: 1.3e-3 }];
    let stage = |room: f64| Stage { seconds: 0.0, room: room * GIB, layer: vec![2.0 * GIB, 0.5 * GIB] };
    // Eight layers on two stages: 16 GiB keep everything, 8 GiB force half of each stage to recompute.
    let of = |room: f64| Programme {
        layers: 8,
        policies: policies.to_vec(),
        stages: vec![stage(room), stage(room)],
        micro_batches: 1.0,
        filled: 1.0,
    };
    assert_eq!(of(16.0).gibibyte().unwrap(), 0.0);
    // One layer switched saves 1.5 GiB and costs 0.3 ms.
    let tight = of(5.0).gibibyte().unwrap();
    assert!((tight - 0.3e-3 / 1.5).abs() < 1e-9, "{tight}");
}

/// The largest programme that a search asks: 126 layers on 16 stages, whose memory forces some to recompute.
#[test]
fn a_whole_405b_is_split_at_once() {
    let stage = |i: u64| Stage {
        seconds: match i {
            0 => 1e-4,
            15 => 4e-3,
            _ => 0.0,
        },
        room: 40.0 * GIB,
        layer: [3.1, 2.0, 0.4].iter().map(|b| (0.9 + b * (16 - i) as f64 * 0.5) * GIB).collect(),
    };
    let programme = Programme {
        layers: 126,
        policies: [6.0e-3, 6.3e-3, 7.9e-3].map(|seconds| Policy { seconds }).to_vec(),
        stages: (0..16).map(stage).collect(),
        micro_batches: 32.0,
        filled: 0.0,
    };
    let start = std::time::Instant::now();
    let found = programme.split().unwrap();
    assert_eq!(found.counts.iter().flatten().sum::<u64>(), 126);
    println!("{found:?} after {:?}, bound {}", start.elapsed(), programme.bound());
}

/// Stages whose memory differs much leave the relaxation far from whole layers: the start must be the best already, for a
/// proof by branching takes minutes here.
#[test]
fn sixteen_tight_and_unlike_stages_are_split_at_once() {
    let stage = |i: u64| Stage {
        seconds: if i == 15 { 9e-3 } else { 0.0 },
        room: if i == 0 || i == 15 { 19.0 } else { 34.0 } * GIB,
        layer: [3.3, 2.1, 0.5].iter().map(|b| (1.1 + b * (16 - i) as f64 * 0.27) * GIB).collect(),
    };
    let programme = Programme {
        layers: 90,
        policies: [6.0e-3, 6.4e-3, 8.1e-3].map(|seconds| Policy { seconds }).to_vec(),
        stages: (0..16).map(stage).collect(),
        micro_batches: 16.0,
        filled: 8e-3,
    };
    let start = std::time::Instant::now();
    let found = programme.split().unwrap();
    assert_eq!(found.counts.iter().flatten().sum::<u64>(), 90);
    assert!(found.seconds >= programme.bound() && start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}
