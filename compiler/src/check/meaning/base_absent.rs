//! LLM0702: no base model where the recipe says.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0702",
    severity: Severity::Warning,
    args: &["path", "context"],
    message: text(
        "`{path}` has no readable config.json; the base's context is assumed to be {context}",
        "`{path}` 中没有可读的 config.json；假定基础模型上下文为 {context}",
    ),
    labels: &[text("expected a Hugging Face directory", "应为 Hugging Face 目录")],
    help: &[text(
        "paths are relative to the recipe; a plan can be made without the weights, a run cannot",
        "路径相对于配方文件；没有权重也能出计划，但不能运行",
    )],
    page: Page {
        what: text(
            "`from` names a folder that is not there, or whose config.json cannot be read.",
            "`from` 指向的目录不存在，或其 config.json 不可读。",
        ),
        why: text(
            "The base's context decides the RoPE factor; without it the family's released context is assumed.",
            "基础模型的上下文决定 RoPE 倍数；读不到时假定为该模型族发布时的上下文。",
        ),
        example: "model llama 13b\nfrom \"nowhere\"",
        instead: "model llama 13b\nfrom \"models/base-13b-hf\"",
    },
};

/// The path and what is assumed instead.
pub fn found(span: Span, path: &str, context: u64) -> Diagnostic {
    Diagnostic::new(&RULE).at(span).text("path", path).count("context", context)
}
