//! LLM0404: RoPE factor and context contradict each other.

use crate::diag::{Diagnostic, Page, Rule, Severity, Value, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0404",
    severity: Severity::Error,
    args: &["factor", "derived", "context", "original"],
    message: text(
        "s = {factor}, but a context of {context} over {original} is {derived}",
        "s = {factor}，但上下文 {context} 除以 {original} 是 {derived}",
    ),
    labels: &[text("factor {factor}", "倍数 {factor}"), text("context {context}", "上下文 {context}")],
    help: &[text(
        "write s={derived}, or a context that is {factor} times {original}",
        "请写 s={derived}，或令上下文为 {original} 的 {factor} 倍",
    )],
    page: Page {
        what: text(
            "The factor of RoPE scaling is context divided by original context. With `from` the original context is the base's; from scratch it is ctx / s and must be whole.",
            "RoPE 缩放倍数等于上下文除以原上下文。使用 `from` 时原上下文取自基础模型；从头训练时为 ctx / s，且须为整数。",
        ),
        why: text(
            "A wrong factor trains positions the model will never see, or leaves some unscaled.",
            "倍数写错会训练永远用不到的位置，或留下未缩放的位置。",
        ),
        example: "model llama 7b < ctx 8k  rope yarn(s=2, original=2k) >",
        instead: "model llama 7b < ctx 8k  rope yarn(s=4, original=2k) >",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let f = &r.facts;
    let (Some(context), Some(factor)) = (f.count("model.context"), f.real("model.rope.factor")) else {
        return;
    };
    // Only a factor that somebody typed can contradict.
    let Some(at) = f.span("model.rope.factor") else { return };
    let original = f.count("model.rope.original_context").unwrap_or(1).max(1);
    let derived = context as f64 / original as f64;
    if (derived - factor).abs() > 1e-9 * factor {
        out.push(
            Diagnostic::new(&RULE)
                .at(at)
                .at_maybe(f.span("model.context"))
                .arg("factor", Value::Float(factor))
                .arg("derived", Value::Float(derived))
                .count("context", context)
                .count("original", original),
        );
    }
}
