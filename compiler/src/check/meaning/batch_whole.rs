//! LLM0601: a batch of broken sequences.

use crate::diag::{Diagnostic, Page, Rule, Severity, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0601",
    severity: Severity::Error,
    args: &["batch", "context", "below", "above"],
    message: text(
        "a batch of {batch} tokens is no whole number of sequences of {context}",
        "{batch} 词元的批不是 {context} 长序列的整数倍",
    ),
    labels: &[text("not whole", "不是整数倍"), text("sequences are this long", "序列长度")],
    help: &[
        text("write {below} or {above} tokens", "请写 {below} 或 {above} 词元"),
        text("write at least {above} tokens", "请至少写 {above} 词元"),
    ],
    page: Page {
        what: text(
            "The global batch is not a multiple of the context.",
            "全局批大小不是上下文长度的整数倍。",
        ),
        why: text(
            "A step trains whole sequences; rounding the batch would change the result in silence.",
            "每一步训练完整的序列；取整会暗中改变结果。",
        ),
        example: "model llama 7b < ctx 8k >\nbatch 4_000_000 tokens",
        instead: "model llama 7b < ctx 8k >\nbatch 4_194_304 tokens",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let f = &r.facts;
    let (Some(batch), Some(context)) = (f.count("batch.asked_tokens"), f.count("model.context")) else {
        return;
    };
    if context == 0 || batch.is_multiple_of(context) {
        return;
    }
    let below = batch / context * context;
    let d = Diagnostic::new(&RULE)
        .at_maybe(f.span("batch.asked_tokens"))
        .at_maybe(f.span("model.context"))
        .count("batch", batch)
        .count("context", context)
        .count("above", below + context);
    out.push(if below > 0 { d.count("below", below) } else { d });
}
