//! LLM0704: a phase of the mixture that the reader does not follow yet.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, Value, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0704",
    severity: Severity::Warning,
    args: &["start"],
    message: text("the mixture stays the same after {start}: phases are checked, but not yet followed by `llmc-data`", "{start} 之后混合比例不变：阶段会被检查，但 `llmc-data` 尚未执行"),
    labels: &[text("this phase", "该阶段")],
    help: &[text("train to {start}, then continue with another recipe and `from`", "请先训练到 {start}，再用另一个配方与 `from` 继续")],
    page: Page {
        what: text("`mix < … at 80% < … > >` changes the mixture during the run. This version checks it and plans it, but reads one mixture throughout.", "`mix < … at 80% < … > >` 在训练途中改变混合比例。当前版本会检查，但全程使用同一比例。"),
        why: text("What is not done is said, not skipped.", "没有做到的事要说明，而不是略过。"),
        example: "model llama 7b\ndata < zh \"zh/*\"  en \"en/*\" >\nmix < at 80% < zh 40% > >",
        instead: "model llama 7b\ndata < zh \"zh/*\"  en \"en/*\" >\nmix < zh 40% >",
    },
};

/// The phase and where it starts.
pub fn found(span: Span, start: f64) -> Diagnostic {
    Diagnostic::new(&RULE).at(span).arg("start", Value::Ratio(start))
}
