//! `llmc-data build` on the text of the Python standard library.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{contents, llmc_data, spec, stderr, stdlib};
use llmc_corpus::build::build;
use llmc_corpus::output::{Dtype, with_suffix};
use llmc_corpus::tokenizer::Encoder;
use llmc_corpus::{indexed::Indexed, open};
use llmc_plan::batch::BatchShape;
use std::io::Write;
use std::path::Path;

/// About 1.5 MB in two sources.
fn write_spec(dir: &Path, root: &Path, globs: &str) -> String {
    let path = dir.join("data.json");
    let json = format!(
        r#"{{"root": {root:?}, "tokenizer": {{"vocab": 640, "sample_bytes": 400000}}, "context": 64,
            "sources": [{globs}], "validation": {{"fraction": 0.1}}}}"#
    );
    std::fs::write(&path, json).unwrap();
    path.to_string_lossy().into_owned()
}

const GLOBS: &str = r#"{"name": "net", "globs": ["asyncio/*.py", "http/*.py"]},
                       {"name": "text", "globs": ["json/*.py", "email/*.py", "arg*.py"]}"#;

fn run(spec: &str, out: &Path, threads: &str) -> std::process::Output {
    llmc_data(&["build", "--spec", spec, "--out", &out.to_string_lossy()], &[("RAYON_NUM_THREADS", threads)])
}

#[test]
fn threads_do_not_show_and_unchanged_inputs_are_not_read_again() {
    let Some(root) = stdlib() else { return };
    let dir = tempfile::tempdir().unwrap();
    let spec = write_spec(dir.path(), &root, GLOBS);
    let (one, four) = (dir.path().join("one"), dir.path().join("four"));
    for (out, threads) in [(&one, "1"), (&four, "4")] {
        let output = run(&spec, out, threads);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
    let first = contents(&one);
    assert!(first == contents(&four), "the number of threads changes the result");
    let expected =
        ["manifest.json", "net.train.bin", "net.train.idx", "net.validation.bin", "net.validation.idx"];
    assert_eq!(first.keys().take(5).collect::<Vec<_>>(), expected);

    let modified = || std::fs::metadata(one.join("net.train.bin")).unwrap().modified().unwrap();
    let before = modified();
    let again = run(&spec, &one, "1");
    assert!(stderr(&again).contains("(up to date)"), "{}", stderr(&again));
    assert_eq!(modified(), before);

    // A file of the corpus that went missing is noticed.
    std::fs::remove_file(one.join("text.train.idx")).unwrap();
    assert!(!stderr(&run(&spec, &one, "1")).contains("up to date"));
    assert!(contents(&one) == first);
}

#[test]
fn tokens_decode_to_the_documents_and_the_counts_are_true() {
    let Some(root) = stdlib() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = write_spec(dir.path(), &root, GLOBS);
    let spec = llmc_corpus::spec::load(Path::new(&path)).unwrap();
    let out = dir.path().join("out");
    let report = build(&spec, &out, &()).unwrap();
    let manifest = &report.manifest;
    let encoder = Encoder::import(&out.join("tokenizer.json"), &spec.tokenizer).unwrap();
    assert_eq!((encoder.vocab(), encoder.sha256()), (640, manifest.tokenizer.sha256.clone()));

    let mut documents: Vec<String> = Vec::new();
    for source in &manifest.sources {
        for split in [&source.train, &source.validation] {
            let shard = Indexed::open(&out.join(&split.shards[0]), 640).unwrap();
            assert_eq!((shard.documents(), shard.tokens()), (split.documents, split.tokens));
            let mut bytes = 0;
            for document in 0..shard.documents() {
                let from = shard.document_start(document).unwrap();
                let mut ids = vec![0; (shard.document_start(document + 1).unwrap() - from) as usize];
                shard.read(from, &mut ids).unwrap();
                assert_eq!(ids.pop(), Some(manifest.tokenizer.end_of_document));
                let text = encoder.decode(&ids).unwrap();
                bytes += text.len() as u64;
                documents.push(text);
            }
            assert_eq!(bytes, split.bytes);
        }
    }
    let folders = ["asyncio", "http", "json", "email"];
    let mut files: Vec<String> = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .chain([root.join("argparse.py")])
        .filter(|path| path.extension().is_some_and(|e| e == "py"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .filter(|text| !text.is_empty())
        .collect();
    documents.sort_unstable();
    files.sort_unstable();
    assert!(documents == files, "{} documents of {} files", documents.len(), files.len());

    let (train, validation) = (&manifest.train, &manifest.validation);
    assert_eq!(train.bytes + validation.bytes, files.iter().map(|f| f.len() as u64).sum::<u64>());
    assert!(validation.documents > 0 && validation.documents * 3 < train.documents);
    // Below ln(640) = 6.46 and far above that of a few tokens; within what Python text has.
    assert!((4.5..6.0).contains(&validation.unigram_entropy), "{}", validation.unigram_entropy);

    let shape = BatchShape { sequences: 2, context: 64, max_documents: 2 };
    let stream = open(&out, &spec, shape, 4).unwrap();
    assert!(stream.batch(1_000_000_000, 0, 0, 1).is_ok());
}

#[test]
fn compressed_jsonl_and_text_files_give_the_same_shards() {
    let Some(root) = stdlib() else { return };
    let dir = tempfile::tempdir().unwrap();
    let texts: Vec<String> = ["argparse.py", "ast.py", "bdb.py", "calendar.py", "cmd.py", "copy.py"]
        .iter()
        .map(|name| std::fs::read_to_string(root.join(name)).unwrap())
        .collect();
    let lines: Vec<Vec<u8>> = texts
        .iter()
        .map(|text| (serde_json::json!({"url": "x", "text": text}).to_string() + "\n").into_bytes())
        .collect();
    let (head, tail) = (lines[..3].concat(), lines[3..].concat());
    let gzip = |bytes: &[u8]| {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let mut results = Vec::new();
    for (name, content) in [
        ("a.jsonl", [head.clone(), tail.clone()].concat()),
        // Two members, two frames: both formats may be concatenated.
        ("a.jsonl.gz", [gzip(&head), gzip(&tail)].concat()),
        ("a.jsonl.zst", [zstd(&head), zstd(&tail)].concat()),
    ] {
        let folder = dir.path().join(name.replace('.', "-"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(name), content).unwrap();
        let spec = write_spec(&folder, &folder, &format!(r#"{{"name": "s", "globs": ["{name}"]}}"#));
        let output = run(&spec, &folder.join("out"), "2");
        assert!(output.status.success(), "{}", stderr(&output));
        results.push(contents(&folder.join("out")));
    }
    let texts_folder = dir.path().join("texts");
    std::fs::create_dir(&texts_folder).unwrap();
    for (index, text) in texts.iter().enumerate() {
        std::fs::write(texts_folder.join(format!("{index}.txt")), text).unwrap();
    }
    let spec = write_spec(&texts_folder, &texts_folder, r#"{"name": "s", "globs": ["*.txt"]}"#);
    assert!(run(&spec, &texts_folder.join("out"), "2").status.success());
    results.push(contents(&texts_folder.join("out")));
    assert!(results.windows(2).all(|pair| pair[0]["s.train.bin"] == pair[1]["s.train.bin"]));
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn exact_copies_stay_on_one_side_of_the_split() {
    let dir = tempfile::tempdir().unwrap();
    for copy in 0..3 {
        let lines: String = (0..200).map(|n| format!("{{\"text\": \"document number {n}\"}}\n")).collect();
        std::fs::write(dir.path().join(format!("{copy}.jsonl")), lines).unwrap();
    }
    let out = dir.path().join("out");
    let mut spec = spec(
        r#"{"tokenizer": {"vocab": 300}, "context": 8, "validation": {"fraction": 0.25},
            "sources": [{"name": "a", "globs": ["[01].jsonl"]}, {"name": "b", "globs": ["2.jsonl"]}]}"#,
    );
    spec.root = dir.path().to_string_lossy().into_owned();
    let manifest = build(&spec, &out, &()).unwrap().manifest;
    let (a, b) = (&manifest.sources[0], &manifest.sources[1]);
    assert_eq!(a.train.documents + a.validation.documents, 400);
    assert_eq!(a.train.documents, 2 * b.train.documents);
    assert_eq!(a.validation.documents, 2 * b.validation.documents);
    // 200 draws of probability ¼: mean 50, standard deviation 6.
    assert!((30..=70).contains(&b.validation.documents), "{}", b.validation.documents);
}

#[test]
fn a_large_vocabulary_is_stored_in_four_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer =
        llmc_corpus::output::ShardWriter::create(&dir.path().join("x"), Dtype::for_vocab(65_500)).unwrap();
    writer.push(&[65_499, 7]).unwrap();
    writer.finish().unwrap();
    assert_eq!(
        std::fs::read(with_suffix(&dir.path().join("x"), ".bin")).unwrap(),
        [0xDB, 0xFF, 0, 0, 7, 0, 0, 0]
    );
    // The layout of `indexed_dataset.py`, byte by byte: magic, version, code 4, one sequence, two
    // entries, length 2, pointer 0, entries 0 and 1.
    let mut expected = b"MMIDIDX\0\0".to_vec();
    expected.extend(1u64.to_le_bytes());
    expected.push(4);
    expected.extend([1u64, 2].into_iter().flat_map(u64::to_le_bytes));
    expected.extend(2i32.to_le_bytes());
    expected.extend([0u64, 0, 1].into_iter().flat_map(u64::to_le_bytes));
    assert_eq!(std::fs::read(with_suffix(&dir.path().join("x"), ".idx")).unwrap(), expected);
}

/// Interrupted at some moment of its first source, eight times.
#[test]
#[cfg(unix)]
fn an_interrupted_build_leaves_nothing() {
    let Some(root) = stdlib() else { return };
    let dir = tempfile::tempdir().unwrap();
    let spec =
        write_spec(dir.path(), &root, r#"{"name": "all", "globs": ["*.py", "email/*.py", "idlelib/*.py"]}"#);
    let mut emptied = 0;
    for attempt in 0..8 {
        let out = dir.path().join(format!("out-{attempt}"));
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_llmc-data"))
            .args(["build", "--spec", &spec, "--out", &out.to_string_lossy()])
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Until it has begun to write.
        while !out.join(".partial/tokenizer.json").exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(std::time::Duration::from_millis(3 * attempt));
        let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let output = child.wait_with_output().unwrap();
        if output.status.success() || stderr(&output).contains("goes on from here") {
            continue; // Seen too late: the source was done.
        }
        assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
        // A small source is not noted before it is done.
        let left: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [".lock"], "{}", stderr(&output));
        emptied += 1;
    }
    assert!(emptied > 0, "every build was done before it was interrupted");
}

/// Killed again and again while two sources are written, also while copies are looked for: the same bytes as
/// in one go.
#[test]
#[cfg(unix)]
fn a_killed_build_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    // 48 MB in chunks of 8: several notes in each source. Every tenth document is a copy.
    for (source, files) in [("a", 0..3), ("b", 3..4)] {
        for file in files {
            let line = |n: u64| {
                let n = if n.is_multiple_of(10) { n / 1000 } else { n + file * 1_000_000 };
                let words = (0..150).map(|k| llmc_corpus::permute::mix(n << 8 | k) % 5000);
                let text = words.map(|w| w.to_string()).collect::<Vec<_>>().join(" ");
                format!("{{\"text\": \"{n} {text}\\n\"}}\n")
            };
            let lines: String = (0..16_000).map(line).collect();
            std::fs::write(dir.path().join(format!("{source}{file}.jsonl")), lines).unwrap();
        }
    }
    for dedup in ["off", "exact"] {
        let spec = dir.path().join("data.json");
        let json = format!(
            r#"{{"tokenizer": {{"vocab": 600, "sample_bytes": 200000}}, "context": 64, "clean": {{"dedup": "{dedup}"}},
                "sources": [{{"name": "a", "globs": ["a*.jsonl"]}}, {{"name": "b", "globs": ["b*.jsonl"]}}],
                "validation": {{"fraction": 0.1}}}}"#
        );
        std::fs::write(&spec, json).unwrap();
        let spec = spec.to_string_lossy().into_owned();
        let (whole, killed) =
            (dir.path().join(format!("{dedup}-whole")), dir.path().join(format!("{dedup}-killed")));
        let output = run(&spec, &whole, "2");
        assert!(output.status.success(), "{}", stderr(&output));

        let (mut kills, mut resumed) = (0, false);
        let noted =
            |source: &str| std::fs::read(killed.join(".partial").join(format!("{source}.note.json"))).ok();
        loop {
            let before = (noted("a"), noted("b"));
            let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_llmc-data"))
                .args(["build", "--note-every", "0", "--spec", &spec, "--out", &killed.to_string_lossy()])
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            while kills < 4 && child.try_wait().unwrap().is_none() && before == (noted("a"), noted("b")) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            if kills < 4 && child.try_wait().unwrap().is_none() {
                // SIGKILL: no handler runs.
                child.kill().unwrap();
                child.wait().unwrap();
                assert!(!killed.join("manifest.json").exists());
                kills += 1;
                continue;
            }
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", stderr(&output));
            resumed |= stderr(&output).contains("an unfinished build was continued");
            break;
        }
        assert!(kills >= 2 && resumed, "{kills} kills");
        assert!(contents(&killed) == contents(&whole), "{dedup}: a killed build gives other bytes");
        let saved: serde_json::Value =
            serde_json::from_slice(&std::fs::read(whole.join("manifest.json")).unwrap()).unwrap();
        assert_eq!(saved["sources"][0]["dropped"].is_object(), dedup == "exact");
    }
}

#[test]
fn a_note_that_does_not_fit_its_files_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let line = |n: u32| format!("{{\"text\": \"document {n} {}\"}}\n", "word ".repeat(400));
    std::fs::write(dir.path().join("a.jsonl"), (0..10_000).map(line).collect::<String>()).unwrap();
    let spec = write_spec(dir.path(), dir.path(), r#"{"name": "s", "globs": ["a.jsonl"]}"#);
    let (whole, torn) = (dir.path().join("whole"), dir.path().join("torn"));
    assert!(run(&spec, &whole, "2").status.success());
    let arguments = ["build", "--note-every", "0", "--spec", &spec, "--out", &torn.to_string_lossy()];
    let mut child =
        std::process::Command::new(env!("CARGO_BIN_EXE_llmc-data")).args(arguments).spawn().unwrap();
    let partial = torn.join(".partial");
    while !partial.join("s.note.json").exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What a power cut does to pages that were not on the disk yet.
    if let Ok(mut file) = std::fs::OpenOptions::new().write(true).open(partial.join("s.train.bin")) {
        file.write_all(&[0; 64]).unwrap();
    }
    assert!(run(&spec, &torn, "2").status.success());
    assert!(contents(&torn) == contents(&whole));
}
