//! LLM0409: the size is another family's.

use crate::diag::{Diagnostic, Page, Rule, Severity, Value, text};
use crate::resolve::Resolved;
use crate::shape::families;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0409",
    severity: Severity::Advice,
    args: &["family", "size", "others"],
    message: text(
        "`{family}` has no published {size}: its shape follows {family}'s proportions",
        "`{family}` 没有公开的 {size}：形状按 {family} 的比例推导",
    ),
    labels: &[text("published: {others}", "公开的有：{others}")],
    help: &[text(
        "name the published model if that is meant: its heads share keys and values, which changes memory and time",
        "若指公开的模型，请写其名称：其注意力头共享 KV，会影响显存与时间",
    )],
    page: Page {
        what: text(
            "The family has no model of that size and another one has; nothing of the shape is pinned.",
            "该模型族没有这个规模，而另一模型族有；形状没有任何固定项。",
        ),
        why: text(
            "`llama` is the LLaMA of arXiv 2302.13971, whose sizes are 7b, 13b, 33b and 65b. A derived shape is as good a model, but not the one that others' figures are of.",
            "`llama` 指 arXiv 2302.13971 的 LLaMA，规模为 7b、13b、33b、65b。推导的形状同样可用，但与他人公布的数字不是同一个模型。",
        ),
        example: "model llama 70b\nbudget 2T tokens on 512xH100",
        instead: "model llama2 70b\nbudget 2T tokens on 512xH100",
    },
};

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    let f = &r.facts;
    let (Some(family), Some(size)) = (f.word("model.family"), f.word("model.size")) else { return };
    let pinned = ["layers", "hidden", "heads", "kv_heads", "head_dim", "ffn"]
        .iter()
        .any(|part| f.span(&format!("model.{part}")).is_some());
    let has = |name: &str| families().iter().any(|f| f.family == name && f.shapes.contains_key(size));
    if pinned || f.has("from") || has(family) {
        return;
    }
    let others: Vec<String> =
        families().iter().filter(|f| has(&f.family)).map(|f| format!("`{} {size}`", f.family)).collect();
    if !others.is_empty() {
        let d = Diagnostic::new(&RULE).at_maybe(f.span("model.size"));
        out.push(d.text("family", family).text("size", size).arg("others", Value::List(others)));
    }
}
