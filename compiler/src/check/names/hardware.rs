//! LLM0103: a device no preset describes.

use crate::diag::{Diagnostic, Page, Rule, Severity, Span, Value, text};

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0103",
    severity: Severity::Error,
    args: &["name", "near", "known"],
    message: text("no hardware is called `{name}`", "没有名为 `{name}` 的硬件"),
    labels: &[text("unknown device", "未知设备")],
    help: &[
        text("did you mean `{near}`?", "是否想写 `{near}`？"),
        text(
            "known are {known}; describe others in a file and pass it with `--hardware FILE`",
            "已知硬件：{known}；其他硬件请写成文件并用 `--hardware FILE` 传入",
        ),
    ],
    page: Page {
        what: text(
            "`on` names a device that is neither a preset nor in a `--hardware` file.",
            "`on` 指定的设备既不是预设，也不在 `--hardware` 文件中。",
        ),
        why: text(
            "Memory, peak rates and links of the device decide the whole plan, so none are guessed.",
            "设备的显存、峰值与互连决定整个计划，不能猜测。",
        ),
        example: "model llama 7b\nbudget 1T tokens on 64xH10O",
        instead: "model llama 7b\nbudget 1T tokens on 64xH100",
    },
};

/// The device name and the presets there are.
pub fn found(span: Span, name: &str, known: &[String]) -> Diagnostic {
    let near = crate::diag::nearest(name, known.iter().map(String::as_str));
    Diagnostic::new(&RULE)
        .at(span)
        .text("name", crate::diag::shorten(name))
        .arg("known", Value::List(known.to_vec()))
        .near(span, near)
}
