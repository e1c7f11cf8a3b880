//! LLM0003: a number with a tail that means nothing.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0003",
    severity: Severity::Error,
    args: &["text", "near"],
    message: text("`{text}` is not a number", "`{text}` 不是合法的数"),
    labels: &[text("the tail is neither a suffix nor a unit", "尾部既不是数量后缀，也不是单位")],
    help: &[
        text("did you mean `{near}`?", "是否想写 `{near}`？"),
        text(
            "suffixes are `k M B T` and touch the number; units follow after a blank, as in `1T tokens`",
            "数量后缀为 `k M B T`，紧跟数字；单位写在空格之后，例如 `1T tokens`",
        ),
    ],
    page: Page {
        what: text(
            "A number ends in letters that are neither a suffix (`k M B T % x`) nor a unit of the closed list.",
            "数字末尾的字母既不是后缀（`k M B T % x`），也不是已知单位。",
        ),
        why: text(
            "A wrong suffix changes a budget a thousandfold, so none is guessed.",
            "后缀写错会让预算相差千倍，因此绝不猜测。",
        ),
        example: "model llama 7b < ctx 8kk >",
        instead: "model llama 7b < ctx 8k >",
    },
};

/// The bad token, with the spelling that was probably meant.
pub fn found(span: Span, words: &str) -> Diagnostic {
    let digits: String = words.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let near = match words.get(digits.len()..) {
        Some("t") => Some(format!("{digits}T")),
        Some("K" | "kk" | "KK") => Some(format!("{digits}k")),
        Some("b" | "bn" | "BB") => Some(format!("{digits}B")),
        Some("m" | "MM") => Some(format!("{digits}M")),
        _ => None,
    };
    Diagnostic::new(&RULE).at(span).text("text", crate::diag::shorten(words)).near(span, near.as_deref())
}
