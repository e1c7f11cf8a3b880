//! How run tables spell what they mean: cards, number formats, recomputation, sharding, attention, yes and no.
//!
//! Every reader takes the text of one cell and gives what it means, or `None` where it means nothing known. Not here:
//! what follows from it ([`crate::table`]).

use llmc_plan::plan::{Precision, Recompute};

/// Upper case, letters and digits alone.
fn plain(text: &str) -> String {
    text.to_uppercase().chars().filter(char::is_ascii_alphanumeric).collect()
}

/// Record of a card: `H100-SXM5-80GB`, `NVIDIA H100 80GB HBM3`, `8x DGX A100 (40 GB)`, `GB200 NVL72`.
pub fn card(name: &str) -> Option<&'static str> {
    let name = plain(name);
    let has = |part: &str| name.contains(part);
    // Longer names first: GB200 is no B200, H200 no H20, A100 no A10.
    const FAMILIES: &[&str] = &[
        "GB300", "GB200", "GH200", "B300", "B200", "H200", "H100", "H800", "H20", "A100", "A800", "V100",
        "L40S", "A10G", "A6000", "5090", "4090", "3090", "A40", "A10", "L4",
    ];
    let family = FAMILIES.iter().find(|family| has(family))?;
    Some(match *family {
        // Cards of their own, which nothing here describes.
        "A40" if has("A4000") => return None,
        "L4" if has("L40") => return None,
        "H100" if has("PCIE") => "H100-PCIe",
        "H100" if has("96GB") || has("96G") || has("HBM2E") => "H100-96G",
        "A100" if has("PCIE") => "A100-PCIe",
        "A100" if has("40GB") || has("40G") => "A100-40G",
        "V100" if has("16GB") || has("16G") => "V100-16G",
        "5090" => "RTX5090",
        "4090" => "RTX4090",
        "3090" => "RTX3090",
        other => other,
    })
}

/// Number format of the products: `bf16`, `bfloat16-mixed`, `amp_bf16`, `FP16`, `half`, `mxfp8`, `fp8-hybrid`, `e4m3`.
pub fn precision(text: &str) -> Option<Precision> {
    let word = plain(text);
    let has = |parts: &[&str]| parts.iter().any(|part| word.contains(part));
    // 8-bit products are named beside the format of the rest: `bf16+fp8`.
    match () {
        _ if has(&["FP4", "TF32", "INT8"]) => None,
        _ if has(&["FP8", "FLOAT8", "E4M3", "E5M2"]) => Some(Precision::Fp8),
        _ if has(&["BF16", "BFLOAT16"]) => Some(Precision::Bf16),
        _ if has(&["FP16", "FLOAT16", "HALF"]) || word == "16" || word == "16MIXED" => Some(Precision::Fp16),
        _ if has(&["FP32", "FLOAT32"]) || word == "32" || word == "32TRUE" => Some(Precision::F32),
        // Automatic mixed precision of a run that names no other format.
        _ if has(&["AMP", "MIXED"]) => Some(Precision::Bf16),
        _ => None,
    }
}

/// Recomputation: `full`, `block`, `yes`; `selective`, `core_attn`, `per-op`, `mlp`; `none`, `no`, `false`.
pub fn recompute(text: &str) -> Option<Recompute> {
    let word = plain(text);
    let has = |parts: &[&str]| parts.iter().any(|part| word.contains(part));
    match word.as_str() {
        "NONE" | "NO" | "OFF" | "FALSE" | "0" | "NULL" | "DISABLED" => Some(Recompute::None),
        "YES" | "ON" | "TRUE" | "1" | "ALL" | "ENABLED" => Some(Recompute::Full),
        _ if has(&[
            "SELECT",
            "SAC",
            "COREATTN",
            "COREATTENTION",
            "ATTN",
            "PEROP",
            "MINIMAL",
            "EVERY",
            "MLP",
            "NORM",
            "PARTIAL",
        ]) =>
        {
            Some(Recompute::Selective)
        }
        _ if has(&["FULL", "BLOCK", "UNIFORM", "LAYER"]) => Some(Recompute::Full),
        _ => None,
    }
}

/// ZeRO stage: `1`, `3.0`, `ZeRO-3`, `stage 2`, `fsdp`, `distributed-optimizer`, `SHARD_GRAD_OP`, `ddp`.
pub fn zero(text: &str) -> Option<u64> {
    let word = plain(text);
    let has = |parts: &[&str]| parts.iter().any(|part| word.contains(part));
    let number = text.trim().parse::<f64>().ok().filter(|n| n.fract() == 0.0 && (0.0..=3.0).contains(n));
    match () {
        _ if number.is_some() => number.map(|n| n as u64),
        _ if has(&["GRADOP", "ZERO2", "STAGE2"]) => Some(2),
        _ if has(&["ZERO3", "STAGE3", "FSDP", "FULLSHARD", "HYBRIDSHARD", "HSDP"]) => Some(3),
        _ if has(&["ZERO1", "STAGE1", "DISTRIBUTEDOPT", "DISTOPT"]) => Some(1),
        _ if has(&["DDP", "NOSHARD", "ZERO0", "STAGE0"]) || word == "NONE" => Some(0),
        _ => None,
    }
}

/// Year and month that a text names first: `2025-06`, `h200_202506`, `June 2025`.
pub fn month(text: &str) -> Option<(u64, u64)> {
    const NAMES: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let words: Vec<&str> =
        text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let year = |word: &str| word.parse::<u64>().ok().filter(|y| (2018..2100).contains(y));
    let digits = |word: &str| word.bytes().all(|b| b.is_ascii_digit());
    words.iter().enumerate().find_map(|(at, word)| {
        let (head, tail) = (word.get(..4)?, word.get(4..)?);
        if !digits(word) {
            return None;
        }
        let number = match (tail.len(), words.get(at + 1), at.checked_sub(1).and_then(|i| words.get(i))) {
            (2, ..) => tail.parse().ok(),
            (0, Some(next), _) if next.len() == 2 && digits(next) => next.parse().ok(),
            (0, _, Some(before)) => {
                let before = before.to_lowercase();
                NAMES.iter().position(|name| before.starts_with(name)).map(|i| i as u64 + 1)
            }
            _ => None,
        };
        year(head).zip(number.filter(|m| (1..=12).contains(m)))
    })
}

/// Kernels of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// cuDNN's, Transformer Engine's, FlashAttention 3 or later: as fast as the card has them.
    Newest,
    /// FlashAttention 1 or 2, what PyTorch's dispatcher and flex attention choose.
    Flash2,
    /// Scores are written to memory.
    Unfused,
}

/// Kernels that a table names; `None`: it names none, so the stack's habit counts.
pub fn attention(text: &str) -> Option<Attention> {
    let word = plain(text);
    let has = |parts: &[&str]| parts.iter().any(|part| word.contains(part));
    match () {
        _ if word.is_empty() => None,
        _ if has(&["UNFUSED", "EAGER", "MATH", "NAIVE", "VANILLA", "LOCAL"]) || word == "TORCH" => {
            Some(Attention::Unfused)
        }
        _ if has(&["CUDNN", "FUSED", "FA3", "FA4", "FLASH3", "FLASH4", "ATTENTION3", "ATTN3"])
            || word.starts_with("TE")
            || word.contains("TRANSFORMERENGINE") =>
        {
            Some(Attention::Newest)
        }
        _ => Some(Attention::Flash2),
    }
}

/// Yes or no; `None` for anything else.
pub fn yes(text: &str) -> Option<bool> {
    match plain(text).as_str() {
        "1" | "10" | "YES" | "TRUE" | "Y" | "ON" | "SWIGLU" | "GLU" | "GEGLU" => Some(true),
        "0" | "00" | "NO" | "FALSE" | "N" | "OFF" | "GELU" | "NONE" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_known_under_their_many_names() {
        for (names, record) in [
            ("H100 SXM5 80GB|H100-80GB-SXM|H100-SXM|NVIDIA H100 80GB HBM3|DGX-H100|8xH100|h100", "H100"),
            ("H100-96GB-HBM2e-SXM-500W|H100-96GB-HBM2e|H100 96GB|H100 (HBM2e)", "H100-96G"),
            ("H100-PCIe-80GB|H100 80GB PCIe|NVIDIA H100 PCIe", "H100-PCIe"),
            ("A100-80GB|A100 SXM4 80GB|NVIDIA A100-SXM4-80GB|DGX A100", "A100"),
            ("A100-PCIe-80GB|NVIDIA A100 80GB PCIe", "A100-PCIe"),
            ("A100-40GB-SXM|A100 40GB|NVIDIA A100-SXM4-40GB", "A100-40G"),
            ("V100-32GB|Tesla V100-SXM2-32GB", "V100"),
            ("GB200|GB200 NVL72|NVIDIA GB200", "GB200"),
            ("B200|DGX B200|B200-180GB", "B200"),
            ("H200-141GB-SXM|H200", "H200"),
            ("H800-80GB-SXM|NVIDIA H800", "H800"),
            ("A800-80GB-SXM|A800", "A800"),
            ("NVIDIA GeForce RTX 4090|RTX4090-24GB", "RTX4090"),
            ("H20-96GB", "H20"),
            ("V100-16GB|Tesla V100-SXM2-16GB", "V100-16G"),
            ("GH200|NVIDIA GH200 480GB", "GH200"),
            ("GB300 NVL72", "GB300"),
            ("B300-288GB", "B300"),
            ("NVIDIA RTX A6000|A6000-48GB", "A6000"),
            ("NVIDIA A40", "A40"),
            ("NVIDIA A10|A10-24GB", "A10"),
            ("NVIDIA A10G", "A10G"),
            ("NVIDIA L4", "L4"),
            ("NVIDIA L40S", "L40S"),
            ("RTX 3090|GeForce RTX 3090 Ti", "RTX3090"),
            ("NVIDIA GeForce RTX 5090", "RTX5090"),
        ] {
            for name in names.split('|') {
                assert_eq!(card(name), Some(record), "{name}");
            }
            assert!(crate::hardware::preset(record).is_some());
        }
        for unknown in ["TPUv5", "MI300X", "RTX A4000", "NVIDIA L40", ""] {
            assert_eq!(card(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn formats_policies_and_shards_are_known_under_theirs() {
        for (words, meant) in [
            ("bf16|BF16|bfloat16|bf16-mixed|amp_bf16|bf16-true", Some(Precision::Bf16)),
            ("fp16|FP16|float16|fp16-mixed|half|16-mixed", Some(Precision::Fp16)),
            ("fp8|FP8|mxfp8|fp8-hybrid|FP8-CS|bf16+fp8|amp_fp8|float8|fp8_e4m3", Some(Precision::Fp8)),
            ("fp32|float32|32-true", Some(Precision::F32)),
            ("amp|mixed", Some(Precision::Bf16)),
            ("nvfp4|tf32|?", None),
        ] {
            words.split('|').for_each(|word| assert_eq!(precision(word), meant, "{word}"));
        }
        for (words, meant) in [
            ("full|Full|full-block|uniform|yes|true", Some(Recompute::Full)),
            (
                "selective|Selective|sel. per-op SAC|core_attn|selective (core attention)|minimal_flash|mlp|norms",
                Some(Recompute::Selective),
            ),
            ("none|None|no|off|False|0", Some(Recompute::None)),
            ("perhaps", None),
        ] {
            words.split('|').for_each(|word| assert_eq!(recompute(word), meant, "{word}"));
        }
        for (words, meant) in [
            ("3|3.0|ZeRO-3|zero3|fsdp|FSDP2|fsdp-full_shard|stage 3", Some(3)),
            ("2|ZeRO-2|fsdp-shard_grad_op", Some(2)),
            ("1|deepspeed-zero1|zero1 group=8|distributed-optimizer", Some(1)),
            ("0|ddp|none|NO_SHARD", Some(0)),
            ("4|1.5|?", None),
        ] {
            words.split('|').for_each(|word| assert_eq!(zero(word), meant, "{word}"));
        }
        for (words, meant) in [
            ("flash|sdpa|sdpa/flex|flash2|FA2|flash_attention_2|flash-attn", Attention::Flash2),
            ("FA3|FA4-beta|cudnn/xla flash|cudnn_flash_te|TE|fused|flash-attention-3", Attention::Newest),
            ("unfused|eager|math|torch|naive", Attention::Unfused),
        ] {
            words.split('|').for_each(|word| assert_eq!(attention(word), Some(meant), "{word}"));
        }
        assert_eq!(attention(""), None);
        assert_eq!(
            (yes("1.0"), yes("SwiGLU"), yes("no"), yes("maybe")),
            (Some(true), Some(true), Some(false), None)
        );
    }

    #[test]
    fn months_are_read_as_tables_write_them() {
        for (text, meant) in [
            ("torchtitan of June 2025, AdamW", Some((2025, 6))),
            ("benchmarks/llama3-8b_h200_202506_trainy.md", Some((2025, 6))),
            ("asyncTP_llama3_h100_2025-06_torchtitan.md", Some((2025, 6))),
            ("2,048 tokens; 2048 x 12; 4x100Gb; 202513; version 2.5", None),
            ("seq 2048, mid 2024", None),
        ] {
            assert_eq!(month(text), meant, "{text}");
        }
    }
}
