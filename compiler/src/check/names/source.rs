//! LLM0106: `mix` names a source that `data` does not have.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, Value, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0106",
    severity: Severity::Error,
    args: &["name", "near", "known"],
    message: text("`mix` names `{name}`, which `data` does not have", "`mix` 中的 `{name}` 不在 `data` 里"),
    labels: &[text("no such source", "没有这个数据源")],
    help: &[
        text("did you mean `{near}`?", "是否想写 `{near}`？"),
        text("`data` has {known}", "`data` 中有：{known}"),
        text("add it to `data < {name} \"path\" >`", "请在 `data < {name} \"路径\" >` 中添加"),
    ],
    page: Page {
        what: text(
            "A share of the mixture belongs to a source that is not declared.",
            "混合比例指向未声明的数据源。",
        ),
        why: text(
            "A share that reaches no source would silently go to the others.",
            "无主的比例会悄悄分给其他数据源。",
        ),
        example: "model llama 7b\ndata < web \"w/*.jsonl\" >\nmix < wbe 60% >",
        instead: "model llama 7b\ndata < web \"w/*.jsonl\" >\nmix < web 60% >",
    },
};

/// The option (whole), its name's span, and the sources there are.
pub fn found(whole: Span, at: Span, name: &str, known: &[String]) -> Diagnostic {
    let near = crate::diag::nearest(name, known.iter().map(String::as_str));
    let shown: Vec<String> = known.iter().take(12).cloned().collect();
    let d = Diagnostic::new(&RULE).at(whole).text("name", crate::diag::shorten(name)).near(at, near);
    if known.is_empty() { d } else { d.arg("known", Value::List(shown)) }
}
