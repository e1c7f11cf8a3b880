//! LLM0605: a learning rate that diverges.

use crate::diag::{Diagnostic, Page, Rule, Severity, Value, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0605",
    severity: Severity::Warning,
    args: &["peak", "law", "times"],
    message: text(
        "a peak of {peak} is {times} times what the Step Law gives",
        "峰值 {peak} 是 Step Law 建议值的 {times} 倍",
    ),
    labels: &[text("the law says {law}", "定律给出 {law}")],
    help: &[text(
        "write `lr {law}`, or leave `lr` out to have it derived",
        "请写 `lr {law}`，或去掉 `lr` 由规则推导",
    )],
    page: Page {
        what: text(
            "The peak learning rate is more than four times the Step Law's for this model and budget.",
            "峰值学习率超过该模型与预算下 Step Law 的四倍。",
        ),
        why: text(
            "On the law's own grid of runs four times the optimum costs 3 % of loss in the mean and diverges in the worst tenth (Li et al. 2025, arXiv 2503.04715).",
            "在该定律自己的实验网格上，四倍最优值平均多损失 3%，最差十分之一会发散（Li et al. 2025, arXiv 2503.04715）。",
        ),
        example: "model llama 7b\nbudget 1T tokens on 64xH100\nlr 3e-2",
        instead: "model llama 7b\nbudget 1T tokens on 64xH100\nlr 3e-4",
    },
};

/// Checks it where the budget is in tokens and the optimizer is AdamW, as in the law.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let f = &r.facts;
    let (Some(peak), Some(n), Some(d)) =
        (f.real("lr.peak"), f.real("model.params_non_embedding"), f.real("budget.tokens"))
    else {
        return;
    };
    // Step Law: η = 1.79 · N^−0.713 · D^0.307 (arXiv 2503.04715); fitted from 60 M parameters on.
    let law = 1.79 * libm::pow(n, -0.713) * libm::pow(d, 0.307);
    if n > 6e7 && peak > 4.0 * law && f.word("optimizer.kind") == Some("adamw") {
        let v = |x: f64| Value::Float(libm::round(x * 1e6) / 1e6);
        let times = Value::Float(libm::round(peak / law));
        out.push(
            Diagnostic::new(&RULE)
                .at_maybe(f.span("lr.peak"))
                .arg("peak", v(peak))
                .arg("law", v(law))
                .arg("times", times),
        );
    }
}
