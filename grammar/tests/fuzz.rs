//! Random, mutated and adversarial texts through the parser and the formatter. `LLMC_FUZZ_CASES` sets how many.

use llmc_grammar::{LeafKind, Tree, format, parse};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

const RECIPES: [&str; 3] = [
    include_str!("recipes/one-liner.llm"),
    include_str!("recipes/pretrain-7b-8k.llm"),
    include_str!("recipes/cpt-13b-law.llm"),
];

/// Pieces that tear at the joints of the grammar.
const PIECES: &[&str] = &[
    "model",
    "expect",
    "lr",
    "on",
    "budget",
    "<",
    ">",
    "<=",
    ">=",
    "=",
    "(",
    ")",
    "＜",
    "＞",
    "＝",
    "（",
    "）",
    "，",
    ",",
    "#",
    "# c\n",
    "\n",
    "\r\n",
    "\r",
    "\t",
    " ",
    "  ",
    "\u{3000}",
    "\u{FEFF}",
    "\"",
    "\"s\"",
    "\"a < b\"",
    "¥",
    "￥18/h",
    "$50k",
    "％",
    "%",
    "10%",
    "×",
    "x",
    "0.3x",
    "8k",
    "8kk",
    "1t",
    "7b",
    "1T",
    "3e-4",
    "-1",
    ".5",
    "4_194_304",
    "30",
    "min",
    "tokens",
    "76 GiB",
    "76GiB",
    "GiB/s",
    "/h",
    "h",
    "s",
    "64xH100",
    "8x8xH100",
    "yarn(s=2)",
    "yarn(",
    "f(1,2",
    "ctx",
    "name",
    "中文",
    "a-b",
    "_",
    "-",
    "é",
    "\u{301}",
    "😀",
    "\0",
    "\u{200B}",
];

fn cases() -> u32 {
    std::env::var("LLMC_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(3000)
}

/// The tokens without trivia. The grammar is deterministic on them, so equal tokens mean an equal tree.
fn meaning(tree: &Tree) -> Vec<(LeafKind, String)> {
    let ascii = |text: &str| {
        text.chars()
            .filter(|c| !c.is_whitespace())
            .map(|c| match c {
                '＜' => '<',
                '＞' => '>',
                '＝' => '=',
                '（' => '(',
                '）' => ')',
                '％' => '%',
                '￥' => '¥',
                '×' => 'x',
                c => c,
            })
            .collect()
    };
    let tokens = tree.leaves().iter().filter(|leaf| !leaf.kind.is_trivia());
    tokens.map(|leaf| (leaf.kind, ascii(tree.slice(leaf.span)))).collect()
}

fn comments(tree: &Tree) -> Vec<&str> {
    let comments = tree.leaves().iter().filter(|leaf| leaf.kind == LeafKind::Comment);
    comments.map(|leaf| tree.slice(leaf.span).trim_end()).collect()
}

/// What holds for every text.
fn holds(text: &str) -> Result<(), TestCaseError> {
    let tree = parse(text);
    let joined: String = tree.leaves().iter().map(|leaf| tree.slice(leaf.span)).collect();
    prop_assert_eq!(&joined, text, "leaves are not the source");
    let junk = tree.junk();
    for leaf in tree.leaves().iter().filter(|leaf| leaf.kind == LeafKind::Junk) {
        prop_assert!(junk.iter().any(|piece| piece.contains(leaf.span)), "a byte outside every node");
    }
    for clause in tree.clauses() {
        prop_assert!(text.is_char_boundary(clause.span.start) && text.is_char_boundary(clause.span.end));
        prop_assert_eq!(
            tree.slice(clause.span).trim_matches([' ', '\t', '\r', '\n']),
            tree.slice(clause.span)
        );
        prop_assert!(!tree.slice(clause.span).is_empty());
    }
    let once = format(&tree);
    let again = parse(&once);
    prop_assert_eq!(meaning(&again), meaning(&tree), "fmt changed the meaning; it wrote {:?}", once);
    prop_assert_eq!(comments(&again), comments(&tree), "fmt lost a comment; it wrote {:?}", once);
    prop_assert_eq!(format(&again), once, "fmt is not idempotent");
    Ok(())
}

fn run(strategy: impl Strategy<Value = String>) {
    let config = Config { cases: cases() / 3, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let result = TestRunner::new_with_rng(config, rng).run(&strategy, |text| holds(&text));
    assert_eq!(result.map_err(|error| error.to_string()), Ok(()));
}

#[test]
fn pieces() {
    let glue = prop_oneof![4 => Just(" "), 1 => Just("")];
    let piece = (proptest::sample::select(PIECES), glue).prop_map(|(piece, glue)| format!("{piece}{glue}"));
    run(proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat()));
}

#[test]
fn characters() {
    run(proptest::collection::vec(any::<char>(), 0..60).prop_map(String::from_iter));
}

/// Recipes with pieces inserted, cut out and doubled.
#[test]
fn mutations() {
    let edit = (any::<proptest::sample::Index>(), 0usize..30, proptest::sample::select(PIECES));
    let edits = proptest::collection::vec(edit, 1..8);
    run((proptest::sample::select(&RECIPES[..]), edits).prop_map(|(recipe, edits)| {
        let mut chars: Vec<char> = recipe.chars().collect();
        for (index, cut, piece) in edits {
            let at = index.index(chars.len() + 1);
            let to = (at + cut % 7).min(chars.len());
            chars.splice(at..to, piece.chars());
            if cut > 25 {
                let tail: Vec<char> = chars[at..].to_vec();
                chars.extend(tail);
            }
        }
        chars.into_iter().collect()
    }));
}

/// Seconds this thread has computed, so that a busy machine fails nothing; by the clock where the kernel does not say.
fn time() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split(' ').next().and_then(|n| n.parse::<f64>().ok());
    nanoseconds.map_or_else(
        || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64()),
        |n| n / 1e9,
    )
}

/// A megabyte of anything takes linear time: the grammar has no recursion and no rule scans ahead without bound.
#[test]
fn a_megabyte_of_nesting() {
    let starts = ["", "model llama 7b < ", "lr f(", "expect memory <= 7 ", "model \"", "mix < at 80% < "];
    let bodies = [
        "<",
        ">",
        "(",
        ")",
        "\"",
        "=",
        "#",
        ",",
        "\n",
        "a",
        "a ",
        "a(",
        "a <",
        "a < b < ",
        "8",
        "8 ",
        "8kk ",
        "8k",
        "<=",
        "model ",
        "model < ",
        "model <",
        "> ",
        "a < 3 ",
        "a b <= ",
        "3 min ",
        "8x8x",
        "3 min\n\n",
        "\"x\" ",
        "\"\n",
        "# c\n",
        "# c\n a ",
        "＜",
        "a-",
        "seed 1 > ",
        "x < y 1 # c\n > ",
    ];
    let full = cases() >= 100_000;
    for (s, start) in starts.iter().enumerate() {
        for (b, body) in bodies.iter().enumerate() {
            // Every pair at full length by hand; else each body once, still long enough to show a square.
            if !full && b % starts.len() != s {
                continue;
            }
            let length = if full { 1 << 20 } else { 1 << 16 };
            let text = format!("{start}{}", body.repeat(length / body.len()));
            let began = time();
            let tree = parse(&text);
            let formatted = format(&tree);
            let took = time() - began;
            assert!(took < 5.0, "{start:?} then {body:?}: {took} s");
            assert_eq!(
                tree.leaves().iter().map(|leaf| leaf.span.end - leaf.span.start).sum::<usize>(),
                text.len()
            );
            assert!(formatted.len() <= text.len() * 4 + 1);
        }
    }
}
