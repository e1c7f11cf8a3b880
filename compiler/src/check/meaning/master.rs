//! LLM0607: a master kept in a way that optimizer or precision cannot.

use crate::diag::{Diagnostic, Page, Rule, Severity, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0607",
    severity: Severity::Error,
    args: &["master", "optimizer", "precision"],
    message: text(
        "`master {master}` is for AdamW on bf16 weights, not for {optimizer} under {precision}",
        "`master {master}` 用于 bf16 权重上的 AdamW，不适用于 {precision} 下的 {optimizer}",
    ),
    labels: &[text("asked here", "此处要求"), text("optimizer or precision", "优化器或精度")],
    help: &[text(
        "leave `master` out, or use `adamw` or `paged_adamw` with `precision bf16` or `fp8`",
        "请去掉 `master`，或使用 `adamw`、`paged_adamw` 配合 `precision bf16` 或 `fp8`",
    )],
    page: Page {
        what: text(
            "A split master keeps 16 bits beside each bf16 weight; stochastic rounding keeps no master at all. Both are \
             made inside AdamW's update.",
            "拆分的主权重在每个 bf16 权重旁只保存缺少的 16 位；随机舍入则完全不保存主权重。两者都在 AdamW 更新中完成。",
        ),
        why: text(
            "f32 weights are their own master, fp16 weights are not the upper half of an f32, and the other optimizers \
             update an f32 master.",
            "f32 权重本身就是主权重，fp16 权重不是 f32 的高半部分，其他优化器只更新 f32 主权重。",
        ),
        example: "model llama 7b\nbudget 1T tokens on 64xH100\noptimizer lion < master split >",
        instead: "model llama 7b\nbudget 1T tokens on 64xH100\noptimizer adamw < master split >",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let word = |path| r.facts.word(path).unwrap_or_default().to_owned();
    let (master, optimizer, precision) =
        (word("optimizer.master"), word("optimizer.kind"), word("precision"));
    let plain = master.is_empty() || master == "f32";
    let adamw = ["adamw", "paged_adamw"].contains(&optimizer.as_str());
    let sixteen = ["bf16", "fp8"].contains(&precision.as_str());
    if plain || (adamw && sixteen) {
        return;
    }
    let other = if adamw { "precision" } else { "optimizer.kind" };
    let d = Diagnostic::new(&RULE).at_maybe(r.facts.span("optimizer.master")).at_maybe(r.facts.span(other));
    out.push(d.text("master", master).text("optimizer", optimizer).text("precision", precision));
}
