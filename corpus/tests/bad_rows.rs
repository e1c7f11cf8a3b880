//! Each kind of bad input by the real program: what it says when it stops, and what it counts when it skips.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{llmc_data, stderr};
use llmc_corpus::output::{Dtype, ShardWriter};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

const GOOD: &[u8] = b"{\"text\": \"some text, some text, some text\"}\n";
/// Longer than a document may be.
const LONG_BYTES: u64 = (128 << 20) + 4321;

/// A kind of bad input beside one good line: what is said after its folder's name, and documents and bytes that
/// are skipped.
struct Row {
    name: &'static str,
    make: fn(&Path),
    said: &'static str,
    skipped: (u64, u64),
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn cut(path: &Path, whole: &[u8], missing: usize) {
    std::fs::write(path, &whole[..whole.len() - missing]).unwrap();
}

fn parquet(path: &Path) {
    let values: Vec<ByteArray> = (0..9).map(|n| ByteArray::from(format!("text {n}").as_str())).collect();
    parquet_of(path, &values);
}

fn parquet_of(path: &Path, values: &[ByteArray]) {
    let schema = Arc::new(parse_message_type("message m { required binary text (UTF8); }").unwrap());
    let properties = WriterProperties::builder().set_compression(Compression::UNCOMPRESSED).build();
    let mut writer =
        SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(values, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

fn tar(path: &Path) -> Vec<u8> {
    tar_of(path, &[("1.txt", b"first"), ("2.txt", &[b'y'; 2000])])
}

fn tar_of(path: &Path, members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    tar.finish().unwrap();
    std::fs::read(path).unwrap()
}

/// A shard of three documents, and its index to spoil.
fn shard(path: &Path, ids: &[u32], spoil: impl Fn(&mut Vec<u8>)) {
    let mut writer = ShardWriter::create(&path.with_extension(""), Dtype::U16).unwrap();
    [&[1, 2, 0], ids, &[3, 0]].into_iter().for_each(|ids| writer.push(ids).unwrap());
    writer.finish().unwrap();
    let idx = path.with_extension("idx");
    let mut bytes = std::fs::read(&idx).unwrap();
    spoil(&mut bytes);
    std::fs::write(&idx, bytes).unwrap();
}

const ROWS: [Row; 21] = [
    Row {
        name: "truncated.jsonl.gz",
        make: |path| cut(path, &gzip(&GOOD.repeat(4000)), 9),
        said: ", byte 176000: expected more data, found incomplete deflate stream; the file is truncated or damaged: fetch it again, or set on_error to skip (recipe: clean < unreadable skip >) to leave its rest out",
        skipped: (1, 0),
    },
    Row {
        name: "truncated.jsonl.zst",
        make: |path| cut(path, &zstd::encode_all(&GOOD.repeat(4000)[..], 1).unwrap(), 3),
        said: ", byte 131072: expected more data, found incomplete frame; the file is truncated or damaged: fetch it again, or set on_error to skip (recipe: clean < unreadable skip >) to leave its rest out",
        // The line that is cut off.
        skipped: (1, 131_072 % 44),
    },
    Row {
        name: "truncated.tar",
        make: |path| {
            let whole = tar(path);
            cut(path, &whole, whole.len() - 2236);
        },
        said: ", byte 2236: expected 2000 bytes of 2.txt, found the end of the file; the file is truncated or damaged: fetch it again, or set on_error to skip (recipe: clean < unreadable skip >) to leave its rest out",
        skipped: (1, 700),
    },
    Row {
        name: "cut_between_members.tar",
        make: |path| {
            let whole = tar(path);
            cut(path, &whole, whole.len() - 1024);
        },
        said: ", byte 1024: expected another member, or the zeros that end a tar, found the end of the file; the file is truncated or damaged: fetch it again, or set on_error to skip (recipe: clean < unreadable skip >) to leave its rest out",
        // How much is missing is not known.
        skipped: (1, 0),
    },
    Row {
        name: "no_ids.tar",
        make: |path| {
            drop(tar_of(path, &[("1.txt", b"first"), ("2.input_ids.npy", b"\x93NUMPY\x01\x00\x04\x00{}  ")]))
        },
        said: ", byte 1536: expected token ids in 2.input_ids.npy: an array of one dimension of integers, found no little-endian integers in the header \"{}\"; write it again with numpy.save, or set on_error to skip (recipe: clean < unreadable skip >) to leave it out",
        skipped: (1, 14),
    },
    Row {
        name: "checksum_missing.tar.gz",
        make: |path| {
            let whole = tar(path);
            cut(path, &gzip(&whole), 5);
        },
        said: ", byte 4096: expected more data, found unexpected end of file; the file is truncated",
        // Every document is there.
        skipped: (1, 0),
    },
    Row {
        name: "something_else.tar",
        make: |path| std::fs::write(path, [0xF7; 1024]).unwrap(),
        said: ", byte 0: expected the header of a tar member, found 512 bytes that are none; the file is truncated or damaged: fetch it again, or set on_error to skip (recipe: clean < unreadable skip >) to leave its rest out",
        skipped: (1, 1024),
    },
    Row {
        name: "lines.tar",
        make: |path| {
            drop(tar_of(path, &[("1.txt", b"first"), ("2.jsonl", b"{\"text\": \"a\"}\n{\"text\": 5}\n")]))
        },
        // Behind two headers, the first text and the first line.
        said: ", line 2 (byte 1559): expected a JSON object with a string field \"text\", found invalid type: integer `5`, expected a string; repair the line",
        skipped: (1, 12),
    },
    Row {
        name: "list.jsonl",
        make: |path| std::fs::write(path, b"[\"text\"]\n").unwrap(),
        said: ", line 1 (byte 0): expected a JSON object with a string field \"text\", found a list; repair the line, or set on_error to skip (recipe: clean < unreadable skip >) to leave it out",
        skipped: (1, 9),
    },
    Row {
        name: "no_json.jsonl",
        make: |path| std::fs::write(path, b"text\n").unwrap(),
        said: ", line 1 (byte 1): expected a JSON object with a string field \"text\", found ",
        skipped: (1, 5),
    },
    Row {
        name: "petastorm.parquet",
        make: |path| {
            parquet_of(path, &["text".into(), b"\x93NUMPY\x01\x00v\x00".to_vec().into(), "more text".into()])
        },
        said: ", row 1: expected text, found a value of petastorm's NdarrayCodec; its decoder is Python: write the column as strings, or set on_error to skip (recipe: clean < unreadable skip >) to leave it out",
        skipped: (1, 10),
    },
    Row {
        name: "truncated.parquet",
        make: |path| {
            parquet(path);
            let whole = std::fs::read(path).unwrap();
            cut(path, &whole, 9);
        },
        said: ": expected a Parquet file with its footer, found ",
        skipped: (1, u64::MAX),
    },
    Row {
        name: "no_utf8.jsonl",
        make: |path| std::fs::write(path, [GOOD, b"{\"text\": \"\xff\"}\n", GOOD].concat()).unwrap(),
        said: ", line 2 (byte 54): expected UTF-8 text, found the byte 0xFF; convert the file to UTF-8, or set on_error to skip (recipe: clean < unreadable skip >) to leave the document out",
        skipped: (1, 14),
    },
    Row {
        name: "no_utf8.txt",
        make: |path| std::fs::write(path, b"abc\xe9def").unwrap(),
        said: ", byte 3: expected UTF-8 text, found the byte 0xE9; convert the file to UTF-8, or set on_error to skip (recipe: clean < unreadable skip >) to leave the document out",
        skipped: (1, 7),
    },
    Row {
        name: "long_line.jsonl",
        make: |path| {
            let mut file = File::create(path).unwrap();
            file.write_all(GOOD).unwrap();
            // Zeros that take no room on the disk.
            file.set_len(44 + LONG_BYTES).unwrap();
            let mut end = File::options().append(true).open(path).unwrap();
            end.write_all(&[b"\n", GOOD].concat()).unwrap();
        },
        said: ", line 2 (byte 44): expected a document of at most 134217728 bytes, found a longer one; split it, or set on_error to skip (recipe: clean < unreadable skip >) to leave it out",
        skipped: (1, LONG_BYTES + 1),
    },
    Row {
        name: "empty.tar",
        make: |path| std::fs::write(path, [0; 1024]).unwrap(),
        said: ": expected members named KEY.txt, KEY.json, KEY.jsonl or KEY.input_ids.npy, found none of them; rename the members that are documents, or narrow the glob to tars that hold some",
        skipped: (1, 1024),
    },
    Row {
        name: "empty.bin",
        make: |path| {
            shard(path, &[5, 0], |idx| idx[18..26].fill(0));
            let mut idx = std::fs::read(path.with_extension("idx")).unwrap();
            idx.truncate(34 + 8);
            idx[26..34].copy_from_slice(&1u64.to_le_bytes());
            std::fs::write(path.with_extension("idx"), idx).unwrap();
            std::fs::write(path, b"").unwrap();
        },
        said: "empty.idx, byte 18: expected at least one document, found 0 sequences; write it again with the program that made it, or set on_error to skip (recipe: clean < unreadable skip >) to leave it out",
        skipped: (1, 0),
    },
    Row {
        name: "outside.bin",
        // The second document's pointer.
        make: |path| {
            shard(path, &[5, 0], |idx| idx[34 + 12 + 8..34 + 12 + 16].copy_from_slice(&4000u64.to_le_bytes()))
        },
        said: "outside.idx, byte 54: expected a multiple of 2 up to 14, found 4000; write it again with the program that made it, or set on_error to skip (recipe: clean < unreadable skip >) to leave it out",
        skipped: (1, 14),
    },
    Row {
        name: "short.bin",
        make: |path| {
            shard(path, &[5, 0], |_| ());
            let whole = std::fs::read(path).unwrap();
            cut(path, &whole, 3);
        },
        said: "short.bin: expected the 14 bytes that its index describes, found 11 bytes; write it again with the program that made it, or set on_error to skip (recipe: clean < unreadable skip >) to leave it out",
        skipped: (1, 11),
    },
    Row {
        name: "other_tokenizer.bin",
        make: |path| shard(path, &[5, 40_000, 0], |_| ()),
        said: ", byte 6: expected token ids below 300, the size of this corpus's tokenizer, found 40000; the file was made with another tokenizer: import that one (tokenizer.import), or set on_error to skip (recipe: clean < unreadable skip >) to leave the document out",
        skipped: (1, 12),
    },
    Row {
        name: "no_index.bin",
        make: |path| std::fs::write(path, [1, 0, 0, 0]).unwrap(),
        said: "",
        skipped: (0, 0),
    },
];

fn build(root: &Path, name: &str, on_error: &str) -> std::process::Output {
    let spec = format!(
        r#"{{"context": 8, "tokenizer": {{"import": "tokenizer.json"}}, "validation": {{"fraction": 0}},
            "on_error": "{on_error}", "sources": [{{"name": "s", "globs": ["{name}", "zz.jsonl"]}}]}}"#
    );
    let path = |name: &str| root.join(name).to_string_lossy().into_owned();
    std::fs::write(root.join("data.json"), spec).unwrap();
    llmc_data(&["build", "--spec", &path("data.json"), "--out", &path(on_error)], &[])
}

#[test]
fn every_row() {
    for row in ROWS {
        let dir = tempfile::tempdir().unwrap();
        let (root, file) = (dir.path(), dir.path().join(row.name));
        std::fs::write(root.join("text.txt"), "some text, some text, some text").unwrap();
        let spec = r#"{"context": 8, "tokenizer": {"vocab": 300}, "sources": [{"name": "t", "globs": ["text.txt"]}]}"#;
        let path = |name: &str| root.join(name).to_string_lossy().into_owned();
        std::fs::write(root.join("text.json"), spec).unwrap();
        let trained = ["tokenizer", "train", "--spec", &path("text.json"), "--out", &path("tokenizer.json")];
        assert!(llmc_data(&trained, &[]).status.success());
        // Too little text for 300 entries; ids are compared with what there is.
        let tokenizer: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path("tokenizer.json")).unwrap()).unwrap();
        let entries = tokenizer["model"]["vocab"].as_object().unwrap().len();
        std::fs::write(root.join("zz.jsonl"), GOOD).unwrap();
        (row.make)(&file);

        let stopped = build(root, row.name, "stop");
        let said = stderr(&stopped);
        assert_eq!(stopped.status.code(), Some(2), "{}: {said}", row.name);
        let said = said.strip_prefix("llmc-data: ").unwrap().replace(&format!("{}/", root.display()), "");
        let expected =
            if row.said.starts_with([',', ':']) { row.name.to_owned() } else { String::new() } + row.said;
        let expected = expected.replace("below 300", &format!("below {entries}"));
        if row.said.is_empty() {
            assert!(said.starts_with("cannot open no_index.idx: there is no such file"), "{said}");
            continue;
        }
        assert!(said.starts_with(&expected) && said.lines().count() == 1, "{}\n{said}\n{expected}", row.name);

        let skipped = build(root, row.name, "skip");
        let told = stderr(&skipped);
        assert!(skipped.status.success(), "{}: {told}", row.name);
        let stats = llmc_data(&["stats", &path("skip"), "--format", "json"], &[]);
        let stats: serde_json::Value = serde_json::from_slice(&stats.stdout).unwrap();
        let source = &stats["sources"][0];
        let (documents, bytes) = row.skipped;
        let length = std::fs::metadata(&file).unwrap().len();
        let bytes = if bytes == u64::MAX { length } else { bytes };
        assert_eq!(source["skipped_documents"], documents, "{}: {told}", row.name);
        assert_eq!(source["skipped_bytes"], bytes, "{}: {told}", row.name);
        let counted = format!("{documents} documents, {bytes} bytes, could not be read and were left out");
        assert!(told.contains(&counted), "{}: {told}", row.name);
        assert!(source["train"]["documents"].as_u64().unwrap() >= 1, "the good line is there");
    }
}
