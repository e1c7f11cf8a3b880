//! LLM0707: rows of a table of sources that say nothing.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, Value, text};

/// More rows than this are not listed: one cause has many effects.
const SHOWN: usize = 5;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0707",
    severity: Severity::Error,
    args: &["path", "rows", "count"],
    message: text("`{path}` does not fit the sources: {rows}", "`{path}` 与数据源不符：{rows}"),
    labels: &[text("read from here", "由此处读取")],
    help: &[text(
        "give each source of `data` one row: `source,number` in CSV, `source = number` in TOML, the number above 0 and at most 1e6",
        "请为 `data` 的每个数据源写一行：CSV 写 `source,number`，TOML 写 `source = number`，数值大于 0 且不超过 1e6",
    )],
    page: Page {
        what: text(
            "A row names no source of `data` or one twice, its number is none, or a source has no row.",
            "某行的名称不是 `data` 中的数据源或重复出现，数值无效，或某个数据源没有对应的行。",
        ),
        why: text(
            "A weight that reaches no source, or a source without one, would change the mixture in silence.",
            "无主的权重或没有权重的数据源，会悄悄改变混合。",
        ),
        example: "model llama 7b\ndata < a \"corpus/a/*\"  b \"corpus/b/*\" >\nmix importance(\"tables/bad.csv\")",
        instead: "model llama 7b\ndata < a \"corpus/a/*\"  b \"corpus/b/*\" >\nmix importance(\"tables/weights.csv\")",
    },
};

/// The path, and what is wrong with each row in both languages.
pub fn found(span: Span, path: &str, rows: &[(String, String)]) -> Diagnostic {
    let list = |pick: fn(&(String, String)) -> &String, comma: &str| {
        let shown: Vec<&str> = rows.iter().take(SHOWN).map(|row| pick(row).as_str()).collect();
        shown.join(comma) + if rows.len() > SHOWN { " …" } else { "" }
    };
    Diagnostic::new(&RULE)
        .at(span)
        .text("path", path)
        .count("count", rows.len() as u64)
        .arg("rows", Value::Both(list(|row| &row.0, "; "), list(|row| &row.1, "；")))
}
