//! `model FAMILY SIZE < … >`

use llmc_grammar::{Keyword, Value};

use super::Resolved;
use super::cx::{Cx, span};
use super::merge::{From, Setting};
use super::read::{CONTEXT, COUNT, Options, REAL, SHARE, first_value};
use crate::check::names::choice;
use crate::check::syntax::valueless;
use crate::check::values::{kind, range, twice, whole};
use crate::diag::{self, text};
use crate::ledger::Fact;
use crate::shape::families;
use crate::unit::{Dimension, Number, Slot};

/// `vocab 64k` is 64,000 tokens of the tokenizer: never binary.
const VOCAB: Slot = Slot { accepts: &[Dimension::Tokens], bare: Some(Dimension::Tokens), binary_k: false };
/// Ceiling of the language (design section 3).
pub const MAX_PARAMETERS: u64 = 10_000_000_000_000;
/// Longest context: 2³⁰ tokens, beyond every published one (10 M).
pub const MAX_CONTEXT: u64 = 1 << 30;

/// RoPE methods.
pub const ROPE: &[&str] = &["none", "pi", "ntk", "yarn", "llama3"];

/// Reads the clause.
pub fn model(cx: &mut Cx, r: &mut Resolved) {
    let Some(mut view) = cx.view(Keyword::Model) else { return };
    r.has_model = true;
    if view.heads.is_empty() {
        cx.report(valueless::found(view.at, "model", Some("model llama 7b")));
    }
    let (mut family, mut size): (Option<diag::Span>, Option<diag::Span>) = (None, None);
    for head in &view.heads {
        let at = span(head.source, head.node.span());
        match &head.node {
            Value::Word(word) if family.is_none() => {
                family = Some(at);
                let known: Vec<&str> = families().iter().map(|f| f.family.as_str()).collect();
                if known.contains(&word.value.as_str()) {
                    cx.mark(at);
                    r.facts.put("model.family", Fact::Word(word.value.clone()), head.why(word.span));
                } else {
                    cx.report(choice::found(at, &word.value, "model", &known));
                }
            }
            Value::Size(typed) => match size {
                Some(first) => cx.report(twice::found("model size", at, first)),
                None => {
                    size = Some(at);
                    read_size(cx, r, head, typed);
                }
            },
            Value::Word(_) => {}
            Value::BadNumber(_) => size = Some(at),
            _ => {
                let words = cx.slice(at).to_owned();
                cx.report(kind::found(
                    at,
                    &words,
                    "model",
                    text("a family and a size such as `llama 7b`", "模型族与规模，如 `llama 7b`"),
                ));
            }
        }
    }
    let mut options = Options::of(&mut view);
    // Widths and depths far beyond any model; products stay below 2^64 by the ceiling on parameters.
    for (name, path, high) in [
        ("layers", "model.layers", 10_000),
        ("hidden", "model.hidden", 1 << 20),
        ("heads", "model.heads", 1 << 16),
        ("kv_heads", "model.kv_heads", 1 << 16),
        ("head_dim", "model.head_dim", 1 << 16),
        ("ffn", "model.ffn", 1 << 22),
    ] {
        if let Some(n) = options.count_in(cx, name, &COUNT, (1, high)) {
            r.put(path, n.fact());
        }
    }
    if let Some(n) = options.count_in(cx, "ctx", &CONTEXT, (1, MAX_CONTEXT)) {
        r.put("model.context", n.fact());
    }
    if let Some(n) = options.count_in(cx, "vocab", &VOCAB, (2, 1 << 24)) {
        r.put("model.vocab", n.fact());
    }
    if let Some(b) = options.switch(cx, "tied") {
        r.put("model.tied", b.fact());
    }
    if let Some(x) = options.real(cx, "norm_eps", &REAL, (1e-12, 1e-2)) {
        r.put("model.norm_eps", x.fact());
    }
    if let Some(x) = options.real(cx, "dropout", &SHARE, (0.0, 0.9)) {
        r.put("model.dropout", x.fact());
    }
    if let Some(x) = options.real(cx, "init", &REAL, (1e-6, 1.0)) {
        r.put("model.init_std", x.fact());
    }
    if let Some(mut setting) = options.take(cx, "rope") {
        rope(cx, r, &mut setting);
    }
    options.finish(cx);
}

fn read_size(cx: &mut Cx, r: &mut Resolved, head: &From<Value>, size: &llmc_grammar::Spanned<String>) {
    let at = span(head.source, size.span);
    let (digits, power) = match size.value.strip_suffix('b') {
        Some(d) => (d, 9),
        None => (size.value.trim_end_matches('m'), 6),
    };
    let Some(n) = Number::parse(digits).and_then(|n| n.scaled(1, power)).and_then(Number::count) else {
        cx.report(whole::found(at, &size.value, "model size"));
        return;
    };
    // Below a million parameters there is no embedding to speak of.
    if !(1_000_000..=MAX_PARAMETERS).contains(&n) {
        let large = |n: u64| diag::Value::Large(n as f64);
        cx.report(range::found(at, "model size", large(n), large(1_000_000), large(MAX_PARAMETERS)));
        return;
    }
    cx.mark(at);
    r.facts.put("model.size", Fact::Word(size.value.clone()), head.why(size.span));
    r.facts.put("model.asked_params", Fact::Count(n), head.why(size.span));
}

/// `rope none | pi(s=) | ntk(s=) | yarn(s=, original=, theta=) | llama3(s=)`, the factor optional where it derives.
fn rope(cx: &mut Cx, r: &mut Resolved, setting: &mut Setting) {
    let Some(value) = first_value(cx, setting) else { return };
    let at = span(setting.opt.source, value.span());
    match &value {
        Value::Word(_) => {
            if let Some(word) = cx.choice(&setting.opt, &value, ROPE, "rope") {
                r.put("model.rope.method", word.fact());
            }
        }
        Value::Call(call) => {
            let method = ROPE.iter().find(|m| **m == call.name.value);
            let Some(method) = method else {
                // The whole call is the finding's, arguments included.
                cx.report(choice::found(at, &call.name.value, "rope", ROPE));
                return;
            };
            r.facts.put(
                "model.rope.method",
                Fact::Word((*method).to_owned()),
                setting.opt.why(call.name.span),
            );
            let known: &[&str] = if *method == "none" { &["theta"] } else { &["s", "original", "theta"] };
            for (name, value) in cx.arguments(&setting.opt, call, known) {
                match name {
                    // The largest published stretch is 64 (YaRN to 128k of 2k); 4,096 leaves room.
                    "s" => {
                        if let Some(x) = cx.real(&setting.opt, &value, &FACTOR, (1.0, 4096.0), "rope factor")
                        {
                            r.put("model.rope.factor", x.fact());
                        }
                    }
                    "original" => {
                        if let Some(n) =
                            cx.count(&setting.opt, &value, &CONTEXT, (1, MAX_CONTEXT), "original context")
                        {
                            r.put("model.rope.original_context", n.fact());
                        }
                    }
                    _ => {
                        if let Some(x) = cx.real(&setting.opt, &value, &REAL, (1.0, 1e12), "theta") {
                            r.put("model.rope.theta", x.fact());
                        }
                    }
                }
            }
        }
        Value::BadNumber(_) => {}
        _ => {
            let words = cx.slice(at).to_owned();
            cx.report(kind::found(
                at,
                &words,
                "rope",
                diag::Value::Text("none | pi | ntk | yarn(s=2) | llama3".to_owned()),
            ));
        }
    }
}

/// `s=2` or `s=2x`.
const FACTOR: Slot = Slot {
    accepts: &[Dimension::Multiplier, Dimension::Count],
    bare: Some(Dimension::Count),
    binary_k: false,
};
