//! LLM0104: a unit the language does not have here.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, Value, text};
use crate::unit::{Dimension, unit_words, units_of};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0104",
    severity: Severity::Error,
    args: &["unit", "owner", "near", "known"],
    message: text("`{unit}` is no unit for `{owner}`", "`{owner}` 不支持单位 `{unit}`"),
    labels: &[text("unknown unit", "未知单位")],
    help: &[
        text("did you mean `{near}`?", "是否想写 `{near}`？"),
        text("units here are {known}", "此处可用单位：{known}"),
        text("write a plain number", "请写纯数字"),
    ],
    page: Page {
        what: text("A number carries a unit that is on no list of this place.", "数字带有此处不支持的单位。"),
        why: text(
            "Units are a closed list; a wrong one is an error, never dropped.",
            "单位是固定列表；写错即为错误，绝不丢弃。",
        ),
        example: "model llama 7b\neval < every 10 documents >",
        instead: "model llama 7b\neval < every 1000 steps >",
    },
};

/// The quantity's span and the unit in it.
pub fn found(span: Span, unit: &str, owner: &str, accepts: &[Dimension]) -> Diagnostic {
    let known: Vec<&str> = accepts.iter().flat_map(|d| units_of(*d)).collect();
    let near = crate::diag::nearest(unit, unit_words());
    let d = Diagnostic::new(&RULE).at(span).text("unit", crate::diag::shorten(unit)).text("owner", owner);
    let list: Vec<String> = known.into_iter().map(str::to_owned).collect();
    let d = if list.is_empty() { d } else { d.arg("known", Value::List(list)) };
    match near {
        Some(n) => d.text("near", n),
        None => d,
    }
}
