//! Each recipe word of cleaning, and that what it drops is counted, shown and the same on any machine.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{contents, llmc_data, spec, stderr};
use llmc_corpus::build;
use std::path::Path;

fn write(root: &Path, name: &str, texts: &[&str]) {
    let lines: String = texts.iter().map(|t| serde_json::json!({"text": t}).to_string() + "\n").collect();
    std::fs::write(root.join(name), lines).unwrap();
}

const LONG: &str = "The quick brown fox jumps over the lazy dog while seven wizards brew a potion of ink and \
                    nobody in the whole village can say why the bells ring at noon on every second Thursday";

#[test]
fn duplicates_go_across_sources_and_the_first_stays() {
    let dir = tempfile::tempdir().unwrap();
    let near = LONG.replace("Thursday", "Friday");
    write(dir.path(), "a.jsonl", &["same", "other", "same", LONG]);
    write(dir.path(), "b.jsonl", &["same", "third", &near]);
    for (dedup, a, b) in [("off", 4, 3), ("exact", 3, 2), ("near", 3, 1)] {
        let out = tempfile::tempdir().unwrap();
        let spec = spec(&format!(
            r#"{{"root": {:?}, "context": 8, "validation": {{"fraction": 0}}, "tokenizer": {{"vocab": 300}},
                "clean": {{"dedup": {dedup:?}}}, "sources": [{{"name": "a", "globs": ["a.jsonl"]}},
                {{"name": "b", "globs": ["b.jsonl"]}}]}}"#,
            dir.path()
        ));
        let report = build(&spec, out.path(), &()).unwrap();
        let documents: Vec<u64> = report.manifest.sources.iter().map(|s| s.train.documents).collect();
        assert_eq!(documents, [a, b], "{dedup}");
        let again = tempfile::tempdir().unwrap();
        build(&spec, again.path(), &()).unwrap();
        assert!(contents(out.path()) == contents(again.path()));
        if dedup == "near" {
            assert_eq!(report.manifest.sources[1].dropped["near duplicate"], 1);
            let said = llmc_plan::lang::Said::join(&report.warnings, "\n", "\n").en;
            assert!(
                said.contains(
                    "source `a`: 1 documents, 4 bytes, left out as exact duplicate, such as\n  \"same\""
                ),
                "{said}"
            );
        }
    }
}

#[test]
fn length_letters_script_and_normalisation() {
    let dir = tempfile::tempdir().unwrap();
    let texts = [
        "e\u{301}t\u{e9} is summer",
        "short",
        "1234567890 %%% 12",
        "这是中文的句子，不是英文。",
        "ｆｕｌｌ width letters",
    ];
    write(dir.path(), "a.jsonl", &texts);
    let out = tempfile::tempdir().unwrap();
    let spec = spec(&format!(
        r#"{{"root": {:?}, "context": 8, "validation": {{"fraction": 0}}, "tokenizer": {{"vocab": 300}},
            "clean": {{"unicode": "nfkc", "min_bytes": 6, "min_letters": 0.5, "scripts": ["latin"]}},
            "sources": [{{"name": "a", "globs": ["a.jsonl"]}}]}}"#,
        dir.path()
    ));
    let manifest = build(&spec, out.path(), &()).unwrap().manifest;
    let dropped = &manifest.sources[0].dropped;
    assert_eq!(
        serde_json::to_string(dropped).unwrap(),
        r#"{"another script":1,"too few letters":1,"too short":1}"#
    );
    // "été is summer" composed, and "full width letters" in ASCII.
    assert_eq!(manifest.train.bytes, 15 + 18);
}

#[test]
fn the_command_reports_keeps_and_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let near = LONG.replace("Thursday", "Friday");
    write(dir.path(), "a.jsonl", &["same", "other", "same", LONG]);
    write(dir.path(), "b.jsonl", &["same", "third", &near]);
    let (a, b) = (dir.path().join("a.jsonl"), dir.path().join("b.jsonl"));
    let kept = dir.path().join("kept.jsonl");
    let (a, b, out) = (a.to_str().unwrap(), b.to_str().unwrap(), kept.to_str().unwrap());
    let output = llmc_data(&["dedup", a, b, "--near", "0.8", "--out", out, "--format", "json"], &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["documents"], 7);
    assert_eq!(report["exact"], 2);
    assert_eq!(report["exact_verified"], 2);
    assert_eq!(report["near"], 1);
    assert_eq!(report["pairs"][0]["kept"], format!("{a}, line 1 (byte 0)"));
    let lines = std::fs::read_to_string(kept).unwrap();
    assert_eq!(lines.lines().count(), 4);
    assert!(lines.contains(r#""text":"third""#));
}
