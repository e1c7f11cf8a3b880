//! Megatron shards that are read where they lie, by the real program.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{llmc_data, stderr};
use llmc_corpus::output::Dtype;
use llmc_corpus::{Stream, open};
use llmc_plan::batch::BatchShape;
use llmc_plan::data::{DataSpec, Packing};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const CONTEXT: u32 = 16;

fn documents() -> Vec<Vec<u32>> {
    (1..60u32).map(|n| (0..n % 23).map(|i| 1 + (n * 7 + i) % 120).chain([0]).collect()).collect()
}

/// A shard of some dtype, as another program would write it.
fn write(prefix: &Path, code: u8, documents: &[Vec<u32>]) {
    let width = Dtype::of_code(code).unwrap().width() as usize;
    let (sequences, mut pointer) = (documents.len() as u64, 0u64);
    let mut idx = b"MMIDIDX\0\0".to_vec();
    idx.extend(1u64.to_le_bytes());
    idx.push(code);
    idx.extend(sequences.to_le_bytes());
    idx.extend((sequences + 1).to_le_bytes());
    documents.iter().for_each(|ids| idx.extend((ids.len() as u32).to_le_bytes()));
    for ids in documents {
        idx.extend(pointer.to_le_bytes());
        pointer += (ids.len() * width) as u64;
    }
    (0..=sequences).for_each(|n| idx.extend(n.to_le_bytes()));
    let bin: Vec<u8> =
        documents.concat().iter().flat_map(|&id| u64::from(id).to_le_bytes()[..width].to_vec()).collect();
    std::fs::write(prefix.with_extension("idx"), idx).unwrap();
    std::fs::write(prefix.with_extension("bin"), bin).unwrap();
}

/// A tokenizer of 300 entries, a folder of foreign files, and a specification for them.
fn scene(root: &Path, more: &str) -> std::path::PathBuf {
    std::fs::create_dir_all(root.join("text")).unwrap();
    std::fs::write(root.join("text/a.txt"), "some text, some text, some text").unwrap();
    let spec =
        r#"{"context": 16, "tokenizer": {"vocab": 300}, "sources": [{"name": "t", "globs": ["text/*"]}]}"#;
    std::fs::write(root.join("text.json"), spec).unwrap();
    let path = |name: &str| root.join(name).to_string_lossy().into_owned();
    let made = llmc_data(
        &["tokenizer", "train", "--spec", &path("text.json"), "--out", &path("tokenizer.json")],
        &[],
    );
    assert!(made.status.success(), "{}", stderr(&made));
    let spec = format!(
        r#"{{"context": {CONTEXT}, "document_mask": true, "packing": "best_fit", "seed": 3,
            "tokenizer": {{"import": "tokenizer.json"}}, "validation": {{"fraction": 0, "globs": ["foreign/v.bin"]}},
            "sources": [{{"name": "s", "globs": ["foreign/*.bin"]{more}}}]}}"#
    );
    std::fs::create_dir_all(root.join("foreign")).unwrap();
    let to = root.join(format!("data{}.json", more.len()));
    std::fs::write(&to, spec).unwrap();
    to
}

fn build(spec: &Path, out: &Path) -> std::process::Output {
    llmc_data(&["build", "--spec", &spec.to_string_lossy(), "--out", &out.to_string_lossy()], &[])
}

fn stream(spec: &Path, out: &Path, packing: Packing) -> Stream {
    let mut spec: DataSpec = serde_json::from_slice(&std::fs::read(spec).unwrap()).unwrap();
    spec.packing = packing;
    open(out, &spec, BatchShape { sequences: 2, context: CONTEXT, max_documents: 32 }, 4).unwrap()
}

const IN_PLACE: &str = r#", "in_place": true"#;

/// The same samples as from a copy, for every dtype, from a folder that cannot be written; the side index lies
/// with the corpus and is written once.
#[test]
fn gives_what_a_copy_gives() {
    for code in [1, 2, 3, 4, 5, 8] {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let (copied, linked) = (scene(root, ""), scene(root, IN_PLACE));
        let foreign = root.join("foreign");
        let documents = documents();
        let (first, second) = documents.split_at(40);
        write(&foreign.join("a"), code, first);
        write(&foreign.join("b"), code, second);
        write(&foreign.join("v"), code, &documents[..5]);
        std::fs::set_permissions(&foreign, std::fs::Permissions::from_mode(0o555)).unwrap();
        let before: Vec<_> = std::fs::read_dir(&foreign).unwrap().map(|e| e.unwrap().file_name()).collect();
        for (spec, out) in [(&copied, "copy"), (&linked, "link")] {
            let output = build(spec, &root.join(out));
            assert!(output.status.success(), "{}", stderr(&output));
        }
        let link = root.join("link/s.train.1.bin");
        assert_eq!(std::fs::read_link(&link).unwrap(), foreign.canonicalize().unwrap().join("b.bin"));
        let samples = |spec: &Path, out: &str, packing| {
            let stream = stream(spec, &root.join(out), packing);
            let validation = stream.validation_batch(0).unwrap().ids;
            let (_, _, rows) = stream.sources()[0];
            // All rows of an epoch, whose order depends on how many shards there are for packed ones.
            let mut all: Vec<Vec<u32>> = (0..rows.div_ceil(4))
                .flat_map(|step| [0, 1].map(|micro| stream.batch(step, micro, 0, 1).unwrap().ids))
                .flat_map(|ids| ids.chunks(CONTEXT as usize).map(<[u32]>::to_vec).collect::<Vec<_>>())
                .take(rows as usize)
                .collect();
            all.sort();
            (validation, all.concat().len(), all)
        };
        // One document a row: the same rows, however the documents are spread over shards.
        let (a, b) = (samples(&copied, "copy", Packing::Padding), samples(&linked, "link", Packing::Padding));
        assert_eq!(a, b, "dtype {code}");
        let stats = |out: &str| {
            let output = llmc_data(&["stats", &root.join(out).to_string_lossy(), "--format", "json"], &[]);
            let stats: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            ["tokens", "documents", "unigram_entropy"].map(|key| stats["train"][key].clone())
        };
        assert_eq!(stats("copy"), stats("link"));
        let index = root.join(format!("link/s.train.padding-{CONTEXT}.pack"));
        let written = std::fs::metadata(&index).unwrap().modified().unwrap();
        drop(stream(&linked, &root.join("link"), Packing::Padding));
        assert_eq!(std::fs::metadata(&index).unwrap().modified().unwrap(), written);
        let after: Vec<_> = std::fs::read_dir(&foreign).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(before, after, "its folder is only read");
        let again = build(&linked, &root.join("link"));
        assert!(stderr(&again).contains("up to date"), "{}", stderr(&again));
        std::fs::set_permissions(&foreign, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn what_cannot_be_read_in_place_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let spec = scene(dir.path(), IN_PLACE);
    let foreign = dir.path().join("foreign");
    let refused = |files: &dyn Fn()| {
        files();
        let output = build(&spec, &dir.path().join("out"));
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        for entry in std::fs::read_dir(&foreign).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        stderr(&output).replace(&format!("{}/", foreign.to_string_lossy()), "").trim_end().to_owned()
    };
    let whole = || {
        write(&foreign.join("v"), 8, &documents());
        write(&foreign.join("a"), 8, &documents());
    };
    let said = refused(&|| {
        whole();
        write(&foreign.join("a"), 8, &[vec![5, 0], vec![6, 7]]);
    });
    assert_eq!(
        said,
        "llmc-data: a.bin, byte 6: expected the id 0, which ends a document, before token 4, found 7; leave in_place \
         out: the copy that is made then has what is missing here"
    );
    let said = refused(&|| {
        whole();
        write(&foreign.join("a"), 8, &[vec![5, 300, 0]]);
    });
    assert!(said.starts_with("llmc-data: a.bin, byte 2: expected an id below the vocabulary size"), "{said}");
    let said = refused(&|| {
        whole();
        std::fs::write(foreign.join("a.bin"), [1, 0, 0]).unwrap();
    });
    let bytes = 2 * documents().concat().len();
    let expected =
        format!("a.bin: expected the {bytes} bytes that its index describes, found 3 bytes; write it again");
    assert!(said.contains(&expected), "{said}");
    let text = std::fs::read_to_string(&spec).unwrap().replace("foreign/*.bin", "text/*");
    let said = refused(&|| {
        whole();
        std::fs::write(&spec, &text).unwrap();
    });
    assert!(said.contains("expected a .bin with its .idx beside it, since the source is in_place"), "{said}");
}
