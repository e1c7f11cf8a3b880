//! `plan.json`: what was decided, in plain typed numbers. Design section 6 fixes the key names.
//!
//! Not here: why anything was decided (the compiler's ledger joins `facts` when it serialises),
//! and what is executed ([`crate::program`], lowered from this and never stored in it).
//! Minor versions only add keys; a reader refuses a major version it does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::Model;
pub use crate::mount::Storage;
pub use crate::record::{Exchange, LawValue, MemoryPrice, ParetoPoint, RampStep, RunnerUp, Search};

/// The version written; a reader accepts every `1.x`.
pub const FORMAT_VERSION: &str = "1.1";

/// JSON schema (draft 2020-12) of `plan.json`: what `llmc schema` prints. Kept equal to the types below by
/// `tests/schema.rs`.
pub const SCHEMA: &str = include_str!("../plan.schema.json");

/// A whole plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// `major.minor`.
    pub format_version: String,
    /// Where it came from.
    pub recipe: Recipe,
    /// What is trained.
    pub model: Model,
    /// For how long.
    pub budget: Budget,
    /// In which steps.
    pub batch: Batch,
    /// On which devices.
    pub hardware: HardwareSummary,
    /// How it is laid out on them.
    pub layout: Layout,
    /// Which optimizer.
    pub optimizer: Optimizer,
    /// Learning rate and its schedule.
    pub lr: LearningRate,
    /// Number formats.
    pub precision: Precision,
    /// Whether repeated runs agree bit for bit.
    pub determinism: Determinism,
    /// Seed of initialisation, data order and dropout.
    pub seed: u64,
    /// Parameters that are not trained.
    #[serde(default)]
    pub freeze: Vec<String>,
    /// Base checkpoint of continued pre-training, as written in the recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Periodic work of a run.
    pub schedule: RunSchedule,
    /// What the measured storage means for the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// Predicted memory.
    pub memory: Memory,
    /// Predicted time.
    pub time: Time,
    /// Predicted money and energy.
    pub cost: Cost,
    /// Predicted loss.
    pub loss: Loss,
    /// How the search went.
    pub search: Search,
    /// Path → value and reason; filled by the compiler when it serialises.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, Fact>,
}

/// One value with its reason, as serialised in `facts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// The value as it stands at that path.
    pub value: serde_json::Value,
    /// The reason, as data.
    pub why: serde_json::Value,
}

/// The recipe the plan was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// SHA-256 of the text in lower-case hex.
    pub hash: String,
    /// Language edition.
    pub edition: u64,
    /// The text itself.
    pub text: String,
}

/// Training length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// Tokens as asked (or derived).
    pub tokens: u64,
    /// Tokens really trained: steps × global tokens.
    pub trained_tokens: u64,
    /// Model FLOPs of the whole run: flops a token × trained tokens.
    pub flops: f64,
    /// 6·N·T of the mission, N = all parameters, printed beside `flops`.
    pub flops_6nt: f64,
    /// Optimizer steps.
    pub steps: u64,
}

/// Global batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Tokens an optimizer step.
    pub global_tokens: u64,
    /// Sequences an optimizer step.
    pub global_sequences: u64,
    /// Sequences a micro-batch on one data-parallel rank.
    pub micro_batch_sequences: u64,
    /// Micro-batches a step on one data-parallel rank.
    pub accumulation: u64,
    /// Estimated critical batch in tokens.
    pub critical_tokens: u64,
}

/// The devices, as far as a reader of the plan needs them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HardwareSummary {
    /// Preset or file name, for example `H100`.
    pub name: String,
    /// Memory of one device in bytes.
    pub memory_bytes: u64,
    /// Dense bf16 peak of one device in FLOP/s (the denominator of `mfu`).
    pub peak_bf16_flops: f64,
}

/// Pipeline schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// No pipeline.
    None,
    /// One forward, one backward (Narayanan et al. 2021, arXiv 2006.09503).
    OneFOneB,
    /// Interleaved virtual stages (arXiv 2104.04473).
    Interleaved,
    /// Zero-bubble with weight gradients delayed (ZB-H1, Qi et al. 2023, arXiv 2401.10241).
    ZeroBubble,
}

/// Which activations are recomputed in the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Everything is kept.
    None,
    /// Norm outputs and the SwiGLU product are recomputed: cheap to redo, large to keep.
    Selective,
    /// Only the block input is kept.
    Full,
}

/// What lives in host memory between uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offload {
    /// Nothing.
    None,
    /// Optimizer states.
    Optimizer,
    /// Block inputs kept for recompute.
    Activations,
}

/// Placement on devices; dp · tp · pp · cp = gpus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Hosts.
    pub nodes: u64,
    /// Devices in total.
    pub gpus: u64,
    /// Data-parallel ranks, the shard group included.
    pub dp: u64,
    /// Tensor-parallel ranks.
    pub tp: u64,
    /// Megatron sequence parallelism along the tensor-parallel ranks (arXiv 2205.05198).
    pub sequence_parallel: bool,
    /// Context-parallel ranks (ring attention, arXiv 2310.01889).
    pub cp: u64,
    /// Pipeline stages.
    pub pp: u64,
    /// Model chunks a pipeline rank holds.
    pub vp: u64,
    /// ZeRO stage 0–3 (Rajbhandari et al. 2020, arXiv 1910.02054).
    pub zero_stage: u64,
    /// Ranks over which ZeRO shards; equals dp unless hybrid sharding.
    pub shard_group: u64,
    /// Pipeline schedule.
    pub schedule: Schedule,
    /// Recompute policy.
    pub recompute: Recompute,
    /// Offload policy.
    pub offload: Offload,
    /// What each pipeline stage holds where stages or their layers differ (`vp` 1); empty: layers as even as possible,
    /// all under `recompute` and `offload`. Since 1.1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageLayers>,
}

/// Decoder blocks of one pipeline stage, by policy. The first `full` of them recompute everything, the next
/// `selective` what is cheap, the others nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageLayers {
    /// Blocks in all.
    pub layers: u64,
    /// Of these, under selective recomputation.
    pub selective: u64,
    /// Of these, under full recomputation.
    pub full: u64,
    /// Of `full`, blocks whose input waits in host memory.
    pub offload: u64,
}

impl StageLayers {
    /// Policy of the stage's block number `index`.
    pub fn recompute(&self, index: u64) -> Recompute {
        match index {
            i if i < self.full => Recompute::Full,
            i if i < self.full.saturating_add(self.selective) => Recompute::Selective,
            _ => Recompute::None,
        }
    }
}

/// Optimizer family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101).
    Adamw,
    /// Lion (Chen et al. 2023, arXiv 2302.06675).
    Lion,
    /// Adafactor (Shazeer & Stern 2018, arXiv 1804.04235).
    Adafactor,
    /// AdamW with its states paged to host memory.
    PagedAdamw,
}

/// Optimizer settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    /// Family.
    pub kind: OptimizerKind,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// ε added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay; norms and embeddings' decay group is in `ParamSpec`.
    pub weight_decay: f64,
    /// Global gradient-norm clip; 0 = off.
    pub clip: f64,
    /// Number format of the moments: `f32` or `bf16`.
    pub state_dtype: DType,
    /// How masters of 16-bit weights are kept. Since 1.1; absent means `f32`.
    #[serde(default, skip_serializing_if = "Master::is_f32")]
    pub master: Master,
    /// Number format in which the gradients of the blocks' matrices are summed over a step: `f32` or `bf16`. Since 1.1;
    /// absent means `f32`.
    #[serde(default = "f32_gradients", skip_serializing_if = "is_f32")]
    pub gradient_dtype: DType,
}

fn f32_gradients() -> DType {
    DType::F32
}

fn is_f32(dtype: &DType) -> bool {
    *dtype == DType::F32
}

/// How the f32 masters of bf16 weights are kept between steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Master {
    /// A tensor of its own beside the weights: 4 more bytes a parameter.
    #[default]
    F32,
    /// Only the 16 bits that the weight lacks: 2 more bytes, the same f32 (Split-SGD, Kalamkar et al. 2020, arXiv
    /// 2005.04680).
    Split,
    /// None: weights are rounded stochastically (Gupta et al. 2015, arXiv 1502.02551).
    Stochastic,
}

impl Master {
    /// Whether it is the usual one.
    pub fn is_f32(&self) -> bool {
        *self == Master::F32
    }
}

/// Shape of the learning-rate schedule after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrSchedule {
    /// Flat.
    Constant,
    /// Half a cosine to `final_fraction` (arXiv 1608.03983).
    Cosine,
    /// Straight line to `final_fraction`.
    Linear,
    /// One-cycle (Smith & Topin 2017, arXiv 1708.07120).
    Onecycle,
    /// Warm-up, stable, decay over the last `decay_fraction` (MiniCPM, arXiv 2404.06395).
    Wsd,
}

/// Learning rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LearningRate {
    /// Peak.
    pub peak: f64,
    /// Schedule.
    pub schedule: LrSchedule,
    /// Steps of linear warm-up from 0.
    pub warmup_steps: u64,
    /// Last learning rate ÷ peak.
    pub final_fraction: f64,
    /// Share of all steps in the final decay (WSD only, else 0).
    pub decay_fraction: f64,
}

/// Compute precision of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floats everywhere.
    F32,
    /// bfloat16 weights and activations, 32-bit master, moments, gradients and reductions.
    Bf16,
    /// Half precision with dynamic loss scaling.
    Fp16,
    /// 8-bit block GEMMs, the rest as bf16.
    Fp8,
}

/// Bit reproducibility.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Determinism {
    /// The order of attention's dQ sum is the only source of variation.
    Fast,
    /// Repeated runs, recompute on or off, and resume are bit-equal.
    Bitwise,
}

/// Number format of one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DType {
    /// 64-bit float (tests).
    F64,
    /// 32-bit float.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
    /// 8-bit float, 4 exponent bits.
    F8E4m3,
    /// 8-bit float, 5 exponent bits.
    F8E5m2,
    /// 64-bit integer (token ids, positions: libtorch indexes with these).
    I64,
    /// 32-bit integer (cumulative lengths).
    I32,
    /// 16-bit integer (what a bf16 weight lacks of its f32 master).
    I16,
}

impl DType {
    /// Bytes an element.
    pub fn bytes(self) -> u64 {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::Bf16 | DType::F16 | DType::I16 => 2,
            DType::F8E4m3 | DType::F8E5m2 => 1,
        }
    }
}

/// Periodic work, in optimizer steps; 0 = never.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSchedule {
    /// Steps between checkpoints.
    pub checkpoint_every_steps: u64,
    /// Checkpoints kept; 0 = all.
    pub checkpoint_keep: u64,
    /// zstd level of checkpoints; 0 = stored as is.
    pub checkpoint_zstd: u64,
    /// Steps between evaluations; the last step always evaluates.
    pub eval_every_steps: u64,
    /// Validation sequences an evaluation reads; 0 = all there are.
    pub eval_sequences: u64,
    /// Steps in a row whose loss or gradient is not finite that are left out before the run stops; 0 = it stops at the
    /// first.
    #[serde(default = "skip_steps")]
    pub skip_steps: u64,
}

/// What plans of before the key was there mean.
fn skip_steps() -> u64 {
    RunSchedule::SKIP_STEPS
}

impl RunSchedule {
    /// Unless asked otherwise: bad data or a spike passes within a few steps, a diverged model does not come back.
    /// (Own choice.)
    pub const SKIP_STEPS: u64 = 10;
}

/// Memory of one pipeline stage (one device of it), bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageMemory {
    /// Parameters in compute precision (and gathered units under ZeRO-3).
    pub parameters: u64,
    /// Gradients.
    pub gradients: u64,
    /// Optimizer states, master copies included.
    pub optimizer: u64,
    /// Activations kept for the backward pass and the backward's own transients.
    pub activations: u64,
    /// Logits and loss workspace.
    pub logits: u64,
    /// Communication buckets, batches, workspaces.
    pub buffers: u64,
    /// Peak bytes in live tensors.
    pub allocated: u64,
    /// Peak bytes the caching allocator holds.
    pub reserved: u64,
    /// What the device reports as used: reserved, context, communicators.
    pub device: u64,
}

/// Memory prediction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The largest `device` over the stages.
    pub device_bytes: u64,
    /// One entry a pipeline stage.
    pub stages: Vec<StageMemory>,
}

/// Time prediction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// Seconds an optimizer step.
    pub step_seconds: f64,
    /// Tokens a second, all devices.
    pub tokens_per_second: f64,
    /// Tokens a second and device.
    pub tokens_per_second_per_gpu: f64,
    /// Model FLOPs utilisation against the dense bf16 peak.
    pub mfu: f64,
    /// Where a step goes, seconds by term; sums to `step_seconds`.
    pub breakdown: BTreeMap<String, f64>,
    /// Seconds of the whole run, goodput included.
    pub train_seconds: f64,
    /// Share of wall time that is useful training.
    pub goodput: f64,
}

/// Money and energy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// ISO code.
    pub currency: String,
    /// Device hours.
    pub gpu_hours: f64,
    /// Device rent.
    pub gpu: f64,
    /// Kilowatt-hours: power × devices × PUE × hours.
    pub electricity_kwh: f64,
    /// Price of that electricity.
    pub electricity: f64,
    /// Storage, network and the rest.
    pub other: f64,
    /// Sum.
    pub total: f64,
    /// Price a device hour used.
    pub gpu_per_hour: f64,
    /// Kilowatts a device used.
    pub power_kw: f64,
    /// Power usage effectiveness used.
    pub pue: f64,
    /// Price a kilowatt-hour used.
    pub electricity_per_kwh: f64,
    /// Which of the four prices were assumed, not given.
    pub assumed: Vec<String>,
    /// Of `other`, idle devices kept ready. Since 1.1, as are the following.
    #[serde(default)]
    pub spares: f64,
    /// Of `other`, storage.
    #[serde(default)]
    pub storage: f64,
    /// Of `other`, network.
    #[serde(default)]
    pub network: f64,
    /// Failures to expect over the run.
    #[serde(default)]
    pub failures: f64,
    /// The same run on bought devices, where their price is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ownership: Option<Ownership>,
}

/// Owning instead of renting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ownership {
    /// Price a device hour: purchase and upkeep over the hours in which it trains.
    pub gpu_per_hour: f64,
    /// Price of the run.
    pub total: f64,
    /// Hours of rent that would have paid for a device.
    pub break_even_hours: f64,
}

/// Loss prediction, nats a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Point estimate.
    pub predicted: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// The law used, for example `chinchilla-besiroglu`.
    pub law: String,
}

/// Why a plan file was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadError {
    /// Not JSON, or not of the plan's shape.
    Malformed(String),
    /// A major version this build does not know.
    Version(String),
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReadError::Malformed(what) => write!(f, "not a plan: {what}"),
            ReadError::Version(found) => {
                write!(f, "plan format {found}, this build reads 1.x; write the plan again with this version")
            }
        }
    }
}

impl std::error::Error for ReadError {}

impl Plan {
    /// Reads `plan.json`; refuses an unknown major version before anything else is looked at.
    ///
    /// # Errors
    /// [`ReadError`] when the text is not a plan of format 1.x.
    pub fn from_json(text: &str) -> Result<Plan, ReadError> {
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|e| ReadError::Malformed(e.to_string()))?;
        let version = value.get("format_version").and_then(|v| v.as_str()).unwrap_or("missing");
        if version.split('.').next() != Some("1") {
            return Err(ReadError::Version(version.to_string()));
        }
        serde_json::from_value(value).map_err(|e| ReadError::Malformed(e.to_string()))
    }

    /// Canonical JSON: declared key order, two-space indent, final newline.
    ///
    /// # Errors
    /// Never for a plan without non-finite floats; the serialiser's error otherwise.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(text)
    }
}
