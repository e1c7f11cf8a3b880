//! LLM0202: a value outside what its place allows.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, Value, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0202",
    severity: Severity::Error,
    args: &["owner", "found", "low", "high"],
    message: text(
        "`{owner}` is {found}, but must be from {low} to {high}",
        "`{owner}` 为 {found}，应在 {low} 到 {high} 之间",
    ),
    labels: &[text("out of range", "超出范围")],
    help: &[text("choose a value from {low} to {high}", "请在 {low} 到 {high} 之间取值")],
    page: Page {
        what: text(
            "A value lies outside its range. The ceilings of the language are 2^20 GPUs, 10^13 parameters and 10^16 tokens.",
            "取值超出范围。语言的上限为 2^20 张卡、10^13 参数、10^16 词元。",
        ),
        why: text(
            "Beyond these the formulas no longer hold, or the value means nothing (a beta of 1, a share of 120 %).",
            "超出后公式不再成立，或取值没有意义（如 beta 为 1、比例为 120%）。",
        ),
        example: "model llama 7b\noptimizer adamw < betas 0.9 1.5 >",
        instead: "model llama 7b\noptimizer adamw < betas 0.9 0.95 >",
    },
};

/// The value and its bounds.
pub fn found(span: Span, owner: &str, value: Value, low: Value, high: Value) -> Diagnostic {
    Diagnostic::new(&RULE).at(span).text("owner", owner).arg("found", value).arg("low", low).arg("high", high)
}
