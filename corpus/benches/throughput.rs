//! Measures the corpus against the bars of its issue: `cargo bench -p llmc-corpus -- [NAME…]`.
//!
//! `ids`, `encode` and `dedup` need `LLMC_BENCH_TEXT`, patterns of JSONL files separated by colons;
//! the first two also `LLMC_BENCH_TOKENIZER`, a tokenizer.json with `<|endoftext|>`. Every figure is the median of five runs, with the fastest beside it, and every
//! rate is per second of wall time and of CPU time: on a shared machine only the latter is steady.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use llmc_corpus::build::Observer;
use llmc_corpus::dedup::{self, Exact, Near, Signature};
use llmc_corpus::output::{Dtype, ShardWriter, Tokens};
use llmc_corpus::tokenizer::Encoder;
use llmc_corpus::{Loader, Stream, loader, open};
use llmc_plan::batch::{Batch, BatchShape};
use llmc_plan::data::{DataSpec, FileInfo, Manifest, SourceInfo, SplitInfo, TokenizerInfo};
use llmc_plan::lang::Said;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::hint::black_box;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

const RUNS: usize = 5;
/// Alternations of two things that are compared.
const TURNS: usize = 15;
const CONTEXT: u32 = 4097;

#[allow(unsafe_code)]
fn main() {
    // SAFETY: nothing else runs yet. As `llmc-data` does.
    unsafe { std::env::set_var("FASTOKENS_BPE_THREADS", "1") }
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    if let [only, dir, sample] = &arguments[..]
        && only == "first-batch"
    {
        return first_batch(Path::new(dir), sample.parse().unwrap());
    }
    let all: [(&str, fn()); 6] = [
        ("ids", ids),
        ("encode", encode),
        ("write", write),
        ("batch", batches),
        ("open", open_large),
        ("dedup", dedup),
    ];
    for (name, bench) in all {
        if arguments.is_empty() || arguments.iter().any(|a| a == name) {
            bench();
        }
    }
}

/// CPU seconds of this process, all threads, finished ones included.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Wall and CPU seconds of some work.
fn seconds(mut work: impl FnMut()) -> (f64, f64) {
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    work();
    (wall.elapsed().as_secs_f64(), cpu_seconds() - cpu)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs `work` and prints amount per second.
fn report(what: &str, unit: &str, amount: f64, mut work: impl FnMut()) {
    let mut walls = Vec::new();
    let mut cpus = Vec::new();
    for _ in 0..RUNS {
        let (wall, cpu) = seconds(&mut work);
        walls.push(wall);
        cpus.push(cpu);
    }
    walls.sort_by(f64::total_cmp);
    cpus.sort_by(f64::total_cmp);
    let rate = |seconds: f64| amount / seconds.max(1e-9);
    println!(
        "{what:<52} {:>8.1} {unit} (fastest {:>8.1}); by CPU time {:>8.1}",
        rate(walls[RUNS / 2]),
        rate(walls[0]),
        rate(cpus[RUNS / 2])
    );
}

/// The texts of JSONL files.
fn texts(pattern: &str) -> Vec<String> {
    let mut all = Vec::new();
    for path in glob::glob(pattern).unwrap() {
        let lines = std::fs::read_to_string(path.unwrap()).unwrap();
        all.extend(lines.lines().map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            value["text"].as_str().unwrap().to_owned()
        }));
    }
    all
}

fn patterns() -> Vec<String> {
    std::env::var("LLMC_BENCH_TEXT")
        .unwrap_or_default()
        .split(':')
        .filter(|p| !p.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The encoding specification for one group of files.
fn text_spec(pattern: &str) -> Option<DataSpec> {
    let Ok(tokenizer) = std::env::var("LLMC_BENCH_TOKENIZER") else {
        println!("skipped: LLMC_BENCH_TOKENIZER is not set");
        return None;
    };
    let spec = serde_json::json!({
        "context": 4096, "validation": {"fraction": 0.0},
        "tokenizer": {"import": tokenizer}, "sources": [{"name": "s", "globs": [pattern]}]
    });
    Some(serde_json::from_value(spec).unwrap())
}

fn encoder(spec: &DataSpec) -> Encoder {
    Encoder::import(spec.tokenizer.import.as_ref().unwrap().as_ref(), &spec.tokenizer).unwrap()
}

/// Both encoders over every document.
fn ids() {
    for pattern in patterns() {
        let Some(spec) = text_spec(&pattern) else { return };
        let (encoder, documents) = (encoder(&spec), texts(&pattern));
        let differ =
            |text: &&String| encoder.encode(text).unwrap() != encoder.encode_reference(text).unwrap();
        let count = documents.par_iter().filter(differ).count();
        let bytes: usize = documents.iter().map(String::len).sum();
        println!(
            "{pattern}: {} documents, {bytes} bytes, {count} with other ids than `tokenizers`",
            documents.len()
        );
    }
}

/// When the first document was about to be read: reading the tokenizer comes once, however much text follows,
/// and is in neither side of the comparison; nor is freeing it.
#[derive(Default)]
struct Begun(Mutex<Option<(Instant, f64)>>);

impl Observer for Begun {
    fn phase(&self, name: &Said, _: u64) {
        if name.en == "encode" {
            *self.0.lock().unwrap() = Some((Instant::now(), cpu_seconds()));
        }
    }

    fn advance(&self, _: u64) {}
}

/// The whole pipeline against nothing but the encoder, in turns: neighbours on the machine slow both.
/// `RAYON_NUM_THREADS=1` for one thread, which alone compares like with like: with more, the pipeline's caches are begun
/// while the tokenizer is read, and the library's at its first text.
fn encode() {
    for pattern in patterns() {
        let Some(spec) = text_spec(&pattern) else { return };
        let documents = texts(&pattern);
        let megabytes = documents.iter().map(String::len).sum::<usize>() as f64 / 1e6;
        let name = Path::new(&pattern).file_name().unwrap().to_string_lossy().into_owned();
        let json = std::fs::read(spec.tokenizer.import.as_ref().unwrap()).unwrap();
        let (mut library, mut alone, mut whole) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..TURNS {
            let fastokens = fastokens::Tokenizer::from_json(serde_json::from_slice(&json).unwrap()).unwrap();
            library.push(seconds(|| {
                documents.iter().for_each(|text| drop(black_box(fastokens.encode(text).unwrap())));
            }));
            drop(fastokens);
            let mut encoder = Some(encoder(&spec));
            alone.push(seconds(|| {
                let encode = |text: &String| encoder.as_ref().unwrap().encode(text).unwrap();
                documents.iter().for_each(|text| drop(black_box(encode(text))));
            }));
            let dropped = seconds(|| drop(encoder.take()));
            let dir = tempfile::tempdir().unwrap();
            let begun = Begun::default();
            drop(llmc_corpus::build(&spec, dir.path(), &begun).unwrap());
            let (wall, cpu) = begun.0.into_inner().unwrap().unwrap();
            whole.push((wall.elapsed().as_secs_f64() - dropped.0, cpu_seconds() - cpu - dropped.1));
        }
        for (kind, of) in [("wall", (|t| t.0) as fn(&(f64, f64)) -> f64), ("CPU", |t| t.1)] {
            let rate = |times: &Vec<(f64, f64)>| megabytes / median(times.iter().map(of).collect());
            let share = |of_what: &Vec<(f64, f64)>| {
                100.0 * median(of_what.iter().zip(&whole).map(|(a, w)| of(a) / of(w)).collect())
            };
            println!(
                "{name}: by {kind} time, read, encode, write {:.1} MB/s; fastokens' own `encode` {:.1} MB/s: {:.1} %; \
                 fastokens as called here {:.1} MB/s: {:.1} %",
                rate(&whole),
                rate(&library),
                share(&library),
                rate(&alone),
                share(&alone)
            );
        }
    }
}

fn dedup() {
    for pattern in patterns() {
        let documents = texts(&pattern);
        let megabytes = documents.iter().map(String::len).sum::<usize>() as f64 / 1e6;
        let name = Path::new(&pattern).file_name().unwrap().to_string_lossy().into_owned();
        // Every text whose hash was seen is compared byte by byte with the first of that hash.
        report(&format!("{name}: exact duplicates"), "MB/s", megabytes, || {
            let mut exact = Exact::default();
            let hashes: Vec<u128> = documents.iter().map(|text| Exact::hash(text)).collect();
            let mut copies = Vec::new();
            exact.admit_all(&hashes, |n, new| copies.extend((!new).then_some(n)));
            let first = dedup::firsts(&hashes, &copies);
            let equal = copies.iter().filter(|&&n| documents[first[&hashes[n]]] == documents[n]).count();
            assert_eq!(equal, copies.len());
        });
        report(&format!("{name}: near duplicates"), "MB/s", megabytes, || {
            let mut near = Near::new(0.8);
            let admit = |text: &&String| Signature::of(text).is_some_and(|s| near.admit(s).is_some());
            black_box(documents.iter().filter(admit).count());
        });
    }
}

fn write() {
    let documents: Vec<Vec<u32>> =
        (0..1000u32).map(|n| (0..400 + n % 800).map(|i| i * 7919 % 32000).collect()).collect();
    let tokens: usize = documents.iter().map(Vec::len).sum();
    let rounds = 100;
    let dir = tempfile::tempdir().unwrap();
    report(".idx/.bin from ids", "M tokens/s", (rounds * tokens) as f64 / 1e6, || {
        let mut writer = ShardWriter::create(&dir.path().join("s"), Dtype::U16).unwrap();
        for _ in 0..rounds {
            let mut group = Tokens::new(Dtype::U16);
            documents.iter().for_each(|ids| group.push(ids).unwrap());
            writer.append(&group).unwrap();
        }
        writer.finish().unwrap();
    });
}

fn manifest(vocab: u32, sources: &[(String, u64)], files: BTreeMap<String, FileInfo>) -> Manifest {
    let split = |shards: Vec<String>, tokens| SplitInfo { shards, tokens, ..SplitInfo::default() };
    let source = |(name, tokens): &(String, u64)| SourceInfo {
        name: name.clone(),
        train: split(vec![format!("{name}.train")], *tokens),
        validation: split(Vec::new(), 0),
        ..SourceInfo::default()
    };
    Manifest {
        format_version: "1.0".into(),
        tokenizer: TokenizerInfo { file: "none".into(), sha256: String::new(), vocab, end_of_document: 0 },
        sources: sources.iter().map(source).collect(),
        train: SplitInfo::default(),
        validation: SplitInfo::default(),
        files,
    }
}

fn spec(sources: &[(String, u64)], mask: bool, packing: &str) -> DataSpec {
    let sources: Vec<_> =
        sources.iter().map(|(name, _)| serde_json::json!({"name": name, "globs": ["x"]})).collect();
    serde_json::from_value(serde_json::json!({
        "context": CONTEXT, "document_mask": mask, "packing": packing, "seed": 1,
        "tokenizer": {"vocab": 32000}, "sources": sources
    }))
    .unwrap()
}

const SHAPE: BatchShape = BatchShape { sequences: 8, context: CONTEXT, max_documents: 8 * 64 };

/// 97 M tokens in 242,288 documents, as in the peers' measurement.
fn batches() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = BTreeMap::new();
    let mut sources = Vec::new();
    for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
        let prefix = dir.path().join(format!("{name}.train"));
        let mut writer = ShardWriter::create(&prefix, Dtype::U16).unwrap();
        let mut state = n as u64 + 1;
        for _ in 0..80_763 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let length = 100 + (state >> 33) as u32 % 600;
            writer
                .push(&(0..length).map(|i| (state as u32 ^ (i * 40_503)) % 32_000).collect::<Vec<_>>())
                .unwrap();
        }
        sources.push((name.to_owned(), writer.tokens));
        let (bin, idx) = writer.finish().unwrap().unwrap();
        files.insert(format!("{name}.train.bin"), bin);
        files.insert(format!("{name}.train.idx"), idx);
    }
    std::fs::write(
        dir.path().join("manifest.json"),
        serde_json::to_vec(&manifest(32_000, &sources, files)).unwrap(),
    )
    .unwrap();
    let steps = 2000;
    let tokens = (steps * SHAPE.tokens()) as f64 / 1e6;
    for (mask, packing) in [(false, "concat"), (true, "concat"), (true, "best_fit"), (true, "padding")] {
        let stream: Stream = open(dir.path(), &spec(&sources, mask, packing), SHAPE, 8).unwrap();
        let mut batch = Batch::default();
        report(
            &format!("batches, {packing}, mask {mask}, padding {:.3}", stream.padding()),
            "M tokens/s",
            tokens,
            || {
                for step in 0..steps {
                    stream.fill(step, 0, 0, 1, &mut batch).unwrap();
                    black_box(&batch);
                }
            },
        );
    }
    let stream = Arc::new(open(dir.path(), &spec(&sources, true, "concat"), SHAPE, 8).unwrap());
    report("batches, concat, mask true, through the loader", "M tokens/s", tokens, || {
        let part = loader::Part { first_step: 0, end_step: steps, accumulation: 1, rank: 0, ranks: 1 };
        let mut loader = Loader::start(stream.clone(), part, 4);
        while let Some(loaded) = loader.next_batch() {
            loader.recycle(black_box(loaded.unwrap()).batch);
        }
    });
}

/// Ten sparse shards of 10¹² tokens in 10⁹ documents each: only the ends of the index are written.
fn open_large() {
    let dir = tempfile::tempdir().unwrap();
    let (documents, tokens) = (1_000_000_000u64, 1_000_000_000_000u64);
    let mut sources = Vec::new();
    let mut files = BTreeMap::new();
    for n in 0..10 {
        let name = format!("s{n}");
        let bin = File::create(dir.path().join(format!("{name}.train.bin"))).unwrap();
        bin.set_len(2 * tokens).unwrap();
        let mut idx = File::create(dir.path().join(format!("{name}.train.idx"))).unwrap();
        let mut header = b"MMIDIDX\0\0".to_vec();
        header.extend(1u64.to_le_bytes());
        header.push(8);
        header.extend(documents.to_le_bytes());
        header.extend((documents + 1).to_le_bytes());
        let length = header.len() as u64 + 12 * documents + 8 * (documents + 1);
        idx.set_len(length).unwrap();
        idx.write_all(&header).unwrap();
        let mut put = |at: u64, bytes: &[u8]| {
            idx.seek(SeekFrom::Start(at)).unwrap();
            idx.write_all(bytes).unwrap();
        };
        let last = 1000u32;
        put(34 + 4 * (documents - 1), &last.to_le_bytes());
        put(34 + 4 * documents + 8 * (documents - 1), &(2 * (tokens - u64::from(last))).to_le_bytes());
        put(length - 8, &documents.to_le_bytes());
        for end in ["bin", "idx"] {
            files.insert(format!("{name}.train.{end}"), FileInfo { bytes: 0, xxh3: String::new() });
        }
        sources.push((name, tokens));
    }
    std::fs::write(
        dir.path().join("manifest.json"),
        serde_json::to_vec(&manifest(32_000, &sources, files)).unwrap(),
    )
    .unwrap();
    for sample in [0u64, 1_000_000_000] {
        let mut times: Vec<f64> = (0..9)
            .map(|_| {
                let start = Instant::now();
                let status = std::process::Command::new(std::env::current_exe().unwrap())
                    .args(["first-batch", dir.path().to_str().unwrap(), &sample.to_string()])
                    .status()
                    .unwrap();
                assert!(status.success());
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!(
            "sparse 10T tokens, process start to batch at sample {sample:<12} {:>6.1} ms (fastest {:.1})",
            times[4], times[0]
        );
    }
}

fn first_batch(dir: &Path, sample: u64) {
    let sources: Vec<_> = (0..10).map(|n| (format!("s{n}"), 0)).collect();
    let mut stream = open(dir, &spec(&sources, true, "concat"), SHAPE, 8).unwrap();
    let cursor = llmc_corpus::Cursor { next_sample: sample, data_hash: stream.data_hash().to_owned() };
    stream.resume(sample / 8, &cursor).unwrap();
    let batch = stream.batch(sample / 8, 0, 0, 1).unwrap();
    assert_eq!(batch.ids.len() as u64, SHAPE.tokens());
}
