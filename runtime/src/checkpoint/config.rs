//! `config.json` of a checkpoint: the model as `transformers.LlamaForCausalLM` reads it.
//!
//! Keys and scaling types: transformers, `models/llama/configuration_llama.py` and `modeling_rope_utils.py`.

use llmc_plan::model::{Model, RopeMethod};
use llmc_plan::plan::Precision;
use serde_json::{Value, json};

/// The file's text. `end_of_document` is the tokenizer's id, when known.
pub fn config(model: &Model, precision: Precision, end_of_document: Option<u32>) -> String {
    let dtype = match precision {
        Precision::F32 => "float32",
        Precision::Fp16 => "float16",
        Precision::Bf16 | Precision::Fp8 => "bfloat16",
    };
    let (theta, scaling) = rope(model);
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": model.hidden,
        "intermediate_size": model.ffn,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "vocab_size": model.vocab,
        "max_position_embeddings": model.context,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": theta,
        "rope_scaling": scaling,
        "tie_word_embeddings": model.tied,
        "attention_bias": false,
        "mlp_bias": false,
        "attention_dropout": 0.0,
        "initializer_range": model.init_std,
        "bos_token_id": Value::Null,
        "eos_token_id": end_of_document,
        "torch_dtype": dtype,
        "use_cache": true,
    });
    format!("{config:#}\n")
}

/// Base frequency and scaling entry that give the same rotation as the plan's settings.
fn rope(model: &Model) -> (f64, Value) {
    let rope = &model.rope;
    let scaling = match rope.method {
        RopeMethod::None => Value::Null,
        RopeMethod::Pi => json!({"rope_type": "linear", "factor": rope.factor}),
        // Static NTK-aware scaling is a larger base and nothing else; transformers has only the dynamic kind.
        RopeMethod::Ntk => Value::Null,
        RopeMethod::Yarn => json!({
            "rope_type": "yarn",
            "factor": rope.factor,
            "original_max_position_embeddings": rope.original_context,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
        }),
        RopeMethod::Llama3 => json!({
            "rope_type": "llama3",
            "factor": rope.factor,
            "original_max_position_embeddings": rope.original_context,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        }),
    };
    let theta = if rope.method == RopeMethod::Ntk {
        // bloc97 2023: base·s^(d/(d−2)).
        let d = model.head_dim as f64;
        rope.theta * libm::pow(rope.factor, d / (d - 2.0).max(1.0))
    } else {
        rope.theta
    };
    (theta, scaling)
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmc_plan::model::Rope;

    fn model(method: RopeMethod) -> Model {
        Model {
            family: "llama".into(),
            params: 0,
            params_non_embedding: 0,
            layers: 2,
            hidden: 64,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            ffn: 128,
            vocab: 500,
            vocab_padded: 512,
            context: 256,
            rope: Rope { method, factor: 2.0, original_context: 128, theta: 10_000.0 },
            tied: false,
            norm_eps: 1e-5,
            dropout: 0.0,
            init_std: 0.02,
        }
    }

    fn read(method: RopeMethod) -> Value {
        serde_json::from_str(&config(&model(method), Precision::Bf16, Some(0))).expect("json")
    }

    #[test]
    fn shape_and_format_are_there() {
        let value = read(RopeMethod::None);
        assert_eq!(value["architectures"][0], "LlamaForCausalLM");
        assert_eq!(value["vocab_size"], 500, "padding is the program's own business");
        assert_eq!(value["num_key_value_heads"], 2);
        assert_eq!(value["torch_dtype"], "bfloat16");
        assert_eq!(value["eos_token_id"], 0);
        assert_eq!(value["rope_scaling"], Value::Null);
    }

    #[test]
    fn every_scaling_has_its_entry() {
        assert_eq!(read(RopeMethod::Pi)["rope_scaling"]["rope_type"], "linear");
        assert_eq!(read(RopeMethod::Yarn)["rope_scaling"]["original_max_position_embeddings"], 128);
        assert_eq!(read(RopeMethod::Llama3)["rope_scaling"]["high_freq_factor"], 4.0);
        let theta = read(RopeMethod::Ntk)["rope_theta"].as_f64().expect("a number");
        // 10000·2^(16/14)
        assert!((theta - 22_081.790_27).abs() < 1e-3, "{theta}");
    }
}
