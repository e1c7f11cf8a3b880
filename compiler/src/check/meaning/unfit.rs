//! LLM0901: the model does not fit the devices.

use llmc_planner::Infeasible;

use crate::diag::{Diagnostic, Lang, Page, Rule, Severity, Span, Value, money, text};
use crate::resolve::Resolved;
use crate::unit::{human_bytes, human_time};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0901",
    severity: Severity::Error,
    args: &[
        "sum",
        "needed",
        "device",
        "sku",
        "layout",
        "fixes",
        "parameters",
        "gradients",
        "optimizer",
        "activations",
        "logits",
        "buffers",
        "overhead",
        "rule",
        "figures",
    ],
    message: text(
        "no layout fits: {needed} needed on the fullest device, {device} there",
        "没有可行布局：最满的设备需要 {needed}，只有 {device}",
    ),
    labels: &[text("{sum} > {device}", "{sum} > {device}"), text("", "")],
    help: &[
        text("these fit, each planned: {fixes}", "以下更改均已验证可行：{fixes}"),
        text(
            "use more devices, devices with more memory, or a shorter context",
            "请使用更多设备、更大显存的设备，或更短的上下文",
        ),
    ],
    page: Page {
        what: text(
            "Even the layout that needs least memory does not fit. The sum names each term of its fullest device: parameters, gradients, optimizer states, activations, logits, buffers, and what CUDA and the allocator keep.",
            "即使最省显存的布局也放不下。求和列出最满设备上的每一项：参数、梯度、优化器状态、激活、logits、缓冲区，以及 CUDA 与分配器的开销。",
        ),
        why: text(
            "It is known now, not after the first hour of a rented cluster. Each fix named was planned and fits.",
            "现在就能知道，而不是租用集群一小时之后。所列的每个更改都经过规划验证。",
        ),
        example: "model llama3 405b < ctx 8k >\nbudget 1T tokens on 8xA100",
        instead: "model llama3 405b < ctx 8k >\nbudget 1T tokens on 1024xH100",
    },
};

/// The layout answer of the planner in words of the recipe.
pub fn found(r: &Resolved, currency: &str, why: &Infeasible) -> Option<Diagnostic> {
    let Infeasible::Layout { device_bytes, nearest: Some(nearest), fixes, rule, .. } = why else {
        return None;
    };
    let m = &nearest.memory;
    let overhead = m.device.saturating_sub(m.allocated);
    let terms = [
        ("parameters", "参数", m.parameters),
        ("gradients", "梯度", m.gradients),
        ("optimizer", "优化器", m.optimizer),
        ("activations", "激活", m.activations),
        ("logits", "logits", m.logits),
        ("buffers", "缓冲区", m.buffers),
        ("overhead", "其他开销", overhead),
    ];
    let sum = |pick: fn(&(&'static str, &'static str, u64)) -> &'static str| {
        let parts = terms.iter().filter(|t| t.2 > 0).map(|t| format!("{} {}", pick(t), human_bytes(t.2)));
        parts.collect::<Vec<_>>().join(" + ")
    };
    let l = &nearest.layout;
    let layout = format!(
        "dp {} tp {} pp {} cp {} zero {} micro {}",
        l.dp, l.tp, l.pp, l.cp, l.zero_stage, nearest.micro_batch_sequences
    );
    let mut d = Diagnostic::new(&RULE)
        .at(place(r))
        .arg("sum", Value::Both(sum(|t| t.0), sum(|t| t.1)))
        .arg("needed", Value::Bytes(m.device))
        .arg("device", Value::Bytes(*device_bytes))
        .text("sku", r.facts.word("hardware.name").unwrap_or(""))
        .text("layout", layout)
        .text("rule", rule.clone());
    for (name, _, bytes) in terms {
        d = d.arg(name, Value::Bytes(bytes));
    }
    Some(with_fixes(d, fixes, currency))
}

/// The finding with the ways out that were planned, where there are any.
pub fn with_fixes(d: Diagnostic, fixes: &[llmc_planner::Fix], currency: &str) -> Diagnostic {
    let words = |fix| Value::Both(fix_words(fix, currency, Lang::En), fix_words(fix, currency, Lang::Zh));
    if fixes.is_empty() { d } else { d.arg("fixes", Value::Each(fixes.iter().map(words).collect())) }
}

/// `--set "on=16xH100"` (71.2 GiB, 3.1 s/step, ¥120,000)
fn fix_words(fix: &llmc_planner::Fix, currency: &str, lang: Lang) -> String {
    let also = fix.also.iter().map(|(path, value)| format!(" --set \"{path}={value}\"")).collect::<String>();
    let (memory, step) = (human_bytes(fix.device_bytes), human_time(fix.step_seconds, lang));
    let (command, cost) =
        (format!("`--set \"{}={}\"{also}`", fix.path, fix.value), money(fix.cost, currency));
    match lang {
        Lang::En => format!("{command} ({memory}, {step}/step, {cost})"),
        Lang::Zh => format!("{command}（{memory}，每步 {step}，{cost}）"),
    }
}

/// Where the devices are named, else the model.
pub fn place(r: &Resolved) -> Span {
    let f = &r.facts;
    let at =
        f.span("on.nodes").or(f.span("hardware.name")).or(f.span("model.size")).or(f.span("model.family"));
    at.unwrap_or(Span { source: crate::diag::Source::Recipe, start: 0, end: 0 })
}
