//! LLM0608: gradients summed in bf16 where optimizer or precision cannot.

use crate::diag::{Diagnostic, Page, Rule, Severity, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0608",
    severity: Severity::Error,
    args: &["optimizer", "precision"],
    message: text(
        "`gradients bf16` is for AdamW on bf16 weights, not for {optimizer} under {precision}",
        "`gradients bf16` 用于 bf16 权重上的 AdamW，不适用于 {precision} 下的 {optimizer}",
    ),
    labels: &[text("asked here", "此处要求"), text("optimizer or precision", "优化器或精度")],
    help: &[text(
        "leave `gradients` out, or use `adamw` or `paged_adamw` with `precision bf16` or `fp8`",
        "请去掉 `gradients`，或使用 `adamw`、`paged_adamw` 配合 `precision bf16` 或 `fp8`",
    )],
    page: Page {
        what: text(
            "The gradients of the blocks' matrices are summed over the micro-batches of a step in bf16: 2 bytes a parameter \
             instead of 4.",
            "各层矩阵的梯度在一步的微批之间以 bf16 累加：每参数 2 字节，而非 4 字节。",
        ),
        why: text(
            "f32 products have f32 gradients, fp16 sums overflow under loss scaling, and the other optimizers read f32. \
             A sum in bf16 loses what is 256 times smaller than it: many small micro-batches suffer, few large ones do not.",
            "f32 乘积得到 f32 梯度，fp16 累加在损失缩放下会溢出，其他优化器只读取 f32。bf16 累加会丢失小于和的 1/256 的部分：\
             微批多而小时受影响，少而大时不受影响。",
        ),
        example: "model llama 7b\nbudget 1T tokens on 64xH100\noptimizer lion < gradients bf16 >",
        instead: "model llama 7b\nbudget 1T tokens on 64xH100\noptimizer adamw < gradients bf16 >",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let word = |path| r.facts.word(path).unwrap_or_default().to_owned();
    let (optimizer, precision) = (word("optimizer.kind"), word("precision"));
    let adamw = ["adamw", "paged_adamw"].contains(&optimizer.as_str());
    let sixteen = ["bf16", "fp8"].contains(&precision.as_str());
    if word("optimizer.gradient_dtype") != "bf16" || (adamw && sixteen) {
        return;
    }
    let other = if adamw { "precision" } else { "optimizer.kind" };
    let asked = r.facts.span("optimizer.gradient_dtype");
    let d = Diagnostic::new(&RULE).at_maybe(asked).at_maybe(r.facts.span(other));
    out.push(d.text("optimizer", optimizer).text("precision", precision));
}
