//! What a parameter is: one description serves memory, initialisation, optimizer, checkpoint and import.

use serde::{Deserialize, Serialize};

use crate::plan::DType;
use crate::program::{Axis, BufferId};

/// How a parameter starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Init {
    /// Every element 1 (norms).
    Ones,
    /// Normal with mean 0, Philox keyed by (seed, Hugging Face name, element index).
    Normal {
        /// Standard deviation.
        std: f64,
    },
}

/// One Hugging Face tensor inside a packed parameter: a block of rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Name in a Hugging Face LLaMA checkpoint.
    pub hf_name: String,
    /// Rows it takes, in order (elements for vectors), before any sharding.
    pub rows: u64,
}

/// The buffers that hold one parameter and what belongs to it; every one is indexed by `layer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParamBuffers {
    /// Compute-format weights.
    pub weight: BufferId,
    /// Gradient accumulator; none when frozen.
    pub gradient: Option<BufferId>,
    /// f32 master; none when the weight is f32 itself or part of it.
    pub master: Option<BufferId>,
    /// Device buffer that the master passes through when its home is in host memory; layers share its instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master_work: Option<BufferId>,
    /// What the weights lack of their f32 master, where that is split (i16).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<BufferId>,
    /// Optimizer states, in the order of `Optimize::state_shapes`.
    pub states: Vec<BufferId>,
}

/// A parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParamSpec {
    /// Own name, for example `layers.3.qkv`.
    pub name: String,
    /// The Hugging Face tensors it packs, row blocks in order.
    pub parts: Vec<Part>,
    /// Shape before sharding.
    pub global_shape: Vec<u64>,
    /// Mesh axis → tensor axis it is split along, in the order the splits apply. Shards are row or column
    /// blocks, never flat ranges across tensors. A split along `tensor` takes its block out of each part
    /// (queries, keys and values are each split by heads); a split along `shard` takes a block of the rows that
    /// are left, of ⌈rows ÷ ranks⌉ rows each, those beyond the parameter zero. Master and states are split so;
    /// the weight buffer may hold all `shard` blocks, one after another (its shape says which).
    pub shard: Vec<(Axis, u64)>,
    /// How it starts.
    pub init: Init,
    /// Whether weight decay applies (matrices yes, norms no).
    pub decay: bool,
    /// Factor on the learning rate.
    pub lr_multiplier: f64,
    /// Not trained.
    pub frozen: bool,
    /// Formats of the optimizer states.
    pub state_dtypes: Vec<DType>,
    /// Where it lives.
    pub buffers: ParamBuffers,
    /// Layer index into those buffers; none for embedding, last norm and head.
    pub layer: Option<u64>,
}
