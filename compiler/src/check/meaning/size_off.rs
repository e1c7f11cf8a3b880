//! LLM0403: the name says one size, the shape another.

use crate::diag::{Diagnostic, Page, Rule, Severity, Value, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0403",
    severity: Severity::Warning,
    args: &["size", "params", "off"],
    message: text(
        "`{size}` has {params} parameters, {off} from its name",
        "`{size}` 实有 {params} 参数，与名称相差 {off}",
    ),
    labels: &[text("named so", "名称")],
    help: &[text("pin less of the shape, or name the size it has", "请少固定一些形状，或改用实际规模命名")],
    page: Page {
        what: text(
            "What is pinned moves the parameter count more than 15 % from the size in the name.",
            "固定项使参数量与名称相差超过 15%。",
        ),
        why: text(
            "The exact count decides everything; the name is only a name. 7b itself is 3.7 % below its own.",
            "一切由精确参数量决定，名称只是名称。7b 本身就比名称少 3.7%。",
        ),
        example: "model llama 7b < layers 16 >",
        instead: "model llama 3.5b < layers 16 >",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let f = &r.facts;
    // A shape that cannot be built has no size to compare.
    let mut broken = Vec::new();
    super::shape_whole::check(r, &mut broken);
    if !broken.is_empty() {
        return;
    }
    let (Some(asked), Some(params)) = (f.count("model.asked_params"), f.count("model.params")) else {
        return;
    };
    let off = params as f64 / asked as f64 - 1.0;
    if off.abs() > 0.15 {
        let d = Diagnostic::new(&RULE).at_maybe(f.span("model.size"));
        out.push(
            d.text("size", f.word("model.size").unwrap_or(""))
                .count("params", params)
                .arg("off", Value::Ratio(off)),
        );
    }
}
