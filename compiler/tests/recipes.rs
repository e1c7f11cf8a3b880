//! Every recipe that users copy compiles, and every rule's examples do what its page says.

use std::fs;
use std::path::{Path, PathBuf};

use llmc_compiler::check::RULES;
use llmc_compiler::diag::{self, Lang};
use llmc_compiler::{Compiled, Nowhere, check, compile};

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
            None => compile(text, &[], &common::NoFiles),
        };
        let bad = run(rule.page.example);
        assert!(bad.diagnostics.iter().any(|d| d.code == rule.code), "{} example:\n{}", rule.code, findings(&bad));
        let good = run(rule.page.instead);
        let same = good.diagnostics.iter().any(|d| d.code == rule.code);
        assert!(!same, "{} instead:\n{}", rule.code, findings(&good));
    }
}

#[test]
fn every_code_has_a_failing_example() {
    for rule in RULES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fail").join(format!("{}.llm", rule.code));
        let text = fs::read_to_string(&path).unwrap_or_else(|_| panic!("{} is missing", path.display()));
        let c = common::fail(&text);
        assert!(c.diagnostics.iter().any(|d| d.code == rule.code), "{}:\n{}", rule.code, findings(&c));
    }
}

mod common {
    //! Worlds of the tests.
    use super::*;
    use llmc_compiler::World;
    use llmc_planner::hardware::Hardware;

    /// Only `corpus/` has files, and `base-7b` and `models/` are base models of 7B and 13B.
    pub struct NoFiles;

    impl World for NoFiles {
        fn read(&self, path: &str) -> Option<String> {
            let (layers, hidden, heads, ffn) = match path {
                "base-7b/config.json" => (32, 4096, 32, 11008),
                p if p.starts_with("models/") => (40, 5120, 40, 13824),
                _ => return None,
            };
            Some(format!(
                "{{\"num_hidden_layers\": {layers}, \"hidden_size\": {hidden}, \"num_attention_heads\": {heads}, \
                 \"intermediate_size\": {ffn}, \"vocab_size\": 32000, \"max_position_embeddings\": 2048}}"
            ))
        }

        fn matches(&self, glob: &str) -> Option<bool> {
            Some(glob.starts_with("corpus/"))
        }

        fn hardware(&self) -> &[Hardware] {
            &[]
        }
    }

    /// A failing example; its lines `#--set PATH=VALUE` are overrides.
    pub fn fail(text: &str) -> Compiled {
        let sets: Vec<String> =
            text.lines().filter_map(|l| l.strip_prefix("#--set ")).map(|s| s.trim().to_owned()).collect();
        compile(text, &sets, &NoFiles)
    }
}
