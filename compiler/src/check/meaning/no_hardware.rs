//! LLM0302: nothing says on which devices, and nothing lets the count be derived.

use crate::diag::{Diagnostic, Page, Rule, Severity, Source, Span, Value, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0302",
    severity: Severity::Error,
    args: &["sku", "params", "flops"],
    message: text("nothing says how many devices train this", "没有说明用多少设备训练"),
    labels: &[text(
        "no count, and no budget of tokens with time or money to derive it from",
        "没有数量，也没有“词元加时间或金额”的预算可供推导",
    )],
    help: &[
        text(
            "write `on 64x{sku}`, or give tokens and a time: `budget 1T tokens 21 days on {sku}`",
            "请写 `on 64x{sku}`，或同时给出词元与时间：`budget 1T tokens 21 days on {sku}`",
        ),
        text(
            "write for example `on 64xH100`, or `budget 1T tokens 21 days on H100` to have the count derived ({params} parameters, {flops} FLOPs a token)",
            "例如写 `on 64xH100`，或写 `budget 1T tokens 21 days on H100` 以推导数量（{params} 参数，每词元 {flops} FLOPs）",
        ),
    ],
    page: Page {
        what: text(
            "A plan needs devices. The recipe names none, or a kind without a count, and of {tokens, time, money, hardware} fewer than two are given.",
            "计划需要设备。配方没有写设备，或只写了型号没有数量，而 {词元, 时间, 金额, 硬件} 中给出的少于两个。",
        ),
        why: text(
            "With two of them the planner derives the others; with one it would have to guess. `check` does not need devices, `plan` does.",
            "给出两个即可推导其余；只有一个则只能猜。`check` 不需要设备，`plan` 需要。",
        ),
        example: "model llama 7b\nbudget 1T tokens",
        instead: "model llama 7b\nbudget 1T tokens on 64xH100",
    },
};

/// Called by `plan` only: `check` passes without hardware.
pub fn check(r: &Resolved) -> Option<Diagnostic> {
    let f = &r.facts;
    let counted = f.has("on.nodes");
    let (time, money) = (f.has("budget.asked_seconds"), f.has("budget.asked_money"));
    let work = f.has("budget.tokens") || f.has("budget.asked_flops");
    if r.hardware.is_some() && (counted || (time || money) && work || time && money) {
        return None;
    }
    let at = f.span("hardware.name").or(f.span("budget.tokens")).or(f.span("model.family"));
    let d = Diagnostic::new(&RULE).at(at.unwrap_or(Span { source: Source::Recipe, start: 0, end: 0 }));
    if let Some(hardware) = &r.hardware {
        return Some(d.text("sku", hardware.name.clone()));
    }
    let params = f.count("model.params").unwrap_or(0);
    let flops = crate::question::model(f).map_or(0.0, |m| m.flops_per_token());
    Some(d.arg("params", Value::Large(params as f64)).arg("flops", Value::Large(flops)))
}
