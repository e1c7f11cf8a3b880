//! `why PATH`: from any value of a plan down to recipe text, rule and paper.

use serde::Serialize;

use crate::chinese;
use crate::compile::{Compiled, compile};
use crate::derive;
use crate::diag::{Lang, Source, money, nearest};
use crate::join;
use crate::ledger::Why;
use crate::unit::figure;
use crate::world::World;

/// One value with its reason and what that reason read.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    /// JSON path.
    pub path: String,
    /// Value there; null when the path is a group such as `layout`.
    pub value: serde_json::Value,
    /// The reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
    /// What the rule says, for rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doc: Option<&'static str>,
    /// Where the rule is from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cite: Option<String>,
    /// Words of the recipe or of a `--set`, with line and column.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What it depends on.
    pub reads: Vec<Node>,
    /// What would change it, of the neighbouring recipes that were planned.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// What other laws say of the value, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub laws: Vec<(String, f64)>,
}

/// A neighbouring recipe in which the value is another.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// The override that makes the neighbour, `on=128xH100`.
    pub set: String,
    /// The value there.
    pub value: serde_json::Value,
}

/// Plans neighbours of the recipe (twice and half the devices, tokens, batch, context; for money twice the prices) and keeps those that change the
/// value of the node. Neighbours without a plan are left out.
pub fn explore(root: &mut Node, c: &Compiled, recipe: &str, sets: &[String], world: &dyn World) {
    let Some(p) = &c.plan else { return };
    let sku = &p.hardware.name;
    let (gpus, per_node) = (p.layout.gpus, (p.layout.gpus / p.layout.nodes.max(1)).max(1));
    let cluster = |gpus: u64| {
        if gpus <= per_node {
            format!("on={gpus}x{sku}")
        } else {
            format!("on={}x{per_node}x{sku}", gpus / per_node)
        }
    };
    // Prices only where money is asked about.
    let priced = root.path.starts_with("cost.").then(|| {
        let price = |x: f64| money(x, &p.cost.currency);
        [
            format!("price.gpu={}/h", price(p.cost.gpu_per_hour * 2.0)),
            format!("price.electricity={}/kWh", price(p.cost.electricity_per_kwh * 2.0)),
        ]
    });
    let neighbours = [
        cluster(gpus.saturating_mul(2)),
        cluster((gpus / 2).max(1)),
        format!("budget={} tokens", p.budget.tokens.saturating_mul(2)),
        format!("budget={} tokens", p.budget.tokens / 2),
        format!("batch={} tokens", p.batch.global_tokens.saturating_mul(2)),
        format!("model.ctx={}", p.model.context.saturating_mul(2)),
        format!("model.ctx={}", p.model.context / 2),
    ];
    for set in neighbours.into_iter().chain(priced.into_iter().flatten()) {
        let mut with = sets.to_vec();
        with.push(set.clone());
        let Some(other) = compile(recipe, &with, world).plan else { continue };
        let json = serde_json::to_value(&other).unwrap_or_default();
        if let Some(value) =
            join::leaf(&json, &root.path).filter(|v| **v != root.value && !v.is_object() && !v.is_array())
        {
            root.changes.push(Change { set, value: value.clone() });
        }
    }
}

/// How deep the tree is drawn: below this everything repeats.
const DEPTH: usize = 6;

/// Names of the recipe that the plan has under other ones: what is typed may be asked for.
const IN_PLAN: &[(&str, &str)] = &[
    ("model.ctx", "model.context"),
    ("on", "layout.gpus"),
    ("lr.warmup", "lr.warmup_steps"),
    ("lr.rewarm", "lr.warmup_steps"),
    ("optimizer.betas", "optimizer.beta2"),
    ("optimizer.wd", "optimizer.weight_decay"),
    ("layout.zero", "layout.zero_stage"),
    ("layout.micro", "batch.micro_batch_sequences"),
    ("checkpoint", "schedule.checkpoint_every_steps"),
    ("checkpoint.every", "schedule.checkpoint_every_steps"),
    ("checkpoint.keep", "schedule.checkpoint_keep"),
    ("checkpoint.zstd", "schedule.checkpoint_zstd"),
    ("eval", "schedule.eval_every_steps"),
    ("eval.every", "schedule.eval_every_steps"),
    ("price", "cost"),
    ("price.gpu", "cost.gpu_per_hour"),
    ("price.power", "cost.power_kw"),
    ("price.pue", "cost.pue"),
    ("price.electricity", "cost.electricity_per_kwh"),
];

/// The derivation of a path. `Err` names the nearest path there is, if any.
///
/// # Errors
/// The path is in neither the plan nor the recipe.
pub fn why(c: &Compiled, path: &str) -> Result<Node, Option<String>> {
    let json = c.plan.as_ref().map(|p| serde_json::to_value(p).unwrap_or_default()).unwrap_or_default();
    let known = |p: &str| c.ledger.contains_key(p) || join::leaf(&json, p).is_some() || c.facts.has(p);
    let in_plan = IN_PLAN.iter().find(|(recipe, _)| *recipe == path).map(|(_, plan)| *plan);
    let path = in_plan.filter(|_| !known(path)).unwrap_or(path);
    if !known(path) {
        let leaves = join::leaves(&json);
        let all = c.ledger.keys().map(String::as_str).chain(leaves.iter().map(|(p, _)| p.as_str()));
        let tail = |p: &&str| p.rsplit('.').next() == Some(path);
        let same_name = all.clone().find(tail).map(str::to_owned);
        return Err(same_name.or_else(|| nearest(path, all).map(str::to_owned)));
    }
    let mut seen = Vec::new();
    let mut root = node(c, &json, path, DEPTH, &mut seen);
    let laws = c.plan.iter().flat_map(|p| &p.search.laws).filter(|law| law.path == path);
    root.laws = laws.map(|law| (law.law.clone(), law.value)).collect();
    Ok(root)
}

fn node(c: &Compiled, json: &serde_json::Value, path: &str, depth: usize, seen: &mut Vec<String>) -> Node {
    let value = match join::leaf(json, path) {
        Some(v) if v.is_object() || v.is_array() => serde_json::Value::Null,
        Some(v) => v.clone(),
        None => c.facts.get(path).and_then(|f| serde_json::to_value(f).ok()).unwrap_or_default(),
    };
    let why = c.ledger.get(path).cloned().or_else(|| group_reason(c, path));
    let mut out = Node {
        path: path.to_owned(),
        value,
        why,
        doc: None,
        cite: None,
        text: None,
        reads: Vec::new(),
        changes: Vec::new(),
        laws: Vec::new(),
    };
    let reads: &[&str] = match &out.why {
        Some(Why::Typed { span, .. } | Why::Set { span, .. }) => {
            let (line, column) = c.sources.position(*span);
            let place = match span.source {
                Source::Recipe => format!("{line}:{column}"),
                Source::Set(n) => format!("--set #{n}"),
            };
            out.text = Some(format!("{place} `{}`", c.sources.slice(*span)));
            &[]
        }
        Some(Why::Preset { cite, .. }) => {
            out.cite = Some(cite.clone());
            &[]
        }
        Some(Why::Rule { id } | Why::Search { id }) => {
            if let Some(rule) = derive::find(id) {
                (out.doc, out.cite) = (Some(rule.doc), Some(rule.cite.to_owned()));
                rule.reads
            } else if let Some(rule) = llmc_planner::rules::find(id) {
                (out.doc, out.cite) = (Some(rule.doc), Some(rule.cite.to_owned()));
                rule.reads
            } else {
                &[]
            }
        }
        None => &[],
    };
    // Every value is explained once; later mentions only name it.
    if depth == 0 || seen.iter().any(|p| p == path) {
        return out;
    }
    seen.push(path.to_owned());
    for read in reads {
        // The name stands for the record of the device.
        let read = if *read == "hardware" { "hardware.name" } else { read };
        let there = c.ledger.contains_key(read) || c.facts.has(read) || join::leaf(json, read).is_some();
        // What one rule decides together is no reason of each other: such a value was read as a pin that might have been.
        let together = matches!(&out.why, Some(Why::Rule { .. })) && c.ledger.get(read) == out.why.as_ref();
        if there && read != path && !together {
            out.reads.push(node(c, json, read, depth - 1, seen));
        }
    }
    out
}

/// A group such as `layout` has the reason that most of its leaves have.
fn group_reason(c: &Compiled, path: &str) -> Option<Why> {
    let prefix = format!("{path}.");
    let mut rules: Vec<&Why> =
        c.ledger.iter().filter(|(p, _)| p.starts_with(&prefix)).map(|(_, w)| w).collect();
    rules.retain(|w| matches!(w, Why::Rule { .. } | Why::Search { .. }));
    let count = |w: &Why| rules.iter().filter(|o| **o == w).count();
    rules.iter().max_by_key(|w| count(w)).map(|w| (*w).clone())
}

/// The tree as indented lines.
pub fn lines(root: &Node, lang: Lang) -> String {
    let mut out = String::new();
    draw(root, 0, lang, &mut Vec::new(), &mut out);
    if !root.laws.is_empty() {
        let said = root.laws.iter().map(|(law, value)| format!("{law}{}", shown(&(*value).into())));
        let head = lang.say("the laws spread: ", "各定律：");
        out.push_str(&format!("{head}{}\n", said.collect::<Vec<_>>().join(", ")));
    }
    if !root.changes.is_empty() {
        out.push_str(if lang == Lang::En { "changes with\n" } else { "随以下改动而变\n" });
    }
    for change in &root.changes {
        out.push_str(&format!("  --set \"{}\"{}\n", change.set, shown(&change.value)));
    }
    out
}

fn shown(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(s) if s.chars().count() > 60 => " = …".to_owned(),
        serde_json::Value::String(s) => format!(" = {s}"),
        serde_json::Value::Number(x) => format!(" = {}", figure(x)),
        v => format!(" = {v}"),
    }
}

fn draw<'a>(n: &'a Node, depth: usize, lang: Lang, cited: &mut Vec<&'a str>, out: &mut String) {
    let indent = "  ".repeat(depth);
    let value = shown(&n.value);
    let (typed, set, preset, rule, search) = match lang {
        Lang::En => ("typed at", "given by", "preset", "rule", "found by the search"),
        Lang::Zh => ("写于", "由", "预设", "规则", "由搜索得出"),
    };
    let reason = match &n.why {
        Some(Why::Typed { overrides, .. }) => {
            let over = overrides.as_ref().map_or(String::new(), |was| match (lang, was.split_once(" of ")) {
                (Lang::Zh, Some((value, table))) => format!("，原为 {table} 的 {value}"),
                (Lang::Zh, None) => format!("，原为 {was}"),
                (Lang::En, _) => format!(", instead of {was}"),
            });
            format!("{typed} {}{over}", n.text.as_deref().unwrap_or(""))
        }
        Some(Why::Set { .. }) => format!("{set} {}", n.text.as_deref().unwrap_or("")),
        Some(Why::Preset { table, row, .. }) => format!("{preset} {table}/{row}"),
        Some(Why::Rule { id }) => format!("{rule} {id}"),
        Some(Why::Search { .. }) => search.to_owned(),
        None => String::new(),
    };
    let arrow = if reason.is_empty() { "" } else { "  ← " };
    out.push_str(format!("{indent}{}{value}{arrow}{reason}", n.path).trim_end());
    out.push('\n');
    let chinese = match &n.why {
        Some(Why::Rule { id } | Why::Search { id }) if lang == Lang::Zh => chinese::rule(id),
        _ => None,
    };
    if let Some(doc) = chinese.or(n.doc) {
        out.push_str(&format!("{indent}    {doc}\n"));
    }
    // A source is named once: all of a preset's rows have the same.
    if let Some(cite) = n.cite.as_deref().filter(|cite| !cited.contains(cite)) {
        cited.push(cite);
        out.push_str(&format!("{indent}    [{cite}]\n"));
    }
    for read in &n.reads {
        draw(read, depth + 1, lang, cited, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_traced_to_its_prices() {
        const RECIPE: &str = "model llama 7b < ctx 8k > budget 1T tokens on 64xH100 price < gpu ¥18/h >";
        let c = compile(RECIPE, &[], &crate::Nowhere);
        let mut root = why(&c, "cost.total").unwrap();
        explore(&mut root, &c, RECIPE, &[], &crate::Nowhere);
        let price = root.reads.iter().find(|n| n.path == "cost.gpu_per_hour").unwrap();
        assert!(price.text.as_deref().is_some_and(|text| text.contains("¥18/h")), "{price:?}");
        assert!(root.changes.iter().any(|c| c.set == "price.gpu=¥36.00/h"), "{:?}", root.changes);
        assert!(root.changes.iter().any(|c| c.set.starts_with("price.electricity=")), "{:?}", root.changes);
    }

    #[test]
    fn failures_and_restarts_are_what_the_recipe_says() {
        let of = |price: &str| {
            let recipe = format!("model llama 7b < ctx 8k > budget 1T tokens on 64xH100 {price}");
            compile(&recipe, &[], &crate::Nowhere)
        };
        let (plain, given) = (of(""), of("price < mtbf 6400 h  restart 1 h >"));
        let time = |c: &Compiled| c.plan.as_ref().unwrap().time.clone();
        assert!(time(&given).goodput < time(&plain).goodput);
        // 64 devices: one failure in 100 hours.
        let p = given.plan.as_ref().unwrap();
        let expected = p.time.train_seconds / 360_000.0;
        assert!((p.cost.failures / expected - 1.0).abs() < 1e-6, "{}", p.cost.failures);
        let root = why(&given, "time.goodput").unwrap();
        let typed = root.reads.iter().find(|n| n.path == "ask.mtbf_seconds").and_then(|n| n.text.clone());
        assert!(typed.is_some_and(|text| text.contains("6400 h")), "{root:?}");
    }

    #[test]
    fn what_one_rule_decides_is_no_reason_of_each_other() {
        let recipe = |shape: &str| format!("model llama 11b < ctx 8k {shape} > budget 1T tokens on 64xH100");
        let reads = |recipe: &str| -> Vec<String> {
            let c = compile(recipe, &[], &crate::Nowhere);
            why(&c, "model.layers").unwrap().reads.into_iter().map(|n| n.path).collect()
        };
        assert_eq!(reads(&recipe("")), ["model.asked_params", "model.vocab", "model.tied"]);
        // What is pinned decides the rest.
        assert!(reads(&recipe("hidden 4096")).contains(&"model.hidden".to_owned()));
    }

    #[test]
    fn what_a_recipe_names_has_a_reason() {
        let c = compile("model llama 7b < ctx 8k > budget 1T tokens on 64xH100", &[], &crate::Nowhere);
        for (recipe, plan) in IN_PLAN {
            let node = why(&c, recipe).unwrap();
            assert_eq!((node.path.as_str(), node.why.is_some()), (*plan, true), "{recipe}");
        }
        assert_eq!(why(&c, "lr.peek").err(), Some(Some("lr.peak".to_owned())));
        assert_eq!(why(&c, "data.web").err(), Some(None));
    }
}
