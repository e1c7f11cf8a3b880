//! The same recipe gives the same bytes: many runs, any order of the files around it, debug and release.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn plan(folder: &Path, recipe: &str) -> Vec<u8> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmc"));
    command.args(["plan", recipe, "--format", "json"]).current_dir(folder).env_clear().stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes")
}

#[test]
fn a_hundred_runs_give_the_same_bytes() {
    let first = plan(&recipes(), "one-liner.llm");
    for _ in 1..100 {
        assert!(plan(&recipes(), "one-liner.llm") == first);
    }
}

/// The kernel lists a folder in an order that depends on how it was filled.
#[test]
fn the_order_of_files_does_not_matter() {
    let names: Vec<String> = (0..40).map(|i| format!("part-{:02}.jsonl", i * 17 % 40)).collect();
    let plans = [false, true].map(|reversed| {
        let folder = tempfile::tempdir().unwrap();
        let corpus = folder.path().join("corpus/web");
        std::fs::create_dir_all(&corpus).unwrap();
        let order: Vec<&String> =
            if reversed { names.iter().rev().collect() } else { names.iter().collect() };
        for name in order {
            std::fs::write(corpus.join(name), "{\"text\": \"\"}\n").unwrap();
        }
        let recipe = "model llama 7b\nbudget 100B tokens on 8xH100\ndata < web \"corpus/**/*.jsonl\" >\n";
        std::fs::write(folder.path().join("recipe.llm"), recipe).unwrap();
        plan(folder.path(), "recipe.llm")
    });
    assert!(plans[0] == plans[1]);
}

/// One hash a recipe. The suite runs in debug; `cargo test --release --test determinism` must find the same ones.
#[test]
fn debug_and_release_agree() {
    let mut names: Vec<String> = std::fs::read_dir(recipes())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|name| name.ends_with(".llm"));
    names.sort();
    let scratch = tempfile::tempdir().unwrap();
    let lines = names.iter().map(|name| {
        std::fs::copy(recipes().join(name), scratch.path().join(name)).unwrap();
        let bytes = String::from_utf8(plan(scratch.path(), name)).unwrap();
        format!("{}  {name}\n", llmc_compiler::hash(&bytes))
    });
    insta::assert_snapshot!(lines.collect::<String>());
}
