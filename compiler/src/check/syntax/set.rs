//! LLM0009: a `--set` that is not `path=value`.

use crate::diag::{Diagnostic, Page, Rule, Severity, Source, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0009",
    severity: Severity::Error,
    args: &["text", "near", "head"],
    message: text("`--set {text}` does not name a clause and a value", "`--set {text}` 没有给出子句与取值"),
    labels: &[text(
        "expected `clause=value` or `clause.option=value`",
        "应为 `子句=取值` 或 `子句.选项=取值`",
    )],
    help: &[
        text("did you mean `{near}` instead of `{head}`?", "是否想写 `{near}` 而不是 `{head}`？"),
        text(
            "write for example `--set model.ctx=4k` or `--set \"budget=1T tokens\"`",
            "例如 `--set model.ctx=4k` 或 `--set \"budget=1T tokens\"`",
        ),
    ],
    page: Page {
        what: text(
            "A `--set` has the form `path=value`; the path starts with a clause, the value is written as in a recipe.",
            "`--set` 的形式为 `路径=取值`；路径以子句名开头，取值写法与配方相同。",
        ),
        why: text("An override that reaches nothing would be silent.", "未命中任何内容的覆盖会悄无声息。"),
        example: "--set modle.ctx=4k",
        instead: "--set model.ctx=4k",
    },
};

/// The n-th `--set`, as typed.
pub fn found(index: usize, typed: &str, head: &str, near: Option<&str>) -> Diagnostic {
    let whole = Span { source: Source::Set(index), start: 0, end: typed.len() };
    let d = Diagnostic::new(&RULE).at(whole).text("text", crate::diag::shorten(typed)).text("head", head);
    match near {
        Some(name) => d.text("near", name),
        None => d,
    }
}
