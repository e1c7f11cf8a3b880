//! Fused kernels that no op of the plan runs by itself: packed gradients of attention, 8-bit floats, the ways a
//! parameter is kept. They need a GPU (`LLMC_TEST_DEVICE=cuda`); without one these tests say so and pass.

use llmc_runtime::cuda::optimizer::{Settings, Weights, adamw};
use llmc_runtime::cuda::rope::{Angles, rotate};
use llmc_runtime::cuda::{norm, prepare, quantise, swiglu};
use llmc_runtime::ops::philox::Stream;
use llmc_runtime::ops::rope::Packed;
use tch::{Device, Kind, Tensor};

use crate::check::assert_close;
use crate::support::{bench, device, randn, relative_error, run, scalar};

/// The device, or nothing to test.
fn gpu() -> Option<Device> {
    let found = device();
    if found == Device::Cpu {
        eprintln!("skipped: LLMC_TEST_DEVICE is not cuda");
        return None;
    }
    Some(found)
}

fn bits(t: &Tensor) -> Tensor {
    t.to_device(Device::Cpu).view_dtype(Kind::Uint8)
}

/// The first step must not wait for the compiler: everything a bf16 run launches, compiled or from the cache.
#[test]
fn kernels_are_ready_in_seconds() {
    let _bench = bench();
    let Some(device) = gpu() else { return };
    for kind in [Kind::BFloat16, Kind::Float] {
        let start = std::time::Instant::now();
        prepare(device, kind).expect("prepare");
        eprintln!("{kind:?}: ready in {:.2} s", start.elapsed().as_secs_f64());
    }
}

#[test]
fn rotated_rows_know_their_largest_magnitude() {
    let _bench = bench();
    let Some(device) = gpu() else { return };
    for kind in [Kind::Float, Kind::BFloat16] {
        for (heads, kv_heads, head_dim) in [(24, 24, 128), (32, 8, 128), (5, 3, 12)] {
            let (n, context) = (130, 300);
            let packed = Packed { heads, kv_heads, head_dim };
            let table = || randn(&[context, head_dim / 2], Kind::Float).to_device(device);
            let (cos, sin) = (table(), table());
            let positions = Tensor::randint(context, [n], (Kind::Int64, Device::Cpu)).to_device(device);
            let angles = Angles { cos: &cos, sin: &sin, positions: &positions };
            let got = randn(&[n, packed.width()], kind).to_device(device);
            let want = got.copy();
            let amax = Tensor::zeros([1], (Kind::Float, device));
            rotate(angles, &got, packed, true, Some(&amax)).expect("rotate");
            rotate(angles, &want, packed, true, None).expect("rotate");
            assert!(got.equal(&want), "{kind:?} {packed:?}");
            let most = got.to_kind(Kind::Float).abs().max();
            assert_eq!(amax.double_value(&[0]), most.double_value(&[]));
        }
    }
}

#[test]
fn quantised_tensors_and_their_transposes() {
    let _bench = bench();
    let Some(device) = gpu() else { return };
    for format in [Kind::Float8e4m3fn, Kind::Float8e5m2] {
        for (n, c) in [(256, 3072), (384, 5504), (16, 8), (130, 264), (37, 1027)] {
            let host = randn(&[n, c], Kind::BFloat16) * 37.0;
            let x = host.to_device(device);
            let zero = || Tensor::zeros([1], (Kind::Float, device));
            let (amax, scale) = (zero(), zero());
            quantise::amax(&x, &amax).expect("amax");
            assert_eq!(amax.double_value(&[0]), host.to_kind(Kind::Float).abs().max().double_value(&[]));
            let q = Tensor::empty([n, c], (format, device));
            let transposed = Tensor::empty([c, n], (format, device));
            quantise::quantise(&x, &amax, &scale, Some(&q), Some(&transposed)).expect("quantise");
            // The twin, on the CPU.
            let largest = if format == Kind::Float8e4m3fn { 448.0 } else { 57_344.0 };
            let s = host.to_kind(Kind::Float).abs().max() / largest;
            let want = (host.to_kind(Kind::Float) / &s).clamp(-largest, largest).to_kind(format);
            assert_eq!(scale.double_value(&[0]), s.double_value(&[]));
            assert!(bits(&q).equal(&bits(&want)), "{format:?} {n} × {c}");
            assert!(bits(&transposed).equal(&bits(&want).tr().contiguous()), "{format:?} {c} × {n}");
            let alone = transposed.empty_like();
            quantise::quantise(&x, &amax, &scale, None, Some(&alone)).expect("transpose alone");
            assert!(bits(&alone).equal(&bits(&transposed)));
        }
    }
}

/// A NaN is the largest magnitude of all, so that it is not lost on the way to the loss.
#[test]
fn producers_know_the_largest_magnitude() {
    let _bench = bench();
    let Some(device) = gpu() else { return };
    let (n, h) = (300, 3072);
    let tensor = |shape: &[i64]| randn(shape, Kind::BFloat16).to_device(device);
    let most = |t: &Tensor| t.to_kind(Kind::Float).abs().max().double_value(&[]);
    let zero = || Tensor::zeros([1], (Kind::Float, device));
    let (x, w, y) = (tensor(&[n, h]), tensor(&[h]), tensor(&[n, h]));
    let (rstd, amax) = (Tensor::zeros([n], (Kind::Float, device)), zero());
    norm::forward(&x, None, &w, 1e-5, &y, &rstd, Some(&amax)).expect("norm");
    assert_eq!(amax.double_value(&[0]), most(&y));
    let (dx, dw, amax) = (x.zeros_like(), Tensor::zeros([h], (Kind::Float, device)), zero());
    norm::backward(&y, &x, &w, &rstd, (&dx, &dw), false, Some(&amax)).expect("norm");
    assert_eq!(amax.double_value(&[0]), most(&dx));
    let (gate_up, dy, amax) = (tensor(&[n, 2 * h]), tensor(&[n, h]), zero());
    swiglu::forward(&gate_up, &y, Some(&amax)).expect("swiglu");
    assert_eq!(amax.double_value(&[0]), most(&y));
    let amax = zero();
    swiglu::backward(&dy, &gate_up, Some(&amax)).expect("swiglu");
    assert_eq!(amax.double_value(&[0]), most(&gate_up));
    let _ = x.get(7).get(11).fill_(f64::NAN);
    quantise::amax(&x, &amax).expect("amax");
    assert!(amax.double_value(&[0]).is_nan());
}

/// A norm's gradients are sums over many blocks: the same bits every time.
#[test]
fn sums_repeat_bit_for_bit() {
    let _bench = bench();
    let Some(device) = gpu() else { return };
    let (n, h) = (4096, 3072);
    let tensor = |shape: &[i64]| randn(shape, Kind::BFloat16).to_device(device);
    let (x, w, dy) = (tensor(&[n, h]), tensor(&[h]), tensor(&[n, h]));
    let rstd = randn(&[n], Kind::Float).abs().to_device(device);
    let once = || {
        let (dx, dw) = (x.zeros_like(), Tensor::zeros([h], (Kind::Float, device)));
        norm::backward(&dy, &x, &w, &rstd, (&dx, &dw), true, None).expect("norm");
        (dx, dw)
    };
    let (dx, dw) = once();
    for _ in 0..10 {
        let (again, dw_again) = once();
        assert!(again.equal(&dx) && dw_again.equal(&dw));
    }
}

/// One parameter kept in every way, three steps: a split master has the bits of a whole one, bf16 weights without a
/// master are off by a rounding that is zero on average.
#[test]
fn adamw_in_every_form() {
    let _bench = bench();
    let Some(device) = gpu() else { return };
    for n in [300_001i64, 400_000] {
        for (gradient_kind, moment_kind) in [
            (Kind::Float, Kind::Float),
            (Kind::BFloat16, Kind::Float),
            (Kind::Float, Kind::BFloat16),
            (Kind::BFloat16, Kind::BFloat16),
        ] {
            // What bf16 holds, so that every form starts from the same numbers.
            let start = randn(&[n], Kind::BFloat16).to_device(device);
            let (whole, master) = (start.to_kind(Kind::Float), start.to_kind(Kind::Float));
            let (copy, split, alone) = (start.zeros_like(), start.copy(), start.copy());
            let missing = Tensor::zeros([n], (Kind::Int16, device));
            let zeros = || Tensor::zeros([n], (moment_kind, device));
            let moments: Vec<[Tensor; 2]> = (0..4).map(|_| [zeros(), zeros()]).collect();
            let put = |value: f64| scalar(value).to_device(device);
            let (lr, grad_scale) = (put(0.02), put(2.0));
            for t in 1..=3 {
                let gradient = randn(&[n], gradient_kind).to_device(device);
                let stream = Stream::new(1, "w", t);
                let (skip, step) = (put(0.0), put(t as f64));
                let settings = |skip| Settings {
                    beta1: 0.9,
                    beta2: 0.999,
                    eps: 1e-8,
                    weight_decay: 0.1,
                    lr_multiplier: 0.5,
                    lr: &lr,
                    grad_scale: &grad_scale,
                    skip,
                    step: &step,
                    stream: &stream,
                    first: 6,
                };
                let before = alone.to_kind(Kind::Float);
                let forms = [
                    Weights::Whole(&whole),
                    Weights::Master { master: &master, copy: &copy },
                    Weights::Split { weights: &split, missing: &missing },
                    Weights::Stochastic(&alone),
                ];
                let skipped = put(1.0);
                for (form, [m, v]) in forms.into_iter().zip(&moments) {
                    adamw(&settings(&skip), &gradient, form, [m, v]).expect("adamw");
                    adamw(&settings(&skipped), &gradient, form, [m, v])
                        .expect("a skipped step changes nothing");
                }
                assert!(whole.equal(&master), "the master is the whole");
                assert!(copy.equal(&master.to_kind(Kind::BFloat16)), "the copy follows");
                let rounded = split.view_dtype(Kind::Int16).to_kind(Kind::Int) * 65_536;
                let joined = (rounded + missing.to_kind(Kind::Int)).view_dtype(Kind::Float);
                assert!(joined.equal(&whole), "a split master loses nothing");
                assert!(relative_error(&split.to_device(Device::Cpu), &whole.to_device(Device::Cpu)) < 3e-3);
                // Without a master: the same step from the rounded weights, rounded again.
                let (m, v) = (moments[3][0].to_kind(Kind::Double), moments[3][1].to_kind(Kind::Double));
                if moment_kind == Kind::Float {
                    let bias = |b: f64| 1.0 - libm::pow(b, t as f64);
                    let step = m / bias(0.9) / ((v / bias(0.999)).sqrt() + 1e-8) * 0.01;
                    let exact = before.to_kind(Kind::Double) * (1.0 - 0.01 * 0.1) - step;
                    let error = (alone.to_kind(Kind::Double) - &exact) / (exact.abs() + 1e-4);
                    assert!(error.abs().max().double_value(&[]) <= 1.2 / 128.0);
                    assert!(error.mean(Kind::Double).double_value(&[]).abs() < 3e-5);
                }
            }
            // Moments do not depend on how the weights are kept.
            for [m, v] in &moments[1..] {
                assert!(m.equal(&moments[0][0]) && v.equal(&moments[0][1]));
            }
        }
    }
}

/// The kernel for bf16 moments against the CPU's, which draws the same random words.
#[test]
fn stochastic_rounding_equals_the_hosts() {
    let _bench = bench();
    let Some(_) = gpu() else { return };
    let n = 100_000;
    let op = llmc_plan::op::Optimize {
        kind: llmc_plan::plan::OptimizerKind::Adamw,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.1,
        lr_multiplier: 1.0,
        weights: llmc_plan::op::Weights::Whole,
    };
    let (p, g) = (randn(&[n], Kind::Float), randn(&[n], Kind::Float));
    let zeros = || Tensor::zeros([n], (Kind::BFloat16, Device::Cpu));
    let (here, there) = ([p.copy(), zeros(), zeros()], [p.copy(), zeros(), zeros()]);
    let (lr, one, zero) = (scalar(1e-3), scalar(1.0), scalar(0.0));
    let inputs = [&g, &lr, &one, &zero, &one];
    run(op.clone(), &inputs, &there.each_ref());
    let outputs = here.each_ref().map(Tensor::shallow_clone);
    let host = &mut crate::support::TestHost::default();
    let mut at = llmc_runtime::ops::Context {
        seed: 0,
        step: 0,
        layer: 0,
        micro_batch: 0,
        first_token: 0,
        parameter: None,
        host,
    };
    llmc_runtime::ops::execute(&op.into(), &mut at, &inputs.map(Tensor::shallow_clone), &outputs)
        .expect("host");
    assert_close("weights", &there[0], &here[0], Kind::Float);
    for (device, host) in there.iter().zip(&here).skip(1) {
        // The same words and sums; the step's constants may differ in the last bit of f32.
        let differ = device.ne_tensor(host).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        assert!(differ < 1e-3, "{differ}");
    }
}
