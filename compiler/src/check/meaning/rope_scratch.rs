//! LLM0405: from scratch, a RoPE method needs its factor.

use crate::diag::{Diagnostic, Page, Rule, Severity, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0405",
    severity: Severity::Error,
    args: &["method", "context"],
    message: text("`{method}` from scratch needs a factor", "从头训练时 `{method}` 需要倍数"),
    labels: &[text("stretched from which context?", "从多长的上下文扩展？")],
    help: &[text(
        "write `{method}(s=2)`, or leave `rope` out: a model trained at {context} from the start needs no stretching",
        "请写 `{method}(s=2)`，或去掉 `rope`：从一开始就以 {context} 训练无需扩展",
    )],
    page: Page {
        what: text(
            "A scaling method is named, but neither a factor nor a base model whose context would give it.",
            "写了缩放方法，但既无倍数，也无可提供原上下文的基础模型。",
        ),
        why: text(
            "With `from` the factor follows from the base. From scratch there is nothing to follow from.",
            "使用 `from` 时倍数由基础模型推出；从头训练则无从推出。",
        ),
        example: "model llama 7b < ctx 8k  rope ntk >",
        instead: "model llama 7b < ctx 8k  rope ntk(s=2) >",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let f = &r.facts;
    let method = f.word("model.rope.method").unwrap_or("none");
    if method != "none" && f.has("model.context") && !f.has("model.rope.original_context") {
        let d = Diagnostic::new(&RULE).at_maybe(f.span("model.rope.method"));
        out.push(d.text("method", method).count("context", f.count("model.context").unwrap_or(0)));
    }
}
