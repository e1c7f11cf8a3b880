//! LLM0201: a quantity of the wrong dimension.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, Value, text};
use crate::unit::Mismatch;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0201",
    severity: Severity::Error,
    args: &["owner", "text", "found", "wanted", "units"],
    message: text(
        "`{owner}` takes {wanted}, but `{text}` is {found}",
        "`{owner}` 需要{wanted}，而 `{text}` 是{found}",
    ),
    labels: &[text("this is {found}", "这是{found}")],
    help: &[
        text("write it with a unit: {units}", "请带上单位：{units}"),
        text("write a plain number", "请写纯数字"),
    ],
    page: Page {
        what: text("A number's unit does not fit the place.", "数字的单位与所在位置不符。"),
        why: text(
            "Every quantity has a dimension; tokens, steps, time and money never mix, and a bare number is no budget.",
            "每个量都有量纲；词元、步数、时间与金额不能混用，裸数字也不能作预算。",
        ),
        example: "model llama 7b < ctx 8 GiB >",
        instead: "model llama 7b < ctx 8k >",
    },
};

/// The quantity, its text, and what disagrees.
pub fn found(span: Span, words: &str, owner: &str, mismatch: &Mismatch) -> Diagnostic {
    let units: Vec<String> =
        mismatch.wanted.iter().flat_map(|d| crate::unit::units_of(*d)).map(str::to_owned).collect();
    let d = Diagnostic::new(&RULE)
        .at(span)
        .text("owner", owner)
        .text("text", crate::diag::shorten(words))
        .arg("found", Value::Dimensions(vec![mismatch.found]))
        .arg("wanted", Value::Dimensions(mismatch.wanted.to_vec()));
    if units.is_empty() { d } else { d.arg("units", Value::List(units)) }
}
