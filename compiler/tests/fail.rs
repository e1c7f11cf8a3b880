//! What bad input gets: each failing example with its findings in both languages, source and findings in one snapshot.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

use std::fs;

use llmc_compiler::check::RULES;
use llmc_compiler::diag::{self, Lang, Sources, Value};
use llmc_compiler::{Diagnostic, Severity, compile};

mod worlds;

/// Codes whose sentences carry figures of the cost model: masked, so that a recalibration does not churn them.
const PLANNED: &[&str] = &["LLM0502", "LLM0901", "LLM0902", "LLM0903"];

/// Every number after a place becomes `#`.
fn masked(line: &str) -> String {
    let (place, rest) = line.split_at(line.find("]: ").or(line.find('`')).unwrap_or(0));
    let mut out = place.to_owned();
    let mut open = false;
    for c in rest.chars() {
        let digit = c.is_ascii_digit() || (open && matches!(c, '.' | ','));
        if digit && !open {
            out.push('#');
        }
        if !digit {
            out.push(c);
        }
        open = digit;
    }
    out
}

fn rendered(d: &Diagnostic, sources: &Sources, lang: Lang) -> String {
    let text = diag::render(d, sources, lang);
    if PLANNED.contains(&d.code) { text.lines().map(|l| masked(l) + "\n").collect() } else { text }
}

#[test]
fn what_does_not_fit_is_shown_as_a_sum_that_adds_up() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fail/LLM0901.llm")).unwrap();
    let c = compile(&text, &[], &worlds::Examples);
    let d = c.diagnostics.iter().find(|d| d.code == "LLM0901").unwrap();
    let bytes = |name: &str| match d.args[name] {
        Value::Bytes(n) => n,
        ref other => panic!("{other:?}"),
    };
    let terms = ["parameters", "gradients", "optimizer", "activations", "logits", "buffers", "overhead"];
    let sum: u64 = terms.iter().map(|t| bytes(t)).sum();
    // Each term is rounded to whole bytes.
    assert!(sum.abs_diff(bytes("needed")) < 16, "{sum} {}", bytes("needed"));
    assert!(bytes("needed") > bytes("device"));
    assert!(d.args.contains_key("fixes"));
}

#[test]
fn failing_examples() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../tests/fail/snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        insta::glob!("../../tests/fail", "*.llm", |path| {
            let file = fs::read_to_string(path).unwrap();
            // `#--repeat N` makes the example long without a long file.
            let times =
                file.lines().find_map(|l| l.strip_prefix("#--repeat ")).map_or(1, |n| n.parse().unwrap());
            let text = file.repeat(times);
            let code = path.file_stem().unwrap().to_str().unwrap();
            let sets: Vec<String> =
                text.lines().filter_map(|l| l.strip_prefix("#--set ")).map(|s| s.trim().to_owned()).collect();
            let c = compile(&text, &sets, &worlds::Examples);
            let show = |lang| c.diagnostics.iter().map(|d| rendered(d, &c.sources, lang)).collect::<String>();
            let found = c.diagnostics.iter().find(|d| d.code == code);
            let found = found.unwrap_or_else(|| panic!("{code} is not found:\n{}", show(Lang::En)));
            assert!(c.failed() || found.severity != Severity::Error, "{code} is no error");
            insta::assert_snapshot!(format!("{file}\n---\n{}\n---\n{}", show(Lang::En), show(Lang::Zh)));
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
