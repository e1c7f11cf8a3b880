//! LLM0502: tokens, time or money, and hardware are all given.

use crate::diag::{Diagnostic, Page, Rule, Severity, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0502",
    severity: Severity::Error,
    args: &["work", "spend"],
    message: text(
        "{work}, {spend} and a device count: each two of them decide the third",
        "同时给出了{work}、{spend}与设备数：其中两个即可决定第三个",
    ),
    labels: &[text("this", "这里"), text("and this", "这里"), text("and this", "以及这里")],
    help: &[text(
        "drop one of the three; what must hold but decides nothing goes to `expect`, as in `expect time <= 21 days`",
        "请去掉其中一个；必须满足但不参与推导的条件写在 `expect` 里，例如 `expect time <= 21 days`",
    )],
    page: Page {
        what: text(
            "Of {tokens or FLOPs, time or money, hardware} all three are given, or two limits of one kind.",
            "{词元或 FLOPs、时间或金额、硬件} 三者全部给出，或同一类给出两个限制。",
        ),
        why: text("Two decide the third; a third given one contradicts or repeats it.", "两个决定第三个；再给出第三个不是矛盾就是重复。"),
        example: "model llama 7b\nbudget 1T tokens 7 days on 64xH100",
        instead: "model llama 7b\nbudget 1T tokens on 64xH100\nexpect time <= 21 days",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let f = &r.facts;
    let given = |paths: &[&'static str]| paths.iter().copied().filter(|p| f.has(p)).collect::<Vec<_>>();
    let work = given(&["budget.tokens", "budget.asked_flops"]);
    let spend = given(&["budget.asked_seconds", "budget.asked_money"]);
    let on = f.has("on.nodes");
    let over = work.len() > 1 || spend.len() > 1 || (!work.is_empty() && !spend.is_empty() && on);
    if !over {
        return;
    }
    let name = |p: &str| match p {
        "budget.tokens" => "tokens",
        "budget.asked_flops" => "FLOPs",
        "budget.asked_seconds" => "time",
        _ => "money",
    };
    let names = |ps: &[&str]| ps.iter().map(|p| name(p)).collect::<Vec<_>>().join(" + ");
    let mut d = Diagnostic::new(&RULE).text("work", names(&work)).text("spend", names(&spend));
    for path in work.iter().chain(&spend).chain(on.then_some(&"on.nodes")) {
        d = d.at_maybe(f.span(path));
    }
    out.push(d);
}
