//! LLM0407: more parameters than the language's ceiling.

use crate::diag::{Diagnostic, Page, Rule, Severity, Value, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0407",
    severity: Severity::Error,
    args: &["params", "ceiling"],
    message: text(
        "the shape has {params} parameters, the ceiling is {ceiling}",
        "该形状有 {params} 参数，上限为 {ceiling}",
    ),
    labels: &[text("this makes it so large", "由此产生")],
    help: &[text("lower `layers`, `hidden` or `ffn`", "请减小 `layers`、`hidden` 或 `ffn`")],
    page: Page {
        what: text("The pinned shape has more than 10^13 parameters.", "固定的形状超过 10^13 参数。"),
        why: text(
            "It is checked before anything is searched, so that no product overflows.",
            "在搜索之前检查，避免任何乘积溢出。",
        ),
        example: "model llama < layers 10000  hidden 1000000 >",
        instead: "model llama < layers 100  hidden 12288 >",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let f = &r.facts;
    let ceiling = crate::resolve::MAX_PARAMETERS;
    if let Some(params) = f.count("model.params").filter(|p| *p > ceiling) {
        let at = [
            "model.hidden",
            "model.layers",
            "model.ffn",
            "model.heads",
            "model.head_dim",
            "model.size",
            "model.family",
        ];
        let d = Diagnostic::new(&RULE).at_maybe(at.iter().find_map(|p| f.span(p)));
        out.push(d.arg("params", Value::Large(params as f64)).arg("ceiling", Value::Large(ceiling as f64)));
    }
}
