//! LLM0402: a shape that cannot be built.

use crate::diag::{Diagnostic, Page, Rule, Severity, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0402",
    severity: Severity::Error,
    args: &["whole", "whole_value", "part", "part_value", "near"],
    message: text(
        "{part} {part_value} does not fit {whole} {whole_value}",
        "{part} {part_value} 与 {whole} {whole_value} 不相容",
    ),
    labels: &[
        text("{part} {part_value}", "{part} {part_value}"),
        text("{whole} {whole_value}", "{whole} {whole_value}"),
    ],
    help: &[text("the nearest {part} that fits is {near}", "最接近的可用 {part} 为 {near}")],
    page: Page {
        what: text(
            "Query heads must be a multiple of key-value heads, heads times head width must equal the model's width unless `head_dim` is given, and RoPE turns pairs, so a head's width is even.",
            "查询头数须为 KV 头数的倍数；未指定 `head_dim` 时头数乘头宽须等于模型宽度；RoPE 成对旋转，头宽须为偶数。",
        ),
        why: text("Such a model has no weights to hold it.", "这样的模型无法构造权重。"),
        example: "model llama 7b < heads 32  kv_heads 6 >",
        instead: "model llama 7b < heads 32  kv_heads 8 >",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let f = &r.facts;
    let divisor = |n: u64, wish: u64| {
        // Of two equally near the larger: fewer parameters change.
        (1..=n.min(1 << 16))
            .rev()
            .filter(|d| n.is_multiple_of(*d))
            .min_by_key(|d| d.abs_diff(wish))
            .unwrap_or(1)
    };
    let get = |p: &str| f.count(p);
    let (Some(hidden), Some(heads), Some(kv), Some(dim)) =
        (get("model.hidden"), get("model.heads"), get("model.kv_heads"), get("model.head_dim"))
    else {
        return;
    };
    let mut report = |part: (&'static str, &str, u64), whole: (&'static str, &str, u64), near: u64| {
        let fallback = f.span("model.size").or(f.span("model.family"));
        let mut d = Diagnostic::new(&RULE).at_maybe(f.span(part.1).or(f.span(whole.1)).or(fallback));
        if f.span(part.1).is_some() {
            d = d.at_maybe(f.span(whole.1));
        }
        out.push(
            d.text("part", part.0)
                .count("part_value", part.2)
                .text("whole", whole.0)
                .count("whole_value", whole.2)
                .count("near", near),
        );
    };
    if kv == 0 || !heads.is_multiple_of(kv) {
        report(("kv_heads", "model.kv_heads", kv), ("heads", "model.heads", heads), divisor(heads, kv));
    }
    let own_dim = f.span("model.head_dim").is_some();
    if !own_dim && heads.checked_mul(dim) != Some(hidden) {
        report(("heads", "model.heads", heads), ("hidden", "model.hidden", hidden), divisor(hidden, heads));
    } else if !dim.is_multiple_of(2) {
        report(("head_dim", "model.head_dim", dim), ("heads", "model.heads", heads), dim + 1);
    }
}
