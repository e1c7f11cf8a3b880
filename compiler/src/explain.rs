//! `explain NAME`: the long page of a diagnostic, what a clause says, where a rule is from, what a name in a plan means.

use llmc_grammar::Keyword;
use llmc_planner::hardware;

use crate::check;
use crate::chinese;
use crate::derive;
use crate::diag::{Lang, Severity, nearest};
use crate::terms;

/// The page of a code (`LLM0402`), a clause (`budget`), a rule (`lr.step_law`) or a name in a plan (`straggler`). `Err` holds
/// the nearest name.
///
/// # Errors
/// Nothing has that name.
pub fn explain(name: &str, lang: Lang) -> Result<String, Option<String>> {
    if let Some(rule) = check::rule(&name.to_uppercase()) {
        let (what, why, bad, good) = match lang {
            Lang::En => ("What", "Why", "Example", "Instead"),
            Lang::Zh => ("是什么", "为什么", "示例", "应改为"),
        };
        let (en, zh) = match rule.severity {
            Severity::Error => ("error", "错误"),
            Severity::Warning => ("warning", "警告"),
            Severity::Advice => ("advice", "建议"),
        };
        let severity = if lang == Lang::En { en } else { zh };
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
        return Ok(clause(keyword, lang));
    }
    if name == "hardware" {
        return Ok(hardware_file(lang));
    }
    if let Some(file) = hardware::file(name) {
        return Ok(file.to_owned());
    }
    let rule = derive::find(name).map(|r| (r.doc, r.cite, r.reads, r.writes));
    if let Some((doc, cite, reads, writes)) =
        rule.or_else(|| llmc_planner::rules::find(name).map(|r| (r.doc, r.cite, r.reads, r.writes)))
    {
        let list = |paths: &[&str]| if paths.is_empty() { "–".to_owned() } else { paths.join(", ") };
        let (doc, from, to, source) = match lang {
            Lang::En => (doc, "reads   ", "writes  ", "source  "),
            Lang::Zh => (chinese::rule(name).unwrap_or(doc), "读取  ", "写入  ", "出处  "),
        };
        return Ok(format!(
            "{name}\n\n{doc}\n\n{from}{}\n{to}{}\n{source}{cite}\n",
            list(reads),
            list(writes)
        ));
    }
    if let Some((words, place)) = terms::find(name) {
        let (words, place) = (words.get(lang), place.get(lang));
        return Ok(format!("{name}\n\n{words}\n\n{place}\n"));
    }
    let all = (check::RULES.iter().map(|r| r.code))
        .chain(Keyword::ALL.iter().map(|k| k.text()))
        .chain(["hardware"])
        .chain(hardware::names())
        .chain(derive::RULES.iter().map(|r| r.id))
        .chain(llmc_planner::rules::RULES.iter().map(|r| r.id))
        .chain(terms::names());
    Err(nearest(name, all).map(str::to_owned))
}

/// The reference, whose table has a row a clause.
const REFERENCE: &str = include_str!("../../docs/language.md");

/// A clause: what it says, and its row of the reference.
fn clause(keyword: Keyword, lang: Lang) -> String {
    let (says, example, options) = match lang {
        Lang::En => (keyword.doc(), "Example", "Values and options"),
        Lang::Zh => (chinese::clause(keyword), "示例", "取值与选项"),
    };
    let start = format!("| `{keyword}` | ");
    let row = REFERENCE.lines().find_map(|line| line.strip_prefix(start.as_str())).unwrap_or_default();
    let plain = |cell: &str| unlinked(&cell.replace("\\|", "|")).trim_matches(['|', ' ']).to_owned();
    let (first, second) = row.split_once(" | ").unwrap_or((row, ""));
    let mut page = format!(
        "{keyword}\n\n{says}\n\n{example}\n    {}\n",
        plain(first).replace("`, `", "\n    ").replace('`', "")
    );
    let second = plain(second);
    let second = second.trim_start_matches(['–', ' ', ':', ';']);
    let second = chinese::options(keyword).filter(|_| lang == Lang::Zh).unwrap_or(second);
    if !second.is_empty() {
        page.push_str(&format!("\n{options}\n{second}\n"));
    }
    page
}

/// Links of the reference as the file that they lead to: `[data](data.md#sources)` is `docs/data.md`.
fn unlinked(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        let target = link.split_once("](").and_then(|(_, link)| link.split_once(')'));
        let Some((target, after)) = target.filter(|(target, _)| target.contains(".md")) else { break };
        out.push_str(&format!("{before}docs/{}", target.split('#').next().unwrap_or(target)));
        rest = after;
    }
    out + rest
}

/// What a file of `--hardware` holds, shown by one that is built in.
fn hardware_file(lang: Lang) -> String {
    let names = hardware::names().collect::<Vec<_>>().join(" ");
    let example = hardware::file("H100").unwrap_or_default();
    match lang {
        Lang::En => format!(
            "hardware\n\nA hardware file describes one kind of device and its machine. Give it with `--hardware FILE`, and its name after \
             `on`. Every\nfigure has a unit and a source; none may be missing, and bandwidths are those of one direction.\n\n\
             Built in: {names}\n`llmc explain NAME` prints the file of each. That of H100:\n\n{example}"
        ),
        Lang::Zh => format!(
            "hardware\n\n硬件文件描述一种设备及其所在机器。用 `--hardware FILE` 给出，并在 `on` 之后写它的名字。每个数值都要有单位和\
             来源，\n不可缺少；带宽按单方向计。\n\n内置：{names}\n`llmc explain NAME` 打印各自的文件。H100 的文件：\n\n{example}"
        ),
    }
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
        for keyword in Keyword::ALL {
            for lang in [Lang::En, Lang::Zh] {
                let page = explain(keyword.text(), lang).unwrap();
                assert!(page.lines().count() >= 6 && !page.contains(" |") && !page.contains("]("), "{page}");
            }
            // The Chinese names what the English does.
            let (en, zh) =
                (explain(keyword.text(), Lang::En).unwrap(), explain(keyword.text(), Lang::Zh).unwrap());
            for code in en.split('`').skip(1).step_by(2) {
                assert!(zh.contains(&format!("`{code}`")), "{keyword}: {code}");
            }
            let prose =
                |line: &str| line.split(' ').filter(|word| word.len() > 2 && !word.contains('`')).count() > 3;
            let options = zh.split("取值与选项\n").nth(1).unwrap_or_default();
            assert!(!(options.is_ascii() && prose(options)), "{zh}");
        }
        assert!(explain("hardware", Lang::Zh).unwrap().contains("link_bandwidth"));
        assert!(explain("h200", Lang::En).unwrap().contains("141"));
        assert!(explain("lr.step_law", Lang::En).unwrap().contains("2503.04715"));
        assert!(explain("tp_in_node", Lang::Zh).unwrap().contains("节点"));
        assert_eq!(explain("budgett", Lang::En), Err(Some("budget".into())));
    }
}
