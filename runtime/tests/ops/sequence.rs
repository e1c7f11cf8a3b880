//! RoPE and attention: everything that knows about positions and documents.

use llmc_plan::model::{Rope, RopeMethod};
use llmc_plan::op;
use llmc_runtime::ops::math_kind;
use llmc_runtime::ops::rope::frequencies;
use tch::{Device, Kind, Tensor};

use crate::check::{KINDS, assert_close, autograd};
use crate::support::{bench, randn, refused, relative_error, run, unset};

/// Method, head width, θ, factor, original context; factor on cosine and sine, frequencies of some pairs.
type Golden = (RopeMethod, u64, f64, f64, u64, f64, &'static [(usize, f64)]);

/// Figures of Hugging Face transformers 5.23.0, `modeling_rope_utils.py`, its functions run in f64.
#[test]
fn frequencies_match_hugging_face() {
    let cases: [Golden; 6] = [
        (
            RopeMethod::Pi,
            64,
            1e4,
            4.0,
            2048,
            1.0,
            &[(0, 0.25), (5, 0.0592843426415414), (31, 3.33380358040831e-05)],
        ),
        // The dynamic rule at 8,192 tokens of a 2,048 model with factor 1, which is a fixed factor of 4.
        (
            RopeMethod::Ntk,
            64,
            1e4,
            4.0,
            2048,
            1.0,
            &[(0, 1.0), (5, 0.189624107531167), (31, 3.33380358040831e-05)],
        ),
        (
            RopeMethod::Yarn,
            64,
            1e4,
            2.0,
            4096,
            1.0693147180559945,
            &[
                (10, 0.0562341325190349),
                (15, 0.0107707500290115),
                (20, 0.00194601702164208),
                (31, 6.66760716081662e-05),
            ],
        ),
        (
            RopeMethod::Yarn,
            128,
            1e4,
            16.0,
            4096,
            1.2772588722239782,
            &[
                (20, 0.0562341325190349),
                (30, 0.00852684377296741),
                (40, 0.000881788962931567),
                (63, 7.21738740430911e-06),
            ],
        ),
        (
            RopeMethod::Yarn,
            32,
            1e4,
            2.0,
            128,
            1.0693147180559945,
            &[
                (0, 1.0),
                (1, 0.515479548091153),
                (3, 0.133370955752919),
                (8, 0.005),
                (15, 8.89139705019461e-05),
            ],
        ),
        (
            RopeMethod::Llama3,
            128,
            5e5,
            8.0,
            8192,
            1.0,
            &[
                (20, 0.0165604400809944),
                (30, 0.00137189356776114),
                (33, 0.000312693750384065),
                (63, 3.06892598891451e-07),
            ],
        ),
    ];
    for (method, head_dim, theta, factor, original_context, attention, want) in cases {
        let rope = Rope { method, factor, original_context, theta };
        let (frequencies, temperature) = frequencies(&rope, head_dim);
        assert_eq!(frequencies.len() as u64, head_dim / 2);
        assert!((temperature - attention).abs() < 1e-15, "{method:?}: attention factor {temperature}");
        for (i, value) in want {
            let error = (frequencies[*i] / value - 1.0).abs();
            assert!(error < 1e-12, "{method:?} pair {i}: {} instead of {value}", frequencies[*i]);
        }
    }
}

fn tables(rope: &Rope, context: i64, head_dim: i64, kind: Kind) -> (Tensor, Tensor) {
    let (cos, sin) = (unset(&[context, head_dim / 2], kind), unset(&[context, head_dim / 2], kind));
    run(op::RopeTables { rope: rope.clone() }, &[], &[&cos, &sin]);
    (cos, sin)
}

fn yarn(context: u64) -> Rope {
    Rope { method: RopeMethod::Yarn, factor: 2.0, original_context: context / 2, theta: 1e4 }
}

/// `x·cos + rotate_half(x)·sin` with full-width tables, as Hugging Face's `apply_rotary_pos_emb` writes it.
fn rotary(x: &Tensor, cos: &Tensor, sin: &Tensor, positions: &Tensor) -> Tensor {
    let half = x.size()[2] / 2;
    let full = |t: &Tensor| Tensor::cat(&[t, t], 1).index_select(0, positions).unsqueeze(1);
    let turned = Tensor::cat(&[-x.narrow(2, half, half), x.narrow(2, 0, half)], 2);
    x * full(cos) + turned * full(sin)
}

#[test]
fn rotation_matches_autograd() {
    let _bench = bench();
    for kind in KINDS {
        for (n, heads, kv_heads, head_dim) in [(9, 6, 2, 8), (700, 6, 2, 64)] {
            let (h, k, d) = (heads as i64, kv_heads as i64, head_dim as i64);
            let (cos, sin) = tables(&yarn(32), 32, d, math_kind(kind));
            let positions = Tensor::randint(32, [n], (Kind::Int64, Device::Cpu));
            let shape = [n, (h + 2 * k) * d];
            let (qkv, dy) = (randn(&shape, kind), randn(&shape, kind));
            let (cos64, sin64) = (cos.to_kind(Kind::Double), sin.to_kind(Kind::Double));
            let (want, grads) = autograd(&[&qkv], &dy, |t| {
                let rotated = t[0].narrow(1, 0, (h + k) * d).reshape([n, h + k, d]);
                let turned = rotary(&rotated, &cos64, &sin64, &positions).reshape([n, (h + k) * d]);
                Tensor::cat(&[turned, t[0].narrow(1, (h + k) * d, k * d)], 1)
            });
            let forward = op::RopeRotate { heads, kv_heads, head_dim, inverse: false };
            run(forward.clone(), &[&cos, &sin, &positions], &[&qkv]);
            assert_close("qkv", &qkv, &want, kind);
            run(op::RopeRotate { inverse: true, ..forward }, &[&cos, &sin, &positions], &[&dy]);
            assert_close("dqkv", &dy, &grads[0], kind);
        }
    }
}

/// Heads, lengths of documents in each sequence.
struct Case {
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
    context: i64,
    sequences: &'static [&'static [i64]],
}

const CASES: &[Case] = &[
    Case { heads: 6, kv_heads: 2, head_dim: 8, context: 24, sequences: &[&[24], &[7, 17], &[1, 22, 1]] },
    Case { heads: 3, kv_heads: 3, head_dim: 24, context: 150, sequences: &[&[150], &[70, 80]] },
    Case { heads: 8, kv_heads: 1, head_dim: 64, context: 330, sequences: &[&[200, 130]] },
    Case { heads: 16, kv_heads: 8, head_dim: 16, context: 700, sequences: &[&[690, 10]] },
];

impl Case {
    fn tokens(&self) -> i64 {
        self.context * self.sequences.len() as i64
    }

    fn width(&self) -> i64 {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Cumulative lengths padded with the last value.
    fn cu_seqlens(&self) -> Tensor {
        let mut bounds = vec![0i32];
        for length in self.sequences.iter().copied().flatten() {
            bounds.push(bounds.last().copied().unwrap_or(0) + *length as i32);
        }
        bounds.resize(bounds.len() + 3, self.tokens() as i32);
        Tensor::from_slice(&bounds)
    }

    /// True where query (row) may not see key (column).
    fn hidden(&self, document_mask: bool) -> Tensor {
        let n = self.tokens();
        let mut document = Vec::new();
        for (s, lengths) in self.sequences.iter().enumerate() {
            for (i, length) in lengths.iter().enumerate() {
                let id = (s * 1000 + if document_mask { i } else { 0 }) as i64;
                document.extend(std::iter::repeat_n(id, *length as usize));
            }
        }
        let document = Tensor::from_slice(&document);
        let apart = document.unsqueeze(1).ne_tensor(&document.unsqueeze(0));
        apart.logical_or(&Tensor::ones([n, n], (Kind::Bool, Device::Cpu)).triu(1))
    }

    fn op(&self, document_mask: bool) -> op::AttentionForward {
        op::AttentionForward {
            heads: self.heads as u64,
            kv_heads: self.kv_heads as u64,
            head_dim: self.head_dim as u64,
            sequences: self.sequences.len() as u64,
            context: self.context as u64,
            document_mask,
            deterministic: false,
        }
    }
}

/// Dense attention over all tokens: `(out [n, heads·dim], log-sum-exp [heads, n])`.
fn dense(qkv: &Tensor, case: &Case, hidden: &Tensor) -> (Tensor, Tensor) {
    let (n, h, k, d) = (case.tokens(), case.heads, case.kv_heads, case.head_dim);
    let head_major = |start: i64, count: i64| {
        qkv.narrow(1, start * d, count * d).reshape([n, count, d]).transpose(0, 1).repeat_interleave_self_int(
            h / count,
            0,
            None,
        )
    };
    let (q, key, value) = (head_major(0, h), head_major(h, k), head_major(h + k, k));
    let scores = (q.matmul(&key.transpose(1, 2)) / (d as f64).sqrt()).masked_fill(hidden, f64::NEG_INFINITY);
    let out = scores.softmax(-1, Kind::Double).matmul(&value).transpose(0, 1).reshape([n, h * d]);
    (out, scores.logsumexp(-1, false))
}

#[test]
fn attention_matches_autograd() {
    let _bench = bench();
    for kind in KINDS {
        for case in CASES {
            for document_mask in [true, false] {
                let (n, h, d) = (case.tokens(), case.heads, case.head_dim);
                let (qkv, dout) = (randn(&[n, case.width()], kind), randn(&[n, h * d], kind));
                let hidden = case.hidden(document_mask);
                let (want, grads) = autograd(&[&qkv], &dout, |t| dense(&t[0], case, &hidden).0);
                let want_lse = dense(&qkv.to_kind(Kind::Double), case, &hidden).1;

                let forward = case.op(document_mask);
                let cu_seqlens = case.cu_seqlens();
                let (out, lse) = (unset(&[n, h * d], kind), unset(&[h, n], math_kind(kind)));
                run(forward.clone(), &[&qkv, &cu_seqlens], &[&out, &lse]);
                assert_close("out", &out, &want, kind);
                assert_close("lse", &lse, &want_lse, kind);

                let dqkv = unset(&[n, case.width()], kind);
                let [cos, sin, positions] = still(n, d, kind);
                let saved = [&dout, &qkv, &out, &lse, &cu_seqlens, &cos, &sin, &positions];
                run(op::AttentionBackward { forward: forward.clone() }, &saved, &[&dqkv]);
                // Turned back by other angles: what rotating that gradient gives.
                let [cos, sin, positions] = turning(n, d, kind);
                let (turned, want) = (unset(&[n, case.width()], kind), dqkv.copy());
                let saved = [&dout, &qkv, &out, &lse, &cu_seqlens, &cos, &sin, &positions];
                let op = op::AttentionBackward { forward };
                let rotation = op.rotation();
                run(op, &saved, &[&turned]);
                run(rotation, &[&cos, &sin, &positions], &[&want]);
                assert_close("turned", &turned, &want, kind);
                let (q, kv) = (h * d, case.kv_heads * d);
                for (name, start, width) in [("dq", 0, q), ("dk", q, kv), ("dv", q + kv, kv)] {
                    let (got, want) = (dqkv.narrow(1, start, width), grads[0].narrow(1, start, width));
                    assert_close(name, &got, &want, kind);
                }
            }
        }
    }
}

/// Tables that turn nothing: cosines of 1, sines of 0, and positions.
fn still(n: i64, d: i64, kind: Kind) -> [Tensor; 3] {
    let table = |value: f64| Tensor::full([n, d / 2], value, (math_kind(kind), Device::Cpu));
    [table(1.0), table(0.0), Tensor::arange(n, (Kind::Int64, Device::Cpu))]
}

/// Tables of random angles.
fn turning(n: i64, d: i64, kind: Kind) -> [Tensor; 3] {
    let angles = randn(&[n, d / 2], math_kind(kind));
    [angles.cos(), angles.sin(), Tensor::arange(n, (Kind::Int64, Device::Cpu))]
}

/// Equal inputs give equal bits, whatever ran before.
#[test]
fn attention_repeats_bit_for_bit() {
    let _bench = bench();
    let case = &CASES[1];
    let (n, h, d) = (case.tokens(), case.heads, case.head_dim);
    let (qkv, dout) = (randn(&[n, case.width()], Kind::Float), randn(&[n, h * d], Kind::Float));
    let results: Vec<(Tensor, Tensor)> = (0..3)
        .map(|_| {
            let (out, lse) = (unset(&[n, h * d], Kind::Float), unset(&[h, n], Kind::Float));
            let dqkv = unset(&[n, case.width()], Kind::Float);
            let (forward, cu_seqlens) = (case.op(true), case.cu_seqlens());
            run(forward.clone(), &[&qkv, &cu_seqlens], &[&out, &lse]);
            let [cos, sin, positions] = still(n, d, Kind::Float);
            let saved = [&dout, &qkv, &out, &lse, &cu_seqlens, &cos, &sin, &positions];
            run(op::AttentionBackward { forward }, &saved, &[&dqkv]);
            (out, dqkv)
        })
        .collect();
    for (out, dqkv) in &results[1..] {
        assert!(out.equal(&results[0].0) && dqkv.equal(&results[0].1));
    }
}

/// Ring context parallelism: each rank's queries meet every key block, partial results are merged, and the sum of
/// partial gradients is the gradient.
#[test]
fn partial_attention_adds_up() {
    let _bench = bench();
    for kind in [Kind::Double, Kind::Float] {
        let case = Case { heads: 4, kv_heads: 2, head_dim: 16, context: 96, sequences: &[&[96], &[96]] };
        let (n, h, k, d, ranks, block) =
            (case.tokens(), case.heads, case.kv_heads, case.head_dim, 3i64, 32i64);
        let (qkv, dout) = (randn(&[n, case.width()], kind), randn(&[n, h * d], kind));
        let hidden = case.hidden(false);
        let (want, grads) = autograd(&[&qkv], &dout, |t| dense(&t[0], &case, &hidden).0);
        // Rank r holds positions [r·block, (r+1)·block) of both sequences.
        let part = |t: &Tensor, rank: i64| {
            t.reshape([2, 96, -1]).narrow(1, rank * block, block).reshape([2 * block, -1])
        };
        let partial = |rank: i64, from: i64, backward: bool| op::AttentionPartial {
            heads: h as u64,
            kv_heads: k as u64,
            head_dim: d as u64,
            sequences: 2,
            query_offset: (rank * block) as u64,
            key_offset: (from * block) as u64,
            backward,
        };
        let mut kv_grads: Vec<Tensor> =
            (0..ranks).map(|_| Tensor::zeros([2 * block, 2 * k * d], (kind, Device::Cpu))).collect();
        for rank in 0..ranks {
            let q = part(&qkv.narrow(1, 0, h * d), rank);
            let kv = |from: i64| part(&qkv.narrow(1, h * d, 2 * k * d), from);
            let (out, lse) = (unset(&[2 * block, h * d], kind), unset(&[h, 2 * block], kind));
            run(partial(rank, rank, false), &[&q, &kv(rank)], &[&out, &lse]);
            // Blocks of earlier positions are seen whole, later ones not at all.
            for from in (0..ranks).filter(|from| *from != rank) {
                let (o, l) = (unset(&[2 * block, h * d], kind), unset(&[h, 2 * block], kind));
                run(partial(rank, from, false), &[&q, &kv(from)], &[&o, &l]);
                run(op::AttentionMerge { heads: h as u64 }, &[&o, &l], &[&out, &lse]);
            }
            assert_close("out", &out, &part(&want, rank), kind);
            let dq = Tensor::zeros([2 * block, h * d], (kind, Device::Cpu));
            for from in 0..ranks {
                let inputs = [&q, &kv(from), &part(&dout, rank), &out, &lse];
                run(partial(rank, from, true), &inputs, &[&dq, &kv_grads[from as usize]]);
            }
            assert_close("dq", &dq, &part(&grads[0].narrow(1, 0, h * d), rank), kind);
        }
        for (rank, got) in kv_grads.drain(..).enumerate() {
            assert_close("dkv", &got, &part(&grads[0].narrow(1, h * d, 2 * k * d), rank as i64), kind);
        }
    }
}

/// Two results that saw nothing merge into nothing, not into NaN.
#[test]
fn merging_unseen_rows_gives_zero() {
    let _bench = bench();
    let zeros = || Tensor::zeros([3, 8], (Kind::Float, Device::Cpu));
    let unseen = || Tensor::full([2, 3], f64::NEG_INFINITY, (Kind::Float, Device::Cpu));
    let (out, lse) = (zeros(), unseen());
    run(op::AttentionMerge { heads: 2 }, &[&zeros(), &unseen()], &[&out, &lse]);
    assert_eq!(relative_error(&out, &zeros()), 0.0);
    assert!(lse.equal(&unseen()));
}

#[test]
fn wrong_documents_are_refused() {
    let _bench = bench();
    let case = &CASES[0];
    let n = case.tokens();
    let qkv = randn(&[n, case.width()], Kind::Float);
    let (out, lse) = (unset(&[n, 48], Kind::Float), unset(&[6, n], Kind::Float));
    let try_bounds =
        |bounds: &[i32]| refused(case.op(true), &[&qkv, &Tensor::from_slice(bounds)], &[&out, &lse]);
    assert_eq!(
        try_bounds(&[0, 24, 48]),
        "attention: cumulative lengths run from 0 to 72, found (Some(0), Some(48))"
    );
    assert_eq!(try_bounds(&[0, 30, 72]), "attention: document from 0 to 30 in a context of 24");
    assert_eq!(try_bounds(&[0, 24, 10, 72]), "attention: document from 24 to 10 in a context of 24");
    let uneven = op::AttentionForward { heads: 5, ..case.op(true) };
    assert_eq!(
        refused(uneven, &[&qkv, &case.cu_seqlens()], &[&out, &lse]),
        "attention: 5 query heads over 2 key heads of width 8"
    );
}
