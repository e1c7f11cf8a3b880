//! Runs over several sources: what each loses, and mixtures that follow it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use llmc_plan::data::DataSpec;
use llmc_plan::plan::Plan;
use llmc_runtime::metrics::{EvalMetrics, StepMetrics};
use llmc_runtime::report::Summary;
use serde::de::DeserializeOwned;

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
