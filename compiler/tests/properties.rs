//! What holds for every recipe: reasons for every value, overrides that show, no token lost, no panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

use std::collections::BTreeSet;

use llmc_compiler::diag::{self, Lang, Source};
use llmc_compiler::{Compiled, Nowhere, Why, check, compile, why};
use llmc_grammar::Keyword;

const ONE_LINER: &str = "model llama 7b < ctx 8k rope yarn(s=2) > budget 1T tokens on 64xH100";
const RICH: &str = include_str!("../../recipes/pretrain-7b-8k.llm");

fn codes(c: &Compiled) -> Vec<&str> {
    c.diagnostics.iter().map(|d| d.code).collect()
}

fn shown(c: &Compiled) -> String {
    c.diagnostics.iter().map(|d| diag::render(d, &c.sources, Lang::En)).collect()
}

fn leaves(json: &serde_json::Value, path: &str, out: &mut Vec<String>) {
    let below = |k: &str| if path.is_empty() { k.to_owned() } else { format!("{path}.{k}") };
    match json {
        serde_json::Value::Object(m) if !m.is_empty() => {
            m.iter().for_each(|(k, v)| leaves(v, &below(k), out))
        }
        serde_json::Value::Array(a) if !a.is_empty() => {
            a.iter().enumerate().for_each(|(i, v)| leaves(v, &below(&i.to_string()), out));
        }
        _ => out.push(path.to_owned()),
    }
}

#[test]
fn every_leaf_of_a_plan_but_the_search_has_a_reason() {
    let quickstart = include_str!("../../recipes/quickstart.llm");
    let continued = include_str!("../../recipes/cpt-13b-law.llm");
    for text in [ONE_LINER, RICH, quickstart, continued, "model llama3 8b budget 30 days on 64xH100"] {
        let c = compile(text, &[], &Nowhere);
        let json: serde_json::Value = serde_json::from_str(&c.plan_json().expect(text)).unwrap();
        let mut all = Vec::new();
        let mut plain = json.clone();
        plain.as_object_mut().unwrap().remove("facts");
        leaves(&plain, "", &mut all);
        all.retain(|p| !p.starts_with("search."));
        assert!(all.len() > 80);
        for path in all {
            assert!(json["facts"].get(&path).is_some(), "no reason for {path} in {text}");
            assert!(why::why(&c, &path).is_ok(), "{path}");
        }
    }
}

#[test]
fn reasons_reach_the_words_of_the_recipe() {
    let c = compile(ONE_LINER, &[], &Nowhere);
    assert!(matches!(c.ledger["model.context"], Why::Typed { .. }));
    let Why::Typed { overrides: Some(preset), .. } = &c.ledger["model.context"] else { panic!() };
    assert_eq!(preset, "2,048 of models/llama/family");
    assert!(matches!(&c.ledger["model.layers"], Why::Preset { row, .. } if row == "7b"));
    assert!(matches!(c.ledger["layout.tp"], Why::Search { .. }));
    let tree = why::lines(&why::why(&c, "model.rope.original_context").unwrap(), Lang::En);
    assert!(tree.contains("4,096") && tree.contains("`8k`") && tree.contains("2309.00071"), "{tree}");
    let tree = why::lines(&why::why(&c, "lr.peak").unwrap(), Lang::En);
    assert!(tree.contains("2503.04715") && tree.contains("`1T tokens`"), "{tree}");
    assert_eq!(why::why(&c, "layout.zero_stag").unwrap_err().as_deref(), Some("layout.zero_stage"));
}

#[test]
fn a_misspelt_clause_is_named_wherever_it_stands() {
    for (text, near) in [
        ("model llama 7b\nbugdet 1T tokens", "budget"),
        ("model llama 7b\nseed 1\noptimzer adamw < betas 0.9 0.95 >", "optimizer"),
        ("model llama 7b\nbudget 1T tokens\nonn 64xH100", "on"),
        ("tokeniser bpe\nmodel llama 7b", "tokenizer"),
    ] {
        let c = check(text, &[], &Nowhere);
        assert_eq!(codes(&c), ["LLM0007"], "{}", shown(&c));
        assert_eq!(c.diagnostics[0].args["near"], diag::Value::Text(near.into()));
    }
}

#[test]
fn overrides_replace_and_say_what() {
    let sets = ["model.ctx=4k", "lr=1e-4", "layout.tp=4", "data.code.epochs=2"].map(str::to_owned);
    let c = compile(RICH, &sets, &Nowhere);
    let p = c.plan.as_ref().unwrap_or_else(|| panic!("{}", shown(&c)));
    assert_eq!((p.model.context, p.lr.peak, p.layout.tp), (4096, 1e-4, 4));
    assert_eq!(p.lr.decay_fraction, 0.1, "`lr=` replaces the peak, not the schedule");
    let Why::Set { index: 1, overrides: Some(old), .. } = &c.ledger["model.context"] else {
        panic!("{:?}", c.ledger["model.context"])
    };
    assert_eq!(c.sources.slice(*old), "ctx 8k");
    assert_eq!(c.data.unwrap().sources[1].max_epochs, Some(2.0));
    let twice = ["seed=1", "seed=2"].map(str::to_owned);
    assert!(codes(&compile(ONE_LINER, &twice, &Nowhere)).contains(&"LLM0205"));
}

#[test]
fn money_and_time_decide_what_is_left_open() {
    let tokens =
        |text: &str| compile(text, &[], &Nowhere).plan.unwrap_or_else(|| panic!("{text}")).budget.tokens;
    let month = tokens("model llama 7b budget 30 days on 64xH100");
    assert!(tokens("model llama 7b budget 60 days on 64xH100") > month * 19 / 10);
    assert!(tokens("model llama 7b budget ¥500k on 64xH100") > 100_000_000_000);
    let derived = compile("model llama 7b budget 1T tokens 21 days on H100", &[], &Nowhere);
    let p = derived.plan.unwrap();
    assert!(p.time.train_seconds <= 21.0 * 86_400.0 && p.layout.gpus < 64, "{}", p.layout.gpus);
    let chinchilla = compile("model llama 7b on 64xH100", &[], &Nowhere).plan.unwrap();
    let ratio = chinchilla.budget.tokens as f64 / chinchilla.model.params as f64;
    assert!((15.0..25.0).contains(&ratio), "{ratio}");
}

#[test]
fn plans_are_the_same_every_time() {
    let first = compile(RICH, &[], &Nowhere).plan_json().unwrap();
    for _ in 0..3 {
        assert_eq!(first, compile(RICH, &[], &Nowhere).plan_json().unwrap());
    }
}

#[test]
fn the_plan_fits_one_screen() {
    for text in [ONE_LINER, RICH, include_str!("../../recipes/cpt-13b-law.llm")] {
        let c = compile(text, &[], &Nowhere);
        for lang in [Lang::En, Lang::Zh] {
            let page = llmc_compiler::view::human(c.plan.as_ref().unwrap(), lang);
            assert!(page.lines().count() <= 60, "{page}");
        }
        assert!(
            llmc_compiler::view::markdown(c.plan.as_ref().unwrap(), llmc_compiler::Lang::En)
                .unwrap()
                .starts_with("# llama")
        );
    }
}

/// A small generator (xorshift64*): the seed is printed with every failure, so a case can be run again.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n.max(1)
    }
}

fn words() -> Vec<String> {
    let mut out: Vec<String> = Keyword::ALL.iter().map(|k| k.text().to_owned()).collect();
    let more = "llama llama2 llama3 7b 13b 1.3b 0b 9999999b ctx rope yarn(s=2) ntk pi(s=0) yarn(s=1e30) none vocab layers hidden \
         heads kv_heads head_dim ffn tied yes no dropout norm_eps init < > < > <= >= 1T 8k 0 -1 1e99 99999999999999999999999 \
         64xH100 8x8xH100 1xCPU 9xH100 0xH100 99999999999xH100 H100 H10O tokens steps days ¥18/h $1/h 10% 150% 0.3x 5x GiB adamw lion \
         betas wd clip eps state cosine wsd(decay=10%) wsd(decay=) linear(final=2) warmup rewarm at code web \"a/*.txt\" \" every keep zstd \
         temperature(0.7) temperature() epochs tp pp cp dp vp zero micro recompute full bf16 fp8 fast bitwise memory time cost mfu 中文 ＜ ＞ \
         ，　 # \n ( ) = 8kk 1t 4_194_304 ppl window holdout 3e-4 2026 embeddings ; @ xyzzy";
    out.extend(more.split(' ').filter(|w| !w.is_empty()).map(str::to_owned));
    out
}

/// One check of everything: no panic, every token consumed or inside a finding.
fn examine(text: &str, label: &str) {
    let c = check(text, &[], &Nowhere);
    for d in &c.diagnostics {
        for lang in [Lang::En, Lang::Zh] {
            let words = diag::render(d, &c.sources, lang);
            assert!(!words.contains('⟨') || text.contains('⟨'), "{label}: an argument is missing\n{words}");
        }
        for span in &d.labels {
            assert!(
                span.source == Source::Recipe && span.start <= span.end && span.end <= text.len(),
                "{label}: {d:?}"
            );
            assert!(text.get(span.start..span.end).is_some(), "{label}: {d:?} cuts a character");
        }
        diag::to_json(d, &c.sources);
    }
    // Had nothing been wrong, the same text must give a question or lack only hardware.
    if !c.failed() && c.question.is_none() {
        assert!(!c.facts.has("hardware.name"), "{label}: valid, yet no question\n{text}");
    }
}

#[test]
fn fuzz_random_and_mutated_recipes() {
    let cases: u64 = std::env::var("LLMC_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(3000);
    let words = words();
    let seeds = [
        ONE_LINER,
        RICH,
        include_str!("../../recipes/cpt-13b-law.llm"),
        include_str!("../../recipes/quickstart.llm"),
    ];
    for case in 0..cases {
        let mut dice = Dice(case.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let text = if case % 2 == 0 {
            let n = 1 + dice.below(40);
            (0..n).map(|_| words[dice.below(words.len())].clone()).collect::<Vec<_>>().join(" ")
        } else {
            mutate(seeds[dice.below(seeds.len())], &words, &mut dice)
        };
        examine(&text, &format!("case {case}"));
    }
}

#[test]
fn extreme_recipes_are_planned_or_refused() {
    let mut planned = 0;
    for model in [
        "llama 7b",
        "llama < layers 1 hidden 2 heads 1 vocab 2 >",
        "llama3 405b < ctx 16384k >",
        "llama 10000b",
    ] {
        for budget in [
            "1 token",
            "10000T tokens",
            "0.001 s",
            "1000 s",
            "¥1",
            "1e-9 FLOPs",
            "1T tokens 1 s",
            "1T tokens ¥1",
        ] {
            for on in ["1xCPU", "1048576xH100", "H100"] {
                // A derived count plans every count: one small and one impossible model show it.
                if on == "H100" && !model.contains("ctx") && !model.contains("hidden 2") {
                    continue;
                }
                let text = format!("model {model} budget {budget} on {on}");
                let c = compile(&text, &[], &Nowhere);
                assert!(c.plan.is_some() || c.failed(), "{text}");
                let json = c.plan.as_ref().map(|p| p.to_json().unwrap());
                assert!(
                    json.is_none_or(|j| !j.contains("null") || j.contains("\"runner_up\": null")),
                    "{text}: a float is not finite"
                );
                for d in &c.diagnostics {
                    assert!(!diag::render(d, &c.sources, Lang::Zh).contains(" inf"), "{text}: {}", shown(&c));
                }
                planned += usize::from(c.plan.is_some());
            }
        }
    }
    assert!(planned > 10, "{planned}");
}

#[test]
fn fuzz_overrides() {
    let cases: u64 = std::env::var("LLMC_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let words = words();
    for case in 0..cases / 10 {
        let mut dice = Dice(case.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut word = || words[dice.below(words.len())].clone();
        let sets = [format!("{}={}", word(), word()), format!("{}.{}={} {}", word(), word(), word(), word())];
        let c = check(RICH, &sets, &Nowhere);
        for d in &c.diagnostics {
            for span in &d.labels {
                let text = c.sources.text(span.source);
                assert!(text.get(span.start..span.end).is_some(), "case {case} {sets:?}: {d:?}");
            }
            assert!(!diag::render(d, &c.sources, Lang::En).contains('⟨'), "case {case} {sets:?}");
        }
    }
}

fn mutate(seed: &str, words: &[String], dice: &mut Dice) -> String {
    let mut tokens: Vec<String> = seed.split_inclusive(char::is_whitespace).map(str::to_owned).collect();
    for _ in 0..1 + dice.below(4) {
        let at = dice.below(tokens.len());
        match dice.below(5) {
            0 => drop(tokens.remove(at)),
            1 => tokens.insert(at, format!("{} ", words[dice.below(words.len())])),
            2 => tokens[at] = format!("{} ", words[dice.below(words.len())]),
            3 => {
                let other = dice.below(tokens.len());
                tokens.swap(at, other);
            }
            _ => {
                let cut: Vec<char> = tokens[at].chars().collect();
                let keep = dice.below(cut.len());
                tokens[at] = cut[..keep].iter().collect();
            }
        }
        if tokens.is_empty() {
            tokens.push("model".to_owned());
        }
    }
    tokens.concat()
}

/// Values and kinds of reasons, without places.
fn meaning(c: &Compiled) -> String {
    let kind = |w: &Why| match w {
        Why::Typed { .. } => "typed",
        Why::Set { .. } => "set",
        Why::Preset { .. } => "preset",
        Why::Rule { .. } | Why::Search { .. } => "derived",
    };
    let facts: Vec<String> = c.facts.iter().map(|(p, f, w)| format!("{p} {f:?} {}", kind(w))).collect();
    format!("{facts:?} {:?} {:?} {:?}", c.data, c.question, codes(c))
}

#[test]
fn long_and_nested_input_is_answered_at_once() {
    let kib = |unit: &str, n: usize| unit.repeat((n << 10) / unit.len());
    let units = [
        "<",
        "model < ",
        "a < b < ",
        "mix < a 1% > ",
        "x ",
        "data < a \"b\" ",
        "( ",
        "yarn(s=",
        "\"",
        "> ",
        "8kk ",
        "é<",
    ];
    let started = std::time::Instant::now();
    for unit in units {
        examine(&kib(unit, 1024), unit);
        examine(&kib(unit, 20), unit);
    }
    let named: String = (0..6000).map(|i| format!("n{i} 1% ")).collect();
    examine(&format!("model llama 7b data < {} > mix < {named} >", kib("s \"p\" ", 8)), "names");
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

#[test]
fn every_token_of_a_recipe_matters() {
    for text in
        [RICH, include_str!("../../recipes/cpt-13b-law.llm"), include_str!("../../recipes/quickstart.llm")]
    {
        let whole = check(text, &[], &Nowhere);
        assert!(!whole.failed(), "{}", shown(&whole));
        for leaf in llmc_grammar::parse(text).leaves().iter().filter(|l| !l.kind.is_trivia()) {
            let without = format!("{} {}", &text[..leaf.span.start], &text[leaf.span.end..]);
            let word = &text[leaf.span.start..leaf.span.end];
            // `epochs 4` is a ceiling too: epochs have no other meaning.
            if text[..leaf.span.start].trim_end().ends_with("epochs") && word == "<=" {
                continue;
            }
            // The bounds of `expect` act on the plan only; they are compared with it in the failing examples.
            if text[..leaf.span.start].contains("expect") || word == "expect" {
                continue;
            }
            let same = meaning(&whole) == meaning(&check(&without, &[], &Nowhere));
            assert!(!same, "`{word}` changes nothing at {}", leaf.span.start);
        }
    }
}

#[test]
fn every_token_of_a_wrong_recipe_is_consumed_or_reported() {
    // Removing any single token of a valid recipe, or doubling it, either keeps it valid or is reported where it matters;
    // the words around stay understood.
    let tree = llmc_grammar::parse(RICH);
    let tokens: BTreeSet<(usize, usize)> =
        tree.leaves().iter().filter(|l| !l.kind.is_trivia()).map(|l| (l.span.start, l.span.end)).collect();
    for (start, end) in tokens {
        let without = format!("{}{}", &RICH[..start], &RICH[end..]);
        let doubled = format!("{} {}", &RICH[..end], &RICH[start..]);
        examine(&without, &format!("without {start}"));
        examine(&doubled, &format!("doubled {start}"));
    }
}
