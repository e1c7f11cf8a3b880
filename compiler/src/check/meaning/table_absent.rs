//! LLM0706: no table of sources where the recipe says.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0706",
    severity: Severity::Warning,
    args: &["path"],
    message: text("`{path}` cannot be read", "无法读取 `{path}`"),
    labels: &[text(
        "expected CSV, TOML or Parquet with a row for each source",
        "应为 CSV、TOML 或 Parquet，每个数据源一行",
    )],
    help: &[text(
        "paths are relative to the recipe; a plan can be made without the table, a run cannot",
        "路径相对于配方文件；没有表格也能出计划，但不能运行",
    )],
    page: Page {
        what: text(
            "`mix importance(…)` or `mix dynamic(reference=…)` names a file that is not there or cannot be read: CSV lines `source,number`, TOML `source = number`, or Parquet with a column of names and one of numbers.",
            "`mix importance(…)` 或 `mix dynamic(reference=…)` 指向的文件不存在或无法读取：应为 CSV 行 `source,number`、TOML 的 `source = number`，或含名称与数值两列的 Parquet。",
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
