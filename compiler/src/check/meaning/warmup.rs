//! LLM0603: warm-up and decay are longer than the run.

use crate::diag::{Diagnostic, Page, Rule, Severity, Value, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0603",
    severity: Severity::Error,
    args: &["warmup", "decay", "total"],
    message: text(
        "warm-up {warmup} and decay {decay} leave no run: {total} of it",
        "预热 {warmup} 加衰减 {decay} 共占 {total}，超过全程",
    ),
    labels: &[text("{warmup} of the run", "占全程 {warmup}"), text("{decay} of the run", "占全程 {decay}")],
    help: &[text("shorten the warm-up, or train longer", "请缩短预热，或训练更久")],
    page: Page {
        what: text(
            "Warm-up and decay together take more than the whole run.",
            "预热与衰减合计超过整个训练。",
        ),
        why: text(
            "The peak learning rate would never be reached or held.",
            "峰值学习率将永远达不到或保持不了。",
        ),
        example: "model llama 7b < ctx 8k >\nbudget 1B tokens\nbatch 4_194_304 tokens\nlr 3e-4 < warmup 2000 steps >",
        instead: "model llama 7b < ctx 8k >\nbudget 1B tokens\nbatch 4_194_304 tokens\nlr 3e-4 < warmup 1% >",
    },
};

/// Checks it as far as tokens and batch are known.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let f = &r.facts;
    let tokens = f.count("budget.tokens").map(|t| t as f64);
    let batch = f.count("batch.asked_tokens").map(|b| b as f64);
    let share = if let Some(x) = f.real("lr.warmup_fraction") {
        Some((x, "lr.warmup_fraction"))
    } else if let (Some(w), Some(t)) = (f.real("lr.warmup_tokens"), tokens) {
        Some((w / t, "lr.warmup_tokens"))
    } else if let (Some(w), Some(t), Some(b)) = (f.real("lr.warmup_steps"), tokens, batch) {
        Some((w * b / t, "lr.warmup_steps"))
    } else {
        None
    };
    let Some((warmup, path)) = share else { return };
    let decay =
        if f.word("lr.schedule") == Some("wsd") { f.real("lr.decay_fraction").unwrap_or(0.1) } else { 0.0 };
    if warmup + decay > 1.0 {
        out.push(
            Diagnostic::new(&RULE)
                .at_maybe(f.span(path))
                .at_maybe(f.span("lr.decay_fraction"))
                .arg("warmup", Value::Ratio(warmup))
                .arg("decay", Value::Ratio(decay))
                .arg("total", Value::Ratio(warmup + decay)),
        );
    }
}
