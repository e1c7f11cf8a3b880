//! The shape of a LLaMA-style model and how its context was stretched.
//!
//! Not here: presets and the shape solver (compiler), parameter placement ([`crate::param`]).

use serde::{Deserialize, Serialize};

/// How rotary positions are scaled beyond the original context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeMethod {
    /// Plain RoPE (Su et al. 2021, arXiv 2104.09864).
    None,
    /// Position interpolation (Chen et al. 2023, arXiv 2306.15595).
    Pi,
    /// NTK-aware base change (bloc97 2023; Rozière et al. 2023, arXiv 2308.12950 uses the same lever).
    Ntk,
    /// YaRN (Peng et al. 2023, arXiv 2309.00071).
    Yarn,
    /// The piecewise scaling of Llama 3.1 (Grattafiori et al. 2024, arXiv 2407.21783).
    Llama3,
}

/// Rotary position settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// Scaling method.
    pub method: RopeMethod,
    /// Context ÷ original context; 1 when the method is `none`.
    pub factor: f64,
    /// Context the unscaled frequencies were (or count as) trained for, in tokens.
    pub original_context: u64,
    /// Base of the frequencies.
    pub theta: f64,
}

/// The shape of a decoder: everything that decides parameter counts, FLOPs and activation sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Family name, for example `llama`.
    pub family: String,
    /// All parameters, exact.
    pub params: u64,
    /// Parameters without the input embedding: the N of FLOPs a token (design: 6·N + 6·L·h·s).
    pub params_non_embedding: u64,
    /// Decoder blocks.
    pub layers: u64,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads (grouped-query attention, arXiv 2305.13245).
    pub kv_heads: u64,
    /// Width of one head.
    pub head_dim: u64,
    /// Width of the gated feed-forward.
    pub ffn: u64,
    /// Vocabulary the tokenizer uses.
    pub vocab: u64,
    /// Rows the embedding and the head really have; the logits of the padding are masked.
    pub vocab_padded: u64,
    /// Context length in tokens.
    pub context: u64,
    /// Rotary positions.
    pub rope: Rope,
    /// Whether the head shares the embedding matrix.
    #[serde(default)]
    pub tied: bool,
    /// ε of every RMSNorm.
    pub norm_eps: f64,
    /// Dropout on the two residual branches and the embedding output; 0 = off.
    #[serde(default)]
    pub dropout: f64,
    /// Standard deviation of the normal initialisation; the matrices that end a residual branch use
    /// `init_std / sqrt(2·layers)` (Radford et al. 2019, GPT-2).
    pub init_std: f64,
}

impl Model {
    /// Rows of the packed query–key–value matrix: (heads + 2·kv_heads)·head_dim.
    pub fn qkv_rows(&self) -> u64 {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Parameters of one block: packed qkv, output, packed gate and up, down, two norms.
    pub fn params_per_block(&self) -> u64 {
        let attention = self.hidden * self.qkv_rows() + self.heads * self.head_dim * self.hidden;
        let feed_forward = 3 * self.hidden * self.ffn;
        attention + feed_forward + 2 * self.hidden
    }

    /// Parameters counted from the shape: embedding, blocks, last norm, head unless tied.
    /// Counts `vocab` rows, not the padded ones, so that published totals are met exactly.
    pub fn count_params(&self) -> u64 {
        let embedding = self.vocab * self.hidden;
        let head = if self.tied { 0 } else { embedding };
        embedding + self.layers * self.params_per_block() + self.hidden + head
    }

    /// Parameters without the input embedding. A tied head still multiplies, so it stays counted.
    pub fn count_params_non_embedding(&self) -> u64 {
        self.layers * self.params_per_block() + self.hidden + self.vocab * self.hidden
    }

    /// Training FLOPs a token, forward and backward, causal attention:
    /// 6·N + 6·L·a·s with N without the input embedding and a = heads·head_dim
    /// (design section 6; Kaplan et al. 2020, arXiv 2001.08361, with the causal half of attention).
    pub fn flops_per_token(&self) -> f64 {
        let width = (self.heads * self.head_dim) as f64;
        6.0 * self.params_non_embedding as f64 + 6.0 * self.layers as f64 * width * self.context as f64
    }
}
