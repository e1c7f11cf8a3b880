//! LLM0406: a context beyond the base's without scaling.

use crate::diag::{Diagnostic, Page, Rule, Severity, Value, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0406",
    severity: Severity::Warning,
    args: &["context", "base", "factor"],
    message: text(
        "the base saw {base} positions, the context is {context}",
        "基础模型只见过 {base} 个位置，而上下文为 {context}",
    ),
    labels: &[text("{factor} times the base", "基础模型的 {factor} 倍")],
    help: &[text(
        "add `rope yarn` or `rope ntk`; the factor {factor} then follows from the base",
        "请加上 `rope yarn` 或 `rope ntk`；倍数 {factor} 会由基础模型推出",
    )],
    page: Page {
        what: text(
            "Continued pre-training uses a longer context than the base was trained at, with plain RoPE.",
            "继续预训练的上下文比基础模型更长，但使用未缩放的 RoPE。",
        ),
        why: text(
            "Rotations the base never saw make attention fail (Chen et al. 2023, arXiv 2306.15595).",
            "基础模型没见过的旋转角会使注意力失效（Chen et al. 2023, arXiv 2306.15595）。",
        ),
        example: "model llama 13b < ctx 8k >\nfrom \"models/base\"",
        instead: "model llama 13b < ctx 8k  rope yarn >\nfrom \"models/base\"",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let f = &r.facts;
    let (Some(context), Some(base)) = (f.count("model.context"), f.count("base.context")) else { return };
    if context > base && f.word("model.rope.method") == Some("none") {
        let d = Diagnostic::new(&RULE).at_maybe(f.span("model.context"));
        let factor = Value::Float(context as f64 / base.max(1) as f64);
        out.push(d.count("context", context).count("base", base).arg("factor", factor));
    }
}
