//! What a run table's row says in its notes and flags beyond its cells: recomputation, overlap, networks, stages, optimizers,
//! what its peak means. Which software they are of: [`crate::stack`].

use llmc_plan::plan::Precision;

use crate::cost::{Setting, StateBytes};
use crate::question::{Redone, TensorTraffic};
use crate::stack::Facts;
use crate::table::Peak;

/// Whether any of `flags` occurs.
pub(crate) fn says(notes: &str, flags: &[&str]) -> bool {
    flags.iter().any(|flag| notes.contains(flag))
}

/// Changes the bytes of states to what the notes say of formats and optimizers, and to what an update on `dp` ranks works through.
/// Gives the moments' bytes a parameter.
pub(crate) fn bend(setting: &mut Setting, stack: &str, notes: &str, zero: u64, dp: u64) -> f64 {
    let params = setting.shape.params() as f64;
    let state = &mut setting.state;
    if pure(notes) {
        let reduced = if notes.contains("reduced in f32") { 4.0 } else { 2.0 };
        let of = StateBytes { weight: 2.0, gradient: 2.0, reduced, optimizer: 4.0, ..*state };
        *state = of;
        if stack == "deepspeed" {
            // Its masters are a copy also in 16 bits (`bf16_master_weights_and_grads`).
            state.optimizer += 2.0;
        }
    }
    let mut moments = if state.optimizer < 8.0 { 4.0 } else { 8.0 };
    if says(notes, &["paged 8-bit", "PagedAdamW", "paged AdamW", "paged_adamw"]) {
        // bitsandbytes pages moments in memory of CUDA's that PyTorch does not count (`get_paged`, cudaMallocManaged).
        state.optimizer -= moments;
        moments = 0.0;
    } else if says(notes, &["8-bit AdamW", "8-bit Adam", "AdamW8bit", "adamw_8bit", "adamw_bnb_8bit"]) {
        // Two bytes, and an f32 scale a block of 256 (arXiv 2110.02861).
        let bytes = 2.0 * (1.0 + 4.0 / 256.0);
        state.optimizer -= moments - bytes;
        moments = bytes;
    }
    // What an update makes of a rank's gradients; of PyTorch's AdamW that is not fused, the root of its second moments
    // (torch/optim/adam.py, `_multi_tensor_adam`).
    match (stack, zero) {
        _ if notes.contains("CPU-offloaded") => {}
        // A sub-group of 1e9 elements in f32 (deepspeed/runtime/zero/stage3.py, `_prepare_fp32_grad_for_sub_group`).
        ("deepspeed", 3) if dp > 1 => {
            let share = params / dp as f64;
            state.scratch = state.optimizer / 3.0 * (1e9 / share).min(1.0);
        }
        // Flat in 16 bits and again in the masters' format (deepspeed/runtime/zero/stage_1_and_2.py, `step`).
        ("deepspeed", 1 | 2) if dp > 1 => state.scratch = 2.0 + state.optimizer / 3.0,
        // In the masters' format (colossalai/zero/low_level/low_level_optim.py, `step`).
        ("colossal", _) if dp > 1 => state.scratch = state.optimizer / 3.0,
        ("huggingface" | "trainer", _)
            if says(notes, &["AdamW fused", "fused AdamW", "adamw_torch_fused"]) => {}
        ("huggingface" | "trainer", _) => state.scratch = moments / 2.0,
        _ => {}
    }
    if says(notes, &["bf16 gradients", "grad_accum_dtype=bf16", "grad_reduce_in_fp32=False"]) {
        state.gradient = 2.0;
    }
    if notes.contains("grad_reduce_in_fp32=True") {
        (state.gradient, state.reduced) = (4.0, 4.0);
    }
    if stack == "nemo" && (notes.contains("use_precision_aware_optimizer=False") || early_nemo(notes)) {
        state.optimizer = 12.0;
    }
    if notes.contains("mixed_precision=PURE") {
        // Composer's `get_mixed_precision`: "PURE" reduces in the precision of the products, "DEFAULT" in f32.
        state.reduced = 2.0;
    }
    // Megatron's flags are written with hyphens, NeMo's fields with underscores.
    let flags = notes.replace('_', "-");
    for moment in ["exp-avg-dtype", "exp-avg-sq-dtype"] {
        if ["=bf16", "=fp16"].iter().any(|format| flags.contains(&format!("{moment}{format}"))) {
            state.optimizer -= 2.0;
            moments -= 2.0;
        }
    }
    // A master copy is the weight and 16 bits more, where products are not in 8 bits (`store_param_remainders` and
    // `use_precision_aware_optimizer_no_fp8_or_ds_fp8`, megatron/core/optimizer/optimizer_config.py); NeMo's always is.
    let aware = flags.contains("use-precision-aware-optimizer") && !flags.contains("aware-optimizer=False");
    if stack == "megatron" && aware && setting.precision == Precision::Bf16 {
        state.optimizer -= 2.0;
    }
    moments
}

/// The peak was read when the first step was done.
pub(crate) fn first_step(notes: &str) -> bool {
    let words =
        ["after 1 iteration", "after iteration 1,", "after the first iteration", "after the first step"];
    says(notes, &words)
}

/// Norms of queries and keys keep their inputs beside what attention keeps (Megatron's `--qk-layernorm`; Qwen3's and OLMo 2's models
/// have them always).
pub(crate) fn query_norms(notes: &str) -> u64 {
    let notes = notes.to_lowercase().replace(['_', ' '], "-");
    u64::from(
        says(&notes, &["qk-layernorm", "qk-norm"])
            && !says(&notes, &["qk-layernorm=false", "qk-norm=false", "no-qk-norm"]),
    )
}

/// What a row's peak is of, as its notes say.
pub(crate) fn peak(notes: &str, facts: &Facts) -> Peak {
    let says = |words: &[&str]| says(notes, words);
    match () {
        _ if notes.contains("allocated_bytes") => Peak::LastAllocated,
        _ if says(&[
            "ACTIVE",
            "max_allocated",
            "max allocated",
            "max_memory_allocated",
            "peak allocated",
        ]) =>
        {
            Peak::Allocated
        }
        // What programs that ask the driver print.
        _ if says(&["nvidia-smi", "gpustat", "nvtop", "nvitop", "device memory used"]) => Peak::Device,
        _ if says(&["max_memory_reserved", "max_reserved", "max reserved"]) => Peak::Reserved,
        _ if facts.counts_tensors => Peak::Allocated,
        _ => Peak::Reserved,
    }
}

/// Megatron-LM's flag for a fused cross entropy, unless Transformer Engine's is asked for.
pub(crate) fn native_fusion(notes: &str) -> bool {
    notes.contains("cross-entropy-loss-fusion") && !notes.contains("cross-entropy-fusion-impl=te")
        || notes.contains("cross_entropy_fusion_impl=native")
}

/// `name=5`, where the notes tell it.
pub(crate) fn flag(notes: &str, name: &str) -> Option<u64> {
    let rest = notes.split_once(name)?.1.trim_start_matches(['=', ' ', ':']);
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

/// Width of a head, where the notes tell it: some models' heads are not as wide together as the model (Qwen3).
pub(crate) fn head_dim(notes: &str) -> Option<u64> {
    ["head size", "head_dim"]
        .iter()
        .find_map(|name| flag(notes, name))
        .filter(|width| (8..=1024).contains(width))
}

/// Release of Megatron Core that the notes name, 6 of `core_v0.6.0`, `core_r0.6.0` and `core 0.6`.
pub(crate) fn core_release(notes: &str) -> Option<u64> {
    let rest = ["core_v0.", "core_r0.", "core 0."].iter().find_map(|name| notes.split_once(name))?.1;
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

/// The notes name a release of Megatron Core before 0.`minor`.
pub(crate) fn core_before(notes: &str, minor: u64) -> bool {
    core_release(notes).is_some_and(|release| release < minor)
}

/// The notes name a release of NeMo's container before 25.04, or of dgxc-benchmarking's recipes of the time (`v25.04.01` runs 25.02).
///
/// Its loss is Megatron's fusion, its optimizer keeps f32 master copies: of 8.03B parameters on 8 ranks and 7.81B on 32 its logs hold
/// 5.5 and 4.4 bytes each (NVIDIA/dgxc-benchmarking@85380ffe:llama3.1/README.md, nemotron/README.md; later scripts set
/// `cross_entropy_fusion_impl = "te"` and `use_precision_aware_optimizer`, NVIDIA/NeMo scripts/performance/helpers.py).
pub(crate) fn early_nemo(notes: &str) -> bool {
    let release = |rest: &str| {
        let (year, month) = rest.get(..5)?.split_once('.')?;
        Some((year.parse::<u64>().ok()?, month.parse::<u64>().ok()?))
            .filter(|(year, month)| (22..40).contains(year) && (1..=12).contains(month))
    };
    let first =
        |name: &str| notes.match_indices(name).find_map(|(at, _)| release(notes.get(at + name.len()..)?));
    match ["NeMo ", "nemo ", "nemo:"].iter().find_map(|name| first(name)) {
        Some(container) => container < (25, 4),
        None => first("v").is_some_and(|recipes| recipes < (25, 5)),
    }
}

/// Release of Hugging Face's transformers that the notes name: (4, 49) of `transformers 4.49`.
pub(crate) fn transformers(notes: &str) -> Option<(u64, u64)> {
    let (_, rest) = notes.split_once("transformers ")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Weights and optimizer states are in bf16 alone.
pub(crate) fn pure(notes: &str) -> bool {
    says(notes, &["pure-bf16", "bf16-true"])
}

/// Products run on 16-bit copies of f32 weights and of the f32 stream, made by `torch.autocast`.
pub(crate) fn autocast(notes: &str) -> bool {
    says(notes, &["autocast", "bf16-mixed", "16-mixed", "native amp", "torch.cuda.amp"]) && !pure(notes)
}

/// `hidden-dropout=0.1`, where the notes tell it.
pub(crate) fn given_dropout(notes: &str) -> Option<f64> {
    let rest = notes.split_once("hidden-dropout")?.1.trim_start_matches(['=', ' ']);
    let digits: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    digits.trim_end_matches('.').parse().ok().filter(|share| (0.0..1.0).contains(share))
}

/// What a row's selective recomputation repeats, where its notes name the policy; else what its stack does.
pub fn redone(notes: &str, facts: &Facts) -> Redone {
    if notes.contains("selective layer") { Redone::Layers } else { facts.redone }
}

/// What runs beside tensor-parallel collectives, where flags in `notes` say so: a stack that cuts them up may be told not to.
pub fn tensor_traffic(notes: &str, usual: TensorTraffic) -> TensorTraffic {
    let notes = notes.to_lowercase().replace(['-', ' '], "_");
    let switched = |name: &str| {
        let rest = notes.split_once(name)?.1.trim_start_matches([':', '=', '_']);
        Some(!["false", "off", "no", "0", "none"].iter().any(|word| rest.starts_with(word)))
    };
    match switched("tp_comm_overlap").or_else(|| switched("async_tp").or_else(|| switched("asynctp"))) {
        Some(true) => TensorTraffic::Pipelined,
        Some(false) if usual == TensorTraffic::Pipelined => TensorTraffic::Beside,
        _ => usual,
    }
}

/// Bytes per second and device between machines of `per_node` devices, where a row or its source's own documents state
/// another network than the card's reference machine has.
///
/// Read are `4x100Gb … per node`, `400Gb/s … per GPU`, `1600 Gbps node-node`.
pub fn network(source: &str, words: &str, per_node: u64) -> Option<f64> {
    let tokens: Vec<&str> =
        words.split([' ', ';', ',', '(', ')', '[', ']']).filter(|w| !w.is_empty()).collect();
    let number = |text: &str| text.parse::<f64>().ok().filter(|x| *x > 0.0 && *x < 1e5);
    for (at, token) in tokens.iter().enumerate() {
        // The number may stand apart from its unit: `1600 Gbps`.
        let apart = at.checked_sub(1).and_then(|i| tokens.get(i)).copied().unwrap_or_default();
        let (digits, unit) = token.split_at(token.rfind(|c: char| c.is_ascii_digit()).map_or(0, |i| i + 1));
        // Bits, not bytes: memory is no network.
        if !["Gb", "Gbps", "gbps", "Gbit", "Gbit/s", "Gb/s"].contains(&unit) {
            continue;
        }
        let amount = if digits.is_empty() { apart } else { digits };
        let gigabits = match amount.split_once('x') {
            Some((count, each)) => number(count).zip(number(each)).map(|(count, each)| count * each),
            None => number(amount),
        };
        let (Some(gigabits), Some(after)) = (gigabits, tokens.get(at + 1..)) else { continue };
        let after = after.get(..after.len().min(4)).unwrap_or_default().join(" ").to_lowercase();
        let devices = match () {
            _ if after.contains("per gpu") => 1,
            _ if after.contains("per node") || after.contains("node-node") => per_node,
            _ => continue,
        };
        return Some(gigabits / 8.0 * 1e9 / devices as f64);
    }
    // Clusters of four links of 100 Gbit/s a machine: Jean Zay (BLOOM's model card, "Compute infrastructure": Omni-Path),
    // InternLM's (InternEvo doc/en/train_performance.md: RoCE).
    const FOUR: [&str; 2] = ["bigscience tr11", "internevo"];
    let source = source.to_lowercase();
    FOUR.iter().any(|name| source.contains(name)).then_some(4.0 * 12.5e9 / per_node as f64)
}

/// Layers of each stage where flags in `notes` make stages uneven (Megatron-LM, megatron/training/arguments.py); empty:
/// they do not, or what they say leaves no whole layers.
///
/// A table may quote one of two flags: where the rest does not come out even, the other end is taken to be as this one.
/// `pipeline-layers=7+7+6+4` names every stage, of stacks that weigh blocks by cost (nanotron).
pub fn stages(notes: &str, layers: u64, pp: u64) -> Vec<u64> {
    if pp == 1 {
        return Vec::new();
    }
    if let Some((_, list)) = notes.split_once("pipeline-layers=") {
        let list = list.split(|c: char| !c.is_ascii_digit() && c != '+').next().unwrap_or_default();
        let split: Option<Vec<u64>> = list.split('+').map(|n| n.parse().ok()).collect();
        let sums = |s: &Vec<u64>| s.iter().try_fold(0, |sum: u64, n| sum.checked_add(*n)) == Some(layers);
        let whole = |s: &Vec<u64>| s.len() as u64 == pp && sums(s);
        return split.filter(whole).unwrap_or_default();
    }
    let number = |flags: [&str; 2]| {
        let rest = flags.iter().find_map(|flag| notes.split_once(flag))?.1;
        let rest = rest.trim_start_matches(['=', ':', ' ']);
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u64>().ok()
    };
    let first = number(["decoder-first-pipeline-num-layers", "num-layers-in-first-pipeline-stage"]);
    let last = number(["decoder-last-pipeline-num-layers", "num-layers-in-last-pipeline-stage"]);
    // Embedding and loss count as a layer each.
    let ends = ["account-for-embedding-in-pipeline-split", "account-for-loss-in-pipeline-split"]
        .map(|flag| u64::from(notes.contains(flag)));
    let split = |first: u64, last: u64| {
        let middle = layers.checked_sub(first.checked_add(last)?)?;
        let each = middle.checked_div(pp - 2).unwrap_or(0);
        let whole = first > 0 && last > 0 && each * (pp - 2) == middle && (each > 0 || pp == 2);
        whole.then(|| {
            let inner = (2..pp).map(|_| each);
            std::iter::once(first).chain(inner).chain(std::iter::once(last)).collect()
        })
    };
    let even = |end: u64| layers.checked_sub(end).and_then(|rest| rest.checked_div(pp - 1));
    let found = match (first, last, ends) {
        (Some(first), Some(last), _) => split(first, last),
        (Some(end), None, _) => even(end).and_then(|last| split(end, last)).or_else(|| split(end, end)),
        (None, Some(end), _) => even(end).and_then(|first| split(first, end)).or_else(|| split(end, end)),
        (None, None, [0, 0]) => None,
        (None, None, [embedding, loss]) => [(embedding, loss), (1, 1)].into_iter().find_map(|(e, l)| {
            let each = (layers + e + l) / pp;
            split(each.checked_sub(e)?, each.checked_sub(l)?)
        }),
    };
    found.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::facts;

    #[test]
    fn policies_and_overlap_are_read_from_notes() {
        let titan = facts("torchtitan");
        assert_eq!(redone("", &facts("jax")), Redone::Pointwise);
        assert_eq!(
            (redone("selective layer", &titan), redone("", &titan)),
            (Redone::Layers, Redone::Products)
        );
        let (cut, beside, alone) = (TensorTraffic::Pipelined, TensorTraffic::Beside, TensorTraffic::Alone);
        for (notes, usual, meant) in [
            ("flags: sequence-parallel,tp-comm-overlap,overlap-grad-reduce", beside, cut),
            ("ub_tp_comm_overlap: false", cut, beside),
            ("TP_COMM_OVERLAP=False; 8 nodes", cut, beside),
            ("ub_tp_comm_overlap: true", cut, cut),
            ("Async TP", alone, cut),
            ("tp_comm_overlap off", alone, alone),
            ("", cut, cut),
        ] {
            assert_eq!(tensor_traffic(notes, usual), meant, "{notes}");
        }
    }

    #[test]
    fn when_a_peak_was_read_and_norms_of_queries_are_told_by_notes() {
        assert!(first_step("max allocated on rank 0, after 1 iterations; flags: swiglu"));
        assert!(!first_step("max allocated on rank 0, after 10 iterations"));
        for (notes, meant) in [
            ("flags: qk-layernorm,use-flash-attn", 1),
            ("qk_layernorm=True", 1),
            ("QK norm", 1),
            ("qk_layernorm=False", 0),
            ("flags: use-flash-attn", 0),
        ] {
            assert_eq!(query_norms(notes), meant, "{notes}");
        }
    }

    #[test]
    fn releases_of_nemo_are_told_apart() {
        for early in ["v25.04.01; NeMo; step", "NeMo 24.07", "v25.04.01; NeMo 25.02", "nvcr nemo:25.02.01"] {
            assert!(early_nemo(early), "{early}");
        }
        for late in ["v25.05.05; NeMo; step", "NeMo 25.04", "NeMo", "nemo 25.09; core_v0.14.0", "driver v5.2"]
        {
            assert!(!early_nemo(late), "{late}");
        }
    }

    #[test]
    fn uneven_stages_are_read_from_flags() {
        let ends = "account-for-embedding-in-pipeline-split,account-for-loss-in-pipeline-split";
        let both = "decoder-first-pipeline-num-layers=14,decoder-last-pipeline-num-layers=18";
        let even: &[u64] = &[];
        for (flags, layers, pp, meant) in [
            ("flags: sequence-parallel", 32, 4, even),
            ("decoder-first-pipeline-num-layers=5", 32, 4, &[5, 9, 9, 9]),
            ("--decoder-last-pipeline-num-layers 2", 32, 4, &[10, 10, 10, 2]),
            (both, 32, 2, &[14, 18]),
            (ends, 126, 8, &[15, 16, 16, 16, 16, 16, 16, 15]),
            (ends, 126, 1, even),
            ("first rank; pipeline-layers=7+7+6+4; flash", 24, 4, &[7, 7, 6, 4]),
            // Layers of another model, and of other stages.
            ("pipeline-layers=7+7+6+4", 32, 4, even),
            ("pipeline-layers=7+7+6+4", 24, 2, even),
            ("pipeline-layers=x", 24, 2, even),
            // One flag of two.
            ("decoder-first-pipeline-num-layers=2", 12, 4, &[2, 4, 4, 2]),
            ("account-for-embedding-in-pipeline-split", 6, 4, &[1, 2, 2, 1]),
            // Flags of another model.
            ("decoder-first-pipeline-num-layers=40", 32, 4, even),
            (both, 12, 2, even),
            (ends, 125, 8, even),
        ] {
            assert_eq!(stages(flags, layers, pp), meant, "{flags} {layers} {pp}");
        }
    }

    #[test]
    fn networks_are_read_where_they_are_stated() {
        assert_eq!(network("", "micro_num=4; 4x100Gb RoCE per node; zero1=8", 8), Some(6.25e9));
        assert_eq!(network("", "A100 40GB with 1600 Gbps node-node interconnect (RoCE)", 8), Some(25e9));
        assert_eq!(network("", "500W; 400Gb/s RDMA per GPU; seq", 8), Some(50e9));
        assert_eq!(network("", "memory 40 GB per node of 8", 8), None);
        assert_eq!(network("", "Gb; x Gb per node; 9xGb per gpu", 8), None);
        assert_eq!(network("", "HBM2e 2.4TB/s", 8), None);
    }
}
