//! The share of each source, from the specification and the token counts. The order that follows is
//! in [`crate::stratified`].

use crate::error::{Error, Result};
use llmc_plan::data::{DataSpec, SourceSpec};
use llmc_plan::lang::Said;
use llmc_plan::say;

/// Sums of shares may miss 1 by this much: what decimal fractions lose as f64.
const EXACT: f64 = 1e-9;

/// The share of each source, summing to 1. `tokens` are the sources' training tokens.
///
/// # Errors
/// Fixed weights above 1 in sum, or bounds that no shares satisfy, each with names and figures.
pub fn shares(spec: &DataSpec, tokens: &[u64]) -> Result<Vec<f64>> {
    let sources = &spec.sources;
    let fixed: f64 = sources.iter().filter_map(|s| s.weight).sum();
    let by_size =
        |s: &SourceSpec, t: u64| s.importance.unwrap_or(1.0) * libm::pow(t as f64, spec.mix.temperature);
    let free: f64 =
        sources.iter().zip(tokens).filter(|(s, _)| s.weight.is_none()).map(|(s, &t)| by_size(s, t)).sum();
    let mut wanted = Vec::new();
    if free == 0.0 {
        wanted.extend(sources.iter().map(|s| s.weight.unwrap_or(0.0) / fixed));
    } else {
        if fixed >= 1.0 {
            let names: Vec<_> =
                sources.iter().filter(|s| s.weight.is_none()).map(|s| s.name.as_str()).collect();
            return Err(Error::spec(say!(
                "the fixed weights sum to {fixed}, which leaves nothing for {names}: lower them below 1, or give every \
                 source a weight",
                "固定权重之和为 {fixed}，{names} 无所剩余：请降到 1 以下，或给每个来源一个权重",
                names = names.join(", ")
            )));
        }
        wanted.extend(
            sources
                .iter()
                .zip(tokens)
                .map(|(s, &t)| s.weight.unwrap_or((1.0 - fixed) * by_size(s, t) / free)),
        );
    }
    let bounds: Vec<(f64, f64)> =
        sources.iter().map(|s| (s.min_share.unwrap_or(0.0), s.max_share.unwrap_or(1.0))).collect();
    let (least, most) = bounds.iter().fold((0.0, 0.0), |(l, m), b| (l + b.0, m + b.1));
    if least > 1.0 + EXACT || most < 1.0 - EXACT {
        let list: Vec<_> = sources
            .iter()
            .zip(&bounds)
            .map(|(s, b)| {
                say!("{name} {low} to {high}", "{name} {low} 到 {high}", name = s.name, low = b.0, high = b.1)
            })
            .collect();
        // All lower ends lowered, or upper ends raised, by one factor.
        let nearest = |&(low, high): &(f64, f64)| if least > 1.0 { low / least } else { high / most };
        let nearest: Vec<_> =
            sources.iter().zip(&bounds).map(|(s, b)| format!("{} {:.4}", s.name, nearest(b))).collect();
        return Err(Error::spec(say!(
            "no shares meet the bounds, whose lower ends sum to {least} and upper ends to {most}: {list}; change them \
             so that 1 lies between, for instance to {nearest}",
            "没有满足界限的占比，下界之和为 {least}，上界之和为 {most}：{list}；请修改使 1 位于其间，例如 {nearest}",
            list = Said::join(&list, ", ", "，"),
            nearest = nearest.join(", ")
        )));
    }
    Ok(clamp(&wanted, &bounds))
}

/// `min(max(t·wanted, low), high)` with the factor t for which the sum is 1: what lies inside its
/// bounds keeps its proportions.
pub(crate) fn clamp(wanted: &[f64], bounds: &[(f64, f64)]) -> Vec<f64> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn importance_multiplies_what_sizes_give() {
        let sources = r#"{"name": "a", "globs": ["a"], "importance": 3.0}, {"name": "b", "globs": ["b"]}"#;
        assert!(near(&shares(&spec(sources, 1.0), &[100, 300]).unwrap(), &[0.5, 0.5]));
        assert!(near(&shares(&spec(sources, 0.0), &[100, 300]).unwrap(), &[0.75, 0.25]));
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
}
