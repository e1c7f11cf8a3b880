//! LLM0704: windows of evaluation that do not fit the context, or leave tokens out.

use crate::diag::{Diagnostic, Page, Rule, Severity, Value, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0704",
    severity: Severity::Warning,
    args: &["name", "value", "most", "of"],
    message: text(
        "`{name}` of evaluation is {value} tokens, above the {of}: {most} is used",
        "评估的 `{name}` 为 {value} 个词元，超过 {of}：改用 {most}",
    ),
    labels: &[text("too large", "过大")],
    help: &[text("write at most {most}, or leave it out", "请写不超过 {most} 的值，或去掉该选项")],
    page: Page {
        what: text(
            "A window of evaluation is larger than the context, or windows lie further apart than they are long.",
            "评估窗口大于上下文长度，或窗口间距大于窗口本身。",
        ),
        why: text(
            "A row of a batch holds one context; a stride above the window would leave tokens out of the perplexity.",
            "批次的一行即一个上下文；步长大于窗口会使部分词元不计入困惑度。",
        ),
        example: "model llama 7b < ctx 4k >\neval < window 8k >",
        instead: "model llama 7b < ctx 4k >\neval < window 4k  stride 2k >",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let count = |path: &str| r.facts.count(path);
    let Some(context) = count("model.context") else { return };
    let window = count("eval.window").map(|n| n.min(context));
    for (path, name, most, of) in [
        ("eval.window", "window", context, "context"),
        (
            "eval.stride",
            "stride",
            window.unwrap_or(context),
            if window.is_some() { "window" } else { "context" },
        ),
    ] {
        if let Some(value) = count(path).filter(|&value| value > most) {
            let d = Diagnostic::new(&RULE).at_maybe(r.facts.span(path)).text("name", name).text("of", of);
            out.push(d.arg("value", Value::Count(value)).arg("most", Value::Count(most)));
        }
    }
}
