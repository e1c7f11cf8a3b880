//! LLM0007: a word where a clause should start.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0007",
    severity: Severity::Error,
    args: &["name", "near"],
    message: text("there is no clause `{name}`", "没有名为 `{name}` 的子句"),
    labels: &[text("not a keyword", "不是关键字")],
    help: &[
        text("did you mean `{near}`?", "是否想写 `{near}`？"),
        text("`llmc explain LLM0007` lists the clauses", "`llmc explain LLM0007` 列出全部子句"),
    ],
    page: Page {
        what: text(
            "A line starts with a word that is no keyword. The clauses are: edition model from budget on seed batch tokenizer data clean pack mix optimizer lr precision determinism freeze layout checkpoint eval price expect.",
            "某处以非关键字开头。全部子句：edition model from budget on seed batch tokenizer data clean pack mix optimizer lr precision determinism freeze layout checkpoint eval price expect。",
        ),
        why: text(
            "A misspelt clause would otherwise vanish, and with it a budget or a batch.",
            "拼错的子句若被忽略，预算或批大小就会悄悄丢失。",
        ),
        example: "model llama 7b < ctx 4k >\nbugdet 1T tokens",
        instead: "model llama 7b < ctx 4k >\nbudget 1T tokens",
    },
};

/// The word, everything that went with it, and the keyword that was probably meant.
pub fn found(whole: Span, word: Span, name: &str, near: Option<&str>) -> Diagnostic {
    Diagnostic::new(&RULE).at(whole).text("name", crate::diag::shorten(name)).near(word, near)
}
