//! LLM0206: two currencies in one recipe.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0206",
    severity: Severity::Error,
    args: &["found", "wanted"],
    message: text("money in {found} beside money in {wanted}", "同时使用了 {found} 与 {wanted}"),
    labels: &[text("this is {found}", "这里是 {found}"), text("this is {wanted}", "这里是 {wanted}")],
    help: &[text("write all sums in one currency", "请全部使用同一种货币")],
    page: Page {
        what: text(
            "Prices, a budget or bounds name different currencies.",
            "价格、预算或界限使用了不同货币。",
        ),
        why: text(
            "A plan is a pure function of its recipe, so it knows no exchange rate.",
            "计划只由配方决定，不含汇率。",
        ),
        example: "model llama 7b\nprice < gpu ¥18/h  electricity $0.1/kWh >",
        instead: "model llama 7b\nprice < gpu ¥18/h  electricity ¥0.8/kWh >",
    },
};

/// The odd sum and the first one.
pub fn found(at: Span, currency: &str, first: Span, wanted: &str) -> Diagnostic {
    Diagnostic::new(&RULE).at(at).at(first).text("found", currency).text("wanted", wanted)
}
