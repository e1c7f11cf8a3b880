//! `llmc explain`: the long page of a code, or what a keyword is for.

use llmc_compiler::check::{RULES, rule};
use llmc_compiler::diag::Rule;
use llmc_grammar::{Keyword, nearest};
use serde_json::json;

use crate::args::Format;
use crate::exit::{Exit, Failure, Outcome};
use crate::prepare::pretty;
use crate::terminal::{Terminal, data};

/// Prints one page, or the list of all codes.
pub fn run(terminal: &Terminal, code: Option<&str>) -> Outcome {
    let text = match code {
        None if terminal.format == Format::Json => {
            pretty(&RULES.iter().map(|r| as_json(r)).collect::<Vec<_>>())?
        }
        None => RULES.iter().map(|r| format!("{}  {}\n", r.code, r.message.get(terminal.lang))).collect(),
        Some(code) => match (rule(&code.to_uppercase()), Keyword::from_text(code)) {
            (Some(rule), _) if terminal.format == Format::Json => pretty(&as_json(rule))?,
            (Some(rule), _) => page(terminal, rule),
            (None, Some(keyword)) => format!("{keyword}: {}\n", keyword.doc()),
            (None, None) => return Err(unknown(code)),
        },
    };
    data(&text)?;
    Ok(Exit::Ok.into())
}

fn page(terminal: &Terminal, rule: &Rule) -> String {
    let indent = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let (lang, page) = (terminal.lang, &rule.page);
    format!(
        "{}: {}\n\n{}\n\n{}\n\n{}\n{}\n{}\n{}",
        rule.code,
        rule.message.get(lang),
        page.what.get(lang),
        page.why.get(lang),
        terminal.say("For example:", "例如:"),
        indent(page.example),
        terminal.say("Instead:", "应写作:"),
        indent(page.instead),
    )
}

fn as_json(rule: &Rule) -> serde_json::Value {
    json!({
        "code": rule.code, "severity": rule.severity, "message": rule.message.en, "args": rule.args,
        "what": rule.page.what.en, "why": rule.page.why.en, "example": rule.page.example, "instead": rule.page.instead,
    })
}

fn unknown(code: &str) -> Failure {
    let names = RULES.iter().map(|rule| rule.code).chain(Keyword::ALL.iter().map(|keyword| keyword.text()));
    match nearest(code, names).first() {
        Some(near) => Failure::new(
            format!("no code or keyword is `{code}`: did you mean `{near}`?"),
            format!("没有名为 `{code}` 的代码或关键字:是否想写 `{near}`?"),
        ),
        None => Failure::new(
            format!("no code or keyword is `{code}`: `llmc explain --all` lists the codes"),
            format!("没有名为 `{code}` 的代码或关键字:`llmc explain --all` 列出全部代码"),
        ),
    }
}
