//! LLM0902: the planner refuses for another reason than memory.

use llmc_planner::Infeasible;

use crate::diag::{Diagnostic, Page, Rule, Severity, Value, short_float, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0902",
    severity: Severity::Error,
    args: &["rule", "figures", "fixes"],
    message: text("no plan meets the recipe: {rule} ({figures})", "没有计划满足配方：{rule}（{figures}）"),
    labels: &[text("asked here", "此处要求")],
    help: &[
        text("these work, each planned: {fixes}", "以下更改均已验证可行：{fixes}"),
        text("unpin part of `layout`, or change batch, devices or budget", "请取消固定部分 `layout`，或更改批大小、设备数、预算"),
    ],
    page: Page {
        what: text("Every layout was rejected by a rule other than memory, or the question contradicts itself. The figures of that rule are shown.", "所有布局都因显存以外的规则被否决，或要求自相矛盾。会列出该规则的数值。"),
        why: text("A plan that breaks a rule would not run.", "违反规则的计划无法运行。"),
        example: "model llama 7b < ctx 8k >\nbudget 1T tokens on 64xH100\nlayout < recompute none  offload activations >",
        instead: "model llama 7b < ctx 8k >\nbudget 1T tokens on 64xH100\nlayout < recompute full  offload activations >",
    },
};

/// The refusing rule, its figures and its fixes.
pub fn found(r: &Resolved, currency: &str, why: &Infeasible) -> Diagnostic {
    let (rule, figures, fixes) = match why {
        Infeasible::Question { rule, figures, fixes } => ((*rule).to_owned(), figures, fixes),
        Infeasible::Layout { rule, figures, fixes, .. } => (rule.clone(), figures, fixes),
    };
    let shown: Vec<String> = figures.iter().map(|(name, x)| format!("{name} {}", short_float(*x))).collect();
    let at = if rule.starts_with("budget") { r.facts.span("budget.tokens").or(r.facts.span("budget.asked_seconds")).or(r.facts.span("budget.asked_money")) } else { r.facts.span("batch.asked_tokens").or(r.facts.span("batch.asked_sequences")) };
    let d = Diagnostic::new(&RULE)
        .at(at.unwrap_or_else(|| super::unfit::place(r)))
        .text("rule", rule)
        .arg("figures", Value::List(shown));
    let fixes: Vec<String> = fixes.iter().map(|fix| super::unfit::fix_words(fix, currency)).collect();
    if fixes.is_empty() { d } else { d.arg("fixes", Value::List(fixes)) }
}
