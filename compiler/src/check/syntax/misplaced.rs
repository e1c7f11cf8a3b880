//! LLM0005: a clause inside the block of another.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0005",
    severity: Severity::Error,
    args: &["clause", "outer"],
    message: text(
        "`{clause}` is its own clause, not an option of `{outer}`",
        "`{clause}` 是独立子句，不是 `{outer}` 的选项",
    ),
    labels: &[text("move it out of the block", "请移到块外"), text("this block", "在这个块里")],
    help: &[text(
        "close the block of `{outer}` with `>` and write `{clause}` after it",
        "请先用 `>` 关闭 `{outer}` 的块，再写 `{clause}`",
    )],
    page: Page {
        what: text(
            "A keyword stands inside the block of another clause.",
            "一个关键字出现在另一个子句的块内。",
        ),
        why: text(
            "Keywords are reserved everywhere, so that one missing bracket damages one clause only.",
            "关键字处处保留，这样漏一个括号只会影响一个子句。",
        ),
        example: "model llama 7b\noptimizer adamw < lr 3e-4 >",
        instead: "model llama 7b\noptimizer adamw\nlr 3e-4",
    },
};

/// The inner clause (whole) and the keyword of the outer one.
pub fn found(inner: Span, clause: &str, outer_span: Span, outer: &str) -> Diagnostic {
    Diagnostic::new(&RULE).at(inner).at(outer_span).text("clause", clause).text("outer", outer)
}
