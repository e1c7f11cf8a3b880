//! Every bad input gives exit code 2 and one sentence: file, place, what was expected, what to do.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{contents, llmc_data, stderr};
use std::io::Write;
use std::path::Path;

/// A valid specification with one field replaced.
fn spec_with(key: &str, value: &str) -> String {
    let mut spec = serde_json::json!({
        "root": ".",
        "tokenizer": {"vocab": 300},
        "sources": [{"name": "s", "globs": ["*.jsonl"]}],
        "validation": {"fraction": 0.0},
        "context": 8,
    });
    let value: serde_json::Value = serde_json::from_str(value).unwrap();
    *spec.pointer_mut(key).unwrap_or(&mut serde_json::Value::Null) = value.clone();
    if spec.pointer(key).is_none() {
        let (parent, last) = key.rsplit_once('/').unwrap();
        spec.pointer_mut(parent).unwrap()[last] = value;
    }
    spec.to_string()
}

/// Builds from files and a specification; returns what was said.
fn refused(files: &[(&str, &[u8])], spec: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    std::fs::write(dir.path().join("data.json"), spec).unwrap();
    let out = dir.path().join("out");
    let path = |p: &Path| p.to_string_lossy().into_owned();
    let output =
        llmc_data(&["build", "--spec", &path(&dir.path().join("data.json")), "--out", &path(&out)], &[]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(!out.exists() || contents(&out).is_empty(), "files left");
    let said =
        stderr(&output).replace(&format!("{}/", path(dir.path())), "").replace(&path(dir.path()), "DIR");
    assert_eq!(said.lines().count(), 1, "{said}");
    said.strip_prefix("llmc-data: ").unwrap().trim_end().to_owned()
}

const GOOD: &[u8] = b"{\"text\": \"some text, some text, some text\"}\n";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

#[test]
fn files() {
    let long: Vec<u8> = GOOD.repeat(4000);
    let (gz, zst) = (gzip(&long), zstd::encode_all(&long[..], 1).unwrap());
    let flipped = {
        let mut bytes = gz.clone();
        let at = bytes.len() - 6;
        bytes[at] ^= 1;
        bytes
    };
    let cases: &[(&str, &[u8], &str)] = &[
        (
            "a.jsonl",
            b"{\"text\": \"a\"}\n{\"txt\": \"b\"}\n",
            "a.jsonl, line 2 (byte 25): expected a JSON object with a string field \"text\", found missing field `text`; repair the line, or set on_error to skip (recipe: clean < unreadable skip >) to leave it out",
        ),
        (
            "a.jsonl",
            b"{\"text\": \"a\"}\n{\"text\": 5}\n",
            "a.jsonl, line 2 (byte 23): expected a JSON object with a string field \"text\", found invalid type: integer `5`, expected a string; repair the line, or set on_error to skip (recipe: clean < unreadable skip >) to leave it out",
        ),
        (
            "a.jsonl",
            b"{\"text\": \"a",
            "a.jsonl, line 1 (byte 10): expected a JSON object with a string field \"text\", found EOF while parsing a string; repair the line, or set on_error to skip (recipe: clean < unreadable skip >) to leave it out",
        ),
        (
            "a.jsonl",
            b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n",
            "a.jsonl, line 2 (byte 24): expected UTF-8 text, found the byte 0xFF; convert the file to UTF-8, or set on_error to skip (recipe: clean < unreadable skip >) to leave the document out",
        ),
        (
            "a.jsonl",
            b"",
            "data.json: source `s`: all 1 files matched by [\"*.jsonl\"] under DIR are empty: point its globs at text",
        ),
        (
            "a.jsonl",
            b"{\"text\": \"\"}\n\n",
            "data.json: source `s` has no training document: 0 documents are validation text, 0 could not be read, 0 were cleaned away; add text, lower validation.fraction or clean less",
        ),
        (
            "a.txt",
            b"abc\xe9def",
            "a.txt, byte 3: expected UTF-8 text, found the byte 0xE9; convert the file to UTF-8, or set on_error to skip (recipe: clean < unreadable skip >) to leave the document out",
        ),
        (
            "a.txt",
            b"abc\xe2\x82",
            "a.txt, byte 3: expected UTF-8 text, found the end in the middle of a character; convert the file to UTF-8, or set on_error to skip (recipe: clean < unreadable skip >) to leave the document out",
        ),
        (
            "a.zip",
            b"PAR1",
            "a.zip: expected text, .jsonl or .tar, plain or as .gz or .zst, .parquet, or .bin with its .idx, found a .zip file; convert it, or narrow the glob to other files",
        ),
        (
            "a.jsonl.gz",
            &gz[..gz.len() - 9],
            "a.jsonl.gz, byte 176000: expected more data, found incomplete deflate stream; the file is truncated or damaged: fetch it again, or set on_error to skip (recipe: clean < unreadable skip >) to leave its rest out",
        ),
        (
            "a.jsonl.gz",
            &flipped,
            "a.jsonl.gz, byte 176000: expected more data, found corrupt gzip stream does not have a matching checksum; the file is truncated or damaged: fetch it again, or set on_error to skip (recipe: clean < unreadable skip >) to leave its rest out",
        ),
        (
            "a.jsonl.gz",
            b"{\"text\": \"not gzip\"}",
            "a.jsonl.gz, byte 0: expected more data, found invalid gzip header; the file is truncated or damaged: fetch it again, or set on_error to skip (recipe: clean < unreadable skip >) to leave its rest out",
        ),
        (
            "a.jsonl.zst",
            &zst[..zst.len() - 3],
            "a.jsonl.zst, byte 131072: expected more data, found incomplete frame; the file is truncated or damaged: fetch it again, or set on_error to skip (recipe: clean < unreadable skip >) to leave its rest out",
        ),
        (
            "a.jsonl.zst",
            b"{\"text\": \"not zstd\"}",
            "a.jsonl.zst, byte 0: expected more data, found Unknown frame descriptor; the file is truncated or damaged: fetch it again, or set on_error to skip (recipe: clean < unreadable skip >) to leave its rest out",
        ),
    ];
    for (name, content, expected) in cases {
        let pattern = format!("[{:?}]", format!("*.{}", name.split_once('.').unwrap().1));
        assert_eq!(refused(&[(name, content)], &spec_with("/sources/0/globs", &pattern)), *expected);
    }
}

#[test]
fn specifications() {
    let cases = [
        (
            "/format_version",
            "\"2.0\"",
            "data.json: format_version is \"2.0\", this build reads 1.0: write the file with the same version of llmc that reads it",
        ),
        ("/context", "0", "data.json: context is 0: give the tokens of a sample, such as 512"),
        ("/sources", "[]", "data.json: sources is empty: name at least one, with its globs"),
        (
            "/sources/0/name",
            "\"a/b\"",
            "data.json: source name \"a/b\": use 1 to 64 letters, digits, `_` and `-`, it becomes a file name",
        ),
        (
            "/sources/0/globs",
            "[\"*.txt\"]",
            "data.json: `s`: no file matches \"*.txt\" under DIR: check the pattern (`**` crosses folders, `*` does not) and the root",
        ),
        (
            "/sources/0/globs",
            "[\"[a\"]",
            "data.json: `s`: pattern \"[a\" is malformed at 80: invalid range pattern",
        ),
        (
            "/sources/0/weight",
            "-1",
            "data.json: source `s`: weight is -1: give a number above 0 and at most 1000000",
        ),
        ("/validation/fraction", "0.9", "data.json: validation.fraction is 0.9: give a share from 0 to 0.5"),
        (
            "/mix",
            "{\"temperature\": -1}",
            "data.json: mix.temperature is -1: the exponent lies from 0 (uniform) to 10, and 1 is proportional to size",
        ),
        (
            "/tokenizer/vocab",
            "256",
            "data.json: tokenizer.vocab is 256: byte-level BPE needs at least 257 entries, 256 bytes and 1 special tokens",
        ),
        (
            "/tokenizer/byte_fallback",
            "false",
            "data.json: tokenizer.byte_fallback is false: byte-level BPE always holds the 256 bytes; write true",
        ),
        (
            "/tokenizer/special_tokens",
            "[]",
            "data.json: tokenizer.special_tokens is empty: the first one ends every document, for instance <|endoftext|>",
        ),
        ("/tokenizer/import", "\"none.json\"", "cannot read none.json: there is no such file or folder"),
        (
            "/tokenizer/import",
            "\"a.jsonl\"",
            "a.jsonl: expected a Hugging Face tokenizer.json, found text its reader refuses (expected `,` or `}` at line 1 column 8); export it again with save_pretrained",
        ),
    ];
    for (key, value, expected) in cases {
        let said = refused(&[("a.jsonl", GOOD)], &spec_with(key, value));
        // The position inside a pattern counts the scratch folder's name.
        let same =
            if value == "[\"[a\"]" { said.ends_with("invalid range pattern") } else { said == expected };
        assert!(same, "{key} = {value}\n  said     {said}\n  expected {expected}");
    }
    let said = refused(&[("a.jsonl", GOOD)], "{\"context\": 8,");
    assert_eq!(said, "data.json: EOF while parsing a value at line 1 column 14");
}

#[test]
fn what_is_skipped_is_counted_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let lines = [GOOD, b"{\"text\": 1}\n", GOOD, b"\xff\n"].concat();
    std::fs::write(dir.path().join("a.jsonl"), lines).unwrap();
    std::fs::write(dir.path().join("data.json"), spec_with("/on_error", "\"skip\"")).unwrap();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let output = llmc_data(&["build", "--spec", &path("data.json"), "--out", &path("out")], &[]);
    assert!(output.status.success());
    let said = stderr(&output);
    assert!(said.contains("2 documents, 14 bytes, could not be read and were left out"), "{said}");
    assert!(
        said.contains("a.jsonl, line 2 (byte 53)") && said.contains("a.jsonl, line 4 (byte 100)"),
        "{said}"
    );
    let stats = llmc_data(&["stats", &path("out"), "--format", "json"], &[]);
    let stats: serde_json::Value = serde_json::from_slice(&stats.stdout).unwrap();
    assert_eq!(stats["sources"][0]["skipped_documents"], 2);
    assert_eq!(stats["sources"][0]["train"]["documents"], 2);
}

/// What is said where nothing is left: the first of what could not be read.
#[test]
fn a_source_of_which_nothing_could_be_read_says_why() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.jsonl"), b"\xff\n").unwrap();
    std::fs::write(dir.path().join("data.json"), spec_with("/on_error", "\"skip\"")).unwrap();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let output = llmc_data(&["build", "--spec", &path("data.json"), "--out", &path("out")], &[]);
    let said = stderr(&output).replace(&format!("{}/", dir.path().display()), "");
    assert_eq!(
        said,
        "llmc-data: data.json: source `s` has no training document: 0 documents are validation text, 1 could not be \
         read, 0 were cleaned away; add text, lower validation.fraction or clean less\n  a.jsonl, line 1 (byte 0): expected \
         UTF-8 text, found the byte 0xFF; convert the file to UTF-8, or set on_error to skip (recipe: clean < unreadable skip >) to leave the document out\n"
    );
}

/// A byte order mark begins a file of any editor of Windows; a file of no bytes is said, and read as what it is.
#[test]
fn marks_and_empty_files() {
    let dir = tempfile::tempdir().unwrap();
    let marked = ["\u{feff}".as_bytes(), GOOD, b"\r\n", GOOD].concat();
    std::fs::write(dir.path().join("a.jsonl"), marked).unwrap();
    std::fs::write(dir.path().join("b.jsonl"), b"").unwrap();
    std::fs::write(dir.path().join("data.json"), spec_with("/context", "8")).unwrap();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let output = llmc_data(&["build", "--spec", &path("data.json"), "--out", &path("out")], &[]);
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("in 2 documents to train on"), "{said}");
    let expected =
        "warning: source `s`: 1 of its 2 files are empty (b.jsonl): fetch them again if they should not be";
    assert!(said.contains(expected), "{said}");
}

/// What people read is in their language; what programs read is not.
#[test]
fn chinese() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.jsonl"), GOOD.repeat(8)).unwrap();
    std::fs::write(dir.path().join("b.jsonl"), b"").unwrap();
    std::fs::write(dir.path().join("data.json"), spec_with("/context", "8")).unwrap();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let output =
        llmc_data(&["--lang", "zh", "build", "--spec", &path("data.json"), "--out", &path("out")], &[]);
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    for part in [
        "警告：来源 `s`：其 2 个文件中有 1 个为空（b.jsonl）：若不应为空，请重新获取\n",
        "：训练 8 个文档 ",
        "一元熵分别为每词元 ",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (manifest, zh) = (path("out/manifest.json"), [("LLMC_LANG", "zh")]);
    assert!(std::fs::read_to_string(&manifest).unwrap().is_ascii());
    let stats = llmc_data(&["stats", &path("out")], &zh);
    let table = String::from_utf8(stats.stdout).unwrap();
    assert!(
        table.contains("来源             划分               文档") && table.contains("s：文档按词元数分布，"),
        "{table}"
    );
    let json = llmc_data(&["stats", &path("out"), "--format", "json"], &zh);
    assert!(json.status.success() && json.stdout.is_ascii());

    std::fs::write(dir.path().join("a.jsonl"), b"{\"text\": 1}\n").unwrap();
    let output = llmc_data(&["build", "--spec", &path("data.json"), "--out", &path("out")], &zh);
    let expected = format!(
        "llmc-data: {}，第 1 行（字节 9）：应为含字符串字段 \"text\" 的 JSON 对象，实为 invalid type: integer `1`, expected a \
         string；请修复该行，或将 on_error 设为 skip（配方：clean < unreadable skip >）以略去该行\n",
        path("a.jsonl")
    );
    assert_eq!(stderr(&output), expected);
    let output = llmc_data(&["stats", &path("none"), "--lang", "zh"], &[]);
    assert_eq!(
        stderr(&output),
        format!("llmc-data: {} 中没有已构建的语料：请先运行 `llmc data build`\n", path("none"))
    );
}

#[test]
fn a_folder_without_a_corpus_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let output = llmc_data(&["stats", &dir.path().to_string_lossy()], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("holds no built corpus: run `llmc data build` first"));
}
