//! LLM0205: two sources of one value.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0205",
    severity: Severity::Error,
    args: &["name"],
    message: text("`{name}` is given twice", "`{name}` 给出了两次"),
    labels: &[text("given again here", "这里又给出一次"), text("first given here", "第一次在这里")],
    help: &[text("keep one; `--set` overrides what the recipe says", "请只保留一处；`--set` 可以覆盖配方")],
    page: Page {
        what: text(
            "One value has two sources of equal rank: two clauses, two options, or two `--set`.",
            "一个值有两个同级来源：两个子句、两个选项或两个 `--set`。",
        ),
        why: text(
            "Whichever won, somebody would believe the other. Only `--set` may override, and the plan shows it.",
            "无论哪个生效，都有人误以为是另一个。只有 `--set` 可以覆盖，且计划会注明。",
        ),
        example: "model llama 7b\nseed 1\nseed 2",
        instead: "model llama 7b\nseed 1",
    },
};

/// The later source and the earlier one.
pub fn found(name: &str, again: Span, first: Span) -> Diagnostic {
    Diagnostic::new(&RULE).at(again).at(first).text("name", name)
}
