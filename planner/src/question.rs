//! What the planner is asked: plain numbers, no text and no spans. The compiler builds it from a recipe,
//! [`crate::score`] from a row of a run table.
//!
//! `None` always means "decide for me"; what the planner then decides is named in [`crate::Answer::why`].

use crate::hardware::Hardware;
use crate::shape::Shape;

/// One planning question.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Shape of the model.
    pub model: Shape,
    /// The accelerator, with everything the cost model reads.
    pub hardware: Hardware,
    /// Machines; `None` derives the count from budget, time or money (`on H100`).
    pub cluster: Option<Cluster>,
    /// At most one of each kind. None: Chinchilla tokens. Tokens with time or money and no cluster: the count is
    /// derived. Time or money with a cluster: the tokens are derived.
    pub budget: Vec<Budget>,
    /// Pinned global batch in tokens.
    pub batch_tokens: Option<u64>,
    /// Optimizer and its hyper-parameters.
    pub optimizer: Optimizer,
    /// Learning-rate request.
    pub lr: LearningRate,
    /// Number format of the matrix products.
    pub precision: Precision,
    /// Whether repeated runs must be bit-equal; `None`: the hardware's default (fast on GPU, bitwise on CPU).
    pub determinism: Option<Determinism>,
    /// What the layout must be; `None` is searched.
    pub pins: Pins,
    /// Money; every missing price is replaced by an assumed one, named in [`crate::Answer::assumed`].
    pub prices: Prices,
    /// Failures and checkpoints.
    pub reliability: Reliability,
    /// Seed of initialisation, data order and dropout.
    pub seed: u64,
    /// Continued pre-training: weights come from a base model.
    pub continued: Option<Continued>,
    /// Recipe's bounds (`expect memory <= 76 GiB`): device bytes a plan may use at most.
    pub memory_limit_bytes: Option<u64>,
}

/// `nodes × gpus_per_node` devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cluster {
    /// Machines joined by the network.
    pub nodes: u64,
    /// Devices per machine, joined by the node link.
    pub gpus_per_node: u64,
}

impl Cluster {
    /// All devices.
    pub fn gpus(self) -> u64 {
        self.nodes.saturating_mul(self.gpus_per_node)
    }
}

/// One given limit.
#[derive(Debug, Clone, PartialEq)]
pub enum Budget {
    /// Tokens to train on.
    Tokens(u64),
    /// Wall-clock seconds, failures included.
    Seconds(f64),
    /// Money in an ISO 4217 currency ("CNY").
    Money {
        /// Amount in units of the currency.
        amount: f64,
        /// ISO 4217 code.
        currency: String,
    },
    /// Training FLOPs, counted as 6·N·T.
    Flops(f64),
}

/// Optimizer and where its moments live.
#[derive(Debug, Clone, PartialEq)]
pub struct Optimizer {
    /// Update rule.
    pub kind: OptimizerKind,
    /// Storage of the moments.
    pub state: StateDtype,
    /// Moments and master weights live in host memory and are paged to the device.
    pub paged: bool,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Global gradient norm limit; `None` = no clipping.
    pub clip: Option<f64>,
}

impl Default for Optimizer {
    /// AdamW with the betas, decay and clip of LLaMA (arXiv 2302.13971, section 2.3).
    fn default() -> Self {
        Optimizer {
            kind: OptimizerKind::AdamW,
            state: StateDtype::F32,
            paged: false,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip: Some(1.0),
        }
    }
}

/// Update rule of the optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptimizerKind {
    /// Two moments (arXiv 1711.05101).
    AdamW,
    /// One moment (arXiv 2302.06675).
    Lion,
    /// Factored second moment (arXiv 1804.04235), no first moment.
    Adafactor,
}

/// Storage of optimizer moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateDtype {
    /// 4 bytes a moment.
    F32,
    /// 2 bytes a moment.
    Bf16,
    /// 1 byte a moment and one f32 scale a block of 256 (arXiv 2110.02861).
    Int8,
}

/// What is asked of the learning rate.
#[derive(Debug, Clone, PartialEq)]
pub struct LearningRate {
    /// Peak; `None`: by rule.
    pub peak: Option<Peak>,
    /// Shape over time.
    pub schedule: Schedule,
    /// `None`: by rule.
    pub warmup: Option<Span>,
}

/// A pinned peak learning rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Peak {
    /// Absolute.
    Absolute(f64),
    /// Multiple of the base model's peak (`lr 0.3x`, continued pre-training); of the rule's where the base's is unknown.
    Multiple(f64),
}

/// A stretch of the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Span {
    /// Optimizer steps.
    Steps(u64),
    /// Tokens.
    Tokens(u64),
    /// Fraction of the run.
    Fraction(f64),
}

/// Learning-rate schedule after warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Schedule {
    /// Half a cosine down to `last` × peak.
    Cosine {
        /// Last learning rate ÷ peak.
        last: f64,
    },
    /// A straight line down to `last` × peak.
    Linear {
        /// Last learning rate ÷ peak.
        last: f64,
    },
    /// Up and down again in one cycle (arXiv 1708.07120).
    OneCycle {
        /// Last learning rate ÷ peak.
        last: f64,
    },
    /// Warm-up, stable, decay over the last `decay` of the run (MiniCPM, arXiv 2404.06395).
    Wsd {
        /// Fraction of the run that decays.
        decay: f64,
        /// Last learning rate ÷ peak.
        last: f64,
    },
    /// Stays at the peak.
    Constant,
}

/// Number format of the matrix products; master weights are f32 in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// Everything f32.
    F32,
    /// TF32 products on f32 storage.
    Tf32,
    /// bf16 weights and activations.
    Bf16,
    /// fp16 weights and activations, loss scaling.
    Fp16,
    /// fp8 products (tensorwise scales), bf16 elsewhere.
    Fp8,
}

/// Reproducibility of repeated runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Determinism {
    /// The order of the sum in attention's backward may vary.
    Fast,
    /// Bit-equal.
    Bitwise,
}

/// Pinned parts of the layout; names and meanings as in `plan.layout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pins {
    /// Tensor-parallel ranks.
    pub tp: Option<u64>,
    /// Megatron sequence parallelism beside `tp`.
    pub sequence_parallel: Option<bool>,
    /// Context-parallel ranks.
    pub cp: Option<u64>,
    /// Pipeline ranks.
    pub pp: Option<u64>,
    /// Virtual stages (model chunks) per pipeline rank.
    pub vp: Option<u64>,
    /// Pipeline schedule.
    pub schedule: Option<PipelineSchedule>,
    /// Data-parallel ranks.
    pub dp: Option<u64>,
    /// ZeRO stage, 0 to 3.
    pub zero_stage: Option<u8>,
    /// Ranks that share one sharded copy; divides `dp`.
    pub shard_group: Option<u64>,
    /// Sequences per micro-batch.
    pub micro_batch: Option<u64>,
    /// Which activations are recomputed.
    pub recompute: Option<Recompute>,
    /// What lives in host memory.
    pub offload: Option<Offload>,
}

/// Order of micro-batches in a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PipelineSchedule {
    /// No pipeline: micro-batches one after another (also where pp = 1).
    Sequential,
    /// One forward, one backward (PipeDream-flush).
    OneFOneB,
    /// Interleaved 1F1B with virtual stages (arXiv 2104.04473).
    Interleaved,
    /// Zero-bubble ZB-H1: backward of inputs and weights apart, 1F1B's memory (arXiv 2401.10241).
    ZeroBubble,
}

/// Activation recomputation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Recompute {
    /// Keep everything a backward needs.
    None,
    /// Recompute norms and the SwiGLU product.
    Selective,
    /// Keep the input of each layer only.
    Full,
}

/// What lives in host memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offload {
    /// Nothing.
    None,
    /// Optimizer moments and master weights.
    Optimizer,
    /// Layer inputs kept for recomputation or backward.
    Activations,
    /// Both.
    Both,
}

/// Prices in one currency; all replaceable.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Prices {
    /// ISO 4217 code; `None` = "CNY".
    pub currency: Option<String>,
    /// Per GPU-hour.
    pub gpu_hour: Option<f64>,
    /// Kilowatts per GPU with its share of the machine.
    pub power_kw: Option<f64>,
    /// Power usage effectiveness of the data centre, ≥ 1.
    pub pue: Option<f64>,
    /// Per kilowatt-hour.
    pub electricity_kwh: Option<f64>,
    /// Per GiB-month of checkpoint storage.
    pub storage_gib_month: Option<f64>,
}

/// Failures and checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Reliability {
    /// Failures per GPU-hour; `None`: Llama 3's rate.
    pub failures_per_gpu_hour: Option<f64>,
    /// Seconds that training stands still for one checkpoint; `None`: from state size and writer bandwidth.
    pub checkpoint_seconds: Option<f64>,
    /// Seconds between checkpoints; `None`: Daly's optimum.
    pub checkpoint_interval_seconds: Option<f64>,
    /// Seconds from failure to training again; `None`: 15 minutes.
    pub restart_seconds: Option<f64>,
}

/// Continued pre-training from a base model.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Continued {
    /// Peak learning rate of the base, where known.
    pub base_peak_lr: Option<f64>,
    /// Tokens the base has seen, where known.
    pub base_tokens: Option<u64>,
    /// Trained parameters when some are frozen; `None` = all.
    pub trainable_params: Option<u64>,
}
