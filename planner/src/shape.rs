//! Counts of a decoder: parameters per layer and per end, FLOPs per token. The cost model reads a model only through
//! these. Presets and the solver for odd sizes are the compiler's.

use llmc_plan::model::Model;

use crate::question::Variant;

/// Shape of a dense decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Layers.
    pub layers: u64,
    /// Residual width.
    pub hidden: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Width of the feed-forward.
    pub ffn: u64,
    /// Rows of embedding and head that are stored (padded).
    pub vocab: u64,
    /// Tokens in a sequence.
    pub context: u64,
    /// Input embedding and head share one matrix.
    pub tied: bool,
    /// Dropout is applied and its masks are kept.
    pub dropout: bool,
    /// What a published run does otherwise than LLaMA.
    pub variant: Variant,
}

impl Shape {
    /// The shape of `model` with the departures of `variant`.
    pub fn new(model: &Model, variant: &Variant) -> Shape {
        Shape {
            layers: model.layers,
            hidden: model.hidden,
            heads: model.heads,
            kv_heads: model.kv_heads,
            head_dim: model.head_dim,
            ffn: model.ffn,
            vocab: model.vocab_padded,
            context: model.context,
            tied: model.tied,
            dropout: model.dropout > 0.0,
            variant: *variant,
        }
    }

    /// SwiGLU (three matrices) or a plain feed-forward of two.
    pub fn gated(&self) -> bool {
        !self.variant.plain_ffn
    }

    /// Rows of learned positions; 0 with RoPE or ALiBi.
    pub fn learned_positions(&self) -> u64 {
        if self.variant.learned_positions { self.context } else { 0 }
    }

    /// Weights of the matrix products of one layer (attention and feed-forward), biases and norms not counted.
    pub fn layer_matrix_params(&self) -> u64 {
        self.attention_params() + self.feed_forward_params()
    }

    /// q, k, v and o.
    pub fn attention_params(&self) -> u64 {
        let q = self.heads * self.head_dim;
        let kv = self.kv_heads * self.head_dim;
        self.hidden * (2 * q + 2 * kv)
    }

    /// Gate, up and down; up and down without gate.
    pub fn feed_forward_params(&self) -> u64 {
        self.hidden * self.ffn * if self.gated() { 3 } else { 2 }
    }

    /// Norm gains (and biases) and projection biases of one layer.
    pub fn layer_vector_params(&self) -> u64 {
        let norms = 2 * self.hidden * if self.variant.layer_norm { 2 } else { 1 };
        let biases = if self.variant.bias {
            (self.heads + 2 * self.kv_heads) * self.head_dim
                + 2 * self.hidden
                + self.ffn * if self.gated() { 2 } else { 1 }
        } else {
            0
        };
        norms + biases
    }

    /// All parameters of one layer.
    pub fn layer_params(&self) -> u64 {
        self.layer_matrix_params() + self.layer_vector_params()
    }

    /// Input embedding and learned positions.
    pub fn embedding_params(&self) -> u64 {
        (self.vocab + self.learned_positions()) * self.hidden
    }

    /// Final norm and, when not tied, the head.
    pub fn head_params(&self) -> u64 {
        self.hidden * if self.variant.layer_norm { 2 } else { 1 }
            + if self.tied { 0 } else { self.vocab * self.hidden }
    }

    /// Every parameter once.
    pub fn params(&self) -> u64 {
        self.layers * self.layer_params() + self.embedding_params() + self.head_params()
    }

    /// Parameters without the input embedding (tied: the matrix counts, it is the head's product).
    pub fn params_non_embedding(&self) -> u64 {
        self.params()
            - if self.tied { self.learned_positions() * self.hidden } else { self.embedding_params() }
    }

    /// Training FLOPs per token: 6 × [`Self::params_non_embedding`] + 6·L·h·s, attention counted causal.
    pub fn flops_per_token(&self) -> f64 {
        6.0 * self.params_non_embedding() as f64
            + 6.0 * (self.layers * self.heads * self.head_dim) as f64 * self.context as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama_7b() -> Shape {
        Shape {
            layers: 32,
            hidden: 4096,
            heads: 32,
            kv_heads: 32,
            head_dim: 128,
            ffn: 11008,
            vocab: 32000,
            context: 8192,
            tied: false,
            dropout: false,
            variant: Variant::default(),
        }
    }

    #[test]
    fn llama_7b_has_its_published_count() {
        // arXiv 2302.13971, table 2: 6.7B; exact count of the released checkpoint.
        assert_eq!(llama_7b().params(), 6_738_415_616);
    }

    #[test]
    fn measured_3b_shape_has_its_count() {
        // The 3B shape of our H100 measurements: 26 layers, hidden 3072, 24 heads × 128, ffn 8192, vocab 32000, untied.
        let shape = Shape { layers: 26, hidden: 3072, heads: 24, kv_heads: 24, ffn: 8192, ..llama_7b() };
        assert_eq!(shape.params(), 3_141_172_224);
    }
}
