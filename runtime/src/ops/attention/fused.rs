//! Attention on a CUDA device in bf16 or f16: cuDNN, or FlashAttention 2 where cuDNN will not do.
//!
//! Not here: other formats, which take the blocked loop of the module above.

use llmc_plan::op::AttentionForward;
use tch::{Device, Kind, Tensor};

use super::Heads;
use super::layout::Qkv;
use crate::error::Result;
use crate::ops::signed;
use crate::shim::{self, AttentionTensors, Fused};

/// cuDNN works on tiles of so many rows. (pytorch issue 196678: NaN in dQ at lengths that are a multiple of 64 but
/// not of this, cuDNN 9.19 on an H100, with an explicit mask; kept away from altogether.)
const CUDNN_ROWS: u64 = 128;

/// How the library runs `op`; `None` where there is none for this device and format.
///
/// cuDNN is the faster one (2026-11, H100, 3B at 4 k: forward 502 against 254 TFLOP/s, backward 416 against 228), but
/// adds dQ in no fixed order and knows no documents here.
pub(in crate::ops) fn how(op: &AttentionForward, qkv: &Tensor) -> Option<Fused> {
    let device = matches!(qkv.device(), Device::Cuda(_));
    let narrow = matches!(qkv.kind(), Kind::BFloat16 | Kind::Half);
    // Widths the kernels have (flash_api.cpp: multiples of 8 up to 256).
    let fits = op.head_dim.is_multiple_of(8) && op.head_dim <= 256;
    (device && narrow && fits).then(|| Fused {
        sequences: signed(op.sequences),
        longest: signed(op.context),
        flash: !goes_to_cudnn(op),
        deterministic: op.deterministic,
    })
}

/// Whether cuDNN runs it, on a CUDA device in a narrow format. (Its sdpa on Hopper: widths up to 128 both ways.)
pub(crate) fn goes_to_cudnn(op: &AttentionForward) -> bool {
    let fits = op.head_dim.is_multiple_of(8) && op.head_dim <= 128;
    fits && !op.deterministic && !op.document_mask && op.context.is_multiple_of(CUDNN_ROWS)
}

/// Has cuDNN load what attention over such heads needs, where it runs it: both passes over one short sequence.
pub(crate) fn open(op: &AttentionForward, kind: Kind, device: Device) -> Result<()> {
    let group = op.heads / op.kv_heads.max(1);
    let op = AttentionForward { heads: group, kv_heads: 1, sequences: 1, context: CUDNN_ROWS, ..op.clone() };
    let (heads, n) = (Heads::new(op.heads, op.kv_heads, op.head_dim)?, signed(op.context));
    let zeros = |shape: &[i64], kind: Kind| Tensor::f_zeros(shape, (kind, device));
    let qkv = zeros(&[n, heads.q_width() + 2 * heads.kv_width()], kind)?;
    let Some(how) = how(&op, &qkv).filter(|how| !how.flash) else { return Ok(()) };
    let (out, lse) = (zeros(&[n, heads.q_width()], kind)?, zeros(&[heads.group, n], Kind::Float)?);
    let bounds = bounds(&op, &qkv)?;
    forward(how, &qkv, &bounds, heads, &out, &lse)?;
    let saved = super::Saved { dout: &out, out: &out, lse: &lse };
    backward(how, &qkv, &saved, &bounds, heads, &qkv.f_zeros_like()?)
}

/// Queries, keys and values of packed rows as `[n, heads, head_dim]` views.
fn by_head(qkv: &Tensor, heads: Heads) -> Result<[Tensor; 3]> {
    let parts = Qkv::packed(qkv, heads)?;
    Ok([parts.q.f_flatten(1, 2)?, parts.k, parts.v])
}

/// Bounds of what attends to itself: the documents, or without a mask the sequences.
pub(in crate::ops) fn bounds(op: &AttentionForward, cu_seqlens: &Tensor) -> Result<Tensor> {
    if op.document_mask {
        return Ok(cu_seqlens.shallow_clone());
    }
    let (context, end) = (signed(op.context), signed(op.sequences.saturating_mul(op.context)));
    Ok(Tensor::f_arange_start_step(0, end + 1, context.max(1), (Kind::Int, cu_seqlens.device()))?)
}

fn rows(t: &Tensor, heads: Heads) -> Result<Tensor> {
    Ok(t.f_unflatten(1, [heads.kv * heads.group, heads.dim])?)
}

/// As [`super::forward`].
pub(in crate::ops) fn forward(
    how: Fused,
    qkv: &Tensor,
    cu_seqlens: &Tensor,
    heads: Heads,
    out: &Tensor,
    lse: &Tensor,
) -> Result<()> {
    let [q, k, v] = by_head(qkv, heads)?;
    let tensors = AttentionTensors { q: &q, k: &k, v: &v, cu_seqlens };
    shim::attention_forward(how, &tensors, &rows(out, heads)?, lse)
}

/// Gradients of queries, keys and values, packed as they are, into `dqkv`.
pub(in crate::ops) fn backward(
    how: Fused,
    qkv: &Tensor,
    saved: &super::Saved<'_>,
    cu_seqlens: &Tensor,
    heads: Heads,
    dqkv: &Tensor,
) -> Result<()> {
    let ([q, k, v], [dq, dk, dv]) = (by_head(qkv, heads)?, by_head(dqkv, heads)?);
    let tensors = AttentionTensors { q: &q, k: &k, v: &v, cu_seqlens };
    let (dout, out) = (rows(saved.dout, heads)?, rows(saved.out, heads)?);
    shim::attention_backward(how, &tensors, &dout, &out, saved.lse, [&dq, &dk, &dv])
}
