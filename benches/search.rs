//! `cargo bench -p llmc-planner`: the layout search. The bars: a 7B on 64 H100 in 50 ms, a 405B on 16,384 in 1 s, each on
//! one core, without any cache between processes.
#![allow(missing_docs)] // criterion's macros write undocumented functions

use criterion::{Criterion, criterion_group, criterion_main};
use llmc_plan::model::{Model, Rope, RopeMethod};
use llmc_planner::question::{Budget, Cluster, Question};
use llmc_planner::solve;

/// Layers, width, heads, key-value heads, feed-forward, vocabulary.
fn question(shape: [u64; 6], nodes: u64, tokens: u64, batch: u64) -> Question {
    let [layers, hidden, heads, kv_heads, ffn, vocab] = shape;
    let model = Model {
        family: "llama".into(),
        params: 0,
        params_non_embedding: 0,
        layers,
        hidden,
        heads,
        kv_heads,
        head_dim: hidden / heads,
        ffn,
        vocab,
        vocab_padded: vocab.div_ceil(128) * 128,
        context: 8192,
        rope: Rope { method: RopeMethod::None, factor: 1.0, original_context: 8192, theta: 10000.0 },
        tied: false,
        norm_eps: 1e-5,
        dropout: 0.0,
        init_std: 0.02,
    };
    let (params, params_non_embedding) = (model.count_params(), model.count_params_non_embedding());
    Question {
        cluster: Some(Cluster { nodes, gpus_per_node: 8 }),
        budget: vec![Budget::Tokens(tokens)],
        batch_tokens: Some(batch),
        ..Question::of(Model { params, params_non_embedding, ..model })
    }
}

fn search(c: &mut Criterion) {
    let small = question([32, 4096, 32, 32, 11008, 32000], 8, 1_000_000_000_000, 4_194_304);
    c.bench_function("7b on 64 H100", |b| b.iter(|| solve(&small)));
    let large = question([126, 16384, 128, 8, 53248, 128256], 2048, 15_600_000_000_000, 16_777_216);
    let mut group = c.benchmark_group("large");
    group.sample_size(10);
    group.bench_function("405b on 16384 H100", |b| b.iter(|| solve(&large)));
    group.finish();
}

criterion_group!(benches, search);
criterion_main!(benches);
