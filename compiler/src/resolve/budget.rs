//! `from budget on price expect`: what is spent, on what, from where, and within which bounds.

use llmc_grammar::{Keyword, Value};
use llmc_planner::hardware;

use super::cx::{Cx, span};
use super::mix::Table;
use super::read::{Options, SHARE, Typed, only_head};
use super::training::MAX_TOKENS;
use super::{Expectation, METRICS, Resolved};
use crate::check::meaning::cluster;
use crate::check::names::{choice, hardware as unknown_hardware};
use crate::check::syntax::valueless;
use crate::check::values::{currency, kind, range, twice, whole};
use crate::diag::{self, text};
use crate::ledger::Fact;
use crate::unit::{Dimension, Measure, Slot};
use crate::world::World;

/// Ceiling of the language (design section 3).
pub const MAX_GPUS: u64 = 1 << 20;

const BUDGET: Slot = Slot {
    accepts: &[Dimension::Tokens, Dimension::Time, Dimension::Money, Dimension::Flops],
    bare: None,
    binary_k: false,
};

/// `from "models/base"`
pub fn from(cx: &mut Cx, r: &mut Resolved) {
    let Some(mut view) = cx.view(Keyword::From) else { return };
    if let Some(head) = only_head(cx, &view, "from \"models/base\"")
        && let Some(path) = cx.string(&head, &head.node, "from")
    {
        r.put("from", path.fact());
    }
    Options::of(&mut view).finish(cx);
}

/// `budget 1T tokens`, `budget 21 days ¥3M`
pub fn budget(cx: &mut Cx, r: &mut Resolved) {
    let Some(mut view) = cx.view(Keyword::Budget) else { return };
    if view.heads.is_empty() {
        cx.report(valueless::found(view.at, "budget", Some("budget 1T tokens")));
    }
    for head in &view.heads {
        let Some(m) = cx.measure(head, &head.node, &BUDGET, "budget") else { continue };
        let path = match m.value.dimension {
            Dimension::Tokens => "budget.tokens",
            Dimension::Time => "budget.asked_seconds",
            Dimension::Money => "budget.asked_money",
            _ => "budget.asked_flops",
        };
        if let Some(first) = r.facts.span(path) {
            cx.report(twice::found("budget", m.span, first));
            continue;
        }
        if path == "budget.tokens" {
            tokens(cx, r, m);
            continue;
        }
        if !one_currency(cx, r, &m) {
            continue;
        }
        let x = m.value.to_f64();
        // 10^13 parameters × 10^16 tokens × 6 bounds FLOPs; the others stay far below.
        if x > 0.0 && x <= 6e29 {
            r.facts.put(path, Fact::Real(x), m.why);
        } else {
            let v = diag::Value::Large;
            cx.report(range::found(m.span, "budget", v(x), v(0.0), v(6e29)));
        }
    }
    Options::of(&mut view).finish(cx);
}

fn tokens(cx: &mut Cx, r: &mut Resolved, m: Typed<Measure>) {
    let words = cx.slice(m.span).to_owned();
    match m.value.number.count() {
        Some(n) if (1..=MAX_TOKENS).contains(&n) => r.facts.put("budget.tokens", Fact::Count(n), m.why),
        Some(n) => {
            let v = |n: u64| diag::Value::Large(n as f64);
            cx.report(range::found(m.span, "budget", v(n), v(1), v(MAX_TOKENS)));
        }
        None if m.value.to_f64() > MAX_TOKENS as f64 => {
            let v = diag::Value::Large;
            cx.report(range::found(m.span, "budget", v(m.value.to_f64()), v(1.0), v(MAX_TOKENS as f64)));
        }
        None => cx.report(whole::found(m.span, &words, "budget")),
    }
}

/// Remembers the first currency; another one later is an error. True when the sum may be used.
fn one_currency(cx: &mut Cx, r: &mut Resolved, m: &Typed<Measure>) -> bool {
    let Some(found) = m.value.currency else { return true };
    match r.currency {
        Some((first, at)) if first != found => {
            cx.report(currency::found(m.span, found.iso(), at, first.iso()));
            false
        }
        Some(_) => true,
        None => {
            r.currency = Some((found, m.span));
            r.facts.put("cost.currency", Fact::Word(found.iso().to_owned()), m.why.clone());
            true
        }
    }
}

/// `on 64xH100`, `on 8x8xH100`, `on H100`
pub fn on(cx: &mut Cx, r: &mut Resolved, world: &dyn World) {
    let Some(mut view) = cx.view(Keyword::On) else { return };
    if let Some(head) = only_head(cx, &view, "on 64xH100") {
        let whole_at = span(head.source, head.node.span());
        match &head.node {
            Value::Cluster(c) => {
                let counts: Vec<Option<u64>> = c.counts.iter().map(|n| n.value.parse().ok()).collect();
                let total = counts.iter().try_fold(1u64, |all, n| n.and_then(|n| all.checked_mul(n)));
                match (total, counts.as_slice()) {
                    (Some(n), _) if !(1..=MAX_GPUS).contains(&n) => out_of_range(cx, whole_at),
                    (Some(n), [_]) if n > 8 && !n.is_multiple_of(8) => {
                        cx.report(cluster::found(whole_at, n, &c.sku.value))
                    }
                    (Some(n), [_]) => {
                        let per_node = n.min(8);
                        r.facts.put("on.nodes", Fact::Count(n / per_node), head.why(c.span));
                        r.facts.put("on.gpus_per_node", Fact::Count(per_node), head.why(c.span));
                        cx.mark(whole_at);
                    }
                    (Some(_), [Some(nodes), Some(per_node)]) => {
                        r.facts.put("on.nodes", Fact::Count(*nodes), head.why(c.span));
                        r.facts.put("on.gpus_per_node", Fact::Count(*per_node), head.why(c.span));
                        cx.mark(whole_at);
                    }
                    _ => out_of_range(cx, whole_at),
                }
                device(cx, r, world, &c.sku.value, span(head.source, c.sku.span), &head, c.sku.span);
            }
            Value::Word(word) => {
                cx.mark(whole_at);
                device(cx, r, world, &word.value, whole_at, &head, word.span);
            }
            Value::BadNumber(_) => {}
            _ => {
                let words = cx.slice(whole_at).to_owned();
                cx.report(kind::found(
                    whole_at,
                    &words,
                    "on",
                    text("devices such as `64xH100`", "设备，如 `64xH100`"),
                ));
            }
        }
    }
    let mut options = Options::of(&mut view);
    if let Some(path) = options.string(cx, "mount") {
        r.mount_file = Some(Table { path: path.value.clone(), span: path.span });
        r.put("on.mount", path.fact());
    }
    if let Some(path) = options.string(cx, "profile") {
        r.profile_file = Some(Table { path: path.value.clone(), span: path.span });
        r.put("on.profile", path.fact());
    }
    options.finish(cx);
}

fn out_of_range(cx: &mut Cx, at: diag::Span) {
    let v = diag::Value::Count;
    let words = cx.slice(at).to_owned();
    cx.report(range::found(at, "on", diag::Value::Text(diag::shorten(&words)), v(1), v(MAX_GPUS)));
}

fn device(
    cx: &mut Cx,
    r: &mut Resolved,
    world: &dyn World,
    name: &str,
    at: diag::Span,
    head: &super::merge::From<Value>,
    typed_at: llmc_grammar::Span,
) {
    let own = world.hardware().iter().find(|h| h.name.eq_ignore_ascii_case(name)).cloned();
    match own.or_else(|| hardware::preset(name)) {
        Some(found) => {
            r.facts.put("hardware.name", Fact::Word(found.name.clone()), head.why(typed_at));
            r.hardware = Some(found);
        }
        None => {
            let known: Vec<String> = (world.hardware().iter().map(|h| h.name.clone()))
                .chain(hardware::names().map(str::to_owned))
                .collect();
            cx.report(unknown_hardware::found(at, name, &known));
        }
    }
}

/// `price < gpu ¥18/h  power 0.7 kW  pue 1.3  electricity ¥0.8/kWh  other ¥120/h >`; `storage network spares`, and
/// `buy life usage upkeep` of owning, `mtbf restart` of failures.
pub fn price(cx: &mut Cx, r: &mut Resolved) {
    const PER_HOUR: Slot = Slot { accepts: &[Dimension::MoneyPerHour], bare: None, binary_k: false };
    const PER_KWH: Slot = Slot { accepts: &[Dimension::MoneyPerKwh], bare: None, binary_k: false };
    const POWER: Slot = Slot { accepts: &[Dimension::Power], bare: None, binary_k: false };
    const PUE: Slot = Slot {
        accepts: &[Dimension::Count, Dimension::Multiplier],
        bare: Some(Dimension::Count),
        binary_k: false,
    };
    const SUM: Slot = Slot { accepts: &[Dimension::Money], bare: None, binary_k: false };
    const SPAN: Slot = Slot { accepts: &[Dimension::Time], bare: None, binary_k: false };
    let Some(mut view) = cx.view(Keyword::Price) else { return };
    if view.options.is_empty() {
        cx.report(valueless::found(view.at, "price", Some("price < gpu ¥18/h >")));
    }
    let mut options = Options::of(&mut view);
    for (name, path, slot, bounds) in [
        ("gpu", "cost.gpu_per_hour", &PER_HOUR, (0.0, 1e6)),
        ("power", "cost.power_kw", &POWER, (0.0, 1e3)),
        ("pue", "cost.pue", &PUE, (1.0, 10.0)),
        ("electricity", "cost.electricity_per_kwh", &PER_KWH, (0.0, 1e4)),
        ("other", "cost.other_hour", &PER_HOUR, (0.0, 1e9)),
        ("storage", "cost.storage_hour", &PER_HOUR, (0.0, 1e9)),
        ("network", "cost.network_hour", &PER_HOUR, (0.0, 1e9)),
        ("spares", "cost.spare_share", &SHARE, (0.0, 1.0)),
        ("buy", "cost.buy", &SUM, (0.0, 1e9)),
        ("life", "cost.life_seconds", &SPAN, (86_400.0, 1e10)),
        ("usage", "cost.usage", &SHARE, (0.01, 1.0)),
        ("upkeep", "cost.upkeep", &SHARE, (0.0, 1.0)),
        ("mtbf", "ask.mtbf_seconds", &SPAN, (3600.0, 1e13)),
        ("restart", "ask.restart_seconds", &SPAN, (0.0, 1e6)),
    ] {
        let Some(m) = options.measure(cx, name, slot) else { continue };
        if !one_currency(cx, r, &m) {
            continue;
        }
        let x = m.value.to_f64();
        if (bounds.0..=bounds.1).contains(&x) {
            r.facts.put(path, Fact::Real(x), m.why);
        } else {
            let v = diag::Value::Float;
            cx.report(range::found(m.span, name, v(x), v(bounds.0), v(bounds.1)));
        }
    }
    options.finish(cx);
}

/// `expect memory <= 76 GiB  time <= 21 days`
pub fn expect(cx: &mut Cx, r: &mut Resolved) {
    let Some(mut view) = cx.view(Keyword::Expect) else { return };
    if view.heads.is_empty() {
        cx.report(valueless::found(view.at, "expect", Some("expect memory <= 76 GiB")));
    }
    for head in &view.heads {
        let at = span(head.source, head.node.span());
        let Value::Compare(compare) = &head.node else {
            if !matches!(head.node, Value::BadNumber(_)) {
                let words = cx.slice(at).to_owned();
                cx.report(kind::found(
                    at,
                    &words,
                    "expect",
                    text("a bound such as `memory <= 76 GiB`", "界限，如 `memory <= 76 GiB`"),
                ));
            }
            continue;
        };
        let name_at = span(head.source, compare.name.span);
        let Some(metric) = METRICS.iter().find(|m| m.name == compare.name.value) else {
            let known: Vec<&str> = METRICS.iter().map(|m| m.name).collect();
            let mut d = choice::found(name_at, &compare.name.value, "expect", &known);
            d.labels = vec![at];
            cx.report(d);
            continue;
        };
        cx.mark(name_at);
        if compare.cmp.value.is_strict() {
            // Reported by the syntax pass; the bound is understood, so nothing more is said about it.
            cx.mark(at);
            continue;
        }
        cx.mark(span(head.source, compare.cmp.span));
        let Some(m) = bound_of(cx, head, compare, *metric) else { continue };
        if one_currency(cx, r, &m) {
            r.expect.push(Expectation {
                metric: *metric,
                cmp: compare.cmp.value,
                bound: m.value.to_f64(),
                span: at,
            });
        }
    }
    Options::of(&mut view).finish(cx);
}

/// The bound in the dimension of its metric.
fn bound_of(
    cx: &mut Cx,
    head: &super::merge::From<Value>,
    compare: &llmc_grammar::Compare,
    metric: super::Metric,
) -> Option<Typed<Measure>> {
    let slot = match metric.dimension {
        Dimension::Ratio => SHARE,
        Dimension::Count => super::read::REAL,
        Dimension::Bytes => Slot { accepts: &[Dimension::Bytes], bare: None, binary_k: false },
        Dimension::Time => Slot { accepts: &[Dimension::Time], bare: None, binary_k: false },
        Dimension::Money => Slot { accepts: &[Dimension::Money], bare: None, binary_k: false },
        Dimension::Energy => Slot { accepts: &[Dimension::Energy], bare: None, binary_k: false },
        _ => Slot { accepts: &[Dimension::Tokens], bare: None, binary_k: false },
    };
    cx.measure(head, &compare.value, &slot, metric.name)
}
