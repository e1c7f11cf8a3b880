//! LLM0903: a bound of `expect` that the plan does not meet.

use llmc_grammar::Cmp;

use crate::diag::{Diagnostic, Page, Rule, Severity, Value, text};
use crate::resolve::Expectation;
use crate::unit::Dimension;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0903",
    severity: Severity::Error,
    args: &["name", "sign", "bound", "planned", "path"],
    message: text(
        "expected {name} {sign} {bound}, planned is {planned}",
        "期望 {name} {sign} {bound}，计划为 {planned}",
    ),
    labels: &[text("the plan has {planned}", "计划为 {planned}")],
    help: &[text(
        "`llmc why RECIPE {path}` shows what it depends on; loosen the bound or change that",
        "`llmc why 配方 {path}` 会说明它取决于什么；请放宽界限或修改那些设置",
    )],
    page: Page {
        what: text("The plan breaks a bound of `expect`.", "计划违反了 `expect` 的界限。"),
        why: text(
            "`expect` is a recipe's test: it fails in CI before a cluster does.",
            "`expect` 是配方的测试：它在 CI 里失败，而不是在集群上。",
        ),
        example: "model llama 7b < ctx 8k >\nbudget 1T tokens on 64xH100\nexpect time <= 1 day",
        instead: "model llama 7b < ctx 8k >\nbudget 1T tokens on 64xH100\nexpect time <= 30 days",
    },
};

/// The bound and the planned figure, when they disagree.
pub fn check(e: &Expectation, planned: f64, currency: &str) -> Option<Diagnostic> {
    let holds = if e.cmp == Cmp::Ge { planned >= e.bound } else { planned <= e.bound };
    if holds {
        return None;
    }
    let show = |x: f64| match e.metric.dimension {
        Dimension::Bytes => Value::Bytes(x as u64),
        Dimension::Time => Value::Seconds(x),
        Dimension::Money => Value::Money(x, currency.to_owned()),
        Dimension::Ratio => Value::Ratio(x),
        Dimension::Tokens => Value::Large(x),
        _ => Value::Float(x),
    };
    Some(
        Diagnostic::new(&RULE)
            .at(e.span)
            .text("name", e.metric.name)
            .text("sign", e.cmp.text())
            .arg("bound", show(e.bound))
            .arg("planned", show(planned))
            .text("path", e.metric.path),
    )
}
