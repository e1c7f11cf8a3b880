//! Plan and reasons joined: every leaf of the plan gets its [`Why`].

use llmc_plan::plan::Plan;
use llmc_planner::Answer;
use serde_json::Value;

use crate::ledger::{Facts, Ledger, Why};

/// The value at a dotted path (`memory.stages.0.parameters`).
pub fn leaf<'a>(json: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(json, |at, key| match at {
        Value::Object(map) => map.get(key),
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Every leaf with its dotted path, in document order; empty lists and maps are leaves too. `facts` is left out: it is
/// made from the others.
pub fn leaves(json: &Value) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    let mut work: Vec<(String, &Value)> = vec![(String::new(), json)];
    while let Some((path, value)) = work.pop() {
        let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        match value {
            Value::Object(map) if !map.is_empty() => {
                work.extend(map.iter().filter(|(k, _)| *k != "facts").rev().map(|(k, v)| (below(k), v)));
            }
            Value::Array(items) if !items.is_empty() => {
                work.extend(items.iter().enumerate().rev().map(|(i, v)| (below(&i.to_string()), v)));
            }
            _ => out.push((path, value.clone())),
        }
    }
    out
}

/// Where a plan's path takes its reason from when the recipe says it under another name.
const ASKED: &[(&str, &[&str])] = &[
    ("lr.warmup_steps", &["lr.warmup_steps", "lr.warmup_tokens", "lr.warmup_fraction", "lr.warmup_seconds"]),
    (
        "schedule.checkpoint_every_steps",
        &[
            "schedule.checkpoint_every_steps",
            "schedule.checkpoint_every_tokens",
            "schedule.checkpoint_every_fraction",
            "schedule.checkpoint_every_seconds",
        ],
    ),
    (
        "schedule.eval_every_steps",
        &[
            "schedule.eval_every_steps",
            "schedule.eval_every_tokens",
            "schedule.eval_every_fraction",
            "schedule.eval_every_seconds",
        ],
    ),
    ("layout.nodes", &["on.nodes"]),
    ("layout.gpus", &["on.nodes"]),
    ("hardware.name", &["hardware.name"]),
];

/// The reason of every leaf but `search.*`.
pub fn ledger(plan: &Plan, facts: &Facts, answer: &Answer) -> Ledger {
    let json = serde_json::to_value(plan).unwrap_or_default();
    let mut out = Ledger::new();
    // Paths of the recipe that the plan does not repeat keep their reasons.
    out.extend(facts.iter().map(|(path, _, why)| (path.to_owned(), why.clone())));
    for (path, value) in leaves(&json) {
        if path.starts_with("search.") {
            continue;
        }
        if let Some(why) = reason(&path, &value, facts, answer) {
            out.insert(path, why);
        }
    }
    out
}

fn reason(path: &str, value: &Value, facts: &Facts, answer: &Answer) -> Option<Why> {
    if path == "batch.global_tokens" && facts.count("batch.asked_tokens") == value.as_u64() {
        return facts.why("batch.asked_tokens").cloned();
    }
    if let Some((_, asked)) = ASKED.iter().find(|(p, _)| *p == path)
        && let Some(why) = asked.iter().find_map(|p| facts.why(p))
    {
        return Some(why.clone());
    }
    // What was typed, set or derived before the search stays as it is in the plan.
    if let Some(why) = facts.why(path) {
        return Some(why.clone());
    }
    match path {
        "format_version" => return Some(Why::Rule { id: "plan.format" }),
        "recipe.hash" | "recipe.text" => return Some(Why::Rule { id: "recipe.text" }),
        "freeze" => return Some(Why::Rule { id: "freeze.nothing" }),
        _ => {}
    }
    if path.starts_with("hardware.") {
        let name = facts.word("hardware.name")?.to_owned();
        let cite = answer_source(path, facts);
        return Some(Why::Preset { table: "hardware".to_owned(), row: name, cite });
    }
    planner(path, answer)
}

fn answer_source(path: &str, facts: &Facts) -> String {
    let preset = facts.word("hardware.name").and_then(llmc_planner::hardware::preset);
    let key = if path == "hardware.memory_bytes" { "memory" } else { "peak_bf16" };
    preset.and_then(|h| h.sources.get(key).cloned()).unwrap_or_else(|| "hardware file".to_owned())
}

/// The planner's own reason: the most specific path it names, else the rule that declares to write it.
fn planner(path: &str, answer: &Answer) -> Option<Why> {
    let covers =
        |prefix: &str| path == prefix || path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
    let named = (answer.why.iter()).filter(|r| covers(&r.path)).max_by_key(|r| r.path.len()).map(|r| r.rule);
    let declared = || {
        (llmc_planner::rules::RULES.iter())
            .flat_map(|r| r.writes.iter().map(move |w| (r.id, *w)))
            .filter(|(_, w)| covers(w))
            .max_by_key(|(_, w)| w.len())
            .map(|(id, _)| id)
    };
    let id = named.or_else(declared)?;
    Some(if id == "search" { Why::Search { id } } else { Why::Rule { id } })
}
