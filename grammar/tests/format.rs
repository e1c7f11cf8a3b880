//! What the formatter makes of recipes.

use llmc_grammar::{format, parse};

/// Formats, and checks that a second pass changes nothing.
fn fmt(text: &str) -> String {
    let once = format(&parse(text));
    assert_eq!(format(&parse(&once)), once, "not idempotent on {text:?}");
    once
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(fmt(text), expected);
}

#[test]
fn the_one_liner() {
    check(
        include_str!("recipes/one-liner.llm"),
        "model llama 7b < ctx 8k  rope yarn(s=2) >\nbudget 1T tokens\non 64xH100\n",
    );
}

#[test]
fn the_reference_recipe_keeps_its_layout() {
    let text = include_str!("recipes/pretrain-7b-8k.llm");
    // The canonical text differs in the space before one trailing comment only.
    check(text, &text.replace(">                      # optional", ">  # optional"));
}

#[test]
fn full_width_forms_become_ascii() {
    check(
        "mix temperature（0.7）＜code >= 10％，zh＞＝５ 5%＞ on 8×8×H100 price＜gpu ￥18/h＞",
        "mix temperature（0.7）＜code >= 10％，zh＞＝５ 5%＞\non 8x8xH100\nprice < gpu ¥18/h >\n",
    );
    check("mix temperature（0.7）＜code ＞＝ 10％，zh 5%＞", "mix temperature(0.7) < code >= 10%  zh 5% >\n");
}

#[test]
fn numbers_and_units() {
    check("batch 4_194_304   tokens", "batch 4_194_304 tokens\n");
    check("expect memory<=76GiB,time>= 3 days", "expect memory <= 76 GiB  time >= 3 days\n");
    // A comma stands where a newline kept a unit word from a number, and only there.
    check("checkpoint <\n keep 3\n min 2 >", "checkpoint < keep 3,  min 2 >\n");
    check("expect loss <= 2.1\ntokens >= 3B", "expect loss <= 2.1  tokens >= 3B\n");
    check("lr 3e-4 f(1 2,a=b\nc=3)", "lr 3e-4 f(1, 2, a=b, c=3)\n");
}

#[test]
fn comments_stay() {
    check(
        "# head\n\n\n\n#second\nseed 1 # one\n   # own line\n\n# before lr\nlr # why\n 3e-4 # end",
        "# head\n\n#second\nseed 1  # one\n# own line\n\n# before lr\nlr  # why\n    3e-4  # end\n",
    );
    check(
        "data < # sources\nweb \"w\" # big\n# then\n\ncode \"c\" < epochs <= 4 # few\n>\n # last\n>",
        "data <  # sources\n  web  \"w\"  # big\n  # then\n\n  code \"c\" <\n    epochs <= 4  # few\n  >\n  # last\n>\n",
    );
    check("# only", "# only\n");
    check("", "");
    check(" \n,\n ", "");
}

#[test]
fn junk_stays_as_typed() {
    check("seed   1 lr 3e-4   )) # no\nseed    2", "seed 1\nlr 3e-4   ))  # no\nseed 2\n");
    check("model llama 7b<ctx   8k\nbudget   1T tokens", "model llama 7b<ctx   8k\nbudget 1T tokens\n");
    check("hello   ＜world＞\nseed   1", "hello   ＜world＞\nseed 1\n");
    check("optimizer adamw < lr   3e-4 >", "optimizer adamw <\nlr   3e-4 >\n");
}

#[test]
fn a_long_inner_block_breaks_too() {
    let shares: String = (0..12).map(|i| format!("source{i} {i}% ")).collect();
    let text = fmt(&format!("mix < code 10% at 80% < {shares} > >"));
    assert!(text.starts_with("mix <\n  code 10%\n  at   80% <\n    source0  0%\n"), "{text}");
    assert!(text.ends_with("    source11 11%\n  >\n>\n"), "{text}");
}
