//! Run tables: each row of the three published schemas becomes a case, a question with everything pinned.
//!
//! No rule reads `id`, `source` or `model_name` except to select a profile and its stack's facts. `notes` give flags
//! that change memory. A row that makes no sense is refused with the reason.

use llmc_plan::model::{Model, Rope, RopeMethod};
use llmc_plan::plan::{Determinism, Offload, Precision, Recompute, Schedule};

use crate::cost::memory::stage_memory;
use crate::cost::{Point, Setting};
use crate::hardware;
use crate::notes::{
    self, core_before, core_release, early_nemo, flag, given_dropout, head_dim, native_fusion, network, peak,
    query_norms, redone, says, stages, tensor_traffic, transformers,
};
use crate::question::*;
use crate::row::{Row, fits, read};
use crate::score::{Doubt, Odd, doubts};
use crate::solve::setting;
use crate::stack::{EAGER_SLACK, GROWING_SLACK, TORN, facts, stack, state, timed_as};
use crate::words::{self, Attention};

/// Devices of a machine whose board has links between each pair and no switch.
const MESH: u64 = 4;

/// Share of a card's peak below which no run is that is timed for its speed: a cell is wrong. The least of those in the tables is 6e-3
/// (vTrain's smallest models); continuous integration's toy models, launch-bound by their own word, come down to 1e-3.
const IDLEST: f64 = 5e-4;

/// How fast 8-bit products with a scale a row are beside those with one a tensor: CUTLASS's kernels instead of cuBLASLt's, and
/// operands that are cast from 16 bits both ways round (`rowwise` of torchao's recipes, torchao/float8/config.py). One number: a step of
/// Llama 3 8B on 8 H100 takes 1.14 and 1.11 times as long (torchao's training.md, torchtitan's pull request 808).
const ROWWISE: f64 = 0.7;

/// What a published peak means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peak {
    /// Allocated on the last rank.
    LastAllocated,
    /// Allocated, most over ranks.
    Allocated,
    /// Reserved, most over ranks.
    Reserved,
    /// What the driver reports, most over ranks.
    Device,
}

/// A row's question, its only point, and what was measured.
#[derive(Debug, Clone)]
pub struct Case {
    /// Column `id`.
    pub id: String,
    /// Column `source`.
    pub source: String,
    /// Column `notes`.
    pub remark: String,
    /// Software of the run.
    pub stack: &'static str,
    /// Shared figures.
    pub setting: Setting,
    /// The layout.
    pub point: Point,
    /// Measured seconds a step, where given.
    pub seconds: Option<f64>,
    /// The table gives the step's time itself, not tokens per second: errors are of what it gives.
    pub by_time: bool,
    /// Measured peak, bytes.
    pub peak_bytes: Option<f64>,
    /// Steps of this run are launch-bound by its own word: no measure of time.
    pub memory_only: bool,
    /// What the peak means.
    pub peak: Peak,
    /// Bytes a parameter of moments that were not there yet, where the peak was read when the first step was done.
    pub late_moments: Option<f64>,
    /// Reserved ÷ allocated − 1 where the allocator's slack is known apart from the profile that times the run.
    pub slack: Option<f64>,
}

/// Cases of a table, and the rows that make none.
#[derive(Default)]
pub struct Cases {
    /// Those that can be predicted.
    pub cases: Vec<Case>,
    /// Name of each other row and why it was refused.
    pub refused: Vec<(String, String)>,
    /// Rows with a cell that cannot be right; they are used all the same.
    pub warnings: Vec<Doubt>,
}

/// The cases of a table, for fitting.
///
/// # Errors
/// A sentence when the text is no such table.
pub fn cases(text: &str) -> Result<Cases, String> {
    let rows = read(text)?;
    let mut found = Cases { warnings: doubts(&rows), ..Cases::default() };
    let repeated = |at: usize| {
        let row = at as u64 + 1;
        found.warnings.iter().any(|d| d.row == row && matches!(d.what, Odd::DuplicateId { .. }))
    };
    let again: Vec<bool> = (0..rows.len()).map(repeated).collect();
    for ((at, row), again) in rows.iter().enumerate().zip(again) {
        match case(row) {
            // A profile lists its rows by name.
            Ok(case) if again => {
                found.cases.push(Case { id: format!("{} (row {})", case.id, at + 1), ..case });
            }
            Ok(case) => found.cases.push(case),
            Err(reason) => {
                let name = row.text("id").map_or_else(|| format!("row {}", at + 1), str::to_owned);
                found.refused.push((name, reason));
            }
        }
    }
    Ok(found)
}

/// Source of a row; vTrain's schema has none.
pub(crate) fn source(row: &Row) -> String {
    match row.text("source") {
        Some(source) => source.to_string(),
        None if row.count("n_gpus").unwrap_or(0) > 8 => "vTrain multi".into(),
        None => "vTrain single".into(),
    }
}

/// Turns a row into its case.
///
/// # Errors
/// Why the row cannot be predicted.
pub(crate) fn case(row: &Row) -> Result<Case, String> {
    row.whole()?;
    // vTrain: GPT in Megatron-LM on A100-80GB, fp16, full recompute off, flash attention absent, vocabulary 51200.
    let vtrain = !row.has("source") && row.has("iteration_ms");
    let name = row.text("hardware").unwrap_or(if vtrain { "A100-80GB-SXM" } else { "" });
    let card = words::card(name).ok_or_else(|| format!("hardware {name:?} is unknown"))?;
    let card = hardware::preset(card).ok_or_else(|| format!("hardware {name:?} has no record"))?;
    let gpus = row.count("n_gpus")?;
    // Whole machines: 12 devices on machines of 8 are two of 6.
    let machine = row.count_or("gpus_per_node", card.gpus_per_node)?;
    let most = machine.min(gpus);
    let per_node = (1..=most).rev().find(|n| gpus.is_multiple_of(*n)).unwrap_or(1);
    let (layers, hidden, heads) = (row.count("layers")?, row.count("hidden")?, row.count("heads")?);
    let context = row.count("seq")?;
    let (tp, pp, cp) = (row.count_or("tp", 1)?, row.count_or("pp", 1)?, row.count_or("cp", 1)?);
    let vp = row.count_or("vp", 1)?;
    let micro = row.count("micro_batch_seqs")?;
    let sequences = row.count("global_batch_seqs")?;
    let ranks = tp * pp * cp;
    if gpus % ranks != 0 {
        return Err(format!("tp·pp·cp = {ranks} does not divide {gpus} devices"));
    }
    let dp = gpus / ranks;
    if row.has("dp") && row.count("dp")? != dp {
        return Err(format!("dp = {} where the other ranks leave {dp}", row.count("dp")?));
    }
    if sequences % (dp * micro) != 0 {
        return Err(format!("{sequences} sequences are not whole micro-batches of {micro} on {dp} ranks"));
    }
    if layers < pp || heads % tp != 0 {
        return Err(format!("{layers} layers on {pp} stages, {heads} heads on {tp} ranks"));
    }
    let many = |column: &&str| row.text(column).and_then(|n| n.parse::<f64>().ok()).is_some_and(|n| n > 1.0);
    if let Some(column) = ["ep", "experts", "num_experts", "moe_experts"].iter().find(|column| many(column)) {
        let count = row.text(column).unwrap_or_default();
        return Err(format!("{column} = {count}: the model is dense, mixtures of experts are not predicted"));
    }
    let notes = row.text("notes").unwrap_or_default();
    let memory_only = notes.contains("use memory only");
    fits((hidden, heads, head_dim(notes).is_some()), (layers, pp, vp), (context, cp))?;
    let kv_heads = row.count_or("kv_heads", heads)?;
    if heads % kv_heads != 0 {
        return Err(format!("{heads} heads do not share {kv_heads} of keys and values"));
    }
    let gated = row.yes("glu") == Some(true);
    let ffn = row.count_or("ffn", 4 * hidden)?;
    let vocab = row.count_or("vocab", 51200)?;
    let format = row.text("precision").unwrap_or(if vtrain { "fp16" } else { "bf16" });
    let precision = words::precision(format)
        .filter(|p| *p != Precision::Fp8 || card.peak_fp8.is_some())
        .ok_or_else(|| format!("precision {format} on {}", card.name))?;
    let sharding = row.text("dp_shard").unwrap_or_default();
    let zero = match row.text("zero_stage") {
        Some(stage) => words::zero(stage).ok_or_else(|| format!("zero_stage {stage}: expected 0 to 3"))?,
        None => words::zero(sharding).unwrap_or(0),
    };
    // A policy of no known name is as good as none stated: the least that fits.
    let given = row.text("act_ckpt").and_then(words::recompute);
    // Modules of Megatron-LM's selective recomputation (`recompute_modules`).
    let feed_forward = row.text("act_ckpt").is_some_and(|policy| policy.to_lowercase().contains("mlp"));
    let attention = row.text("attn_impl").and_then(words::attention);
    // Megatron's "local" layers have no fused attention; Megatron-DeepSpeed of 2021 had none either.
    let address = row.text("source_path_or_url").unwrap_or_default();
    let stack = stack(&source(row), address, notes, sharding, tp * pp);
    let facts = facts(stack);
    // A row that names its attention is believed.
    let unfused = (facts.unfused_attention && attention.is_none())
        || attention == Some(Attention::Unfused)
        || ["attention-backend=unfused", "transformer-impl=local"].iter().any(|flag| notes.contains(flag));
    let says = |flags: &[&str]| says(notes, flags);
    // NeMo Automodel patches Hugging Face's layers, but has losses of its own (`use_liger_kernel` of nemo_automodel's models).
    let liger = facts.fused_layers || notes.contains("Liger");
    let liger = liger && !notes.contains("without Liger");
    // With the head it leaves no logits; by itself (unsloth/kernels/cross_entropy_loss.py) it writes their gradient over them.
    let fused_head = (liger && !facts.fused_layers) || says(&["linear cross entropy", "with the head"]);
    let fused_loss = says(&["fused CE", "fused cross"]);
    // Kernels for norms and rotation alone leave SwiGLU as it is.
    let fused_norms = says(&["fused rms norm", "fused RMSNorm", "rms norm and rope"]);
    let hugging = ["huggingface", "trainer"].contains(&stack);
    // Autocast computes losses in f32; a module that is in 16 bits itself does not need it.
    let pure = notes::pure(notes) && !notes.contains("autocast");
    let compiled = row.yes("compile") == Some(true);
    // The loss lies outside what is compiled block by block.
    let whole = compiled && !says(&["per block", "per layer"]);
    // Sharded weights are cast by FSDP itself, in whole units, and DeepSpeed's are 16 bits wide.
    let autocast = timed_as(stack) == "torch" && zero == 0 && notes::autocast(notes);
    let peak = peak(notes, &facts);
    let model = Model {
        family: "gpt".into(),
        params: 0,
        params_non_embedding: 0,
        layers,
        hidden,
        heads,
        kv_heads,
        head_dim: head_dim(notes).unwrap_or(hidden / heads),
        ffn,
        vocab,
        vocab_padded: vocab.div_ceil(128 * tp) * 128 * tp,
        context,
        rope: Rope { method: RopeMethod::None, factor: 1.0, original_context: context, theta: 10000.0 },
        tied: row.yes("tied") == Some(true) || vtrain,
        norm_eps: 1e-5,
        dropout: match (gated, given_dropout(notes)) {
            (_, Some(share)) => share,
            (false, None) => facts.dropout,
            (true, None) => 0.0,
        },
        init_std: 0.02,
    };
    let model = Model {
        params: model.count_params(),
        params_non_embedding: model.count_params_non_embedding(),
        ..model
    };
    // Published counts lie within a fifth of their shapes'; twice as many are experts, or a cell is wrong.
    let stated = row.positive("params_b")?.unwrap_or(0.0);
    if stated * 1e9 > 2.0 * model.params as f64 {
        return Err(format!(
            "params_b = {stated} where the shape has {:.1}: experts, or a cell is wrong",
            model.params as f64 / 1e9
        ));
    }
    let nodes = gpus.div_ceil(per_node);
    let words = format!("{notes}; {address}");
    let card = hardware::Hardware {
        network_bandwidth: network(&source(row), &words, per_node).unwrap_or(card.network_bandwidth),
        mesh: (machine == MESH && card.gpus_per_node > MESH && card.link_kind == "nvlink").then_some(MESH),
        ..card
    };
    // torchtitan compiles the loss too since spring 2025: of rows that name no month, H200 and Blackwell runs are later.
    let new = match words::month(&words) {
        Some(month) => month >= (2025, 4),
        None => ["H200", "B200", "GB200"].contains(&card.name.as_str()),
    };
    // FSDP's takes all of a rank's states, where others' take the optimizer's.
    let offloads = says(&["CPU offload", "cpu_offload=True", "CPUOffloadPolicy"]);
    let host_states = offloads && timed_as(stack) == "torch" && zero == 3;
    let old_gpt = !gated && transformers(notes) < Some((4, 49));
    let loss = facts.logit_bytes[usize::from(whole && new)];
    let q = Question {
        variant: Variant {
            plain_ffn: !gated,
            bias: !gated && !notes.contains("disable-bias-linear"),
            layer_norm: !gated,
            learned_positions: !gated
                && !["ALiBi", "alibi", "RoPE", "rope"].iter().any(|p| notes.contains(p)),
            unfused_attention: unfused,
            eager: !liger
                && !fused_norms
                && (row.yes("compile") == Some(false) || (facts.eager && !compiled)),
            whole_logits: true,
            logit_bytes: match () {
                // The "native" fusion of Megatron-LM fuses pointwise work, not the product: an f32 copy and softmax exist
                // together, compiled and no longer in place (megatron/core/fusions/fused_cross_entropy.py).
                _ if native_fusion(notes) || (stack == "nemo" && early_nemo(notes)) => 10,
                _ if fused_head => 0,
                // Hugging Face's models made an f32 copy, shifted into another, before whatever loss until 4.45.
                _ if fused_loss && hugging && transformers(notes) < Some((4, 46)) => 8,
                _ if fused_loss => 2,
                // All 16-bit logits, and an eighth at a time the rest (torchtune/modules/loss/ce_chunked_output_loss.py).
                _ if notes.contains("chunked cross entropy") => 4,
                // Models other than LLaMA's left their logits in 16 bits until 4.48: these, log-softmax and two gradients
                // (transformers/models/gpt2 and gpt_bigcode). DeepSpeed casts the module and runs no autocast.
                _ if old_gpt && (stack == "deepspeed" || hugging && pure) => 8,
                _ if old_gpt && stack == "trainer" => 14,
                // Those without a shifted copy: `ForCausalLMLoss` since 4.46 pads labels instead (transformers/loss/loss_utils.py).
                _ if stack == "huggingface" && !whole && transformers(notes) >= Some((4, 46)) => 12,
                // The logits' maximum was subtracted into a copy until 9634c0e4 (2024-06-13), which is in 0.8.
                _ if core_before(notes, 8) => 10,
                // Where tensor ranks share logits, the eager loss of DTensor: log-softmax, its gradient, an exponential and their sum
                // in f32 (torch/distributed/tensor/parallel/loss.py, `_nll_loss_and_log_softmax_backward`).
                _ if tp > 1 && loss == 14 => 16,
                () => loss,
            },
            deferred_heads: match notes.contains("defer-embedding-wgrad-compute") {
                // 0 is no limit (megatron/core/model_parallel_config.py, `wgrad_deferral_limit`).
                true => flag(notes, "wgrad-deferral-limit").filter(|n| *n > 0).unwrap_or(u64::MAX),
                false => 0,
            },
            // `get_dummy_wgrad` (transformer_engine/pytorch/module/base.py, since April 2025), which the head uses since
            // August 2025 (megatron/core/tensor_parallel/layers.py).
            dummy_gradients: facts.transformer_engine
                && core_release(notes).is_some_and(|release| release >= 15)
                && !notes.contains("no-gradient-accumulation-fusion"),
            chunk_group: flag(notes, "microbatch-group-size-per-virtual-pipeline-stage").unwrap_or(0),
            autocast,
            // `softmax(attn_weights, dtype=torch.float32).to(query.dtype)` (models/llama/modeling_llama.py); GPT-2's softmax is f32 under
            // autocast alone, and has a dropout.
            score_bytes: match (facts.transformers, gated, autocast) {
                (true, true, _) => 6,
                (true, false, true) => 7,
                _ => 0,
            },
            composite_gelu: facts.transformers,
            upcast_norms: facts.upcast_norms && !compiled && !liger && !fused_norms && gated,
            wide_norms: facts.wide_norms,
            fleeting_gradients: facts.fleeting_gradients,
            update_in_backward: says(&["optimizer_in_bwd", "optimizer in backward", "optimizer-in-backward"]),
            selective_products: facts.selective_products,
            selective_scores: facts.selective_scores && given == Some(Recompute::Selective) && !feed_forward,
            selective_feed_forward: feed_forward,
            gathered_norms: facts.gathered_norms,
            copied_inputs: facts.copied_inputs,
            kept_gate: facts.kept_gate || (fused_norms && gated),
            // linkedin/Liger-Kernel src/liger_kernel/ops/swiglu.py, `swiglu_backward`.
            gate_in_place: liger && gated && !fused_norms,
            attention_copies: facts.attention_copies.map(|copies| copies + query_norms(notes)),
            // `repeat_kv` of transformers until 4.54 and of torchtitan, `expand` of torchtune and litgpt: PyTorch's own attention took no
            // groups until 2.5, and no unfused one does.
            repeated_keys: timed_as(stack) == "torch"
                && (unfused || row.text("attn_impl").is_some_and(|name| name.contains("sdpa")))
                && !(attention != Some(Attention::Unfused) && transformers(notes) >= Some((4, 54))),
            // A row without a policy ran with what fitted; whether it cached its weights is unknown too.
            quantised_copies: match facts.transformer_engine && precision == Precision::Fp8 && given.is_some()
            {
                true if notes.contains("disable_parameter_transpose_cache") => 1,
                true => 2,
                false => 0,
            },
            // DeepSpeed replaces PyTorch's linear, which saves the gathered weight, unless told not to
            // (deepspeed/runtime/zero/partition_parameters.py, `mem_efficient_linear`).
            held_weights: ["mem_efficient_linear=False", "memory_efficient_linear=False"]
                .iter()
                .any(|flag| notes.contains(flag)),
            host_states,
            // Megatron's scatter-gather (arXiv 2104.04473, section 4.1), DeepSpeed's `PartitionedTensor`, InternEvo's
            // `scatter_gather`: on in all of them where tensor-parallel ranks hold the same stream.
            scattered_sends: true,
            tensor_traffic: tensor_traffic(notes, facts.tensor_traffic),
            late_reduction: facts.late_reduction && !notes.contains("overlap-grad-reduce"),
            early_stop: facts.early_stop,
            redone: redone(notes, &facts),
        },
        hardware: card,
        cluster: Some(Cluster { nodes, gpus_per_node: per_node }),
        precision,
        determinism: Some(if notes.contains("deterministic-mode") {
            Determinism::Bitwise
        } else {
            Determinism::Fast
        }),
        ..Question::of(model)
    };
    let mut setting = setting(&q, Cluster { nodes, gpus_per_node: per_node }, sequences)
        .ok_or_else(|| format!("no profile for {name}"))?;
    setting.split = stages(notes, layers, pp);
    // Beside 8-bit products, what is held has the format that `--fp16` or `--bf16` names; a row that names none means bf16.
    let held = match precision {
        Precision::Fp8 if notes.contains("fp16") => Precision::Fp16,
        _ => precision,
    };
    if let Some(state) = state(stack, held) {
        setting.state = state;
    }
    let moments = notes::bend(&mut setting, stack, notes, zero, dp);
    if notes.contains("rowwise") {
        setting.profile.gemm.eta_fp8 *= ROWWISE;
    }
    // Megatron Core's segments are torn as those of the models before it until 0.8 (FlagPerf's runs of 0.6 against later ones).
    let early = stack == "megatron" && core_before(notes, 8);
    let growing = notes.contains("expandable_segments");
    let torn = (facts.torn_segments || early) && !growing;
    if torn {
        setting.state_slack = TORN;
    }
    if (hugging || stack == "litgpt") && !growing {
        setting.logit_slack = EAGER_SLACK.1;
    }
    if facts.global_communicators && gpus > 1 {
        setting.communicators = 1 + u64::from(tp * pp > 1);
    }
    if let Some(bytes) = facts.communicator_bytes.filter(|_| !early) {
        setting.profile.fixed.communicator_bytes = bytes;
    }
    if facts.contended {
        setting.profile.comm.contention = 0.1;
    }
    if facts.gapless {
        setting.profile.fixed.stack = 1.0;
    }
    if let Some(bytes) = facts.workspace(setting.hardware.peak_fp8.is_some()) {
        setting.profile.fixed.workspace_bytes = bytes;
    }
    if pp == 1 && zero >= 1 {
        setting.profile.fixed.workspace_bytes += facts.bucket_bytes;
    }
    // Lightning Thunder's data parallelism reduces in place (`compile=1` of litgpt's tables; torch.compile is PyTorch's).
    let thunder = compiled && notes.contains("thunder") && !notes.contains("torch.compile");
    if timed_as(stack) == "torch" && zero == 0 && dp > 1 && !thunder {
        // DistributedDataParallel's buckets are "equal to the total gradients size" where gradients are no views of them, as they
        // are not unless asked for (torch/nn/parallel/distributed.py, `gradient_as_bucket_view`).
        setting.profile.fixed.workspace_bytes +=
            (setting.state.gradient * setting.shape.params() as f64 / (tp * pp) as f64) as u64;
    }
    if attention == Some(Attention::Flash2) {
        setting.profile.attention.forward *= setting.profile.attention.flash2;
        setting.profile.attention.backward *= setting.profile.attention.flash2;
    }
    let point = Point {
        tp,
        pp,
        cp,
        vp: if pp > 1 { vp } else { 1 },
        dp,
        zero: if dp * cp > 1 { zero } else { 0 },
        shard: shard_group(sharding, dp, zero),
        micro,
        recompute: given.or(facts.recompute).unwrap_or(Recompute::None),
        offload: match () {
            _ if host_states || notes.contains("CPU-offloaded") => Offload::Optimizer,
            _ if says(&["activation offloading", "activations offloaded", "offloaded activations"]) => {
                Offload::Activations
            }
            () => Offload::None,
        },
        schedule: match (pp, vp) {
            (1, _) => Schedule::None,
            (_, 1) => Schedule::OneFOneB,
            _ => Schedule::Interleaved,
        },
        // A list of flags is complete; elsewhere the stack's habit decides.
        sp: tp > 1
            && if notes.contains("flags: ") {
                notes.contains("sequence-parallel")
            } else {
                facts.sequence_parallel
            },
    };
    let stated = given.or(facts.recompute).is_some();
    let point = if stated { point } else { least_recompute(&setting, point) };
    let step_tokens = (sequences * context) as f64 / gpus as f64;
    let seconds = match row.positive("iteration_ms")? {
        Some(ms) => Some(ms / 1e3),
        None => row.positive("tokens_per_s_per_gpu")?.map(|rate| step_tokens / rate),
    };
    if let Some(seconds) = seconds {
        let flops = setting.shape.flops_per_token() * step_tokens / seconds;
        let peak = match precision {
            Precision::Fp8 => setting.hardware.peak_fp8.unwrap_or(setting.hardware.peak_bf16),
            _ => setting.hardware.peak_bf16,
        };
        if flops > peak || (flops < IDLEST * peak && !memory_only) {
            return Err(format!(
                "{:.4} TFLOP/s a device where {name} reaches {:.0}: time, batch or shape is wrong",
                flops / 1e12,
                peak / 1e12
            ));
        }
    }
    let peak_bytes = row.positive("peak_mem_gib")?.map(|gib| gib * 1073741824.0);
    if peak_bytes.is_some_and(|bytes| bytes > 1.05 * setting.hardware.memory_bytes as f64) {
        let has = setting.hardware.memory_bytes as f64 / 1073741824.0;
        return Err(format!(
            "a peak of {} GiB where {name} has {has:.1}",
            row.text("peak_mem_gib").unwrap_or("")
        ));
    }
    // A byte a parameter, shared by all: less holds no model.
    let least = setting.shape.params() as f64 / gpus as f64;
    if point.offload == Offload::None && peak_bytes.is_some_and(|bytes| bytes < least) {
        return Err(format!(
            "a peak of {} GiB where {} parameters lie on {gpus} devices",
            row.text("peak_mem_gib").unwrap_or(""),
            setting.shape.params()
        ));
    }
    Ok(Case {
        id: row.text("id").unwrap_or_default().into(),
        source: source(row),
        remark: notes.into(),
        stack: timed_as(stack),
        setting,
        point,
        seconds,
        by_time: row.has("iteration_ms"),
        peak_bytes,
        memory_only,
        peak,
        late_moments: notes::first_step(notes).then_some(moments),
        // What the segments leave is counted by the states.
        slack: match growing {
            true => Some(GROWING_SLACK),
            false if torn => Some(0.0),
            false => facts.slack,
        },
    })
}

/// The least recomputation under which `point` fits, for rows that do not state theirs.
fn least_recompute(s: &Setting, point: Point) -> Point {
    let all = [Recompute::None, Recompute::Selective, Recompute::Full];
    let tries = all.map(|recompute| Point { recompute, ..point });
    let fits =
        |p: &&Point| (0..p.pp).all(|stage| stage_memory(s, p, stage).device <= s.hardware.memory_bytes);
    tries.iter().find(fits).copied().unwrap_or(point)
}

/// Ranks of a shard group as the tables write it: `zero1 group=8`, `fsdp8 x dp16`, else all of dp.
fn shard_group(text: &str, dp: u64, zero: u64) -> u64 {
    if zero == 0 {
        return 1;
    }
    let after = |key: &str| {
        let digits: String = text.split_once(key)?.1.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok().filter(|g| *g > 0 && dp.is_multiple_of(*g))
    };
    if text.contains(" x dp") { after("fsdp") } else { after("group=") }.unwrap_or(dp)
}
