//! LLM0709: a source that cannot be read in place.

use crate::diag::{Diagnostic, Page, Rule, Severity, Text, text};
use crate::resolve::Resolved;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0709",
    severity: Severity::Error,
    args: &["source", "problem"],
    message: text("`{source}` cannot be read in place: {problem}", "`{source}` 无法就地读取：{problem}"),
    labels: &[text("named here", "在此指定")],
    help: &[text(
        "name Megatron's `.bin` files and the tokenizer that made their ids, as in `tokenizer < import \"tokenizer.json\" >`, or leave `in_place` out",
        "请指定 Megatron 的 `.bin` 文件，并用 `tokenizer < import \"tokenizer.json\" >` 指定生成这些 id 的分词器，或去掉 `in_place`",
    )],
    page: Page {
        what: text(
            "A source with `in_place yes` names other files than `.bin`, or the recipe imports no tokenizer.",
            "带 `in_place yes` 的数据源指向 `.bin` 以外的文件，或配方没有导入分词器。",
        ),
        why: text(
            "Shards that stay where they are hold ids already: text cannot be encoded there, and ids mean nothing without their tokenizer.",
            "留在原处的分片已是 id：无法在那里编码文本，而没有对应的分词器，id 没有意义。",
        ),
        example: "model llama 7b\ndata < base \"shards/*.bin\" < in_place yes > >",
        instead: "model llama 7b\ntokenizer bpe < import \"shards/tokenizer.json\" >\ndata < base \"shards/*.bin\" < in_place yes > >",
    },
};

const FILES: Text = text("its files do not end in `.bin`", "其文件不以 `.bin` 结尾");
const TOKENIZER: Text = text("no tokenizer is imported", "没有导入分词器");

/// Checks it.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    for source in r.data.sources.iter().filter(|source| source.in_place) {
        let problem = match (source.glob.ends_with(".bin"), r.facts.has("tokenizer.import")) {
            (false, _) => FILES,
            (_, false) => TOKENIZER,
            _ => continue,
        };
        let d = Diagnostic::new(&RULE).at(source.span).text("source", &source.name);
        out.push(d.arg("problem", problem.into()));
    }
}
