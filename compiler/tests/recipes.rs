//! Every recipe that users copy compiles, and every rule's examples do what its page says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

use std::fs;
use std::path::{Path, PathBuf};

use llmc_compiler::check::RULES;
use llmc_compiler::diag::{self, Lang};
use llmc_compiler::{Compiled, Nowhere, check, compile};

mod worlds;

fn files(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let mut out: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    out.retain(|p| p.extension().is_some_and(|e| e == "llm"));
    out.sort();
    out
}

fn findings(c: &Compiled) -> String {
    c.diagnostics.iter().map(|d| diag::render(d, &c.sources, Lang::En)).collect()
}

#[test]
fn every_recipe_compiles() {
    let all = files("recipes");
    assert!(all.len() >= 10);
    for path in all {
        let text = fs::read_to_string(&path).unwrap();
        let c = compile(&text, &[], &Nowhere);
        assert!(!c.failed() && c.plan.is_some(), "{}:\n{}", path.display(), findings(&c));
    }
}

#[test]
fn pages_show_the_fault_and_the_way_out() {
    for rule in RULES {
        let run = |text: &str| match text.strip_prefix("--set ") {
            Some(set) => check("model llama 7b", &[set.to_owned()], &Nowhere),
            None => compile(text, &[], &worlds::Examples),
        };
        // That page cannot show its fault.
        let long = "# not a recipe\n".repeat(6000);
        let bad = run(if rule.code == "LLM0010" { &long } else { rule.page.example });
        assert!(
            bad.diagnostics.iter().any(|d| d.code == rule.code),
            "{} example:\n{}",
            rule.code,
            findings(&bad)
        );
        let good = run(rule.page.instead);
        let same = good.diagnostics.iter().any(|d| d.code == rule.code);
        assert!(!same, "{} instead:\n{}", rule.code, findings(&good));
    }
}
