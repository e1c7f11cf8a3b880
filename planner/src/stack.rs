//! Which software a run table's row ran on, from the names it gives: it selects the profile and nothing else.

/// Stack of a row, from its `source` and `notes` and, where neither names one, from its layout: tensor or pipeline
/// ranks point to Megatron, fully sharded parameters to PyTorch's FSDP.
pub fn stack(source: &str, notes: &str, ranks: u64) -> &'static str {
    // Later names are wider: the first that occurs wins.
    const NAMES: &[(&str, &str)] = &[
        ("foundry", "foundry"),
        ("mosaic", "foundry"),
        ("vtrain multi", "vtrain-multi"),
        ("vtrain", "vtrain-single"),
        ("internevo", "internevo"),
        ("internlm", "internevo"),
        ("bigscience", "bigscience"),
        ("megatron-deepspeed", "bigscience"),
        ("neox", "bigscience"),
        ("jax", "jax"),
        ("maxtext", "jax"),
        ("paxml", "jax"),
        ("levanter", "jax"),
        ("llm.c", "native"),
        ("llmq", "native"),
        ("ml-engineering", "deepspeed"),
        ("deepspeed", "deepspeed"),
        ("automodel", "torch"),
        ("torch", "torch"),
        ("fsdp", "torch"),
        ("litgpt", "torch"),
        ("lightning", "torch"),
        ("flash-attention", "torch"),
        ("nemo", "megatron"),
        ("megatron", "megatron"),
        ("dgxc", "megatron"),
        ("nanotron", "megatron"),
    ];
    // The notes only name a runtime where the source is a collection of several.
    let source = source.to_lowercase();
    let notes = notes.to_lowercase();
    let runtime = ["maxtext", "paxml"].iter().any(|name| notes.contains(name));
    if runtime {
        return "jax";
    }
    match NAMES.iter().find(|(name, _)| source.contains(name)) {
        Some((_, stack)) => stack,
        None if ranks > 1 => "megatron",
        None => "torch",
    }
}

/// What a stack does that its run tables do not say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Facts {
    /// Tensor-parallel ranks split norms and residuals too.
    pub sequence_parallel: bool,
    /// Bytes a parameter that bf16 training holds beside weights, f32 gradients and optimizer state.
    pub bf16_gradient_extra: f64,
    /// No fused attention.
    pub unfused_attention: bool,
    /// Transformer Engine's GEMM workspace is the only large one.
    pub transformer_engine: bool,
}

impl Facts {
    /// Library workspaces in bytes; `None`: the profile's. Transformer Engine allocates 32 MiB on Hopper and later, 4
    /// MiB before (its `get_cublas_workspace_size_bytes`); another 40 MiB are alive between steps of Megatron's own
    /// continuous-integration runs (memory_megatron_ci.csv, end of step less states).
    pub fn workspace(&self, hopper: bool) -> Option<u64> {
        self.transformer_engine.then_some((40 + if hopper { 32 } else { 4 }) << 20)
    }
}

/// Facts of a stack, each with its source.
pub fn facts(stack: &str) -> Facts {
    Facts {
        // Megatron-DeepSpeed forked before arXiv 2205.05198; InternEvo's "mtp" mode is plain tensor parallelism.
        sequence_parallel: !["bigscience", "internevo", "vtrain-single", "vtrain-multi"].contains(&stack),
        // DeepSpeed's BF16_Optimizer keeps 16-bit gradients and a flat copy beside its f32 accumulators: the bf16 rows
        // of the BLOOM logs exceed their fp16 twins by 23 GiB at 4.1e9 parameters a rank.
        bf16_gradient_extra: if stack == "bigscience" { 5.6 } else { 0.0 },
        // Megatron of 2021 and 2022 predates flash attention.
        unfused_attention: ["bigscience", "vtrain-single", "vtrain-multi"].contains(&stack),
        transformer_engine: stack == "megatron",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_layouts_select_a_stack() {
        assert_eq!(stack("dgxc-benchmarking", "v24.11.1; MaxText; step", 1), "jax");
        assert_eq!(stack("dgxc-benchmarking", "v24.11.1; NeMo", 8), "megatron");
        assert_eq!(stack("NeMo Automodel docs", "", 1), "torch");
        assert_eq!(stack("somebody's blog", "", 8), "megatron");
        assert_eq!(stack("somebody's blog", "", 1), "torch");
    }
}
