//! What holds for every plan: made-up recipes of every clause and option, with made-up pins, planned in full. Settings
//! clash or go out of bounds often enough for refusals to be met too; `LLMC_FUZZ_CASES` plans more of them.
//!
//! Not here: text that is no recipe (`properties.rs`), whether the figures are right (`planner/tests/`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

use llmc_compiler::diag::{Lang, render};
use llmc_compiler::{Compiled, Nowhere, check, compile, view, why, why_not};
use llmc_grammar::Keyword;
use llmc_plan::plan::Plan;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;
use serde_json::Value;

type Words = &'static [&'static str];

/// A clause: what a recipe would say, and what it should not. Blocks are those of [`BLOCKS`].
#[rustfmt::skip]
const CLAUSES: &[(Keyword, Words, Words)] = &[
    (Keyword::Edition, &["2026"], &["2025"]),
    (Keyword::Model, &["llama 350m", "llama 1.3b", "llama 7b", "llama2 13b", "llama3 8b", "llama3 70b",
        "llama 405b"], &["llama 1m", "llama", "qwen 7b", "llama 10000b", "llama3 0.5b"]),
    (Keyword::From, &["\"models/base\""], &["\"\""]),
    (Keyword::Budget, &["1T tokens", "20B tokens", "100M tokens", "21 days", "¥1M", "$50k", "1e22 FLOPs",
        "2T tokens 60 days"], &["1 token", "10000T tokens", "0 tokens", "1 s", "100 years", "¥1", "¥0",
        "1e40 FLOPs", "1e-9 FLOPs", "1T tokens ¥100k", "21 days ¥1M", "10B tokens 1e25 FLOPs", "-5 tokens"]),
    (Keyword::On, &["1xH100", "2xH100", "3xH100", "8xH200", "8x8xH100", "24xH100", "1024xH100", "16384xH100",
        "8x8xA100-80G", "16xV100-32G", "4xRTX4090", "8xB200", "1xCPU", "2xCPU"], &["H100", "CPU", "0xH100",
        "9xH100", "1048576xH100", "2x7xH100", "99999999999xH100"]),
    (Keyword::Seed, &["0", "7"], &["-1", "99999999999999999999"]),
    (Keyword::Batch, &["4M tokens", "4_194_304 tokens", "512 sequences", "96 sequences"], &["1 token",
        "1 sequence", "1_000_001 tokens", "10000T tokens"]),
    (Keyword::Tokenizer, &["bpe < digits split  byte_fallback yes >", "bpe < sample 1 GiB >"],
        &["wordpiece"]),
    (Keyword::Data, &["< web \"web/*.jsonl\"  code \"code/*.jsonl\" < epochs <= 4 > >"], &["< >",
        "< web \"w.bin\" < in_place yes > >", "< web \"\" < epochs <= 0 > >"]),
    (Keyword::Clean,
        &["< unicode nfc  dedup minhash  similarity 80%  length >= 64  letters >= 50%  lang any(en, zh)  unreadable skip >"],
        &["< similarity 200% >"]),
    (Keyword::Pack, &["concat", "best_fit < document_mask yes >", "padding", "buckets"],
        &["concat < document_mask maybe >"]),
    (Keyword::Mix, &["temperature(0.7) < web >= 10% >", "dynamic(every=100 steps)",
        "< web 40%  at 80% < web 60% > >"], &["< web 140% >", "< absent 10% >", "importance(\"none.csv\")"]),
    (Keyword::Optimizer, &["adamw", "lion", "adafactor", "paged_adamw"], &["sgd"]),
    (Keyword::Lr, &["3e-4", "wsd(decay=10%)", "2e-4 cosine(final=10%) < warmup 2000 steps >", "constant",
        "onecycle", "linear(final=0%) < warmup 1% >", "< warmup 1B tokens >", "< warmup 1 h >"], &["0", "1e9",
        "0.3x cosine < rewarm 1% >", "wsd(decay=200%)", "< warmup 10000T tokens >", "3e-4 < warmup 100% >"]),
    (Keyword::Precision, &["bf16", "fp8", "fp16", "f32"], &["int4"]),
    (Keyword::Determinism, &["fast", "bitwise"], &["never"]),
    (Keyword::Freeze, &["embeddings", "attention norms", "head", "ffn"], &["everything", "norms norms"]),
    (Keyword::Layout, &[""], &[]),
    (Keyword::Checkpoint, &["< every 30 min  keep 3  zstd 1 >", "< every 500 steps >", "< every 1B tokens >",
        "< every 1% >"], &["< every 1 s  keep 0 >", "< every 0 steps >", "< every 100 years >",
        "< zstd 99 >"]),
    (Keyword::Eval, &["< every 2B tokens  ppl \"v.jsonl\"  window 4k  stride 2k >",
        "< every 2%  sequences 64  holdout 1% >"], &["< window 1  stride 2 >", "< holdout 90% >",
        "< every 0% >"]),
    (Keyword::Price, &[""], &[]),
    (Keyword::Expect, &["memory <= 9999 GiB", "time <= 40_000 days  loss <= 20", "cost >= ¥0", "mfu >= 0%"],
        &["memory <= 1 GiB", "time <= 1 s", "mfu >= 100%", "loss <= 0.1"]),
];

/// Options that are put together: clause, name, what a recipe would say, what it should not.
#[rustfmt::skip]
const BLOCKS: &[(Keyword, &str, Words, Words)] = &[
    (Keyword::Model, "ctx", &["1k", "4k", "8k", "32k", "128k"], &["1", "7", "3000", "1M", "1048576k"]),
    (Keyword::Model, "rope", &["none", "pi(s=2)", "ntk(s=4)", "yarn(s=2)", "llama3(s=8)",
        "yarn(s=4, theta=5e5)"], &["yarn(s=0)", "ntk", "pi(s=1e30)", "yarn(s=1.5)"]),
    (Keyword::Model, "vocab", &["32k", "64k", "50_257"], &["2", "16M"]),
    (Keyword::Model, "layers", &["24", "33"], &["1", "10_000"]),
    (Keyword::Model, "hidden", &["2048", "5120"], &["2", "770", "1_048_576"]),
    (Keyword::Model, "heads", &["16", "40"], &["1", "7", "65_536"]),
    (Keyword::Model, "kv_heads", &["8"], &["3", "1"]),
    (Keyword::Model, "head_dim", &["128"], &["1", "100"]),
    (Keyword::Model, "ffn", &["8192", "11008"], &["1", "1009"]),
    (Keyword::Model, "tied", &["yes", "no"], &["both"]),
    (Keyword::Model, "norm_eps", &["1e-6"], &["1"]),
    (Keyword::Model, "dropout", &["0%", "10%"], &["100%"]),
    (Keyword::Model, "init", &["0.02"], &["0"]),
    (Keyword::On, "mount", &[], &["\"none.json\""]),
    (Keyword::On, "profile", &[], &["\"none.toml\"", "h100"]),
    (Keyword::Optimizer, "betas", &["0.9 0.95", "0.95 0.98"], &["1 1", "0 0", "0.9"]),
    (Keyword::Optimizer, "wd", &["0.1", "0"], &["-1"]),
    (Keyword::Optimizer, "clip", &["1.0", "0"], &["1e9"]),
    (Keyword::Optimizer, "eps", &["1e-8"], &["0"]),
    (Keyword::Optimizer, "state", &["bf16", "f32"], &["fp8"]),
    (Keyword::Optimizer, "master", &["split", "stochastic", "f32"], &["none"]),
    (Keyword::Optimizer, "gradients", &["bf16", "f32"], &["fp8"]),
    (Keyword::Optimizer, "skip", &["0", "10"], &["-1"]),
    (Keyword::Layout, "tp", &["1", "2", "4", "8"], &["0", "3", "64", "1e9", "2.5"]),
    (Keyword::Layout, "pp", &["1", "2", "4", "16"], &["0", "3", "7", "-1"]),
    (Keyword::Layout, "cp", &["1", "2", "4"], &["0", "3", "64"]),
    (Keyword::Layout, "dp", &["1", "4", "8", "64"], &["0", "5", "1048577"]),
    (Keyword::Layout, "vp", &["1", "2", "4"], &["0", "3", "2000"]),
    (Keyword::Layout, "zero", &["0", "1", "2", "3"], &["4"]),
    (Keyword::Layout, "shard_group", &["8", "2"], &["0", "3"]),
    (Keyword::Layout, "micro", &["1", "2", "4"], &["0", "7", "65_536"]),
    (Keyword::Layout, "sequence_parallel", &["yes", "no"], &["maybe"]),
    (Keyword::Layout, "schedule", &["none", "one_f_one_b", "interleaved", "zero_bubble"], &["dualpipe"]),
    (Keyword::Layout, "recompute", &["none", "selective", "full"], &["some"]),
    (Keyword::Layout, "offload", &["none", "optimizer", "activations"], &["all"]),
    (Keyword::Price, "gpu", &["¥18/h", "¥0/h"], &["¥1e9/h", "$2/h"]),
    (Keyword::Price, "power", &["0.7 kW"], &["0 kW", "700 W"]),
    (Keyword::Price, "pue", &["1.3", "1"], &["0.5"]),
    (Keyword::Price, "electricity", &["¥0.8/kWh", "¥0/kWh"], &["¥1e6/kWh"]),
    (Keyword::Price, "storage", &["¥10/h"], &["¥1e9/h"]),
    (Keyword::Price, "network", &["¥5/h"], &["5"]),
    (Keyword::Price, "other", &["¥120/h"], &["-¥1/h"]),
    (Keyword::Price, "spares", &["3%"], &["100%", "200%"]),
    (Keyword::Price, "buy", &["¥250k"], &["¥0"]),
    (Keyword::Price, "life", &["1461 days"], &["1 s"]),
    (Keyword::Price, "usage", &["80%"], &["0%"]),
    (Keyword::Price, "upkeep", &["5%"], &["200%"]),
    (Keyword::Price, "mtbf", &["50000 h"], &["1 s"]),
    (Keyword::Price, "restart", &["15 min"], &["5%"]),
];

/// Where a pinned option of `layout` stands in a plan.
fn path_of(option: &str) -> &'static str {
    match option {
        "tp" => "/layout/tp",
        "pp" => "/layout/pp",
        "cp" => "/layout/cp",
        "dp" => "/layout/dp",
        "vp" => "/layout/vp",
        "zero" => "/layout/zero_stage",
        "shard_group" => "/layout/shard_group",
        "micro" => "/batch/micro_batch_sequences",
        "sequence_parallel" => "/layout/sequence_parallel",
        "schedule" => "/layout/schedule",
        "recompute" => "/layout/recompute",
        "offload" => "/layout/offload",
        _ => panic!("`layout < {option} >` has no place in a plan"),
    }
}

/// Clauses in the order of the reference, and the settings of their blocks.
#[derive(Clone)]
struct Recipe {
    clauses: Vec<Option<&'static str>>,
    blocks: Vec<Option<&'static str>>,
}

impl std::fmt::Debug for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "recipe\n{}", self.text())
    }
}

impl Recipe {
    fn text(&self) -> String {
        let mut text = String::new();
        for ((keyword, ..), head) in CLAUSES.iter().zip(&self.clauses) {
            let Some(head) = head else { continue };
            let settings: Vec<String> = (BLOCKS.iter().zip(&self.blocks))
                .filter_map(|((of, name, ..), value)| {
                    value.filter(|_| of == keyword).map(|v| format!("{name} {v}"))
                })
                .collect();
            let block =
                if settings.is_empty() { String::new() } else { format!("< {} >", settings.join("  ")) };
            if !(head.is_empty() && block.is_empty()) {
                text.push_str(&format!("{} {head} {block}\n", keyword.text()));
            }
        }
        text
    }

    /// What `layout` pins: option and value.
    fn pins(&self) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
        let layout = CLAUSES.iter().position(|(keyword, ..)| *keyword == Keyword::Layout);
        let pinned = layout.is_some_and(|at| self.clauses[at].is_some());
        let set =
            BLOCKS.iter().zip(&self.blocks).filter(move |((of, ..), _)| pinned && *of == Keyword::Layout);
        set.filter_map(|((_, name, ..), value)| Some((*name, (*value)?)))
    }
}

/// A setting with this chance; in a wild recipe one in five is nothing a recipe should say.
fn setting(chance: f64, usual: Words, wrong: Words, wild: bool) -> BoxedStrategy<Option<&'static str>> {
    if usual.is_empty() && !wild {
        return Just(None).boxed();
    }
    let value = match (usual.is_empty(), wild && !wrong.is_empty()) {
        (true, _) => select(wrong).boxed(),
        (false, true) => prop_oneof![4 => select(usual), 1 => select(wrong)].boxed(),
        (false, false) => select(usual).boxed(),
    };
    if chance >= 1.0 { value.prop_map(Some).boxed() } else { prop::option::weighted(chance, value).boxed() }
}

fn recipe() -> impl Strategy<Value = Recipe> {
    prop::bool::weighted(0.25).prop_flat_map(|wild| {
        let clauses: Vec<_> = (CLAUSES.iter())
            .map(|(keyword, usual, wrong)| {
                let chance = match keyword {
                    Keyword::Model => 1.0,
                    Keyword::On | Keyword::Budget => 0.9,
                    Keyword::Layout | Keyword::Price | Keyword::Optimizer => 0.6,
                    Keyword::From | Keyword::Freeze => 0.1,
                    // `mix` names sources.
                    Keyword::Data => 0.8,
                    Keyword::Batch => 0.15,
                    _ => 0.25,
                };
                setting(chance, usual, wrong, wild)
            })
            .collect();
        let blocks: Vec<_> = (BLOCKS.iter())
            .map(|(keyword, name, usual, wrong)| {
                let chance = match (keyword, *name) {
                    (Keyword::Model, "ctx") => 0.8,
                    (Keyword::Price, _) => 0.3,
                    // Two or three pins a recipe, a size and seldom a shape: more of them rarely go together.
                    (Keyword::Model, _) if !wild => 0.07,
                    _ => 0.15,
                };
                setting(chance, usual, wrong, wild)
            })
            .collect();
        (clauses, blocks).prop_map(|(clauses, blocks)| Recipe { clauses, blocks })
    })
}

/// Equal as far as nine significant digits tell ([`llmc_planner::settle`]); sums of a few such are a little worse.
fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-7 * a.abs().max(b.abs()) + 1e-12
}

fn no_placeholder(words: &str, text: &str) {
    for sign in ["NaN", " inf", "⟨", "Some(", "None"] {
        assert!(!words.contains(sign), "`{sign}` in what is said:\n{words}\nof\n{text}");
    }
}

/// Findings have a known code and sentences in both languages; without a plan one of them is an error.
fn findings(c: &Compiled, text: &str) {
    for d in &c.diagnostics {
        assert!(llmc_compiler::explain::explain(d.code, Lang::En).is_ok(), "{} has no page", d.code);
        for lang in [Lang::En, Lang::Zh] {
            no_placeholder(&render(d, &c.sources, lang), text);
        }
    }
    assert!(c.plan.is_some() || c.failed(), "neither a plan nor an error:\n{text}");
}

/// What the parts of a plan say of each other.
fn consistent(p: &Plan) {
    let (l, b, m, t) = (&p.layout, &p.batch, &p.model, &p.time);
    // A rank could execute it.
    assert_eq!(llmc_plan::lower::check(p), Ok(()));
    assert_eq!(l.dp * l.tp * l.pp * l.cp, l.gpus);
    assert!(l.gpus >= l.nodes && l.gpus % l.nodes == 0 && l.dp % l.shard_group == 0);
    assert_eq!(b.global_sequences, l.dp * b.accumulation * b.micro_batch_sequences);
    assert_eq!(b.global_tokens, b.global_sequences * m.context);
    assert_eq!(p.budget.trained_tokens, p.budget.steps * b.global_tokens);
    assert!(
        p.budget.trained_tokens >= p.budget.tokens
            && p.budget.trained_tokens - p.budget.tokens < b.global_tokens
    );
    assert_eq!((m.params, m.params_non_embedding), (m.count_params(), m.count_params_non_embedding()));
    assert!(near(p.budget.flops, m.flops_per_token() * p.budget.trained_tokens as f64));
    assert!(p.lr.peak > 0.0 && p.lr.warmup_steps <= p.budget.steps);

    assert_eq!(p.memory.stages.len() as u64, l.pp);
    assert_eq!(p.memory.device_bytes, p.memory.stages.iter().map(|s| s.device).max().unwrap());
    for s in &p.memory.stages {
        let parts = s.parameters + s.gradients + s.optimizer + s.activations + s.logits + s.buffers;
        assert!(s.allocated <= parts && s.allocated <= s.reserved && s.reserved <= s.device, "{s:?}");
    }
    assert!(p.memory.device_bytes <= p.hardware.memory_bytes, "does not fit: {:?}", p.memory);
    if !l.stages.is_empty() {
        assert_eq!(l.stages.len() as u64, l.pp);
        assert_eq!(l.stages.iter().map(|s| s.layers).sum::<u64>(), m.layers);
    }

    assert!(near(t.breakdown.values().sum(), t.step_seconds), "{t:?}");
    assert!(t.breakdown.values().all(|s| *s >= 0.0), "{t:?}");
    assert!(near(t.tokens_per_second, b.global_tokens as f64 / t.step_seconds));
    assert!(near(t.tokens_per_second_per_gpu * l.gpus as f64, t.tokens_per_second));
    assert!(near(t.mfu, t.tokens_per_second_per_gpu * m.flops_per_token() / p.hardware.peak_bf16_flops));
    assert!(near(t.train_seconds * t.goodput, t.step_seconds * p.budget.steps as f64));
    assert!(t.goodput > 0.0 && t.goodput <= 1.0);
    // The denominator is the bf16 peak: 8-bit products may reach twice that.
    assert!(t.mfu > 0.0 && t.mfu < if p.precision == llmc_plan::plan::Precision::Fp8 { 2.0 } else { 1.0 });

    let c = &p.cost;
    assert!(near(c.total, c.gpu + c.electricity + c.other), "{c:?}");
    assert!(
        near(c.gpu_hours, t.train_seconds / 3600.0 * l.gpus as f64)
            && near(c.gpu, c.gpu_hours * c.gpu_per_hour)
    );
    assert!(near(c.electricity_kwh, c.gpu_hours * c.power_kw * c.pue), "{c:?}");
    assert!(c.spares + c.storage + c.network <= c.other * (1.0 + 1e-7), "{c:?}");
    assert!(p.loss.low <= p.loss.predicted && p.loss.predicted <= p.loss.high);

    let s = &p.search;
    assert!(s.feasible <= s.evaluated && s.evaluated <= s.considered && s.feasible > 0, "{s:?}");
}

/// Every leaf but the search's has a reason, and `why` reaches it.
fn explained(c: &Compiled, json: &Value) {
    fn leaves(value: &Value, path: String, out: &mut Vec<String>) {
        let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        match value {
            Value::Object(map) if !map.is_empty() => map.iter().for_each(|(k, v)| leaves(v, below(k), out)),
            Value::Array(list) if !list.is_empty() => {
                list.iter().enumerate().for_each(|(i, v)| leaves(v, below(&i.to_string()), out));
            }
            _ => out.push(path),
        }
    }
    let mut paths = Vec::new();
    leaves(json, String::new(), &mut paths);
    for path in paths.iter().filter(|p| !p.starts_with("search.") && !p.starts_with("facts.")) {
        let fact = &json["facts"][path];
        assert!(fact["why"].is_object(), "no reason for {path}");
        assert!(why::why(c, path).is_ok(), "`why` does not know {path}");
    }
}

fn examine(recipe: &Recipe) {
    let text = recipe.text();
    let c = compile(&text, &[], &Nowhere);
    findings(&c, &text);
    let checked = check(&text, &[], &Nowhere);
    assert!(!checked.failed() || c.plan.is_none(), "`check` refuses what `plan` takes:\n{text}");
    let Some(plan) = &c.plan else { return };
    consistent(plan);
    let json = c.plan_json().unwrap();
    assert!(compile(&text, &[], &Nowhere).plan_json().as_ref() == Some(&json), "planned twice, two plans");
    assert!(Plan::from_json(&json).unwrap().to_json().unwrap() == json, "read back, it is another plan");
    let value: Value = serde_json::from_str(&json).unwrap();
    for (option, pinned) in recipe.pins() {
        let found = value.pointer(path_of(option)).unwrap();
        let wanted = match pinned {
            "yes" | "no" => Value::from(pinned == "yes"),
            _ => pinned.parse::<u64>().map_or(Value::from(pinned), Value::from),
        };
        assert_eq!(*found, wanted, "{option} is pinned");
    }
    explained(&c, &value);
    for lang in [Lang::En, Lang::Zh] {
        let page = view::human(plan, lang);
        no_placeholder(&page, &text);
        assert!(page.lines().count() <= 60, "{page}");
    }
    for lang in [Lang::En, Lang::Zh] {
        assert!(view::markdown(plan, lang).unwrap().starts_with('#'));
    }
}

/// 1e-30, Adafactor's ε, was read back as 9.999999999999999e-31: a plan differed from itself.
#[test]
fn a_plan_is_read_as_it_was_written() {
    let json = compile("model llama 350m on 1xH100 optimizer adafactor", &[], &Nowhere).plan_json().unwrap();
    assert!(Plan::from_json(&json).unwrap().to_json().unwrap() == json);
}

fn cases(by_default: u32) -> ProptestConfig {
    let asked = std::env::var("LLMC_FUZZ_CASES").ok().and_then(|n| n.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(by_default),
        rng_seed: RngSeed::Fixed(2026),
        failure_persistence: None,
        max_shrink_iters: 500,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn a_plan_keeps_its_promises(recipe in recipe()) {
        examine(&recipe);
    }
}

proptest! {
    #![proptest_config(cases(4))]

    #[test]
    fn every_choice_gets_an_answer(recipe in recipe(), option in select(BLOCKS), at in any::<prop::sample::Index>()) {
        let (keyword, name, usual, wrong) = option;
        let values = [usual, wrong].concat();
        let choice = format!("{}.{name}={}", keyword.text(), values[at.index(values.len())]);
        let text = recipe.text();
        findings(&compile(&text, std::slice::from_ref(&choice), &Nowhere), &text);
        let (verdict, other) = why_not::why_not(&text, &[], &choice, &Nowhere, Lang::En);
        for lang in [Lang::En, Lang::Zh] {
            no_placeholder(&why_not::lines(&verdict, &other, lang), &text);
        }
    }
}

/// A new clause is a line in [`CLAUSES`].
#[test]
fn every_clause_is_drawn() {
    assert!(Keyword::ALL.iter().all(|keyword| CLAUSES.iter().any(|(drawn, ..)| drawn == keyword)));
}

#[test]
fn pins_that_leave_no_layout_are_named() {
    for (on, pins, rule) in [
        ("1xH100", "sequence_parallel yes", "sequence_parallel_needs_tp"),
        ("64xH100", "zero 0  shard_group 8", "shard_group_in_dp"),
        ("1xH100", "shard_group 8", "shard_group_in_dp"),
        ("8xH100", "pp 1  schedule interleaved", "schedule_of_stages"),
        ("8xH100", "pp 2  vp 2  schedule zero_bubble", "schedule_of_stages"),
    ] {
        let c = compile(&format!("model llama 1.3b on {on} layout < {pins} >"), &[], &Nowhere);
        let refused: Vec<_> = c.diagnostics.iter().map(|d| (d.code, d.args["rule"].clone())).collect();
        assert_eq!(refused, [("LLM0902", llmc_compiler::diag::Value::Text(rule.into()))], "{pins}");
    }
}

#[test]
fn tokens_and_flops_that_do_not_agree_say_by_how_much() {
    for (budget, needed, limit) in [
        ("1T tokens 1e21 FLOPs", "4.043e22 FLOPs", "too little"),
        ("1B tokens 1e23 FLOPs", "4.043e19 FLOPs", "too much"),
    ] {
        let c = compile(&format!("model llama 7b < ctx 8k > budget {budget} on 64xH100"), &[], &Nowhere);
        let d = c.diagnostics.iter().find(|d| d.code == "LLM0502").unwrap();
        let shown = ["needed", "limit"].map(|name| d.args[name].show(llmc_compiler::diag::Lang::En));
        assert_eq!((shown, d.labels.len()), ([needed, limit].map(str::to_owned), 2), "{budget}");
    }
}
