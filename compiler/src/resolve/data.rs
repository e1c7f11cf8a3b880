//! `tokenizer data clean pack mix`: what is read and how it becomes tokens.

use std::collections::BTreeMap;

use llmc_grammar::{Cmp, Keyword, Value};

use super::Resolved;
use super::cx::{Cx, span};
use super::merge::Setting;
use super::mix::{self, Dynamic, Table};
use super::read::{Options, SHARE, bound, first_value, only_head};
use crate::check::names::{choice, source};
use crate::check::syntax::valueless;
use crate::check::values::{kind, range};
use crate::diag::{self, Span, text};
use crate::unit::{Dimension, Slot};

/// What `data`, `tokenizer`, `clean`, `pack` and `mix` say.
#[derive(Clone, Debug, Default)]
pub struct DataClause {
    /// Named sources in source order.
    pub sources: Vec<SourceClause>,
    /// Where `data` stands.
    pub span: Option<Span>,
    /// Where `mix` stands.
    pub mix_span: Option<Span>,
    /// Later phases of the mixture.
    pub phases: Vec<Phase>,
    /// Table of factors on the sources' sizes.
    pub importance: Option<Table>,
    /// How the shares follow measured losses.
    pub dynamic: Option<Dynamic>,
    /// Losses that sources are held against, once the table was read.
    pub references: BTreeMap<String, f64>,
}

/// One source of text with its share of the mixture.
#[derive(Clone, Debug)]
pub struct SourceClause {
    /// Name.
    pub name: String,
    /// Path or glob.
    pub glob: String,
    /// Where the glob stands.
    pub span: Span,
    /// Times it may be read.
    pub max_epochs: Option<f64>,
    /// Its Megatron shards stay where they are.
    pub in_place: bool,
    /// Factor on its size, once the table was read.
    pub importance: Option<f64>,
    /// Fixed share.
    pub weight: Option<f64>,
    /// Smallest share.
    pub min_share: Option<f64>,
    /// Largest share.
    pub max_share: Option<f64>,
    /// Training tokens, once the corpus was built.
    pub tokens: Option<u64>,
}

/// `at 80% < zh 40% >`: from this share of the run on, these shares hold.
#[derive(Clone, Debug)]
pub struct Phase {
    /// Share of the run, 0 to 1.
    pub start: f64,
    /// Source and its share.
    pub shares: Vec<(String, f64)>,
    /// Where.
    pub span: Span,
}

/// More sources than anybody mixes; the bound keeps comparing names cheap.
const MAX_SOURCES: usize = 1024;
const EPOCHS: Slot = Slot {
    accepts: &[Dimension::Count, Dimension::Multiplier],
    bare: Some(Dimension::Count),
    binary_k: false,
};
const BYTES: Slot = Slot { accepts: &[Dimension::Bytes], bare: None, binary_k: false };
/// Of a document; a plain number is bytes.
const LENGTH: Slot = Slot { accepts: &[Dimension::Bytes], bare: Some(Dimension::Bytes), binary_k: false };

/// Languages a heuristic tells apart, by their script.
const LANGUAGES: &[&str] = &["en", "zh"];

/// `tokenizer bpe < digits split  byte_fallback yes >`
pub fn tokenizer(cx: &mut Cx, r: &mut Resolved) {
    let Some(mut view) = cx.view(Keyword::Tokenizer) else { return };
    if let Some(head) = only_head(cx, &view, "tokenizer bpe")
        && let Some(word) = cx.choice(&head, &head.node, &["bpe"], "tokenizer")
    {
        r.put("tokenizer.kind", word.fact());
    }
    let mut options = Options::of(&mut view);
    if let Some(word) = options.choice(cx, "digits", &["split", "group"]) {
        r.put("tokenizer.digits", word.fact());
    }
    if let Some(b) = options.switch(cx, "byte_fallback") {
        r.put("tokenizer.byte_fallback", b.fact());
    }
    if let Some(s) = options.string(cx, "import") {
        r.put("tokenizer.import", s.fact());
    }
    if let Some(n) = options.count_in(cx, "sample", &BYTES, (1 << 10, 1 << 44)) {
        r.put("tokenizer.sample_bytes", n.fact());
    }
    options.finish(cx);
}

/// `data < web "corpus/web/*.parquet"  code "corpus/code/*.jsonl.zst" < epochs <= 4 >  base "shards/*.bin" < in_place yes > >`
pub fn data(cx: &mut Cx, r: &mut Resolved) {
    let Some(mut view) = cx.view(Keyword::Data) else { return };
    r.data.span = Some(view.at);
    if view.options.is_empty() {
        cx.report(valueless::found(view.at, "data", Some("data < web \"corpus/*.jsonl\" >")));
    }
    let mut options = Options::of(&mut view);
    let all = options.all(cx);
    if all.len() > MAX_SOURCES {
        let count = |n: usize| diag::Value::Count(n as u64);
        cx.report(range::found(view.at, "data", count(all.len()), count(1), count(MAX_SOURCES)));
        return;
    }
    for mut setting in all {
        let name = setting.opt.node.name.value.clone();
        refuse_bound(cx, &setting);
        let glob = first_value(cx, &setting).and_then(|v| cx.string(&setting.opt, &v, &name));
        let mut inner = Options::inside(&mut setting, &name);
        let epochs = inner.take(cx, "epochs");
        let max_epochs = epochs.and_then(|s| {
            let value = first_value(cx, &s)?;
            if bound(&s) == Some(Cmp::Ge) {
                let at = span(s.opt.source, s.opt.node.span);
                cx.report(kind::found(
                    at,
                    ">=",
                    "epochs",
                    text("an upper bound such as `epochs <= 4`", "上限，如 `epochs <= 4`"),
                ));
                return None;
            }
            cx.real(&s.opt, &value, &EPOCHS, (0.001, 1e6), "epochs")
        });
        let in_place = inner.switch(cx, "in_place").is_some_and(|yes| yes.value);
        inner.finish(cx);
        let Some(glob) = glob else { continue };
        if !name.is_ascii() {
            let at = span(setting.opt.source, setting.opt.node.name.span);
            cx.report(kind::found(
                at,
                &name,
                "data",
                text(
                    "names of ASCII letters, digits, `_` and `-`: they become file names",
                    "由 ASCII 字母、数字、`_`、`-` 组成的名称（将用作文件名）",
                ),
            ));
            continue;
        }
        r.data.sources.push(SourceClause {
            name,
            glob: glob.value,
            span: glob.span,
            max_epochs: max_epochs.map(|t| t.value),
            in_place,
            importance: None,
            weight: None,
            min_share: None,
            max_share: None,
            tokens: None,
        });
    }
    options.finish(cx);
}

fn refuse_bound(cx: &mut Cx, setting: &Setting) {
    if let (Some(cmp), Some(at)) = (bound(setting), &setting.opt.node.cmp) {
        let at = span(setting.opt.source, at.span);
        cx.report(kind::found(
            at,
            cmp.text(),
            &setting.opt.node.name.value,
            text("a path in quotes", "带引号的路径"),
        ));
    }
}

/// `clean < unicode nfc  dedup minhash  similarity 80%  length 64 1 MiB  letters >= 50%  lang any(en, zh)
/// unreadable skip >`
pub fn clean(cx: &mut Cx, r: &mut Resolved) {
    let Some(mut view) = cx.view(Keyword::Clean) else { return };
    if view.options.is_empty() {
        cx.report(valueless::found(view.at, "clean", Some("clean < dedup minhash >")));
    }
    let mut options = Options::of(&mut view);
    for (name, known) in [
        ("unreadable", &["stop", "skip"] as &[&'static str]),
        ("unicode", &["keep", "nfc", "nfkc"]),
        ("dedup", &["off", "exact", "minhash"]),
    ] {
        if let Some(word) = options.choice(cx, name, known) {
            r.put(&format!("clean.{name}"), word.fact());
        }
    }
    if let Some(x) = options.real(cx, "similarity", &SHARE, (0.5, 1.0)) {
        r.put("clean.similarity", x.fact());
    }
    if let Some(setting) = options.take(cx, "length") {
        length(cx, r, &setting);
    }
    if let Some(setting) = options.take(cx, "letters")
        && let Some(value) = first_value(cx, &setting)
    {
        if bound(&setting) == Some(Cmp::Le) {
            let at = span(setting.opt.source, setting.opt.node.span);
            let wanted = text("a lower bound such as `letters >= 50%`", "下限，如 `letters >= 50%`");
            cx.report(kind::found(at, "<=", "letters", wanted));
        } else if let Some(x) = cx.real(&setting.opt, &value, &SHARE, (0.0, 1.0), "letters") {
            r.put("clean.letters", x.fact());
        }
    }
    if let Some(setting) = options.take(cx, "lang")
        && let Some(value) = first_value(cx, &setting)
    {
        for value in languages(cx, &setting, value) {
            if let Some(word) = cx.choice(&setting.opt, &value, LANGUAGES, "lang") {
                r.put(&format!("clean.lang.{}", word.value), word.fact());
            }
        }
    }
    options.finish(cx);
}

/// `lang en`, or one of several: `lang any(en, zh)`. An option has one word, so more of them stand in a call.
fn languages(cx: &mut Cx, setting: &Setting, value: Value) -> Vec<Value> {
    let Value::Call(call) = &value else { return vec![value] };
    let at = span(setting.opt.source, call.span);
    if call.name.value != "any" {
        cx.report(choice::found(at, &call.name.value, "lang", &["en", "zh", "any(en, zh)"]));
        return Vec::new();
    }
    let given = cx.arguments(&setting.opt, call, &["one", "other"]);
    if given.is_empty() {
        cx.report(valueless::found(at, "any", Some("any(en, zh)")));
    }
    given.into_iter().map(|(_, value)| value).collect()
}

/// `length >= 64`, `length <= 1 MiB`, or both as `length 64 1 MiB`.
fn length(cx: &mut Cx, r: &mut Resolved, setting: &Setting) {
    let values = &setting.opt.node.values;
    let paths: &[&str] = match (bound(setting), values.len()) {
        (Some(Cmp::Le), 1) => &["clean.max_bytes"],
        (Some(_), 1) => &["clean.min_bytes"],
        (None, 2) => &["clean.min_bytes", "clean.max_bytes"],
        _ => {
            let at = span(setting.opt.source, setting.opt.node.span);
            let words = cx.slice(at).to_owned();
            let wanted = text(
                "`length >= 64`, `length <= 1 MiB`, or both as `length 64 1 MiB`",
                "`length >= 64`、`length <= 1 MiB`，或同时写作 `length 64 1 MiB`",
            );
            cx.report(kind::found(at, &words, "length", wanted));
            return;
        }
    };
    for (path, value) in paths.iter().zip(values) {
        if let Some(n) = cx.count(&setting.opt, value, &LENGTH, (0, 1 << 27), "length") {
            r.put(path, n.fact());
        }
    }
}

/// `pack best_fit < document_mask yes >`
pub fn pack(cx: &mut Cx, r: &mut Resolved) {
    let Some(mut view) = cx.view(Keyword::Pack) else { return };
    if let Some(head) = only_head(cx, &view, "pack best_fit")
        && let Some(word) =
            cx.choice(&head, &head.node, &["concat", "best_fit", "padding", "buckets"], "pack")
    {
        r.put("pack.kind", word.fact());
    }
    let mut options = Options::of(&mut view);
    if let Some(b) = options.switch(cx, "document_mask") {
        r.put("pack.document_mask", b.fact());
    }
    options.finish(cx);
}

/// `mix temperature(0.7) < code >= 10%  at 80% < zh 40% > >`
pub fn mixture(cx: &mut Cx, r: &mut Resolved) {
    let Some(mut view) = cx.view(Keyword::Mix) else { return };
    r.data.mix_span = Some(view.at);
    if view.heads.is_empty() && view.options.is_empty() {
        cx.report(valueless::found(view.at, "mix", Some("mix temperature(0.7)")));
    }
    mix::heads(cx, r, &view);
    let mut options = Options::of(&mut view);
    let known: Vec<String> = r.data.sources.iter().map(|s| s.name.clone()).collect();
    for setting in options.all(cx) {
        if setting.opt.node.name.value == "at" {
            phase(cx, r, setting, &known);
            continue;
        }
        let Some((name, share, _)) = share(cx, &setting, &known) else { continue };
        let cmp = bound(&setting);
        if let Some(source) = r.data.sources.iter_mut().find(|s| s.name == name) {
            match cmp {
                Some(Cmp::Ge) => source.min_share = Some(share),
                Some(_) => source.max_share = Some(share),
                None => source.weight = Some(share),
            }
        }
    }
    options.finish(cx);
}

/// A source's share: `zh 40%`.
fn share(cx: &mut Cx, setting: &Setting, known: &[String]) -> Option<(String, f64, Span)> {
    let node = &setting.opt.node;
    let value = first_value(cx, setting)?;
    let typed = cx.real(&setting.opt, &value, &SHARE, (0.0, 1.0), &node.name.value)?;
    if !known.contains(&node.name.value) {
        let (whole, at) = (span(setting.opt.source, node.span), span(setting.opt.source, node.name.span));
        cx.report(source::found(whole, at, &node.name.value, known));
        return None;
    }
    Some((node.name.value.clone(), typed.value, typed.span))
}

fn phase(cx: &mut Cx, r: &mut Resolved, mut setting: Setting, known: &[String]) {
    let whole = span(setting.opt.source, setting.opt.node.span);
    let start = first_value(cx, &setting).and_then(|v| cx.real(&setting.opt, &v, &SHARE, (0.0, 1.0), "at"));
    if let Some(cmp) = &setting.opt.node.cmp
        && !cmp.value.is_strict()
    {
        let at = span(setting.opt.source, cmp.span);
        cx.report(kind::found(
            at,
            cmp.value.text(),
            "at",
            text("a share of the run such as `at 80% < zh 40% >`", "全程的比例，如 `at 80% < zh 40% >`"),
        ));
    }
    let mut inner = Options::inside(&mut setting, "at");
    let mut shares: Vec<(String, f64)> = Vec::new();
    for one in inner.all(cx) {
        if let Some((name, value, _)) = share(cx, &one, known) {
            shares.push((name, value));
        }
    }
    inner.finish(cx);
    let Some(start) = start else { return };
    let total: f64 = shares.iter().map(|(_, x)| x).sum();
    if total > 1.0 + 1e-9 {
        let v = diag::Value::Ratio;
        cx.report(range::found(whole, "the shares of this phase", v(total), v(0.0), v(1.0)));
        return;
    }
    r.data.phases.push(Phase { start: start.value, shares, span: whole });
}
