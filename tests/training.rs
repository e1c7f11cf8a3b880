//! The real programs end to end: `llmc run` on a recipe, on this machine's CPU. Built by `make worker`, found by
//! LLMC_WORKER and LLMC_DATA. The worker's own tests (gradients, SIGKILL, traces, edited programs) are in
//! `runtime/tests/`.
#![cfg(feature = "worker")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

fn llmc(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmc"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command
}

fn well(folder: &Path, arguments: &[&str]) -> Output {
    let output = llmc(folder, arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    output
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Loss and validation loss of every line, as written.
fn losses(run: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.map(|line| format!("{} {} {}", line["step"], line["loss"], line["eval_loss"])).collect()
}

/// The language of `llmc` is that of the programs it starts; files of a run and exit codes have none.
#[test]
fn a_whole_run_speaks_chinese() {
    let folder = small();
    let run = |arguments: &[&str]| llmc(folder.path(), arguments).output().unwrap();
    let output = run(&["--lang", "zh", "run", "small.llm", "--set", "budget=3k tokens"]);
    let told = said(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    for part in ["警告：文本只给出 ", "runs/small/data：训练 ", "步  损失 ", "峰值显存 ", "；验证损失 "]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    let english = ["warning", "tokens", "step", "loss", "memory", "predicted"];
    assert!(english.iter().all(|word| !told.contains(word)), "{told}");
    for file in ["metrics.jsonl", "summary.json", "data/manifest.json"] {
        let text = std::fs::read_to_string(folder.path().join("runs/small").join(file)).unwrap();
        assert!(text.is_ascii(), "{file}: {text}");
    }
    let output = run(&["eval", "--lang", "zh", "none"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).starts_with("llmc-worker: 无法读取 none/state.json："), "{}", said(&output));
    let output = run(&["data", "stats", "none", "--lang", "zh"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("none 中没有已构建的语料"), "{}", said(&output));
}

/// The quickstart learns, as much as it promises, in the memory that was predicted; and again the same.
#[test]
fn quickstart_learns_and_repeats() {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/quickstart.llm");
    let folder = tempfile::tempdir().unwrap();
    let output = well(folder.path(), &["run", &recipe.to_string_lossy()]);
    let run = folder.path().join("runs/quickstart");
    let summary = json(&run.join("summary.json"));
    let (loss, entropy) =
        (summary["eval_loss"].as_f64().unwrap(), summary["unigram_entropy"].as_f64().unwrap());
    eprintln!("{}", said(&output).lines().rev().take(6).collect::<Vec<_>>().join("\n"));
    assert!(loss <= entropy - 1.0, "validation loss {loss}, unigram entropy {entropy}");
    let peak = summary["peak_memory_bytes"]["error"].as_f64().unwrap();
    assert!(peak.abs() <= 0.02, "measured peak memory is {peak:+} off the plan's");

    // Its beginning a second time, by the worker that `llmc run` starts.
    let again = folder.path().join("again");
    std::fs::create_dir(&again).unwrap();
    for file in ["plan.json", "data.json"] {
        std::fs::copy(run.join(file), again.join(file)).unwrap();
    }
    let worker = std::env::var("LLMC_WORKER").expect("LLMC_WORKER names the worker: run `make test`");
    let status = Command::new(worker)
        .args(["train", "--steps", "12", "--run"])
        .arg(&again)
        .arg("--data")
        .arg(run.join("data"))
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(losses(&again)[..12], losses(&run)[..12], "the same losses, digit by digit");
}

/// A recipe that trains in seconds, and its text.
fn small() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::create_dir(&text).unwrap();
    let words =
        ["recipes", "become", "plans", "and", "plans", "become", "models", "when", "the", "loss", "falls"];
    for document in 0..40usize {
        let content: Vec<&str> =
            (0..200).map(|i| words[(i * i + document * 7 + i / 3) % words.len()]).collect();
        std::fs::write(text.join(format!("{document}.txt")), content.join(" ")).unwrap();
    }
    let recipe = "edition 2026\nseed 1\nmodel llama < layers 2  hidden 64  vocab 512  ctx 64 >\nbudget 60k tokens\n\
                  on 1xCPU\ntokenizer bpe\ndata < text \"text/*.txt\" >\nbatch 512 tokens\nlr 1e-3 cosine(final=10%)\n\
                  precision f32\ncheckpoint < every 10 steps  keep 2 >\neval < every 50 steps  holdout 10% >\n";
    std::fs::write(folder.path().join("small.llm"), recipe).unwrap();
    folder
}

fn until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() && begun.elapsed() < Duration::from_secs(180) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A command that got Ctrl-C as soon as `begun` held in its folder. One that was done before, on a machine that gave this
/// test no time, is begun anew.
fn interrupted(folder: fn() -> TempDir, arguments: &[&str], begun: fn(&Path) -> bool) -> (TempDir, Output) {
    for _ in 0..10 {
        let folder = folder();
        let child = llmc(folder.path(), arguments).stderr(Stdio::piped()).spawn().unwrap();
        until(|| begun(folder.path()));
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.code() != Some(0) {
            assert_eq!(output.status.code(), Some(130), "{}", said(&output));
            return (folder, output);
        }
    }
    panic!("{arguments:?} was always done before it could be interrupted");
}

/// Ctrl-C reaches the worker, which saves; `--resume` ends where the uninterrupted run ends.
#[test]
fn a_stopped_run_goes_on() {
    let whole = small();
    well(whole.path(), &["run", "small.llm"]);
    let run = |folder: &TempDir| -> PathBuf { folder.path().join("runs/small") };
    let begun = |folder: &Path| losses(&folder.join("runs/small")).len() > 15;
    let (stopped, _) = interrupted(small, &["run", "small.llm"], begun);
    let refused = llmc(stopped.path(), &["run", "small.llm"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("--resume"), "{}", said(&refused));
    well(stopped.path(), &["run", "small.llm", "--resume"]);
    assert_eq!(losses(&run(&whole)), losses(&run(&stopped)));

    let checkpoints = run(&whole).join("checkpoints");
    let latest = std::fs::read_to_string(checkpoints.join("latest")).unwrap();
    let checkpoint = checkpoints.join(latest.trim());
    let output = well(whole.path(), &["eval", &checkpoint.to_string_lossy()]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (loss, summary) = (report["loss"].as_f64().unwrap(), json(&run(&whole).join("summary.json")));
    assert!((loss / summary["eval_loss"].as_f64().unwrap() - 1.0).abs() < 1e-5, "{report}");
}

/// Shards that a run has built, as the source of others: read where they lie they give what their copy gives.
#[test]
fn shards_in_place_train_as_their_copy() {
    let folder = small();
    well(folder.path(), &["run", "small.llm"]);
    let recipe = |folder: &Path, name: &str, options: &str| {
        let text = std::fs::read_to_string(folder.join("small.llm")).unwrap();
        let shards = format!("text \"runs/small/data/text.train.bin\" {options}");
        let text = text
            .replace("text \"text/*.txt\"", &shards)
            .replace("tokenizer bpe", "tokenizer bpe < import \"runs/small/data/tokenizer.json\" >");
        let manifest = json(&folder.join("runs/small/data/manifest.json"));
        let vocab = format!("vocab {}", manifest["tokenizer"]["vocab"]);
        let text = text.replace("vocab 512", &vocab).replace("60k tokens", "10k tokens");
        let text = text.replace("holdout 10%", "ppl \"runs/small/data/text.validation.bin\"");
        std::fs::write(folder.join(format!("{name}.llm")), text).unwrap();
        well(folder, &["run", &format!("{name}.llm")]);
        losses(&folder.join("runs").join(name))
    };
    let copied = recipe(folder.path(), "copied", "");
    let in_place = recipe(folder.path(), "in_place", "< in_place yes >");
    assert_eq!(in_place, copied);
    let shard = folder.path().join("runs/in_place/data/text.train.bin");
    let target = std::fs::read_link(shard).unwrap();
    assert!(target.ends_with("runs/small/data/text.train.bin"), "{target:?}");
}

/// Tiny plans are timed on this processor and a profile is fitted on them; a stopped set goes on where it was.
#[test]
fn calibration_times_and_fits_this_machine() {
    fn reports(folder: &Path) -> usize {
        let entries = std::fs::read_dir(folder.join("calibration")).into_iter().flatten().flatten();
        entries.filter(|e| e.file_name().to_string_lossy().ends_with(".bench.json")).count()
    }
    let calibrate = ["calibrate", "--device", "cpu"];
    let (folder, stopped) =
        interrupted(|| tempfile::tempdir().unwrap(), &calibrate, |folder| reports(folder) > 0);
    assert!(said(&stopped).contains("the same command goes on"), "{}", said(&stopped));
    let kept = reports(folder.path());
    assert!((1..6).contains(&kept), "{kept}");
    let first = std::fs::read(folder.path().join("calibration/tiny-64.bench.json")).unwrap();

    let whole = well(folder.path(), &calibrate);
    assert!(said(&whole).contains("6/6 vocabulary: "), "{}", said(&whole));
    assert_eq!(std::fs::read(folder.path().join("calibration/tiny-64.bench.json")).unwrap(), first);
    let profile = std::fs::read_to_string(folder.path().join("profiles/cpu-llmc.toml")).unwrap();
    for row in ["tiny-64 = ", "tiny-128 = ", "tiny-full = ", "wide = ", "deep = ", "vocabulary = "] {
        assert!(profile.contains(row), "{profile}");
    }
    assert!(profile.contains("rows = 6"), "{profile}");
    let recipe = "model llama < layers 2 hidden 64 vocab 256 ctx 64 >\nbudget 100k tokens\non 1xCPU < profile \"profiles/cpu-llmc.toml\" >\n";
    std::fs::write(folder.path().join("own.llm"), recipe).unwrap();
    well(folder.path(), &["plan", "own.llm"]);
    // What was timed before is a table like any other.
    let again =
        well(folder.path(), &["calibrate", "calibration/deep.bench.json", "--device", "cpu", "-o", "again"]);
    assert!(said(&again).contains("7 rows"), "{}", said(&again));
}

/// Two rates and two batches: a map, a picture and figures; a stopped sweep goes on; what is known is not run again.
#[test]
fn a_sweep_maps_losses_and_goes_on() {
    let arguments = ["sweep", "lr", "small.llm", "--lr", "1e-3,1e-2", "--batch", "512,1024", "--steps", "20"];
    let begun = |folder: &Path| losses(&folder.join("sweeps/small/lr-1e-2_batch-512")).len() > 3;
    let (folder, _) = interrupted(small, &arguments, begun);
    let sweep = folder.path().join("sweeps/small");
    assert!(!sweep.join("sweep.json").exists());
    let known = json(&sweep.join("lr-1e-3_batch-512/result.json"));

    let output = well(folder.path(), &arguments);
    assert!(said(&output).contains("1/4  lr 1e-3  batch 512 tokens") && said(&output).contains("(known)"));
    let map = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        map.starts_with("validation loss after 10,240 tokens\nbatch \\ lr") && map.contains('*'),
        "{map}"
    );
    let figures = json(&sweep.join("sweep.json"));
    let points = figures["points"].as_array().unwrap();
    assert_eq!(points.len(), 4);
    assert_eq!(points[0], known, "a finished point is not run again");
    for point in points {
        let at = folder.path().join(point["folder"].as_str().unwrap());
        assert_eq!(point["steps"].as_u64().unwrap() * point["batch_tokens"].as_u64().unwrap(), 10_240);
        assert_eq!(point["loss"], json(&at.join("summary.json"))["eval_loss"]);
        assert!(!at.join("checkpoints").exists());
    }
    let least = points.iter().map(|p| p["loss"].as_f64().unwrap()).fold(f64::INFINITY, f64::min);
    assert_eq!(figures["best"]["loss"].as_f64(), Some(least));
    assert_ne!(points[0]["loss"], points[1]["loss"]);
    assert!(std::fs::read_to_string(sweep.join("sweep.svg")).unwrap().contains(&format!("{least:.4}*")));

    let other =
        llmc(folder.path(), &["sweep", "lr", "small.llm", "--lr", "1e-3", "--steps", "30"]).output().unwrap();
    assert_eq!(other.status.code(), Some(2), "{}", said(&other));
    assert!(said(&other).contains("another sweep"), "{}", said(&other));
}

#[test]
fn a_gpu_plan_is_refused_here_in_one_sentence() {
    if Path::new("/dev/nvidiactl").exists() {
        return; // this machine has what the plan asks for
    }
    let folder = small();
    let recipe = std::fs::read_to_string(folder.path().join("small.llm")).unwrap();
    std::fs::write(folder.path().join("gpu.llm"), recipe.replace("on 1xCPU", "on 1xH100")).unwrap();
    let output = llmc(folder.path(), &["run", "gpu.llm"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("1 × H100, this machine has 0 CUDA devices"), "{}", said(&output));
}

/// What the shell completes behind `llmc data` and `llmc tokenizer` is what `llmc-data` takes.
#[test]
fn completions_know_the_sibling() {
    let folder = tempfile::tempdir().unwrap();
    let script = String::from_utf8(well(folder.path(), &["completions", "fish"]).stdout).unwrap();
    let sibling = std::env::var_os("LLMC_DATA").expect("make test sets LLMC_DATA");
    let printed = |arguments: &[&str]| {
        String::from_utf8(Command::new(&sibling).args(arguments).output().unwrap().stdout).unwrap()
    };
    // Names below a heading of a help text; texts that go on in a new line are indented further.
    let below = |help: &str, heading: &str| -> Vec<String> {
        let lines =
            help.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.is_empty());
        let named = |line: &str| {
            let word = line.split_whitespace().next()?;
            let named = word.starts_with("--") || line.find(word) == Some(2);
            named.then(|| word.trim_start_matches("--").to_owned())
        };
        lines.filter_map(named).filter(|name| !["help", "-h,"].contains(&name.as_str())).collect()
    };
    for (parent, before) in [("data", &[][..]), ("tokenizer", &["tokenizer"])] {
        let commands = below(&printed(&[before, &["--help"]].concat()), "Commands:");
        assert!(commands.len() >= 2, "{commands:?}");
        for command in commands.iter().filter(|command| *command != "tokenizer") {
            let lines: Vec<&str> = (script.lines())
                .filter(|line| {
                    line.contains(&format!(
                        "_using_subcommand {parent}; and __fish_seen_subcommand_from {command}\""
                    ))
                })
                .collect();
            assert!(script.contains(&format!("-a \"{command}\"")), "{parent} {command}");
            for option in below(&printed(&[before, &[command, "--help"]].concat()), "Options:") {
                assert!(
                    lines.iter().any(|line| line.contains(&format!("-l {option}"))),
                    "{parent} {command} {option}"
                );
            }
        }
    }
}

/// A table of factors as Parquet, which only `llmc-data` reads: the plan's shares follow it, a bad row is named.
#[test]
fn importance_comes_from_parquet() {
    let folder = small();
    let text = std::fs::read_to_string(folder.path().join("small.llm")).unwrap();
    let text = text
        .replace("data < text", "data < other \"text/1*.txt\"  text")
        .replace("lr 1e-3", "mix importance(\"table.parquet\")\nlr 1e-3");
    std::fs::write(folder.path().join("small.llm"), text).unwrap();
    let table = |name: &str| {
        let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fail/tables").join(name);
        std::fs::copy(table, folder.path().join("table.parquet")).unwrap();
    };
    table("others.parquet");
    let wrong = llmc(folder.path(), &["check", "small.llm"]).output().unwrap();
    assert!(said(&wrong).contains("row 2 names `others`"), "{}", said(&wrong));
    table("bad.csv");
    let wrong = llmc(folder.path(), &["run", "small.llm"]).output().unwrap();
    assert!(said(&wrong).contains("table.parquet: expected a Parquet file, found "), "{}", said(&wrong));
    assert!(said(&wrong).contains("LLM0706") && wrong.status.code() == Some(1), "{}", said(&wrong));
    table("weights.parquet");
    well(folder.path(), &["run", "small.llm"]);
    let data = json(&folder.path().join("runs/small/data.json"));
    assert_eq!(
        (&data["sources"][0]["importance"], &data["sources"][1]["importance"]),
        (&3.0.into(), &1.0.into())
    );
}
