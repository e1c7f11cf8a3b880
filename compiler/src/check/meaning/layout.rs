//! LLM0801: pins that no layout of these devices has.

use crate::diag::{Diagnostic, Page, Rule, Severity, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0801",
    severity: Severity::Error,
    args: &["part", "part_value", "whole", "whole_value", "fixes"],
    message: text(
        "{part} = {part_value} does not divide {whole} = {whole_value}",
        "{part} = {part_value} 不能整除 {whole} = {whole_value}",
    ),
    labels: &[
        text("{part} {part_value}", "{part} {part_value}"),
        text("{whole} {whole_value}", "{whole} {whole_value}"),
    ],
    help: &[
        text("these work, each planned: {fixes}", "以下更改均已验证可行：{fixes}"),
        text(
            "choose a {part} that divides {whole_value}, or unpin it",
            "请选择能整除 {whole_value} 的 {part}，或取消固定",
        ),
    ],
    page: Page {
        what: text(
            "Pinned parts of the layout must divide what they split: tp·pp·cp·dp the devices, tp the heads, pp·vp the layers at most.",
            "固定的布局必须整除其切分对象：tp·pp·cp·dp 整除设备数，tp 整除头数，pp·vp 不超过层数。",
        ),
        why: text(
            "Every device holds an equal share; a broken one has no program.",
            "每张卡持有相等的份额；不整除则没有可执行的程序。",
        ),
        example: "model llama 7b\nbudget 1T tokens on 64xH100\nlayout < tp 3 >",
        instead: "model llama 7b\nbudget 1T tokens on 64xH100\nlayout < tp 2 >",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let f = &r.facts;
    let pin = |name: &str| f.count(&format!("layout.{name}"));
    let mut report = |part: &str, value: u64, at: &str, whole: &str, whole_value: u64, whole_at: &str| {
        let d = Diagnostic::new(&RULE).at_maybe(f.span(at)).at_maybe(f.span(whole_at));
        out.push(
            d.text("part", part)
                .count("part_value", value)
                .text("whole", whole)
                .count("whole_value", whole_value),
        );
    };
    if let Some(tp) = pin("tp") {
        if let Some(heads) = f.count("model.heads").filter(|h| !h.is_multiple_of(tp)) {
            report("tp", tp, "layout.tp", "heads", heads, "model.heads");
            return;
        }
        if let Some(ffn) = f.count("model.ffn").filter(|w| !w.is_multiple_of(tp)) {
            report("tp", tp, "layout.tp", "ffn", ffn, "model.ffn");
            return;
        }
    }
    if let (Some(cp), Some(context)) = (pin("cp"), f.count("model.context"))
        && !context.is_multiple_of(cp)
    {
        report("cp", cp, "layout.cp", "ctx", context, "model.context");
        return;
    }
    let stages = pin("pp").unwrap_or(1).saturating_mul(pin("vp").unwrap_or(1));
    if let Some(layers) = f.count("model.layers").filter(|l| stages > *l) {
        report("pp × vp", stages, "layout.pp", "layers", layers, "model.layers");
        return;
    }
    let (Some(nodes), Some(per_node)) = (f.count("on.nodes"), f.count("on.gpus_per_node")) else { return };
    let gpus = nodes.saturating_mul(per_node);
    let pinned = ["tp", "pp", "cp", "dp"].map(|n| (n, pin(n)));
    let product = pinned.iter().fold(1u64, |all, (_, n)| all.saturating_mul(n.unwrap_or(1)));
    let all_given = pinned.iter().all(|(_, n)| n.is_some());
    if !gpus.is_multiple_of(product) || (all_given && product != gpus) {
        let names: Vec<&str> = pinned.iter().filter(|(_, n)| n.is_some()).map(|(n, _)| *n).collect();
        let at = names.first().map_or(String::new(), |n| format!("layout.{n}"));
        report(&names.join("·"), product, &at, "devices", gpus, "on.nodes");
    }
}
