//! LLM0102: a name that is none of the choices.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, Value, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0102",
    severity: Severity::Error,
    args: &["name", "owner", "near", "known"],
    message: text("`{name}` is no choice for `{owner}`", "`{owner}` 不支持 `{name}`"),
    labels: &[text("unknown", "未知取值")],
    help: &[
        text("did you mean `{near}`?", "是否想写 `{near}`？"),
        text("choose one of {known}", "可选：{known}"),
    ],
    page: Page {
        what: text(
            "Families, optimizers, schedules, RoPE methods, precisions and switches are closed lists; this name is on none.",
            "模型族、优化器、调度、RoPE 方法、精度与开关都是固定列表；该名称不在其中。",
        ),
        why: text(
            "Choices are typed, never free strings, so a misspelt one cannot fall back to something else.",
            "选项有类型、不是任意字符串，拼错不会退化为别的取值。",
        ),
        example: "model llama 7b\noptimizer adamm",
        instead: "model llama 7b\noptimizer adamw",
    },
};

/// The word and the choices there are.
pub fn found(span: Span, name: &str, owner: &str, known: &[&str]) -> Diagnostic {
    let near = crate::diag::nearest(name, known.iter().copied());
    Diagnostic::new(&RULE)
        .at(span)
        .text("name", crate::diag::shorten(name))
        .text("owner", owner)
        .arg("known", Value::List(known.iter().map(|k| (*k).to_owned()).collect()))
        .near(span, near)
}
