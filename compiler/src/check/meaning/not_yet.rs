//! LLM0704: a setting that is checked and kept, but that this version does not follow.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, Text, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0704",
    severity: Severity::Warning,
    args: &["name", "instead"],
    message: text(
        "`{name}` is checked, but this version does not follow it",
        "`{name}` 会被检查，但当前版本尚未执行",
    ),
    labels: &[text("has no effect on the run", "对运行没有影响")],
    help: &[text("{instead}", "当前行为：{instead}")],
    page: Page {
        what: text(
            "Later phases of a mixture (`at 80% < … >`) and the window of evaluation (`window`, `stride`) are part of the language; this version reads one mixture throughout and evaluates whole contexts.",
            "混合的后续阶段（`at 80% < … >`）与评估窗口（`window`、`stride`）属于本语言；当前版本全程使用同一混合，并按完整上下文评估。",
        ),
        why: text("What is not done is said, not skipped.", "没有做到的事要说明，而不是略过。"),
        example: "model llama 7b\ndata < zh \"zh/*\"  en \"en/*\" >\nmix < at 80% < zh 40% > >",
        instead: "model llama 7b\ndata < zh \"zh/*\"  en \"en/*\" >\nmix < zh 40% >",
    },
};

/// What happens in place of a later phase.
pub const PHASE: Text = text(
    "one mixture is read throughout; train to that point, then continue with another recipe and `from`",
    "全程使用同一混合；可先训练到该处，再用另一个配方与 `from` 继续",
);
/// What happens in place of a sliding window.
pub const WINDOW: Text = text(
    "validation text is read in whole contexts; leave it out",
    "验证文本按完整上下文读取；可以去掉该选项",
);

/// The setting, and what happens in its place.
pub fn found(span: Span, name: &str, instead: &Text) -> Diagnostic {
    Diagnostic::new(&RULE).at(span).text("name", name).arg("instead", (*instead).into())
}
