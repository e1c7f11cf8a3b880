//! LLM0004: `<` or `>` used as a comparison.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0004",
    severity: Severity::Error,
    args: &["name", "found", "near"],
    message: text("`{name} {found}` is no comparison of the language", "`{name} {found}` 不是本语言的比较"),
    labels: &[text("`{found}` opens or closes a block", "`{found}` 用于打开或关闭块")],
    help: &[text("write `{near}`", "请写 `{near}`")],
    page: Page {
        what: text("A bound is written with `<` or `>`.", "用 `<` 或 `>` 写了一个界限。"),
        why: text(
            "`<` and `>` are brackets. A bound is `<=` or `>=`; for real numbers the difference does not matter.",
            "`<` 与 `>` 是括号；界限写作 `<=` 或 `>=`，对实数而言没有差别。",
        ),
        example: "expect memory < 76 GiB",
        instead: "expect memory <= 76 GiB",
    },
};

/// The comparison sign's span and the metric it follows.
pub fn found(sign: Span, name: &str, strict: &str) -> Diagnostic {
    let near = format!("{strict}=");
    Diagnostic::new(&RULE).at(sign).text("name", name).text("found", strict).near(sign, Some(&near))
}
