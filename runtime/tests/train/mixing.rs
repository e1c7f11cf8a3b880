//! Runs over several sources: what each loses, and mixtures that follow it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use llmc_plan::data::DataSpec;
use llmc_plan::plan::Plan;
use llmc_runtime::metrics::{EvalMetrics, StepMetrics};
use llmc_runtime::report::Summary;
use serde::de::DeserializeOwned;

use llmc_corpus::schedule::read_ledger;
use llmc_plan::data::{DynamicSpec, MixStage};

use crate::resume::{STEPS, files, losses, until_step};
use crate::support::{alone, plan, said};

/// Two sources: one word over and over, and many words in no order.
fn corpus() -> &'static (PathBuf, DataSpec) {
    static CORPUS: OnceLock<(PathBuf, DataSpec)> = OnceLock::new();
    CORPUS.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("llmc-mixing-tests-{}", std::process::id()));
        let words = ["loss", "model", "falls", "gradients", "flow", "through", "steps", "of", "many", "layers"];
        let mut state = 7u64;
        for document in 0..40 {
            for (name, kinds) in [("easy", 1), ("hard", words.len())] {
                std::fs::create_dir_all(folder.join(name)).expect("create");
                let mut content = String::new();
                for _ in 0..80 {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    content += words[(state >> 33) as usize % kinds];
                    content.push(' ');
                }
                let text = format!("{document} {content}");
                std::fs::write(folder.join(name).join(format!("{document}.txt")), text).expect("write");
            }
        }
        let json = r#"{"tokenizer": {"vocab": 300}, "context": 24, "seed": 3, "validation": {"fraction": 0.1},
            "sources": [{"name": "easy", "globs": ["easy/*.txt"]}, {"name": "hard", "globs": ["hard/*.txt"]}]}"#;
        let mut spec: DataSpec = serde_json::from_str(json).expect("specification");
        spec.root = folder.to_string_lossy().into_owned();
        llmc_corpus::build(&spec, &folder.join("built"), &()).expect("build");
        (folder.join("built"), spec)
    })
}

fn run_folder(plan: &Plan, spec: &DataSpec) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    std::fs::write(folder.path().join("plan.json"), plan.to_json().expect("json")).expect("write");
    std::fs::write(folder.path().join("data.json"), serde_json::to_string(spec).expect("json"))
        .expect("write");
    folder
}

fn worker(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmc-worker"));
    command.arg("train").arg("--run").arg(folder).arg("--data").arg(&corpus().0);
    command.args(["--threads", "1"]).args(arguments);
    command
}

fn train(folder: &Path, arguments: &[&str]) -> String {
    let output: Output = worker(folder, arguments).output().expect("start the worker");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    said(&output)
}

/// The lines of a file of a run that are of this kind.
fn lines<T: DeserializeOwned>(folder: &Path, file: &str) -> Vec<T> {
    let text = std::fs::read_to_string(folder.join(file)).expect("read");
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn each_source_has_its_loss() {
    let _alone = alone();
    let (_, spec) = corpus();
    let mut plan = plan();
    plan.budget.steps = 40;
    let folder = run_folder(&plan, spec);
    let said = train(folder.path(), &[]);
    let steps: Vec<StepMetrics> = lines(folder.path(), "metrics.jsonl");
    assert_eq!(steps.len(), 40);
    // A step is a window of the mixture, and without padding or masks every token counts.
    let mut before = BTreeMap::new();
    for step in &steps {
        let tokens = |name: &String| (step.source_tokens[name] - before.get(name).unwrap_or(&0)) as f64;
        let sum: f64 = step.source_loss.iter().map(|(name, loss)| loss * tokens(name)).sum();
        assert!((step.loss.expect("finite") * 96.0 / sum - 1.0).abs() < 1e-6, "{step:?}");
        before = step.source_tokens.clone();
    }
    let last = &steps[39].source_loss;
    assert!(last["easy"] < last["hard"] - 0.2, "{last:?}");
    let evals: Vec<EvalMetrics> = lines(folder.path(), "metrics.jsonl");
    let by_source = &evals.last().expect("validated").source_eval_loss;
    assert!(by_source["easy"] < by_source["hard"], "{by_source:?}");
    let summary: Summary =
        serde_json::from_str(&std::fs::read_to_string(folder.path().join("summary.json")).expect("read"))
            .expect("summary");
    assert_eq!(summary.sources.len(), 2);
    assert!(said.contains("source  ") && said.contains("\nhard  "), "{said}");
}

/// Follows losses every four steps, `easy` never below a quarter.
fn dynamic() -> (Plan, DataSpec) {
    let (mut plan, mut spec) = (plan(), corpus().1.clone());
    plan.budget.steps = STEPS;
    spec.mix.dynamic =
        Some(DynamicSpec { every_steps: 4, rate: 1.0, smoothing: 0.05, references: BTreeMap::new() });
    spec.sources[0].min_share = Some(0.25);
    (plan, spec)
}

/// Tokens by source, step by step.
fn drawn(folder: &Path) -> Vec<BTreeMap<String, u64>> {
    lines::<StepMetrics>(folder, "metrics.jsonl").into_iter().map(|m| m.source_tokens).collect()
}

#[test]
fn a_mixture_follows_losses_and_its_floor_holds() {
    let _alone = alone();
    let (plan, spec) = dynamic();
    let folder = run_folder(&plan, &spec);
    let said = train(folder.path(), &[]);
    assert!(said.contains("step 4  mixture now easy "), "{said}");
    let ledger = read_ledger(&folder.path().join("mix.jsonl")).expect("ledger");
    // Four sequences a step; none after the last step.
    let at: Vec<u64> = ledger.iter().map(|stage| stage.at_sample).collect();
    assert_eq!(at, (1..10).map(|n| n * 16).collect::<Vec<_>>());
    let shares: Vec<f64> = ledger.iter().map(|stage| stage.weights["easy"]).collect();
    assert!(shares[0] < 0.5 && shares[8] == 0.25, "{shares:?}");
    assert!(ledger[0].reason.starts_with("losses up to step 4: easy "), "{}", ledger[0].reason);
    // The last four steps: a quarter of sixteen samples is easy.
    let drawn = drawn(folder.path());
    assert_eq!(drawn[39]["easy"] - drawn[35]["easy"], 4 * 24);
}

/// Half way a stage begins with its own shares, from which the losses are followed on.
#[test]
fn a_followed_mixture_has_stages() {
    let _alone = alone();
    let (plan, mut spec) = dynamic();
    let weights = BTreeMap::from([("easy".to_owned(), 0.75)]);
    spec.mix.stages = vec![MixStage { at_sample: 0, start: Some(0.5), weights, reason: String::new() }];
    let (whole, broken) = (run_folder(&plan, &spec), run_folder(&plan, &spec));
    train(whole.path(), &[]);
    let ledger = read_ledger(&whole.path().join("mix.jsonl")).expect("ledger");
    // Where the stage begins nothing is changed by losses.
    let at: Vec<u64> = ledger.iter().map(|stage| stage.at_sample).collect();
    assert_eq!(at, [1, 2, 3, 4, 6, 7, 8, 9].map(|n| n * 16));
    let shares: Vec<f64> = ledger.iter().map(|stage| stage.weights["easy"]).collect();
    assert!(shares[3] < 0.5 && (0.25..0.75).contains(&shares[4]) && shares[4] > shares[3], "{shares:?}");
    let tokens = drawn(whole.path());
    assert_eq!(tokens[23]["easy"] - tokens[19]["easy"], 12 * 24, "three quarters of 16 samples");

    for target in [3, 18, 22, 30] {
        let mut child =
            worker(broken.path(), &["--resume"]).stderr(Stdio::null()).spawn().expect("start the worker");
        until_step(&mut child, broken.path(), target);
        let _ = child.kill(); // SIGKILL
        child.wait().expect("wait");
    }
    train(broken.path(), &["--resume"]);
    assert_eq!(losses(whole.path()), losses(broken.path()));
    assert!(files(whole.path()) == files(broken.path()), "weights, masters and moments");
    let ledger = |folder: &Path| std::fs::read(folder.join("mix.jsonl")).expect("ledger");
    assert!(ledger(whole.path()) == ledger(broken.path()));
}

#[test]
fn a_followed_mixture_survives_kills_and_is_replayed() {
    let _alone = alone();
    let (plan, spec) = dynamic();
    let (whole, broken) = (run_folder(&plan, &spec), run_folder(&plan, &spec));
    train(whole.path(), &[]);
    let mut kills = 0;
    for target in [3, 5, 9, 17, 21, 33] {
        let mut child =
            worker(broken.path(), &["--resume"]).stderr(Stdio::null()).spawn().expect("start the worker");
        until_step(&mut child, broken.path(), target);
        kills += u64::from(child.try_wait().expect("wait").is_none());
        let _ = child.kill(); // SIGKILL
        child.wait().expect("wait");
    }
    assert!(kills >= 3, "only {kills} of 6 workers were still running when killed");
    train(broken.path(), &["--resume"]);
    assert_eq!(losses(whole.path()), losses(broken.path()));
    assert!(files(whole.path()) == files(broken.path()), "weights, masters and moments");
    let ledger = |folder: &Path| std::fs::read(folder.join("mix.jsonl")).expect("ledger");
    assert!(ledger(whole.path()) == ledger(broken.path()));

    // A run that begins with a ledger follows it, whatever it measures itself; without `--resume` it begins anew.
    let replayed = run_folder(&plan, &spec);
    let mut stages = read_ledger(&whole.path().join("mix.jsonl")).expect("ledger");
    let text = |stages: &[MixStage]| {
        stages.iter().map(|s| serde_json::to_string(s).expect("json") + "\n").collect::<String>()
    };
    std::fs::write(replayed.path().join("mix.jsonl"), text(&stages)).expect("write");
    train(replayed.path(), &["--resume"]);
    assert_eq!(losses(whole.path()), losses(replayed.path()));
    for stage in &mut stages {
        stage.weights = BTreeMap::from([("easy".into(), 0.75), ("hard".into(), 0.25)]);
    }
    let other = run_folder(&plan, &spec);
    std::fs::write(other.path().join("mix.jsonl"), text(&stages)).expect("write");
    train(other.path(), &["--resume"]);
    let tokens = drawn(other.path());
    assert_eq!(tokens[39]["easy"] - tokens[3]["easy"], 36 * 3 * 24);
    assert_eq!(ledger(other.path()), text(&stages).into_bytes());
    let anew = run_folder(&plan, &spec);
    std::fs::write(anew.path().join("mix.jsonl"), text(&stages)).expect("write");
    train(anew.path(), &[]);
    assert_eq!(losses(whole.path()), losses(anew.path()));
}
