//! Rows that say the same in other words, with other optional columns left out, get the same prediction.
#![allow(clippy::unwrap_used)]

mod common;

use common::Dice;
use llmc_planner::score::{RowScore, score};

/// A column and ways to write one meaning of it; an empty one is left out.
type Spellings = (&'static str, &'static [&'static str]);

/// What is written differently from row to row: cards, formats, policies, sharding, kernels, yes and no.
const MEANINGS: &[&[Spellings]] = &[
    &[
        ("hardware", &["H100-80GB-SXM", "H100 SXM5 80GB", "NVIDIA H100 80GB HBM3", "DGX H100", "H100-SXM"]),
        ("hardware", &["H100-96GB-HBM2e-SXM-500W", "H100-96GB-HBM2e", "H100 SXM 96GB"]),
        ("hardware", &["A100-80GB-SXM", "A100 SXM4 80GB", "A100-80GB", "NVIDIA A100-SXM4-80GB"]),
        ("hardware", &["A100-40GB-SXM", "A100 40GB"]),
        ("hardware", &["V100-32GB", "Tesla V100-SXM2-32GB"]),
        ("hardware", &["GB200", "GB200 NVL72"]),
        ("hardware", &["B200", "DGX B200"]),
        ("hardware", &["H800-80GB-SXM", "H800"]),
        ("hardware", &["A800-80GB-SXM", "A800"]),
        ("hardware", &["H200-141GB-SXM", "HGX H200"]),
    ],
    &[
        ("precision", &["bf16", "BF16", "bfloat16", "bf16-mixed", "amp_bf16", ""]),
        ("precision", &["fp16", "FP16", "float16", "half", "fp16-mixed"]),
        ("precision", &["fp8", "FP8", "mxfp8", "float8", "fp8-hybrid"]),
    ],
    &[
        ("act_ckpt", &["full", "Full", "full-block", "uniform"]),
        ("act_ckpt", &["selective", "Selective", "core_attn", "per-op SAC"]),
        ("act_ckpt", &["none", "None", "no", "off", "False"]),
        ("act_ckpt", &[""]),
    ],
    &[
        ("zero_stage", &["1", "1.0", "ZeRO-1", "zero1"]),
        ("zero_stage", &["3", "ZeRO-3", "fsdp"]),
        ("zero_stage", &["2", "stage 2"]),
        ("zero_stage", &["0", "none", "ddp", ""]),
    ],
    &[
        ("attn_impl", &["flash", "FA2", "flash2", "sdpa", "flash_attention_2"]),
        ("attn_impl", &["FA3", "cudnn", "cudnn_flash_te", "TE"]),
        ("attn_impl", &["unfused", "eager", "math"]),
        ("attn_impl", &[""]),
    ],
    &[("glu", &["1", "1.0", "true", "swiglu"]), ("glu", &["0", "no", "gelu", ""])],
    &[("tied", &["1", "yes"]), ("tied", &["0", "False", ""])],
    &[("compile", &["1", "True"]), ("compile", &["0", "no"]), ("compile", &[""])],
    &[("global_batch_seqs", &["1024", "1,024", "1024.0"])],
    &[("vp", &["1", "1.0", ""])],
    &[("cp", &["1", ""])],
    &[("kv_heads", &["32", "", "32.0"])],
    &[("gpus_per_node", &["8", ""])],
];

fn predicted(cells: &[(&str, &str)]) -> RowScore {
    let fixed = [("id", "x"), ("source", "somebody's blog"), ("n_gpus", "64"), ("layers", "32")];
    let more = [("hidden", "4096"), ("heads", "32"), ("seq", "4096"), ("micro_batch_seqs", "1")];
    let all: Vec<(&str, &str)> = fixed.into_iter().chain(more).chain(cells.iter().copied()).collect();
    let names: Vec<&str> = all.iter().map(|c| c.0).collect();
    let values: Vec<String> = all.iter().map(|c| format!("\"{}\"", c.1)).collect();
    score(&format!("{}\n{}\n", names.join(","), values.join(","))).unwrap().rows.remove(0)
}

#[test]
fn other_words_for_the_same_run_get_the_same_prediction() {
    let mut dice = Dice(5);
    let mut refused = Vec::new();
    for _ in 0..1000 {
        let meant: Vec<Spellings> = MEANINGS.iter().map(|of| dice.pick(of)).collect();
        let (tp, pp) = (dice.pick(&["1", "2", "8", ""]), dice.pick(&["1", "2", "4", ""]));
        let layout = [("tp", tp), ("pp", pp)];
        let spelt = |word: &mut dyn FnMut(&'static [&'static str]) -> &'static str| {
            let cells = meant.iter().map(|(column, words)| (*column, word(words)));
            predicted(&cells.chain(layout).collect::<Vec<_>>())
        };
        let (first, other) = (spelt(&mut |words| words[0]), spelt(&mut |words| dice.pick(words)));
        if let Some(reason) = first.refused {
            refused.push(reason);
            continue;
        }
        let figures =
            |row: &RowScore| (row.predicted_iteration_ms, row.predicted_peak_mem_gib, row.profile.clone());
        assert!(first.predicted_iteration_ms.is_some_and(|ms| ms.is_finite() && ms > 0.0));
        assert_eq!(figures(&first), figures(&other), "{meant:?} {:?}", other.refused);
    }
    // An 8-bit product needs a card that has it; nothing else is refused.
    assert!(refused.iter().all(|reason| reason.contains("precision fp8 on")), "{refused:?}");
}
