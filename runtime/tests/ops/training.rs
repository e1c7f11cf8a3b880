//! Batch, initialisation, dropout, loss, gradient norm, optimizers.

use llmc_plan::batch::{Batch, NO_SOURCE};
use llmc_plan::op;
use llmc_plan::param::{Init, ParamBuffers, ParamSpec, Part};
use llmc_plan::plan::OptimizerKind;
use llmc_plan::program::BufferId;
use llmc_runtime::ops::math_kind;
use llmc_runtime::ops::philox::Stream;
use tch::{Device, Kind, Tensor};

use crate::check::{KINDS, assert_close, autograd};
use crate::support::{
    At, TestHost, bench, device, randn, refused, relative_error, run, run_at, scalar, try_run, unset,
};

#[test]
fn batches_are_uploaded_as_declared() {
    let _bench = bench();
    let n = 600u32;
    let batch = Batch {
        ids: (0..n).collect(),
        targets: (1..=n).collect(),
        positions: (0..n).map(|i| i % 300).collect(),
        cu_seqlens: vec![0, 300, 600, 600],
        weights: (0..n).map(|i| i as f32 * 0.5).collect(),
        sources: vec![3, NO_SOURCE],
        ..Batch::default()
    };
    let mut host = TestHost { batch: Some(batch), ..TestHost::default() };
    let ids = || Tensor::zeros([600], (Kind::Int64, Device::Cpu));
    let (a, b, c) = (ids(), ids(), ids());
    let (lengths, weights) = (Tensor::zeros([4], (Kind::Int, Device::Cpu)), unset(&[600], Kind::Float));
    let load = op::LoadBatch { sequences: 2, context: 300 };
    run_at(load.clone(), &mut host, At::default(), &[], &[&a, &b, &c, &lengths, &weights]);
    assert_eq!(a.int64_value(&[599]), 599);
    assert_eq!(b.int64_value(&[599]), 600);
    assert_eq!(c.int64_value(&[301]), 1);
    assert_eq!(Vec::<i32>::try_from(&lengths).expect("lengths"), [0, 300, 600, 600]);
    assert_eq!(weights.double_value(&[3]), 1.5);
    let sources = Tensor::zeros([600], (Kind::Int, Device::Cpu));
    let outputs = [&a, &b, &c, &lengths, &weights, &sources];
    run_at(load.clone(), &mut host, At::default(), &[], &outputs);
    assert_eq!(
        [299, 300].map(|row| sources.int64_value(&[row])),
        [3, 0],
        "what only fills up weighs nothing"
    );
    assert!(refused(load, &[], &[&a, &b, &c, &lengths, &weights]).contains("no batch"));
}

fn parameter(parts: &[(&str, u64)], columns: u64, init: Init) -> ParamSpec {
    let rows = parts.iter().map(|(_, rows)| rows).sum();
    ParamSpec {
        name: "p".into(),
        parts: parts.iter().map(|(name, rows)| Part { hf_name: (*name).into(), rows: *rows }).collect(),
        global_shape: if columns == 0 { vec![rows] } else { vec![rows, columns] },
        shard: Vec::new(),
        init,
        decay: true,
        lr_multiplier: 1.0,
        frozen: false,
        state_dtypes: Vec::new(),
        buffers: ParamBuffers {
            weight: BufferId(0),
            gradient: None,
            master: None,
            master_work: None,
            missing: None,
            states: Vec::new(),
        },
        layer: None,
    }
}

/// A packed parameter holds what its Hugging Face tensors would hold apart, and a row block holds the same rows.
#[test]
fn initialisation_depends_on_name_and_element_alone() {
    let _bench = bench();
    let spec = parameter(&[("q.weight", 500), ("k.weight", 301)], 400, Init::Normal { std: 0.02 });
    let whole = unset(&[801, 400], Kind::Float);
    let at = |first| At { seed: 5, parameter: Some((&spec, first)), ..At::default() };
    run_at(op::Initialise {}, &mut TestHost::default(), at(0), &[], &[&whole]);
    let mut k = vec![0.0f32; 301 * 400];
    Stream::new(5, "k.weight", 0).normal(0, 0.02, &mut k);
    assert!(whole.narrow(0, 500, 301).equal(&Tensor::from_slice(&k).view([301, 400])));
    let block = unset(&[77, 400], Kind::BFloat16);
    run_at(op::Initialise {}, &mut TestHost::default(), at(450), &[], &[&block]);
    assert!(block.equal(&whole.narrow(0, 450, 77).to_kind(Kind::BFloat16)));

    let ones = unset(&[64], Kind::Float);
    let norm = parameter(&[("norm.weight", 64)], 0, Init::Ones);
    let at = At { parameter: Some((&norm, 0)), ..At::default() };
    run_at(op::Initialise {}, &mut TestHost::default(), at, &[], &[&ones]);
    assert!(ones.equal(&ones.ones_like()));
    assert_eq!(refused(op::Initialise {}, &[], &[&ones]), "initialise: the output is no parameter");
}

#[test]
fn dropout_is_its_own_backward_and_knows_its_place() {
    let _bench = bench();
    for kind in KINDS {
        let (n, h, p) = (2100, 256, 0.3);
        let ones = || Tensor::ones([n, h], (kind, Device::Cpu));
        let at = At { seed: 1, step: 3, layer: 2, ..At::default() };
        let drop = op::Dropout { p, site: "attention".into() };
        let run_on = |x: &Tensor, at: At<'_>| run_at(drop.clone(), &mut TestHost::default(), at, &[], &[x]);
        let x = ones();
        run_on(&x, at);
        let kept = x.gt(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        // Standard error √(p(1−p)/n) = 0.0006.
        assert!((kept - (1.0 - p)).abs() < 0.003, "{kept}");
        let value = x.max().double_value(&[]);
        assert!(
            (value * (1.0 - p) - 1.0).abs() < if kind == Kind::BFloat16 { 0.004 } else { 1e-6 },
            "{value}"
        );
        let again = ones();
        run_on(&again, at);
        assert!(again.equal(&x), "backward meets the same mask");
        // Rows 700.. of the micro-batch as another rank's micro-batch.
        let part = Tensor::ones([50, h], (kind, Device::Cpu));
        run_on(&part, At { first_token: 700, ..at });
        assert!(part.equal(&x.narrow(0, 700, 50)));
        for other in [At { seed: 2, ..at }, At { step: 4, ..at }, At { layer: 3, ..at }] {
            let y = ones();
            run_on(&y, other);
            assert!(!y.equal(&x));
        }
    }
}

#[test]
fn cross_entropy_matches_autograd() {
    let _bench = bench();
    for kind in KINDS {
        for (n, vocab, columns) in [(7, 11, 16), (700, 2999, 3008), (9, 64, 64)] {
            let logits = randn(&[n, columns], kind) * 3.0;
            let targets = Tensor::randint(vocab, [n], (Kind::Int64, Device::Cpu));
            // A token without a target weighs 0, others differ.
            let weights = Tensor::rand([n], (Kind::Float, Device::Cpu));
            let _ = weights.narrow(0, 2, 2).fill_(0.0);
            let inverse = scalar(0.25);
            let one = Tensor::ones([], (Kind::Double, Device::Cpu));
            let (_, grads) = autograd(&[&logits], &one, |t| {
                let log_p = t[0].narrow(1, 0, vocab).log_softmax(-1, Kind::Double);
                let nll = -log_p.gather(1, &targets.unsqueeze(1), false).squeeze_dim(1);
                (nll * weights.to_kind(Kind::Double)).sum(Kind::Double) * 0.25
            });
            let want = (&grads[0], {
                let log_p = logits.to_kind(Kind::Double).narrow(1, 0, vocab).log_softmax(-1, Kind::Double);
                let nll = -log_p.gather(1, &targets.unsqueeze(1), false).squeeze_dim(1);
                (nll * weights.to_kind(Kind::Double)).sum(Kind::Double).double_value(&[])
            });
            let sum = scalar(2.0);
            run(op::CrossEntropyEval { vocab: vocab as u64 }, &[&logits, &targets, &weights], &[&sum]);
            assert!(((sum.double_value(&[0]) - 2.0) / want.1 - 1.0).abs() < 1e-5);
            let sum = scalar(2.0);
            run(
                op::CrossEntropyTrain { vocab: vocab as u64 },
                &[&targets, &weights, &inverse],
                &[&logits, &sum],
            );
            assert!(((sum.double_value(&[0]) - 2.0) / want.1 - 1.0).abs() < 1e-5);
            assert_close("dlogits", &logits, want.0, kind);
            let padded = logits.narrow(1, vocab, columns - vocab).abs().sum(Kind::Double);
            assert_eq!(padded.double_value(&[]), 0.0, "padded columns have no gradient");
        }
    }
    if device() != Device::Cpu {
        return; // as for embeddings
    }
    let (logits, sum) = (randn(&[1, 8], Kind::Float), scalar(0.0));
    let text = refused(
        op::CrossEntropyEval { vocab: 5 },
        &[&logits, &Tensor::from_slice(&[6i64]), &scalar(1.0)],
        &[&sum],
    );
    assert!(text.contains("out of bounds"), "{text}");
}

/// Ranks that share the columns say together what one says of all: loss, gradient, sums by source; the last rank of five
/// has nothing but padding.
#[test]
fn cross_entropy_in_parts_is_that_of_the_whole() {
    let _bench = bench();
    for kind in KINDS {
        for (n, vocab, columns, ranks) in [(7, 11, 15, 5), (700, 2999, 3008, 2), (9, 64, 64, 1)] {
            let logits = randn(&[n, columns], kind) * 3.0;
            let targets = Tensor::randint(vocab, [n], (Kind::Int64, Device::Cpu));
            let weights = Tensor::rand([n], (Kind::Float, Device::Cpu));
            let sources = Tensor::randint(3, [n], (Kind::Int, Device::Cpu));
            let (inverse, each) = (scalar(0.25), columns / ranks);
            let new = || (scalar(2.0), Tensor::ones([3], (Kind::Float, Device::Cpu)));
            let (want, (sum, sums)) = (logits.to_kind(Kind::Double).copy(), new());
            run(
                op::CrossEntropyTrain { vocab: vocab as u64 },
                &[&targets, &weights, &inverse, &sources],
                &[&want, &sum, &sums],
            );
            let real = |rank: i64| (vocab - rank * each).clamp(0, each) as u64;
            let own = |rank| logits.narrow(1, rank * each, each).contiguous();
            let part = |rank| {
                let part = unset(&[n, 3], math_kind(kind));
                let op = op::CrossEntropyPart { first: (rank * each) as u64, vocab: real(rank) };
                run(op, &[&own(rank), &targets], &[&part]);
                part
            };
            let parts = Tensor::cat(&(0..ranks).map(part).collect::<Vec<_>>(), 0);
            let gradient = |rank| {
                let (got, (total, apart)) = (own(rank), new());
                let op = op::CrossEntropyTrainParts { first: (rank * each) as u64, vocab: real(rank) };
                let inputs = [&parts, &targets, &weights, &inverse, &sources];
                run(op, &inputs, &[&got, &total, &apart]);
                assert!(
                    relative_error(&total, &sum) < 1e-5 && relative_error(&apart, &sums) < 1e-5,
                    "{kind:?} {n} {total} {sum} {apart} {sums}"
                );
                got
            };
            let got = Tensor::cat(&(0..ranks).map(gradient).collect::<Vec<_>>(), 1);
            assert_close("dlogits", &got, &want, kind);
            let (total, apart) = new();
            run(op::CrossEntropyEvalParts {}, &[&parts, &weights, &sources], &[&total, &apart]);
            assert!(relative_error(&total, &sum) < 1e-5 && relative_error(&apart, &sums) < 1e-5);
        }
    }
}

/// Sums by source are added to, miss no row, and change nothing else.
#[test]
fn losses_are_summed_by_source() {
    let _bench = bench();
    for kind in KINDS {
        let (n, vocab, columns) = (700, 2999, 3008);
        let logits = randn(&[n, columns], kind) * 3.0;
        let targets = Tensor::randint(vocab, [n], (Kind::Int64, Device::Cpu));
        let weights = Tensor::rand([n], (Kind::Float, Device::Cpu));
        let sources = Tensor::randint(3, [n], (Kind::Int, Device::Cpu));
        let log_p = logits.to_kind(Kind::Double).narrow(1, 0, vocab).log_softmax(-1, Kind::Double);
        let nll = -log_p.gather(1, &targets.unsqueeze(1), false).squeeze_dim(1);
        // The fourth source has no rows.
        let want: Vec<f64> = (0..4)
            .map(|source| {
                let weights = weights.to_kind(Kind::Double) * sources.eq(source).to_kind(Kind::Double);
                1.0 + (&nll * weights).sum(Kind::Double).double_value(&[])
            })
            .collect();
        let want = Tensor::from_slice(&want);
        let new = || (scalar(0.0), Tensor::ones([4], (Kind::Float, Device::Cpu)));
        let (eval, train) =
            (op::CrossEntropyEval { vocab: vocab as u64 }, op::CrossEntropyTrain { vocab: vocab as u64 });
        let ((alone, _), (sum, sums)) = (new(), new());
        run(eval.clone(), &[&logits, &targets, &weights], &[&alone]);
        run(eval, &[&logits, &targets, &weights, &sources], &[&sum, &sums]);
        assert!(sum.equal(&alone));
        assert!(relative_error(&sums, &want) < 1e-5, "{sums} {want}");
        assert_eq!(sums.double_value(&[3]), 1.0);
        let inverse = scalar(0.25);
        let (plain, mixed) = (logits.copy(), logits.copy());
        let ((alone, _), (sum, sums)) = (new(), new());
        run(train.clone(), &[&targets, &weights, &inverse], &[&plain, &alone]);
        run(train.clone(), &[&targets, &weights, &inverse, &sources], &[&mixed, &sum, &sums]);
        assert!(sum.equal(&alone) && mixed.equal(&plain));
        assert!(relative_error(&sums, &want) < 1e-5, "{sums} {want}");
        let short = sources.narrow(0, 0, 3);
        let text = refused(train, &[&targets, &weights, &inverse, &short], &[&mixed, &sum, &sums]);
        assert!(text.contains("sources must be [700], is [3]"), "{text}");
    }
}

/// Logits so large that a plain softmax overflows.
#[test]
fn cross_entropy_survives_large_logits() {
    let _bench = bench();
    let logits = Tensor::from_slice(&[3e4f32, -3e4, 0.0, 2e4]).view([1, 4]);
    let (target, sum) = (Tensor::from_slice(&[1i64]), scalar(0.0));
    run(op::CrossEntropyTrain { vocab: 4 }, &[&target, &scalar(1.0), &scalar(1.0)], &[&logits, &sum]);
    assert_eq!(sum.double_value(&[0]), 6e4);
    assert_eq!(Vec::<f32>::try_from(&logits.view([-1])).expect("row"), [1.0, -1.0, 0.0, 0.0]);
}

#[test]
fn norm_and_clip() {
    let _bench = bench();
    for kind in KINDS {
        let (a, b) = (randn(&[1000, 300], kind), randn(&[5], kind));
        let squared = scalar(0.0);
        run(op::SquaredNorm {}, &[&a], &[&squared]);
        run(op::SquaredNorm {}, &[&b], &[&squared]);
        let exact = |t: &Tensor| t.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]);
        let want = exact(&a) + exact(&b);
        assert!((squared.double_value(&[0]) / want - 1.0).abs() < 1e-6);
    }
    for (squared, max_norm, scale, skip) in
        [(16.0, 1.0, 4.0, 0.0), (0.25, 1.0, 1.0, 0.0), (16.0, 0.0, 1.0, 0.0), (f64::INFINITY, 0.0, 1.0, 1.0)]
    {
        let (s, k) = (unset(&[1], Kind::Float), unset(&[1], Kind::Float));
        run(op::Clip { max_norm }, &[&scalar(squared)], &[&s, &k]);
        assert_eq!((s.double_value(&[0]), k.double_value(&[0])), (scale, skip));
    }
    let (s, k) = (unset(&[1], Kind::Float), unset(&[1], Kind::Float));
    run(op::Clip { max_norm: 1.0 }, &[&scalar(f64::NAN)], &[&s, &k]);
    assert_eq!(k.double_value(&[0]), 1.0);
}

fn optimize(kind: OptimizerKind, eps: f64) -> op::Optimize {
    op::Optimize {
        kind,
        beta1: 0.9,
        beta2: 0.95,
        eps,
        weight_decay: 0.1,
        lr_multiplier: 0.5,
        weights: op::Weights::Master,
    }
}

/// Runs five steps of `op` on a parameter of `shape` beside `reference`, which updates f64 copies of parameter and
/// states by (step number, scaled gradient, learning rate). Then a skipped step, which must change nothing.
fn five_steps(op: op::Optimize, shape: &[i64], reference: impl Fn(f64, &Tensor, f64, &mut [Tensor])) {
    let master = randn(shape, Kind::Float);
    let extents: Vec<u64> = shape.iter().map(|e| *e as u64).collect();
    let mut tensors = vec![master];
    for state in op::Optimize::state_shapes(op.kind, &extents) {
        let state: Vec<i64> = state.iter().map(|e| *e as i64).collect();
        tensors.push(Tensor::zeros(state, (Kind::Float, Device::Cpu)));
    }
    let mut want: Vec<Tensor> = tensors.iter().map(|t| t.to_kind(Kind::Double)).collect();
    tensors.push(unset(shape, Kind::BFloat16));
    let outputs: Vec<&Tensor> = tensors.iter().collect();
    let (lr, scale) = (scalar(0.02), scalar(2.0));
    for step in 1..=5 {
        let gradient = randn(shape, Kind::Float);
        let scaled = gradient.to_kind(Kind::Double) / 2.0;
        run(op.clone(), &[&gradient, &lr, &scale, &scalar(0.0), &scalar(f64::from(step))], &outputs);
        reference(f64::from(step), &scaled, 0.01, &mut want);
        for (i, (got, want)) in outputs.iter().zip(&want).enumerate() {
            let error = relative_error(got, want);
            assert!(error < 2e-6, "{:?} step {step} tensor {i}: {error:.2e}", op.kind);
        }
        let compute = outputs[outputs.len() - 1];
        assert!(compute.equal(&outputs[0].to_kind(Kind::BFloat16)), "compute copy follows the master");
    }
    let before: Vec<Tensor> = tensors.iter().map(Tensor::copy).collect();
    let gradient = Tensor::full(shape, f64::NAN, (Kind::Float, Device::Cpu));
    let inputs = [&gradient, &lr, &scalar(f64::NAN), &scalar(1.0), &scalar(6.0)];
    try_run(&op.into(), &mut TestHost::default(), At::default(), &inputs, &outputs).expect("skipped step");
    assert!(tensors.iter().zip(&before).all(|(a, b)| a.equal(b)), "a skipped step changes nothing");
}

#[test]
fn adamw_matches_the_paper() {
    let _bench = bench();
    five_steps(optimize(OptimizerKind::Adamw, 1e-8), &[130, 40], |t, g, lr, state| {
        let (b1, b2) = (0.9, 0.95);
        state[1] = &state[1] * b1 + g * (1.0 - b1);
        state[2] = &state[2] * b2 + g.square() * (1.0 - b2);
        let m = &state[1] / (1.0 - libm::pow(b1, t));
        let v = &state[2] / (1.0 - libm::pow(b2, t));
        state[0] = &state[0] * (1.0 - lr * 0.1) - m / (v.sqrt() + 1e-8) * lr;
    });
}

/// bf16 moments are rounded stochastically: each step starts from what was stored, and is one unit off at most.
#[test]
fn adamw_with_bf16_moments_follows_the_paper() {
    let _bench = bench();
    let n = 300_001;
    let op = op::Optimize { weights: op::Weights::Whole, ..optimize(OptimizerKind::Adamw, 1e-8) };
    let master = randn(&[n], Kind::Float);
    let zeros = || Tensor::zeros([n], (Kind::BFloat16, Device::Cpu));
    let (m, v, lr, scale) = (zeros(), zeros(), scalar(0.02), scalar(2.0));
    for step in 1..=3 {
        let gradient = randn(&[n], Kind::Float);
        let [p0, m0, v0, g] = [&master, &m, &v, &(&gradient / 2.0)].map(|t| t.to_kind(Kind::Double));
        run(
            op.clone(),
            &[&gradient, &lr, &scale, &scalar(0.0), &scalar(f64::from(step))],
            &[&master, &m, &v],
        );
        let (m1, v1) = (m0 * 0.9 + &g * 0.1, v0 * 0.95 + g.square() * 0.05);
        let bias = |b: f64| 1.0 - libm::pow(b, f64::from(step));
        let want = p0 * (1.0 - 0.01 * 0.1) - &m1 / bias(0.9) / ((&v1 / bias(0.95)).sqrt() + 1e-8) * 0.01;
        assert!(relative_error(&master, &want) < 1e-6);
        for (got, want) in [(&m, &m1), (&v, &v1)] {
            // Where terms cancel, f32 itself is off by about 1e-8.
            let error = (got.to_kind(Kind::Double) - want) / (want.abs() + 1e-5);
            assert!(error.abs().max().double_value(&[]) <= 1.1 / 128.0, "step {step}");
            // A bias of rounding to nearest below would be 1/512; the standard error is under 1/256/√n = 7e-6.
            assert!(error.mean(Kind::Double).double_value(&[]).abs() < 3e-5, "step {step}");
        }
    }
}

/// bf16 weights with a split master make the steps of an f32 master to the bit; without a master they are its roundings.
#[test]
fn adamw_without_a_master_of_its_own() {
    let _bench = bench();
    let shape = [600, 700]; // two blocks
    for kind in [Kind::Float, Kind::BFloat16] {
        let zeros = |kind| Tensor::zeros(shape, (kind, Device::Cpu));
        let start = randn(&shape, Kind::BFloat16);
        let master = start.to_kind(Kind::Float);
        let (split, missing, alone) = (start.copy(), zeros(Kind::Int16), start.copy());
        let moments: [[Tensor; 2]; 3] = std::array::from_fn(|_| [zeros(kind), zeros(kind)]);
        let (lr, scale) = (scalar(0.02), scalar(2.0));
        for step in 1..=4 {
            let gradient = randn(&shape, Kind::Float);
            let go = |weights, outputs: &[&Tensor]| {
                let op = op::Optimize { weights, ..optimize(OptimizerKind::Adamw, 1e-8) };
                let g = gradient.copy(); // divided in place
                run(op.clone(), &[&g, &lr, &scale, &scalar(0.0), &scalar(f64::from(step))], outputs);
                let skipped = [&g, &lr, &scale, &scalar(1.0), &scalar(f64::from(step))];
                try_run(&op.into(), &mut TestHost::default(), At::default(), &skipped, outputs)
                    .expect("skips");
            };
            let [[m0, v0], [m1, v1], [m2, v2]] = &moments;
            go(op::Weights::Whole, &[&master, m0, v0]);
            let before = alone.to_kind(Kind::Double);
            go(op::Weights::Split, &[&split, m1, v1, &missing]);
            go(op::Weights::Stochastic, &[&alone, m2, v2]);
            let joined = (split.view_dtype(Kind::Int16).to_kind(Kind::Int) * 65_536 + &missing)
                .view_dtype(Kind::Float);
            assert!(joined.equal(&master), "{kind:?} step {step}");
            assert!(m1.equal(m0) && v1.equal(v0) && m2.equal(m0) && v2.equal(v0), "{kind:?} step {step}");
            if kind == Kind::Float {
                let bias = |b: f64| 1.0 - libm::pow(b, f64::from(step));
                let (m, v) = (m2.to_kind(Kind::Double) / bias(0.9), v2.to_kind(Kind::Double) / bias(0.95));
                let want = before * (1.0 - 0.01 * 0.1) - m / (v.sqrt() + 1e-8) * 0.01;
                let error = (alone.to_kind(Kind::Double) - &want) / (want.abs() + 1e-4);
                assert!(error.abs().max().double_value(&[]) <= 1.1 / 128.0, "step {step}");
                assert!(error.mean(Kind::Double).double_value(&[]).abs() < 3e-5, "step {step}");
            }
        }
    }
}

#[test]
fn lion_matches_the_paper() {
    let _bench = bench();
    five_steps(optimize(OptimizerKind::Lion, 0.0), &[700, 600], |_, g, lr, state| {
        let update = (&state[1] * 0.9 + g * 0.1).sign();
        state[0] = &state[0] - (update + &state[0] * 0.1) * lr;
        state[1] = &state[1] * 0.95 + g * 0.05;
    });
}

#[test]
fn adafactor_matches_the_paper() {
    let _bench = bench();
    let eps = 1e-30;
    let finish = |u: Tensor, lr: f64, p: &Tensor| {
        let rms = u.square().mean(Kind::Double).sqrt().double_value(&[]).max(1.0);
        p * (1.0 - lr * 0.1) - u * (lr / rms)
    };
    five_steps(optimize(OptimizerKind::Adafactor, eps), &[700, 600], |t, g, lr, state| {
        let decay = 1.0 - libm::pow(t, -0.8);
        let square = g.square() + eps;
        state[1] = &state[1] * decay + square.mean_dim(1, false, Kind::Double) * (1.0 - decay);
        state[2] = &state[2] * decay + square.mean_dim(0, false, Kind::Double) * (1.0 - decay);
        let v = state[1].unsqueeze(1) * state[2].unsqueeze(0) / state[1].mean(Kind::Double);
        state[0] = finish(g / v.sqrt(), lr, &state[0]);
    });
    five_steps(optimize(OptimizerKind::Adafactor, eps), &[300], |t, g, lr, state| {
        let decay = 1.0 - libm::pow(t, -0.8);
        state[1] = &state[1] * decay + (g.square() + eps) * (1.0 - decay);
        state[0] = finish(g / state[1].sqrt(), lr, &state[0]);
    });
}
