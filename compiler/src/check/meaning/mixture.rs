//! LLM0705: quotas, epoch limits and stages of the mixture that no shares meet.

use std::collections::BTreeMap;

use llmc_planner::data_mix::{Ask, Conflict, Constraint, Kind, Limit, Source, Stage, solve};

use super::shares;
use crate::diag::{Diagnostic, Page, Rule, Severity, Value, short_float, text};
use crate::resolve::Resolved;
use crate::unit::human_count;

/// The rule.
pub const RULE: Rule = Rule {
    code: "LLM0705",
    severity: Severity::Error,
    args: &["binding", "nearest", "longest", "tokens", "worth"],
    message: text("no shares meet the mixture: {binding}", "没有比例能满足该混合：{binding}"),
    labels: &[text("nearest that can be had: {nearest}", "最接近的可行比例：{nearest}")],
    help: &[
        text(
            "write {nearest}, train on at most {longest} tokens, or find more text: {worth}",
            "请写 {nearest}，或最多训练 {longest} 词元，或增加文本：{worth}",
        ),
        text(
            "write {nearest}, or train on at most {longest} tokens",
            "请写 {nearest}，或最多训练 {longest} 词元",
        ),
        text("write {nearest}", "请写 {nearest}"),
    ],
    page: Page {
        what: text(
            "Shares, bounds, epoch limits and later stages of the mixture leave no shares that meet all of them. The ones named clash: with any of them gone, the rest can be met. Epoch limits are counted once the corpus was built.",
            "混合的比例、界限、轮数上限与后续阶段无法同时满足。所列各项互相冲突：去掉其中任意一项，其余即可满足。轮数上限在语料构建后才会计算。",
        ),
        why: text(
            "Shares that nobody wrote, or text read more often than allowed, would be a silent change of what the model learns.",
            "擅自改变比例或超出允许的重复次数，会悄悄改变模型所学的内容。",
        ),
        example: "model llama 7b\ndata < a \"a/*\"  b \"b/*\" >\nmix < a <= 30%  b <= 60% >",
        instead: "model llama 7b\ndata < a \"a/*\"  b \"b/*\" >\nmix < a <= 40%  b <= 60% >",
    },
};

/// The mixture as the planner asks about it; `None` without sources.
pub fn ask(r: &Resolved) -> Option<Ask> {
    let sources: Vec<Source> = (r.data.sources.iter())
        .map(|s| Source {
            name: s.name.clone(),
            tokens: s.tokens.map(|n| n as f64),
            epochs: s.max_epochs,
            fixed: s.weight,
            least: s.min_share,
            most: s.max_share,
        })
        .collect();
    let place = |name: &str| sources.iter().position(|s| s.name == name);
    let mut stages: Vec<Stage> = (r.data.phases.iter())
        .map(|phase| Stage {
            start: phase.start,
            fixed: phase
                .shares
                .iter()
                .filter_map(|(name, x)| Some((place(name)?, *x)))
                .collect::<BTreeMap<_, _>>(),
        })
        .collect();
    stages.sort_by(|a, b| a.start.total_cmp(&b.start));
    let tokens = r.facts.count("budget.tokens").map(|n| n as f64);
    (!sources.is_empty()).then_some(Ask { sources, stages, tokens })
}

fn percent(x: f64) -> String {
    format!("{}%", short_float(libm::round(x * 1e5) / 1e3))
}

/// `code >= 10%`, `zh 40% from 80% on`, `code <= 4 epochs of 5.00B tokens`, in both languages.
pub(super) fn words(ask: &Ask, c: &Constraint) -> (String, String) {
    let Some(source) = ask.sources.get(c.source) else { return (String::new(), String::new()) };
    let from = |en: String| match c.stage.checked_sub(1).and_then(|k| ask.stages.get(k)) {
        Some(stage) => (
            format!("{en} from {} on", percent(stage.start)),
            format!("{en}（自 {} 起）", percent(stage.start)),
        ),
        None => (en.clone(), en),
    };
    let share = |x: Option<f64>| percent(x.unwrap_or(0.0));
    match c.kind {
        Kind::Least => from(format!("{} >= {}", source.name, share(source.least))),
        Kind::Most => from(format!("{} <= {}", source.name, share(source.most))),
        Kind::Fixed => from(format!("{} {}", source.name, share(ask.fixed(c.stage, c.source)))),
        Kind::Epochs => {
            let (epochs, tokens) = (source.epochs.unwrap_or(1.0), human_count(source.tokens.unwrap_or(0.0)));
            let epochs = short_float(epochs);
            (
                format!("{} <= {epochs} epochs of {tokens} tokens", source.name),
                format!("{} 的 {tokens} 词元最多 {epochs} 轮", source.name),
            )
        }
    }
}

/// `a 40%, b 60%; from 80% on a 60%, b 40%`
fn nearest(ask: &Ask, conflict: &Conflict) -> (String, String) {
    let mut out = (String::new(), String::new());
    for (k, row) in conflict.nearest.iter().enumerate() {
        let parts: Vec<String> =
            ask.sources.iter().zip(row).map(|(s, x)| format!("{} {}", s.name, percent(*x))).collect();
        let (en, zh) = (parts.join(", "), parts.join("、"));
        match k.checked_sub(1).and_then(|k| ask.stages.get(k)) {
            Some(stage) => {
                out.0 += &format!("; from {} on {en}", percent(stage.start));
                out.1 += &format!("；自 {} 起 {zh}", percent(stage.start));
            }
            None => out = (en, zh),
        }
    }
    out
}

/// The nearest shares that can be had, where those asked for cannot.
pub fn nearest_of(r: &Resolved) -> Option<(String, String)> {
    let ask = ask(r)?;
    let conflict = solve(&ask).err().filter(|conflict| !conflict.nearest.is_empty())?;
    Some(nearest(&ask, &conflict))
}

/// What a token more of each source that binds is worth: the dual price of its epoch limit.
pub(super) fn prices(ask: &Ask, limit: &Limit) -> Vec<(String, String)> {
    let price = |(source, gain): (&usize, &f64)| {
        let (name, gain) = (&ask.sources.get(*source)?.name, short_float(libm::round(gain * 1e3) / 1e3));
        Some((
            format!("each token more of {name} allows {gain} more"),
            format!("{name} 每多 1 词元可多训练 {gain} 词元"),
        ))
    };
    limit.worth.iter().filter_map(price).collect()
}

/// Checks it. Shares above the whole are `shares`' own finding.
pub fn check(r: &Resolved, out: &mut Vec<Diagnostic>) {
    if out.iter().any(|d| d.code == shares::RULE.code) {
        return;
    }
    let Some(ask) = ask(r) else { return };
    let Err(conflict) = solve(&ask) else { return };
    let parts: Vec<(String, String)> = conflict.binding.iter().map(|c| words(&ask, c)).collect();
    let of_run = |x: f64| (format!("{} tokens", human_count(x)), format!("共 {} 词元", human_count(x)));
    let epochs = conflict.binding.iter().any(|c| c.kind == Kind::Epochs);
    let all: Vec<(String, String)> =
        parts.into_iter().chain(ask.tokens.filter(|_| epochs).map(of_run)).collect();
    let (en, zh): (Vec<String>, Vec<String>) = all.into_iter().unzip();
    let near = nearest(&ask, &conflict);
    let mut d = Diagnostic::new(&RULE)
        .at_maybe(r.data.mix_span.or(r.data.span))
        .arg("binding", Value::Both(en.join(" and "), zh.join("，且 ")))
        .arg("nearest", Value::Both(near.0, near.1));
    if let Some(limit) = conflict.limit.filter(|l| l.tokens >= 1.0) {
        d = d.arg("longest", Value::Large(limit.tokens));
        let (en, zh): (Vec<String>, Vec<String>) = prices(&ask, &limit).into_iter().unzip();
        if !en.is_empty() {
            d = d.arg("worth", Value::Both(en.join(", "), zh.join("，")));
        }
    }
    if let Some(tokens) = ask.tokens {
        d = d.arg("tokens", Value::Large(tokens));
    }
    if epochs {
        // The corpus may be built anew before the run; the data tool then decides.
        d.severity = Severity::Warning;
    }
    out.push(d);
}
