//! Mixtures that can be had, and what stands in the way of those that cannot.

use std::collections::BTreeMap;

use llmc_planner::data_mix::{Ask, Constraint, Kind, Source, Stage, solve};
use proptest::prelude::*;

fn source(name: &str) -> Source {
    Source { name: name.into(), ..Source::default() }
}

fn read(name: &str, tokens: f64, epochs: f64) -> Source {
    Source { tokens: Some(tokens), epochs: Some(epochs), ..source(name) }
}

#[test]
fn the_longest_run_is_what_the_scarcest_quota_allows() {
    // code must be 10 % and has 5B tokens read at most 4 times: 20B are a tenth of 200B.
    let code = Source { least: Some(0.1), ..read("code", 5e9, 4.0) };
    let ask = Ask { sources: vec![source("web"), code], tokens: Some(150e9), ..Ask::default() };
    let limit = solve(&ask).unwrap().limit.unwrap();
    assert!((limit.tokens / 200e9 - 1.0).abs() < 1e-6, "{limit:?}");
    // One more token of code is read 4 times and lets the run grow by 40.
    assert!((limit.worth[&1] - 40.0).abs() < 1e-3, "{limit:?}");
    // A quota of 9.9 % would leave 20B ÷ 0.099: 2.02B tokens for a tenth of a percent point.
    let (constraint, gain, raised) = limit.shares[0];
    assert_eq!((constraint.kind, constraint.source, raised, limit.shares.len()), (Kind::Least, 1, false, 1));
    assert!((gain / (10.0 * (20e9 / 0.099 - 200e9)) - 1.0).abs() < 1e-4, "{limit:?}");
}

#[test]
fn a_conflict_names_the_two_that_clash_and_the_nearest_shares() {
    let code = Source { least: Some(0.1), ..read("code", 5e9, 4.0) };
    let zh = Source { most: Some(0.9), ..source("zh") };
    let ask = Ask { sources: vec![source("web"), code, zh], tokens: Some(400e9), ..Ask::default() };
    let conflict = solve(&ask).unwrap_err();
    let constraint = |kind| Constraint { kind, source: 1, stage: 0 };
    assert_eq!(conflict.binding, [constraint(Kind::Least), constraint(Kind::Epochs)]);
    assert!((conflict.nearest[0][1] - 0.05).abs() < 1e-6, "{conflict:?}");
    assert_eq!(conflict.moved.len(), 1);
    assert!((conflict.limit.unwrap().tokens / 200e9 - 1.0).abs() < 1e-6);
}

#[test]
fn stages_replace_shares_and_clash_by_themselves() {
    let a = Source { least: Some(0.7), ..source("a") };
    let stage = |share| Stage { start: 0.8, fixed: BTreeMap::from([(1, share)]) };
    let ask = |share| Ask { sources: vec![a.clone(), source("b")], stages: vec![stage(share)], tokens: None };
    assert!(solve(&ask(0.3)).is_ok());
    let conflict = solve(&ask(0.4)).unwrap_err();
    assert!(conflict.binding.iter().all(|c| c.stage == 1) && conflict.binding.len() == 2, "{conflict:?}");
    assert!(conflict.limit.is_none());
}

#[test]
fn epochs_count_over_all_stages() {
    // 1B of zh, once: none at first, 40 % of the last fifth of 10B are 0.8B; of 20B they are 1.6B.
    let zh = Source { fixed: Some(0.0), ..read("zh", 1e9, 1.0) };
    let stage = Stage { start: 0.8, fixed: BTreeMap::from([(1, 0.4)]) };
    let ask = |tokens| Ask {
        sources: vec![source("en"), zh.clone()],
        stages: vec![stage.clone()],
        tokens: Some(tokens),
    };
    assert!(solve(&ask(10e9)).is_ok());
    let conflict = solve(&ask(20e9)).unwrap_err();
    assert!((conflict.limit.unwrap().tokens / 12.5e9 - 1.0).abs() < 1e-6);
    assert!((conflict.nearest[1][1] - 0.25).abs() < 1e-6);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// One stage without epochs can be had exactly when the bounds enclose 1; what comes out then keeps them.
    #[test]
    fn agrees_with_the_closed_form(bounds in prop::collection::vec((0.0..0.6f64, 0.0..0.6f64), 1..7)) {
        let sources: Vec<Source> = (bounds.iter())
            .map(|(a, b)| Source { least: Some(a.min(*b)), most: Some(a.max(*b)), ..source("s") })
            .collect();
        let sum = |f: fn(&Source) -> Option<f64>| sources.iter().filter_map(f).sum::<f64>();
        let (least, most) = (sum(|s| s.least), sum(|s| s.most));
        prop_assume!((least - 1.0).abs() > 1e-6 && (most - 1.0).abs() > 1e-6);
        match solve(&Ask { sources: sources.clone(), ..Ask::default() }) {
            Ok(mix) => {
                prop_assert!(least < 1.0 && most > 1.0);
                prop_assert!((mix.shares[0].iter().sum::<f64>() - 1.0).abs() < 1e-6);
            }
            Err(conflict) => {
                prop_assert!(least > 1.0 || most < 1.0);
                let kind = if least > 1.0 { Kind::Least } else { Kind::Most };
                prop_assert!(conflict.binding.iter().all(|c| c.kind == kind));
                // The nearest shares break the bounds by no more than the gap.
                let broken: f64 = (conflict.moved.iter())
                    .map(|(c, now)| (now - if kind == Kind::Least { sources[c.source].least } else { sources[c.source].most }.unwrap()).abs())
                    .sum();
                prop_assert!((broken - (least - 1.0).max(1.0 - most)).abs() < 1e-5);
            }
        }
    }
}
