//! The operations of a [`Program`](crate::program::Program): one file an op.
//!
//! Each op says what tensors it takes and gives, how many FLOPs it does, how many bytes it moves and how
//! much memory the library below may take while it runs. The runtime has one executor for
//! each, in an exhaustive match: a missing one does not compile.
//!
//! Adding an op: one file here, one line in `ops!` below, one executor in the runtime.

use serde::{Deserialize, Serialize};

use crate::plan::DType;

mod attention;
pub mod chunk;
mod collective;
mod copy;
mod dropout;
mod elementwise;
mod embedding;
mod gemm;
mod init;
mod load_batch;
mod loss;
mod loss_parts;
mod loss_scale;
mod norm;
mod optimizer;
mod quantise;
mod reduce;
mod rope;
mod snapshot;
mod swiglu;

pub use attention::{AttentionBackward, AttentionForward, AttentionMerge, AttentionPartial};
pub use collective::{AllReduce, Gather, Recv, ReduceScatter, Send};
pub use copy::Copy;
pub use dropout::Dropout;
pub use elementwise::{Accumulate, Add, Fill};
pub use embedding::{EmbeddingBackward, EmbeddingForward};
pub use gemm::Gemm;
pub use init::{Initialise, RopeTables};
pub use load_batch::LoadBatch;
pub use loss::{CrossEntropyEval, CrossEntropyTrain};
pub use loss_parts::{CrossEntropyEvalParts, CrossEntropyPart, CrossEntropyTrainParts};
pub use loss_scale::{AdjustScale, ScaleLoss, UnscaleNorms};
pub use norm::{AddNorm, NormBackward, NormBackwardInput, NormBackwardWeight, NormForward};
pub use optimizer::{Optimize, Weights};
pub use quantise::Quantise;
pub use reduce::{Clip, SquaredNorm};
pub use rope::RopeRotate;
pub use snapshot::Snapshot;
pub use swiglu::{SwigluBackward, SwigluForward};

/// Shape and number format of one operand, as an op sees it (row ranges already applied).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorType {
    /// Extent of each axis.
    pub shape: Vec<u64>,
    /// Number format.
    pub dtype: DType,
}

impl TensorType {
    /// Elements; saturates, for an edited program may hold any extents.
    pub fn elements(&self) -> u64 {
        product(&self.shape)
    }

    /// Bytes.
    pub fn bytes(&self) -> u64 {
        self.elements().saturating_mul(self.dtype.bytes())
    }

    /// Extent of `axis`, 0 when there is no such axis.
    pub fn extent(&self, axis: usize) -> u64 {
        self.shape.get(axis).copied().unwrap_or(0)
    }
}

/// Which library executes an op; workspace depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// libtorch on the CPU.
    Cpu,
    /// Fused kernels on a CUDA device; for f64, plain libtorch tensors, their twins.
    Cuda,
}

/// What kind of work an op is; cost models and time tables group by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Dense matrix product.
    Gemm,
    /// Attention.
    Attention,
    /// Bound by memory bandwidth.
    Memory,
    /// Optimizer, gradient norm and clip.
    Optimizer,
    /// Between ranks.
    Collective,
    /// Between host and device.
    Copy,
    /// Host work: batches, snapshots.
    Host,
}

/// What every op declares. Operands are in the order its documentation names them. Every method but
/// `check` may assume that `check` passed.
pub trait Spec {
    /// Groups the op for cost models.
    fn kind(&self) -> Kind;

    /// Checks operand counts, shapes and formats.
    ///
    /// # Errors
    /// One sentence naming the operand and both figures.
    fn check(&self, inputs: &[TensorType], outputs: &[TensorType]) -> Result<(), String>;

    /// Whether this output is read as well as written: changed in place or added to.
    fn updates(&self, _output: usize) -> bool {
        false
    }

    /// Floating-point operations (a multiply-add is two).
    fn flops(&self, _inputs: &[TensorType], _outputs: &[TensorType]) -> f64 {
        0.0
    }

    /// Fewest bytes moved through device memory: each input read once, each output written once.
    fn bytes(&self, inputs: &[TensorType], outputs: &[TensorType]) -> u64 {
        traffic(inputs, &[]).saturating_add(traffic(outputs, &[]))
    }

    /// Peak bytes the library allocates while the op runs and has released when it returns.
    fn workspace(&self, _backend: Backend, _inputs: &[TensorType], _outputs: &[TensorType]) -> u64 {
        0
    }
}

/// Builds the [`Op`] enum: variant, type, key.
macro_rules! ops {
    ($($variant:ident = $key:literal,)*) => {
        /// One operation with its attributes.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "op")]
        pub enum Op {
            $(
                #[doc = concat!("`", $key, "`")]
                #[serde(rename = $key)]
                $variant($variant),
            )*
        }

        impl Op {
            /// Every key, in registration order.
            pub const KEYS: &'static [&'static str] = &[$($key,)*];

            /// The key under which the runtime registers the executor.
            pub fn key(&self) -> &'static str {
                match self { $(Op::$variant(_) => $key,)* }
            }

            /// The declarations of this op.
            pub fn spec(&self) -> &dyn Spec {
                match self { $(Op::$variant(op) => op,)* }
            }
        }

        $(impl From<$variant> for Op {
            fn from(op: $variant) -> Op { Op::$variant(op) }
        })*
    };
}

ops! {
    LoadBatch = "load_batch",
    Initialise = "initialise",
    RopeTables = "rope.tables",
    EmbeddingForward = "embedding.forward",
    EmbeddingBackward = "embedding.backward",
    NormForward = "norm.forward",
    AddNorm = "add_norm",
    NormBackward = "norm.backward",
    NormBackwardInput = "norm.backward_input",
    NormBackwardWeight = "norm.backward_weight",
    Gemm = "gemm",
    RopeRotate = "rope.rotate",
    AttentionForward = "attention.forward",
    AttentionBackward = "attention.backward",
    AttentionPartial = "attention.partial",
    AttentionMerge = "attention.merge",
    SwigluForward = "swiglu.forward",
    SwigluBackward = "swiglu.backward",
    Dropout = "dropout",
    Add = "add",
    Accumulate = "accumulate",
    Fill = "fill",
    CrossEntropyTrain = "cross_entropy.train",
    CrossEntropyEval = "cross_entropy.eval",
    CrossEntropyPart = "cross_entropy.part",
    CrossEntropyTrainParts = "cross_entropy.train_parts",
    CrossEntropyEvalParts = "cross_entropy.eval_parts",
    SquaredNorm = "squared_norm",
    Clip = "clip",
    ScaleLoss = "loss_scale.apply",
    UnscaleNorms = "loss_scale.remove",
    AdjustScale = "loss_scale.adjust",
    Optimize = "optimize",
    Gather = "gather",
    ReduceScatter = "reduce_scatter",
    AllReduce = "all_reduce",
    Send = "send",
    Recv = "recv",
    Copy = "copy",
    Quantise = "quantise",
    Snapshot = "snapshot",
}

/// Bytes of an element while it is computed on: f64 stays, every narrower float becomes f32.
fn math_bytes(dtype: DType) -> u64 {
    if dtype == DType::F64 { 8 } else { 4 }
}

/// Whether elements are computed on where they lie, without a converted copy.
fn is_math(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F64)
}

/// Whether a fused kernel works on operands of this format, and so needs none of the twin's copies.
fn fused(backend: Backend, dtype: DType) -> bool {
    backend == Backend::Cuda && matches!(dtype, DType::F32 | DType::Bf16 | DType::F16)
}

/// Product of attributes; saturates, for an edited program may hold any figures.
fn product(factors: &[u64]) -> u64 {
    factors.iter().fold(1, |product: u64, factor| product.saturating_mul(*factor))
}

/// Width of packed queries, keys and values: (heads + 2·kv_heads)·head_dim.
fn packed_width(heads: u64, kv_heads: u64, head_dim: u64) -> u64 {
    product(&[heads.saturating_add(kv_heads).saturating_add(kv_heads), head_dim])
}

/// Bytes of operands of which some are only read, or only written, and some both.
fn traffic(once: &[TensorType], both: &[TensorType]) -> u64 {
    once.iter().chain(both).chain(both).fold(0, |sum: u64, t| sum.saturating_add(t.bytes()))
}

/// Refuses a wrong operand count with both figures.
fn arity(inputs: &[TensorType], outputs: &[TensorType], want: (usize, usize)) -> Result<(), String> {
    let given = (inputs.len(), outputs.len());
    if given == want {
        return Ok(());
    }
    Err(format!("takes {} inputs and {} outputs, given {} and {}", want.0, want.1, given.0, given.1))
}

/// Checks the optional output that takes a result's largest magnitude.
fn magnitude(output: Option<&TensorType>) -> Result<(), String> {
    output.map_or(Ok(()), |t| shape("largest magnitude", t, &[1]))
}

/// What a twin takes to find it: a block in f32.
fn magnitude_workspace(backend: Backend, result: &TensorType, output: Option<&TensorType>) -> u64 {
    output.map_or(0, |_| 4 * chunk::flat(backend, result.elements(), 4))
}

/// Refuses a wrong number format with both.
fn dtype(name: &str, tensor: &TensorType, want: DType) -> Result<(), String> {
    if tensor.dtype == want {
        return Ok(());
    }
    Err(format!("{name} must be {want:?}, is {:?}", tensor.dtype))
}

/// Refuses a wrong shape with both figures.
fn shape(name: &str, tensor: &TensorType, want: &[u64]) -> Result<(), String> {
    if tensor.shape == want {
        return Ok(());
    }
    Err(format!("{name} must be {want:?}, is {:?}", tensor.shape))
}
