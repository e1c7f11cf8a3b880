//! LLM0708: a file of `on < mount … >` that `llmc data bench` has not written.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0708",
    severity: Severity::Error,
    args: &["path", "problem"],
    message: text(
        "`{path}` holds no measurement of a mount: {problem}",
        "`{path}` 不是挂载点的测量结果：{problem}",
    ),
    labels: &[text("read from here", "由此处读取")],
    help: &[text(
        "measure with `llmc data bench FOLDER --out {path}` on a machine that will train, or leave `mount` out",
        "请在训练机器上运行 `llmc data bench 目录 --out {path}`，或去掉 `mount`",
    )],
    page: Page {
        what: text(
            "`on < mount … >` names a file that is absent or not what `llmc data bench` writes.",
            "`on < mount … >` 指向的文件不存在，或不是 `llmc data bench` 的输出。",
        ),
        why: text(
            "Reading, checkpoints and their intervals are computed over what was measured; an assumed figure in its place would look the same.",
            "读取、检查点及其间隔均按实测计算；若悄悄换成假定值，看起来毫无区别。",
        ),
        example: "model llama 7b\non 8xH100 < mount \"nowhere.json\" >",
        instead: "model llama 7b\non 8xH100",
    },
};

/// The path and what is wrong with it.
pub fn found(span: Span, path: &str, problem: &str) -> Diagnostic {
    Diagnostic::new(&RULE).at(span).text("path", path).text("problem", problem)
}
