//! LLM0105: an argument the choice does not take.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, Value, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0105",
    severity: Severity::Error,
    args: &["name", "owner", "near", "known"],
    message: text("`{owner}` takes no argument `{name}`", "`{owner}` 没有参数 `{name}`"),
    labels: &[text("unknown argument", "未知参数")],
    help: &[
        text("did you mean `{near}`?", "是否想写 `{near}`？"),
        text("it takes {known}", "可用参数：{known}"),
        text("write `{owner}` without it", "请去掉 `{owner}` 的该参数"),
    ],
    page: Page {
        what: text(
            "A call such as `yarn(s=2)` has an argument that its choice does not take.",
            "类似 `yarn(s=2)` 的调用带有不支持的参数。",
        ),
        why: text(
            "Choices are typed: their parameters are known, so a wrong one can be named.",
            "选项有类型，参数已知，写错即可指出。",
        ),
        example: "model llama 7b < ctx 8k rope yarn(scale=2) >",
        instead: "model llama 7b < ctx 8k rope yarn(s=2) >",
    },
};

/// The argument (whole) and the arguments there are.
pub fn found(span: Span, name: &str, owner: &str, known: &[&str]) -> Diagnostic {
    let near = crate::diag::nearest(name, known.iter().copied());
    let d = Diagnostic::new(&RULE).at(span).text("name", crate::diag::shorten(name)).text("owner", owner);
    let d = match near {
        Some(n) => d.text("near", n),
        None => d,
    };
    if known.is_empty() {
        d
    } else {
        d.arg("known", Value::List(known.iter().map(|k| (*k).to_owned()).collect()))
    }
}
