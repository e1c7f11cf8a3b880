//! LLM0603: the planner could not keep the asked batch.

use crate::diag::{Diagnostic, Page, Rule, Severity, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0603",
    severity: Severity::Warning,
    args: &["asked", "planned"],
    message: text("the batch is {planned} tokens instead of {asked}", "批大小由 {asked} 词元改为 {planned} 词元"),
    labels: &[text("asked here", "此处要求")],
    help: &[text("write `batch {planned} tokens` to make it the recipe's choice, or give another device count", "请写 `batch {planned} tokens` 以确认，或更改设备数")],
    page: Page {
        what: text("No layout of these devices divides the asked batch, so the plan uses the nearest one that is divided.", "这些设备的任何布局都无法整除所要求的批，计划采用最接近的可行值。"),
        why: text("The batch is part of the result, not of the schedule: a change of it is never silent.", "批大小影响结果而不只是速度，因此绝不暗中修改。"),
        example: "model llama 7b < ctx 8k >\nbudget 1T tokens on 6x8xH100\nbatch 500 sequences",
        instead: "model llama 7b < ctx 8k >\nbudget 1T tokens on 6x8xH100\nbatch 480 sequences",
    },
};

/// Compares plan and recipe.
pub fn check(r: &Resolved, planned: u64) -> Option<Diagnostic> {
    let asked = r.facts.count("batch.asked_tokens").filter(|asked| *asked != planned)?;
    let at = r.facts.span("batch.asked_tokens").or(r.facts.span("batch.asked_sequences"));
    Some(Diagnostic::new(&RULE).at_maybe(at).count("asked", asked).count("planned", planned))
}
