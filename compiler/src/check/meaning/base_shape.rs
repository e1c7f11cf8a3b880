//! LLM0408: the base model has another shape than the recipe.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0408",
    severity: Severity::Error,
    args: &["name", "recipe", "base", "path"],
    message: text("{name} is {recipe} in the recipe but {base} in `{path}`", "配方中 {name} 为 {recipe}，而 `{path}` 中为 {base}"),
    labels: &[text("the base", "基础模型"), text("the recipe", "配方")],
    help: &[text("weights of {base} cannot fill a shape of {recipe}: change the model, or the base", "权重为 {base}，无法装入 {recipe} 的形状：请修改模型或更换基础模型")],
    page: Page {
        what: text("`from` names a checkpoint whose config.json disagrees with the model.", "`from` 指向的检查点的 config.json 与模型不一致。"),
        why: text("Weights are loaded by shape; nothing is padded or cut in silence.", "权重按形状载入，绝不暗中填充或截断。"),
        example: "model llama 13b\nfrom \"base-7b\"",
        instead: "model llama 7b\nfrom \"base-7b\"",
    },
};

/// The figure that differs.
pub fn found(at: Option<Span>, model: Option<Span>, name: &str, figures: (u64, u64), path: &str) -> Diagnostic {
    Diagnostic::new(&RULE)
        .at_maybe(at)
        .at_maybe(model)
        .text("name", name)
        .count("recipe", figures.0)
        .count("base", figures.1)
        .text("path", path)
}
