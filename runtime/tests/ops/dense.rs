//! RMSNorm, linear, SwiGLU, residual plumbing.

use llmc_runtime::ops::{linear, math_kind, norm, residual, swiglu};
use tch::{Kind, Tensor};

use crate::check::{KINDS, assert_close, assert_temporaries, autograd, unset};
use crate::support::{bench, randn, temporaries};

fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Tensor {
    x * (x.square().mean_dim(-1, true, Kind::Double) + eps).rsqrt() * w
}

#[test]
fn norm_matches_autograd() {
    let _bench = bench();
    for kind in KINDS {
        // One chunk, and many chunks with a short last one.
        for (n, h) in [(5, 24), (1031, 264)] {
            let (x, w, dy) = (randn(&[n, h], kind), randn(&[h], kind), randn(&[n, h], kind));
            let (want, grads) = autograd(&[&x, &w], &dy, |t| rms_norm(&t[0], &t[1], 1e-5));
            let (out, rstd) = (unset(&[n, h], kind), unset(&[n], math_kind(kind)));
            let (peak, done) = temporaries(|| norm::forward(&x, &w, 1e-5, &out, &rstd));
            done.expect("forward");
            assert_temporaries("norm.forward", peak, norm::forward_temporaries(n, h, kind), kind);
            assert_close("norm.out", &out, &want, kind);

            let dx = unset(&[n, h], kind);
            let (peak, done) = temporaries(|| norm::backward_input(&dy, &x, &w, &rstd, &dx, false));
            done.expect("backward_input");
            assert_temporaries("norm.dx", peak, norm::backward_input_temporaries(n, h, kind), kind);
            assert_close("norm.dx", &dx, &grads[0], kind);
            norm::backward_input(&dy, &x, &w, &rstd, &dx, true).expect("accumulate");
            assert_close("norm.dx twice", &dx, &(&grads[0] * 2.0), kind);

            let dw = Tensor::ones([h], (math_kind(kind), tch::Device::Cpu));
            let (peak, done) = temporaries(|| norm::backward_weight(&dy, &x, &rstd, &dw));
            done.expect("backward_weight");
            assert_temporaries("norm.dw", peak, norm::backward_weight_temporaries(n, h, kind), kind);
            assert_close("norm.dw", &(dw - 1.0), &grads[1], kind);
        }
    }
}

fn assert_gemm_temporaries(peak: u64, m: i64, k: i64, kind: Kind) {
    let bound = linear::gemm_temporaries(m, k, kind) + 4096;
    assert!(peak as i64 <= bound, "gemm {m}x{k} in {kind:?}: {peak} temporary bytes, bound {bound}");
}

#[test]
fn linear_matches_autograd() {
    let _bench = bench();
    for kind in KINDS {
        for (n, k, m) in [(7, 24, 40), (1100, 264, 520)] {
            let (x, w, dy) = (randn(&[n, k], kind), randn(&[m, k], kind) * 0.1, randn(&[n, m], kind));
            let (want, grads) = autograd(&[&x, &w], &dy, |t| t[0].matmul(&t[1].tr()));
            let y = unset(&[n, m], kind);
            let (peak, done) = temporaries(|| linear::forward(&x, &w, &y));
            done.expect("forward");
            assert_gemm_temporaries(peak, m, k, kind);
            assert_close("linear.y", &y, &want, kind);

            let dx = unset(&[n, k], kind);
            let (peak, done) = temporaries(|| linear::backward_input(&dy, &w, &dx, false));
            done.expect("backward_input");
            assert_gemm_temporaries(peak, m, k, kind);
            assert_close("linear.dx", &dx, &grads[0], kind);
            linear::backward_input(&dy, &w, &dx, true).expect("accumulate");
            assert_close("linear.dx twice", &dx, &(&grads[0] * 2.0), kind);

            let dw = Tensor::ones([m, k], (math_kind(kind), tch::Device::Cpu));
            let (peak, done) = temporaries(|| linear::backward_weight(&dy, &x, &dw));
            done.expect("backward_weight");
            assert_temporaries("linear.dw", peak, linear::backward_weight_temporaries(n, m, k, kind), kind);
            assert_close("linear.dw", &(dw - 1.0), &grads[1], kind);
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
            let (peak, done) = temporaries(|| swiglu::forward(&gate_up, &out));
            done.expect("forward");
            assert_temporaries("swiglu.forward", peak, swiglu::forward_temporaries(n, f, kind), kind);
            assert_close("swiglu.out", &out, &want, kind);

            let apart = unset(&[n, 2 * f], kind);
            let (peak, done) = temporaries(|| swiglu::backward(&dy, &gate_up, &apart));
            done.expect("backward");
            assert_temporaries("swiglu.backward", peak, swiglu::backward_temporaries(n, f, kind), kind);
            assert_close("swiglu.d_gate_up", &apart, &grads[0], kind);
            swiglu::backward(&dy, &gate_up, &gate_up).expect("in place");
            assert!(gate_up.equal(&apart), "in place gives the same bits");
        }
    }
}

#[test]
fn residual_plumbing() {
    let _bench = bench();
    for kind in KINDS {
        let n = 700_001;
        let (a, b, out) = (randn(&[n], kind), randn(&[n], kind), unset(&[n], kind));
        let (peak, done) = temporaries(|| residual::add(&a, &b, &out));
        done.expect("add");
        assert_temporaries("add", peak, 0, kind);
        assert_close("add", &out, &(a.to_kind(Kind::Double) + b.to_kind(Kind::Double)), kind);

        let acc = randn(&[n], math_kind(kind));
        let want = acc.to_kind(Kind::Double) + a.to_kind(Kind::Double);
        let (peak, done) = temporaries(|| residual::accumulate(&a, &acc));
        done.expect("accumulate");
        assert_temporaries("accumulate", peak, residual::accumulate_temporaries(n, kind, acc.kind()), kind);
        assert_close("accumulate", &acc, &want, math_kind(kind));

        let copy = unset(&[n], math_kind(kind));
        let (peak, done) = temporaries(|| residual::copy(&a, &copy));
        done.expect("copy");
        assert_temporaries("copy", peak, 0, kind);
        assert_close("copy", &copy, &a, Kind::Double);
        residual::zero(&copy).expect("zero");
        assert_eq!(copy.abs().sum(Kind::Double).double_value(&[]), 0.0);
    }
}

/// A wrong operand is an error with the op's name and both shapes, never a panic or a resized output.
#[test]
fn wrong_operands_are_refused() {
    let _bench = bench();
    let (x, w) = (randn(&[4, 6], Kind::Float), randn(&[5, 6], Kind::Float));
    let small = unset(&[4, 3], Kind::Float);
    let text = linear::forward(&x, &w, &small).expect_err("wrong output").to_string();
    assert_eq!(text, "linear.forward: y must be [4, 5], found [4, 3]");
    let text = swiglu::forward(&randn(&[4, 3], Kind::Float), &small).expect_err("odd width").to_string();
    assert_eq!(text, "swiglu.forward: gate_up must have an even width, found 3");
    norm::forward(&randn(&[4], Kind::Float), &x, 1e-5, &small, &small).expect_err("not a matrix");
    residual::add(&x, &x, &small).expect_err("shapes differ");
}
