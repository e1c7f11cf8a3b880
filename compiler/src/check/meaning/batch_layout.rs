//! LLM0602: a batch the pinned layout cannot divide.

use crate::diag::{Diagnostic, Page, Rule, Severity, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0602",
    severity: Severity::Error,
    args: &["sequences", "dp", "micro", "share", "fixes"],
    message: text(
        "{sequences} sequences do not divide among {dp} data-parallel ranks × micro-batches of {micro}",
        "{sequences} 条序列无法平分到 {dp} 个数据并行组 × 每微批 {micro} 条",
    ),
    labels: &[
        text("{sequences} sequences a step", "每步 {sequences} 条序列"),
        text("one round takes {share}", "一轮需要 {share} 条"),
    ],
    help: &[
        text("these work, each planned: {fixes}", "以下更改均已验证可行：{fixes}"),
        text(
            "the batch must be a multiple of {share} sequences; unpin `dp` or `micro`, or change the batch",
            "批须为 {share} 条序列的整数倍；请取消固定 `dp` 或 `micro`，或修改批大小",
        ),
    ],
    page: Page {
        what: text("dp × micro-batch does not divide the global batch.", "dp × 微批大小不能整除全局批大小。"),
        why: text(
            "Every rank takes the same number of micro-batches, or all would wait for one.",
            "每个数据并行组的微批数必须相同，否则大家都要等待。",
        ),
        example: "model llama 7b < ctx 8k >\nbudget 1T tokens on 64xH100\nbatch 500 sequences\nlayout < dp 64 >",
        instead: "model llama 7b < ctx 8k >\nbudget 1T tokens on 64xH100\nbatch 512 sequences\nlayout < dp 64 >",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let f = &r.facts;
    let (Some(batch), Some(context)) = (f.count("batch.asked_tokens"), f.count("model.context")) else {
        return;
    };
    if context == 0 || !batch.is_multiple_of(context) {
        return;
    }
    let (dp, micro) = (f.count("layout.dp"), f.count("batch.micro_batch_sequences"));
    let share = dp.unwrap_or(1).saturating_mul(micro.unwrap_or(1));
    let sequences = batch / context;
    if share > 1 && !sequences.is_multiple_of(share) {
        let pin = f.span("layout.dp").or(f.span("batch.micro_batch_sequences"));
        let d = Diagnostic::new(&RULE)
            .at_maybe(f.span("batch.asked_tokens").or(f.span("batch.asked_sequences")))
            .at_maybe(pin);
        out.push(
            d.count("sequences", sequences)
                .count("dp", dp.unwrap_or(1))
                .count("micro", micro.unwrap_or(1))
                .count("share", share),
        );
    }
}
