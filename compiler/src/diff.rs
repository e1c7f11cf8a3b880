//! Two plans compared in consequences: GiB, tokens/s, days, money, loss; then the settings that differ.

use llmc_plan::plan::{Plan, Recipe};
use serde::Serialize;

use crate::diag::{Lang, money};
use crate::join;
use crate::unit::{figure, grouped, human_bytes, human_count, human_time};

/// One consequence or setting that differs.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Change {
    /// Path in the plan.
    pub path: String,
    /// In the first plan.
    pub before: serde_json::Value,
    /// In the second.
    pub after: serde_json::Value,
    /// For people.
    pub text: String,
}

/// Consequences first, settings after.
#[derive(Clone, Debug, Serialize, Default)]
pub struct Difference {
    /// What it means.
    pub consequences: Vec<Change>,
    /// What was decided differently.
    pub settings: Vec<Change>,
}

impl Difference {
    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        self.consequences.is_empty() && self.settings.is_empty()
    }

    /// As lines.
    pub fn lines(&self, lang: Lang) -> String {
        if self.is_empty() {
            return if lang == Lang::En { "no difference\n" } else { "没有差别\n" }.to_owned();
        }
        let all = self.consequences.iter().chain(&self.settings);
        all.map(|c| format!("{}\n", c.text)).collect()
    }
}

impl Difference {
    /// As a Markdown table.
    pub fn markdown(&self, lang: Lang) -> String {
        if self.is_empty() {
            return self.lines(lang);
        }
        let head = match lang {
            Lang::En => ["what", "before", "after"],
            Lang::Zh => ["项目", "之前", "之后"],
        };
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for change in self.consequences.iter().chain(&self.settings) {
            let (name, values) = change.text.split_once(": ").unwrap_or((&change.path, &change.text));
            let (before, after) = values.split_once(" → ").unwrap_or(("", values));
            rows.push([name, before, after].map(str::to_owned).to_vec());
        }
        crate::columns::markdown(&rows)
    }
}

/// Consequences in the order people ask for them: name in both languages, path, how to show it.
type Show = fn(f64, &str, Lang) -> String;
const CONSEQUENCES: &[(&str, &str, &str, Show)] = &[
    ("parameters", "参数", "model.params", |x, _, _| human_count(x)),
    ("tokens", "词元", "budget.tokens", |x, _, _| human_count(x)),
    ("devices", "设备", "layout.gpus", |x, _, _| grouped(x as u64)),
    ("memory", "显存", "memory.device_bytes", |x, _, _| human_bytes(x as u64)),
    ("step", "每步", "time.step_seconds", |x, _, lang| human_time(x, lang)),
    ("tokens/s", "词元/秒", "time.tokens_per_second", |x, _, _| grouped(x as u64)),
    ("MFU", "MFU", "time.mfu", |x, _, _| format!("{:.1}%", x * 100.0)),
    ("run", "全程", "time.train_seconds", |x, _, lang| human_time(x, lang)),
    ("cost", "费用", "cost.total", |x, currency, _| money(x, currency)),
    ("loss", "损失", "loss.predicted", |x, _, _| format!("{x:.3}")),
];

/// Sections whose leaves are decisions rather than consequences.
const SETTINGS: &[&str] = &[
    "model.",
    "batch.",
    "hardware.",
    "layout.",
    "optimizer.",
    "lr.",
    "precision",
    "determinism",
    "seed",
    "freeze",
    "from",
    "schedule.",
    "budget.",
];

/// Compares two plans.
pub fn diff(a: &Plan, b: &Plan, lang: Lang) -> Difference {
    let json = |p: &Plan| serde_json::to_value(p).unwrap_or_default();
    let (ja, jb) = (json(a), json(b));
    let mut out = Difference::default();
    for (en, zh, path, show) in CONSEQUENCES {
        let (va, vb) = (join::leaf(&ja, path), join::leaf(&jb, path));
        let (Some(x), Some(y)) =
            (va.and_then(serde_json::Value::as_f64), vb.and_then(serde_json::Value::as_f64))
        else {
            continue;
        };
        if x == y {
            continue;
        }
        let (before, after) = (show(x, &a.cost.currency, lang), show(y, &b.cost.currency, lang));
        if before == after {
            continue;
        }
        let name = if lang == Lang::En { en } else { zh };
        // Money in two currencies has no ratio.
        let comparable = *path != "cost.total" || a.cost.currency == b.cost.currency;
        let change =
            if x != 0.0 && comparable { format!(" ({:+.1}%)", (y / x - 1.0) * 100.0) } else { String::new() };
        let text = format!("{name}: {before} → {after}{change}");
        out.consequences.push(change_of(path, va, vb, text));
    }
    let after: std::collections::BTreeMap<String, serde_json::Value> =
        join::leaves(&jb).into_iter().collect();
    let before: std::collections::BTreeMap<String, serde_json::Value> =
        join::leaves(&ja).into_iter().collect();
    let mut paths: Vec<&String> = before.keys().chain(after.keys()).collect();
    paths.sort();
    paths.dedup();
    let differ = |path: &&&String| before.get(**path) != after.get(**path);
    let settings = paths.iter().filter(differ).filter(|path| SETTINGS.iter().any(|s| path.starts_with(s)));
    let settings: Vec<_> = settings.filter(|path| CONSEQUENCES.iter().all(|c| c.2 != **path)).collect();
    // Plans that differ in nothing of the above, but in figures too close to be told apart or shown nowhere else.
    let rest = paths.iter().filter(differ).filter(|path| !path.starts_with("recipe."));
    let shown = if out.is_empty() && settings.is_empty() { rest.collect() } else { settings };
    for path in shown {
        let (va, vb) = (before.get(*path), after.get(*path));
        let text = match (shown_value(va), shown_value(vb)) {
            (a, b) if a == b => format!("{path}: {} → {}", exact(va), exact(vb)),
            (a, b) => format!("{path}: {a} → {b}"),
        };
        out.settings.push(change_of(path, va, vb, text));
    }
    out
}

/// What a plan decides and predicts: comments of its recipe and reasons left out.
pub fn decisions(plan: &Plan) -> Plan {
    let recipe = Recipe { hash: String::new(), text: String::new(), ..plan.recipe.clone() };
    Plan { recipe, facts: Default::default(), ..plan.clone() }
}

fn change_of(
    path: &str,
    a: Option<&serde_json::Value>,
    b: Option<&serde_json::Value>,
    text: String,
) -> Change {
    Change {
        path: path.to_owned(),
        before: a.cloned().unwrap_or_default(),
        after: b.cloned().unwrap_or_default(),
        text,
    }
}

/// Every digit.
fn exact(v: Option<&serde_json::Value>) -> String {
    v.map_or_else(|| "–".to_owned(), ToString::to_string)
}

fn shown_value(v: Option<&serde_json::Value>) -> String {
    match v {
        None => "–".to_owned(),
        Some(serde_json::Value::String(s)) => s.clone(),
        Some(serde_json::Value::Number(n)) => figure(n),
        Some(v) => v.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Plan {
        crate::compile(text, &[], &crate::Nowhere).plan.unwrap()
    }

    #[test]
    fn a_longer_context_costs_time() {
        let a = plan("model llama 3b < ctx 4k > budget 60B tokens on 8xH100 batch 1_048_576 tokens");
        let b = plan("model llama 3b < ctx 8k > budget 60B tokens on 8xH100 batch 1_048_576 tokens");
        let d = diff(&a, &b, Lang::En);
        let run = d.consequences.iter().find(|c| c.path == "time.train_seconds").unwrap();
        assert!(run.after.as_f64() > run.before.as_f64(), "{}", run.text);
        assert!(d.settings.iter().any(|c| c.path == "model.context" && c.text.contains("4,096 → 8,192")));
        assert!(diff(&a, &a, Lang::En).is_empty());
        let table = d.markdown(Lang::Zh);
        assert!(table.starts_with("| 项目 | 之前 | 之后 |\n|---|"), "{table}");
        assert!(table.contains("| model.context | 4,096 | 8,192 |"), "{table}");
    }
}
