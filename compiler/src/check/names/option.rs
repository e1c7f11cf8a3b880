//! LLM0101: an option the clause does not have.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, Value, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0101",
    severity: Severity::Error,
    args: &["name", "owner", "near", "known", "own_clause"],
    message: text("`{owner}` has no option `{name}`", "`{owner}` 没有选项 `{name}`"),
    labels: &[text("unknown option", "未知选项")],
    help: &[
        text("did you mean `{near}`?", "是否想写 `{near}`？"),
        text("`{owner}` takes {known}", "`{owner}` 支持：{known}"),
        text(
            "`{owner}` takes no options; `llmc explain {owner}` has examples",
            "`{owner}` 没有选项；示例见 `llmc explain {owner}`",
        ),
    ],
    page: Page {
        what: text("A block names an option that its clause does not have.", "块里写了该子句没有的选项。"),
        why: text(
            "A misspelt option that is ignored trains a model for weeks with a default nobody chose.",
            "被忽略的拼写错误会让模型带着没人选择的默认值训练数周。",
        ),
        example: "model llama 7b < ctxx 8k >",
        instead: "model llama 7b < ctx 8k >",
    },
};

/// The option (whole), its name's span, and the options there are.
pub fn found(whole: Span, at: Span, name: &str, owner: &str, known: &[&str]) -> Diagnostic {
    let near = crate::diag::nearest(name, known.iter().copied());
    let list: Vec<String> = known.iter().map(|k| (*k).to_owned()).collect();
    let d = Diagnostic::new(&RULE).at(whole).text("name", crate::diag::shorten(name)).text("owner", owner);
    let d = if list.is_empty() { d } else { d.arg("known", Value::List(list)) };
    d.near(at, near)
}
