//! LLM0703: shares of the mixture above the whole.

use super::mixture;
use crate::diag::{Diagnostic, Page, Rule, Severity, Value, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0703",
    severity: Severity::Error,
    args: &["total", "parts", "nearest"],
    message: text("the shares of `mix` sum to {total}", "`mix` 的比例合计 {total}"),
    labels: &[text("{parts}", "{parts}")],
    help: &[
        text(
            "fixed shares and lower bounds together must stay within 100%: write {nearest}",
            "固定比例与下限合计不得超过 100%：请写 {nearest}",
        ),
        text(
            "fixed shares and lower bounds together must stay within 100%",
            "固定比例与下限合计不得超过 100%",
        ),
    ],
    page: Page {
        what: text(
            "Fixed shares and lower bounds of the mixture exceed the whole.",
            "混合的固定比例与下限之和超过 100%。",
        ),
        why: text(
            "Scaling them down would change every share without anybody having written it.",
            "按比例缩小会改变每个份额，而没有人这样写过。",
        ),
        example: "model llama 7b\ndata < a \"a/*\"  b \"b/*\" >\nmix < a 70%  b >= 40% >",
        instead: "model llama 7b\ndata < a \"a/*\"  b \"b/*\" >\nmix < a 60%  b >= 40% >",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let shares: Vec<(&str, f64)> = r
        .data
        .sources
        .iter()
        .filter_map(|s| s.weight.or(s.min_share).map(|x| (s.name.as_str(), x)))
        .collect();
    let total: f64 = shares.iter().map(|(_, x)| x).sum();
    if total > 1.0 + 1e-9 {
        let parts: Vec<String> =
            shares.iter().map(|(n, x)| format!("{n} {}%", crate::diag::short_float(x * 100.0))).collect();
        let mut d = Diagnostic::new(&RULE).at_maybe(r.data.mix_span).arg("total", Value::Ratio(total));
        if let Some((en, zh)) = mixture::nearest_of(r) {
            d = d.arg("nearest", Value::Both(en, zh));
        }
        out.push(d.text("parts", parts.join(" + ")));
    }
}
