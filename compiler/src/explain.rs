//! `explain CODE | KEYWORD`: the long page of a diagnostic, or what a clause says.

use llmc_grammar::Keyword;

use crate::check;
use crate::derive;
use crate::diag::{Lang, Severity, nearest};

/// The page of a code (`LLM0402`), a clause (`budget`) or a rule (`lr.step_law`). `Err` holds the nearest name.
///
/// # Errors
/// Nothing has that name.
pub fn explain(name: &str, lang: Lang) -> Result<String, Option<String>> {
    if let Some(rule) = check::rule(&name.to_uppercase()) {
        let (what, why, bad, good) = match lang {
            Lang::En => ("What", "Why", "Example", "Instead"),
            Lang::Zh => ("是什么", "为什么", "示例", "应改为"),
        };
        let severity = match rule.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Advice => "advice",
        };
        let page = &rule.page;
        let block = |text: &str| text.lines().map(|l| format!("    {l}\n")).collect::<String>();
        return Ok(format!(
            "{} ({severity})\n\n{what}\n{}\n\n{why}\n{}\n\n{bad}\n{}\n{good}\n{}",
            rule.code,
            page.what.get(lang),
            page.why.get(lang),
            block(page.example),
            block(page.instead)
        ));
    }
    if let Some(keyword) = Keyword::from_text(name) {
        return Ok(format!("{keyword}\n\n{}\n", keyword.doc()));
    }
    let rule = derive::find(name).map(|r| (r.doc, r.cite, r.reads, r.writes));
    if let Some((doc, cite, reads, writes)) =
        rule.or_else(|| llmc_planner::rules::find(name).map(|r| (r.doc, r.cite, r.reads, r.writes)))
    {
        let list = |paths: &[&str]| if paths.is_empty() { "–".to_owned() } else { paths.join(", ") };
        return Ok(format!(
            "{name}\n\n{doc}\n\nreads   {}\nwrites  {}\nsource  {cite}\n",
            list(reads),
            list(writes)
        ));
    }
    let all = (check::RULES.iter().map(|r| r.code))
        .chain(Keyword::ALL.iter().map(|k| k.text()))
        .chain(derive::RULES.iter().map(|r| r.id))
        .chain(llmc_planner::rules::RULES.iter().map(|r| r.id));
    Err(nearest(name, all).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_clauses_and_rules_have_pages() {
        for rule in check::RULES {
            for lang in [Lang::En, Lang::Zh] {
                assert!(
                    explain(rule.code, lang).unwrap().contains(rule.page.instead.lines().next().unwrap())
                );
            }
        }
        assert!(explain("budget", Lang::En).is_ok());
        assert!(explain("lr.step_law", Lang::En).unwrap().contains("2503.04715"));
        assert_eq!(explain("budgett", Lang::En), Err(Some("budget".into())));
    }
}
