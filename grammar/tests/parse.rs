//! What the parser makes of recipes, right and wrong.

use llmc_grammar::{Cmp, Keyword, LeafKind, Tree, Value, parse};

/// Parses, and checks what holds for every text: the leaves are the source, and each byte of it is a token of a node,
/// junk, or trivia.
fn check(text: &str) -> Tree {
    let tree = parse(text);
    let joined: String = tree.leaves().iter().map(|leaf| tree.slice(leaf.span)).collect();
    assert_eq!(joined, text);
    let junk = tree.junk();
    for leaf in tree.leaves() {
        let inside = junk.iter().any(|piece| piece.contains(leaf.span));
        assert_eq!(
            leaf.kind == LeafKind::Junk,
            inside && !leaf.kind.is_trivia(),
            "{:?}",
            tree.slice(leaf.span)
        );
    }
    tree
}

fn whole(text: &str) -> Tree {
    let tree = check(text);
    assert!(
        tree.junk().is_empty(),
        "junk: {:?}",
        tree.junk().iter().map(|s| tree.slice(*s)).collect::<Vec<_>>()
    );
    assert!(tree.clauses().iter().all(|clause| clause.is_whole()));
    tree
}

fn junk(text: &str) -> Vec<String> {
    let tree = check(text);
    tree.junk().iter().map(|span| tree.slice(*span).to_owned()).collect()
}

/// The values of the first clause's head.
fn head(text: &str) -> Vec<Value> {
    whole(text).clauses()[0].head.clone()
}

#[test]
fn recipes_of_the_reference_are_whole() {
    let one = whole(include_str!("recipes/one-liner.llm"));
    let keywords: Vec<_> = one.clauses().iter().map(|clause| clause.keyword.value).collect();
    assert_eq!(keywords, [Keyword::Model, Keyword::Budget, Keyword::On]);
    let long = whole(include_str!("recipes/pretrain-7b-8k.llm"));
    assert_eq!(long.clauses().len(), 17);
    let mix = &long.clauses().iter().find(|c| c.keyword.value == Keyword::Mix).unwrap().clone();
    assert_eq!(mix.option("code").unwrap().cmp.as_ref().unwrap().value, Cmp::Ge);
    assert_eq!(mix.option("at").unwrap().inner.as_ref().unwrap().options[0].name.value, "zh");
    assert_eq!(whole(include_str!("recipes/cpt-13b-law.llm")).clauses().len(), 9);
}

/// One value as `currency number suffix unit`, or what else it is.
fn show(value: &Value) -> String {
    match value {
        Value::Quantity(q) => {
            let part = |c: Option<char>| c.map_or("-".to_owned(), String::from);
            let unit = q.unit.as_ref().map_or("-", |unit| &unit.value);
            format!("{} {} {} {unit}", part(q.currency), q.number, part(q.suffix))
        }
        Value::BadNumber(text) => format!("bad {}", text.value),
        Value::Size(text) => format!("size {}", text.value),
        Value::Cluster(c) => {
            let counts: Vec<_> = c.counts.iter().map(|count| count.value.as_str()).collect();
            format!("cluster {} {}", counts.join(" "), c.sku.value)
        }
        Value::String(text) => format!("string {}", text.value),
        Value::Call(call) => format!("call {} {}", call.name.value, call.args.len()),
        Value::Word(text) => format!("word {}", text.value),
        Value::Compare(c) => format!("{} {} {}", c.name.value, c.cmp.value.text(), show(&c.value)),
    }
}

#[test]
fn values() {
    let cases: &[(&str, &[&str])] = &[
        ("4_194_304 tokens", &["- 4194304 - tokens"]),
        ("1T tokens", &["- 1 T tokens"]),
        ("2B tokens", &["- 2 B tokens"]),
        ("¥18/h ￥0.8/kWh", &["¥ 18 - /h", "¥ 0.8 - /kWh"]),
        ("10% 10％ 0.3x 0.3×", &["- 10 - %", "- 10 - %", "- 0.3 - x", "- 0.3 - x"]),
        ("76 GiB 76GiB 3.35 GiB/s", &["- 76 - GiB", "- 76 - GiB", "- 3.35 - GiB/s"]),
        ("30 min 0.7 kW 2000 steps", &["- 30 - min", "- 0.7 - kW", "- 2000 - steps"]),
        ("3e-4 -1 1e12", &["- 3e-4 - -", "- -1 - -", "- 1e12 - -"]),
        (
            "8kk 1t 1e 8.5.3 ¥x 64x4090",
            &["bad 8kk", "bad 1t", "bad 1e", "bad 8.5.3", "bad ¥x", "bad 64x4090"],
        ),
        ("1Q tokens 8kk\nmin", &["bad 1Q", "bad 8kk", "word min"]),
        ("7b 1.3b 350m 7B", &["size 7b", "size 1.3b", "size 350m", "- 7 B -"]),
        ("64xH100 8x8xH100 8×8×H100", &["cluster 64 H100", "cluster 8 8 H100", "cluster 8 8 H100"]),
        ("8xA100-80GB H100", &["cluster 8 A100-80GB", "word H100"]),
        ("yarn(s=2) f() f(1, 2 a=b)", &["call yarn 1", "call f 0", "call f 3"]),
        ("yarn（s＝2）", &["call yarn 1"]),
        ("\"a <b> # c\" x-y 中文", &["string a <b> # c", "word x-y", "word 中文"]),
        ("memory <= 76 GiB，time >= 3 days", &["memory <= - 76 - GiB", "time >= - 3 - days"]),
        ("loss <= 2.1 tokens >= 3B", &["loss <= - 2.1 - -", "tokens >= - 3 B -"]),
        ("0.9, 0.95", &["- 0.9 - -", "- 0.95 - -"]),
        // A unit stands on the line of its number.
        ("3\nmin", &["- 3 - -", "word min"]),
        ("modeling budget_x from-scratch", &["word modeling", "word budget_x", "word from-scratch"]),
    ];
    for (text, expected) in cases {
        let shown: Vec<_> = head(&format!("batch {text}")).iter().map(show).collect();
        assert_eq!(&shown, expected, "{text}");
    }
}

#[test]
fn strict_comparisons_are_seen() {
    let tree = whole("expect memory < 76 GiB  time <= 21 days");
    let shown: Vec<_> = tree.clauses()[0].head.iter().map(show).collect();
    assert_eq!(shown, ["memory < - 76 - GiB", "time <= - 21 - days"]);
    let tree = whole("mix < code > 10% zh < 5% >");
    assert_eq!(tree.clauses()[0].option("code").unwrap().cmp.as_ref().unwrap().value, Cmp::Gt);
    assert_eq!(tree.clauses()[0].option("zh").unwrap().cmp.as_ref().unwrap().value, Cmp::Lt);
}

#[test]
fn spans_are_trimmed() {
    let text = "model llama 7b < ctx 8k  # long\n  rope yarn( s = 2 )  >  # done\nseed 1 ";
    let tree = whole(text);
    let model = &tree.clauses()[0];
    assert_eq!(tree.slice(model.span), "model llama 7b < ctx 8k  # long\n  rope yarn( s = 2 )  >");
    assert_eq!(tree.slice(model.options()[0].span), "ctx 8k");
    assert_eq!(tree.slice(model.options()[1].span), "rope yarn( s = 2 )");
    assert_eq!(tree.slice(tree.clauses()[1].span), "seed 1");
}

#[test]
fn damage_stays_small() {
    // A misspelt keyword after a block is junk up to the next keyword.
    assert_eq!(junk("model llama 7b < ctx 8k >\nbudgett 1T tokens\non 64xH100"), ["budgett 1T tokens"]);
    assert_eq!(junk("hello world\nseed 1"), ["hello world"]);
    assert_eq!(junk("model llama 7b < ctx 8k ??? rope ntk > seed 1"), ["???"]);
    assert_eq!(junk("seed 1 ) \"open\nbudget 1T tokens"), [") \"open"]);
    assert_eq!(junk("lr 3e-4 wsd(decay=10% ;; x=1)"), [";;"]);
    assert_eq!(junk("model llama 7b < 8k yarn(s=2) >"), ["8k yarn(s=2)"]);

    // A missing `>` is known, and the next clause still parses.
    let tree = check("model llama 7b < ctx 8k\nbudget 1T tokens");
    assert!(tree.clauses()[0].block.as_ref().unwrap().unclosed);
    assert_eq!(tree.slice(tree.clauses()[0].span), "model llama 7b < ctx 8k");
    assert!(tree.clauses()[1].is_whole());

    // So is a missing `)`.
    let tree = check("model llama 7b < rope yarn(s=2 > seed 1");
    assert!(matches!(&tree.clauses()[0].options()[0].values[0], Value::Call(call) if call.unclosed));
    assert!(tree.clauses()[1].is_whole());

    // An option without a value is an option.
    let tree = whole("layout < tp >");
    assert!(tree.clauses()[0].option("tp").unwrap().values.is_empty());
}

#[test]
fn misplaced_clauses_know_where_they_stand() {
    let tree = check("optimizer adamw < lr 3e-4  seed 3  wd 0.1 >\nprecision bf16");
    let inside: Vec<_> = tree.clauses().iter().map(|c| c.inside.as_ref().map(|k| k.value)).collect();
    assert_eq!(inside, [None, Some(Keyword::Optimizer), Some(Keyword::Optimizer), None]);
    // A block that is only unclosed swallows nothing.
    let tree = check("model llama 7b < ctx 8k\nbudget 1T tokens\nprice < gpu ¥18/h >");
    assert!(tree.clauses().iter().all(|clause| clause.inside.is_none()));
}

#[test]
fn every_keyword_starts_a_clause() {
    for keyword in Keyword::ALL {
        assert_eq!(whole(keyword.text()).clauses()[0].keyword.value, *keyword);
        assert_eq!(Keyword::from_text(keyword.text()), Some(*keyword));
    }
}

/// `optimizer` is a clause, and what `offload` may name: on its line it is a value, below it the next clause.
#[test]
fn what_is_offloaded_may_be_called_as_a_clause_is() {
    let tree = whole("layout < tp 2  offload optimizer  micro 1 >\noptimizer lion");
    let offload = tree.clauses()[0].option("offload").unwrap().clone();
    assert!(matches!(&offload.values[..], [Value::Word(word)] if word.value == "optimizer"));
    assert_eq!(tree.clauses().len(), 2);
    let open = check("layout < offload\noptimizer lion");
    assert_eq!(open.clauses().len(), 2);
    assert!(open.clauses()[0].option("offload").unwrap().values.is_empty());
}
