//! `llmc explain`: the long page of a code, a keyword or a rule.

use llmc_compiler::check::RULES;
use llmc_compiler::diag::Rule;
use llmc_compiler::explain::explain;
use serde_json::json;

use crate::args::Format;
use crate::exit::{Exit, Failure, Outcome};
use crate::prepare::pretty;
use crate::terminal::{Terminal, data, fit};

/// Prints one page, or the list of all codes.
pub fn run(terminal: &Terminal, name: Option<&str>) -> Outcome {
    let text = match (name, terminal.format) {
        (None, Format::Json) => pretty(&RULES.iter().map(|rule| as_json(rule)).collect::<Vec<_>>())?,
        (None, _) => {
            let line = |rule: &&Rule| format!("{}  {}\n", rule.code, rule.page.what.get(terminal.lang));
            fit(&RULES.iter().map(line).collect::<String>(), terminal.columns, 9)
        }
        (Some(name), _) => {
            let page = explain(name, terminal.lang).map_err(|near| unknown(name, near))?;
            // Files are shown as they are.
            let file = name == "hardware" || llmc_planner::hardware::file(name).is_some();
            if file { page } else { fit(&page, terminal.columns, 0) }
        }
    };
    data(&text)?;
    Ok(Exit::Ok.into())
}

fn as_json(rule: &Rule) -> serde_json::Value {
    json!({
        "code": rule.code, "severity": rule.severity, "message": rule.message.en, "args": rule.args,
        "what": rule.page.what.en, "why": rule.page.why.en, "example": rule.page.example, "instead": rule.page.instead,
    })
}

fn unknown(name: &str, near: Option<String>) -> Failure {
    let list = ("`llmc explain` lists the codes", "`llmc explain` 列出全部代码");
    Failure::unknown(("nothing", "代码、关键字或规则"), name, near, list)
}
