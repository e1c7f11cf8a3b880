//! Every recipe that users copy compiles, and every rule's examples do what its page says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

use std::fs;
use std::path::{Path, PathBuf};

use llmc_compiler::check::RULES;
use llmc_compiler::diag::{self, Lang};
use llmc_compiler::{Compiled, Nowhere, check, compile, why};

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

/// A world in which the corpus of a recipe was built: `code` has 5B training tokens.
struct Built;

impl llmc_compiler::world::World for Built {
    fn read(&self, _: &str) -> Option<String> {
        None
    }

    fn matches(&self, _: &str) -> Option<bool> {
        Some(true)
    }

    fn hardware(&self) -> &[llmc_planner::hardware::Hardware] {
        &[]
    }

    fn manifest(&self) -> Option<String> {
        let split = |tokens: u64| {
            format!(
                r#"{{"documents": 1, "tokens": {tokens}, "bytes": 1, "bytes_per_token": 4.0, "unigram_entropy": 7.0}}"#
            )
        };
        let source = |name: &str, tokens| {
            format!(r#"{{"name": "{name}", "train": {}, "validation": {}}}"#, split(tokens), split(0))
        };
        Some(format!(
            r#"{{"format_version": "1.0", "tokenizer": {{"file": "t", "sha256": "", "vocab": 64000, "end_of_document": 0}},
                "sources": [{}, {}], "train": {}, "validation": {}, "files": {{}}}}"#,
            source("web", 900_000_000_000),
            source("code", 5_000_000_000),
            split(905_000_000_000),
            split(0)
        ))
    }
}

#[test]
fn a_built_corpus_is_counted_against_quotas_and_epochs() {
    let recipe = |code: &str| {
        format!(
            "model llama 7b\nbudget 400B tokens\ndata < web \"w/*\"  code \"c/*\" < epochs <= 4 > >\nmix < {code} >"
        )
    };
    let found = |text: &str, world: &dyn llmc_compiler::world::World| {
        let c = llmc_compiler::check(text, &[], world);
        let show = |d: &llmc_compiler::Diagnostic| {
            llmc_compiler::diag::render(d, &c.sources, llmc_compiler::diag::Lang::En)
        };
        c.diagnostics.iter().filter(|d| d.code == "LLM0705").map(show).collect::<String>()
    };
    let text = found(&recipe("code >= 10%"), &Built);
    assert!(text.contains("code >= 10% and code <= 4 epochs of 5.00B tokens and 400.00B tokens"), "{text}");
    assert!(text.contains("web 95%, code 5%") && text.contains("at most 200.00B tokens"), "{text}");
    // Four readings of a tenth of the run.
    assert!(text.contains("each token more of code allows 40 more"), "{text}");
    assert!(found(&recipe("code >= 5%"), &Built).is_empty());
    assert!(found(&recipe("code >= 10%"), &llmc_compiler::world::Nowhere).is_empty());
}

/// What a run is told of tables and of a mixture that follows losses.
#[test]
fn tables_and_dynamic_mixtures_reach_the_data() {
    let head = "model llama 7b\ndata < a \"corpus/a/*\"  b \"corpus/b/*\" >\n";
    let data = |mix: &str, sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        let checked = check(&format!("{head}{mix}"), &sets, &worlds::Examples);
        let found: Vec<&str> = checked.diagnostics.iter().map(|d| d.code).collect();
        (checked.data.expect("data"), found)
    };
    let table = "importance(\"tables/weights.csv\")";
    let (spec, found) = data(&format!("mix temperature(0.5) {table}"), &[]);
    assert_eq!(spec.sources.iter().map(|s| s.importance).collect::<Vec<_>>(), [Some(1.0), Some(2.5)]);
    assert_eq!((spec.mix.temperature, spec.mix.dynamic, found), (0.5, None, vec![]));
    let words = "mix dynamic(every=50 steps, smoothing=5%, reference=\"tables/weights.csv\") < a >= 10% >";
    let (spec, found) = data(words, &[&format!("mix={table}")]);
    let rule = spec.mix.dynamic.expect("dynamic");
    assert_eq!((rule.every_steps, rule.rate, rule.smoothing, found), (50, 1.0, 0.05, vec![]));
    assert_eq!(rule.references["b"], 2.5);
    assert_eq!(spec.sources[1].importance, Some(2.5), "`--set` adds what the recipe does not say");
    let (spec, found) = data("mix dynamic(rate=1) < a 30%  at 50% < a 60% > >", &[]);
    let stage = &spec.mix.stages[0];
    assert_eq!(
        (spec.mix.dynamic.is_some(), stage.start, stage.weights["a"], found),
        (true, Some(0.5), 0.6, vec![])
    );
    for (wrong, code) in [
        ("mix dynamic(every=0 steps)", "LLM0202"),
        ("mix dynamic(rate=1) dynamic(rate=2)", "LLM0205"),
        ("mix importance()", "LLM0006"),
        ("mix dynamic(pace=1)", "LLM0105"),
    ] {
        assert_eq!(data(wrong, &[]).1, [code], "{wrong}");
    }
}

/// A measured mount: samples of 2-byte ids read one by one, checkpoints at its bandwidth, with the file as the reason.
#[test]
fn a_measured_mount_enters_the_plan() {
    let recipe = |on: &str| {
        let text =
            format!("model llama 7b < ctx 8k >\nbudget 100B tokens\nbatch 512 sequences\non 8xH100{on}");
        let c = compile(&text, &[], &worlds::Examples);
        assert!(!c.failed(), "{}", findings(&c));
        c
    };
    let (plain, measured) = (recipe(""), recipe(" < mount \"tables/mount.json\" >"));
    let (before, plan) = (plain.plan.unwrap(), measured.plan.clone().unwrap());
    let storage = plan.storage.clone().unwrap();
    assert_eq!(before.storage, None);
    // 512 sequences over dp ranks, each 1 ms + 16,384 bytes ÷ 80 MB/s; all of them over 100 MB/s.
    let alone = 512.0 / plan.layout.dp as f64 * (1e-3 + 16_384.0 / 80e6);
    let want = alone.max(512.0 * 16_384.0 / 100e6);
    assert!((storage.data_seconds / want - 1.0).abs() < 1e-6, "{storage:?} {:?}", plan.layout);
    let want = (1 << 20) / (plan.batch.micro_batch_sequences * 16_384);
    assert_eq!((storage.exposed_seconds, storage.read_ahead), (0.0, want.clamp(4, 64)));
    assert_eq!(plan.time.step_seconds, before.time.step_seconds);
    // Assumed 2 GB/s, measured 50 MB/s: rarer checkpoints, and less of the time trains.
    assert!(storage.checkpoint_seconds > 60.0 && plan.time.goodput < before.time.goodput);
    assert!(plan.schedule.checkpoint_every_steps > before.schedule.checkpoint_every_steps);
    let facts = llmc_compiler::facts_of(&plan, &measured.ledger);
    assert_eq!(
        facts["storage.latency_seconds"].why["row"], "llmc data bench",
        "{:?}",
        facts["storage.latency_seconds"]
    );
    assert!(facts["storage.checkpoint_seconds"].why.to_string().contains("storage.mount"));
}

/// A profile fitted on a device of the recipe's kind replaces the built-in one there, on one of them, and is the reason given.
#[test]
fn a_profile_of_ones_own_enters_the_plan() {
    let recipe = |on: &str| {
        let text = format!("model llama 1b < ctx 4k >\nbudget 1B tokens\nbatch 32 sequences\non {on}");
        let c = compile(&text, &[], &worlds::Examples);
        assert!(!c.failed(), "{}", findings(&c));
        c
    };
    let profile = " < profile \"tables/h200.toml\" >";
    let seconds = |on: &str| recipe(on).plan.unwrap().time.step_seconds;
    // Every part of a layer takes 1.3 times the base profile's 1.09; the built-in profile of an H200 leaves it at that.
    let slower = seconds(&format!("1xH200{profile}")) / seconds("1xH200");
    assert!((1.25..1.32).contains(&slower), "{slower}");
    assert_eq!(seconds(&format!("8xH200{profile}")), seconds("8xH200"));
    let own = recipe(&format!("1xH200{profile}"));
    let tree = why::lines(&why::why(&own, "time.step_seconds").unwrap(), Lang::En);
    assert!(tree.contains("on.profile"), "{tree}");
    for (file, problem) in [
        ("tables/h200.toml", "fitted on H200, the recipe asks for H100"),
        ("tables/none.toml", "cannot be read"),
        ("tables/mount.json", "line 1"),
    ] {
        let text = format!("model llama 1b\nbudget 1B tokens\non 1xH100 < profile \"{file}\" >");
        let c = compile(&text, &[], &worlds::Examples);
        assert!(c.diagnostics.iter().any(|d| d.code == "LLM0711"), "{}", findings(&c));
        assert!(findings(&c).contains(problem), "{}", findings(&c));
    }
}
