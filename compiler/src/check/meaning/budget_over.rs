//! LLM0502: tokens, hardware and time or money contradict each other.

use llmc_planner::Infeasible;

use crate::diag::{Diagnostic, Page, Rule, Severity, Value, short_float, text};
use crate::resolve::Resolved;
use crate::unit::grouped;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0502",
    severity: Severity::Error,
    args: &["tokens", "devices", "needed", "asked", "limit", "fixes"],
    message: text(
        "{tokens} tokens on {devices} need {needed}, the budget has {asked}",
        "{devices}训练 {tokens} 词元需要 {needed}，而预算只有 {asked}",
    ),
    labels: &[
        text("{limit} for the tokens", "{limit}"),
        text("the tokens", "词元数"),
        text("the devices", "设备"),
    ],
    help: &[
        text("ways out, each planned: {fixes}", "可行的出路（均已规划验证）：{fixes}"),
        text("raise the limit, lower the tokens, or use more devices", "请提高限额、减少词元，或增加设备"),
    ],
    page: Page {
        what: text(
            "Of {tokens or FLOPs, time or money, hardware} all three are given, and the devices do not train that many tokens within the limit; or tokens and FLOPs that this model does not turn into each other.",
            "{词元或 FLOPs、时间或金额、硬件} 三者全部给出，但这些设备无法在限额内训练这么多词元；或词元与 FLOPs 对该模型不相符。",
        ),
        why: text(
            "Two of the three decide the third. A limit that holds is kept as a promise; one that does not is an error now instead of a surprise later.",
            "三者中两个决定第三个。能满足的限额会被遵守；不能满足的现在就报错，而不是日后才发现。",
        ),
        example: "model llama 7b\nbudget 1T tokens 7 days on 64xH100",
        instead: "model llama 7b\nbudget 1T tokens 30 days on 64xH100",
    },
};

/// The planner's contradiction in words of the recipe.
pub fn found(r: &Resolved, currency: &str, why: &Infeasible) -> Option<Diagnostic> {
    let Infeasible::Question { rule: "budget.contradiction", figures, fixes } = why else { return None };
    let f = &r.facts;
    // An infinite limit is one that was not given.
    let figure = |name: &str| figures.get(name).copied().filter(|x| x.is_finite());
    let late = figure("seconds_asked").zip(figure("seconds_needed").or(figure("seconds_least")));
    let late = late.filter(|(asked, needed)| needed > asked);
    let dear = figure("money_asked").zip(figure("money_needed").or(figure("money_there")));
    let flops = figure("flops_asked").zip(figure("flops_needed"));
    let (asked, needed, at) = match (late, dear) {
        _ if flops.is_some() => {
            let of = |flops| Value::Text(format!("{} FLOPs", short_float(flops)));
            let (asked, needed) = flops?;
            (of(asked), of(needed), f.span("budget.asked_flops"))
        }
        (Some((asked, needed)), _) => {
            (Value::Seconds(asked), Value::Seconds(needed), f.span("budget.asked_seconds"))
        }
        (None, Some((asked, needed))) => {
            let of = |amount| Value::Money(amount, currency.to_owned());
            (of(asked), of(needed), f.span("budget.asked_money"))
        }
        _ => return None,
    };
    let several = |n: f64| format!("{} {}", grouped(n as u64), if n == 1.0 { "device" } else { "devices" });
    let devices = match (figure("gpus"), figure("gpus_best")) {
        _ if flops.is_some() => Value::Both("this model".to_owned(), "该模型".to_owned()),
        (Some(n), _) => Value::Both(several(n), format!("{} 张卡", grouped(n as u64))),
        (None, Some(n)) => Value::Both(
            format!("{} at best", several(n)),
            format!("即使用最合适的 {} 张卡", grouped(n as u64)),
        ),
        (None, None) => Value::Both("the best count of devices".to_owned(), "最合适数量的设备".to_owned()),
    };
    let limit = match flops.is_some_and(|(asked, needed)| asked > needed) {
        true => Value::Both("too much".to_owned(), "超出这些词元所需".to_owned()),
        false => Value::Both("too little".to_owned(), "不足以训练这些词元".to_owned()),
    };
    let tokens = f.span("budget.tokens").or(f.span("budget.asked_flops"));
    let d = Diagnostic::new(&RULE)
        .at_maybe(at)
        .at_maybe(tokens)
        // Labels are told by their order: without tokens there is no third.
        .at_maybe(tokens.and(f.span("on.nodes").or(f.span("hardware.name"))).filter(|_| flops.is_none()))
        .arg("tokens", Value::Large(figure("tokens")?))
        .arg("devices", devices)
        .arg("needed", needed)
        .arg("asked", asked)
        .arg("limit", limit);
    Some(super::unfit::with_fixes(d, fixes, currency))
}
