//! LLM0104: a unit the language does not have here.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, Value, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0104",
    severity: Severity::Error,
    args: &["unit", "owner", "near", "known"],
    message: text("`{unit}` is no unit for `{owner}`", "`{owner}` 不支持单位 `{unit}`"),
    labels: &[text("unknown unit", "未知单位")],
    help: &[
        text("did you mean `{near}`?", "是否想写 `{near}`？"),
        text("units are {known}", "可用单位：{known}"),
    ],
    page: Page {
        what: text("A number carries a unit that is on no list of this place.", "数字带有此处不支持的单位。"),
        why: text("Units are a closed list; a wrong one is an error, never dropped.", "单位是固定列表；写错即为错误，绝不丢弃。"),
        example: "model llama 7b\neval < every 10 documents >",
        instead: "model llama 7b\neval < every 1000 steps >",
    },
};

/// The quantity's span and the unit in it.
pub fn found(span: Span, unit: &str, owner: &str) -> Diagnostic {
    let known = crate::unit::unit_words();
    let near = crate::diag::nearest(unit, known.iter().copied());
    let d = Diagnostic::new(&RULE)
        .at(span)
        .text("unit", crate::diag::shorten(unit))
        .text("owner", owner)
        .arg("known", Value::List(known.iter().map(|k| (*k).to_owned()).collect()));
    match near {
        Some(n) => d.text("near", n),
        None => d,
    }
}
