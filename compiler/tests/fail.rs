//! What bad input gets: each failing example with its findings in both languages, source and findings in one snapshot.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

use std::fs;

use llmc_compiler::check::RULES;
use llmc_compiler::diag::{self, Lang};
use llmc_compiler::{Severity, compile};

mod worlds;

#[test]
fn failing_examples() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../tests/fail/snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        insta::glob!("../../tests/fail", "*.llm", |path| {
            let text = fs::read_to_string(path).unwrap();
            let code = path.file_stem().unwrap().to_str().unwrap();
            let sets: Vec<String> =
                text.lines().filter_map(|l| l.strip_prefix("#--set ")).map(|s| s.trim().to_owned()).collect();
            let c = compile(&text, &sets, &worlds::Examples);
            let show = |lang| c.diagnostics.iter().map(|d| diag::render(d, &c.sources, lang)).collect::<String>();
            let found = c.diagnostics.iter().find(|d| d.code == code);
            let found = found.unwrap_or_else(|| panic!("{code} is not found:\n{}", show(Lang::En)));
            assert!(c.failed() || found.severity != Severity::Error, "{code} is no error");
            insta::assert_snapshot!(format!("{text}\n---\n{}\n---\n{}", show(Lang::En), show(Lang::Zh)));
        });
    });
}

#[test]
fn every_code_has_a_failing_example_and_every_example_a_code() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fail");
    let mut names: Vec<String> = (fs::read_dir(folder).unwrap())
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "llm"))
        .map(|p| p.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, RULES.iter().map(|r| r.code.to_owned()).collect::<Vec<_>>());
}
