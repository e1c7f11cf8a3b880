//! `edition seed batch optimizer lr precision determinism freeze`

use llmc_grammar::{Keyword, Value};

use super::Resolved;
use super::cx::{Cx, span};
use super::merge::From;
use super::read::{COUNT, Options, REAL, SHARE, STRETCH, Typed, only_head};
use crate::check::names::choice;
use crate::check::syntax::valueless;
use crate::check::values::{kind, range, twice};
use crate::diag::{self, text};
use crate::ledger::Fact;
use crate::unit::{Dimension, Measure, Slot};

/// Ceiling of the language (design section 3).
pub const MAX_TOKENS: u64 = 10_000_000_000_000_000;
/// The editions there are.
pub const EDITIONS: (u64, u64) = (2026, 2026);

const BATCH: Slot = Slot { accepts: &[Dimension::Tokens, Dimension::Sequences], bare: None, binary_k: false };
const RATE: Slot = Slot {
    accepts: &[Dimension::LearningRate, Dimension::Multiplier],
    bare: Some(Dimension::LearningRate),
    binary_k: false,
};
const OPTIMIZERS: &[&str] = &["adamw", "lion", "adafactor", "paged_adamw"];
/// Learning-rate schedules.
pub const SCHEDULES: &[&str] = &["cosine", "linear", "onecycle", "wsd", "constant"];
/// Parts that can be frozen.
pub const FROZEN: &[&str] = &["embeddings", "attention", "ffn", "norms", "head"];

/// `edition 2026`
pub fn edition(cx: &mut Cx, r: &mut Resolved) {
    let Some(mut view) = cx.view(Keyword::Edition) else { return };
    if let Some(head) = only_head(cx, &view, "edition 2026")
        && let Some(n) = cx.count(&head, &head.node, &COUNT, EDITIONS, "edition")
    {
        r.put("recipe.edition", n.fact());
    }
    Options::of(&mut view).finish(cx);
}

/// `seed 1`
pub fn seed(cx: &mut Cx, r: &mut Resolved) {
    let Some(mut view) = cx.view(Keyword::Seed) else { return };
    // JSON readers keep integers exact up to 2^53 only.
    if let Some(head) = only_head(cx, &view, "seed 1")
        && let Some(n) = cx.count(&head, &head.node, &COUNT, (0, 1 << 53), "seed")
    {
        r.put("seed", n.fact());
    }
    Options::of(&mut view).finish(cx);
}

/// `batch 4_194_304 tokens` or `batch 512 sequences`
pub fn batch(cx: &mut Cx, r: &mut Resolved) {
    let Some(mut view) = cx.view(Keyword::Batch) else { return };
    if let Some(head) = only_head(cx, &view, "batch 4M tokens")
        && let Some(m) = cx.measure(&head, &head.node, &BATCH, "batch")
    {
        let path = if m.value.dimension == Dimension::Sequences {
            "batch.asked_sequences"
        } else {
            "batch.asked_tokens"
        };
        if let Some(n) = cx.counted(m, (1, MAX_TOKENS), "batch") {
            r.put(path, n.fact());
        }
    }
    Options::of(&mut view).finish(cx);
}

/// `optimizer adamw < betas 0.9 0.95  wd 0.1  clip 1.0  eps 1e-8  state bf16  master split  gradients bf16  skip 10 >`
pub fn optimizer(cx: &mut Cx, r: &mut Resolved) {
    let Some(mut view) = cx.view(Keyword::Optimizer) else { return };
    if let Some(head) = view.heads.first().cloned()
        && let Some(word) = cx.choice(&head, &head.node, OPTIMIZERS, "optimizer")
    {
        r.put("optimizer.kind", word.fact());
    }
    let empty = view.heads.is_empty() && view.options.is_empty();
    if empty {
        cx.report(valueless::found(view.at, "optimizer", Some("optimizer adamw")));
    }
    let mut options = Options::of(&mut view);
    if let Some((setting, first)) = options.value(cx, "betas") {
        // A beta of 1 never forgets its first gradient.
        let bounds = (0.0, 0.99999);
        if let Some(x) = cx.real(&setting.opt, &first, &REAL, bounds, "betas") {
            r.put("optimizer.beta1", x.fact());
        }
        match setting.opt.node.values.get(1) {
            Some(second) => {
                if let Some(x) = cx.real(&setting.opt, second, &REAL, bounds, "betas") {
                    r.put("optimizer.beta2", x.fact());
                }
            }
            None => {
                let at = span(setting.opt.source, first.span());
                let words = cx.slice(at).to_owned();
                cx.report(kind::found(
                    at,
                    &words,
                    "betas",
                    text("two numbers such as `betas 0.9 0.95`", "两个数，如 `betas 0.9 0.95`"),
                ));
            }
        }
    }
    for (name, path, bounds) in [
        ("wd", "optimizer.weight_decay", (0.0, 10.0)),
        ("clip", "optimizer.clip", (0.0, 1e6)),
        ("eps", "optimizer.eps", (1e-30, 1.0)),
    ] {
        if let Some(x) = options.real(cx, name, &REAL, bounds) {
            r.put(path, x.fact());
        }
    }
    if let Some(word) = options.choice(cx, "state", &["f32", "bf16", "fp8"]) {
        r.put("optimizer.state_dtype", word.fact());
    }
    if let Some(word) = options.choice(cx, "master", &["f32", "split", "stochastic"]) {
        r.put("optimizer.master", word.fact());
    }
    if let Some(word) = options.choice(cx, "gradients", &["f32", "bf16"]) {
        r.put("optimizer.gradient_dtype", word.fact());
    }
    if let Some(n) = options.count(cx, "skip", (0, 1_000_000)) {
        r.put("schedule.skip_steps", n.fact());
    }
    options.finish(cx);
}

/// `lr 3e-4 wsd(decay=10%) < warmup 2000 steps >`, `lr 0.3x cosine(final=10%) < rewarm 1% >`
pub fn lr(cx: &mut Cx, r: &mut Resolved) {
    let Some(mut view) = cx.view(Keyword::Lr) else { return };
    if view.heads.is_empty() && view.options.is_empty() {
        cx.report(valueless::found(view.at, "lr", Some("lr 3e-4 cosine")));
    }
    let (mut peak, mut schedule): (Option<diag::Span>, Option<diag::Span>) = (None, None);
    for head in &view.heads {
        let at = span(head.source, head.node.span());
        let first =
            if matches!(head.node, Value::Word(_) | Value::Call(_)) { &mut schedule } else { &mut peak };
        if let Some(first) = *first {
            cx.report(twice::found("lr", at, first));
            continue;
        }
        *first = Some(at);
        match &head.node {
            Value::Word(_) => {
                if let Some(word) = cx.choice(head, &head.node, SCHEDULES, "lr schedule") {
                    r.put("lr.schedule", word.fact());
                }
            }
            Value::Call(call) => read_schedule(cx, r, head, call),
            _ => {
                if let Some(m) = cx.measure(head, &head.node, &RATE, "lr") {
                    let x = m.value.to_f64();
                    let (path, high) = if m.value.dimension == Dimension::Multiplier {
                        ("lr.multiple", 100.0)
                    } else {
                        ("lr.peak", 10.0)
                    };
                    if x > 0.0 && x <= high {
                        r.facts.put(path, Fact::Real(x), m.why);
                    } else {
                        let v = diag::Value::Float;
                        cx.report(range::found(m.span, "lr", v(x), v(0.0), v(high)));
                    }
                }
            }
        }
    }
    let mut options = Options::of(&mut view);
    let warmup = options.measure(cx, "warmup", &STRETCH);
    let rewarm = options.measure(cx, "rewarm", &STRETCH);
    if let (Some(a), Some(b)) = (&warmup, &rewarm) {
        cx.report(twice::found("warmup", b.span, a.span));
    }
    if let Some(m) = rewarm.or(warmup) {
        stretch(cx, r, "lr.warmup", m);
    }
    options.finish(cx);
}

fn read_schedule(cx: &mut Cx, r: &mut Resolved, head: &From<Value>, call: &llmc_grammar::Call) {
    let Some(name) = SCHEDULES.iter().find(|s| **s == call.name.value) else {
        cx.report(choice::found(span(head.source, call.span), &call.name.value, "lr schedule", SCHEDULES));
        return;
    };
    r.facts.put("lr.schedule", Fact::Word((*name).to_owned()), head.why(call.name.span));
    let known: &[&str] = match *name {
        "wsd" => &["decay", "final"],
        "constant" => &[],
        _ => &["final"],
    };
    for (argument, value) in cx.arguments(head, call, known) {
        let path = if argument == "decay" { "lr.decay_fraction" } else { "lr.final_fraction" };
        if let Some(x) = cx.real(head, &value, &SHARE, (0.0, 1.0), argument) {
            r.put(path, x.fact());
        }
    }
}

/// A stretch of the run goes to `PATH_steps`, `_tokens`, `_fraction` or `_seconds` by its unit.
pub fn stretch(cx: &mut Cx, r: &mut Resolved, path: &str, m: Typed<Measure>) {
    let (tail, whole) = match m.value.dimension {
        Dimension::Steps => ("steps", true),
        Dimension::Tokens => ("tokens", true),
        Dimension::Ratio => ("fraction", false),
        _ => ("seconds", false),
    };
    let path = format!("{path}_{tail}");
    let words = cx.slice(m.span).to_owned();
    if whole {
        match m.value.number.count() {
            Some(n) if n <= MAX_TOKENS => r.facts.put(path, Fact::Count(n), m.why),
            _ => cx.report(crate::check::values::whole::found(m.span, &words, &path)),
        }
        return;
    }
    let x = m.value.to_f64();
    // A century bounds what a duration can mean here.
    let high = if tail == "fraction" { 1.0 } else { 3.2e9 };
    if (0.0..=high).contains(&x) {
        r.facts.put(path, Fact::Real(x), m.why);
    } else {
        let v = |x| if tail == "fraction" { diag::Value::Ratio(x) } else { diag::Value::Seconds(x) };
        cx.report(range::found(m.span, "a stretch of the run", v(x), v(0.0), v(high)));
    }
}

fn one_word(
    cx: &mut Cx,
    r: &mut Resolved,
    keyword: Keyword,
    path: &str,
    known: &[&'static str],
    example: &str,
) {
    let Some(mut view) = cx.view(keyword) else { return };
    if let Some(head) = only_head(cx, &view, example)
        && let Some(word) = cx.choice(&head, &head.node, known, keyword.text())
    {
        r.put(path, word.fact());
    }
    Options::of(&mut view).finish(cx);
}

/// `precision bf16`
pub fn precision(cx: &mut Cx, r: &mut Resolved) {
    one_word(cx, r, Keyword::Precision, "precision", &["f32", "bf16", "fp16", "fp8"], "precision bf16");
}

/// `determinism bitwise`
pub fn determinism(cx: &mut Cx, r: &mut Resolved) {
    one_word(cx, r, Keyword::Determinism, "determinism", &["fast", "bitwise"], "determinism bitwise");
}

/// `freeze embeddings norms`
pub fn freeze(cx: &mut Cx, r: &mut Resolved) {
    let Some(mut view) = cx.view(Keyword::Freeze) else { return };
    if view.heads.is_empty() {
        cx.report(valueless::found(view.at, "freeze", Some("freeze embeddings")));
    }
    for head in &view.heads {
        if let Some(word) = cx.choice(head, &head.node, FROZEN, "freeze") {
            let name = word.value.to_owned();
            let path = format!("freeze.{}", r.freeze.len());
            if r.freeze.contains(&name) {
                let first = r.facts.span("freeze.0").unwrap_or(word.span);
                cx.report(twice::found(&name, word.span, first));
                continue;
            }
            r.facts.put(path, Fact::Word(name.clone()), word.why);
            r.freeze.push(name);
        }
    }
    Options::of(&mut view).finish(cx);
}
