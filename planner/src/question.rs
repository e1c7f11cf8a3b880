//! What the planner is asked: plain numbers, no text and no spans. The compiler builds it from a recipe, the scorer
//! from a row of a run table.
//!
//! `None` always means "decide for me"; what the planner then decided is named in [`crate::Answer::why`].
//! Not here: recipe text, frozen parameter names, the base checkpoint's path; the compiler adds them to the plan.

use llmc_plan::model::Model;
use llmc_plan::mount::Mount;
use llmc_plan::plan::{
    DType, Determinism, LrSchedule, Master, Offload, Optimizer, OptimizerKind, Precision, Recompute, Schedule,
};

use crate::fitted::Fitted;
use crate::hardware::Hardware;

/// One planning question.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Shape of the model.
    pub model: Model,
    /// How the model differs from LLaMA; `Variant::default()` does not.
    pub variant: Variant,
    /// The accelerator, with everything the cost model reads.
    pub hardware: Hardware,
    /// Machines; `None` derives the count from budget, time or money (`on H100`).
    pub cluster: Option<Cluster>,
    /// At most one of each kind. None: Chinchilla tokens. Tokens with time or money and no cluster: the count is
    /// derived. Time or money with a cluster: the tokens are derived.
    pub budget: Vec<Budget>,
    /// Pinned global batch in tokens.
    pub batch_tokens: Option<u64>,
    /// Optimizer and its hyper-parameters, as they shall stand in the plan.
    pub optimizer: Optimizer,
    /// Learning-rate request.
    pub lr: LearningRate,
    /// Number format of the matrix products.
    pub precision: Precision,
    /// Whether repeated runs must be bit-equal; `None`: fast on a GPU, bitwise on a CPU.
    pub determinism: Option<Determinism>,
    /// What the layout must be; `None` is searched.
    pub pins: Pins,
    /// Storage of corpus and checkpoints as measured; `None`: reading is hidden, and a checkpoint is written at an assumed
    /// bandwidth.
    pub mount: Option<Mount>,
    /// Profile of our own runs, as `llmc calibrate` writes it; `None`: the built-in one, if there is one.
    pub fitted: Option<Fitted>,
    /// Money; every missing price is replaced by an assumed one, named in [`crate::Answer::assumed`].
    pub prices: Prices,
    /// Failures and checkpoints.
    pub reliability: Reliability,
    /// Checkpoints and evaluations of the run.
    pub run: RunAsk,
    /// Seed of initialisation, data order and dropout.
    pub seed: u64,
    /// Continued pre-training: weights come from a base model.
    pub continued: Option<Continued>,
    /// Device bytes a plan may use at most, when less than the device has (`expect memory <= 70 GiB`).
    pub memory_limit_bytes: Option<u64>,
}

impl Question {
    /// The question about `model` with everything left open, on an H100 when no hardware replaces it.
    ///
    /// AdamW with LLaMA's betas, decay and clip (arXiv 2302.13971, section 2.3), bf16, seed 0.
    pub fn of(model: Model) -> Question {
        let hardware = crate::hardware::preset("H100").unwrap_or_default();
        Question {
            model,
            variant: Variant::default(),
            hardware,
            cluster: None,
            budget: Vec::new(),
            batch_tokens: None,
            optimizer: Optimizer {
                kind: OptimizerKind::Adamw,
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.1,
                clip: 1.0,
                state_dtype: DType::F32,
                master: Master::F32,
                gradient_dtype: DType::F32,
            },
            lr: LearningRate::default(),
            precision: Precision::Bf16,
            determinism: None,
            pins: Pins::default(),
            mount: None,
            fitted: None,
            prices: Prices::default(),
            reliability: Reliability::default(),
            run: RunAsk::default(),
            seed: 0,
            continued: None,
            memory_limit_bytes: None,
        }
    }
}

/// Departures from LLaMA's block that published runs have. All false: RMSNorm, SwiGLU, RoPE, fused attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Variant {
    /// Feed-forward of two matrices (GELU) instead of three (SwiGLU).
    pub plain_ffn: bool,
    /// Every projection has a bias.
    pub bias: bool,
    /// LayerNorm (gain and bias) instead of RMSNorm (gain).
    pub layer_norm: bool,
    /// Learned positions, one row a token of context.
    pub learned_positions: bool,
    /// Attention writes its score matrix to memory.
    pub unfused_attention: bool,
    /// Pointwise operations are not fused (PyTorch eager).
    pub eager: bool,
    /// The logits of a whole micro-batch exist at once, instead of a block of rows at a time.
    pub whole_logits: bool,
    /// Bytes that one logit takes while the loss is computed, with `whole_logits`: its own, its f32 copy, softmax and
    /// gradient, as far as they exist together. 0: the loss works through blocks of rows all the same.
    pub logit_bytes: u64,
    /// Micro-batches whose logits' gradients and head inputs wait for the end of the step, on the last stage.
    pub deferred_heads: u64,
    /// Weight gradients that a product adds to an f32 buffer return a tensor nobody reads, kept once a shape.
    pub dummy_gradients: bool,
    /// Micro-batches that an interleaved pipeline runs through one chunk before it turns to the next; 0: as many as stages.
    pub chunk_group: u64,
    /// Weights and stream are in f32; each product casts its input and its weight to 16 bits and keeps both (`torch.autocast`).
    pub autocast: bool,
    /// Bytes a score that unfused attention keeps; 0: softmax, its dropout and mask (arXiv 2205.05198, equation 2).
    pub score_bytes: u64,
    /// GELU is made of pointwise operations that each keep their inputs, not one function.
    pub composite_gelu: bool,
    /// Norms keep their input in f32 and the normalised stream beside their output (PyTorch eager).
    pub upcast_norms: bool,
    /// They keep the normalised stream in f32 too.
    pub wide_norms: bool,
    /// Gradients are made by the backward pass and gone after the update, where no micro-batch adds to another's.
    pub fleeting_gradients: bool,
    /// No gradient outlives its update: the optimizer steps inside the backward pass.
    pub update_in_backward: bool,
    /// "Selective" keeps every second product and attention's output (torchtitan), not all but norms and activation.
    pub selective_products: bool,
    /// "Selective" repeats attention's scores alone, which fused attention does not keep anyway (Megatron-LM).
    pub selective_scores: bool,
    /// "Selective" repeats the whole feed-forward and keeps its input alone.
    pub selective_feed_forward: bool,
    /// Tensor-parallel ranks keep the gathered outputs of norms for the backward pass instead of gathering them again.
    pub gathered_norms: bool,
    /// Tensor-parallel ranks keep a copy of a norm's output for each of the products that read it: queries, keys, values, and
    /// those of the feed-forward.
    pub copied_inputs: bool,
    /// SwiGLU is no fused function: the activation of its gate is kept beside gate, up and product. So it is where `eager`.
    pub kept_gate: bool,
    /// The backward pass of SwiGLU writes over gate and up (Liger kernels).
    pub gate_in_place: bool,
    /// 16-bit copies of attention's tensors that are kept beside them: of the queries' width, of the keys'.
    pub attention_copies: [u64; 2],
    /// Attention is given keys and values repeated for every query head, and keeps these.
    pub repeated_keys: bool,
    /// In fp8, bytes of 8-bit copies beside a weight of a block's products, with inputs of products kept in 8 bits (Transformer
    /// Engine: 2, its transpose is one); 0: no such copies.
    pub quantised_copies: u64,
    /// Weights gathered for a product (ZeRO-3) live until its backward pass.
    pub held_weights: bool,
    /// Weights, gradients and optimizer states lie in host memory; the device holds what is gathered and what is being reduced
    /// (FSDP's `CPUOffloadPolicy`).
    pub host_states: bool,
    /// Tensor-parallel ranks that hold the same stream send a part each to the next stage, which gathers it.
    pub scattered_sends: bool,
    /// What runs beside tensor-parallel collectives.
    pub tensor_traffic: TensorTraffic,
    /// Gradients are reduced and weights gathered after the last backward pass, beside nothing.
    pub late_reduction: bool,
    /// A recomputed block stops once all that its backward pass reads is there: its last product is not repeated.
    pub early_stop: bool,
    /// What selective recomputation repeats.
    pub redone: Redone,
}

/// What selective recomputation repeats in the backward pass: the word means another thing in every stack.
///
/// Not told apart, though it is known, are Megatron's core of attention and MaxText's policies: fitted with them, errors by
/// fold grew (Hopper bf16: 4.4 % with the first, 4.5 % with both, 4.0 % without, 2026-11-30).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Redone {
    /// Norms and the feed-forward's activation.
    #[default]
    Pointwise,
    /// Every second product, norms and activation (torchtitan's per-operator policy, torchtitan/distributed/
    /// activation_checkpoint.py).
    Products,
    /// Every second layer whole.
    Layers,
}

/// What tensor-parallel collectives share their time with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TensorTraffic {
    /// They are cut up and run beside the products that need them (Transformer Engine's userbuffers, XLA's collective
    /// products): the profile says which share stays exposed.
    #[default]
    Pipelined,
    /// Those of the input gradient of a column-parallel product run beside its products, all others alone
    /// (Megatron-LM, `LinearWithGradAccumulationAndAsyncCommunication` in core/tensor_parallel/layers.py).
    Beside,
    /// All alone; a gathered input is kept for the backward pass (PyTorch's DTensor).
    Alone,
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

/// What is asked of the learning rate.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LearningRate {
    /// Peak; `None`: by rule.
    pub peak: Option<Peak>,
    /// Shape over time; `None`: cosine.
    pub schedule: Option<LrSchedule>,
    /// Last learning rate ÷ peak; `None`: 0.1 (cosine, linear), 0 (WSD, one-cycle).
    pub final_fraction: Option<f64>,
    /// WSD: share of the run that decays; `None`: 0.1.
    pub decay_fraction: Option<f64>,
    /// `None`: by rule.
    pub warmup: Option<Span>,
}

/// A pinned peak learning rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Peak {
    /// Absolute.
    Absolute(f64),
    /// Multiple of the base model's peak (`lr 0.3x`); of the rule's where the base's is unknown.
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
    /// Wall-clock seconds.
    Seconds(f64),
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
    pub schedule: Option<Schedule>,
    /// Data-parallel ranks.
    pub dp: Option<u64>,
    /// ZeRO stage, 0 to 3.
    pub zero_stage: Option<u64>,
    /// Ranks that share one sharded copy; divides `dp`.
    pub shard_group: Option<u64>,
    /// Sequences per micro-batch.
    pub micro_batch: Option<u64>,
    /// Which activations are recomputed.
    pub recompute: Option<Recompute>,
    /// What lives in host memory.
    pub offload: Option<Offload>,
}

/// Prices in one currency; all replaceable.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Prices {
    /// ISO 4217 code; `None` = "CNY".
    pub currency: Option<String>,
    /// Per device-hour.
    pub gpu_hour: Option<f64>,
    /// Kilowatts per device.
    pub power_kw: Option<f64>,
    /// Power usage effectiveness of the data centre, ≥ 1.
    pub pue: Option<f64>,
    /// Per kilowatt-hour.
    pub electricity_kwh: Option<f64>,
    /// Everything else that grows with time (staff, licences), per hour of the whole run.
    pub other_hour: Option<f64>,
    /// Storage of corpus and checkpoints, per hour of the whole run.
    pub storage_hour: Option<f64>,
    /// Network, per hour of the whole run.
    pub network_hour: Option<f64>,
    /// Idle devices kept ready, as a share of those that train; rented or bought like them.
    pub spares: Option<f64>,
    /// Price of owning: one device with its share of server, network and hall.
    pub buy: Option<f64>,
    /// Seconds until a bought device is written off; `None`: four years.
    pub life_seconds: Option<f64>,
    /// Share of that time in which it trains; `None`: 0.8.
    pub usage: Option<f64>,
    /// Upkeep a year as a share of the price (repair, staff, space); `None`: 0.05.
    pub upkeep: Option<f64>,
}

/// Failures and checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Reliability {
    /// Failures per device-hour; `None`: Llama 3's rate.
    pub failures_per_gpu_hour: Option<f64>,
    /// Seconds that training stands still for one checkpoint; `None`: from state size and writer bandwidth.
    pub checkpoint_seconds: Option<f64>,
    /// Seconds from failure to training again; `None`: 15 minutes.
    pub restart_seconds: Option<f64>,
}

/// Periodic work asked for.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RunAsk {
    /// Between checkpoints; `None`: Daly's optimum.
    pub checkpoint_every: Option<Span>,
    /// Checkpoints kept; `None`: 3.
    pub checkpoint_keep: Option<u64>,
    /// zstd level; `None`: 0, stored as is.
    pub checkpoint_zstd: Option<u64>,
    /// Between evaluations; `None`: 2 % of the run.
    pub eval_every: Option<Span>,
    /// Validation sequences an evaluation reads; `None`: all.
    pub eval_sequences: Option<u64>,
    /// Steps in a row left out for not being finite; `None`: 10.
    pub skip_steps: Option<u64>,
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
