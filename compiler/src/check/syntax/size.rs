//! LLM0010: a recipe that is no page.

use crate::diag::{Diagnostic, Page, Rule, Severity, Source, Span, Value, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0010",
    severity: Severity::Error,
    args: &["size", "limit"],
    message: text("a recipe is one page, this has {size}", "配方应为一页，而这里有 {size}"),
    labels: &[text("at most {limit}", "最多 {limit}")],
    help: &[text(
        "is this the right file? Text to train on belongs into `data`, as a path",
        "文件对吗？训练文本应以路径写在 `data` 里",
    )],
    page: Page {
        what: text(
            "The file has more than 64 KiB; the longest recipe of the reference has one.",
            "文件超过 64 KiB；参考手册中最长的配方约 1 KiB。",
        ),
        why: text(
            "It is almost surely not a recipe, and a hundred thousand findings would help nobody.",
            "几乎可以肯定它不是配方，而十万条报告对谁都没有帮助。",
        ),
        example: "(more than 64 KiB)",
        instead: "model llama 7b < ctx 8k >",
    },
};

/// Bytes a recipe may have.
pub const LIMIT: usize = 64 << 10;

/// Checks a source before anything reads it.
pub fn check(source: Source, words: &str) -> Option<Diagnostic> {
    let bytes = |n: usize| Value::Bytes(n as u64);
    let whole = Span { source, start: 0, end: words.len() };
    let d = || Diagnostic::new(&RULE).at(whole).arg("size", bytes(words.len())).arg("limit", bytes(LIMIT));
    (words.len() > LIMIT).then(d)
}
