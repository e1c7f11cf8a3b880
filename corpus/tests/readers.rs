//! Parquet, WebDataset tars and Megatron shards give the documents that text files give.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::spec;
use llmc_corpus::build;
use llmc_corpus::indexed::Indexed;
use llmc_corpus::output::{Dtype, ShardWriter};
use llmc_corpus::tokenizer::Encoder;
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

const TEXTS: [&str; 4] =
    ["One document.", "Zwei, mit Umlaut: ä", "三个文件。", "a\nfourth\twith \"quotes\" and 12345"];

/// Ids of all documents of the only source of a folder built from `globs`.
fn documents(root: &Path, globs: &str, more: &str) -> Result<Vec<Vec<u32>>, String> {
    let out = tempfile::tempdir().unwrap();
    let spec = spec(&format!(
        r#"{{"root": {root:?}, "context": 8, "validation": {{"fraction": 0}}, {more}
            "sources": [{{"name": "s", "globs": [{globs:?}]}}]}}"#
    ));
    let report = build(&spec, out.path(), &()).map_err(|e| e.to_string())?;
    for warning in report.warnings.iter().map(|w| &w.en).filter(|w| !w.contains("gives a vocabulary")) {
        println!("{warning}");
    }
    let shard = Indexed::open(&out.path().join("s.train"), 1 << 30).unwrap();
    let starts: Vec<u64> = (0..=shard.documents()).map(|d| shard.document_start(d).unwrap()).collect();
    let read = |pair: &[u64]| {
        let mut ids = vec![0; (pair[1] - pair[0]) as usize];
        shard.read(pair[0], &mut ids).unwrap();
        ids
    };
    Ok(starts.windows(2).map(read).collect())
}

const TRAIN: &str = r#""tokenizer": {"vocab": 300},"#;

fn lines(dir: &Path, name: &str) {
    let text: String =
        TEXTS.iter().map(|t| serde_json::json!({"id": 1, "text": t}).to_string() + "\n").collect();
    std::fs::write(dir.join(name), text).unwrap();
}

fn tar(path: &Path, members: &[(&str, &[u8])]) {
    let mut tar = tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    tar.finish().unwrap();
}

/// Values, definition levels, repetition levels of a row group.
type Group<T> = (Vec<T>, Vec<i16>, Vec<i16>);

/// Writes one column in row groups.
fn parquet_of<T: parquet::data_type::DataType>(
    path: &Path,
    schema: &str,
    groups: &[Group<T::T>],
    compression: Compression,
) {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut writer =
        SerializedFileWriter::new(std::fs::File::create(path).unwrap(), schema, properties).unwrap();
    for (values, definition, repetition) in groups {
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let definition = (!definition.is_empty()).then_some(definition.as_slice());
        let repetition = (!repetition.is_empty()).then_some(repetition.as_slice());
        column.typed::<T>().write_batch(values, definition, repetition).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

fn text_parquet(path: &Path, compression: Compression) {
    let text = |n: usize| ByteArray::from(TEXTS[n]);
    let groups =
        [(vec![text(0), text(1)], vec![1, 0, 1], vec![]), (vec![text(2), text(3)], vec![0, 1, 1], vec![])];
    parquet_of::<ByteArrayType>(path, "message m { optional binary text (UTF8); }", &groups, compression);
}

#[test]
fn every_container_gives_the_same_documents() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    lines(root, "a.jsonl");
    let expected = documents(root, "a.jsonl", TRAIN).unwrap();
    assert_eq!(expected.len(), 4);
    for (n, compression) in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(Default::default()),
        Compression::GZIP(Default::default()),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("b{n}.parquet");
        text_parquet(&root.join(&name), compression);
        assert_eq!(documents(root, &name, TRAIN).unwrap(), expected, "{compression:?}");
    }
    let json = serde_json::json!({"text": TEXTS[1]}).to_string();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(TEXTS[2].as_bytes()).unwrap();
    let members: [(&str, &[u8]); 6] = [
        ("000.txt", TEXTS[0].as_bytes()),
        ("000.jpg", b"\xff\xd8\xff not text"),
        ("001.json", json.as_bytes()),
        ("002.txt.gz", &gz.finish().unwrap()),
        ("003.cls", b"7"),
        ("dir/003.txt", TEXTS[3].as_bytes()),
    ];
    tar(&root.join("c.tar"), &members);
    assert_eq!(documents(root, "c.tar", TRAIN).unwrap(), expected);
    let packed = zstd::encode_all(&std::fs::read(root.join("c.tar")).unwrap()[..], 1).unwrap();
    std::fs::write(root.join("d.tar.zst"), packed).unwrap();
    assert_eq!(documents(root, "d.tar.zst", TRAIN).unwrap(), expected);
}

/// A tokenizer of 256 bytes and the end of a document.
fn byte_tokenizer(root: &Path) -> String {
    let spec =
        spec(r#"{"context": 8, "tokenizer": {"vocab": 257}, "sources": [{"name": "a", "globs": ["a"]}]}"#);
    let encoder: Encoder = llmc_corpus::tokenizer::train(&spec.tokenizer, &["x".into()]).unwrap();
    std::fs::write(root.join("tokenizer.json"), encoder.json()).unwrap();
    r#""tokenizer": {"import": "tokenizer.json"}, "#.to_owned()
}

#[test]
fn token_files_of_every_dtype_are_read_and_ends_are_added() {
    let dir = tempfile::tempdir().unwrap();
    let import = byte_tokenizer(dir.path());
    let stored: [&[u32]; 3] = [&[5, 6, 7], &[8, 0], &[9]];
    let expected: [&[u32]; 3] = [&[5, 6, 7, 0], &[8, 0], &[9, 0]];
    for (code, width) in [(1u8, 1usize), (2, 1), (3, 2), (4, 4), (5, 8), (8, 2)] {
        let prefix = dir.path().join(format!("t{code}"));
        let mut writer = ShardWriter::create(&prefix, Dtype::I32).unwrap();
        stored.iter().for_each(|ids| writer.push(ids).unwrap());
        writer.finish().unwrap();
        // The same documents in another width: the dtype code and the pointers change.
        let idx_path = dir.path().join(format!("t{code}.idx"));
        let mut idx = std::fs::read(&idx_path).unwrap();
        idx[17] = code;
        let mut pointer = 0u64;
        for (n, ids) in stored.iter().enumerate() {
            let at = 34 + 12 + 8 * n;
            idx[at..at + 8].copy_from_slice(&pointer.to_le_bytes());
            pointer += (ids.len() * width) as u64;
        }
        std::fs::write(&idx_path, idx).unwrap();
        let bin: Vec<u8> =
            stored.concat().iter().flat_map(|id| u64::from(*id).to_le_bytes()[..width].to_vec()).collect();
        std::fs::write(dir.path().join(format!("t{code}.bin")), bin).unwrap();
        assert_eq!(
            documents(dir.path(), &format!("t{code}.bin"), &import).unwrap(),
            expected,
            "dtype {code}"
        );
    }
    let schema =
        "message m { optional group input_ids (LIST) { repeated group list { optional int64 element; } } }";
    // [5 6 7], null, [8 0] | [], [9]
    let groups = [
        (vec![5, 6, 7, 8, 0], vec![3, 3, 3, 0, 3, 3], vec![0, 1, 1, 0, 0, 1]),
        (vec![9], vec![1, 3], vec![0, 0]),
    ];
    parquet_of::<Int64Type>(&dir.path().join("t.parquet"), schema, &groups, Compression::SNAPPY);
    assert_eq!(documents(dir.path(), "t.parquet", &import).unwrap(), expected);
}

#[test]
fn exported_parquet_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let import = byte_tokenizer(dir.path());
    let expected: Vec<Vec<u32>> = (1..200u32).map(|n| (1..=n % 50).chain([0]).collect()).collect();
    let prefix = dir.path().join("t");
    let mut writer = ShardWriter::create(&prefix, Dtype::U16).unwrap();
    expected.iter().for_each(|ids| writer.push(ids).unwrap());
    writer.finish().unwrap();
    llmc_corpus::export::parquet(&Indexed::open(&prefix, 257).unwrap(), &dir.path().join("e.parquet"))
        .unwrap();
    assert_eq!(documents(dir.path(), "e.parquet", &import).unwrap(), expected);
}

/// What the user reads for each kind of damage, and that skipping leaves exactly it out.
#[test]
fn damage_names_the_place_and_can_be_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let import = byte_tokenizer(root);
    std::fs::write(root.join("good.txt"), "good").unwrap();
    let good = documents(root, "good.txt", &import).unwrap();
    let refused = |name: &str, expected: &str| {
        let error = documents(root, name, &import).unwrap_err();
        assert!(error.starts_with(&format!("{}{expected}", root.join(name).display())), "{error}");
        let skip = format!("{import} \"on_error\": \"skip\",");
        std::fs::create_dir_all(root.join("x")).unwrap();
        let (from, to) = (root.join(name), root.join("x").join(name));
        std::fs::rename(&from, &to).unwrap();
        if name.ends_with(".bin") {
            std::fs::rename(from.with_extension("idx"), to.with_extension("idx")).unwrap();
        }
        std::fs::write(root.join("x/zz.txt"), "good").unwrap();
        let kept = documents(&root.join("x"), "*[!x]", &skip.replace("tokenizer.json", "../tokenizer.json"))
            .unwrap();
        std::fs::remove_dir_all(root.join("x")).unwrap();
        kept
    };
    text_parquet(&root.join("a.parquet"), Compression::SNAPPY);
    let whole = std::fs::read(root.join("a.parquet")).unwrap();
    std::fs::write(root.join("a.parquet"), &whole[..whole.len() - 9]).unwrap();
    assert_eq!(refused("a.parquet", ": expected a Parquet file with its footer, found"), good);
    parquet_of::<ByteArrayType>(
        &root.join("b.parquet"),
        "message m { required binary body (UTF8); }",
        &[(vec![ByteArray::from("x")], vec![], vec![])],
        Compression::UNCOMPRESSED,
    );
    let found = ": expected a column `text` or `content` of strings, or `input_ids` or `tokens` of integers, found the columns body";
    assert_eq!(refused("b.parquet", found), good);
    tar(&root.join("c.tar"), &[("1.txt", b"first"), ("2.txt", &[b'y'; 2000])]);
    let whole = std::fs::read(root.join("c.tar")).unwrap();
    std::fs::write(root.join("c.tar"), &whole[..512 + 512 + 512 + 700]).unwrap();
    let kept = refused("c.tar", ", byte 2236: expected 2000 bytes of 2.txt, found the end of the file");
    assert_eq!(kept.len(), 2);
    std::fs::write(root.join("d.tar"), [b'z'; 700]).unwrap();
    assert_eq!(refused("d.tar", ", byte 0: expected the header of a tar member, found"), good);
    tar(&root.join("e.tar"), &[("1.jpg", b"first")]);
    assert_eq!(
        refused("e.tar", ": expected members named KEY.txt, KEY.json, KEY.jsonl or KEY.input_ids.npy"),
        good
    );
    let mut writer = ShardWriter::create(&root.join("f"), Dtype::U16).unwrap();
    writer.push(&[1, 2, 300, 4]).unwrap();
    writer.push(&[1, 2]).unwrap();
    writer.finish().unwrap();
    let kept = refused(
        "f.bin",
        ", byte 0: expected token ids below 257, the size of this corpus's tokenizer, found 300; the file was made with another tokenizer",
    );
    assert_eq!(kept.len(), 2);
}

/// An index of wids stands for its tars, which have what it says.
#[test]
fn an_index_names_the_tars() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let import = byte_tokenizer(root);
    std::fs::create_dir(root.join("tars")).unwrap();
    for (n, pair) in TEXTS.chunks(2).enumerate() {
        let members: Vec<(String, &str)> = (pair.iter().enumerate())
            .flat_map(|(k, text)| [(format!("a.b/{k:03}.cls"), "7"), (format!("a.b/{k:03}.seg.txt"), *text)])
            .collect();
        let members: Vec<_> = members.iter().map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
        tar(&root.join(format!("tars/{n}.tar")), &members);
    }
    tar(&root.join("tars/not_listed.tar"), &[("1.txt", b"not listed")]);
    let bytes = std::fs::metadata(root.join("tars/0.tar")).unwrap().len();
    let index = |first: &str| {
        let second = r#"{"url": "tars/1.tar", "nsamples": 2, "md5sum": "not looked at"}"#;
        let json = format!(
            r#"{{"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": [{first}, {second}]}}"#
        );
        std::fs::write(root.join("index.json"), json).unwrap();
        documents(root, "index.json", &import).map_err(|e| e.replace(&format!("{}/", root.display()), ""))
    };
    lines(root, "a.jsonl");
    let expected = documents(root, "a.jsonl", &import).unwrap();
    let good = format!(r#"{{"url": "tars/0.tar", "nsamples": 2, "filesize": {bytes}}}"#);
    assert_eq!(index(&good).unwrap(), expected);
    let said = index(r#"{"url": "tars/0.tar", "nsamples": 2, "filesize": 5}"#).unwrap_err();
    assert_eq!(
        said,
        format!(
            "tars/0.tar: expected 5 bytes, as index.json says, found {bytes} bytes; fetch it again, or write the index \
             again"
        )
    );
    let said = index(r#"{"url": "tars/0.tar", "nsamples": 3}"#).unwrap_err();
    assert_eq!(
        said,
        "tars/0.tar: expected 3 samples, as its index says, found 2; fetch the tar again, or write the index again"
    );
    let said = index(r#"{"url": "https://host/0.tar", "nsamples": 2}"#).unwrap_err();
    assert!(said.starts_with("index.json: expected paths of tars on this machine, found \"https:"), "{said}");
    let said = index(r#"{"url": "tars/none.tar", "nsamples": 2}"#).unwrap_err();
    assert!(said.starts_with("cannot read tars/none.tar: there is no such file"), "{said}");
    let said = index(r#"{"path": "tars/0.tar"}"#).unwrap_err();
    assert!(said.starts_with("index.json: expected an index of wids with a shardlist"), "{said}");
}
