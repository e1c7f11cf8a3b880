//! Every command with every kind of wrong file: a documented code, one thing said, nothing written, no panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const RECIPE: &str = "model llama < layers 2  hidden 64  vocab 512  ctx 64 >\nbudget 8192 tokens\non 1xCPU\n\
                      data < web \"web.jsonl\" >\nbatch 512 tokens\nprecision f32\n";

fn llmc(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmc"));
    command.args(args).current_dir(folder).env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    // Nothing here may get as far as starting one.
    command.env("LLMC_WORKER", "/bin/false").env("LLMC_DATA", "/bin/false");
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    llmc(folder, args).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A folder with a good recipe, its text and its plan.
fn folder() -> (TempDir, Value) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("good.llm"), RECIPE).unwrap();
    std::fs::write(folder.path().join("web.jsonl"), "{\"text\": \"one\"}\n").unwrap();
    let planned = run(folder.path(), &["plan", "good.llm", "-o", "good.json", "--format", "json"]);
    assert_eq!(planned.status.code(), Some(0), "{}", said(&planned));
    let plan = serde_json::from_slice(&planned.stdout).unwrap();
    (folder, plan)
}

/// The plan with one value replaced.
fn edited(plan: &Value, path: &str, value: impl Into<Value>) -> Vec<u8> {
    let mut plan = plan.clone();
    *plan.pointer_mut(path).unwrap() = value.into();
    plan.to_string().into_bytes()
}

fn wrong_files(plan: &Value) -> Vec<(&'static str, Vec<u8>)> {
    let text = plan.to_string();
    let utf16: Vec<u8> = "model llama 7b".encode_utf16().flat_map(u16::to_le_bytes).collect();
    vec![
        ("empty", Vec::new()),
        ("binary", (0..=255).cycle().take(4096).collect()),
        ("utf16.llm", [vec![0xff, 0xfe], utf16].concat()),
        ("latin1.llm", b"model llama 7b # caf\xe9\n".to_vec()),
        ("nul.llm", b"model llama 7b\0on 8xH100\n".to_vec()),
        ("misspelt.llm", b"modle llama 7b".to_vec()),
        ("table.csv", b"a,b\n1,2\n".to_vec()),
        ("cut.json", text.as_bytes()[..text.len() / 2].to_vec()),
        ("list.json", b"[1, 2]".to_vec()),
        ("null.json", b"null".to_vec()),
        ("nested.json", vec![b'['; 100_000]),
        ("nan.json", text.replacen("\"step_seconds\":", "\"step_seconds\":NaN,\"x\":", 1).into_bytes()),
        ("negative.json", edited(plan, "/layout/tp", -1)),
        ("part.json", edited(plan, "/budget/steps", 1.5)),
        ("major.json", edited(plan, "/format_version", "2.0")),
        ("no-ranks.json", edited(plan, "/layout/dp", 0)),
        ("no-devices.json", edited(plan, "/layout/gpus", 0)),
        ("no-batch.json", edited(plan, "/batch/accumulation", 0)),
        ("huge.json", edited(plan, "/model/layers", 1_u64 << 63)),
    ]
}

#[test]
fn every_command_refuses_every_wrong_file() {
    let (folder, plan) = folder();
    let mut names = vec!["absent.llm", "folder"];
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    let files = wrong_files(&plan);
    for (name, bytes) in &files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
        names.push(name);
    }
    let before = std::fs::read_dir(folder.path()).unwrap().count();
    let commands: &[&[&str]] = &[
        &["check", "@"],
        &["plan", "@"],
        &["plan", "@", "-o", "written.json"],
        &["plan", "good.llm", "--hardware", "@"],
        &["why", "@", "lr.peak"],
        &["why-not", "@", "tp=2"],
        &["cost", "@"],
        &["run", "@", "--name", "x"],
        &["sweep", "lr", "@", "--name", "x"],
        &["score", "@"],
        &["calibrate", "@", "-o", "profiles"],
        &["data", "build", "@.llm"],
    ];
    for command in commands {
        for name in &names {
            let args: Vec<String> = command.iter().map(|arg| arg.replace('@', name)).collect();
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            for lang in ["en", "zh"] {
                let output = run(folder.path(), &[&args[..], &["--lang", lang]].concat());
                let talk = said(&output);
                assert!(matches!(output.status.code(), Some(1 | 2)), "{args:?}: {output:?}");
                assert!(output.stdout.is_empty() && !talk.trim().is_empty(), "{args:?}: {talk}");
                let lines = talk.lines().count();
                assert!(lines <= 60, "{args:?}: {lines} lines\n{talk}");
                for sign in ["panicked", "RUST_BACKTRACE", "Err(", "Some(", "has a bug", "⟨"] {
                    assert!(!talk.contains(sign), "{args:?}: {talk}");
                }
            }
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), before, "something was written");
}

#[test]
fn a_plan_is_no_recipe_and_says_so() {
    let (folder, _) = folder();
    for command in [&["check", "good.json"][..], &["plan", "good.json"], &["fmt", "good.json"]] {
        let output = run(folder.path(), command);
        assert_eq!(output.status.code(), Some(2));
        assert!(said(&output).starts_with("llmc: good.json is a plan, not a recipe"), "{}", said(&output));
    }
}

#[test]
fn plans_that_differ_are_never_without_difference() {
    let (folder, plan) = folder();
    let path = folder.path().join("old.json");
    for (value, shown) in [
        (edited(&plan, "/memory/stages/0/reserved", 1), "memory.stages.0.reserved: "),
        (edited(&plan, "/optimizer/eps", 1.000_000_001e-8), "optimizer.eps: 1.000000001e-8 → 1e-8"),
    ] {
        std::fs::write(&path, value).unwrap();
        let output = run(folder.path(), &["plan", "good.llm", "--against", "old.json"]);
        assert_eq!(output.status.code(), Some(3));
        assert!(said(&output).contains(shown), "{}", said(&output));
    }
}

#[test]
fn a_choice_of_unknown_words_is_a_wrong_command_line() {
    let (folder, _) = folder();
    let unknown = run(folder.path(), &["why-not", "good.llm", "xx=7"]);
    assert_eq!((unknown.status.code(), unknown.stdout.is_empty()), (Some(2), true), "{}", said(&unknown));
    let refused = run(folder.path(), &["why-not", "good.llm", "tp=7"]);
    assert_eq!((refused.status.code(), refused.stdout.is_empty()), (Some(0), false), "{}", said(&refused));
}

/// A recipe on stdin is read once, whatever is asked of it.
#[test]
fn stdin_is_a_recipe_for_every_question() {
    let (folder, _) = folder();
    let ask = |args: &[&str]| {
        let recipe = std::fs::File::open(folder.path().join("good.llm")).unwrap();
        let output = llmc(folder.path(), args).stdin(recipe).output().unwrap();
        let named = run(
            folder.path(),
            &args.iter().map(|a| if *a == "-" { "good.llm" } else { a }).collect::<Vec<_>>(),
        );
        assert_eq!((output.status.code(), said(&output)), (named.status.code(), said(&named)), "{args:?}");
    };
    ask(&["why", "-", "batch.global_tokens"]);
    ask(&["why-not", "-", "recompute=full"]);
    ask(&["plan", "-"]);
}

/// A rename would put a file in the place of a device: of `/dev/null`, where root asks for it.
#[cfg(unix)]
#[test]
fn a_pipe_is_written_to_and_stays_one() {
    use std::os::unix::fs::FileTypeExt;
    let (folder, plan) = folder();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = Command::new("cat").arg(&pipe).stdout(Stdio::piped()).spawn().unwrap();
    let output = run(folder.path(), &["plan", "good.llm", "-o", "pipe"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let read: Value = serde_json::from_slice(&reader.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(read["layout"], plan["layout"]);
    assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
}
