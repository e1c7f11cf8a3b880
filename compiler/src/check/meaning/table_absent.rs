//! LLM0706: no table of sources where the recipe says.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0706",
    severity: Severity::Warning,
    args: &["path"],
    message: text("`{path}` cannot be read", "无法读取 `{path}`"),
    labels: &[text(
        "expected text, CSV or TOML, with a row for each source",
        "应为 CSV 或 TOML 文本，每个数据源一行",
    )],
    help: &[text(
        "paths are relative to the recipe; a plan can be made without the table, a run cannot",
        "路径相对于配方文件；没有表格也能出计划，但不能运行",
    )],
    page: Page {
        what: text(
            "`mix importance(…)` or `mix dynamic(reference=…)` names a file that is not there or no text: CSV lines `source,number` or TOML `source = number`.",
            "`mix importance(…)` 或 `mix dynamic(reference=…)` 指向的文件不存在或不是文本：应为 CSV 行 `source,number` 或 TOML 的 `source = number`。",
        ),
        why: text(
            "`check`, `fmt` and `plan` need no data; `run` refuses.",
            "`check`、`fmt`、`plan` 不需要数据；`run` 会拒绝执行。",
        ),
        example: "model llama 7b\ndata < a \"corpus/a/*\"  b \"corpus/b/*\" >\nmix importance(\"nowhere.csv\")",
        instead: "model llama 7b\ndata < a \"corpus/a/*\"  b \"corpus/b/*\" >\nmix importance(\"tables/weights.csv\")",
    },
};

/// The path.
pub fn found(span: Span, path: &str) -> Diagnostic {
    Diagnostic::new(&RULE).at(span).text("path", path)
}
