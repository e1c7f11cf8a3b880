//! RMSNorm, GEMM, SwiGLU, elementwise ops, embedding.

use llmc_plan::op;
use llmc_runtime::ops::math_kind;
use tch::{Device, Kind, Tensor};

use crate::check::{KINDS, assert_close, autograd};
use crate::support::{At, TestHost, bench, device, randn, refused, run, run_at, unset};

fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Tensor {
    x * (x.square().mean_dim(-1, true, Kind::Double) + eps).rsqrt() * w
}

#[test]
fn norm_matches_autograd() {
    let _bench = bench();
    for kind in KINDS {
        // One block, and many blocks with a short last one.
        for (n, h) in [(5, 24), (1031, 264)] {
            let (x, w, dy) = (randn(&[n, h], kind), randn(&[h], kind), randn(&[n, h], kind));
            let (want, grads) = autograd(&[&x, &w], &dy, |t| rms_norm(&t[0], &t[1], 1e-5));
            let (out, rstd) = (unset(&[n, h], kind), unset(&[n], math_kind(kind)));
            run(op::NormForward { eps: 1e-5 }, &[&x, &w], &[&out, &rstd]);
            assert_close("out", &out, &want, kind);

            let dx = unset(&[n, h], kind);
            run(op::NormBackwardInput { accumulate: false }, &[&dy, &x, &w, &rstd], &[&dx]);
            assert_close("dx", &dx, &grads[0], kind);
            run(op::NormBackwardInput { accumulate: true }, &[&dy, &x, &w, &rstd], &[&dx]);
            assert_close("dx twice", &dx, &(&grads[0] * 2.0), kind);

            let dw = Tensor::ones([h], (math_kind(kind), Device::Cpu));
            run(op::NormBackwardWeight {}, &[&dy, &x, &rstd], &[&dw]);
            assert_close("dw", &(dw - 1.0), &grads[1], kind);
        }
    }
}

/// The largest magnitude is found after the norm has given back what it took, at a width where that matters.
#[test]
fn norm_tells_its_largest_magnitude() {
    let _bench = bench();
    let (x, w) = (randn(&[300, 2048], Kind::BFloat16), randn(&[2048], Kind::BFloat16));
    let (out, rstd, most) =
        (unset(&[300, 2048], Kind::BFloat16), unset(&[300], Kind::Float), unset(&[1], Kind::Float));
    run(op::NormForward { eps: 1e-5 }, &[&x, &w], &[&out, &rstd, &most]);
    assert_eq!(most.double_value(&[0]), out.abs().max().double_value(&[]));
}

#[test]
fn gemm_matches_autograd() {
    let _bench = bench();
    for kind in KINDS {
        for (n, k, m) in [(7, 24, 40), (1100, 264, 520)] {
            let (x, w, dy) = (randn(&[n, k], kind), randn(&[m, k], kind) * 0.1, randn(&[n, m], kind));
            let (want, grads) = autograd(&[&x, &w], &dy, |t| t[0].matmul(&t[1].tr()));
            let y = unset(&[n, m], kind);
            run(op::Gemm::FORWARD, &[&x, &w], &[&y]);
            assert_close("y", &y, &want, kind);
            let sum = unset(&[n, m], kind);
            run(op::Gemm { add: true, ..op::Gemm::FORWARD }, &[&x, &w, &dy], &[&sum]);
            assert_close("y and what it joins", &sum, &(&want + dy.to_kind(want.kind())), kind);

            let dx = unset(&[n, k], kind);
            run(op::Gemm::INPUT_GRADIENT, &[&dy, &w], &[&dx]);
            assert_close("dx", &dx, &grads[0], kind);
            run(op::Gemm { accumulate: true, ..op::Gemm::INPUT_GRADIENT }, &[&dy, &w], &[&dx]);
            assert_close("dx twice", &dx, &(&grads[0] * 2.0), kind);

            let dw = Tensor::ones([m, k], (math_kind(kind), Device::Cpu));
            run(op::Gemm::WEIGHT_GRADIENT, &[&dy, &x], &[&dw]);
            assert_close("dw", &(dw - 1.0), &grads[1], kind);
            let dw = unset(&[m, k], math_kind(kind));
            run(op::Gemm { accumulate: false, ..op::Gemm::WEIGHT_GRADIENT }, &[&dy, &x], &[&dw]);
            assert_close("dw written", &dw, &grads[1], kind);
            // The first micro-batch of a step begins the sum, whatever lies there.
            let begun = op::Gemm { begins: true, ..op::Gemm::WEIGHT_GRADIENT };
            let dw = unset(&[m, k], math_kind(kind));
            for micro_batch in 0..2 {
                let at = At { micro_batch, ..At::default() };
                run_at(begun.clone(), &mut TestHost::default(), at, &[&dy, &x], &[&dw]);
            }
            assert_close("dw of two", &dw, &(&grads[1] * 2.0), kind);
        }
    }
}

#[test]
fn swiglu_matches_autograd() {
    let _bench = bench();
    for kind in KINDS {
        for (n, f) in [(3, 10), (701, 344)] {
            let (gate_up, dy) = (randn(&[n, 2 * f], kind), randn(&[n, f], kind));
            let (want, grads) =
                autograd(&[&gate_up], &dy, |t| t[0].narrow(1, 0, f).silu() * t[0].narrow(1, f, f));
            let out = unset(&[n, f], kind);
            run(op::SwigluForward {}, &[&gate_up], &[&out]);
            assert_close("product", &out, &want, kind);
            run(op::SwigluBackward {}, &[&dy], &[&gate_up]);
            assert_close("d_gate_up", &gate_up, &grads[0], kind);
        }
    }
}

#[test]
fn embedding_matches_autograd() {
    let _bench = bench();
    for kind in KINDS {
        for (v, n, h) in [(11, 9, 8), (700, 900, 300)] {
            let (w, dy) = (randn(&[v, h], kind), randn(&[n, h], kind));
            // Few distinct ids, so that rows of the gradient are sums.
            let ids = Tensor::randint(v / 3, [n], (Kind::Int64, Device::Cpu));
            let (want, grads) = autograd(&[&w], &dy, |t| t[0].index_select(0, &ids));
            let x = unset(&[n, h], kind);
            run(op::EmbeddingForward::default(), &[&w, &ids], &[&x]);
            assert!(x.to_kind(Kind::Double).equal(&want), "rows are copied");
            let dw = Tensor::ones([v, h], (math_kind(kind), Device::Cpu));
            run(op::EmbeddingBackward::default(), &[&dy, &ids], &[&dw]);
            assert_close("dw", &(dw - 1.0), &grads[0], kind);
        }
    }
    if device() != Device::Cpu {
        return; // a CUDA kernel asserts, which ends the process: the host checks ids before they get there
    }
    let (w, x) = (randn(&[4, 2], Kind::Float), unset(&[1, 2], Kind::Float));
    let text = refused(op::EmbeddingForward::default(), &[&w, &Tensor::from_slice(&[4i64])], &[&x]);
    assert!(text.contains("out of range"), "{text}");
}

/// Ranks that share the ids add up to one that has them all.
#[test]
fn embedding_in_parts_is_that_of_the_whole() {
    let _bench = bench();
    for kind in KINDS {
        let (v, n, h, ranks) = (700, 900, 300, 2);
        let (w, dy) = (randn(&[v, h], kind), randn(&[n, h], kind));
        let ids = Tensor::randint(v, [n], (Kind::Int64, Device::Cpu));
        let (want, grads) = autograd(&[&w], &dy, |t| t[0].index_select(0, &ids));
        let (sum, each) = (Tensor::zeros([n, h], (Kind::Double, Device::Cpu)), v / ranks);
        for rank in 0..ranks {
            let (first, x) = (Some((rank * each) as u64), unset(&[n, h], kind));
            run(op::EmbeddingForward { first }, &[&w.narrow(0, rank * each, each), &ids], &[&x]);
            let _ = sum.shallow_clone().g_add_(&x);
            let dw = Tensor::ones([each, h], (math_kind(kind), Device::Cpu));
            run(op::EmbeddingBackward { first }, &[&dy, &ids], &[&dw]);
            assert_close("dw", &(dw - 1.0), &grads[0].narrow(0, rank * each, each), kind);
        }
        assert!(sum.equal(&want), "rows are copied by the one that has them");
    }
}

#[test]
fn elementwise_ops() {
    let _bench = bench();
    for kind in KINDS {
        let n = 700_001;
        let (a, b, out) = (randn(&[n], kind), randn(&[n], kind), unset(&[n], kind));
        run(op::Add {}, &[&a, &b], &[&out]);
        assert_close("add", &out, &(a.to_kind(Kind::Double) + b.to_kind(Kind::Double)), kind);

        let acc = randn(&[n], math_kind(kind));
        let want = acc.to_kind(Kind::Double) + a.to_kind(Kind::Double);
        run(op::Accumulate {}, &[&a], &[&acc]);
        assert_close("accumulate", &acc, &want, math_kind(kind));

        let copy = unset(&[n], math_kind(kind));
        run(op::Copy {}, &[&a], &[&copy]);
        assert_close("copy", &copy, &a, Kind::Double);
        run(op::Fill { value: 0.5 }, &[], &[&copy]);
        assert_eq!((copy.min().double_value(&[]), copy.max().double_value(&[])), (0.5, 0.5));
    }
}

/// Largest values map to the format's end, and come back within its half step.
#[test]
fn quantise_keeps_the_range() {
    let _bench = bench();
    for (kind, half_step) in [(Kind::Float8e4m3fn, 1.0 / 16.0), (Kind::Float8e5m2, 1.0 / 8.0)] {
        let x = randn(&[600, 500], Kind::BFloat16) * 37.0;
        let q = Tensor::zeros([600, 500], (kind, Device::Cpu));
        let turned = Tensor::zeros([500, 600], (kind, Device::Cpu));
        let scale = unset(&[1], Kind::Float);
        run(op::Quantise {}, &[&x], &[&q, &turned, &scale]);
        assert!(turned.transpose(0, 1).to_kind(Kind::Float).equal(&q.to_kind(Kind::Float)));
        let back = q.to_kind(Kind::Double) * &scale;
        let worst = ((&back - &x).abs() / (x.abs() + scale.to_kind(Kind::Double))).max().double_value(&[]);
        assert!(worst <= half_step * 1.01, "{kind:?}: {worst}");
        run(op::Quantise {}, &[&x.zeros_like()], &[&q, &turned, &scale]);
        assert_eq!(scale.double_value(&[0]), 1.0);
    }
}

/// A wrong operand is an error with the op's name and both figures, never a panic or a resized output.
#[test]
fn wrong_operands_are_refused() {
    let _bench = bench();
    let (x, w, small) =
        (randn(&[4, 6], Kind::Float), randn(&[5, 6], Kind::Float), unset(&[4, 3], Kind::Float));
    assert_eq!(refused(op::Gemm::FORWARD, &[&x, &w], &[&small]), "gemm: c must be [4, 5], is [4, 3]");
    assert_eq!(refused(op::Gemm::FORWARD, &[&x], &[&small]), "gemm: takes 2 to 5 inputs, given 1");
    let vector = randn(&[4], Kind::Float);
    assert_eq!(refused(op::Gemm::FORWARD, &[&vector, &w], &[&small]), "gemm: expected a matrix, found [4]");
    let text = refused(op::Gemm::FORWARD, &[&x, &w.to_kind(Kind::BFloat16)], &[&unset(&[4, 5], Kind::Float)]);
    assert!(text.starts_with("gemm: no product of Float and BFloat16"), "{text}");
    assert_eq!(
        refused(op::SwigluForward {}, &[&randn(&[4, 3], Kind::Float)], &[&small]),
        "swiglu.forward: gate_up must have an even width, found 3"
    );
    refused(op::NormForward { eps: 1e-5 }, &[&vector, &x], &[&small, &small]);
    refused(op::Add {}, &[&x, &x], &[&small]);
    refused(op::Quantise {}, &[&x], &[&x, &x.transpose(0, 1), &small]);
}
