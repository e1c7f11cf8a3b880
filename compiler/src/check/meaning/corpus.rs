//! LLM0701: no text where the recipe says.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0701",
    severity: Severity::Warning,
    args: &["name", "glob"],
    message: text("no file matches `{glob}`", "没有文件匹配 `{glob}`"),
    labels: &[text("source `{name}`", "数据源 `{name}`")],
    help: &[text(
        "paths are relative to the recipe; a plan can be made without the text, a run cannot",
        "路径相对于配方文件；没有文本也能出计划，但不能运行",
    )],
    page: Page {
        what: text("A source's path or glob matches nothing.", "数据源的路径或通配符没有匹配任何文件。"),
        why: text(
            "`check`, `fmt` and `plan` need no data; `run` refuses.",
            "`check`、`fmt`、`plan` 不需要数据；`run` 会拒绝执行。",
        ),
        example: "model llama 7b\ndata < web \"nowhere/*.jsonl\" >",
        instead: "model llama 7b\ndata < web \"corpus/web/*.jsonl\" >",
    },
};

/// The source and its glob.
pub fn found(span: Span, name: &str, glob: &str) -> Diagnostic {
    Diagnostic::new(&RULE).at(span).text("name", name).text("glob", glob)
}
