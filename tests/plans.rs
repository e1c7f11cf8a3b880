//! What users read: the plan of every recipe in `recipes/`, findings as they are drawn, and what programs get instead.
//! Review a changed snapshot as a user would.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn llmc(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmc"));
    command.args(args).current_dir(folder).env_clear().stdin(Stdio::null());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Recipe, what is said about it, and its plan in one snapshot. Missing text is one finding a source, and the same for
/// everybody who has none.
#[test]
fn plans() {
    insta::glob!("../recipes", "*.llm", |path| {
        // A folder deep, so that paths such as `../docs/*.md` name nothing either.
        let folder = tempfile::tempdir().unwrap();
        let recipes = folder.path().join("recipes");
        std::fs::create_dir(&recipes).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let recipe = std::fs::read_to_string(path).unwrap();
        std::fs::write(recipes.join(name), &recipe).unwrap();
        let output = llmc(&recipes, &["plan", name]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let plan = text(&output.stdout);
        assert!(plan.lines().count() <= 60, "a plan is one page");
        insta::assert_snapshot!(format!(
            "{recipe}\n---- findings\n{}\n---- plan\n{plan}",
            text(&output.stderr)
        ));
    });
}

/// The plan of the one-liner in Chinese and as a report.
#[test]
fn other_shapes() {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/one-liner.llm");
    let path = recipe.to_str().unwrap();
    let folder = recipe.parent().unwrap();
    insta::assert_snapshot!("one-liner-zh", text(&llmc(folder, &["plan", path, "--lang", "zh"]).stdout));
    for (name, lang) in [("one-liner-markdown", "en"), ("one-liner-markdown-zh", "zh")] {
        let args = ["plan", path, "--format", "markdown", "--lang", lang];
        insta::assert_snapshot!(name, text(&llmc(folder, &args).stdout));
    }
}

/// Findings as they are drawn: several on one page, labels in two sources, both languages.
#[test]
fn drawings() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = "model llama 7b < ctxx 8k  rope yarn(s=2) >\nbudget 1Q tokens\non 64xH10\n\
                  expect memory < 76 GiB  time <= 21 days\noptimizer adamw < lr 3e-4 >\nseed 1 # 中文";
    std::fs::write(folder.path().join("recipe.llm"), recipe).unwrap();
    for lang in ["en", "zh"] {
        let args = ["check", "recipe.llm", "--set", "lr.peek=3", "--set", "seed=1.5", "--lang", lang];
        let output = llmc(folder.path(), &args);
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true));
        insta::assert_snapshot!(
            format!("drawings-{lang}"),
            format!("{recipe}\n----\n{}", text(&output.stderr))
        );
    }
}

/// What programs get for each failing example: its code, places inside the text, the exit code, and a plan only when
/// nothing is wrong. The sentences are snapshots of the compiler's tests.
#[test]
fn findings_for_programs() {
    let world = tempfile::tempdir().unwrap();
    std::fs::create_dir(world.path().join("base-7b")).unwrap();
    let config = "{\"num_hidden_layers\": 32, \"hidden_size\": 4096, \"num_attention_heads\": 32, \
                  \"intermediate_size\": 11008, \"vocab_size\": 32000, \"max_position_embeddings\": 2048}";
    std::fs::write(world.path().join("base-7b/config.json"), config).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fail");
    std::fs::create_dir(world.path().join("tables")).unwrap();
    for table in std::fs::read_dir(folder.join("tables")).unwrap().map(|entry| entry.unwrap()) {
        std::fs::copy(table.path(), world.path().join("tables").join(table.file_name())).unwrap();
    }
    let built = world.path().join("runs/recipe/data");
    std::fs::create_dir_all(&built).unwrap();
    std::fs::copy(folder.join("manifest.json"), built.join("manifest.json")).unwrap();
    let mut examples: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    examples.retain(|path| path.extension().is_some_and(|extension| extension == "llm"));
    assert!(examples.len() > 40);
    for path in examples {
        let code = path.file_stem().unwrap().to_str().unwrap();
        let file = std::fs::read_to_string(&path).unwrap();
        // `#--repeat N` makes an example long without a long file.
        let times = file.lines().find_map(|line| line.strip_prefix("#--repeat "));
        let recipe = file.repeat(times.map_or(1, |n| n.parse().unwrap()));
        std::fs::write(world.path().join("recipe.llm"), &recipe).unwrap();
        let mut args = vec!["plan", "recipe.llm", "--format", "json"];
        for set in recipe.lines().filter_map(|line| line.strip_prefix("#--set ")) {
            args.extend(["--set", set]);
        }
        let output = llmc(world.path(), &args);
        let lines = text(&output.stderr).lines();
        let found: Vec<serde_json::Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(found.iter().any(|found| found["code"] == code), "{code}: {found:?}");
        for label in found.iter().flat_map(|found| found["labels"].as_array().unwrap()) {
            let at = |key: &str| label[key].as_u64().unwrap() as usize;
            assert!(at("line") >= 1 && at("column") >= 1 && at("start") <= at("end"));
            assert!(
                label["source"] != "recipe" || recipe.get(at("start")..at("end")).is_some(),
                "{code}: {label}"
            );
        }
        let wrong = found.iter().any(|found| found["severity"] == "error");
        assert_eq!(output.status.code(), Some(if wrong { 1 } else { 0 }), "{code}");
        assert_eq!(output.stdout.is_empty(), wrong, "{code}: a plan comes from a right recipe only");
    }
}

/// The whole plan with every reason, over a frozen device.
#[test]
fn one_liner_in_full() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(root.join("recipes/one-liner.llm"), folder.path().join("one-liner.llm")).unwrap();
    std::fs::copy(root.join("tests/frozen/h100.toml"), folder.path().join("h100.toml")).unwrap();
    let output =
        llmc(folder.path(), &["plan", "one-liner.llm", "--hardware", "h100.toml", "--format", "json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    insta::assert_snapshot!("one-liner-json", text(&output.stdout));
}

/// What the front pages show is what the command prints.
#[test]
fn front_pages_are_true() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (page, lang) in [("README.md", "en"), ("README.zh-CN.md", "zh")] {
        let page = std::fs::read_to_string(root.join(page)).unwrap();
        let block = |fence: &str| {
            let (_, rest) = page.split_once(fence).unwrap();
            rest.split_once("```").unwrap().0
        };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("readme.llm"), block("```llm\n")).unwrap();
        let output = llmc(folder.path(), &["plan", "readme.llm", "--lang", lang]);
        assert_eq!(text(&output.stdout), block("```text\n"));
    }
}
