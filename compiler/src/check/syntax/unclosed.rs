//! LLM0002: a bracket that is never closed.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0002",
    severity: Severity::Error,
    args: &["open", "close", "owner"],
    message: text("the `{open}` of `{owner}` is never closed", "`{owner}` 的 `{open}` 没有闭合"),
    labels: &[text("opened here", "在此打开"), text("up to here", "到此为止")],
    help: &[text(
        "add `{close}` after the last option of `{owner}`",
        "请在 `{owner}` 的最后一个选项之后加上 `{close}`",
    )],
    page: Page {
        what: text("A block or an argument list has no closing bracket.", "块或参数列表缺少右括号。"),
        why: text(
            "Without it nobody can tell which options belong to the clause.",
            "缺少右括号就无法判断哪些选项属于该子句。",
        ),
        example: "model llama 7b < ctx 8k\nbudget 1T tokens",
        instead: "model llama 7b < ctx 8k >\nbudget 1T tokens",
    },
};

/// `open` is the bracket's span, `end` where the block was given up.
pub fn found(open: Span, brackets: (&str, &str), owner: &str) -> Diagnostic {
    Diagnostic::new(&RULE).at(open).text("open", brackets.0).text("close", brackets.1).text("owner", owner)
}
