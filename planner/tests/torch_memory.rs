//! Peaks of PyTorch's trainers: when gradients, logits and an update's copies are there, and what a row's notes change of it.
#![allow(clippy::unwrap_used)] // a row that is refused is a broken test

use llmc_planner::score::score;

/// GiB of Llama 3 8B on eight H100 under FSDP, with `cells` of the base row replaced.
fn peak(cells: &[(&str, &str)]) -> f64 {
    let base = [
        ("id", "x"),
        ("source", "somebody's PyTorch"),
        ("hardware", "H100-80GB-SXM"),
        ("n_gpus", "8"),
        ("layers", "32"),
        ("hidden", "4096"),
        ("heads", "32"),
        ("kv_heads", "8"),
        ("ffn", "14336"),
        ("vocab", "128256"),
        ("glu", "1"),
        ("tied", "0"),
        ("seq", "4096"),
        ("micro_batch_seqs", "1"),
        ("global_batch_seqs", "8"),
        ("dp_shard", "fsdp2"),
        ("zero_stage", "3"),
        ("precision", "bf16"),
        ("act_ckpt", "full"),
        ("attn_impl", ""),
        ("compile", "1"),
        ("notes", "max_allocated"),
    ];
    let cell = |(name, value): &(&str, &str)| {
        let new = cells.iter().find(|(n, _)| n == name);
        format!("\"{}\"", new.map_or(*value, |(_, v)| *v))
    };
    let head: Vec<&str> = base.iter().map(|(name, _)| *name).collect();
    let row: Vec<String> = base.iter().map(cell).collect();
    let scores = score(&format!("{}\n{}\n", head.join(","), row.join(","))).unwrap();
    assert_eq!(scores.rows[0].refused, None, "{cells:?}");
    scores.rows[0].predicted_peak_mem_gib.unwrap()
}

const GIB: f64 = 1073741824.0;
const PARAMS: f64 = 8.03e9;

#[test]
fn gradients_come_with_the_backward_pass_unless_they_accumulate() {
    // A shard of f32 gradients is there at the loss where an earlier micro-batch left it.
    let once = peak(&[]);
    let twice = peak(&[("global_batch_seqs", "16")]);
    let shard = 4.0 * PARAMS / 8.0 / GIB;
    assert!(twice - once > 0.9 * shard && twice - once < 2.0 * shard, "{once} {twice} {shard}");
    // In the allocator's sense it is there all the same: its pool is that of the stream that reduces.
    let reserved = peak(&[("notes", "")]);
    assert!(reserved - once > shard, "{reserved} {once}");
    // One device has no such stream.
    let one = |notes| {
        let bf16 = format!("pure-bf16; {notes}");
        peak(&[
            ("n_gpus", "1"),
            ("global_batch_seqs", "1"),
            ("zero_stage", "0"),
            ("dp_shard", ""),
            ("notes", &bf16),
        ])
    };
    assert!(one("") < 1.03 * one("max_allocated"));
}

#[test]
fn notes_tell_of_losses_optimizers_and_layers() {
    let alone = [("n_gpus", "1"), ("global_batch_seqs", "1"), ("zero_stage", "0"), ("dp_shard", "")];
    let one = |notes: &str| {
        let notes = format!("max_allocated; pure-bf16; {notes}");
        peak(&[&alone[..], &[("notes", &notes)]].concat())
    };
    // Where the loss is the peak: nothing recomputed.
    let loss = |notes: &str| {
        let notes = format!("max_allocated; pure-bf16; {notes}");
        peak(&[&alone[..], &[("notes", &notes), ("act_ckpt", "none"), ("hardware", "B200")]].concat())
    };
    let (plain, chunked, fused) = (loss(""), loss("chunked cross entropy"), loss("fused cross entropy"));
    assert!(chunked < plain && fused < chunked, "{plain} {chunked} {fused}");
    let chunked = one("chunked cross entropy");
    // The update inside the backward pass leaves no gradients to wait for one: 2 bytes each, less what the loss takes then.
    let within = one("chunked cross entropy, optimizer_in_bwd");
    assert!(chunked - within > 1.0, "{chunked} {within}");
    // Moments in 8 bits instead of 16, or in memory that PyTorch does not count.
    let eight = one("chunked cross entropy, optimizer_in_bwd, AdamW8bit");
    let paged = one("chunked cross entropy, optimizer_in_bwd, PagedAdamW8bit");
    let saved = |by: f64| by * PARAMS / GIB;
    assert!((within - eight - saved(2.0)).abs() < 0.05 * saved(2.0), "{within} {eight}");
    assert!((within - paged - saved(4.0)).abs() < 0.05 * saved(4.0), "{within} {paged}");
    let moved = one("chunked cross entropy, optimizer_in_bwd, activation offloading");
    assert!(moved < within, "{moved} {within}");
    // Every second layer recomputed lies between all and none.
    let by_layer = |policy| peak(&[("act_ckpt", policy), ("notes", "max_allocated; selective layer")]);
    let (none, half, full) = (by_layer("none"), by_layer("selective"), by_layer("full"));
    assert!((none + full - 2.0 * half).abs() < 0.1 * (none - full), "{none} {half} {full}");
}

#[test]
fn an_update_makes_copies_that_a_short_batch_does_not_hide() {
    let run = |source: &'static str, seq: &'static str, zero: &'static str| {
        peak(&[("source", source), ("seq", seq), ("zero_stage", zero), ("hardware", "H200-141GB-SXM")])
    };
    // ZeRO-2 of DeepSpeed: 2 bytes of all weights; 2 + 12 of a share, and its gradients flat and again in f32 (6).
    let states = (2.0 + (2.0 + 12.0 + 6.0) / 8.0) * PARAMS / GIB;
    let update = run("DeepSpeed", "256", "2");
    assert!(update > states && update < 1.1 * states, "{update} {states}");
    assert!((run("DeepSpeed", "512", "2") - update).abs() < 0.1);
    // Colossal-AI makes one copy.
    assert!(run("Colossal-AI", "256", "2") < update);
}

#[test]
fn host_memory_holds_what_is_offloaded() {
    let (here, there) = (peak(&[]), peak(&[("notes", "max_allocated; fsdp_cpu_offload=True")]));
    // A share of f32 weights and moments; gradients come and go.
    assert!(here - there > 0.9 * 12.0 * PARAMS / 8.0 / GIB, "{here} {there}");
    // Elsewhere the words mean the optimizer's states.
    let two = |notes| peak(&[("zero_stage", "2"), ("notes", notes)]);
    assert_eq!(two("max_allocated; CPU offload"), two("max_allocated"));
}

#[test]
fn published_peaks_that_decide_between_readings() {
    let near = |cells: &[(&str, &str)], gib: f64| {
        let found = peak(cells);
        assert!((found / gib - 1.0).abs() < 0.035, "{found} {gib} {cells:?}");
    };
    // lightning-thunder issue 474: Llama 2 13B cut to ten layers on one device, GB of 1e9.
    let thunder = [
        ("source", "lightning-thunder"),
        ("n_gpus", "1"),
        ("global_batch_seqs", "2"),
        ("micro_batch_seqs", "2"),
        ("zero_stage", "0"),
        ("dp_shard", ""),
        ("hidden", "5120"),
        ("heads", "40"),
        ("kv_heads", "40"),
        ("ffn", "13824"),
        ("vocab", "32000"),
        ("act_ckpt", "none"),
        ("notes", "bf16-true"),
    ];
    near(&[&[("layers", "10")], &thunder[..]].concat(), 39.43e9 / GIB);
    near(&[&[("layers", "20")], &thunder[..]].concat(), 74.56e9 / GIB);
    // pytorch/ao torchao/prototype/float8nocompile: all layers recomputed, every second, none.
    let titan = [("source", "torchtitan"), ("hardware", "H100-96GB-HBM2e-SXM-500W"), ("compile", "0")];
    for (policy, gib) in [("full", 28.07), ("selective", 40.6), ("none", 53.12)] {
        let notes = "January 2025; selective layer";
        near(&[&[("act_ckpt", policy), ("notes", notes)], &titan[..]].concat(), gib);
    }
    // Lightning-AI/litgpt extensions/thunder/README.md at 73220260: PyTorch's buckets, compiled.
    let tiny = [("layers", "22"), ("hidden", "2048"), ("heads", "32"), ("kv_heads", "4"), ("ffn", "5632")];
    let litgpt = [("source", "litgpt"), ("hardware", "A100-40GB-SXM"), ("compile", "1"), ("zero_stage", "0")];
    let more = [("vocab", "32000"), ("seq", "2048"), ("micro_batch_seqs", "4"), ("global_batch_seqs", "512")];
    let last = [
        ("dp_shard", "ddp"),
        ("act_ckpt", "none"),
        ("attn_impl", "sdpa"),
        ("notes", "bf16-true; torch.compile"),
    ];
    near(&[&litgpt[..], &tiny, &more, &last].concat(), 27.01e9 / GIB);
    // foundation-model-stack/fms-acceleration scripts/benchmarks/refs, Hugging Face's Trainer: the loss of LLaMA's kind in eager f32, fused
    // without the head, a GPT's in 16 bits; an update that finds nothing gathered.
    let trainer = [("source", "fms-acceleration"), ("hardware", "A100-80GB-SXM"), ("compile", "0")];
    let near = |cells: &[&[(&str, &str)]], gib| near(&[&cells.concat()[..], &trainer[..]].concat(), gib);
    let (pure, fast) =
        ("max_allocated; pure-bf16", "max_allocated; pure-bf16; fused cross entropy, rms norm and rope");
    let alone = [("n_gpus", "1"), ("micro_batch_seqs", "8"), ("zero_stage", "0"), ("dp_shard", "")];
    let power = [("layers", "40"), ("hidden", "2304"), ("heads", "36"), ("kv_heads", "36"), ("ffn", "9216")];
    let power = [&power[..], &[("vocab", "49152"), ("tied", "1")]].concat();
    near(&[&alone, &power, &[("notes", pure)]], 43.83);
    near(&[&alone, &power, &[("notes", fast)]], 37.55);
    let coder = [("layers", "24"), ("hidden", "2048"), ("heads", "16"), ("kv_heads", "1"), ("ffn", "8192")];
    let coder = [&coder[..], &[("vocab", "49280"), ("glu", "0"), ("tied", "1"), ("seq", "2048")]].concat();
    near(&[&alone, &coder, &[("notes", pure)]], 14.15);
    let two = [("n_gpus", "2"), ("global_batch_seqs", "8"), ("micro_batch_seqs", "4"), ("vocab", "32000")];
    near(&[&two, &[("notes", pure)]], 33.74);
}
