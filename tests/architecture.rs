//! The invariants of ARCHITECTURE.md that the type system cannot hold.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each crate may use of the others.
const ARROWS: &[(&str, &[&str])] = &[
    ("llmc-grammar", &[]),
    ("llmc-plan", &[]),
    ("llmc-planner", &["llmc-plan"]),
    ("llmc-compiler", &["llmc-grammar", "llmc-planner", "llmc-plan"]),
    ("llmc-corpus", &["llmc-plan"]),
    ("llmc-runtime", &["llmc-plan", "llmc-corpus"]),
    ("llmc", &["llmc-grammar", "llmc-compiler", "llmc-planner", "llmc-plan"]),
];

/// Folders of hand-written files.
const ROOMS: &[&str] = &[
    "grammar",
    "compiler",
    "planner",
    "plan",
    "corpus",
    "runtime",
    "cli",
    "templates",
    "recipes",
    "tests",
    "benches",
    "docs",
];

const CEILING: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file under a folder, sorted, build output left out.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return all };
    for path in entries.map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "snapshots" {
            all.extend(files(&path));
        } else if path.is_file() {
            all.push(path);
        }
    }
    all.sort();
    all
}

fn files_of(rooms: &[&str], extensions: &[&str]) -> Vec<PathBuf> {
    let all = rooms.iter().flat_map(|room| files(&root().join(room)));
    all.filter(|path| path.extension().is_some_and(|e| extensions.iter().any(|known| e == *known))).collect()
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The part of a Rust file before its tests.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

#[test]
fn crates_use_only_what_they_may() {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let mut seen = BTreeSet::new();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let (_, may) =
            ARROWS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no row for {name}"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let other = dependency["name"].as_str().unwrap();
            let ours = ARROWS.iter().any(|(known, _)| *known == other) && dependency["kind"].is_null();
            assert!(!ours || may.contains(&other), "{name} may not use {other}");
        }
        seen.insert(name);
    }
    assert_eq!(seen.len(), ARROWS.len(), "a crate of ARROWS is gone");
}

#[test]
fn llmc_links_neither_libtorch_nor_tokenizers() {
    let lock: toml::Value = toml::from_str(&text(&root().join("Cargo.lock"))).unwrap();
    let mut uses: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock["package"].as_array().unwrap() {
        let dependencies = package.get("dependencies").and_then(|list| list.as_array());
        let names = dependencies.into_iter().flatten().filter_map(|name| name.as_str()?.split(' ').next());
        uses.entry(package["name"].as_str().unwrap()).or_default().extend(names);
    }
    let mut reached = BTreeSet::from(["llmc"]);
    let mut open = vec!["llmc"];
    while let Some(name) = open.pop() {
        open.extend(uses.get(name).into_iter().flatten().filter(|other| reached.insert(other)));
    }
    assert!(reached.contains("pest"), "the walk reaches nothing");
    for heavy in ["tch", "torch-sys", "tokenizers", "arrow", "parquet", "onig"] {
        assert!(!reached.contains(heavy), "llmc would link {heavy}");
    }
}

#[test]
fn no_file_is_too_long() {
    let files = files_of(ROOMS, &["rs", "pest", "cpp", "h", "cu", "hbs", "py", "md", "llm"]);
    assert!(files.len() > 20);
    for path in files {
        let lines = text(&path).lines().count();
        assert!(lines <= CEILING, "{} has {lines} lines, the ceiling is {CEILING}", shown(&path));
    }
}

#[test]
fn the_front_half_is_pure() {
    let banned = [
        "std::fs",
        "std::env",
        "std::net",
        "std::process",
        "std::time",
        "SystemTime",
        "Instant::now",
        "println!",
        "eprintln!",
    ];
    for path in files_of(&["grammar/src", "compiler/src", "planner/src", "plan/src"], &["rs"]) {
        if path.components().any(|part| part.as_os_str() == "tests") || shown(&path).ends_with("_tests.rs") {
            continue;
        }
        let whole = text(&path);
        for line in code(&whole).lines().filter(|line| !line.trim_start().starts_with("//")) {
            for word in banned {
                assert!(!line.contains(word), "{} uses {word}: {line}", shown(&path));
            }
        }
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let manifests = ARROWS.iter().map(|(name, _)| match name.strip_prefix("llmc-") {
        Some(room) => root().join(room).join("Cargo.toml"),
        None => root().join("Cargo.toml"),
    });
    for path in manifests {
        let whole = text(&path);
        let mut dependencies = false;
        for line in whole.lines() {
            if line.starts_with('[') {
                dependencies = line.contains("dependencies");
            }
            let external = dependencies
                && line.contains('=')
                && !line.contains("workspace = true")
                && !line.contains("path = ");
            assert!(
                !external || line.contains(" # ") || line.contains("\t# "),
                "{}: no reason: {line}",
                shown(&path)
            );
        }
    }
}

/// What the runtime does is in the Program; only the interpreter walks it.
#[test]
fn only_the_interpreter_loops_over_layers_micro_batches_and_ranks() {
    for path in files_of(&["runtime/src"], &["rs"]) {
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("interpret")) {
            continue;
        }
        let whole = text(&path);
        for line in code(&whole).lines() {
            let line = line.trim_start();
            let loops = line.starts_with("for ") || line.starts_with("while ");
            let over = ["layers", "micro_batch", "accumulation", "num_layers", "world_size", "ranks"];
            assert!(!loops || !over.iter().any(|word| line.contains(word)), "{}: {line}", shown(&path));
        }
    }
}

/// Files that the worker and the corpus cannot read, write or map are said in both languages.
#[test]
fn every_file_operation_has_its_verb_in_both_languages() {
    let known: BTreeSet<&str> = llmc_plan::lang::ACTIONS.iter().map(|(verb, _)| *verb).collect();
    let mut seen = BTreeSet::new();
    for path in files_of(&["runtime/src", "corpus/src"], &["rs"]) {
        let whole = text(&path);
        let calls = code(&whole).replace("action: \"", "::io(\"");
        for call in calls.split("::io(\"").skip(1).filter_map(|rest| rest.split_once('"')) {
            assert!(known.contains(call.0), "{}: {}", shown(&path), call.0);
            seen.insert(call.0.to_owned());
        }
    }
    assert!(seen.len() >= 8, "{seen:?}");
}

/// Recipes in fenced blocks marked `llm`, in README and docs.
fn documented_recipes() -> Vec<(String, String)> {
    let mut pages = files_of(&["docs"], &["md"]);
    pages.extend(
        ["README.md", "README.zh-CN.md"]
            .map(|page| root().join(page))
            .into_iter()
            .filter(|page| page.exists()),
    );
    let mut recipes = Vec::new();
    for page in pages {
        let whole = text(&page);
        for (at, block) in whole.split("\n```llm\n").skip(1).enumerate() {
            let recipe = block.split("\n```").next().unwrap();
            recipes.push((format!("{} #{}", shown(&page), at + 1), format!("{recipe}\n")));
        }
    }
    recipes
}

#[test]
fn every_documented_recipe_compiles() {
    let recipes = documented_recipes();
    assert!(!recipes.is_empty(), "no page marks a recipe with ```llm");
    for (name, recipe) in recipes {
        let compiled = llmc_compiler::compile(&recipe, &[], &llmc_compiler::Nowhere);
        let found: Vec<&str> = compiled.diagnostics.iter().map(|d| d.code).collect();
        assert!(compiled.plan.is_some() && !compiled.failed(), "{name}: {found:?}");
    }
}

/// The clauses in the table of the reference, beside the clauses that they refer to.
#[test]
fn every_documented_clause_checks() {
    let page = text(&root().join("docs/language.md"));
    let section = page.split("## The clauses one by one").nth(1).unwrap().split("\n## ").next().unwrap();
    let table: String = section.lines().filter(|line| line.starts_with('|')).collect();
    let mut seen = BTreeSet::new();
    for clause in table.split('`').map(|piece| piece.replace("\\|", "|")) {
        let Some((keyword, _)) = clause.split_once(' ').filter(|_| !clause.contains('|')) else { continue };
        if llmc_grammar::Keyword::from_text(keyword).is_none() || clause.contains('…') {
            continue;
        }
        seen.insert(keyword.to_owned());
        // What else a clause refers to: sources, and the base whose learning rate `0.3x` is of.
        let base = if keyword == "lr" { "from \"models/base\"" } else { "" };
        let beside = ["model llama 7b", "data < code \"code.jsonl\"  zh \"zh.jsonl\" >", base];
        let others = beside.into_iter().filter(|other| !other.starts_with(keyword));
        let recipe = others.chain([clause.as_str()]).collect::<Vec<_>>().join("\n");
        let checked = llmc_compiler::check(&recipe, &[], &llmc_compiler::Nowhere);
        let found: Vec<&str> = checked.diagnostics.iter().map(|d| d.code).collect();
        assert!(!checked.failed(), "{clause}: {found:?}");
    }
    assert_eq!(seen.len(), llmc_grammar::Keyword::ALL.len(), "a clause without an example: {seen:?}");
}

#[test]
fn every_code_has_a_page_and_a_failing_example() {
    let codes: BTreeSet<String> =
        llmc_compiler::check::RULES.iter().map(|rule| rule.code.to_owned()).collect();
    let examples: BTreeSet<String> = files_of(&["tests/fail"], &["llm"])
        .iter()
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(codes, examples, "tests/plans.rs checks that each example is found guilty");
    for code in codes {
        for lang in [llmc_compiler::Lang::En, llmc_compiler::Lang::Zh] {
            let page = llmc_compiler::explain::explain(&code, lang).unwrap();
            assert!(page.lines().count() >= 8, "{code}");
        }
    }
}
