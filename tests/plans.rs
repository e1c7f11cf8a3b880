//! What users read: the plan of every recipe in `recipes/`, and the findings of every one in `tests/fail/`, through the
//! binary. Review a changed snapshot as a user would.
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
        let folder = tempfile::tempdir().unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let recipe = std::fs::read_to_string(path).unwrap();
        std::fs::write(folder.path().join(name), &recipe).unwrap();
        let output = llmc(folder.path(), &["plan", name]);
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
    insta::assert_snapshot!(
        "one-liner-markdown",
        text(&llmc(folder, &["plan", path, "--format", "markdown"]).stdout)
    );
}

/// The recipe and its findings in one snapshot, in both languages; as JSON, the same codes.
#[test]
fn errors() {
    let world = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = world.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    for file in
        ["web/a.jsonl", "a.jsonl", "a.txt", "code/a.jsonl", "base/a.jsonl", "law/a.jsonl", "zh/a.jsonl"]
    {
        write(&format!("corpus/{file}"), "{\"text\": \"\"}\n");
    }
    let config = "{\"num_hidden_layers\": 32, \"hidden_size\": 4096, \"num_attention_heads\": 32, \
                  \"intermediate_size\": 11008, \"vocab_size\": 32000, \"max_position_embeddings\": 2048}";
    write("base-7b/config.json", config);
    insta::glob!("fail/*.llm", |path| {
        let code = path.file_stem().unwrap().to_str().unwrap();
        let recipe = std::fs::read_to_string(path).unwrap();
        write("recipe.llm", &recipe);
        let mut args = vec!["plan", "recipe.llm"];
        for set in recipe.lines().filter_map(|line| line.strip_prefix("#--set ")) {
            args.extend(["--set", set]);
        }
        let json = llmc(world.path(), &[&args[..], &["--format", "json"]].concat());
        let found: Vec<serde_json::Value> =
            text(&json.stderr).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(found.iter().any(|found| found["code"] == code), "{code}: {found:?}");
        for label in found.iter().flat_map(|found| found["labels"].as_array().unwrap()) {
            assert!(label["start"].as_u64().unwrap() <= label["end"].as_u64().unwrap());
            assert!(label["line"].as_u64().unwrap() >= 1 && label["column"].as_u64().unwrap() >= 1);
        }
        let wrong = found.iter().any(|found| found["severity"] == "error");
        assert_eq!(json.status.code(), Some(if wrong { 1 } else { 0 }), "{code}");
        assert_eq!(json.stdout.is_empty(), wrong, "{code}: no plan from a wrong recipe");
        let [en, zh] =
            ["en", "zh"].map(|lang| llmc(world.path(), &[&args[..], &["--lang", lang]].concat()).stderr);
        insta::assert_snapshot!(format!("{recipe}\n---- en\n{}\n---- zh\n{}", text(&en), text(&zh)));
    });
}
