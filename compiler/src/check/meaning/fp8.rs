//! LLM0606: fp8 on a device without it.

use crate::diag::{Diagnostic, Page, Rule, Severity, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0606",
    severity: Severity::Error,
    args: &["sku"],
    message: text("{sku} has no fp8 units", "{sku} 没有 fp8 计算单元"),
    labels: &[text("fp8 asked here", "此处要求 fp8"), text("this device", "该设备")],
    help: &[text(
        "write `precision bf16`, or use H100, H200, H800 or B200",
        "请写 `precision bf16`，或使用 H100、H200、H800、B200",
    )],
    page: Page {
        what: text(
            "`precision fp8` needs matrix units for 8-bit floats.",
            "`precision fp8` 需要支持 8 位浮点的矩阵单元。",
        ),
        why: text(
            "Without them products would be emulated, slower than bf16.",
            "没有则只能模拟，比 bf16 更慢。",
        ),
        example: "model llama 7b\nbudget 1T tokens on 64xA100\nprecision fp8",
        instead: "model llama 7b\nbudget 1T tokens on 64xA100\nprecision bf16",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let Some(hardware) = &r.hardware else { return };
    if r.facts.word("precision") == Some("fp8") && hardware.peak_fp8.is_none() {
        let d = Diagnostic::new(&RULE)
            .at_maybe(r.facts.span("precision"))
            .at_maybe(r.facts.span("hardware.name"));
        out.push(d.text("sku", hardware.name.clone()));
    }
}
