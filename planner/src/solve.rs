//! From a question to a plan: the budget's algebra, the batch, the search.

use std::collections::BTreeMap;

use llmc_plan::model::Model;
use llmc_plan::plan::{Determinism, Precision, StageMemory};

use crate::answer::{Answer, Fix, Infeasible, Nearest};
use crate::assemble::{Outcome, answer, layout_of};
use crate::confirm::{SLACK, confirm};
use crate::cost::memory::stage_memory;
use crate::cost::{Setting, StateBytes};
use crate::derive::{batch_tokens, flops_6nt, whole_sequences};
use crate::fixes;
use crate::money::{Rates, rates};
use crate::question::{Budget, Cluster, Pins, Question};
use crate::search::{Costed, Found, search, search_even};
use crate::{fitted, hardware, joint, laws, profile};

/// Ceilings, checked before anything is searched.
const MAX_GPUS: u64 = 1 << 20;
const MAX_PARAMS: u64 = 10_000_000_000_000;
const MAX_TOKENS: u64 = 10_000_000_000_000_000;
/// Share of a GPU's memory left free: the closed form's own error, and what fragmentation adds. Fails less often than
/// it costs; peers keep 6 % (SimuMax) to 20 % (Galvatron).
const MARGIN: f64 = 0.03;
/// A tokens-and-FLOPs or money-and-time pair may differ by this much before it contradicts itself.
const TOLERANCE: f64 = 0.005;

/// Rules by which a path was decided.
pub(crate) type Decided = Vec<(&'static str, &'static str)>;

/// Plans.
///
/// # Errors
/// [`Infeasible`] when the question contradicts itself or nothing fits; its fixes were each planned.
pub fn solve(question: &Question) -> Result<Answer, Infeasible> {
    match plan(question) {
        Ok(answer) => Ok(answer),
        Err(mut failure) => {
            let mut found = fixes::find(question);
            if failure.fixes().is_empty() && found.is_empty() {
                found = fixes::budget(question, &failure);
            }
            match &mut failure {
                Infeasible::Question { fixes, .. } | Infeasible::Layout { fixes, .. } => fixes.extend(found),
            }
            Err(failure)
        }
    }
}

/// A refusal with its figures.
fn refuse(rule: &'static str, figures: &[(&'static str, f64)]) -> Infeasible {
    Infeasible::Question { rule, figures: figures.iter().copied().collect(), fixes: Vec::new() }
}

/// What a budget says, each kind once.
#[derive(Default)]
pub(crate) struct Limits {
    pub(crate) tokens: Option<u64>,
    pub(crate) seconds: Option<f64>,
    pub(crate) money: Option<f64>,
}

pub(crate) fn limits(q: &Question) -> Result<Limits, Infeasible> {
    let mut found = Limits::default();
    let currency = q.prices.currency.as_deref().unwrap_or("CNY");
    for budget in &q.budget {
        match budget {
            Budget::Tokens(t) => found.tokens = Some(*t),
            Budget::Seconds(s) => found.seconds = Some(*s),
            Budget::Money { amount, currency: c } if c == currency => found.money = Some(*amount),
            Budget::Money { amount, .. } => return Err(refuse("budget.currency", &[("amount", *amount)])),
            Budget::Flops(_) => {}
        }
    }
    for budget in &q.budget {
        let Budget::Flops(flops) = budget else { continue };
        let buys = flops / flops_6nt(&q.model, 1.0);
        match found.tokens {
            Some(tokens) if (tokens as f64 / buys - 1.0).abs() > TOLERANCE => {
                return Err(refuse(
                    "budget.contradiction",
                    &[
                        ("tokens", tokens as f64),
                        ("tokens_of_flops", buys),
                        ("flops_asked", *flops),
                        ("flops_needed", flops_6nt(&q.model, tokens as f64)),
                    ],
                ));
            }
            Some(_) => {}
            // Less than a token is one, as in a budget of one token: either trains a step.
            None => found.tokens = Some((buys as u64).max(1)),
        }
    }
    Ok(found)
}

/// Plans without looking for fixes.
///
/// # Errors
/// [`Infeasible`] without fixes.
pub(crate) fn plan(q: &Question) -> Result<Answer, Infeasible> {
    check(q)?;
    let limits = limits(q)?;
    let mut decided: Decided = Vec::new();
    let cluster = match q.cluster {
        Some(cluster) => cluster,
        None => {
            decided.extend([("layout.nodes", "cluster.derive"), ("layout.gpus", "cluster.derive")]);
            derive_cluster(q, &limits)?
        }
    };
    let (outcome, more) = on_cluster(q, &limits, cluster)?;
    decided.extend(more);
    let settled = |outcome: &Outcome, decided: Decided| match cluster.gpus() {
        1 => confirm(q, outcome, &decided),
        _ => Ok(answer(q, outcome, decided)),
    };
    let mut out = settled(&outcome, decided.clone())?;
    // Tokens that follow from time or money were counted at the speed of the search's best; where the walk refuses that
    // one, or the storage is waited for, fewer are trained in the same time.
    let plan = &out.plan;
    let share = |limit: Option<f64>, needed: f64| limit.map_or(1.0, |limit| limit / needed);
    let holds = share(limits.seconds, plan.time.train_seconds).min(share(limits.money, plan.cost.total));
    let steps = (plan.budget.steps as f64 * holds) as u64;
    if limits.tokens.is_none() && holds < 1.0 && steps >= 1 {
        let tokens = steps.saturating_mul(outcome.global_tokens());
        out = settled(&Outcome { tokens, ..outcome }, decided)?;
    }
    over_budget(q, &limits, &out)?;
    Ok(out)
}

/// Refuses what no search can mend.
fn check(q: &Question) -> Result<(), Infeasible> {
    let m = &q.model;
    let sizes = [m.layers, m.hidden, m.heads, m.kv_heads, m.head_dim, m.ffn, m.vocab_padded, m.context];
    if sizes.contains(&0) || sizes.iter().any(|n| *n > 1 << 40) {
        return Err(refuse("model.shape", &[("layers", m.layers as f64), ("hidden", m.hidden as f64)]));
    }
    if m.params > MAX_PARAMS {
        return Err(refuse("ceiling.params", &[("params", m.params as f64), ("ceiling", MAX_PARAMS as f64)]));
    }
    if let Some(c) = q.cluster
        && (c.gpus() == 0 || c.gpus() > MAX_GPUS)
    {
        return Err(refuse("ceiling.gpus", &[("gpus", c.gpus() as f64), ("ceiling", MAX_GPUS as f64)]));
    }
    for budget in &q.budget {
        let (value, ceiling) = match budget {
            Budget::Tokens(t) => (*t as f64, MAX_TOKENS as f64),
            Budget::Seconds(s) => (*s, 1e12),
            Budget::Money { amount, .. } => (*amount, 1e15),
            Budget::Flops(f) => (*f, 1e32),
        };
        if !(value > 0.0 && value <= ceiling) {
            return Err(refuse("ceiling.budget", &[("value", value), ("ceiling", ceiling)]));
        }
    }
    if let Some(batch) = q.batch_tokens
        && (batch == 0 || batch % m.context != 0)
    {
        return Err(refuse(
            "batch.whole_sequences",
            &[("batch", batch as f64), ("context", m.context as f64)],
        ));
    }
    if q.precision == Precision::Fp8 && q.hardware.peak_fp8.is_none() {
        return Err(refuse("precision.fp8_unsupported", &[]));
    }
    if profile::of(&q.hardware).is_none() {
        return Err(refuse("hardware.profile", &[]));
    }
    Ok(())
}

/// The setting of `q` on `cluster` with `sequences` a step.
pub fn setting(q: &Question, cluster: Cluster, sequences: u64) -> Option<Setting> {
    let o = &q.optimizer;
    let mut state = StateBytes::new(q.precision, o.kind, o.state_dtype.bytes(), o.master);
    state.narrower = state.gradient - o.gradient_dtype.bytes() as f64;
    // Frozen parameters keep their weights only.
    if let Some(trainable) = q.continued.and_then(|c| c.trainable_params) {
        let share = (trainable as f64 / q.model.params.max(1) as f64).min(1.0);
        state.gradient *= share;
        state.narrower *= share;
        state.reduced *= share;
        state.optimizer *= share;
        state.paged *= share;
    }
    let bitwise = q.hardware.kind == hardware::Kind::Cpu;
    Some(Setting {
        shape: crate::shape::Shape::new(&q.model, &q.variant),
        profile: profile::of(&q.hardware)?,
        hardware: q.hardware.clone(),
        nodes: cluster.nodes,
        gpus_per_node: cluster.gpus_per_node,
        // A machine of fewer devices than its kind has still talks over its link only to those.
        link_domain: if q.hardware.link_domain > q.hardware.gpus_per_node {
            q.hardware.link_domain
        } else {
            cluster.gpus_per_node
        },
        sequences,
        precision: q.precision,
        determinism: q.determinism.unwrap_or(if bitwise { Determinism::Bitwise } else { Determinism::Fast }),
        state,
        split: Vec::new(),
        mixed: None,
        state_slack: 0.0,
        logit_slack: 0.0,
        communicators: 0,
    })
}

/// As [`setting`], as our runtime is before anything is fitted, where it was measured: on one device. What a hardware file
/// brings along stays as it is.
pub fn own_base(q: &Question, cluster: Cluster, sequences: u64) -> Option<Setting> {
    let mut setting = setting(q, cluster, sequences)?;
    if q.hardware.efficiencies.is_none() && cluster.gpus() == 1 && setting.cuda() {
        setting.profile = fitted::ours(&setting.profile);
    }
    Some(setting)
}

/// As [`own_base`], with what was fitted on our runs: the profile that the recipe names, else the built-in one.
pub fn own_setting(q: &Question, cluster: Cluster, sequences: u64) -> Option<Setting> {
    let mut setting = own_base(q, cluster, sequences)?;
    let built_in = || fitted::own(&q.hardware, q.precision).filter(|_| q.hardware.efficiencies.is_none());
    if let Some(own) = q.fitted.as_ref().or_else(built_in).filter(|_| cluster.gpus() == 1) {
        setting.profile = fitted::scaled(&setting.profile, &own.scale);
        setting.profile.name.clone_from(&own.name);
        setting.profile.measured.hardware.extend(own.hardware.clone());
    }
    Some(setting)
}

/// Device bytes a plan may use.
fn memory_limit(q: &Question) -> u64 {
    let margin = if q.hardware.kind == hardware::Kind::Cuda { MARGIN } else { 0.0 };
    let usable = (q.hardware.memory_bytes as f64 * (1.0 - margin)) as u64;
    q.memory_limit_bytes.map_or(usable, |asked| asked.min(q.hardware.memory_bytes))
}

/// Searches the layouts of `q` for `tokens` on `cluster`.
fn searched(q: &Question, cluster: Cluster, tokens: u64) -> Result<Outcome, Infeasible> {
    let sequences = batch_of(q, cluster, tokens);
    let out = with_batch(q, cluster, tokens, sequences, search)?;
    if q.batch_tokens.is_some() {
        return Ok(out);
    }
    // The laws' batch is the best for the loss; another may reach that loss sooner.
    match joint::candidate(q, &out, spread_of(q, cluster)) {
        Some(sequences) => {
            let other = with_batch(q, cluster, tokens, sequences, search);
            Ok(other.ok().filter(|other| joint::wins(q, &out, other)).unwrap_or(out))
        }
        None => Ok(out),
    }
}

/// The laws' batch, or the pinned one, in sequences.
fn batch_of(q: &Question, cluster: Cluster, tokens: u64) -> u64 {
    match q.batch_tokens {
        Some(batch) => batch / q.model.context,
        None => {
            // A run of fewer tokens than one batch still takes one step.
            let wanted = batch_tokens(&q.model, tokens as f64).0.min(tokens as f64) / q.model.context as f64;
            whole_sequences(wanted, spread_of(q, cluster))
        }
    }
}

/// Ranks over which a batch that nobody pinned must spread.
fn spread_of(q: &Question, cluster: Cluster) -> u64 {
    let dp = q.pins.dp.unwrap_or(1).max(1) * q.pins.micro_batch.unwrap_or(1).max(1);
    dp.max(cluster.gpus() / cluster.gpus().min(fixed_ranks(q)).max(1))
}

/// Searches the layouts of `q` at one batch.
fn with_batch(
    q: &Question,
    cluster: Cluster,
    tokens: u64,
    sequences: u64,
    search: fn(&Setting, &Pins, u64) -> Found,
) -> Result<Outcome, Infeasible> {
    let limit = memory_limit(q);
    let setting = own_setting(q, cluster, sequences).ok_or_else(|| refuse("hardware.profile", &[]))?;
    // One device: the walk decides what fits, so candidates a little over the limit are kept for it.
    let slack = if cluster.gpus() == 1 { SLACK } else { 0.0 };
    let found = search(&setting, &q.pins, (limit as f64 * (1.0 + slack)) as u64);
    match found.best {
        Some(best) => Ok(Outcome { setting, found, best, tokens, limit }),
        None => Err(nothing_fits(&setting, found, limit, None)),
    }
}

/// Ranks that pins take away from data parallelism.
fn fixed_ranks(q: &Question) -> u64 {
    let p = &q.pins;
    [p.tp, p.pp, p.cp].into_iter().flatten().fold(1, u64::saturating_mul)
}

/// The refusal of a search that found nothing; `walked` is the tightest candidate that the walk refused.
pub(crate) fn nothing_fits(
    s: &Setting,
    found: Found,
    limit: u64,
    walked: Option<(Costed, StageMemory)>,
) -> Infeasible {
    let weighed = || found.nearest.map(|(costed, stage)| (costed, stage_memory(s, &costed.point, stage)));
    let nearest = walked.or_else(weighed).map(|(costed, memory)| {
        Box::new(Nearest {
            layout: layout_of(s, &found, &costed),
            micro_batch_sequences: costed.point.micro,
            memory,
        })
    });
    // Memory is the reason whenever a layout got as far as being weighed; else the rule that rejected most.
    let rule = if nearest.is_some() {
        "memory"
    } else {
        let most = found.rejected_by.iter().max_by(|a, b| a.1.cmp(b.1).then(b.0.cmp(a.0)));
        // Pins that left no point at all are named by what they broke.
        let pinned = found.first.keys().find(|rule| **rule != "ranks_make_gpus");
        most.map(|(rule, _)| *rule).or(pinned.copied()).unwrap_or("ranks_make_gpus")
    };
    Infeasible::Layout {
        device_bytes: limit,
        nearest,
        rule: rule.to_string(),
        figures: found.first.get(rule).cloned().unwrap_or_default(),
        rejected_by: found.rejected_by.iter().map(|(rule, n)| (rule.to_string(), *n)).collect(),
        fixes: Vec::new(),
    }
}

/// Plans on a known cluster; derives the tokens from time or money when they are not given.
fn on_cluster(q: &Question, limits: &Limits, cluster: Cluster) -> Result<(Outcome, Decided), Infeasible> {
    let mut decided: Decided = Vec::new();
    if q.batch_tokens.is_none() {
        decided.push(("batch.global_tokens", "batch.step_law"));
    }
    if let Some(tokens) = limits.tokens {
        if q.budget.iter().any(|b| matches!(b, Budget::Flops(_))) {
            decided.push(("budget.tokens", "budget.from_flops"));
        }
        return Ok((searched(q, cluster, tokens)?, decided));
    }
    let default = laws::default_tokens(q.model.params_non_embedding);
    let rule = match (limits.seconds, limits.money) {
        (None, None) => {
            decided.push(("budget.tokens", "budget.chinchilla"));
            return Ok((searched(q, cluster, default.min(MAX_TOKENS))?, decided));
        }
        (Some(_), _) => "budget.from_time",
        (None, Some(_)) => "budget.from_money",
    };
    decided.push(("budget.tokens", rule));
    let hour = rates(&q.prices, &q.hardware).hour(cluster.gpus());
    let by_money = limits.money.map_or(f64::INFINITY, |money| money / hour * 3600.0);
    let seconds = limits.seconds.unwrap_or(f64::INFINITY).min(by_money);
    // The batch follows from the tokens and the speed from the batch: iterate until the batch stands.
    let mut tokens = default.min(MAX_TOKENS);
    let mut out = searched(q, cluster, tokens)?;
    for _ in 0..6 {
        let run = out.run(q, out.best.step.total);
        let per_second = out.global_tokens() as f64 / out.best.step.total * run.goodput;
        tokens = ((seconds * per_second) as u64).clamp(1, MAX_TOKENS);
        let before = out.global_tokens();
        out = searched(q, cluster, tokens)?;
        if out.global_tokens() == before {
            break;
        }
    }
    out.tokens = within(q, &mut out, seconds).saturating_mul(out.global_tokens());
    Ok((out, decided))
}

/// The most whole steps that end within `seconds`, checkpoints and failures included; at least one.
fn within(q: &Question, out: &mut Outcome, seconds: f64) -> u64 {
    let (step, batch) = (out.best.step.total, out.global_tokens());
    let mut ends = |steps: u64| {
        out.tokens = steps.saturating_mul(batch);
        out.run(q, step).seconds <= seconds
    };
    let (mut low, mut high) = (1, (seconds / step).min((MAX_TOKENS / batch.max(1)) as f64) as u64 + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if ends(middle) { low = middle } else { high = middle }
    }
    low
}

/// The most devices, whole machines beyond one, whose hour costs no more than `hour`; at least one.
fn most_within(prices: &Rates, node: u64, hour: f64) -> u64 {
    let fits = |gpus: u64| prices.hour(gpus) <= hour;
    let (mut low, mut high) = (1, MAX_GPUS + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    if low > node { low / node * node } else { low }
}

/// The fewest devices that train the tokens within time or money; without tokens, as many as the money pays for the time.
fn derive_cluster(q: &Question, limits: &Limits) -> Result<Cluster, Infeasible> {
    if limits.seconds.is_none() && limits.money.is_none() {
        return Err(refuse("cluster.underivable", &[]));
    }
    let node = q.hardware.gpus_per_node.max(1);
    let tokens = limits.tokens.unwrap_or_else(|| laws::default_tokens(q.model.params_non_embedding));
    let of = |gpus: u64| {
        if gpus <= node {
            Cluster { nodes: 1, gpus_per_node: gpus }
        } else {
            Cluster { nodes: gpus / node, gpus_per_node: node }
        }
    };
    let prices = rates(&q.prices, &q.hardware);
    if let (None, Some(seconds), Some(money)) = (limits.tokens, limits.seconds, limits.money) {
        return Ok(of(most_within(&prices, node, money * 3600.0 / seconds)));
    }
    // Seconds, money, devices: of the soonest count, and of the cheapest that is in time.
    let mut soonest: Option<(f64, f64, u64)> = None;
    let mut cheapest: Option<(f64, f64, u64)> = None;
    let mut meets = |gpus: u64| -> bool {
        // Of many counts, each by its even plan: the one taken is then searched in full, and is no slower.
        let sequences = batch_of(q, of(gpus), tokens);
        let Ok(out) = with_batch(q, of(gpus), tokens, sequences, search_even) else { return false };
        let seconds = out.run(q, out.best.step.total).seconds;
        let money = prices.bill(gpus, seconds).total;
        if soonest.is_none_or(|c| seconds < c.0) {
            soonest = Some((seconds, money, gpus));
        }
        let in_time = limits.seconds.is_none_or(|limit| seconds <= limit);
        if in_time && cheapest.is_none_or(|c| money < c.1) {
            cheapest = Some((seconds, money, gpus));
        }
        in_time && limits.money.is_none_or(|limit| money <= limit)
    };
    // Doubling until it is met, then halving the gap in whole machines.
    let (mut low, mut high) = (0, 1);
    while !meets(high) {
        low = high;
        high = if high < node { (high * 2).min(node) } else { high * 2 };
        if high > MAX_GPUS || high > node * 8192 {
            let none = (f64::INFINITY, f64::INFINITY, 0);
            let (seconds, money, gpus) = cheapest.or(soonest).unwrap_or(none);
            return Err(refuse(
                "budget.contradiction",
                &[
                    ("tokens", tokens as f64),
                    ("seconds_asked", limits.seconds.unwrap_or(f64::INFINITY)),
                    ("money_asked", limits.money.unwrap_or(f64::INFINITY)),
                    ("seconds_least", seconds),
                    ("money_there", money),
                    ("gpus_best", if gpus == 0 { f64::INFINITY } else { gpus as f64 }),
                ],
            ));
        }
    }
    let grain = if high > node { node } else { 1 };
    while high - low > grain {
        let middle = (low + (high - low) / 2).div_ceil(grain) * grain;
        if middle >= high {
            break;
        }
        if meets(middle) { high = middle } else { low = middle }
    }
    Ok(of(high))
}

/// The model with so many layers, its parameters counted anew.
pub(crate) fn with_layers(model: &Model, layers: u64) -> Model {
    let model = Model { layers, ..model.clone() };
    Model { params: model.count_params(), params_non_embedding: model.count_params_non_embedding(), ..model }
}

/// The deepest model of the same width whose plan keeps within time and money.
pub(crate) fn fewer_layers(q: &Question, limits: &Limits) -> Option<Answer> {
    let with = |layers: u64| {
        let model = with_layers(&q.model, layers);
        let budget = q.budget.iter().filter(|b| matches!(b, Budget::Tokens(_))).cloned().collect();
        let answer = plan(&Question { model, budget, ..q.clone() }).ok()?;
        let of = &answer.plan;
        let soon = limits.seconds.is_none_or(|limit| of.time.train_seconds <= limit);
        let cheap = limits.money.is_none_or(|limit| of.cost.total <= limit);
        (soon && cheap).then_some(answer)
    };
    let (mut low, mut high) = (0, q.model.layers);
    let mut found = None;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match with(middle) {
            Some(answer) => (low, found) = (middle, Some(answer)),
            None => high = middle,
        }
    }
    found
}

/// Tokens, time or money and a cluster were all given: do they agree? Where no tokens were, is there time or money for a step?
fn over_budget(q: &Question, limits: &Limits, out: &Answer) -> Result<(), Infeasible> {
    let seconds = out.plan.time.train_seconds;
    let money = out.plan.cost.total;
    let late = limits.seconds.is_some_and(|limit| seconds > limit * (1.0 + TOLERANCE));
    let dear = limits.money.is_some_and(|limit| money > limit * (1.0 + TOLERANCE));
    if !late && !dear {
        return Ok(());
    }
    let mut figures: BTreeMap<&'static str, f64> = BTreeMap::new();
    figures.insert("tokens", out.plan.budget.tokens as f64);
    figures.insert("gpus", out.plan.layout.gpus as f64);
    figures.insert("seconds_needed", seconds);
    figures.insert("money_needed", money);
    limits.seconds.and_then(|limit| figures.insert("seconds_asked", limit));
    limits.money.and_then(|limit| figures.insert("money_asked", limit));
    let fix = |path, value: String, answer: &Answer| Fix {
        path,
        value,
        also: None,
        device_bytes: answer.plan.memory.device_bytes,
        step_seconds: answer.plan.time.step_seconds,
        cost: answer.plan.cost.total,
    };
    let longer = late.then(|| fixes::longer(seconds));
    let richer = dear.then(|| format!("{} {}", money.ceil(), out.plan.cost.currency));
    let enough = longer.into_iter().chain(richer).collect::<Vec<_>>().join(" ");
    let mut fixes = vec![fix("budget", enough, out)];
    if limits.tokens.is_none() {
        return Err(Infeasible::Question { rule: "budget.contradiction", figures, fixes });
    }
    let without = |keep: fn(&Budget) -> bool| Question {
        budget: q.budget.iter().filter(|b| keep(b)).cloned().collect(),
        ..q.clone()
    };
    if let Ok(fewer) = plan(&without(|b| !matches!(b, Budget::Tokens(_) | Budget::Flops(_)))) {
        fixes.push(fix("budget", format!("{} tokens", fewer.plan.budget.tokens), &fewer));
    }
    if late
        && !dear
        && let Ok(more) = plan(&Question { cluster: None, ..q.clone() })
    {
        fixes.push(fix("on", format!("{}x{}", more.plan.layout.gpus, q.hardware.name), &more));
    }
    if let Some(smaller) = fewer_layers(q, limits) {
        fixes.push(fix("model.layers", smaller.plan.model.layers.to_string(), &smaller));
    }
    Err(Infeasible::Question { rule: "budget.contradiction", figures, fixes })
}
