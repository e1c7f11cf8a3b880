//! How long each op takes at the shapes of the quickstart. Run by hand, on a quiet machine:
//! `cargo test --release -p llmc-runtime --test ops speed -- --ignored --nocapture`

use std::time::Instant;

use llmc_plan::model::{Rope, RopeMethod};
use llmc_plan::op::{self, Op};
use llmc_plan::plan::OptimizerKind;
use tch::{Device, Kind, Tensor};

use crate::support::{At, TestHost, bench, randn, scalar, try_run, unset};

/// Tokens, width, feed-forward width, heads, key–value heads, head width, vocabulary.
const SHAPE: [i64; 7] = [2048, 256, 688, 8, 4, 32, 4096];
/// Tokens a sequence.
const CONTEXT: i64 = 512;

fn time(name: &str, flops: f64, op: impl Into<Op>, inputs: &[&Tensor], outputs: &[&Tensor]) {
    let op = op.into();
    let mut best = f64::INFINITY;
    let before: Vec<Tensor> = outputs.iter().map(|t| t.copy()).collect();
    for _ in 0..20 {
        for (output, before) in outputs.iter().zip(&before) {
            output.shallow_clone().copy_(before);
        }
        let start = Instant::now();
        try_run(&op, &mut TestHost::default(), At::default(), inputs, outputs).expect(name);
        best = best.min(start.elapsed().as_secs_f64());
    }
    let bytes: usize = inputs.iter().chain(outputs).map(|t| t.numel() * t.kind().elt_size_in_bytes()).sum();
    let rates =
        format!("{:7.1} GFLOP/s {:6.1} GB/s of operands", flops / best / 1e9, bytes as f64 / best / 1e9);
    println!("{name:<34} {:9.3} ms {rates}", best * 1e3);
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    let _bench = bench();
    for kind in [Kind::Float, Kind::BFloat16] {
        println!("{kind:?}, {SHAPE:?}, context {CONTEXT}, {} threads", tch::get_num_threads());
        measure(kind);
    }
}

fn measure(kind: Kind) {
    let [n, h, f, heads, kv, d, v] = SHAPE;
    let x = randn(&[n, h], kind);
    let y = unset(&[n, h], kind);
    let (ids, positions) = (
        Tensor::randint(v, [n], (Kind::Int64, Device::Cpu)),
        Tensor::arange(n, (Kind::Int64, Device::Cpu)).remainder(CONTEXT),
    );
    let (embedding, d_embedding) = (randn(&[v, h], kind), Tensor::zeros([v, h], (Kind::Float, Device::Cpu)));
    time("embedding.forward", 0.0, op::EmbeddingForward::default(), &[&embedding, &ids], &[&y]);
    time("embedding.backward", 0.0, op::EmbeddingBackward::default(), &[&x, &ids], &[&d_embedding]);

    let (w, rstd) = (randn(&[h], kind), unset(&[n], Kind::Float));
    time("norm.forward", 0.0, op::NormForward { eps: 1e-5 }, &[&x, &w], &[&y, &rstd]);
    let (dy, dw) = (randn(&[n, h], kind), Tensor::zeros([h], (Kind::Float, Device::Cpu)));
    let backward = op::NormBackwardInput { accumulate: true };
    time("norm.backward_input", 0.0, backward, &[&dy, &x, &w, &rstd], &[&y]);
    time("norm.backward_weight", 0.0, op::NormBackwardWeight {}, &[&dy, &x, &rstd], &[&dw]);

    for (name, rows) in [("qkv", (heads + 2 * kv) * d), ("gate_up", 2 * f), ("head", v)] {
        let (w, out) = (randn(&[rows, h], kind), randn(&[n, rows], kind));
        let dw = Tensor::zeros([rows, h], (Kind::Float, Device::Cpu));
        let flops = 2.0 * (n * rows * h) as f64;
        time(&format!("gemm {name} forward"), flops, op::Gemm::FORWARD, &[&x, &w], &[&out]);
        time(&format!("gemm {name} input gradient"), flops, op::Gemm::INPUT_GRADIENT, &[&out, &w], &[&y]);
        time(&format!("gemm {name} weight gradient"), flops, op::Gemm::WEIGHT_GRADIENT, &[&out, &x], &[&dw]);
    }

    let rope = Rope { method: RopeMethod::None, factor: 1.0, original_context: CONTEXT as u64, theta: 1e4 };
    let (cos, sin) = (unset(&[CONTEXT, d / 2], Kind::Float), unset(&[CONTEXT, d / 2], Kind::Float));
    time("rope.tables", 0.0, op::RopeTables { rope }, &[], &[&cos, &sin]);
    let qkv = randn(&[n, (heads + 2 * kv) * d], kind);
    let (heads_u, kv_u, d_u) = (heads as u64, kv as u64, d as u64);
    let rotate = op::RopeRotate { heads: heads_u, kv_heads: kv_u, head_dim: d_u, inverse: false };
    time("rope.rotate", 0.0, rotate, &[&cos, &sin, &positions], &[&qkv]);
    for (name, length) in [("attention", CONTEXT), ("attention 64-token documents", 64)] {
        let bounds: Vec<i32> = (0..=n / length).map(|i| (i * length) as i32).collect();
        let lengths = Tensor::from_slice(&bounds);
        let forward = op::AttentionForward {
            heads: heads_u,
            kv_heads: kv_u,
            head_dim: d_u,
            sequences: (n / CONTEXT) as u64,
            context: CONTEXT as u64,
            document_mask: true,
            deterministic: false,
        };
        let flops = 2.0 * (n * length * heads * d) as f64;
        let (out, lse, dqkv) =
            (unset(&[n, heads * d], kind), unset(&[heads, n], Kind::Float), qkv.zeros_like());
        time(&format!("{name} forward"), flops, forward.clone(), &[&qkv, &lengths], &[&out, &lse]);
        let backward = op::AttentionBackward { forward };
        time(
            &format!("{name} backward"),
            2.5 * flops,
            backward,
            &[&dy, &qkv, &out, &lse, &lengths, &cos, &sin, &positions],
            &[&dqkv],
        );
    }

    let (gate_up, product) = (randn(&[n, 2 * f], kind), randn(&[n, f], kind));
    time("swiglu.forward", 0.0, op::SwigluForward {}, &[&gate_up], &[&product]);
    time("swiglu.backward", 0.0, op::SwigluBackward {}, &[&product], &[&gate_up]);
    time("add", 0.0, op::Add {}, &[&x, &dy], &[&y]);
    time("dropout", 0.0, op::Dropout { p: 0.1, site: "s".into() }, &[], &[&y]);
    let (logits, weights, sum) =
        (randn(&[n, v], kind), Tensor::ones([n], (Kind::Float, Device::Cpu)), scalar(0.0));
    let inverse = scalar(1.0 / n as f64);
    let vocab = v as u64;
    time("cross_entropy.eval", 0.0, op::CrossEntropyEval { vocab }, &[&logits, &ids, &weights], &[&sum]);
    time(
        "cross_entropy.train",
        0.0,
        op::CrossEntropyTrain { vocab },
        &[&ids, &weights, &inverse],
        &[&logits, &sum],
    );

    let states: Vec<Tensor> = (0..4).map(|_| Tensor::zeros([v, h], (Kind::Float, Device::Cpu))).collect();
    let adamw = op::Optimize {
        kind: OptimizerKind::Adamw,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        lr_multiplier: 1.0,
        weights: op::Weights::Whole,
    };
    let (one, zero) = (scalar(1.0), scalar(0.0));
    time("squared_norm 1 M", 0.0, op::SquaredNorm {}, &[&states[0]], &[&sum]);
    time(
        "adamw 1 M",
        0.0,
        adamw,
        &[&states[0], &one, &one, &zero, &one],
        &[&states[1], &states[2], &states[3]],
    );
}
