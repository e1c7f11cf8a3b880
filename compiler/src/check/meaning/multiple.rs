//! LLM0604: a multiple of a learning rate that is not there.

use crate::diag::{Diagnostic, Page, Rule, Severity, Value, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0604",
    severity: Severity::Error,
    args: &["multiple"],
    message: text(
        "`{multiple}x` is a multiple of the base's learning rate, and there is no base",
        "`{multiple}x` 是基础模型学习率的倍数，但没有基础模型",
    ),
    labels: &[text("a multiple of what?", "谁的倍数？")],
    help: &[text(
        "write a learning rate such as `lr 3e-4`, leave `lr` out to have it derived, or add `from`",
        "请写学习率如 `lr 3e-4`，或去掉 `lr` 由规则推导，或加上 `from`",
    )],
    page: Page {
        what: text(
            "`lr 0.3x` re-warms to a share of the base's peak; it needs `from`.",
            "`lr 0.3x` 表示重新预热到基础模型峰值的一部分，需要 `from`。",
        ),
        why: text("From scratch there is no peak to take a share of.", "从头训练没有可参照的峰值。"),
        example: "model llama 7b\nlr 0.3x",
        instead: "model llama 7b\nlr 3e-4",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let f = &r.facts;
    if let Some(x) = f.real("lr.multiple").filter(|_| !f.has("from")) {
        out.push(Diagnostic::new(&RULE).at_maybe(f.span("lr.multiple")).arg("multiple", Value::Float(x)));
    }
}
