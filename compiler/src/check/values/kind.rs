//! LLM0204: a value of the wrong kind: a word where a number belongs, and so on.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, Value, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0204",
    severity: Severity::Error,
    args: &["owner", "text", "wanted"],
    message: text(
        "`{owner}` takes {wanted}, not `{text}`",
        "`{owner}` 的取值形式应为 {wanted}，而不是 `{text}`",
    ),
    labels: &[text("wrong kind of value", "取值种类不对")],
    help: &[text("write {wanted}", "请写成 {wanted}")],
    page: Page {
        what: text(
            "The value is a word, a string, a call or a bound where another kind is needed.",
            "此处需要另一种取值，而写了单词、字符串、调用或界限。",
        ),
        why: text(
            "Paths are strings in quotes, choices are words, numbers carry units: each place takes one kind.",
            "路径加引号、选项是单词、数字带单位：每处只接受一种。",
        ),
        example: "model llama 7b < ctx long >",
        instead: "model llama 7b < ctx 8k >",
    },
};

/// The value, its text, and the form that belongs here.
pub fn found(span: Span, words: &str, owner: &str, wanted: impl Into<Value>) -> Diagnostic {
    Diagnostic::new(&RULE)
        .at(span)
        .text("owner", owner)
        .text("text", crate::diag::shorten(words))
        .arg("wanted", wanted.into())
}
