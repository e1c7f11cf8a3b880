//! Bytes a second of every fused kernel at the shapes of a 3B model, 8,192 tokens: a measurement, run by name on a GPU:
//! `LLMC_TEST_DEVICE=cuda ops --ignored --nocapture bandwidth`.

use llmc_plan::op::{self, Op};
use llmc_runtime::cuda::quantise;
use llmc_runtime::ops::{Context, execute};
use tch::{Device, Kind, Tensor};

use crate::support::{TestHost, bench, device, types};

/// What the card copies at (H100 SXM, measured): the bar each kernel is held against.
const COPY: f64 = 3.0e12;

/// Runs `f` often enough to forget the first, and prints its time beside what its bytes need.
fn time(name: &str, bytes: f64, mut f: impl FnMut()) {
    const TIMES: u32 = 20;
    for _ in 0..3 {
        f();
    }
    tch::Cuda::synchronize(0);
    let start = std::time::Instant::now();
    for _ in 0..TIMES {
        f();
    }
    tch::Cuda::synchronize(0);
    let seconds = start.elapsed().as_secs_f64() / f64::from(TIMES);
    println!(
        "{name:24} {:8.1} us  {:5.2} TB/s  predicted {:7.1} us",
        seconds * 1e6,
        bytes / seconds / 1e12,
        bytes / COPY * 1e6
    );
}

#[test]
#[ignore = "a measurement"]
fn bandwidth() {
    let _bench = bench();
    let device = device();
    assert_ne!(device, Device::Cpu, "set LLMC_TEST_DEVICE=cuda");
    let (n, h, f, v, heads, d) = (8192i64, 3072i64, 8192i64, 32_000i64, 24i64, 128i64);
    let make = |shape: &[i64], kind| Tensor::randn(shape, (Kind::Float, device)).to_kind(kind);
    let bf = |shape: &[i64]| make(shape, Kind::BFloat16);
    let f32s = |shape: &[i64]| make(shape, Kind::Float);
    let ints = |high: i64, n: i64| Tensor::randint(high, [n], (Kind::Int64, device));
    let run = |name: &str, op: Op, inputs: &[&Tensor], outputs: &[&Tensor]| {
        let bytes = op.spec().bytes(&types(inputs), &types(outputs)) as f64;
        let [inputs, outputs] =
            [inputs, outputs].map(|all| all.iter().map(|t| t.shallow_clone()).collect::<Vec<_>>());
        time(name, bytes, || {
            let host = &mut TestHost::default();
            let mut at =
                Context { seed: 0, step: 0, layer: 0, micro_batch: 0, first_token: 0, parameter: None, host };
            tch::no_grad(|| execute(&op, &mut at, &inputs, &outputs)).expect("op");
        });
    };
    let (x, w, y, rstd) = (bf(&[n, h]), bf(&[h]), bf(&[n, h]), f32s(&[n]));
    run("norm.forward", op::NormForward { eps: 1e-5 }.into(), &[&x, &w], &[&y, &rstd]);
    let (dx, dw) = (bf(&[n, h]), f32s(&[h]));
    run("norm.backward", op::NormBackward { accumulate: true }.into(), &[&y, &x, &w, &rstd], &[&dx, &dw]);
    let (gate_up, act) = (bf(&[n, 2 * f]), bf(&[n, f]));
    run("swiglu.forward", op::SwigluForward {}.into(), &[&gate_up], &[&act]);
    run("swiglu.backward", op::SwigluBackward {}.into(), &[&act], &[&gate_up]);
    let (cos, sin, positions) = (f32s(&[4096, d / 2]), f32s(&[4096, d / 2]), ints(4096, n));
    let qkv = bf(&[n, 3 * heads * d]);
    let (q, k) = (heads as u64, heads as u64);
    let rotate = op::RopeRotate { heads: q, kv_heads: k, head_dim: d as u64, inverse: false };
    run("rope.rotate", rotate.into(), &[&cos, &sin, &positions], &[&qkv]);
    let (logits, targets) = (bf(&[n, v]), ints(v, n));
    let (weights, one, sum) = (f32s(&[n]), f32s(&[1]), f32s(&[1]));
    run(
        "cross_entropy.eval",
        op::CrossEntropyEval { vocab: v as u64 }.into(),
        &[&logits, &targets, &weights],
        &[&sum],
    );
    let train = op::CrossEntropyTrain { vocab: v as u64 };
    run("cross_entropy.train", train.into(), &[&targets, &weights, &one], &[&logits, &sum]);
    let (table, gradient) = (bf(&[v, h]), f32s(&[v, h]));
    run("embedding.forward", op::EmbeddingForward::default().into(), &[&table, &targets], &[&x]);
    run("embedding.backward", op::EmbeddingBackward::default().into(), &[&x, &targets], &[&gradient]);
    run("squared_norm", op::SquaredNorm {}.into(), &[&gradient], &[&sum]);
    run("accumulate", op::Accumulate {}.into(), &[&table], &[&gradient]);
    run("dropout", op::Dropout { p: 0.1, site: "ffn".into() }.into(), &[], &[&y]);
    let zeros = |kind| Tensor::zeros([v, h], (kind, device));
    let scalar = |value: f64| Tensor::full([1], value, (Kind::Float, device));
    let step = [scalar(1e-4), scalar(1.0), scalar(0.0), scalar(1.0)];
    let adamw = op::Optimize {
        kind: llmc_plan::plan::OptimizerKind::Adamw,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        lr_multiplier: 1.0,
        weights: op::Weights::Master,
    };
    for kind in [Kind::Float, Kind::BFloat16] {
        let (master, m, second) = (f32s(&[v, h]), zeros(kind), zeros(kind));
        let name = format!("adamw {kind:?} moments");
        let inputs = [&gradient, &step[0], &step[1], &step[2], &step[3]];
        run(&name, adamw.clone().into(), &inputs, &[&master, &m, &second, &table]);
    }
    let (amax, scale) = (scalar(4.0), scalar(0.0));
    let eight = |shape: [i64; 2]| Tensor::empty(shape, (Kind::Float8e4m3fn, device));
    let (q, turned) = (eight([n, f]), eight([f, n]));
    time("amax", (2 * n * f) as f64, || quantise::amax(&act, &amax).expect("amax"));
    time("quantise, transposed", (4 * n * f) as f64, || {
        quantise::quantise(&act, &amax, &scale, Some(&q), Some(&turned)).expect("quantise");
    });
}
