//! LLM0001: text that is no part of the language.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0001",
    severity: Severity::Error,
    args: &["text"],
    message: text("`{text}` is not part of the language", "`{text}` 不属于本语言"),
    labels: &[text("does not belong here", "不应出现在这里")],
    help: &[text(
        "a recipe is clauses such as `model llama 7b < ctx 8k >`; remove this or write it as an option",
        "配方由若干子句组成，例如 `model llama 7b < ctx 8k >`；请删除此处，或改写成选项",
    )],
    page: Page {
        what: text(
            "Some text is neither a clause, an option, a value nor a comment.",
            "有一段文字既不是子句、选项、取值，也不是注释。",
        ),
        why: text(
            "Nothing in a recipe is skipped in silence: every word either changes the plan or is reported.",
            "配方里没有任何内容会被静默忽略：每个词要么影响计划，要么被报告。",
        ),
        example: "model llama 7b < ctx 8k ; rope yarn(s=2) >",
        instead: "model llama 7b < ctx 8k  rope yarn(s=2) >",
    },
};

/// The text of a piece of junk.
pub fn found(span: Span, words: &str) -> Diagnostic {
    Diagnostic::new(&RULE).at(span).text("text", crate::diag::shorten(words))
}
