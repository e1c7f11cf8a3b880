//! LLM0301: a recipe without a model.

use crate::diag::{Diagnostic, Page, Rule, Severity, Source, Span, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0301",
    severity: Severity::Error,
    args: &[],
    message: text("the recipe has no `model`", "配方缺少 `model` 子句"),
    labels: &[],
    help: &[text("add for example `model llama 7b < ctx 8k >`", "请添加例如 `model llama 7b < ctx 8k >`")],
    page: Page {
        what: text("No clause says what is trained.", "没有子句说明要训练什么。"),
        why: text(
            "Everything else follows from the model: memory, time, batch, learning rate, money.",
            "显存、时间、批大小、学习率、费用都由模型推出。",
        ),
        example: "budget 1T tokens",
        instead: "model llama 7b\nbudget 1T tokens",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    if !r.has_model {
        out.push(Diagnostic::new(&RULE).at(Span { source: Source::Recipe, start: 0, end: 0 }));
    }
}
