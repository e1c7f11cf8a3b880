//! Parameters of this rank: their buffers, and one `ParamSpec` a parameter and layer.

use super::LowerError;
use super::activations::EIGHT;
use super::build::Builder;
use super::shape::{Shape, invalid};
use crate::op::Optimize;
use crate::param::{Init, ParamBuffers, ParamSpec, Part};
use crate::plan::{DType, Master, OptimizerKind, Plan};
use crate::program::{Axis, Class, Index, Ref, Space};

/// One parameter, for all the layers that have it.
///
/// Under ZeRO each rank of the shard group owns an equal block of rows; where rows do not divide, buffers that
/// hold all blocks are longer than the parameter and the rows beyond stay zero (as FSDP2 pads).
pub struct Param {
    /// Short name: `qkv`, `embed`, …
    pub name: &'static str,
    /// Compute-format weights as kept: whole, or this rank's block under ZeRO-3.
    pub weight: Ref,
    /// Compute-format weights as gathered for use; under ZeRO-3 only.
    pub gathered: Option<Ref>,
    /// What compute reads: exactly the parameter's rows.
    pub read: Ref,
    /// This rank's block of the kept weights: what the optimizer writes.
    pub own: Ref,
    /// The weights in 8 bits; where its products are made in them.
    pub eight: Option<Eight>,
    /// What the backward pass adds to: exactly the parameter's rows; none when frozen.
    pub gradient: Option<Ref>,
    /// What the optimizer reads: this rank's block of the sum over all ranks.
    pub reduced: Option<Ref>,
    /// f32 master of the own block; none when the weight is f32 or part of it, or frozen.
    pub master: Option<Stored>,
    /// What the own block lacks of a split master.
    pub missing: Option<Stored>,
    /// Optimizer states of the own block.
    pub states: Vec<Stored>,
    /// Whether weight decay applies.
    pub decay: bool,
    /// Whether tensor-parallel ranks hold different parts.
    pub tensor_sharded: bool,
}

/// A matrix in 8 bits: as it is, transposed, and its scale.
#[derive(Clone, Copy)]
pub struct Eight {
    pub whole: Ref,
    pub turned: Ref,
    pub scale: Ref,
}

impl Eight {
    /// All of it.
    pub fn all(&self) -> [Ref; 3] {
        [self.whole, self.turned, self.scale]
    }
}

/// A tensor of the optimizer.
#[derive(Clone, Copy)]
pub struct Stored {
    /// Where it is kept.
    pub home: Ref,
    /// Where the optimizer works on it: at home, or in a device buffer when home is host memory.
    pub work: Ref,
}

impl Param {
    /// Everything of a gradient accumulator, padding included.
    pub fn gradient_whole(&self) -> Option<Ref> {
        self.gradient.map(|r| Ref { rows: None, ..r })
    }

    /// Masters and states.
    pub fn stored(&self) -> impl Iterator<Item = Stored> + '_ {
        self.master.iter().chain(&self.missing).chain(&self.states).copied()
    }
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
    pub fn all(&self) -> Vec<&Param> {
        vec![&self.norm1, &self.qkv, &self.o, &self.norm2, &self.gate_up, &self.down]
    }
}

/// All parameters.
pub struct Params {
    pub block: Block,
    /// On the rank that embeds.
    pub embed: Option<Param>,
    /// On the rank that has the head.
    pub norm_f: Option<Param>,
    /// None when the head is the embedding, or elsewhere.
    head: Option<Param>,
}

impl Params {
    /// Outside the blocks.
    pub fn top(&self) -> Vec<&Param> {
        [&self.embed, &self.norm_f, &self.head].into_iter().flatten().collect()
    }

    /// The matrix logits are made with.
    pub fn head(&self) -> Option<&Param> {
        self.head.as_ref().or(self.embed.as_ref())
    }

    /// What the embedding reads.
    pub fn embed_unit(&self) -> Vec<&Param> {
        self.embed.iter().collect()
    }

    /// Whose gradients are complete after the head's backward pass: a tied head's are not.
    pub fn head_owned(&self) -> Vec<&Param> {
        self.norm_f.iter().chain(&self.head).collect()
    }

    /// What the head reads.
    pub fn head_unit(&self) -> Vec<&Param> {
        if self.norm_f.is_none() {
            return Vec::new();
        }
        self.norm_f.iter().chain(self.head()).collect()
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
    /// Axis tensor-parallel ranks split.
    split: Option<usize>,
}

impl Description {
    fn per_layer(&self) -> bool {
        self.parts.iter().any(|(name, _)| name.contains("{}"))
    }
}

/// The parameters of a LLaMA-style decoder, names as in Hugging Face's `LlamaForCausalLM`. Matrices that end a
/// residual branch start smaller by √(2·layers) (Radford et al. 2019, GPT-2). Tensor-parallel ranks split the
/// matrices of a block by heads and feed-forward columns, embedding and head by ids (Megatron-LM, arXiv 1909.08053).
fn descriptions(plan: &Plan, shape: &Shape) -> Vec<Description> {
    let m = &plan.model;
    let (h, q, kv) = (m.hidden, m.heads * m.head_dim, m.kv_heads * m.head_dim);
    let normal = Init::Normal { std: m.init_std };
    let residual = Init::Normal { std: m.init_std / (2.0 * m.layers as f64).sqrt() };
    let matrix = |name, rows, columns, parts, init: &Init, split| Description {
        name,
        shape: vec![rows, columns],
        parts,
        init: init.clone(),
        split,
    };
    let norm = |name, part| Description {
        name,
        shape: vec![h],
        parts: vec![(part, h)],
        init: Init::Ones,
        split: None,
    };
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
        matrix("qkv", q + 2 * kv, h, qkv, &normal, Some(0)),
        matrix("o", h, q, o, &residual, Some(1)),
        norm("norm2", "model.layers.{}.post_attention_layernorm.weight"),
        matrix("gate_up", 2 * m.ffn, h, gate_up, &normal, Some(0)),
        matrix("down", h, m.ffn, down, &residual, Some(1)),
    ];
    let vocab = |name, part| matrix(name, m.vocab_padded, h, vec![(part, m.vocab_padded)], &normal, Some(0));
    let (embeds, has_head) = shape.ends;
    if embeds {
        all.push(vocab("embed", "model.embed_tokens.weight"));
    }
    if has_head {
        all.push(norm("norm_f", "model.norm.weight"));
        if !m.tied {
            all.push(vocab("head", "lm_head.weight"));
        }
    }
    all
}

/// Declares every parameter.
pub fn declare(builder: &mut Builder, plan: &Plan, shape: &Shape) -> Result<Params, LowerError> {
    let frozen = frozen(plan)?;
    let mut params = Vec::new();
    for description in descriptions(plan, shape) {
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
    Ok(Params { block, embed: take("embed"), norm_f: take("norm_f"), head: take("head") })
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

/// Layers whose tensors are on the device at once where they pass through a ring: one in use, one on its way.
pub const RING: u64 = 2;

/// Declares the buffers of one parameter.
fn buffers(b: &mut Builder, plan: &Plan, shape: &Shape, d: &Description, frozen: bool) -> Param {
    let name = d.name;
    let (index, ring) =
        if d.per_layer() { (Index::Layer, Index::LayerRing) } else { (Index::One, Index::One) };
    // Embedding and head pass through one buffer: they are never needed together.
    let unit = if ["embed", "head"].contains(&name) { "vocab" } else { name };
    let local = local_shape(shape, d);
    let rows = local.first().copied().unwrap_or(0);
    let (ranks, rank) = if shape.zero > 0 { shape.shard } else { (1, 0) };
    let each = rows.div_ceil(ranks);
    let with_rows = |rows: u64| [rows].into_iter().chain(local.iter().skip(1).copied()).collect::<Vec<u64>>();
    let (whole, block) = (with_rows(each * ranks), with_rows(each));
    let exactly = |r: Ref| if each * ranks == rows { r } else { r.rows(0, rows) };
    let own_rows = |r: Ref| if ranks == 1 { r } else { r.rows(rank * each, (rank + 1) * each) };

    let kept = if shape.zero == 3 { &block } else { &whole };
    let weight = b.buffer(&format!("w.{name}"), kept, shape.compute, Class::Parameter, index);
    let gathered = (shape.zero == 3)
        .then(|| b.shared(&format!("u.{unit}"), &whole, shape.compute, Class::Communication, ring));
    let mut param = Param {
        name,
        weight,
        gathered,
        read: exactly(gathered.unwrap_or(weight)),
        eight: None,
        own: if shape.zero == 3 { weight } else { own_rows(weight) },
        gradient: None,
        reduced: None,
        master: None,
        missing: None,
        states: Vec::new(),
        decay: d.shape.len() > 1,
        tensor_sharded: d.split.is_some(),
    };
    if let (true, true, [rows, columns]) = (shape.eight_bit, d.per_layer(), local.as_slice()) {
        let mut part = |prefix: &str, shape: &[u64], dtype| {
            b.buffer(&format!("{prefix}.{name}"), shape, dtype, Class::Parameter, index)
        };
        param.eight = Some(Eight {
            whole: part("w8", &[*rows, *columns], DType::F8E4m3),
            turned: part("w8t", &[*columns, *rows], DType::F8E4m3),
            scale: part("w8s", &[1], DType::F32),
        });
    }
    if frozen {
        return param;
    }
    let summed = if EIGHT.contains(&name) { plan.optimizer.gradient_dtype } else { DType::F32 };
    if shape.zero >= 2 {
        let class = Class::Communication;
        let passing = b.shared(&format!("gu.{unit}"), &whole, summed, class, ring);
        param.gradient = Some(exactly(passing));
        param.reduced = Some(b.buffer(&format!("g.{name}"), &block, summed, Class::Gradient, index));
    } else {
        let sum = b.buffer(&format!("g.{name}"), &whole, summed, Class::Gradient, index);
        param.gradient = Some(exactly(sum));
        param.reduced = Some(own_rows(sum));
    }
    let mut stored = |prefix: &str, extents: &[u64], dtype| {
        let home = b.buffer(&format!("{prefix}.{name}"), extents, dtype, Class::Optimizer, index);
        if !shape.offload_optimizer {
            return Stored { home, work: home };
        }
        if let Some(buffer) = b.edit(home) {
            buffer.space = Space::Pinned;
        }
        let work = b.shared(&format!("{prefix}.work.{name}"), extents, dtype, Class::Communication, ring);
        Stored { home, work }
    };
    match plan.optimizer.master {
        _ if shape.compute == DType::F32 => {}
        Master::F32 => param.master = Some(stored("master", &block, DType::F32)),
        Master::Split => param.missing = Some(stored("missing", &block, DType::I16)),
        Master::Stochastic => {}
    }
    let kind = plan.optimizer.kind;
    let states = Optimize::state_shapes(kind, &block);
    let names = state_names(kind, states.len()).iter().zip(&states);
    param.states = names.map(|(prefix, state)| stored(prefix, state, plan.optimizer.state_dtype)).collect();
    param
}

/// Shape on this tensor-parallel rank.
fn local_shape(shape: &Shape, d: &Description) -> Vec<u64> {
    let mut local = d.shape.clone();
    if let Some(extent) = d.split.and_then(|axis| local.get_mut(axis)) {
        *extent /= shape.tensor.0;
    }
    local
}

/// Adds the specification of one parameter for each of its layers.
fn specs(builder: &mut Builder, plan: &Plan, shape: &Shape, d: &Description, param: &Param) {
    let layers: Vec<Option<u64>> =
        if d.per_layer() { shape.layers().into_iter().map(Some).collect() } else { vec![None] };
    let tensor = d.split.filter(|_| shape.tensor.0 > 1).map(|axis| (Axis::Tensor, axis as u64));
    let zero = (shape.zero > 0).then_some((Axis::Shard, 0));
    for layer in layers {
        let in_layer = |text: &str| layer.map_or(text.to_string(), |l| text.replace("{}", &l.to_string()));
        let parts = d.parts.iter().map(|(name, rows)| Part { hf_name: in_layer(name), rows: *rows });
        builder.program.params.push(ParamSpec {
            name: layer.map_or(d.name.to_string(), |l| format!("layers.{l}.{}", d.name)),
            parts: parts.collect(),
            global_shape: d.shape.clone(),
            shard: tensor.into_iter().chain(zero).collect(),
            init: d.init.clone(),
            decay: param.decay,
            lr_multiplier: 1.0,
            frozen: param.gradient.is_none(),
            state_dtypes: param.states.iter().map(|_| plan.optimizer.state_dtype).collect(),
            buffers: ParamBuffers {
                weight: param.weight.buffer,
                gradient: param.reduced.map(|r| r.buffer),
                master: param.master.map(|r| r.home.buffer),
                master_work: param.master.filter(|r| r.home != r.work).map(|r| r.work.buffer),
                missing: param.missing.map(|r| r.home.buffer),
                states: param.states.iter().map(|r| r.home.buffer).collect(),
            },
            layer,
        });
    }
}
