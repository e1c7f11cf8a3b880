//! Seconds of one kernel on one device: matrix product, attention, pointwise pass.

use llmc_plan::plan::{Determinism, Precision};

use super::Setting;

/// Matrix product of `m × k` by `k × n`, in the setting's precision unless `wide` (the head stays out of fp8).
///
/// Tile and wave quantisation after NVIDIA's matrix-multiplication guide; `K/(K+k0)` is the pipeline's fill; the
/// memory bound counts each operand once. Constants in the profile.
pub fn gemm(s: &Setting, m: f64, n: f64, k: f64, wide: bool) -> f64 {
    if m <= 0.0 || n <= 0.0 || k <= 0.0 {
        return 0.0;
    }
    let p = &s.profile.gemm;
    let fp8 = s.precision == Precision::Fp8 && !wide;
    let (peak, eta) = match s.precision {
        Precision::F32 => (s.hardware.peak_f32, p.eta_f32),
        Precision::Fp8 if fp8 => (s.hardware.peak_fp8.unwrap_or(s.hardware.peak_bf16), p.eta_fp8),
        _ => (s.hardware.peak_bf16, p.eta_bf16),
    };
    let width = s.hardware.multiprocessors as f64;
    let mut loss = f64::INFINITY;
    for &(rows, columns, rate) in &p.tiles {
        let tiles = (m / rows).ceil() * (n / columns).ceil();
        let waves = tiles / width;
        let idle = if p.wave > 0.0 { libm::pow(waves.ceil() / waves, p.wave) } else { 1.0 };
        let one = tiles * rows * columns / (m * n) * idle / rate;
        if one < loss {
            loss = one;
        }
    }
    let compute = 2.0 * m * n * k / (peak * s.hardware.clock() * eta) * loss * (k + p.k0) / k;
    let in_bytes = if fp8 { 1.0 } else { s.act() };
    let bytes = (m * k + n * k) * in_bytes + m * n * s.act();
    // Casting both operands: read once wide, write once narrow.
    let casts = if fp8 { p.fp8_cast_passes * (m * k + n * k) * 3.0 / bandwidth(s) } else { 0.0 };
    compute.max(bytes / bandwidth(s)) + casts + p.launch
}

/// Seconds of causal attention for `sequences` of `tokens` queries against `keys`, forward and backward.
///
/// `share` is the part of the full causal triangle this rank computes (1 without context parallelism).
pub fn attention(s: &Setting, sequences: f64, tokens: f64, heads: f64, share: f64) -> (f64, f64) {
    let p = &s.profile.attention;
    let dim = s.shape.head_dim as f64;
    if s.shape.variant.unfused_attention {
        return unfused(s, sequences, tokens, heads, share);
    }
    let flops = 2.0 * sequences * heads * tokens * tokens * dim * share;
    let rate = s.hardware.peak_bf16 * if dim < 128.0 { p.narrow_head } else { 1.0 };
    let rate = if s.precision == Precision::F32 { s.hardware.peak_f32 } else { rate } * s.hardware.clock();
    let queries = sequences * tokens * heads * dim * share;
    let launch = s.profile.gemm.launch;
    let forward = launch + flops / (rate * p.forward) + queries * p.forward_element;
    let backward = 2.0 * launch + 2.5 * flops / (rate * p.backward) + queries * p.backward_element;
    let (slower_forward, slower_backward) = bitwise(s, sequences * heads);
    (forward * slower_forward, backward * slower_backward)
}

/// Time of a bit-equal attention ÷ the fast one, forward and backward: FlashAttention 2 runs it, which in the backward
/// pass keeps ⌈multiprocessors ÷ heads of all sequences⌉ sums of dQ (flash_api.cpp, `mha_bwd`), each at its price.
pub fn bitwise(s: &Setting, heads: f64) -> (f64, f64) {
    if s.determinism != Determinism::Bitwise {
        return (1.0, 1.0);
    }
    let p = &s.profile.attention;
    let flash2 = 1.0 / p.flash2;
    let sums = (s.hardware.multiprocessors as f64 / heads.max(1.0)).ceil();
    let each = (p.bitwise_backward - flash2).max(0.0) / (BITWISE_SUMS - 1.0);
    (flash2, flash2 + each * (sums - 1.0))
}

/// Sums of dQ kept where `bitwise_backward` was measured: 24 heads on 132 multiprocessors.
const BITWISE_SUMS: f64 = 6.0;

/// Seconds of attention that writes its scores, forward and backward: batched products over the whole square, since
/// none of them knows the mask, and the passes of softmax and dropout between them.
fn unfused(s: &Setting, sequences: f64, tokens: f64, heads: f64, share: f64) -> (f64, f64) {
    let p = &s.profile.gemm;
    let dim = s.shape.head_dim as f64;
    let batch = sequences * heads * share;
    // Tensor cores want rows of a multiple of 16 bytes (NVIDIA, Matrix Multiplication Background, section 2.2); other
    // head widths run at the rate of the f32 units: BigScience's heads of 150 and 450 do, within a tenth.
    let aligned = s.shape.head_dim.is_multiple_of(8);
    let rate = if aligned && s.precision != Precision::F32 {
        s.hardware.peak_bf16 * p.eta_bf16
    } else {
        s.hardware.peak_f32 * p.eta_f32
    };
    let products = |inner: f64| 2.0 * batch * tokens * tokens * dim / rate * (inner + p.k0) / inner;
    // Scores and their gradient sum over the head, the other four products over the sequence.
    let (scores, sums) = (products(dim), products(tokens));
    // The score matrix is written and read by product, softmax and dropout: 5 of 13 passes are forward.
    let passes = s.profile.attention.score_passes * batch * tokens * tokens * s.act() / bandwidth(s);
    let forward = 2.0 * p.launch + scores + sums + passes * 5.0 / 13.0;
    let backward = 4.0 * p.launch + scores + 3.0 * sums + passes * 8.0 / 13.0;
    (forward, backward)
}

/// Bytes per second of a fused pointwise pass.
pub fn bandwidth(s: &Setting) -> f64 {
    s.hardware.memory_bandwidth * s.profile.memory.pointwise
}
