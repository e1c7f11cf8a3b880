//! LLM0408: the base model has another shape than the recipe.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, Value, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0408",
    severity: Severity::Error,
    args: &["differences", "path"],
    message: text("`{path}` has another shape: {differences}", "`{path}` 的形状不同：{differences}"),
    labels: &[text("the base", "基础模型"), text("the recipe", "配方")],
    help: &[text(
        "weights of one shape cannot fill another: change the model, or the base",
        "权重无法装入不同的形状：请修改模型或更换基础模型",
    )],
    page: Page {
        what: text(
            "`from` names a checkpoint whose config.json disagrees with the model.",
            "`from` 指向的检查点的 config.json 与模型不一致。",
        ),
        why: text(
            "Weights are loaded by shape; nothing is padded or cut in silence.",
            "权重按形状载入，绝不暗中填充或截断。",
        ),
        example: "model llama 13b\nfrom \"base-7b\"",
        instead: "model llama 7b\nfrom \"base-7b\"",
    },
};

/// The figures that differ: name, the base's, the recipe's.
pub fn found(
    at: Option<Span>,
    model: Option<Span>,
    figures: &[(String, u64, u64)],
    path: &str,
) -> Diagnostic {
    let en = figures.iter().map(|(name, base, recipe)| format!("{name} {base}, not {recipe}"));
    let zh = figures.iter().map(|(name, base, recipe)| format!("{name} 为 {base} 而非 {recipe}"));
    let both = Value::Both(en.collect::<Vec<_>>().join("; "), zh.collect::<Vec<_>>().join("；"));
    Diagnostic::new(&RULE).at_maybe(at).at_maybe(model).text("path", path).arg("differences", both)
}
