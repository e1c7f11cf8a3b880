//! Which software a run table's row ran on, from the names it gives: it selects the profile and the facts below.

use llmc_plan::plan::{Precision, Recompute};

use crate::cost::StateBytes;
use crate::question::{Redone, TensorTraffic};

/// Stack of a row: what its `source` names, else its address, else its notes; where none names one, its layout tells:
/// fully sharded parameters point to PyTorch's FSDP, else tensor or pipeline ranks to Megatron.
pub fn stack(source: &str, address: &str, notes: &str, sharding: &str, ranks: u64) -> &'static str {
    // Later names are wider: the first that occurs wins.
    const NAMES: &[(&str, &str)] = &[
        ("foundry", "foundry"),
        ("mosaic", "foundry"),
        ("vtrain multi", "vtrain-multi"),
        ("vtrain", "vtrain-single"),
        ("internevo", "internevo"),
        ("internlm", "internevo"),
        ("bigscience", "bigscience"),
        // Megatron-Turing NLG: the same fork, half a year before.
        ("turing", "bigscience"),
        ("megatron-deepspeed", "neox"),
        ("neox", "neox"),
        ("jax", "jax"),
        ("maxtext", "jax"),
        ("paxml", "jax"),
        ("levanter", "jax"),
        ("llm.c", "native"),
        ("llmq", "native"),
        ("paddle", "paddle"),
        ("ml-engineering", "deepspeed"),
        ("llama-factory", "deepspeed"),
        ("axolotl", "deepspeed"),
        ("deepspeed", "deepspeed"),
        ("colossal", "colossal"),
        ("torchtitan", "torchtitan"),
        ("torchao", "torchtitan"),
        ("automodel", "automodel"),
        ("nemo", "nemo"),
        ("dgxc", "nemo"),
        ("megatron-bridge", "nemo"),
        ("megatron bridge", "nemo"),
        ("mlperf", "nemo"),
        ("megatron", "megatron"),
        ("megascale", "megatron"),
        ("flagscale", "megatron"),
        ("nanotron", "nanotron"),
        ("litgpt", "litgpt"),
        ("lit-gpt", "litgpt"),
        ("thunder", "litgpt"),
        ("fms-acceleration", "trainer"),
        ("hugging face trainer", "trainer"),
        ("hf trainer", "trainer"),
        ("sfttrainer", "trainer"),
        ("fms-fsdp", "fms"),
        // Trainers of others' models and engines: openrlhf/utils/deepspeed; `transformers` in what the next five import.
        ("openrlhf", "deepspeed"),
        ("prime-rl", "huggingface"),
        ("llama-recipes", "huggingface"),
        ("llama-cookbook", "huggingface"),
        ("unsloth", "huggingface"),
        ("galore", "huggingface"),
        ("hugging", "huggingface"),
        ("transformers", "huggingface"),
        ("torch", "torch"),
        ("fsdp", "torch"),
        ("olmo", "torch"),
        ("accelerate", "torch"),
        ("tinyllama", "torch"),
        ("lightning", "torch"),
        ("flash-attention", "torch"),
    ];
    let [source, address, notes] = [source, address, notes].map(str::to_lowercase);
    // A collection of several runtimes says in the notes which; so does a run of Megatron-LM before its core's models.
    let says = |names: &[&str]| names.iter().any(|name| notes.contains(name));
    if says(&["maxtext", "paxml"]) {
        return "jax";
    }
    if says(&["megatron-lm of april 2021", "megatron-lm of 2021", "megatron-lm of 2020"]) {
        return "megatron-2021";
    }
    if says(&["flagscale", "before megatron core", "megatron-lm of 2023"]) {
        return "megatron-legacy";
    }
    let named = |text: &str| NAMES.iter().find(|(name, _)| text.contains(name)).map(|(_, stack)| *stack);
    let layout = if sharding.to_lowercase().contains("fsdp") || ranks <= 1 { "torch" } else { "megatron" };
    named(&source).or_else(|| named(&address)).or_else(|| named(&notes)).unwrap_or(layout)
}

/// The stack whose fitted profile times `stack`: torchtitan and nanotron hold other things than PyTorch's other trainers, but
/// run the same kernels; Megatron's descendants run Megatron's.
pub fn timed_as(stack: &'static str) -> &'static str {
    match stack {
        "torchtitan" | "nanotron" | "litgpt" | "huggingface" | "trainer" | "automodel" | "colossal"
        | "fms" => "torch",
        "neox" | "paddle" | "megatron-legacy" | "megatron-2021" => "megatron",
        other => other,
    }
}

/// The stack whose profile times one that has none: Megatron-LM's layers are Transformer Engine's, as NeMo's are.
pub fn kin(stack: &str) -> Option<&'static str> {
    (stack == "megatron").then_some("nemo")
}

/// What a stack does that its run tables do not say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Facts {
    /// Tensor-parallel ranks split norms and residuals too.
    pub sequence_parallel: bool,
    /// No fused attention.
    pub unfused_attention: bool,
    /// Gradients are reduced after the last backward, not beside it, unless the row's flags say so.
    pub late_reduction: bool,
    /// What runs beside tensor-parallel collectives.
    pub tensor_traffic: TensorTraffic,
    /// Recomputation stops before a block's last product.
    pub early_stop: bool,
    /// Kernels so long that no gaps lie between them.
    pub gapless: bool,
    /// Pipelines on one machine delay each other.
    pub contended: bool,
    /// What a row without a recompute policy did; `None`: the least that fits.
    pub recompute: Option<Recompute>,
    /// Dropout where the feed-forward is GPT's.
    pub dropout: f64,
    /// Bytes a logit takes while an eager loss is computed, and a compiled one.
    pub logit_bytes: [u64; 2],
    /// PyTorch eager unless the row says that it is compiled.
    pub eager: bool,
    /// Norms run in PyTorch eager keep f32 copies.
    pub upcast_norms: bool,
    /// Norms of LLaMA's kind multiply by their weight before they round.
    pub wide_norms: bool,
    /// Layers are Hugging Face's: unfused attention of LLaMA's keeps its softmax in f32 and in 16 bits, GPT-2's GELU is no one function.
    pub transformers: bool,
    /// Gradients come with the backward pass and go with the update.
    pub fleeting_gradients: bool,
    /// Norms and SwiGLU are fused though nothing is compiled.
    pub fused_layers: bool,
    /// What a peak is where the notes do not say: tensors, not what the allocator holds.
    pub counts_tensors: bool,
    /// "Selective" keeps every second product.
    pub selective_products: bool,
    /// "Selective" repeats attention's scores alone.
    pub selective_scores: bool,
    /// Gathered outputs of norms are kept for the backward pass.
    pub gathered_norms: bool,
    /// Each column-parallel product keeps its own copy of its input.
    pub copied_inputs: bool,
    /// SwiGLU keeps the activation of its gate too.
    pub kept_gate: bool,
    /// Kept copies of attention's tensors, of the queries' and of the keys' width.
    pub attention_copies: [u64; 2],
    /// Segments of PyTorch's allocator do not grow (nor Paddle's).
    pub torn_segments: bool,
    /// What the allocator reserves beside what is allocated, as a share of it; `None`: the profile's.
    pub slack: Option<f64>,
    /// What "selective" repeats, unless a row names its policy.
    pub redone: Redone,
    /// Transformer Engine's GEMM workspace is the only large one.
    pub transformer_engine: bool,
    /// Device bytes of ZeRO's buckets where no pipeline runs.
    pub bucket_bytes: u64,
    /// All devices have a communicator (barriers), and so have the ranks of one model (its gradients' norm).
    pub global_communicators: bool,
    /// Device bytes of one communicator; `None`: the profile's.
    pub communicator_bytes: Option<u64>,
}

impl Facts {
    /// Library workspaces in bytes; `None`: the profile's. Transformer Engine allocates 32 MiB on Hopper and later, 4
    /// MiB before (its `get_cublas_workspace_size_bytes`); another 40 MiB are alive between steps of Megatron's own
    /// continuous-integration runs (memory_megatron_ci.csv, end of step less states).
    pub fn workspace(&self, hopper: bool) -> Option<u64> {
        self.transformer_engine.then_some((40 + if hopper { 32 } else { 4 }) << 20)
    }
}

/// What the allocator reserves beyond what is allocated, as a share of parameters, gradients and optimizer states, where
/// its segments do not grow: the first step's activations come and go before the moments are made, which then lie in their
/// segments, so that the next step's need others (PyTorch's CUDACachingAllocator without `expandable_segments`; Paddle's is
/// of the same kind).
///
/// One number: least squares over 73 published peaks of nvidia-smi of Megatron-LM, Paddle and BigScience (2026-11-30; alone
/// they say 0.25, 0.29 and 0.27). Of activations next to nothing is left over: 0.04 of them beside 0.25 of the states. nanotron's
/// logs give what is allocated and what is reserved: 0.2 of the states in the middle of 23.
pub const TORN: f64 = 0.27;

/// What is reserved beside what is allocated under Megatron Core, whose gradients lie in one buffer a process group: 15 peaks of
/// a tutorial on H100 and an artifact on A100 say 0.08 of all of it (least mean error, 2026-11-30); Mist measured 0.08 to 0.095
/// of a GPT of 1.3B (its README, steps 2.3 to 2.5).
pub const CORE_SLACK: f64 = 0.08;

/// The same where segments grow (`PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True`): 0.0080 and 0.0096 in the two logs of a guide
/// to Megatron-LM (fixstars/mdk, 2024).
pub const GROWING_SLACK: f64 = 0.01;

/// What PyTorch's allocator reserves beside what is allocated under Hugging Face's and litgpt's models, whose segments do not grow
/// unless asked for: a share of all, and where layers are recomputed one of the lesser of states and logits. The first update
/// makes the moments in the blocks that logits have left, and nothing else is so large; the next step's logits need others.
///
/// Two numbers over 39 runs of transformers 5.17 under torch 2.11 on one H200, least mean error (2026-12-01): 2.9 % on average
/// where a share of all alone leaves 4.7 %. Litgpt's twelve came after.
pub const EAGER_SLACK: (f64, f64) = (0.05, 0.9);

/// Device bytes of a communicator between tensor-parallel ranks and of those of a whole job, in nvidia-smi's figures of
/// BigScience's 50 logged runs. Megatron-LM's on H100 need 0.75 GiB each.
pub const COMMUNICATOR: u64 = 966367642;

/// Facts of a stack, each with its source.
pub fn facts(stack: &str) -> Facts {
    let plain = Facts {
        sequence_parallel: true,
        unfused_attention: false,
        late_reduction: false,
        tensor_traffic: TensorTraffic::Beside,
        early_stop: false,
        gapless: false,
        contended: false,
        recompute: None,
        dropout: 0.0,
        // A copy in f32 beside the 16-bit logits; softmax and gradient overwrite it.
        logit_bytes: [6, 6],
        eager: false,
        upcast_norms: false,
        wide_norms: false,
        transformers: false,
        fleeting_gradients: false,
        fused_layers: false,
        counts_tensors: false,
        selective_products: false,
        selective_scores: false,
        gathered_norms: false,
        copied_inputs: false,
        kept_gate: false,
        attention_copies: [0, 0],
        torn_segments: false,
        slack: None,
        redone: Redone::Pointwise,
        transformer_engine: false,
        bucket_bytes: 0,
        global_communicators: false,
        communicator_bytes: None,
    };
    match stack {
        // `tp_comm_overlap`, `overlap_grad_reduce` and `overlap_param_gather` are on in its performance recipes
        // (Megatron-Bridge scripts/performance, NeMo-Framework-Launcher conf/training).
        "nemo" => Facts {
            dropout: 0.1,
            transformer_engine: true,
            tensor_traffic: TensorTraffic::Pipelined,
            // "no peak-memory win" of `core_attn` (NVIDIA-NeMo/Megatron-Bridge pull request 3880).
            selective_scores: true,
            // Transformer Engine's cross entropy writes the gradient over the 16-bit logits (its triton/cross_entropy.py until
            // July 2026; `cross_entropy_fusion_impl = "te"`, Megatron-Bridge scripts/performance/utils/overrides.py).
            logit_bytes: [2, 2],
            slack: Some(CORE_SLACK),
            ..plain
        },
        // `--hidden-dropout` is 0.1, `--tp-comm-overlap`, `--overlap-grad-reduce` and `--overlap-param-gather` are off
        // unless given (megatron/training/arguments.py).
        "megatron" => Facts {
            dropout: 0.1,
            transformer_engine: true,
            late_reduction: true,
            // `checkpoint_core_attention` (megatron/core/transformer/attention.py).
            selective_scores: true,
            slack: Some(CORE_SLACK),
            communicator_bytes: Some(COMMUNICATOR),
            // megatron/core/parallel_state.py: the default group and `get_model_parallel_group`.
            global_communicators: true,
            ..plain
        },
        // Its models before Megatron Core, 2023: attention's output is laid out anew after FlashAttention, SwiGLU is no fused
        // function (tools/get_training_info/README.md of NVIDIA/Megatron-LM pull request 482 lists what a layer keeps).
        "megatron-legacy" => Facts {
            dropout: 0.1,
            late_reduction: true,
            selective_scores: true,
            torn_segments: true,
            global_communicators: true,
            attention_copies: [1, 0],
            kept_gate: true,
            logit_bytes: [10, 10],
            ..plain
        },
        // Before sequence parallelism and flash attention.
        "megatron-2021" => Facts {
            sequence_parallel: false,
            unfused_attention: true,
            dropout: 0.1,
            late_reduction: true,
            tensor_traffic: TensorTraffic::Alone,
            torn_segments: true,
            global_communicators: true,
            logit_bytes: [10, 10],
            ..plain
        },
        // huggingface/nanotron src/nanotron/models/llama.py, 2024: SwiGLU is no fused function, keys and values are stacked
        // before FlashAttention and its output laid out anew; gathered inputs of column-parallel products stay for the
        // backward pass (pull request 203). Of a logit live its f32 copy and the softmax (nn/functional.py,
        // `sharded_cross_entropy`).
        // Its steps are PyTorch's, eager but for Triton's norms and flash-attention's rotation; gradients are reduced beside the last
        // backward pass (parallel/data_parallel/utils.py), column-parallel products gather beside their gradients
        // (`tp_linear_async_communication`, parallel/tensor_parallel).
        "nanotron" => Facts {
            eager: true,
            gathered_norms: true,
            attention_copies: [1, 2],
            kept_gate: true,
            logit_bytes: [8, 8],
            torn_segments: true,
            ..plain
        },
        // DeepSpeed's ZeRO under Megatron's layers: no sequence parallelism (EleutherAI/gpt-neox, megatron/mpu).
        "neox" => Facts {
            sequence_parallel: false,
            late_reduction: true,
            selective_scores: true,
            torn_segments: true,
            attention_copies: [1, 0],
            kept_gate: true,
            logit_bytes: [10, 10],
            ..plain
        },
        // PaddleNLP: `sequence_parallel` and `mp_async_allreduce` are off unless given (paddlenlp/trainer/training_args.py).
        "paddle" => Facts {
            sequence_parallel: false,
            selective_scores: true,
            torn_segments: true,
            kept_gate: true,
            // "Return a copy of the tensor" (python/paddle/distributed/fleet/layers/mpu/mp_ops.py, `_c_identity`).
            copied_inputs: true,
            logit_bytes: [10, 10],
            tensor_traffic: TensorTraffic::Alone,
            late_reduction: true,
            ..plain
        },
        // The compiler cuts collectives up and runs them beside products (XLA's latency-hiding scheduler).
        "jax" => Facts { tensor_traffic: TensorTraffic::Pipelined, ..plain },
        // Megatron of 2021 and 2022, before sequence parallelism (arXiv 2205.05198) and flash attention. Its multi-node
        // runs hold no activations but layer inputs: at 3.6B, micro-batch 32, tp 4 the scores alone would take 258 GB.
        "vtrain-multi" => Facts {
            sequence_parallel: false,
            unfused_attention: true,
            late_reduction: true,
            tensor_traffic: TensorTraffic::Alone,
            // Micro-batches of at least 4,096 tokens at widths of 3,072 and more.
            gapless: true,
            // 39B models on 512 devices: 16 % slow at tp 4, dp 32 (two replicas a machine), 28 % at tp 2, dp 16 and 56 %
            // at tp 2, dp 32 (four), none at tp 8 (one) nor where dp is 8 or less. One number predicts each of the three
            // rows within 4 % from the other two.
            contended: true,
            recompute: Some(Recompute::Full),
            dropout: 0.1,
            ..plain
        },
        "vtrain-single" => Facts {
            sequence_parallel: false,
            unfused_attention: true,
            late_reduction: true,
            tensor_traffic: TensorTraffic::Alone,
            recompute: Some(Recompute::None),
            dropout: 0.1,
            ..plain
        },
        // Megatron-DeepSpeed forked at the same time. nvidia-smi of its 50 logged runs needs 0.9 GiB a communicator
        // and no copy of the logits beside them.
        "bigscience" => Facts {
            sequence_parallel: false,
            unfused_attention: true,
            // `_exec_reduce_grads` follows the last micro-batch (deepspeed/runtime/pipe/engine.py).
            late_reduction: true,
            tensor_traffic: TensorTraffic::Alone,
            logit_bytes: [2, 2],
            torn_segments: true,
            // Buckets to reduce and to gather, 5e8 elements of 16 bits, both twice (DeepSpeed's `reduce_bucket_size`,
            // `allgather_bucket_size`): the three logged runs without a pipeline need 4 to 5.6 GiB more than those with.
            bucket_bytes: 4_000_000_000,
            communicator_bytes: Some(COMMUNICATOR),
            ..plain
        },
        // InternEvo's "mtp" mode is plain tensor parallelism.
        "internevo" => Facts { sequence_parallel: false, eager: true, ..plain },
        // `cross_entropy(pred.float(), …)` (torchtitan/components/loss.py): logits in 16 bits, f32 copy, log-softmax and
        // gradient; compiled, the 16-bit logits and their gradient. Per-operator checkpointing.
        "torchtitan" => Facts {
            tensor_traffic: TensorTraffic::Alone,
            early_stop: true,
            logit_bytes: [14, 4],
            upcast_norms: true,
            fleeting_gradients: true,
            selective_products: true,
            redone: Redone::Products,
            recompute: Some(Recompute::Selective),
            ..plain
        },
        // The loss of most trainers is over f32 logits (torchtune/modules/loss; autocast's list of f32 operations): 16-bit logits,
        // log-softmax, and the gradients of both. Checkpoints that are not reentrant stop early (torch/utils/checkpoint.py,
        // `set_checkpoint_early_stop`).
        "torch" => Facts {
            tensor_traffic: TensorTraffic::Alone,
            early_stop: true,
            upcast_norms: true,
            fleeting_gradients: true,
            logit_bytes: [14, 14],
            ..plain
        },
        // Cross entropy over 16-bit logits: these, log-softmax and two gradients. Values are a view of one product of queries, keys and
        // values, which therefore lives beside the rotated queries and keys (litgpt/model.py, `CausalSelfAttention`).
        // benchmark_litgpt.py of lightning-thunder and litgpt's trainers print `max_memory_allocated`.
        "litgpt" => Facts {
            logit_bytes: [8, 8],
            attention_copies: [1, 1],
            counts_tensors: true,
            // `(x_normed * weight.float()).to(dtype=dtype)` (litgpt/model.py, `RMSNorm`).
            wide_norms: true,
            slack: Some(EAGER_SLACK.0),
            ..facts("torch")
        },
        // transformers/models/llama/modeling_llama.py until 4.45: f32 logits are an output and live on beside log-softmax and the
        // gradients of both. Compiled, five runs of our own say 6 (2026-12-01, H200).
        "huggingface" => Facts {
            logit_bytes: [16, 6],
            eager: true,
            transformers: true,
            slack: Some(EAGER_SLACK.0),
            ..facts("torch")
        },
        // Its Trainer lets a model's outputs go before the backward pass (transformers/trainer.py, `compute_loss` returns the loss alone):
        // log-softmax and two gradients are left.
        "trainer" => Facts { logit_bytes: [12, 6], ..facts("huggingface") },
        // "Selective" recomputes a share of whole blocks (fms_fsdp/policies/ac_handler.py); logits and loss are in 16 bits.
        "fms" => Facts { logit_bytes: [8, 8], redone: Redone::Layers, ..facts("torch") },
        "automodel" => Facts { fused_layers: true, ..facts("torch") },
        // Hugging Face's models. Colossal-AI's low-level ZeRO has the states of DeepSpeed's.
        "deepspeed" => {
            Facts { logit_bytes: [16, 16], eager: true, upcast_norms: true, transformers: true, ..plain }
        }
        "colossal" => Facts { fleeting_gradients: true, ..facts("deepspeed") },
        _ => plain,
    }
}

/// Bytes a parameter that a stack holds, where they are not Megatron's 2 + 4 + 12.
pub fn state(stack: &str, precision: Precision) -> Option<StateBytes> {
    let of = |weight, gradient, reduced, optimizer| {
        Some(StateBytes { weight, gradient, narrower: 0.0, reduced, optimizer, paged: 0.0, scratch: 0.0 })
    };
    match (stack, precision) {
        (_, Precision::F32) => None,
        // fp16 gradients, all-reduced as such (`accumulate_allreduce_grads_in_fp32` is off unless asked for; the
        // multi-node runs fit better with it on).
        ("vtrain-single", _) => of(2.0, 2.0, 2.0, 12.0),
        // fp16 gradients stay as they are (`accumulate_allreduce_grads_in_fp32` is implied by bf16 alone,
        // megatron/training/arguments.py); the update makes f32 copies (megatron/core/optimizer, `main_param.grad`) that are
        // freed before the next step.
        ("megatron" | "megatron-legacy", Precision::Fp16) => {
            of(2.0, 2.0, 2.0, 12.0).map(|bytes| StateBytes { scratch: 4.0, ..bytes })
        }
        // In 2021 they were kept (`zero_grad` of `Float16OptimizerWithFloat16Params` clears the model's gradients alone) and
        // fp16 gradients flattened to be reduced, over one rank too (megatron/model/distributed.py).
        ("megatron-2021", Precision::Fp16) => {
            of(2.0, 2.0, 2.0, 16.0).map(|bytes| StateBytes { scratch: 2.0, ..bytes })
        }
        // DeepSpeed's ZeRO-1 copies its part of the fp16 gradients to f32; its BF16_Optimizer accumulates in f32 beside
        // 16-bit gradients on every rank (deepspeed/runtime/bf16_optimizer.py).
        ("bigscience", Precision::Fp16) => of(2.0, 2.0, 2.0, 16.0),
        ("bigscience", _) => of(2.0, 6.0, 4.0, 16.0),
        // `grad_sync_dtype: bf16` (NeMo-Framework-Launcher conf/training, gpu-recipes src/frameworks), `grad_reduce_in_fp32`
        // off (Megatron-Bridge src/megatron/bridge/training/mixed_precision.py): the buffer has the format of the reduction.
        // In bf16 a master copy is the weight and 16 bits more (`use_precision_aware_optimizer`, same file, and
        // `store_param_remainders`, megatron/core/optimizer/optimizer_config.py; so was apex's distributed Adam before).
        ("nemo", Precision::Bf16) => of(2.0, 2.0, 2.0, 10.0),
        ("nemo", _) => of(2.0, 2.0, 2.0, 12.0),
        // HybridZeroOptimizer reduces gradients as they are. For its step it lays them out flat, in 16 bits and then in f32
        // (internlm/solver/optimizer/hybrid_zero_optim.py, `flat_fp16_avg_grads`), and PyTorch's AdamW, not fused, makes a root
        // and a quotient as long as the weights.
        ("internevo", _) => {
            of(2.0, 2.0, 2.0, 12.0).map(|bytes| StateBytes { scratch: 2.0 + 4.0 + 2.0 * 4.0, ..bytes })
        }
        // Gradients stay 16 bits wide until the update reads them (deepspeed/runtime/zero/stage3.py, `averaged_gradients`).
        ("deepspeed", _) => of(2.0, 2.0, 4.0, 12.0),
        ("colossal", _) => of(2.0, 2.0, 2.0, 12.0),
        // Level O2 keeps 16-bit gradients; master weights and moments are AdamW's (paddle.amp.decorate, `master_weight`).
        ("paddle", _) => of(2.0, 2.0, 2.0, 12.0),
        // `MixedPrecision` of bf16 throughout, gradients on their way too (accelerate/utils/dataclasses.py, `set_mixed_precision`).
        ("trainer", _) => of(2.0, 4.0, 2.0, 10.0),
        // FSDP shards the f32 weights themselves; a gathered unit is in 16 bits.
        ("torchtitan" | "torch" | "litgpt" | "huggingface" | "automodel" | "fms", _) => {
            of(2.0, 4.0, 4.0, 10.0)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_layouts_select_a_stack() {
        assert_eq!(stack("dgxc-benchmarking", "", "v24.11.1; MaxText; step", "", 1), "jax");
        assert_eq!(stack("dgxc-benchmarking", "", "v24.11.1; NeMo", "", 8), "nemo");
        assert_eq!(stack("NeMo Automodel docs", "", "", "", 1), "automodel");
        assert_eq!(stack("somebody's blog", "NVIDIA/Megatron-LM@abc:README.md", "", "fsdp", 1), "megatron");
        assert_eq!(stack("Megatron-Turing NLG", "", "", "", 8), "bigscience");
        assert_eq!(stack("somebody's blog", "", "PaddlePaddle 2.5", "", 2), "paddle");
        assert_eq!(stack("somebody's blog", "huggingface/nanotron@abc:README.md", "", "", 8), "nanotron");
        assert_eq!(stack("somebody's blog", "", "", "", 8), "megatron");
        assert_eq!(stack("somebody's blog", "", "", "fsdp2-full (8)", 4), "torch");
        assert_eq!(stack("somebody's blog", "", "", "", 1), "torch");
    }
}
