//! LLM0503: far from compute-optimal.

use crate::diag::{Diagnostic, Page, Rule, Severity, Value, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0503",
    severity: Severity::Advice,
    args: &["ratio", "tokens", "optimal"],
    message: text("{ratio} tokens a parameter is little", "每参数仅 {ratio} 个词元，偏少"),
    labels: &[text("about {optimal} would be compute-optimal", "计算最优约为 {optimal}")],
    help: &[text(
        "train longer, or a smaller model: both lower the loss for the same FLOPs",
        "请训练更久或换小模型：同样 FLOPs 下损失都会更低",
    )],
    page: Page {
        what: text(
            "The budget is under 5 tokens a parameter, from scratch.",
            "从头训练，预算不足每参数 5 个词元。",
        ),
        why: text(
            "About 20 tokens a parameter are compute-optimal (Hoffmann et al. 2022, arXiv 2203.15556); far below, a smaller model reaches the same loss sooner.",
            "计算最优约为每参数 20 个词元（Hoffmann et al. 2022, arXiv 2203.15556）；远低于此时，小模型更快达到同样损失。",
        ),
        example: "model llama 7b\nbudget 10B tokens on 8xH100",
        instead: "model llama 1.3b\nbudget 26B tokens on 8xH100",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let f = &r.facts;
    let (Some(params), Some(tokens)) = (f.count("model.params"), f.count("budget.tokens")) else { return };
    let ratio = tokens as f64 / params.max(1) as f64;
    // Small models are trained to be looked at; a line about optimality would only be noise.
    if ratio < 5.0 && params > 100_000_000 && !f.has("from") {
        let d = Diagnostic::new(&RULE).at_maybe(f.span("budget.tokens"));
        let optimal = Value::Large(20.0 * params as f64);
        out.push(
            d.arg("ratio", Value::Float(libm::round(ratio * 100.0) / 100.0))
                .count("tokens", tokens)
                .arg("optimal", optimal),
        );
    }
}
