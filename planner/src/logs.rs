//! A run of our own as a row to fit on: `runs/NAME/plan.json` says what ran, `metrics.jsonl` how long each step took and
//! `summary.json`, written at the end, how much memory it needed.

use llmc_plan::plan::{Plan, StageLayers};
use serde::Deserialize;

use crate::hardware::{self, Hardware};
use crate::over_time::point;
use crate::question::{Cluster, Question};
use crate::solve::own_base;
use crate::table::{Case, Peak};

/// Stack name of our own runtime; a fitted profile of it serves plans.
pub const OWN: &str = "llmc";

/// Steps left out at the start: algorithm search, first touches, clocks that settle.
const WARM_UP: usize = 3;

/// Fewer timed steps say nothing about a median.
const LEAST: usize = 5;

/// A line of `metrics.jsonl`, as far as it is read here; evaluations have no `tokens`.
#[derive(Deserialize)]
struct Line {
    tokens: Option<u64>,
    seconds: f64,
    #[serde(default)]
    skipped: bool,
}

#[derive(Deserialize)]
struct Summary {
    peak_memory_bytes: Compared,
}

/// What `llmc-worker bench` prints, as far as it is read here.
#[derive(Deserialize)]
struct Bench {
    step_seconds: Compared,
    peak_bytes: Compared,
}

#[derive(Deserialize)]
struct Compared {
    measured: f64,
}

/// The case of run `name`; `summary` is absent while a run lives or when it was killed.
///
/// # Errors
/// Which file is wrong, in which line, and what was expected.
pub fn case(
    name: &str,
    plan: &str,
    metrics: &str,
    summary: Option<&str>,
    devices: &[Hardware],
) -> Result<Case, String> {
    let plan = Plan::from_json(plan).map_err(|e| format!("plan.json: {e}"))?;
    let mut seconds = Vec::new();
    for (at, text) in metrics.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let line: Line =
            serde_json::from_str(text).map_err(|e| format!("metrics.jsonl, line {}: {e}", at + 1))?;
        if !(line.seconds > 0.0 && line.seconds.is_finite()) {
            return Err(format!(
                "metrics.jsonl, line {}: seconds: expected more than 0, found {}",
                at + 1,
                line.seconds
            ));
        }
        if line.tokens.is_some() && !line.skipped {
            seconds.push(line.seconds);
        }
    }
    let mut steady: Vec<f64> = seconds.into_iter().skip(WARM_UP).collect();
    if steady.len() < LEAST {
        let found = steady.len();
        return Err(format!(
            "metrics.jsonl: {found} steps after the first {WARM_UP}, expected at least {LEAST}"
        ));
    }
    steady.sort_by(f64::total_cmp);
    let seconds = steady.get(steady.len() / 2).copied().unwrap_or_default();
    let peak_bytes = match summary {
        Some(text) => {
            let read: Summary = serde_json::from_str(text).map_err(|e| format!("summary.json: {e}"))?;
            Some(read.peak_memory_bytes.measured).filter(|bytes| *bytes > 0.0)
        }
        None => None,
    };
    row(name, "llmc run", &plan, devices, seconds, peak_bytes)
}

/// The case of a `llmc-worker bench` report of `plan`.
///
/// # Errors
/// Which file is wrong, and what was expected.
pub fn bench_case(name: &str, plan: &str, report: &str, devices: &[Hardware]) -> Result<Case, String> {
    let plan = Plan::from_json(plan).map_err(|e| format!("plan: {e}"))?;
    let report: Bench = serde_json::from_str(report).map_err(|e| format!("report: {e}"))?;
    let seconds = report.step_seconds.measured;
    if !(seconds > 0.0 && seconds.is_finite()) {
        return Err(format!("report: step_seconds.measured: expected more than 0, found {seconds}"));
    }
    let peak = Some(report.peak_bytes.measured).filter(|bytes| *bytes > 0.0);
    row(name, "llmc calibrate", &plan, devices, seconds, peak)
}

fn row(
    name: &str,
    source: &str,
    plan: &Plan,
    devices: &[Hardware],
    seconds: f64,
    peak_bytes: Option<f64>,
) -> Result<Case, String> {
    let card = &plan.hardware.name;
    let given = devices.iter().find(|device| device.name == *card).cloned();
    let hardware = given
        .or_else(|| hardware::preset(card))
        .ok_or_else(|| format!("plan.json: hardware {card} is no preset: give its file with --hardware"))?;
    let l = &plan.layout;
    let cluster = Cluster { nodes: l.nodes.max(1), gpus_per_node: (l.gpus / l.nodes.max(1)).max(1) };
    let q = Question {
        hardware,
        cluster: Some(cluster),
        optimizer: plan.optimizer.clone(),
        precision: plan.precision,
        determinism: Some(plan.determinism),
        ..Question::of(plan.model.clone())
    };
    let mut setting = own_base(&q, cluster, plan.batch.global_sequences)
        .ok_or_else(|| format!("plan.json: hardware {card} has no profile"))?;
    setting.split = l.stages.iter().map(|stage| stage.layers).collect();
    let of = |n: fn(&StageLayers) -> u64| {
        l.stages.iter().map(n).sum::<u64>() as f64 / plan.model.layers.max(1) as f64
    };
    setting.mixed = (!l.stages.is_empty()).then(|| (of(|stage| stage.selective), of(|stage| stage.full)));
    Ok(Case {
        id: name.into(),
        source: source.into(),
        remark: String::new(),
        stack: OWN,
        setting,
        point: point(plan),
        by_time: false,
        seconds: Some(seconds),
        peak_bytes,
        memory_only: false,
        peak: Peak::Allocated,
        late_moments: None,
        slack: None,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use llmc_plan::model::{Model, Rope, RopeMethod};

    use super::*;

    /// A small model.
    pub(crate) fn model() -> Model {
        let model = Model {
            family: "llama".into(),
            params: 0,
            params_non_embedding: 0,
            layers: 4,
            hidden: 512,
            heads: 8,
            kv_heads: 8,
            head_dim: 64,
            ffn: 1536,
            vocab: 4096,
            vocab_padded: 4096,
            context: 1024,
            rope: Rope { method: RopeMethod::None, factor: 1.0, original_context: 1024, theta: 1e4 },
            tied: false,
            norm_eps: 1e-5,
            dropout: 0.0,
            init_std: 0.02,
        };
        Model {
            params: model.count_params(),
            params_non_embedding: model.count_params_non_embedding(),
            ..model
        }
    }

    fn plan() -> String {
        let question = Question {
            cluster: Some(Cluster { nodes: 1, gpus_per_node: 8 }),
            budget: vec![crate::question::Budget::Tokens(1_000_000_000)],
            ..Question::of(model())
        };
        crate::solve(&question).unwrap().plan.to_json().unwrap()
    }

    fn metrics(seconds: f64) -> String {
        let line = |n: u32| format!("{{\"step\":{n},\"tokens\":{n},\"seconds\":{seconds}}}\n");
        let evaluation = "{\"step\":4,\"eval_loss\":3.0,\"seconds\":99.0}\n".to_string();
        (1..=9).map(line).chain([evaluation]).collect()
    }

    #[test]
    fn a_run_becomes_its_row() {
        let summary = "{\"peak_memory_bytes\":{\"measured\":1e9}}";
        let case = case("first", &plan(), &metrics(0.5), Some(summary), &[]).unwrap();
        assert_eq!((case.seconds, case.peak_bytes, case.stack), (Some(0.5), Some(1e9), OWN));
        assert_eq!(case.setting.gpus(), 8);
    }

    #[test]
    fn layers_of_a_mixed_plan_recompute_as_they_did() {
        let seconds = |full: u64| {
            let mut plan = Plan::from_json(&plan()).unwrap();
            let layers = plan.model.layers;
            plan.layout.stages = vec![StageLayers { layers, selective: 0, full, offload: 0 }];
            let case = case("x", &plan.to_json().unwrap(), &metrics(0.5), None, &[]).unwrap();
            crate::search::evaluate(&case.setting, &case.point).compute.layer.recompute
        };
        assert_eq!(seconds(0), 0.0);
        assert!(seconds(2) > 0.0 && (seconds(4) / seconds(2) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_bench_report_becomes_its_row() {
        let report = |seconds: f64| {
            format!(
                "{{\"step_seconds\":{{\"measured\":{seconds}}},\"peak_bytes\":{{\"measured\":2e9}},\"steps\":[1]}}"
            )
        };
        let case = bench_case("first", &plan(), &report(0.25), &[]).unwrap();
        assert_eq!((case.seconds, case.peak_bytes, case.stack), (Some(0.25), Some(2e9), OWN));
        assert!(bench_case("x", &plan(), &report(-1.0), &[]).unwrap_err().contains("more than 0, found -1"));
        assert!(bench_case("x", &plan(), "{}", &[]).unwrap_err().contains("step_seconds"));
    }

    #[test]
    fn a_device_of_ones_own_needs_its_file() {
        let mut plan = Plan::from_json(&plan()).unwrap();
        let mine = Hardware { name: "Mine".into(), ..hardware::preset(&plan.hardware.name).unwrap() };
        plan.hardware.name = mine.name.clone();
        let plan = plan.to_json().unwrap();
        let refused = case("x", &plan, &metrics(0.5), None, &[]).unwrap_err();
        assert!(refused.contains("hardware Mine is no preset: give its file with --hardware"), "{refused}");
        let found = case("x", &plan, &metrics(0.5), None, &[mine]).unwrap();
        assert_eq!(found.setting.hardware.name, "Mine");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let error = |plan: &str, metrics: &str| case("x", plan, metrics, None, &[]).unwrap_err();
        let plan = plan();
        assert!(error(&plan, &metrics(-1.0)).contains("line 1: seconds: expected more than 0, found -1"));
        assert!(error(&plan, &(metrics(1.0) + "{broken")).contains("line 11"));
        assert!(error(&plan, "").contains("expected at least 5"));
        assert!(error("{}", &metrics(1.0)).contains("plan.json"));
        assert!(error(&plan.replace("\"H100\"", "\"H1000\""), &metrics(1.0)).contains("H1000"));
    }
}
