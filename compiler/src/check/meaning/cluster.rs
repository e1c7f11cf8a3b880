//! LLM0501: a device count that fills no whole nodes.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0501",
    severity: Severity::Error,
    args: &["gpus", "below", "above", "nodes", "sku"],
    message: text("{gpus} devices fill no whole nodes of 8", "{gpus} 张卡无法组成整数个 8 卡节点"),
    labels: &[text("above 8 it must be a multiple of 8", "超过 8 张时须为 8 的倍数")],
    help: &[text(
        "write `{below}x{sku}` or `{above}x{sku}`, or name nodes of another size: `{nodes}x{sku}`",
        "请写 `{below}x{sku}` 或 `{above}x{sku}`，或写明其他规模的节点：`{nodes}x{sku}`",
    )],
    page: Page {
        what: text(
            "`NxSKU` is one node up to 8 devices and nodes of 8 above.",
            "`NxSKU` 在 8 张以内是一个节点，超过则按 8 卡节点计算。",
        ),
        why: text(
            "The link inside a node and the network between nodes differ by a factor of ten; the plan depends on where the border is.",
            "节点内互连与节点间网络相差约十倍，边界在哪里决定了计划。",
        ),
        example: "model llama 7b\nbudget 1T tokens on 60xH100",
        instead: "model llama 7b\nbudget 1T tokens on 15x4xH100",
    },
};

/// The cluster token, its count and its device.
pub fn found(span: Span, gpus: u64, sku: &str) -> Diagnostic {
    let per_node = (1..=8).rev().find(|n| gpus.is_multiple_of(*n)).unwrap_or(1);
    Diagnostic::new(&RULE)
        .at(span)
        .text("nodes", format!("{}x{per_node}", gpus / per_node))
        .count("gpus", gpus)
        .text("below", (gpus / 8 * 8).to_string())
        .text("above", (gpus / 8 * 8 + 8).to_string())
        .text("sku", sku)
}
