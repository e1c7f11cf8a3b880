//! `llmc-data export --format webdataset`: the tars are read back as they were, and an export goes on where it was.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{contents, llmc_data, stderr};
use llmc_corpus::indexed::Indexed;
use std::path::Path;
use std::process::Output;

const TOKENIZER: &str = r#""tokenizer": {"vocab": 400, "sample_bytes": 100000}"#;
const IMPORT: &str = r#""tokenizer": {"import": "out/tokenizer.json"}"#;

fn build(root: &Path, glob: &str, tokenizer: &str, fraction: f64, out: &str) -> Output {
    let json = format!(
        r#"{{"context": 8, {tokenizer}, "validation": {{"fraction": {fraction}}},
            "sources": [{{"name": "s", "globs": [{glob:?}]}}]}}"#
    );
    std::fs::write(root.join("data.json"), json).unwrap();
    let path = |name: &str| root.join(name).to_string_lossy().into_owned();
    llmc_data(&["build", "--spec", &path("data.json"), "--out", &path(out)], &[])
}

/// Tars of a MiB, which the corpus fills several of.
const SMALL: [&str; 2] = ["--tar-mib", "1"];

fn export(root: &Path, out: &str, more: &[&str]) -> Output {
    let path = |name: &str| root.join(name).to_string_lossy().into_owned();
    let (dir, out) = (path("out"), path(out));
    llmc_data(&[&["export", &dir, "--out", &out, "--format", "webdataset"], more].concat(), &[])
}

/// A folder of several tars of which a tenth is held out, built.
fn corpus() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let line = |n: u64| {
        let words = (0..n % 90).map(|k| (llmc_corpus::permute::mix(n << 8 | k) % 5000).to_string());
        let text = format!("Dokument {n}, größer: \"{}\"\n", words.collect::<Vec<_>>().join(" "));
        serde_json::json!({ "text": text }).to_string() + "\n"
    };
    std::fs::write(dir.path().join("a.jsonl"), (0..2500).map(line).collect::<String>()).unwrap();
    let output = build(dir.path(), "a.jsonl", TOKENIZER, 0.1, "out");
    assert!(output.status.success(), "{}", stderr(&output));
    dir
}

/// The bytes of a shard's tokens and of its index.
fn shard(root: &Path, name: &str) -> [Vec<u8>; 2] {
    [".bin", ".idx"].map(|end| std::fs::read(root.join(name.to_owned() + end)).unwrap())
}

#[test]
fn ids_and_text_are_read_back_as_they_were() {
    let dir = corpus();
    let root = dir.path();
    let [train, validation] = ["s.train", "s.validation"]
        .map(|name| Indexed::open(&root.join("out").join(name), 400).unwrap().documents());
    for (out, more) in [("ids", &SMALL[..]), ("text", &["--text", "--tar-mib", "1"])] {
        let output = export(root, out, more);
        let said = stderr(&output).replace(&format!("{}/", root.display()), "");
        assert!(output.status.success(), "{said}");
        assert!(said.contains(&format!("{out}/s-train.json: {train} documents, ")), "{said}");
        for (split, index) in [("s.train", "s-train.json"), ("s.validation", "s-validation.json")] {
            let back = build(root, &format!("{out}/{index}"), IMPORT, 0.0, "back");
            assert!(back.status.success(), "{}", stderr(&back));
            assert!(shard(&root.join("out"), split) == shard(&root.join("back"), "s.train"), "{out} {split}");
        }
    }
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(root.join("ids/s-train.json")).unwrap()).unwrap();
    assert_eq!(index["shardlist"][1]["url"], "s-train-000001.tar");
    let samples = index["shardlist"].as_array().unwrap().iter().map(|tar| tar["nsamples"].as_u64().unwrap());
    assert_eq!(samples.sum::<u64>(), train);
    let lengths = index["shardlist"].as_array().unwrap().iter().map(|tar| tar["filesize"].as_u64().unwrap());
    assert!(lengths.max().unwrap() <= 1 << 20);
    let mut tar = tar::Archive::new(std::fs::File::open(root.join("ids/s-validation-000000.tar")).unwrap());
    let names: Vec<String> =
        tar.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
    assert_eq!(names.len() as u64, validation);
    assert_eq!(names[1], "s-validation-000000001.input_ids.npy");
}

#[test]
fn the_same_export_does_nothing_and_another_leaves_nothing_of_it() {
    let dir = corpus();
    let root = dir.path();
    assert!(export(root, "tars", &SMALL).status.success());
    let ids = contents(&root.join("tars"));
    let again = export(root, "tars", &SMALL);
    assert!(stderr(&again).contains("(up to date)"), "{}", stderr(&again));
    for name in ["s-train.json", "s-train-000000.tar"] {
        std::fs::remove_file(root.join("tars").join(name)).unwrap();
        assert!(export(root, "tars", &SMALL).status.success());
        assert!(contents(&root.join("tars")) == ids, "{name} is not there again");
    }
    assert!(export(root, "text", &["--text"]).status.success());
    assert!(export(root, "tars", &["--text"]).status.success());
    let text = contents(&root.join("tars"));
    assert!(text == contents(&root.join("text")), "what was there shows");
    assert!(text.len() < ids.len(), "{} files of {}", text.len(), ids.len());
    let inside = export(root, "out", &[]);
    assert_eq!(inside.status.code(), Some(2));
    let said = stderr(&inside).replace(&format!("{}/", root.display()), "");
    assert_eq!(said, "llmc-data: out holds a built corpus: export to a folder of its own\n");
}

#[test]
#[cfg(unix)]
fn a_killed_export_goes_on_where_it_was() {
    let dir = corpus();
    let root = dir.path();
    assert!(export(root, "whole", &SMALL).status.success());
    let out = root.join("killed");
    let note = out.join(".partial/export.note.json");
    let mut resumed = 0;
    for kill in [true, true, false] {
        let before = std::fs::read(&note).ok();
        let path = |name: &str| root.join(name).to_string_lossy().into_owned();
        let arguments =
            ["export", &path("out"), "--out", &path("killed"), "--format", "webdataset", "--tar-mib", "1"];
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_llmc-data"))
            .args(arguments)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        while kill && child.try_wait().unwrap().is_none() && std::fs::read(&note).ok() == before {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        if kill {
            // SIGKILL: no handler runs. It may be done by now, and then the next one says so.
            let _ = child.kill();
        }
        let output = child.wait_with_output().unwrap();
        resumed += usize::from(stderr(&output).contains("an unfinished export was continued"));
        assert!(kill || output.status.success(), "{}", stderr(&output));
    }
    println!("{resumed} went on");
    assert!(contents(&out) == contents(&root.join("whole")), "a killed export gives other bytes");
}

/// Ctrl-C, for real: the folder shows nothing of an export or all of it, what is said of what was kept is true, and the same
/// command goes on from there.
#[test]
#[cfg(unix)]
fn an_interrupted_export_shows_nothing_half_written() {
    let dir = corpus();
    let root = dir.path();
    assert!(export(root, "whole", &SMALL).status.success());
    let whole = contents(&root.join("whole"));
    let out = root.join("interrupted");
    let (partial, note) = (out.join(".partial"), out.join(".partial/export.note.json"));
    let arguments = ["export", "out", "--out", "interrupted", "--format", "webdataset", "--tar-mib", "1"];
    let mut stopped = 0;
    // Before anything is worth keeping, after the first tar, after the next.
    for wanted in [Some(false), Some(true), Some(true), None] {
        let before = std::fs::read(&note).ok();
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_llmc-data"))
            .args(arguments)
            .current_dir(root)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let early = |noted: bool| if noted { std::fs::read(&note).ok() == before } else { !partial.exists() };
        while wanted.is_some_and(early) && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        if wanted.is_some() {
            // It may be done by now.
            let _ = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).output();
        }
        let output = child.wait_with_output().unwrap();
        let (said, code) = (stderr(&output), output.status.code());
        let entries = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name());
        let names = entries.map(|name| name.to_string_lossy().into_owned());
        let shown: std::collections::BTreeSet<String> =
            names.filter(|name| name != ".partial" && name != ".lock").collect();
        let all = shown.iter().eq(whole.keys());
        assert!(all || shown.is_empty(), "{shown:?}");
        assert!(shown.iter().all(|name| std::fs::read(out.join(name)).unwrap() == whole[name]));
        assert!(!all || !partial.exists(), "what is whole leaves nothing beside it: {said}");
        if code == Some(130) && !all {
            let kept = "interrupted; interrupted holds what it did; the same command goes on from here";
            assert_eq!(said.contains(kept), note.exists(), "{said}");
            assert_eq!(partial.exists(), note.exists(), "{said}");
            stopped += 1;
        } else if code != Some(130) {
            assert_eq!(code, Some(0), "{said}");
            assert!(all, "{said}");
            let continued = said.contains("an unfinished export was continued");
            assert!(said.contains("(up to date)") || continued == before.is_some(), "{said}");
        }
    }
    println!("{stopped} stopped");
}

/// What an interrupted export leaves is built upon, and a changed byte of a tar is found by the hash in its index.
#[test]
fn what_is_not_as_it_was_is_not_used() {
    let dir = corpus();
    let root = dir.path();
    assert!(export(root, "tars", &SMALL).status.success());
    let whole = contents(&root.join("tars"));
    // As if it had been killed after the first tar.
    let (tars, partial) = (root.join("again"), root.join("again/.partial"));
    std::fs::create_dir_all(&partial).unwrap();
    let mut note: serde_json::Value = serde_json::from_slice(&whole[".export.json"]).unwrap();
    let first = "s-train-000000.tar";
    note["sets"].as_array_mut().unwrap().truncate(1);
    note["sets"][0]["files"].as_array_mut().unwrap().truncate(1);
    std::fs::write(partial.join("export.note.json"), note.to_string()).unwrap();
    std::fs::write(partial.join(first), &whole[first]).unwrap();
    let output = export(root, "again", &SMALL);
    assert!(stderr(&output).contains("an unfinished export was continued"), "{}", stderr(&output));
    assert!(contents(&tars) == whole);
    // The last token of the last sample, which is a valid one.
    let mut bytes = whole[first].clone();
    let last = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes[last] ^= 1;
    std::fs::write(tars.join(first), bytes).unwrap();
    let refused = build(root, "again/s-train.json", IMPORT, 0.0, "back");
    let said = stderr(&refused).replace(&format!("{}/", root.display()), "");
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.starts_with("llmc-data: again/s-train-000000.tar: expected the xxh3 "), "{said}");
    assert!(said.trim_end().ends_with(": some bytes were changed; fetch or export the tar again, or set on_error to skip (recipe: clean < unreadable skip >) to read it as it is"), "{said}");
}

/// Parquet goes the same way: hashes in a receipt, nothing done twice, an unfinished export continued.
#[test]
fn parquet_goes_on_too() {
    let dir = corpus();
    let root = dir.path();
    let export_to = |out: &str| {
        let path = |name: &str| root.join(name).to_string_lossy().into_owned();
        let output = llmc_data(&["export", &path("out"), "--out", &path(out)], &[]);
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    };
    let said = export_to("rows");
    let whole = contents(&root.join("rows"));
    let files = ["s.train.parquet", "s.validation.parquet"];
    assert!(files.iter().all(|file| said.contains(&format!("{file}: "))), "{said}");
    assert_eq!(whole.keys().filter(|name| !name.starts_with('.')).collect::<Vec<_>>(), files);
    let mut note: serde_json::Value = serde_json::from_slice(&whole[".export.json"]).unwrap();
    for (set, file) in files.into_iter().enumerate() {
        let hash = format!("{:032x}", twox_hash::XxHash3_128::oneshot(&whole[file]));
        assert_eq!(note["sets"][set]["files"][0]["info"]["xxh3"], hash.as_str());
    }
    assert_eq!(export_to("rows").matches("(up to date)").count(), 2);
    // As if it had been killed after the first file.
    let partial = root.join("again/.partial");
    std::fs::create_dir_all(&partial).unwrap();
    note["sets"].as_array_mut().unwrap().truncate(1);
    std::fs::write(partial.join("export.note.json"), note.to_string()).unwrap();
    std::fs::write(partial.join(files[0]), &whole[files[0]]).unwrap();
    assert!(export_to("again").contains("an unfinished export was continued"));
    assert!(contents(&root.join("again")) == whole && !partial.exists());
    // Tars in its place leave nothing of it.
    assert!(export(root, "again", &SMALL).status.success() && export(root, "tars", &SMALL).status.success());
    assert!(contents(&root.join("again")) == contents(&root.join("tars")));
}
