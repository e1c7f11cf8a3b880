//! `layout checkpoint eval`: what is pinned of the parallel layout, and the periodic work of a run.

use llmc_grammar::Keyword;

use super::Resolved;
use super::cx::Cx;
use super::read::{CONTEXT, Options, SHARE};
use super::training::stretch;
use crate::check::syntax::valueless;
use crate::unit::{Dimension, Slot};

const EVERY: Slot = Slot {
    accepts: &[Dimension::Steps, Dimension::Tokens, Dimension::Time, Dimension::Ratio],
    bare: None,
    binary_k: false,
};
const SAMPLES: Slot = Slot {
    accepts: &[Dimension::Sequences, Dimension::Count],
    bare: Some(Dimension::Count),
    binary_k: false,
};

/// `layout < tp 2  zero 1  recompute selective >`: what is pinned is not searched.
pub fn layout(cx: &mut Cx, r: &mut Resolved) {
    let Some(mut view) = cx.view(Keyword::Layout) else { return };
    if view.options.is_empty() {
        cx.report(valueless::found(view.at, "layout", Some("layout < tp 2 >")));
    }
    let mut options = Options::of(&mut view);
    let gpus = super::budget::MAX_GPUS;
    for (name, path, bounds) in [
        ("tp", "layout.tp", (1, gpus)),
        ("pp", "layout.pp", (1, gpus)),
        ("cp", "layout.cp", (1, gpus)),
        ("dp", "layout.dp", (1, gpus)),
        ("vp", "layout.vp", (1, 1024)),
        ("zero", "layout.zero_stage", (0, 3)),
        ("shard_group", "layout.shard_group", (1, gpus)),
        ("micro", "batch.micro_batch_sequences", (1, 1 << 16)),
    ] {
        if let Some(n) = options.count(cx, name, bounds) {
            r.put(path, n.fact());
        }
    }
    if let Some(b) = options.switch(cx, "sequence_parallel") {
        r.put("layout.sequence_parallel", b.fact());
    }
    for (name, path, known) in [
        ("schedule", "layout.schedule", &["none", "one_f_one_b", "interleaved", "zero_bubble"][..]),
        ("recompute", "layout.recompute", &["none", "selective", "full"][..]),
        ("offload", "layout.offload", &["none", "optimizer", "activations"][..]),
    ] {
        if let Some(word) = options.choice(cx, name, known) {
            r.put(path, word.fact());
        }
    }
    options.finish(cx);
}

/// `checkpoint < every 30 min  keep 3  zstd 1 >`
pub fn checkpoint(cx: &mut Cx, r: &mut Resolved) {
    let Some(mut view) = cx.view(Keyword::Checkpoint) else { return };
    if view.options.is_empty() {
        cx.report(valueless::found(view.at, "checkpoint", Some("checkpoint < every 30 min >")));
    }
    let mut options = Options::of(&mut view);
    if let Some(m) = options.measure(cx, "every", &EVERY) {
        stretch(cx, r, "schedule.checkpoint_every", m);
    }
    if let Some(n) = options.count(cx, "keep", (0, 1_000_000)) {
        r.put("schedule.checkpoint_keep", n.fact());
    }
    // zstd's own range of normal levels; 0 stores as is.
    if let Some(n) = options.count(cx, "zstd", (0, 22)) {
        r.put("schedule.checkpoint_zstd", n.fact());
    }
    options.finish(cx);
}

/// `eval < every 2B tokens  ppl "corpus/val/*.jsonl"  holdout 1%  sequences 256  window 8k  stride 4k >`
pub fn eval(cx: &mut Cx, r: &mut Resolved) {
    let Some(mut view) = cx.view(Keyword::Eval) else { return };
    if view.options.is_empty() {
        cx.report(valueless::found(view.at, "eval", Some("eval < every 1000 steps >")));
    }
    let mut options = Options::of(&mut view);
    if let Some(m) = options.measure(cx, "every", &EVERY) {
        stretch(cx, r, "schedule.eval_every", m);
    }
    if let Some(n) = options.count_in(cx, "sequences", &SAMPLES, (1, 1 << 40)) {
        r.put("schedule.eval_sequences", n.fact());
    }
    if let Some(s) = options.string(cx, "ppl") {
        r.put("eval.ppl", s.fact());
    }
    if let Some(x) = options.real(cx, "holdout", &SHARE, (0.0, 0.5)) {
        r.put("eval.holdout", x.fact());
    }
    for (name, path) in [("window", "eval.window"), ("stride", "eval.stride")] {
        if let Some(n) = options.count_in(cx, name, &CONTEXT, (1, super::model::MAX_CONTEXT)) {
            r.put(path, n.fact());
        }
    }
    options.finish(cx);
}
