//! The shim itself: the allocator counts what is requested, errors come back as text.

use llmc_runtime::shim::{self, AdamwScalars, AdamwTensors};
use tch::{Device, Kind, Tensor};

use crate::support::{bench, device, randn, relative_error, temporaries};

#[test]
fn allocator_counts_exact_bytes() {
    let _bench = bench();
    let before = shim::cpu_stats();
    let a = Tensor::empty([1000, 3], (Kind::Float, Device::Cpu));
    let empty = Tensor::empty([0], (Kind::Float, Device::Cpu));
    assert_eq!(shim::cpu_stats().live_bytes - before.live_bytes, 12_000);
    assert_eq!(a.data_ptr() as usize % 64, 0, "64-byte aligned");
    let view = a.narrow(0, 10, 5);
    drop(a);
    assert_eq!(shim::cpu_stats().live_bytes - before.live_bytes, 12_000, "a view keeps its storage");
    drop((view, empty));
    assert_eq!(shim::cpu_stats().live_bytes, before.live_bytes);
    assert!(shim::cpu_stats().allocations > before.allocations);
}

#[test]
fn allocator_sees_temporaries_of_libtorch() {
    let _bench = bench();
    let x = randn(&[256, 256], Kind::Float);
    let (peak, _) = temporaries(|| (&x + 1.0) * 2.0);
    // The sum is alive while the product is made.
    assert!((2 * 256 * 256 * 4..2 * 256 * 256 * 4 + 4096).contains(&peak), "{peak}");
}

#[test]
fn allocator_counts_from_many_threads() {
    let _bench = bench();
    let before = shim::cpu_stats().live_bytes;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for i in 1..200 {
                    let _t = Tensor::zeros([i], (Kind::Double, Device::Cpu));
                }
            });
        }
    });
    assert_eq!(shim::cpu_stats().live_bytes, before);
}

#[test]
fn gemm_scales_and_accumulates_into_views() {
    let _bench = bench();
    let (a, b) = (randn(&[5, 7], Kind::Double), randn(&[7, 3], Kind::Double));
    let wide = randn(&[5, 9], Kind::Double);
    let view = wide.narrow(1, 2, 3);
    let want = view.copy() * 0.5 + a.matmul(&b) * -2.0;
    let (peak, done) = temporaries(|| shim::gemm(&view, &a, &b, 0.5, -2.0));
    done.expect("gemm");
    assert!(relative_error(&view, &want) < 1e-14);
    assert!(peak < 4096, "{peak} temporary bytes");
    let nan = Tensor::full([5, 3], f64::NAN, (Kind::Double, Device::Cpu));
    shim::gemm(&nan, &a, &b, 0.0, 1.0).expect("gemm");
    assert!(relative_error(&nan, &a.matmul(&b)) < 1e-14, "beta 0 must not read the output");
}

#[test]
fn refusals_are_one_text_without_backtrace() {
    let _bench = bench();
    let (a, b) = (randn(&[5, 7], Kind::Double), randn(&[6, 3], Kind::Double));
    let error = shim::gemm(&randn(&[5, 3], Kind::Double), &a, &b, 0.0, 1.0).expect_err("shapes differ");
    let text = error.to_string();
    assert!(text.contains("shapes cannot be multiplied") && !text.contains("frame #"), "{text}");
    let missing =
        shim::load_cuda(std::path::Path::new("/nonexistent/libtorch_cuda.so")).expect_err("no file");
    assert!(missing.to_string().contains("/nonexistent/libtorch_cuda.so"), "{missing}");
    match device() {
        Device::Cpu => drop(shim::device_stats(0).expect_err("no CUDA back end on a CPU run")),
        _ => assert!(shim::device_stats(0).expect("statistics").reserved_bytes > 0),
    }
}

/// Decoupled weight decay, bias correction, clip through `grad_scale` and the skip flag, against the paper's
/// Algorithm 2 (arXiv 1711.05101) written out.
#[test]
fn fused_adamw_matches_the_paper() {
    let _bench = bench();
    let (b1, b2, wd, eps, lr) = (0.9, 0.95, 0.1, 1e-8, 1e-2);
    let param = randn(&[33, 5], Kind::Float);
    let (m, v) = (param.zeros_like(), param.zeros_like());
    let step = Tensor::zeros([], (Kind::Float, Device::Cpu));
    let lr_t = Tensor::from_slice(&[lr as f32]).squeeze();
    let scale = Tensor::from_slice(&[2.0f32]).squeeze();
    let skip = Tensor::from_slice(&[0.0f32]).squeeze();
    let (mut p64, mut m64, mut v64) =
        (param.to_kind(Kind::Double), m.to_kind(Kind::Double), v.to_kind(Kind::Double));
    for t in 1..=5 {
        let grad = randn(&[33, 5], Kind::Float);
        let g = grad.to_kind(Kind::Double) / 2.0;
        let _ = step.shallow_clone().fill_(t as f64);
        let group = [AdamwTensors { param: &param, grad: &grad, exp_avg: &m, exp_avg_sq: &v, step: &step }];
        let scalars = AdamwScalars {
            lr: &lr_t,
            beta1: b1,
            beta2: b2,
            weight_decay: wd,
            eps,
            grad_scale: Some(&scale),
            found_inf: Some(&skip),
        };
        let (peak, done) = temporaries(|| shim::fused_adamw(&group, &scalars));
        done.expect("fused_adamw");
        assert!(peak < 4096, "{peak} temporary bytes");
        m64 = m64 * b1 + &g * (1.0 - b1);
        v64 = v64 * b2 + &g * &g * (1.0 - b2);
        let m_hat = &m64 / (1.0 - libm::pow(b1, f64::from(t)));
        let v_hat = &v64 / (1.0 - libm::pow(b2, f64::from(t)));
        p64 = &p64 - &p64 * (lr * wd) - m_hat / (v_hat.sqrt() + eps) * lr;
        assert!(relative_error(&param, &p64) < 1e-6, "step {t}");
        let _ = skip.shallow_clone().fill_(1.0);
        let kept = param.copy();
        let scalars = AdamwScalars { found_inf: Some(&skip), ..scalars };
        shim::fused_adamw(&group, &scalars).expect("fused_adamw");
        assert!(param.equal(&kept), "found_inf skips the update");
        let _ = skip.shallow_clone().fill_(0.0);
    }
}
