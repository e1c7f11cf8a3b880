//! The stream as a function of (specification, seed, sample number).
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Documents, spec, write_corpus};
use llmc_corpus::loader::Part;
use llmc_corpus::{Loader, Stream, open};
use llmc_plan::batch::{Batch, BatchShape, NO_SOURCE};
use llmc_plan::data::{DataSpec, MixStage};
use proptest::prelude::*;
use std::sync::Arc;

const END: u32 = 0;

/// Documents of unique ids, so that a token tells where it came from. Ends with `END`.
fn unique(lengths: &[usize], next: &mut u32) -> Documents {
    lengths
        .iter()
        .map(|&length| {
            let mut ids: Vec<u32> = (*next..*next + length as u32).collect();
            *next += length as u32;
            ids.push(END);
            ids
        })
        .collect()
}

fn stream(
    dir: &std::path::Path,
    sources: &str,
    mask: bool,
    context: u32,
    sequences: u32,
    global: u64,
) -> Stream {
    stream_in_windows(0, dir, sources, mask, context, sequences, global)
}

fn stream_in_windows(
    window: u64,
    dir: &std::path::Path,
    sources: &str,
    mask: bool,
    context: u32,
    sequences: u32,
    global: u64,
) -> Stream {
    let spec = spec(&format!(
        r#"{{"tokenizer": {{"vocab": 300}}, "context": {context}, "seed": 7, "document_mask": {mask},
            "mix": {{"window": {window}}}, "sources": [{sources}]}}"#
    ));
    let shape = BatchShape { sequences, context, max_documents: 8 * sequences };
    open(dir, &spec, shape, global).unwrap()
}

const ONE: &str = r#"{"name": "a", "globs": ["a"]}"#;
const TWO: &str = r#"{"name": "a", "globs": ["a"]}, {"name": "b", "globs": ["b"], "weight": 0.25}"#;

fn sequences_of(
    stream: &Stream,
    steps: std::ops::Range<u64>,
    global: u64,
    sequences: u64,
    ranks: u64,
) -> Vec<Vec<u32>> {
    let mut rows = Vec::new();
    for step in steps {
        for micro_batch in 0..global / sequences / ranks {
            for rank in 0..ranks {
                let batch = stream.batch(step, micro_batch, rank, ranks).unwrap();
                rows.extend(
                    batch.ids.chunks((batch.ids.len() as u64 / sequences) as usize).map(<[u32]>::to_vec),
                );
            }
        }
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_epoch_holds_every_token_once(
        lengths in prop::collection::vec(0usize..40, 1..30), context in 1u32..24, mask: bool
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut next = 1;
        let documents = unique(&lengths, &mut next);
        let tokens: usize = documents.iter().map(Vec::len).sum();
        write_corpus(dir.path(), next, &[("a", documents, vec![])]);
        let stream = stream(dir.path(), ONE, mask, context, 1, 1);
        let (_, _, samples) = stream.sources()[0];
        prop_assert_eq!(samples, (tokens as u64).div_ceil(u64::from(context)));
        for epoch in 0..2 {
            let mut seen = vec![0; next as usize];
            for step in epoch * samples..(epoch + 1) * samples {
                let batch = stream.batch(step, 0, 0, 1).unwrap();
                for id in &batch.ids {
                    seen[*id as usize] += 1;
                }
                check(&batch, mask, context as usize)?;
                prop_assert_eq!(batch.weight(), stream.step_weight(step).unwrap());
            }
            prop_assert!(seen[1..].iter().all(|&count| count == 1));
            let padding = samples as usize * context as usize - tokens;
            prop_assert_eq!(seen[END as usize], lengths.len() + padding);
        }
    }

    #[test]
    fn every_packing_holds_every_token_once(
        lengths in prop::collection::vec(0usize..40, 1..30), half in 1u32..12, mask: bool
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut next = 1;
        let documents = unique(&lengths, &mut next);
        write_corpus(dir.path(), next, &[("a", documents, vec![])]);
        let context = 2 * half;
        for packing in ["best_fit", "padding", "buckets"] {
            let mask = mask || packing == "buckets";
            let spec = spec(&format!(
                r#"{{"tokenizer": {{"vocab": 300}}, "context": {context}, "document_mask": {mask},
                    "packing": "{packing}", "sources": [{ONE}]}}"#
            ));
            let shape = BatchShape { sequences: 1, context, max_documents: context };
            // Twice: the side index is written, then found.
            for _ in 0..2 {
                let stream = open(dir.path(), &spec, shape, 1).unwrap();
                let (_, _, samples) = stream.sources()[0];
                let mut seen = vec![0; next as usize];
                let mut weight = 0.0;
                for step in 0..samples {
                    let batch = stream.batch(step, 0, 0, 1).unwrap();
                    batch.ids.iter().for_each(|&id| seen[id as usize] += 1);
                    check(&batch, mask, context as usize)?;
                    prop_assert_eq!(batch.merged_documents, 0);
                    prop_assert_eq!(batch.weight(), stream.step_weight(step).unwrap());
                    weight += batch.weight();
                }
                prop_assert!(seen[1..].iter().all(|&count| count == 1));
                let tokens: usize = lengths.iter().map(|l| l + 1).sum();
                let rows = (samples * u64::from(context)) as f64;
                prop_assert!((stream.padding() - (1.0 - tokens as f64 / rows)).abs() < 1e-12);
                if mask {
                    prop_assert_eq!(weight as usize, tokens - lengths.len());
                }
            }
        }
    }

    #[test]
    fn the_layout_does_not_change_the_samples(
        lengths in prop::collection::vec(1usize..60, 4..20), mask: bool, steps in 1u64..6
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut next = 1;
        let (a, b) = (unique(&lengths, &mut next), unique(&lengths[..3], &mut next));
        write_corpus(dir.path(), next, &[("a", a, vec![]), ("b", b, vec![])]);
        // Given, so that a run may go on with another global batch.
        let window = 4;
        let reference = sequences_of(&stream_in_windows(window, dir.path(), TWO, mask, 8, 12, 12), 0..steps, 12, 12, 1);
        for (sequences, ranks) in [(1, 1), (1, 12), (2, 3), (3, 4), (6, 2)] {
            let other = stream_in_windows(window, dir.path(), TWO, mask, 8, sequences as u32, 12);
            prop_assert_eq!(&sequences_of(&other, 0..steps, 12, sequences, ranks), &reference);
        }
        // Resumed at any step, also with another global batch, the rest is the same.
        let mut resumed = stream_in_windows(window, dir.path(), TWO, mask, 8, 2, 4);
        let cursor = stream_in_windows(window, dir.path(), TWO, mask, 8, 12, 12).cursor(1).unwrap();
        prop_assert_eq!(cursor.next_sample, 12);
        resumed.resume(1, &cursor).unwrap();
        prop_assert_eq!(&sequences_of(&resumed, 1..1 + 3 * (steps - 1), 4, 2, 2), &reference[12..].to_vec());
    }
}

/// What must hold in any batch of unique ids.
fn check(batch: &Batch, mask: bool, context: usize) -> Result<(), TestCaseError> {
    let tokens = batch.ids.len();
    prop_assert_eq!(batch.cu_seqlens[0], 0);
    prop_assert_eq!(*batch.cu_seqlens.last().unwrap() as usize, tokens);
    prop_assert!(batch.cu_seqlens.is_sorted());
    for row in 0..tokens / context {
        prop_assert!(batch.cu_seqlens.contains(&((row * context) as u32)));
    }
    for (at, &position) in batch.positions.iter().enumerate() {
        let segment = batch.cu_seqlens.iter().rev().find(|&&start| start as usize <= at).unwrap();
        prop_assert_eq!(position, at as u32 - segment);
    }
    for at in 0..tokens {
        let (id, target) = (batch.ids[at], batch.targets[at]);
        if batch.weights[at] == 1.0 && id != END && target != END {
            prop_assert_eq!(target, id + 1);
        }
        if mask && id == END {
            prop_assert_eq!(batch.weights[at], 0.0, "the end of a document has no target under a mask");
        }
    }
    Ok(())
}

#[test]
fn a_document_mask_written_out() {
    let dir = tempfile::tempdir().unwrap();
    // 11 tokens: [1 2 E] [3 E] [4 5 6 7 8 E]
    write_corpus(dir.path(), 9, &[("a", vec![vec![1, 2, 0], vec![3, 0], vec![4, 5, 6, 7, 8, 0]], vec![])]);
    let spec = spec(
        r#"{"tokenizer": {"vocab": 300}, "context": 8, "document_mask": true, "sources": [{"name": "a", "globs": ["a"]}]}"#,
    );
    let shape = BatchShape { sequences: 2, context: 8, max_documents: 6 };
    let stream = open(dir.path(), &spec, shape, 2).unwrap();
    let batch = stream.batch(0, 0, 0, 1).unwrap();
    // The order of the two samples depends on the seed; put the full one first to compare.
    let first = if batch.ids[0] == 1 { 0 } else { 8 };
    assert_eq!(batch.ids[first..first + 8], [1, 2, 0, 3, 0, 4, 5, 6]);
    assert_eq!(batch.targets[first..first + 8], [2, 0, 3, 0, 4, 5, 6, 7]);
    assert_eq!(batch.weights[first..first + 8], [1., 1., 0., 1., 0., 1., 1., 1.]);
    assert_eq!(batch.positions[first..first + 8], [0, 1, 2, 0, 1, 0, 1, 2]);
    let last = 8 - first;
    assert_eq!(batch.ids[last..last + 8], [7, 8, 0, 0, 0, 0, 0, 0]);
    assert_eq!(batch.weights[last..last + 8], [1., 1., 0., 0., 0., 0., 0., 0.]);
    assert_eq!(batch.positions[last..last + 8], [0, 1, 2, 0, 1, 2, 3, 4]);
    let expected = if first == 0 { [0, 3, 5, 8, 11, 16, 16] } else { [0, 3, 8, 11, 13, 16, 16] };
    assert_eq!(batch.cu_seqlens, expected);
    assert_eq!(stream.step_weight(0).unwrap(), 8.0);
    assert_eq!(batch.merged_documents, 0);
}

#[test]
fn documents_beyond_the_allowance_share_a_segment_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    write_corpus(dir.path(), 9, &[("a", vec![vec![1, 0]; 8], vec![])]);
    let spec = spec(
        r#"{"tokenizer": {"vocab": 300}, "context": 16, "document_mask": true, "sources": [{"name": "a", "globs": ["a"]}]}"#,
    );
    let shape = BatchShape { sequences: 1, context: 16, max_documents: 3 };
    let batch = open(dir.path(), &spec, shape, 1).unwrap().batch(0, 0, 0, 1).unwrap();
    assert_eq!(batch.cu_seqlens, [0, 2, 4, 16]);
    assert_eq!(batch.merged_documents, 5);
    assert_eq!(batch.weight(), 8.0);
}

#[test]
fn validation_is_complete_and_the_same_for_every_seed() {
    let dir = tempfile::tempdir().unwrap();
    let mut next = 1;
    let (train, a, b) = (unique(&[50], &mut next), unique(&[9, 30], &mut next), unique(&[17], &mut next));
    let first_held_out = a[0][0];
    write_corpus(dir.path(), next, &[("a", train.clone(), a), ("b", train, b)]);
    let read = |seed: u64| -> Vec<Batch> {
        let mut spec =
            spec(&format!(r#"{{"tokenizer": {{"vocab": 300}}, "context": 8, "sources": [{TWO}]}}"#));
        spec.seed = seed;
        let shape = BatchShape { sequences: 4, context: 8, max_documents: 4 };
        open(dir.path(), &spec, shape, 4).unwrap().validation().map(Result::unwrap).collect()
    };
    let batches = read(1);
    assert_eq!(batches, read(2));
    let mut ids: Vec<u32> =
        batches.iter().flat_map(|b| b.ids.iter().copied()).filter(|&id| id != END).collect();
    ids.sort_unstable();
    assert_eq!(ids, (first_held_out..next).collect::<Vec<_>>());
    // 41 + 18 tokens are 6 + 3 samples: three batches of four, three rows of padding.
    let padding = batches.iter().flat_map(|b| &b.sources).filter(|&&s| s == NO_SOURCE).count();
    assert_eq!((batches.len(), padding), (3, 3));
    // One target is missing at the end of each of the two shards.
    assert_eq!(batches.iter().map(Batch::weight).sum::<f64>(), 41.0 + 18.0 - 2.0);
}

#[test]
fn a_source_that_runs_out_is_an_error_at_a_sample_known_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut next = 1;
    let (a, b) = (unique(&[159], &mut next), unique(&[31], &mut next));
    write_corpus(dir.path(), next, &[("a", a, vec![]), ("b", b, vec![])]);
    let limited = r#"{"name": "a", "globs": ["a"], "weight": 3}, {"name": "b", "globs": ["b"], "weight": 1, "max_epochs": 2.5}"#;
    let stream = stream(dir.path(), limited, false, 8, 1, 1);
    // Two and a half times 4 samples of b, every fourth sample: about sample 40.
    let available = stream.available_samples().unwrap();
    assert!((39..=43).contains(&available), "{available}");
    assert!(stream.batch(available - 1, 0, 0, 1).is_ok());
    let error = stream.batch(available, 0, 0, 1).unwrap_err().to_string();
    assert!(error.contains("source `b` has been read as often as its limit of 2.5 epochs allows"), "{error}");
    assert!(stream.reaches(available).is_ok());
    assert_eq!(stream.reaches(available + 1).unwrap_err().to_string(), error);
    assert!(stream.step_weight(available).is_err());
}

#[test]
fn the_loader_gives_the_stream_in_order_and_says_how_long_it_was_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut next = 1;
    let documents = unique(&[50, 60, 70], &mut next);
    write_corpus(dir.path(), next, &[("a", documents, vec![])]);
    let stream = Arc::new(stream(dir.path(), ONE, true, 8, 2, 8));
    let part = Part { first_step: 2, end_step: 5, accumulation: 2, rank: 1, ranks: 2 };
    let mut loader = Loader::start(stream.clone(), part, 3);
    for step in 2..5 {
        for micro_batch in 0..2 {
            let loaded = loader.next_batch().unwrap().unwrap();
            assert_eq!((loaded.step, loaded.micro_batch), (step, micro_batch));
            assert_eq!(loaded.batch, stream.batch(step, micro_batch, 1, 2).unwrap());
            assert_eq!(loaded.step_weight(), stream.step_weight(step).unwrap());
            loader.recycle(loaded.batch);
        }
    }
    assert!(loader.next_batch().is_none());
    let seen = loader.starvation();
    assert_eq!(seen.batches, 6);
    assert!(seen.late <= 6 && (0.0..=1.0).contains(&seen.share()), "{seen:?}");
    // Dropped in the middle, it ends; an error is delivered once.
    drop(Loader::start(stream.clone(), part, 1));
    let outside = Part { rank: 7, ..part };
    let mut loader = Loader::start(stream, outside, 1);
    assert!(loader.next_batch().unwrap().is_err());
    assert!(loader.next_batch().is_none());
}

#[test]
fn a_replayed_ledger_gives_the_same_samples() {
    let dir = tempfile::tempdir().unwrap();
    let mut next = 1;
    let (a, b) = (unique(&[300, 500], &mut next), unique(&[200], &mut next));
    write_corpus(dir.path(), next, &[("a", a, vec![]), ("b", b, vec![])]);
    let mut changed = stream(dir.path(), TWO, true, 8, 2, 4);
    let before = changed.batch(9, 0, 0, 1).unwrap();
    let weights = [("b".to_owned(), 0.75)].into_iter().collect();
    let entry = changed.change_mix(10, weights, "b is behind").unwrap();
    assert_eq!(entry.at_sample, 40);
    assert_eq!(changed.batch(9, 0, 0, 1).unwrap(), before);
    let mut replayed = stream(dir.path(), TWO, true, 8, 2, 4);
    replayed.replay(&[entry]).unwrap();
    let mut of_b = 0;
    for step in 5..20 {
        for micro_batch in 0..2 {
            let [x, y] = [&changed, &replayed].map(|s| s.batch(step, micro_batch, 0, 1).unwrap());
            assert_eq!(x, y);
            of_b += if step < 10 { 0 } else { x.source_counts(2)[1] };
        }
    }
    // Three quarters of forty.
    assert_eq!(of_b, 30);
    let error = changed.change_mix(3, Default::default(), "too late").unwrap_err().to_string();
    assert!(error.contains("a stage at sample 12 follows one at sample 40"), "{error}");
}

/// Shares that follow losses keep floors, and never read a source more often than it may be.
#[test]
fn a_followed_mixture_keeps_floors_and_epoch_limits() {
    let dir = tempfile::tempdir().unwrap();
    let mut next = 1;
    let (a, b) = (unique(&[800, 800], &mut next), unique(&[200, 200], &mut next));
    write_corpus(dir.path(), next, &[("a", a, vec![]), ("b", b, vec![])]);
    let spec = spec(
        r#"{"tokenizer": {"vocab": 300}, "context": 8, "seed": 7,
            "mix": {"dynamic": {"every_steps": 4, "rate": 1.0, "smoothing": 0.0}},
            "sources": [{"name": "a", "globs": ["a"], "weight": 0.8, "min_share": 0.3},
                        {"name": "b", "globs": ["b"], "weight": 0.2, "max_epochs": 2}]}"#,
    );
    let shape = BatchShape { sequences: 4, context: 8, max_documents: 4 };
    let mut stream = open(dir.path(), &spec, shape, 4).unwrap();
    let (limit, mut of_b, mut most) = (2 * stream.sources()[1].2, 0, 0.0f64);
    for step in 0..100 {
        if step > 0 && step % 4 == 0 {
            // `b` is behind at first, `a` later.
            let losses = if step < 60 { [Some(1.0), Some(4.0)] } else { [Some(5.0), None] };
            let weights = stream.followed(step, 100, &losses).unwrap().unwrap();
            most = most.max(weights["b"]);
            assert!(weights["a"] >= 0.3, "{weights:?}");
            stream.change_mix(step, weights, "test").unwrap();
        }
        of_b += stream.batch(step, 0, 0, 1).unwrap().source_counts(2)[1];
    }
    // Four hundred samples, of which `b` may give a hundred.
    assert!(of_b <= limit && of_b > limit * 9 / 10, "{of_b} of {limit}");
    assert!(most < 0.3, "the limit is spread over the rest of the run: {most}");
    // A stage that wants a quarter of the last two hundred samples leaves about fifty to those before it.
    let mut staged = spec.clone();
    staged.mix.stages = vec![MixStage {
        at_sample: 200,
        start: None,
        weights: [("a".into(), 0.75), ("b".into(), 0.25)].into(),
        reason: String::new(),
    }];
    let mut stream = open(dir.path(), &staged, shape, 4).unwrap();
    let mut of_b = [0, 0];
    for step in 0..100 {
        if step > 0 && step % 10 == 0 {
            let weights = stream.followed(step, 100, &[Some(1.0), Some(4.0)]).unwrap();
            assert_eq!(weights.is_none(), step == 50, "the stage begins with its own shares");
            weights.map(|weights| stream.change_mix(step, weights, "test").unwrap());
        }
        of_b[usize::from(step >= 50)] += stream.batch(step, 0, 0, 1).unwrap().source_counts(2)[1];
    }
    assert!(of_b[0] + of_b[1] <= limit && of_b[0] >= 45 && of_b[1] == 50, "{of_b:?} of {limit}");
    let wrong = DataSpec { sources: spec.sources[..1].to_vec(), ..spec };
    let error = llmc_corpus::spec::check(&wrong).unwrap_err().to_string();
    assert!(error.contains("mix.dynamic needs several sources"), "{error}");
}

/// Five sources of very different sizes over 10,000 steps, as batches have them: every step within one sequence of its
/// target, every source's total within 0.01 %.
#[test]
fn realised_shares_at_every_step_of_a_long_run() {
    const SHARES: [f64; 5] = [0.47, 0.23, 0.17, 0.1, 0.03];
    let dir = tempfile::tempdir().unwrap();
    let mut next = 1;
    let mut documents = |count: usize| unique(&vec![15; count], &mut next);
    let corpus = [("a", 400), ("b", 3), ("c", 90), ("d", 1), ("e", 50)];
    let corpus = corpus.map(|(name, count)| (name, documents(count), vec![]));
    write_corpus(dir.path(), next, &corpus);
    let sources: Vec<String> = (corpus.iter().zip(SHARES))
        .map(|((name, ..), share)| format!(r#"{{"name": "{name}", "globs": ["{name}"], "weight": {share}}}"#))
        .collect();
    let (steps, sequences) = (10_000, 64);
    let stream = stream(dir.path(), &sources.join(","), false, 4, sequences, u64::from(sequences));
    let (mut totals, mut worst) = ([0u64; 5], 0.0f64);
    for step in 0..steps {
        let counts = stream.batch(step, 0, 0, 1).unwrap().source_counts(5);
        for ((total, count), share) in totals.iter_mut().zip(counts).zip(SHARES) {
            worst = worst.max((count as f64 - share * f64::from(sequences)).abs());
            *total += count;
        }
    }
    println!("{worst:.4} sequences off target at most");
    assert!(worst < 1.0, "{worst}");
    for (total, share) in totals.iter().zip(SHARES) {
        let target = share * (steps * u64::from(sequences)) as f64;
        assert!((*total as f64 - target).abs() < 1e-4 * target, "{total} of {target}");
    }
}

#[test]
fn a_cursor_of_other_data_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_corpus(dir.path(), 9, &[("a", vec![vec![1, 2, 3, 0]], vec![])]);
    let cursor = stream(dir.path(), ONE, false, 2, 1, 1).cursor(5).unwrap();
    assert!(stream(dir.path(), ONE, false, 2, 1, 1).resume(5, &cursor).is_ok());
    let error = stream(dir.path(), ONE, true, 2, 1, 1).resume(5, &cursor).unwrap_err().to_string();
    assert!(error.contains("other data"), "{error}");
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_corpus(dir.path(), 9, &[("a", vec![vec![1, 2, 3, 0]], vec![])]);
    let spec = spec(&format!(r#"{{"tokenizer": {{"vocab": 300}}, "context": 2, "sources": [{ONE}]}}"#));
    let shape = BatchShape { sequences: 2, context: 2, max_documents: 2 };
    for (shape, global) in [
        (BatchShape { context: 4, ..shape }, 2),
        (BatchShape { sequences: 0, ..shape }, 2),
        (BatchShape { max_documents: 3, ..shape }, 2),
        (BatchShape { max_documents: 0, ..shape }, 2),
        (shape, 3),
        (shape, 0),
    ] {
        assert!(open(dir.path(), &spec, shape, global).is_err(), "{shape:?} {global}");
    }
    let stream = open(dir.path(), &spec, shape, 4).unwrap();
    assert!(stream.batch(0, 1, 1, 2).is_err());
    assert!(stream.batch(0, 0, 0, 0).is_err());
    assert!(stream.batch(0, 0, 2, 2).is_err());
    assert!(stream.batch(u64::MAX, 0, 0, 1).is_err());
    assert!(stream.batch(0, u64::MAX, 0, 1).is_err());
}

/// Windows of 6 tokens every 2 in rows of 8: every token but the first of a shard is a target once, and each is
/// seen after at least 3 others unless the shard has no more before it.
#[test]
fn sliding_windows_count_every_token_once() {
    for (tokens, mask, packing) in
        [(30, false, "concat"), (31, true, "best_fit"), (4, false, "concat"), (6, true, "concat")]
    {
        let dir = tempfile::tempdir().unwrap();
        let ids: Vec<u32> = (1..=tokens).collect();
        write_corpus(dir.path(), tokens + 1, &[("a", vec![vec![1, END]], vec![ids])]);
        let spec = spec(&format!(
            r#"{{"tokenizer": {{"vocab": 300}}, "context": 8, "document_mask": {mask}, "packing": "{packing}",
                "validation": {{"window": 6, "stride": 2}}, "sources": [{ONE}]}}"#
        ));
        let shape = BatchShape { sequences: 1, context: 8, max_documents: 8 };
        let stream = open(dir.path(), &spec, shape, 1).unwrap();
        let mut counted = vec![0; tokens as usize + 2];
        for batch in stream.validation() {
            let batch = batch.unwrap();
            for at in 0..8 {
                if batch.weights[at] > 0.0 {
                    assert_eq!(batch.targets[at], batch.ids[at] + 1);
                    assert_eq!(batch.positions[at] as usize, at);
                    counted[batch.targets[at] as usize] += 1;
                    assert!(at >= 3 || batch.ids[0] == 1, "{tokens}: {at} before {:?}", batch.targets[at]);
                }
            }
            assert!(batch.weights[6..].iter().all(|&w| w == 0.0));
        }
        let expected: Vec<i32> =
            (0..tokens as i32 + 2).map(|id| i32::from((2..=tokens as i32).contains(&id))).collect();
        assert_eq!(counted, expected, "{tokens}");
    }
}

/// `mix < base >= 20% ... at 50% < ... > >`: a floor holds in every stage, and stages begin with a step.
#[test]
fn a_base_guard_holds_in_every_stage() {
    let dir = tempfile::tempdir().unwrap();
    let mut next = 1;
    let (a, b) = (unique(&[300, 500], &mut next), unique(&[200], &mut next));
    write_corpus(dir.path(), next, &[("base", a, vec![]), ("law", b, vec![])]);
    let mut spec = spec(
        r#"{"tokenizer": {"vocab": 300}, "context": 8,
            "mix": {"stages": [{"start": 0.5, "weights": {"law": 0.95}}, {"start": 0.8, "weights": {"law": 0.4}}]},
            "sources": [{"name": "base", "globs": ["a"], "min_share": 0.2}, {"name": "law", "globs": ["b"], "weight": 0.6}]}"#,
    );
    let shape = BatchShape { sequences: 10, context: 8, max_documents: 10 };
    let error = open(dir.path(), &spec, shape, 10).err().unwrap().to_string();
    assert!(error.contains("a stage begins at 50 % of a run whose steps are not known here"), "{error}");
    spec.mix = spec.mix.at_steps(21, 10);
    let stream = open(dir.path(), &spec, shape, 10).unwrap();
    let law: Vec<u64> =
        (0..21).map(|step| stream.batch(step, 0, 0, 1).unwrap().source_counts(2)[1]).collect();
    // Steps 0 to 10, 11 to 16, 17 to 20: 10.5 and 16.8 rounded. 95 % is more than the guard allows.
    let expected = [[6; 11].as_slice(), &[8; 6], &[4; 4]].concat();
    assert_eq!(law, expected);
    let tokens = stream.source_tokens(21).unwrap();
    let law = 8 * expected.iter().sum::<u64>();
    assert_eq!((tokens["law"], tokens["base"]), (law, 8 * 210 - law));
}
