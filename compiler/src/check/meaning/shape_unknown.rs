//! LLM0401: neither a size nor a width and a depth.

use crate::diag::{Diagnostic, Page, Rule, Severity, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0401",
    severity: Severity::Error,
    args: &["sizes"],
    message: text("nothing says how large the model is", "没有说明模型的规模"),
    labels: &[text("no size, and no `layers` and `hidden`", "既没有规模，也没有 `layers` 与 `hidden`")],
    help: &[text(
        "write a size such as `{sizes}` or any other (`1.3b`), or pin `layers` and `hidden`",
        "请写规模，如 `{sizes}` 或任意大小（`1.3b`），或固定 `layers` 与 `hidden`",
    )],
    page: Page {
        what: text(
            "The model has a family, but neither a size nor enough of a shape; or no shape agrees with everything that is pinned.",
            "只有模型族，没有规模或足够的形状；或者没有任何形状符合全部固定项。",
        ),
        why: text(
            "Presets give a released size exactly; the solver shapes any other size around what is pinned.",
            "预设给出已发布规模的精确形状；其他规模由求解器围绕固定项给出。",
        ),
        example: "model llama < ctx 8k >",
        instead: "model llama 1.3b < ctx 8k >",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    if !r.has_model || r.facts.has("model.params") {
        return;
    }
    let sizes = r.facts.word("model.family").and_then(crate::shape::family);
    let mut sizes: Vec<(u64, String)> =
        sizes.map_or(Vec::new(), |f| f.shapes.iter().map(|(name, s)| (s.params, name.clone())).collect());
    sizes.sort();
    let sizes: Vec<String> = sizes.into_iter().map(|(_, name)| name).collect();
    let at = r.facts.span("model.size").or(r.facts.span("model.family"));
    out.push(Diagnostic::new(&RULE).at_maybe(at).arg("sizes", crate::diag::Value::List(sizes)));
}
