//! LLM0203: a fraction of something that is counted.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0203",
    severity: Severity::Error,
    args: &["owner", "text"],
    message: text(
        "`{owner}` is counted, but `{text}` is not a whole number",
        "`{owner}` 必须是整数，而 `{text}` 不是",
    ),
    labels: &[text("not whole, or negative", "不是非负整数")],
    help: &[text("write a whole number", "请写整数")],
    page: Page {
        what: text("A count was given a fraction or a negative number.", "计数项写了小数或负数。"),
        why: text(
            "Counts are exact integers from recipe to run; nothing is rounded in silence.",
            "从配方到运行，计数都是精确整数，绝不暗中取整。",
        ),
        example: "model llama 7b < layers 2.5 >",
        instead: "model llama 7b < layers 32 >",
    },
};

/// The quantity and its text.
pub fn found(span: Span, words: &str, owner: &str) -> Diagnostic {
    Diagnostic::new(&RULE).at(span).text("owner", owner).text("text", crate::diag::shorten(words))
}
