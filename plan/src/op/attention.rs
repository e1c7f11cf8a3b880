//! Causal grouped-query attention on packed qkv, flash style: probabilities are never kept, only the
//! log-sum-exp (Dao 2023, arXiv 2307.08691). Documents inside a sequence do not see each other when the plan
//! masks them: cumulative lengths carry the boundaries.

use serde::{Deserialize, Serialize};

use super::{
    Backend, Kind, RopeRotate, Spec, TensorType, arity, chunk, is_math, magnitude, magnitude_workspace,
    math_bytes, packed_width, product, shape,
};
use crate::plan::DType;

/// Inputs: qkv `[n, (heads + 2·kv_heads)·head_dim]`, cumulative lengths `[d+1]`.
/// Outputs: out `[n, heads·head_dim]`, log-sum-exp `[heads, n]` f32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttentionForward {
    /// Query heads on this rank.
    pub heads: u64,
    /// Key and value heads on this rank.
    pub kv_heads: u64,
    /// Width of one head.
    pub head_dim: u64,
    /// Sequences in the micro-batch.
    pub sequences: u64,
    /// Tokens a sequence.
    pub context: u64,
    /// Attention stays inside a document.
    pub document_mask: bool,
    /// The backward pass adds in a fixed order.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deterministic: bool,
}

/// What a library allocates around an attention whose results it writes in place (2026-11, H100, libtorch 2.11 with
/// cuDNN 9.19, by its allocator).
struct Library {
    /// Bytes of an f32 a row and head.
    statistics: u64,
    /// Bytes of the sums of dQ in f32, apart: FlashAttention in a fixed order keeps one a group of blocks.
    sums: u64,
}

impl AttentionForward {
    /// The library that runs it, if one does: cuDNN, or FlashAttention 2 where the order of sums is fixed, documents
    /// are masked, or the context is not whole tiles of cuDNN (128 rows).
    fn library(&self, backend: Backend, qkv: &TensorType) -> Option<Library> {
        let fits = self.head_dim.is_multiple_of(8) && self.head_dim <= 256;
        if backend != Backend::Cuda || !fits || !matches!(qkv.dtype, DType::Bf16 | DType::F16) {
            return None;
        }
        let rows = product(&[qkv.extent(0), self.heads]);
        let heads = product(&[self.sequences, self.heads]).max(1);
        let groups = if self.deterministic { MULTIPROCESSORS.div_ceil(heads) } else { 1 };
        Some(Library { statistics: product(&[rows, 4]), sums: product(&[rows, self.head_dim, 4, groups]) })
    }

    /// FLOPs of the forward pass: 2 products of 2·s²·d a head, half of them masked away.
    fn forward_flops(&self) -> f64 {
        let pairs = 0.5 * self.sequences as f64 * self.context as f64 * self.context as f64;
        4.0 * pairs * (self.heads as f64 * self.head_dim as f64)
    }
}

/// FlashAttention in a fixed order keeps ⌈multiprocessors ÷ (sequences · heads)⌉ sums of dQ (flash-attention,
/// csrc/flash_attn/flash_api.cpp, `mha_bwd`): those of Hopper here, which has the most.
const MULTIPROCESSORS: u64 = 132;
impl Spec for AttentionForward {
    fn kind(&self) -> Kind {
        Kind::Attention
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (2, 2))?;
        let n = product(&[self.sequences, self.context]);
        shape("qkv", &inputs[0], &[n, packed_width(self.heads, self.kv_heads, self.head_dim)])?;
        shape("out", &outputs[0], &[n, product(&[self.heads, self.head_dim])])?;
        shape("lse", &outputs[1], &[self.heads, n])
    }

    fn flops(&self, _inputs: &[TensorType], _outputs: &[TensorType]) -> f64 {
        self.forward_flops()
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        let heads = (self.heads, self.kv_heads, self.head_dim);
        match self.library(backend, &inputs[0]) {
            Some(library) => library.statistics,
            None => workspace(backend, heads, self.context, inputs[0].dtype, false),
        }
    }
}

/// Inputs: dout `[n, heads·head_dim]`, qkv, out, log-sum-exp, cumulative lengths (as in the forward), cosine and sine
/// tables `[context, head_dim/2]`, positions `[n]`. Output: dqkv, shape of qkv, rotated back: the gradient of what was
/// packed before rotation; and where that will be quantised, its largest magnitude `[1]` f32. Five products where the forward has two (arXiv 2307.08691): 2.5 × its FLOPs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttentionBackward {
    /// The forward it belongs to.
    pub forward: AttentionForward,
}

impl AttentionBackward {
    /// The rotation that ends it.
    pub fn rotation(&self) -> RopeRotate {
        let AttentionForward { heads, kv_heads, head_dim, .. } = self.forward;
        RopeRotate { heads, kv_heads, head_dim, inverse: true }
    }
}

impl Spec for AttentionBackward {
    fn kind(&self) -> Kind {
        Kind::Attention
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (8, outputs.len().clamp(1, 2)))?;
        magnitude(outputs.get(1))?;
        shape("out", &inputs[2], &inputs[0].shape)?;
        shape("positions", &inputs[7], &[inputs[1].extent(0)])?;
        shape("dqkv", &outputs[0], &inputs[1].shape)
    }

    fn flops(&self, _inputs: &[TensorType], _outputs: &[TensorType]) -> f64 {
        2.5 * self.forward.forward_flops()
    }

    /// The library's: its own sum of dQ in f32 and two statistics a row.
    fn workspace(&self, backend: Backend, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        let forward = &self.forward;
        let heads = (forward.heads, forward.kv_heads, forward.head_dim);
        if let Some(library) = forward.library(backend, &inputs[1]) {
            return library.sums + 2 * library.statistics;
        }
        let loops = workspace(backend, heads, forward.context, inputs[1].dtype, true);
        let rotated = loops.max(self.rotation().workspace(backend, &inputs[5..], outputs));
        rotated.max(magnitude_workspace(backend, &outputs[0], outputs.get(1)))
    }
}

/// Attention of this rank's queries to one block of keys and values (ring context parallelism,
/// arXiv 2310.01889). Forward inputs: q `[n, heads·head_dim]`, kv `[m, 2·kv_heads·head_dim]`; outputs: partial
/// out `[n, heads·head_dim]`, log-sum-exp `[heads, n]` f32. Backward inputs: q, kv, dout, merged out, merged
/// log-sum-exp; outputs: dq `[n, …]`, dkv `[m, …]`, both accumulated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttentionPartial {
    /// Query heads on this rank.
    pub heads: u64,
    /// Key and value heads on this rank.
    pub kv_heads: u64,
    /// Width of one head.
    pub head_dim: u64,
    /// Sequences in the micro-batch.
    pub sequences: u64,
    /// First position of the query block inside its sequence.
    pub query_offset: u64,
    /// First position of the key block inside its sequence.
    pub key_offset: u64,
    /// The backward pass of the block.
    pub backward: bool,
}

impl Spec for AttentionPartial {
    fn kind(&self) -> Kind {
        Kind::Attention
    }

    fn updates(&self, _output: usize) -> bool {
        self.backward
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, if self.backward { (5, 2) } else { (2, 2) })?;
        shape("q", &inputs[0], &[inputs[0].extent(0), product(&[self.heads, self.head_dim])])?;
        shape("kv", &inputs[1], &[inputs[1].extent(0), product(&[2, self.kv_heads, self.head_dim])])
    }

    fn flops(&self, inputs: &[TensorType], _outputs: &[TensorType]) -> f64 {
        let (n, m) = (inputs[0].extent(0) as f64, inputs[1].extent(0) as f64);
        let pairs = n * m / self.sequences.max(1) as f64;
        let visible = if self.query_offset == self.key_offset { 0.5 } else { 1.0 };
        let products = if self.backward { 10.0 } else { 4.0 };
        products * visible * pairs * (self.heads as f64 * self.head_dim as f64)
    }

    fn workspace(&self, backend: Backend, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        let keys = inputs[1].extent(0) / self.sequences.max(1);
        workspace(backend, (self.heads, self.kv_heads, self.head_dim), keys, inputs[0].dtype, self.backward)
    }
}

/// Joins two partial results by their log-sum-exps, in place on the running one.
/// Inputs: partial out, its log-sum-exp. Outputs: running out, running log-sum-exp.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttentionMerge {
    /// Query heads on this rank.
    pub heads: u64,
}

impl Spec for AttentionMerge {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn updates(&self, _output: usize) -> bool {
        true
    }

    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String> {
        arity(inputs, outputs, (2, 2))?;
        shape("running out", &outputs[0], &inputs[0].shape)?;
        shape("running lse", &outputs[1], &inputs[1].shape)
    }
    fn workspace(&self, _backend: Backend, inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        3 * inputs[1].bytes() // the joint log-sum-exp and a factor for either side
    }
}

/// Bytes of the blocked loop over at most `keys` keys, heads = (query heads, key–value heads, width).
fn workspace(backend: Backend, heads: (u64, u64, u64), keys: u64, dtype: DType, backward: bool) -> u64 {
    let (queries, kv_heads, dim) = heads;
    let (group, bytes) = (queries / kv_heads.max(1), math_bytes(dtype));
    let (rows, chunk) = chunk::attention(backend, keys, group, kv_heads, bytes);
    let lanes = group * chunk * rows;
    let copies = if backward { 2 } else { 1 };
    let scores = copies * lanes * keys;
    let result = if backward { lanes.max(chunk * keys) } else { lanes } * dim;
    let statistics_and_mask = 2 * lanes + rows * rows;
    // Narrow formats: keys and values of a span, backward their gradients too, and the block's queries in f32.
    let converted = if is_math(dtype) { 0 } else { copies * (2 * keys * chunk + lanes) * dim };
    (scores + result + statistics_and_mask + converted) * bytes
}
