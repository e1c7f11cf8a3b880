//! Nothing read from disk is trusted: a damaged shard gives an error or, where the damage is a valid
//! token, a batch; never a panic, and never an id outside the vocabulary.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{spec, write_corpus};
use llmc_corpus::open;
use llmc_plan::batch::BatchShape;
use proptest::prelude::*;
use std::path::Path;

const VOCAB: u32 = 50;

fn corpus(dir: &Path) {
    let documents = (1..9u32).map(|n| (1..4 * n).map(|id| id % VOCAB).chain([0]).collect()).collect();
    write_corpus(dir, VOCAB, &[("a", documents, vec![vec![1, 2, 3, 0]])]);
}

/// Opens and reads everything; the first error, if any.
fn read_all(dir: &Path) -> Result<(), String> {
    let spec = spec(
        r#"{"tokenizer": {"vocab": 300}, "context": 16, "document_mask": true,
            "sources": [{"name": "a", "globs": ["a"]}]}"#,
    );
    let shape = BatchShape { sequences: 1, context: 16, max_documents: 4 };
    let stream = open(dir, &spec, shape, 1).map_err(|e| e.to_string())?;
    for step in 0..stream.sources()[0].2 {
        stream.step_weight(step).map_err(|e| e.to_string())?;
        let batch = stream.batch(step, 0, 0, 1).map_err(|e| e.to_string())?;
        assert!(batch.ids.iter().chain(&batch.targets).all(|&id| id < VOCAB));
        assert!(batch.cu_seqlens.is_sorted() && batch.cu_seqlens.len() == 5);
    }
    stream.validation().try_for_each(|batch| batch.map(|_| ()).map_err(|e| e.to_string()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn changed_bytes(index: bool, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let dir = tempfile::tempdir().unwrap();
        corpus(dir.path());
        let path = dir.path().join(if index { "a.train.idx" } else { "a.train.bin" });
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        std::fs::write(&path, bytes).unwrap();
        let _ = read_all(dir.path());
    }

    #[test]
    fn changed_lengths(index: bool, length in any::<prop::sample::Index>(), more in 0usize..40) {
        let dir = tempfile::tempdir().unwrap();
        corpus(dir.path());
        let path = dir.path().join(if index { "a.train.idx" } else { "a.train.bin" });
        let mut bytes = std::fs::read(&path).unwrap();
        let before = bytes.len();
        bytes.truncate(length.index(before + 1));
        bytes.resize(bytes.len() + more, 7);
        std::fs::write(&path, &bytes).unwrap();
        let result = read_all(dir.path());
        // Eight extra bytes could only pass for modes of multimodal shards, one for each document.
        prop_assert!(bytes.len() == before || result.is_err() || bytes.len() == before + 8, "{} {before}", bytes.len());
    }

    #[test]
    fn arbitrary_manifests(at in any::<prop::sample::Index>(), byte: u8) {
        let dir = tempfile::tempdir().unwrap();
        corpus(dir.path());
        let path = dir.path().join("manifest.json");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        std::fs::write(&path, bytes).unwrap();
        let _ = read_all(dir.path());
    }
}

#[test]
fn the_undamaged_corpus_reads() {
    let dir = tempfile::tempdir().unwrap();
    corpus(dir.path());
    read_all(dir.path()).unwrap();
}

#[test]
fn errors_name_file_and_offset() {
    // The magic; the dtype; the last pointer, 34 + 4·8 + 8·7 bytes in; an id above the vocabulary.
    for (name, at, byte, expected) in [
        (
            "a.train.idx",
            0,
            b'X',
            "a.train.idx, byte 0: expected a Megatron index, which starts with MMIDIDX, found \"XMIDIDX\\0\\0\"",
        ),
        ("a.train.idx", 17, 7, "a.train.idx, byte 17: expected an integer dtype"),
        ("a.train.idx", 122, 0xFF, "bytes that its index describes, found "),
        (
            "a.train.bin",
            5,
            0x40,
            "a.train.bin, byte 4: expected an id below the vocabulary size 50, found 16",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        corpus(dir.path());
        let path = dir.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] = byte;
        std::fs::write(&path, bytes).unwrap();
        let error = read_all(dir.path()).unwrap_err();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("llmc data build"), "{error}");
    }
}
