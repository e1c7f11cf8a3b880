//! The fused kernels: that they compile without a GPU, and, on one (`LLMC_TEST_DEVICE=cuda`), against their twins in
//! f64 on the CPU at the widths of 1B, 3B, 7B and 13B models. On the CPU the same cases hold the f32 and bf16 twins
//! to the f64 ones.

use std::sync::Mutex;

use llmc_plan::op::{self, Op};
use llmc_runtime::cuda::{nvrtc, source};
use llmc_runtime::ops::{Context, execute, math_kind};
use tch::{Device, Kind, Tensor};

use crate::check::assert_close;
use crate::support::{TestHost, bench, device, randn, run, scalar, unset};

/// Kernels of a source, as the launches name them.
const KERNELS: [(&str, &[&str]); 8] = [
    ("embedding", &["embedding_forward", "embedding_prepare", "embedding_mark", "embedding_backward"]),
    ("flat", &["accumulate", "dropout", "square_sum", "add_total", "largest"]),
    ("loss", &["cross_entropy", "add_sum", "add_by_source"]),
    ("norm", &["norm_forward", "norm_backward", "column_sum"]),
    ("optimizer", &["adamw"]),
    ("quantise", &["quantise"]),
    ("rope", &["rope"]),
    ("swiglu", &["swiglu_forward", "swiglu_backward"]),
];

/// Every source in every mode for sm_80 and sm_90: the cases of a run on each, and the odd ones on either.
#[test]
fn every_kernel_compiles() {
    let _bench = bench();
    if let Err(missing) = nvrtc::version() {
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("skipped: {missing}");
        return;
    }
    use source::Element::{Bf16, F16, F32};
    let wanted = |arch: u32, p: &source::Program| match arch {
        80 => (p.element, p.aligned) == (F16, true) || (p.element, p.aligned) == (F32, false),
        _ => p.element == Bf16 || (p.element, p.aligned) == (F32, true),
    };
    let jobs: Vec<(u32, source::Program)> = [80, 90]
        .into_iter()
        .flat_map(|arch| source::all().into_iter().filter(move |p| wanted(arch, p)).map(move |p| (arch, p)))
        .collect();
    assert!(jobs.len() > 50, "{}", jobs.len());
    let queue = Mutex::new(jobs.iter());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((arch, program)) = { queue.lock().expect("queue").next() } {
                    let cubin = nvrtc::compile(program.file, &program.text(), nvrtc::Arch(*arch))
                        .unwrap_or_else(|e| panic!("{program:?}: {e}"));
                    let names = KERNELS.iter().find(|(file, _)| *file == program.file).expect("listed").1;
                    for name in names.iter().filter(|n| **n != "quantise" || *arch >= 89) {
                        let symbol = format!(".text.{name}\0");
                        let found = cubin.windows(symbol.len()).any(|w| w == symbol.as_bytes());
                        assert!(found, "no kernel {name} in {program:?} for sm_{arch}");
                    }
                }
            });
        }
    });
}

/// Runs `op` in f64 on the CPU: operands of `kind` become f64 copies, all others stay. Returns the outputs.
fn twin(op: impl Into<Op>, kind: Kind, inputs: &[&Tensor], outputs: &[&Tensor]) -> Vec<Tensor> {
    let wide = |t: &&Tensor| if t.kind() == kind { t.to_kind(Kind::Double).copy() } else { t.copy() };
    let (inputs, outputs): (Vec<_>, Vec<_>) =
        (inputs.iter().map(wide).collect(), outputs.iter().map(wide).collect());
    let mut host = TestHost::default();
    let mut context = Context {
        seed: 0,
        step: 0,
        layer: 0,
        micro_batch: 0,
        first_token: 0,
        parameter: None,
        host: &mut host,
    };
    tch::no_grad(|| execute(&op.into(), &mut context, &inputs, &outputs)).expect("twin");
    outputs
}

/// Hidden widths of 1B, 3B, 7B, 13B models, and one that no vector access divides.
const HIDDEN: [i64; 5] = [2048, 3072, 4096, 5120, 1027];
/// Their feed-forward widths.
const FFN: [i64; 5] = [5504, 8192, 11_008, 13_824, 1027];
/// f32 and bf16.
const FORMATS: [Kind; 2] = [Kind::Float, Kind::BFloat16];

#[test]
fn norms_at_real_widths() {
    let _bench = bench();
    for kind in FORMATS {
        for h in HIDDEN {
            let n = 257;
            let (x, w, dy) = (randn(&[n, h], kind), randn(&[h], kind), randn(&[n, h], kind));
            let residual = randn(&[n, h], kind);
            // The twin's rstd in f64 is kept apart: rstd of 16-bit operands is f32.
            let rstd64 = unset(&[n], Kind::Double);
            let y = unset(&[n, h], kind);
            let want = twin(op::NormForward { eps: 1e-5 }, kind, &[&x, &w], &[&y, &rstd64]);
            let rstd = unset(&[n], math_kind(kind));
            run(op::NormForward { eps: 1e-5 }, &[&x, &w], &[&y, &rstd]);
            assert_close("y", &y, &want[0], kind);
            assert_close("rstd", &rstd, &want[1], math_kind(kind));
            // The sum is rounded before it is normalised: to the bit what the two ops give one after the other.
            let [sum, apart, y_apart] = [(); 3].map(|()| unset(&[n, h], kind));
            run(op::AddNorm { eps: 1e-5 }, &[&x, &residual, &w], &[&sum, &y, &rstd]);
            run(op::Add {}, &[&x, &residual], &[&apart]);
            let rstd_apart = unset(&[n], math_kind(kind));
            run(op::NormForward { eps: 1e-5 }, &[&apart, &w], &[&y_apart, &rstd_apart]);
            for (one, two) in [(&sum, &apart), (&y, &y_apart), (&rstd, &rstd_apart)] {
                assert!(one.equal(two), "add_norm {kind:?} {h}");
            }
            run(op::NormForward { eps: 1e-5 }, &[&x, &w], &[&y, &rstd]);
            for accumulate in [false, true] {
                let dx = if accumulate { residual.copy() } else { unset(&[n, h], kind) };
                let dw64 = Tensor::ones([h], (Kind::Double, Device::Cpu));
                let op = op::NormBackward { accumulate };
                let want = twin(op.clone(), kind, &[&dy, &x, &w, &want[1]], &[&dx, &dw64]);
                let dw = Tensor::ones([h], (math_kind(kind), Device::Cpu));
                run(op, &[&dy, &x, &w, &rstd], &[&dx, &dw]);
                assert_close("dx", &dx, &want[0], kind);
                assert_close("dw", &dw, &want[1], math_kind(kind));
            }
        }
    }
}

#[test]
fn swiglu_at_real_widths() {
    let _bench = bench();
    for kind in FORMATS {
        for f in FFN {
            let n = 65;
            let (gate_up, dy, out) =
                (randn(&[n, 2 * f], kind) * 3.0, randn(&[n, f], kind), unset(&[n, f], kind));
            let want = twin(op::SwigluForward {}, kind, &[&gate_up], &[&out]);
            run(op::SwigluForward {}, &[&gate_up], &[&out]);
            assert_close("product", &out, &want[0], kind);
            let want = twin(op::SwigluBackward {}, kind, &[&dy], &[&gate_up]);
            run(op::SwigluBackward {}, &[&dy], &[&gate_up]);
            assert_close("gradient", &gate_up, &want[0], kind);
        }
    }
}

#[test]
fn rotation_at_real_widths() {
    let _bench = bench();
    for kind in FORMATS {
        // 1B; 3B; 7B; 13B; grouped queries; a head that no vector access divides.
        for (heads, kv_heads, d) in
            [(16, 16, 128), (24, 24, 128), (32, 32, 128), (40, 40, 128), (24, 8, 64), (5, 3, 12)]
        {
            let (n, context) = (130i64, 300i64);
            let (cos, sin) = (randn(&[context, d / 2], Kind::Double), randn(&[context, d / 2], Kind::Double));
            let positions = Tensor::randint(context, [n], (Kind::Int64, Device::Cpu));
            for inverse in [false, true] {
                let qkv = randn(&[n, (heads + 2 * kv_heads) * d], kind);
                let op = op::RopeRotate {
                    heads: heads as u64,
                    kv_heads: kv_heads as u64,
                    head_dim: d as u64,
                    inverse,
                };
                let want = twin(op.clone(), kind, &[&cos, &sin, &positions], &[&qkv]);
                let (c, s) = (cos.to_kind(math_kind(kind)), sin.to_kind(math_kind(kind)));
                run(op, &[&c, &s, &positions], &[&qkv]);
                assert_close("qkv", &qkv, &want[0], kind);
                let values = (heads + kv_heads) * d;
                let [got, want] = [&qkv, &want[0]].map(|t| t.narrow(1, values, kv_heads * d));
                assert!(got.to_kind(Kind::Double).equal(&want), "values are left alone");
            }
        }
    }
}

#[test]
fn cross_entropy_at_real_widths() {
    let _bench = bench();
    for kind in FORMATS {
        for (vocab, columns) in [(32_000, 32_000), (32_003, 32_064), (32_003, 32_003), (129, 130)] {
            let n = 33;
            let logits = randn(&[n, columns], kind) * 4.0;
            let targets = Tensor::randint(vocab, [n], (Kind::Int64, Device::Cpu));
            let weights = Tensor::rand([n], (Kind::Double, Device::Cpu));
            let _ = weights.narrow(0, 2, 2).fill_(0.0);
            let (inverse, sum) = (scalar(0.25).to_kind(Kind::Double), scalar(3.0).to_kind(Kind::Double));
            let op = op::CrossEntropyEval { vocab: vocab as u64 };
            let want = twin(op.clone(), kind, &[&logits, &targets, &weights.to_kind(Kind::Float)], &[&sum]);
            let got = scalar(3.0);
            let weights32 = weights.to_kind(Kind::Float);
            run(op, &[&logits, &targets, &weights32], &[&got]);
            assert_close("loss", &got, &want[0], Kind::Float);
            let op = op::CrossEntropyTrain { vocab: vocab as u64 };
            let want = twin(op.clone(), kind, &[&targets, &weights32, &inverse], &[&logits, &sum]);
            let got = scalar(3.0);
            run(op, &[&targets, &weights32, &inverse.to_kind(Kind::Float)], &[&logits, &got]);
            assert_close("loss", &got, &want[1], Kind::Float);
            assert_close("gradient", &logits, &want[0], kind);
            let sources = Tensor::randint(5, [n], (Kind::Int, Device::Cpu));
            let sums = Tensor::ones([5], (Kind::Float, Device::Cpu));
            let op = op::CrossEntropyEval { vocab: vocab as u64 };
            let inputs = [&logits, &targets, &weights32, &sources];
            let want = twin(op.clone(), kind, &inputs, &[&got, &sums.to_kind(Kind::Double)]);
            run(op, &inputs, &[&got, &sums]);
            assert_close("loss by source", &sums, &want[1], Kind::Float);
            let padding = logits.narrow(1, vocab, columns - vocab).abs().sum(Kind::Double);
            assert_eq!(padding.double_value(&[]), 0.0);
        }
    }
}

/// Text repeats: one id on a third of the tokens, one on two that lie as far apart as a block looks at once. f32 sums are
/// made in token order, so they equal the CPU's to the bit.
#[test]
fn embeddings_at_real_widths() {
    let _bench = bench();
    for h in HIDDEN {
        let (v, n) = (32_003, 600);
        let ids = Tensor::randint(v, [n], (Kind::Int64, Device::Cpu));
        let _ = ids.slice(0, 0, n, 3).fill_(31_999);
        let _ = ids.narrow(0, 100, 50).fill_(0);
        let _ = ids.slice(0, 200, 329, 128).fill_(7);
        let gradient = Tensor::ones([v, h], (Kind::Float, Device::Cpu));
        let dx = randn(&[n, h], Kind::Float);
        let mut want = gradient.copy().index_add_(0, &ids, &dx);
        run(op::EmbeddingBackward::default(), &[&dx, &ids], &[&gradient]);
        assert!(gradient.equal(&want), "width {h}");
        let x = unset(&[n, h], Kind::Float);
        run(op::EmbeddingForward::default(), &[&gradient, &ids], &[&x]);
        assert!(x.equal(&want.index_select(0, &ids)));
        let narrow = dx.to_kind(Kind::BFloat16);
        let want = want.index_add_(0, &ids, &narrow.to_kind(Kind::Float));
        run(op::EmbeddingBackward::default(), &[&narrow, &ids], &[&gradient]);
        assert!(gradient.equal(&want), "width {h} in bf16");
    }
}

#[test]
fn flat_kernels_take_any_length() {
    let _bench = bench();
    for n in [1, 7, 8, 4096, 1_000_003] {
        for kind in FORMATS {
            let x = randn(&[n], kind);
            let (want, got) = (scalar(0.5).to_kind(Kind::Double), scalar(0.5));
            let want = twin(op::SquaredNorm {}, kind, &[&x], &[&want]);
            run(op::SquaredNorm {}, &[&x], &[&got]);
            assert_close("squared norm", &got, &want[0], Kind::Float);
        }
        let (x, acc) = (randn(&[n], Kind::BFloat16), randn(&[n], Kind::Float));
        let want = &acc + x.to_kind(Kind::Float);
        run(op::Accumulate {}, &[&x], &[&acc]);
        assert!(acc.equal(&want));
    }
}

/// On a device the mask is made there: the same as the host makes.
#[test]
fn dropout_masks_equal_the_hosts() {
    let _bench = bench();
    if device() == Device::Cpu {
        return;
    }
    for (n, kind) in [(1000, Kind::BFloat16), (1001, Kind::Float)] {
        let drop = op::Dropout { p: 0.3, site: "ffn".into() };
        let x = randn(&[n, 3], kind);
        let there = x.to_device(device());
        for t in [&there, &x] {
            let host = &mut TestHost::default();
            let mut at = Context {
                seed: 3,
                step: 9,
                layer: 2,
                micro_batch: 0,
                first_token: 77,
                parameter: None,
                host,
            };
            let done = execute(&drop.clone().into(), &mut at, &[], &[t.shallow_clone()]);
            done.expect("dropout");
        }
        assert!(there.to_device(Device::Cpu).equal(&x));
    }
}
