//! LLM0006: an option or a clause without a value.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0006",
    severity: Severity::Error,
    args: &["name", "example"],
    message: text("`{name}` has no value", "`{name}` 没有取值"),
    labels: &[text("a value must follow", "后面必须有取值")],
    help: &[
        text("write for example `{example}`", "例如 `{example}`"),
        text("write the value after `{name}`", "请在 `{name}` 之后写上取值"),
    ],
    page: Page {
        what: text("An option or a clause stands alone.", "选项或子句后面没有取值。"),
        why: text(
            "Every option has a value, so that a forgotten one is seen: switches are written `yes` or `no`.",
            "每个选项都必须有取值，漏写才能被发现：开关写作 `yes` 或 `no`。",
        ),
        example: "model llama 7b < tied >",
        instead: "model llama 7b < tied yes >",
    },
};

/// The name without value; `example` is a way to write it, where one is known.
pub fn found(span: Span, name: &str, example: Option<&str>) -> Diagnostic {
    let d = Diagnostic::new(&RULE).at(span).text("name", name);
    match example {
        Some(e) => d.text("example", e),
        None => d,
    }
}
