//! LLM0008: tokens that parse but that nothing uses.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0008",
    severity: Severity::Error,
    args: &["text"],
    message: text("`{text}` has no meaning here", "`{text}` 在这里没有意义"),
    labels: &[text("nothing takes this", "没有任何规则使用它")],
    help: &[text("remove it, or put it into the option it belongs to", "请删除它，或放到它所属的选项里")],
    page: Page {
        what: text(
            "A value is well formed but no rule takes it: one value too many, or a block where none belongs.",
            "取值写法正确，但没有规则需要它：值过多，或不该有块的地方写了块。",
        ),
        why: text(
            "Every token must change the plan or be reported; this is the report.",
            "每个词要么影响计划，要么被报告；这就是报告。",
        ),
        example: "model llama 7b\nseed 1 2",
        instead: "model llama 7b\nseed 1",
    },
};

/// A run of tokens that nothing consumed.
pub fn found(span: Span, words: &str) -> Diagnostic {
    Diagnostic::new(&RULE).at(span).text("text", crate::diag::shorten(words))
}
