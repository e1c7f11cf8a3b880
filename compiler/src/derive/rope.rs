//! Context and RoPE. From scratch the original context is ctx / s; with `from` it is the base's.

use super::{Reader, Rule, Writer};
use crate::ledger::Fact;
use crate::shape;

/// The context the base model was trained at.
pub const BASE: Rule = Rule {
    id: "rope.base",
    reads: &["from", "base.config_context", "model.family"],
    writes: &["base.context"],
    cite: "config.json of the base, else data/models/*.toml (assumed)",
    doc: "The base model's context: its config.json says it, else the family's is assumed.",
    run: |r, w| {
        if !r.has("from") {
            return;
        }
        if let Some(n) = r.count("base.config_context") {
            w.put("base.context", Fact::Count(n));
        } else if let Some(f) = r.word("model.family").and_then(shape::family) {
            w.preset(
                "base.context",
                Fact::Count(f.context),
                &format!("models/{}", f.family),
                "family",
                &f.cite,
            );
        }
    },
};

/// Context where none is given.
pub const CONTEXT: Rule = Rule {
    id: "model.context",
    reads: &["base.context", "model.family"],
    writes: &["model.context"],
    cite: "data/models/*.toml",
    doc: "The base's context, else the one the family was released with.",
    run: |r, w| {
        if let Some(n) = r.count("base.context") {
            w.put("model.context", Fact::Count(n));
        } else if let Some(f) = r.word("model.family").and_then(shape::family) {
            w.preset(
                "model.context",
                Fact::Count(f.context),
                &format!("models/{}", f.family),
                "family",
                &f.cite,
            );
        }
    },
};

/// Base of the frequencies.
pub const THETA: Rule = Rule {
    id: "rope.theta",
    reads: &["model.family"],
    writes: &["model.rope.theta"],
    cite: "data/models/*.toml",
    doc: "The family's base of the rotary frequencies.",
    run: |r, w| {
        if let Some(f) = r.word("model.family").and_then(shape::family) {
            let t = format!("models/{}", f.family);
            w.preset("model.rope.theta", Fact::Real(f.theta), &t, "family", &f.cite);
        }
    },
};

/// Method, factor and original context from what is known of the three.
pub const SCALING: Rule = Rule {
    id: "rope.scaling",
    reads: &[
        "from",
        "model.context",
        "base.context",
        "model.rope.method",
        "model.rope.factor",
        "model.rope.original_context",
    ],
    writes: &["model.rope.method", "model.rope.factor", "model.rope.original_context"],
    cite: "factor = context / original context (arXiv 2306.15595, 2309.00071)",
    doc: "From scratch the original context is ctx / s; continued, it is the base's and s = ctx / original.",
    run: scaling,
};

fn scaling(r: &Reader, w: &mut Writer) {
    let Some(context) = r.count("model.context") else { return };
    let method = r.word("model.rope.method").unwrap_or("none");
    w.put("model.rope.method", Fact::Word(method.to_owned()));
    if method == "none" {
        w.put("model.rope.factor", Fact::Real(1.0));
        w.put("model.rope.original_context", Fact::Count(context));
        return;
    }
    let given = r.count("model.rope.original_context").or_else(|| r.count("base.context"));
    match (given, r.real("model.rope.factor")) {
        (Some(original), _) if original > 0 => {
            w.put("model.rope.original_context", Fact::Count(original));
            // Below the original there is nothing to stretch.
            w.put("model.rope.factor", Fact::Real((context as f64 / original as f64).max(1.0)));
        }
        // Whole by the check on contradictions; floor keeps an integer when it is not.
        (_, Some(factor)) if factor >= 1.0 => {
            w.put("model.rope.original_context", Fact::Count((context as f64 / factor) as u64));
        }
        _ => {}
    }
}
