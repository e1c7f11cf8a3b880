//! What stands before the block of `mix`: how shares follow from sizes, a table, or measured losses.

use llmc_grammar::{Call, Value};

use super::Resolved;
use super::cx::{Cx, span};
use super::merge::{From, View};
use super::read::{REAL, SHARE, Typed};
use crate::check::syntax::valueless;
use crate::check::values::{kind, twice};
use crate::diag::{self, Span, text};
use crate::unit::{Dimension, Slot};

/// `dynamic(every=100 steps, rate=1, smoothing=5%, reference="losses.csv")`
#[derive(Clone, Debug)]
pub struct Dynamic {
    /// Steps from one change to the next.
    pub every: u64,
    /// Step size of a change.
    pub rate: f64,
    /// Part of the shares that is spread evenly.
    pub smoothing: f64,
    /// Table of the losses that sources are held against.
    pub reference: Option<Table>,
    /// Where the word stands.
    pub span: Span,
}

/// A file that has a number for each source.
#[derive(Clone, Debug)]
pub struct Table {
    /// Relative to the recipe.
    pub path: String,
    /// Where it is named.
    pub span: Span,
}

const STEPS: Slot = Slot { accepts: &[Dimension::Steps], bare: Some(Dimension::Steps), binary_k: false };
/// A change should see a few hundred samples of a small source, and a run a hundred changes (own choice).
const EVERY: u64 = 100;
/// η and c of DoReMi (Xie et al. 2023, arXiv 2305.10429, section 3) are 1 and 1e-3, there for an update every step.
const RATE: f64 = 1.0;
const SMOOTHING: f64 = 1e-3;

/// `mix temperature(0.7) importance("weights.csv") dynamic(every=100 steps)`
pub fn heads(cx: &mut Cx, r: &mut Resolved, view: &View) {
    let mut seen: Vec<(String, Span)> = Vec::new();
    for head in view.heads.clone() {
        let at = span(head.source, head.node.span());
        let Value::Call(call) = &head.node else {
            unknown(cx, &head);
            continue;
        };
        let name = call.name.value.clone();
        if !matches!(name.as_str(), "temperature" | "importance" | "dynamic") {
            unknown(cx, &head);
            continue;
        }
        if let Some((_, first)) = seen.iter().find(|(other, _)| *other == name) {
            cx.mark(at);
            let first = *first;
            cx.report(twice::found(&name, at, first));
            continue;
        }
        seen.push((name.clone(), at));
        match name.as_str() {
            "temperature" => temperature(cx, r, &head, call),
            "importance" => importance(cx, r, &head, call),
            _ => dynamic(cx, r, &head, call),
        }
    }
}

fn unknown(cx: &mut Cx, head: &From<Value>) {
    if matches!(head.node, Value::BadNumber(_)) {
        return; // reported where the token stands
    }
    let at = span(head.source, head.node.span());
    let words = cx.slice(at).to_owned();
    let wanted = "temperature(0.7), importance(\"weights.csv\") or dynamic(every=100 steps)";
    cx.report(kind::found(at, &words, "mix", diag::Value::Text(wanted.to_owned())));
}

fn empty(cx: &mut Cx, head: &From<Value>, call: &Call, instead: &'static str) {
    cx.report(valueless::found(span(head.source, call.span), &call.name.value, Some(instead)));
}

fn temperature(cx: &mut Cx, r: &mut Resolved, head: &From<Value>, call: &Call) {
    let arguments = cx.arguments(head, call, &["alpha"]);
    if arguments.is_empty() {
        empty(cx, head, call, "temperature(0.7)");
    }
    for (name, value) in arguments {
        if let Some(x) = cx.real(head, &value, &REAL, (0.0, 1.0), name) {
            r.put("mix.temperature", x.fact());
        }
    }
}

fn table(typed: &Typed<String>) -> Table {
    Table { path: typed.value.clone(), span: typed.span }
}

fn importance(cx: &mut Cx, r: &mut Resolved, head: &From<Value>, call: &Call) {
    let arguments = cx.arguments(head, call, &["table"]);
    if arguments.is_empty() {
        empty(cx, head, call, "importance(\"weights.csv\")");
    }
    for (name, value) in arguments {
        if let Some(path) = cx.string(head, &value, name) {
            r.data.importance = Some(table(&path));
            r.put("mix.importance", path.fact());
        }
    }
}

fn dynamic(cx: &mut Cx, r: &mut Resolved, head: &From<Value>, call: &Call) {
    let at = span(head.source, call.span);
    let mut asked = Dynamic { every: EVERY, rate: RATE, smoothing: SMOOTHING, reference: None, span: at };
    for (name, value) in cx.arguments(head, call, &["every", "rate", "smoothing", "reference"]) {
        match name {
            "every" => {
                if let Some(n) = cx.count(head, &value, &STEPS, (1, 1 << 32), name) {
                    asked.every = n.value;
                    r.put("mix.dynamic.every", n.fact());
                }
            }
            "rate" => {
                if let Some(x) = cx.real(head, &value, &REAL, (0.0, 100.0), name) {
                    asked.rate = x.value;
                    r.put("mix.dynamic.rate", x.fact());
                }
            }
            "smoothing" => {
                if let Some(x) = cx.real(head, &value, &SHARE, (0.0, 1.0), name) {
                    asked.smoothing = x.value;
                    r.put("mix.dynamic.smoothing", x.fact());
                }
            }
            _ => {
                if let Some(path) = cx.string(head, &value, name) {
                    asked.reference = Some(table(&path));
                    r.put("mix.dynamic.reference", path.fact());
                }
            }
        }
    }
    if r.data.sources.len() == 1 {
        let wanted = text("several sources in `data`", "`data` 中有多个数据源");
        cx.report(kind::found(at, "one source", "dynamic", wanted));
    }
    r.data.dynamic = Some(asked);
}
