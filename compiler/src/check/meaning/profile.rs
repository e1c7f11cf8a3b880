//! LLM0711: a file of `on < profile … >` that `llmc calibrate` has not written for this device.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0711",
    severity: Severity::Error,
    args: &["path", "problem"],
    message: text(
        "`{path}` holds no profile of this device: {problem}",
        "`{path}` 不是该设备的档案：{problem}",
    ),
    labels: &[text("read from here", "由此处读取")],
    help: &[text(
        "fit one on the machine with the device, `llmc calibrate --device -o profiles`, or leave `profile` out",
        "请在装有该设备的机器上运行 `llmc calibrate --device -o profiles`，或去掉 `profile`",
    )],
    page: Page {
        what: text(
            "`on < profile … >` names a file that is absent, not what `llmc calibrate` writes, or fitted on another device or another stack.",
            "`on < profile … >` 指向的文件不存在、不是 `llmc calibrate` 的输出，或是在其他设备或软件栈上拟合的。",
        ),
        why: text(
            "Step times, and with them days and money, follow the profile; another device's would be wrong without looking so.",
            "每步时间以及工期与费用都取决于档案；换成其他设备的档案会出错，却看不出来。",
        ),
        example: "model llama 1b\nbudget 1B tokens\non 1xH100 < profile \"nowhere.toml\" >",
        instead: "model llama 1b\nbudget 1B tokens\non 1xH100",
    },
};

/// The path and what is wrong with it.
pub fn found(span: Span, path: &str, problem: &str) -> Diagnostic {
    Diagnostic::new(&RULE).at(span).text("path", path).text("problem", problem)
}
