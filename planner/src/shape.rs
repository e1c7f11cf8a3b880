//! Counts of a decoder: parameters per layer and per end, FLOPs per token. The cost model reads a model only through
//! these. Presets and the solver for odd sizes are the compiler's.

use llmc_plan::model::Model;

use crate::question::{Redone, TensorTraffic, Variant};

/// Shape of a dense decoder. The defaults of the second half are LLaMA's; the rest exists to score published runs.
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
    /// SwiGLU (three matrices) or a plain feed-forward of two.
    pub gated: bool,
    /// Every projection has a bias.
    pub bias: bool,
    /// LayerNorm (gain and bias) instead of RMSNorm (gain).
    pub layer_norm: bool,
    /// Rows of learned positions; 0 with RoPE or ALiBi.
    pub learned_positions: u64,
    /// Dropout is applied and its masks are kept.
    pub dropout: bool,
    /// Attention materialises its score matrix.
    pub unfused_attention: bool,
    /// Pointwise operations are not fused.
    pub eager: bool,
    /// The logits of a whole micro-batch exist at once.
    pub whole_logits: bool,
    /// Bytes a logit takes while the loss is computed; 0: by blocks of rows all the same.
    pub logit_bytes: u64,
    /// Norms keep f32 copies.
    pub upcast_norms: bool,
    /// Selective recomputation keeps every second product.
    pub selective_products: bool,
    /// Selective recomputation repeats attention's scores alone.
    pub selective_scores: bool,
    /// Selective recomputation repeats the feed-forward.
    pub selective_feed_forward: bool,
    /// Gathered outputs of norms are kept.
    pub gathered_norms: bool,
    /// Each column-parallel product keeps its own copy of its input.
    pub copied_inputs: bool,
    /// SwiGLU keeps the activation of its gate too.
    pub kept_gate: bool,
    /// Copies of attention's tensors that are kept: of the queries' width, of the keys'.
    pub attention_copies: [u64; 2],
    /// In fp8, bytes of copies beside each weight of a block's products; above 0, their inputs are kept in 8 bits.
    pub quantised_copies: u64,
    /// Gathered weights live until their backward pass.
    pub held_weights: bool,
    /// A stage's message is split over the tensor-parallel ranks.
    pub scattered_sends: bool,
    /// What runs beside tensor-parallel collectives.
    pub tensor_traffic: TensorTraffic,
    /// Gradients are reduced beside nothing.
    pub late_reduction: bool,
    /// A recomputed block leaves its last product out.
    pub early_stop: bool,
    /// What selective recomputation repeats.
    pub redone: Redone,
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
            gated: !variant.plain_ffn,
            bias: variant.bias,
            layer_norm: variant.layer_norm,
            learned_positions: if variant.learned_positions { model.context } else { 0 },
            dropout: model.dropout > 0.0,
            unfused_attention: variant.unfused_attention,
            eager: variant.eager,
            whole_logits: variant.whole_logits,
            logit_bytes: variant.logit_bytes,
            upcast_norms: variant.upcast_norms,
            selective_products: variant.selective_products,
            selective_scores: variant.selective_scores,
            selective_feed_forward: variant.selective_feed_forward,
            gathered_norms: variant.gathered_norms,
            copied_inputs: variant.copied_inputs,
            kept_gate: variant.kept_gate,
            attention_copies: variant.attention_copies,
            quantised_copies: variant.quantised_copies,
            held_weights: variant.held_weights,
            scattered_sends: variant.scattered_sends,
            tensor_traffic: variant.tensor_traffic,
            late_reduction: variant.late_reduction,
            early_stop: variant.early_stop,
            redone: variant.redone,
        }
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
        self.hidden * self.ffn * if self.gated { 3 } else { 2 }
    }

    /// Norm gains (and biases) and projection biases of one layer.
    pub fn layer_vector_params(&self) -> u64 {
        let norms = 2 * self.hidden * if self.layer_norm { 2 } else { 1 };
        let biases = if self.bias {
            (self.heads + 2 * self.kv_heads) * self.head_dim
                + 2 * self.hidden
                + self.ffn * if self.gated { 2 } else { 1 }
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
        (self.vocab + self.learned_positions) * self.hidden
    }

    /// Final norm and, when not tied, the head.
    pub fn head_params(&self) -> u64 {
        self.hidden * if self.layer_norm { 2 } else { 1 }
            + if self.tied { 0 } else { self.vocab * self.hidden }
    }

    /// Every parameter once.
    pub fn params(&self) -> u64 {
        self.layers * self.layer_params() + self.embedding_params() + self.head_params()
    }

    /// Parameters without the input embedding (tied: the matrix counts, it is the head's product).
    pub fn params_non_embedding(&self) -> u64 {
        self.params() - if self.tied { self.learned_positions * self.hidden } else { self.embedding_params() }
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
            gated: true,
            bias: false,
            layer_norm: false,
            learned_positions: 0,
            dropout: false,
            unfused_attention: false,
            eager: false,
            whole_logits: false,
            logit_bytes: 0,
            upcast_norms: false,
            selective_products: false,
            selective_scores: false,
            selective_feed_forward: false,
            gathered_norms: false,
            copied_inputs: false,
            kept_gate: false,
            attention_copies: [0, 0],
            quantised_copies: 0,
            held_weights: false,
            scattered_sends: false,
            tensor_traffic: TensorTraffic::Pipelined,
            late_reduction: false,
            early_stop: false,
            redone: Redone::Pointwise,
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
