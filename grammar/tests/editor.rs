//! The editor grammar lists exactly the keywords and units of the language.
#![allow(clippy::unwrap_used)] // a test may

use std::collections::BTreeSet;

use llmc_grammar::Keyword;

/// The alternatives of the first group in `pattern` that starts with `first`.
fn alternatives(pattern: &str, first: &str) -> BTreeSet<String> {
    let group = pattern.split("(?:").find(|group| group.starts_with(first)).unwrap_or_default();
    group.split(')').next().unwrap_or_default().split('|').map(str::to_owned).collect()
}

fn pattern(name: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(include_str!("../llm.tmLanguage.json")).unwrap();
    json["repository"][name]["match"].as_str().unwrap().to_owned()
}

#[test]
fn keywords_are_those_of_the_language() {
    let expected: BTreeSet<String> = Keyword::ALL.iter().map(|keyword| keyword.text().to_owned()).collect();
    assert_eq!(alternatives(&pattern("keyword"), "edition"), expected);
}

#[test]
fn units_are_those_of_the_language() {
    let grammar = include_str!("../src/llm.pest");
    let rule = grammar.split("unit_word  = _{").nth(1).unwrap().split('}').next().unwrap();
    let expected: BTreeSet<String> = rule.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert_eq!(alternatives(&pattern("quantity"), "tokens"), expected);
}
