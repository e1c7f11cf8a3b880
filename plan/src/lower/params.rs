//! Parameters of this rank: their buffers, and one `ParamSpec` a parameter and layer.

use super::LowerError;
use super::build::Builder;
use super::shape::{Shape, invalid};
use crate::op::Optimize;
use crate::param::{Init, ParamBuffers, ParamSpec, Part};
use crate::plan::{DType, OptimizerKind, Plan};
use crate::program::{Class, Index, Ref};

/// One parameter, for all the layers that have it.
pub struct Param {
    /// Short name: `qkv`, `embed`, …
    pub name: &'static str,
    /// Compute-format weights.
    pub weight: Ref,
    /// Gradient accumulator; none when frozen.
    pub gradient: Option<Ref>,
    /// f32 master; none when the weight is f32, or frozen.
    pub master: Option<Ref>,
    /// Optimizer states.
    pub states: Vec<Ref>,
    /// Whether weight decay applies.
    pub decay: bool,
}

/// The parameters of one block, in the order they are used.
pub struct Block {
    pub norm1: Param,
    pub qkv: Param,
    pub o: Param,
    pub norm2: Param,
    pub gate_up: Param,
    pub down: Param,
}

impl Block {
    /// All of them.
    pub fn all(&self) -> [&Param; 6] {
        [&self.norm1, &self.qkv, &self.o, &self.norm2, &self.gate_up, &self.down]
    }
}

/// All parameters.
pub struct Params {
    pub block: Block,
    pub embed: Param,
    pub norm_f: Param,
    /// None when the head is the embedding.
    head: Option<Param>,
}

impl Params {
    /// Outside the blocks.
    pub fn top(&self) -> Vec<&Param> {
        [Some(&self.embed), Some(&self.norm_f), self.head.as_ref()].into_iter().flatten().collect()
    }

    /// The matrix logits are made with.
    pub fn head(&self) -> &Param {
        self.head.as_ref().unwrap_or(&self.embed)
    }
}

/// What `plan.freeze` may name, and the parameters meant.
const FREEZE: &[(&str, &[&str])] = &[
    ("embeddings", &["embed"]),
    ("attention", &["qkv", "o"]),
    ("ffn", &["gate_up", "down"]),
    ("norms", &["norm1", "norm2", "norm_f"]),
    ("head", &["head"]),
];

/// What a parameter is before it has buffers.
struct Description {
    name: &'static str,
    shape: Vec<u64>,
    /// Hugging Face names (`{}` stands for the layer) and rows.
    parts: Vec<(&'static str, u64)>,
    init: Init,
}

impl Description {
    fn per_layer(&self) -> bool {
        self.parts.iter().any(|(name, _)| name.contains("{}"))
    }
}

/// The parameters of a LLaMA-style decoder, names as in Hugging Face's `LlamaForCausalLM`. Matrices that end a
/// residual branch start smaller by √(2·layers) (Radford et al. 2019, GPT-2).
fn descriptions(plan: &Plan) -> Vec<Description> {
    let m = &plan.model;
    let (h, q, kv) = (m.hidden, m.heads * m.head_dim, m.kv_heads * m.head_dim);
    let normal = Init::Normal { std: m.init_std };
    let residual = Init::Normal { std: m.init_std / (2.0 * m.layers as f64).sqrt() };
    let matrix =
        |name, rows, columns, parts, init| Description { name, shape: vec![rows, columns], parts, init };
    let norm = |name, part| Description { name, shape: vec![h], parts: vec![(part, h)], init: Init::Ones };
    let qkv = vec![
        ("model.layers.{}.self_attn.q_proj.weight", q),
        ("model.layers.{}.self_attn.k_proj.weight", kv),
        ("model.layers.{}.self_attn.v_proj.weight", kv),
    ];
    let gate_up =
        vec![("model.layers.{}.mlp.gate_proj.weight", m.ffn), ("model.layers.{}.mlp.up_proj.weight", m.ffn)];
    let o = vec![("model.layers.{}.self_attn.o_proj.weight", h)];
    let down = vec![("model.layers.{}.mlp.down_proj.weight", h)];
    let mut all = vec![
        norm("norm1", "model.layers.{}.input_layernorm.weight"),
        matrix("qkv", q + 2 * kv, h, qkv, normal.clone()),
        matrix("o", h, q, o, residual.clone()),
        norm("norm2", "model.layers.{}.post_attention_layernorm.weight"),
        matrix("gate_up", 2 * m.ffn, h, gate_up, normal.clone()),
        matrix("down", h, m.ffn, down, residual),
    ];
    let vocab = |name, part| matrix(name, m.vocab_padded, h, vec![(part, m.vocab_padded)], normal.clone());
    all.push(vocab("embed", "model.embed_tokens.weight"));
    all.push(norm("norm_f", "model.norm.weight"));
    if !m.tied {
        all.push(vocab("head", "lm_head.weight"));
    }
    all
}

/// Declares every parameter.
pub fn declare(builder: &mut Builder, plan: &Plan, shape: &Shape) -> Result<Params, LowerError> {
    let frozen = frozen(plan)?;
    let mut params = Vec::new();
    for description in descriptions(plan) {
        let param = buffers(builder, plan, shape, &description, frozen.contains(&description.name));
        specs(builder, plan, shape, &description, &param);
        params.push(param);
    }
    let mut take = |name: &str| {
        let index = params.iter().position(|p: &Param| p.name == name);
        index.map(|i| params.remove(i))
    };
    let mut need = |name: &'static str| {
        take(name).ok_or(LowerError::Bug { place: name.to_string(), reason: "is not declared".to_string() })
    };
    let block = Block {
        norm1: need("norm1")?,
        qkv: need("qkv")?,
        o: need("o")?,
        norm2: need("norm2")?,
        gate_up: need("gate_up")?,
        down: need("down")?,
    };
    Ok(Params { block, embed: need("embed")?, norm_f: need("norm_f")?, head: take("head") })
}

/// Short names of the parameters that are not trained.
fn frozen(plan: &Plan) -> Result<Vec<&'static str>, LowerError> {
    let mut names = Vec::new();
    for word in &plan.freeze {
        match FREEZE.iter().find(|(known, _)| known == word) {
            Some((_, parameters)) => names.extend_from_slice(parameters),
            None => {
                let known: Vec<&str> = FREEZE.iter().map(|(name, _)| *name).collect();
                return Err(invalid("freeze", format!("`{word}` is none of {}", known.join(", "))));
            }
        }
    }
    Ok(names)
}

/// Names of the optimizer states, in the order of `Optimize::state_shapes`.
fn state_names(kind: OptimizerKind, states: usize) -> &'static [&'static str] {
    match (kind, states) {
        (OptimizerKind::Adamw | OptimizerKind::PagedAdamw, _) => &["m", "v"],
        (OptimizerKind::Lion, _) => &["m"],
        (OptimizerKind::Adafactor, 2) => &["v_row", "v_column"],
        (OptimizerKind::Adafactor, _) => &["v"],
    }
}

/// Declares the buffers of one parameter.
fn buffers(builder: &mut Builder, plan: &Plan, shape: &Shape, d: &Description, frozen: bool) -> Param {
    let index = if d.per_layer() { Index::Layer } else { Index::One };
    let name = d.name;
    let weight = builder.buffer(&format!("w.{name}"), &d.shape, shape.compute, Class::Parameter, index);
    let mut param =
        Param { name, weight, gradient: None, master: None, states: Vec::new(), decay: d.shape.len() > 1 };
    if frozen {
        return param;
    }
    param.gradient = Some(builder.buffer(&format!("g.{name}"), &d.shape, DType::F32, Class::Gradient, index));
    if shape.compute != DType::F32 {
        let master = builder.buffer(&format!("master.{name}"), &d.shape, DType::F32, Class::Optimizer, index);
        param.master = Some(master);
    }
    let kind = plan.optimizer.kind;
    let states = Optimize::state_shapes(kind, &d.shape);
    for (prefix, state) in state_names(kind, states.len()).iter().zip(&states) {
        let dtype = plan.optimizer.state_dtype;
        let buffer = builder.buffer(&format!("{prefix}.{name}"), state, dtype, Class::Optimizer, index);
        param.states.push(buffer);
    }
    param
}

/// Adds the specification of one parameter for each of its layers.
fn specs(builder: &mut Builder, plan: &Plan, shape: &Shape, d: &Description, param: &Param) {
    let layers: Vec<Option<u64>> = if d.per_layer() {
        (shape.first_layer..shape.first_layer + shape.layers).map(Some).collect()
    } else {
        vec![None]
    };
    for layer in layers {
        let in_layer = |text: &str| layer.map_or(text.to_string(), |l| text.replace("{}", &l.to_string()));
        let parts = d.parts.iter().map(|(name, rows)| Part { hf_name: in_layer(name), rows: *rows });
        builder.program.params.push(ParamSpec {
            name: layer.map_or(d.name.to_string(), |l| format!("layers.{l}.{}", d.name)),
            parts: parts.collect(),
            global_shape: d.shape.clone(),
            shard: Vec::new(),
            init: d.init.clone(),
            decay: param.decay,
            lr_multiplier: 1.0,
            frozen: param.gradient.is_none(),
            state_dtypes: param.states.iter().map(|_| plan.optimizer.state_dtype).collect(),
            buffers: ParamBuffers {
                weight: param.weight.buffer,
                gradient: param.gradient.map(|r| r.buffer),
                master: param.master.map(|r| r.buffer),
                states: param.states.iter().map(|r| r.buffer).collect(),
            },
            layer,
        });
    }
}
