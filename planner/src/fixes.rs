//! The nearest questions that have a plan. Every fix named was planned and fits.

use llmc_plan::plan::{DType, Master, OptimizerKind, Plan, Precision};

use crate::answer::{Answer, Fix, Infeasible};
use crate::derive::flops_6nt;
use crate::hardware::Kind;
use crate::question::{Budget, Cluster, Pins, Question};
use crate::solve::{fewer_layers, limits, plan, with_layers};

/// Most fixes named.
const MOST: usize = 5;
/// Of these, most pairs of pins.
const PAIRS: usize = 2;
/// Largest pinned number whose neighbours are tried.
const MOST_TRIED: u64 = 64;

fn fix(path: &'static str, value: String, answer: &Answer) -> Fix {
    let plan = &answer.plan;
    Fix {
        path,
        value,
        also: None,
        device_bytes: plan.memory.device_bytes,
        step_seconds: plan.time.step_seconds,
        cost: plan.cost.total,
    }
}

/// One release of a pin: its path, the value the plan then takes, and the release itself. One at a time, so that what is
/// named can be typed.
type Release = (&'static str, fn(&Plan) -> String, fn(&mut Pins));

/// In the order in which a user would rather give way.
const RELEASES: &[Release] = &[
    ("layout.recompute", |p| word(&p.layout.recompute), |p| p.recompute = None),
    ("layout.micro_batch", |p| p.batch.micro_batch_sequences.to_string(), |p| p.micro_batch = None),
    ("layout.zero", |p| p.layout.zero_stage.to_string(), |p| p.zero_stage = None),
    ("layout.shard_group", |p| p.layout.shard_group.to_string(), |p| p.shard_group = None),
    ("layout.offload", |p| word(&p.layout.offload), |p| p.offload = None),
    ("layout.sequence_parallel", |p| p.layout.sequence_parallel.to_string(), |p| p.sequence_parallel = None),
    ("layout.schedule", |p| word(&p.layout.schedule), |p| p.schedule = None),
    ("layout.vp", |p| p.layout.vp.to_string(), |p| p.vp = None),
    ("layout.tp", |p| p.layout.tp.to_string(), |p| p.tp = None),
    ("layout.cp", |p| p.layout.cp.to_string(), |p| p.cp = None),
    ("layout.pp", |p| p.layout.pp.to_string(), |p| p.pp = None),
    ("layout.dp", |p| p.layout.dp.to_string(), |p| p.dp = None),
];

/// An enum's name as the recipe writes it.
fn word<T: std::fmt::Debug>(value: &T) -> String {
    let text = format!("{value:?}");
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if c.is_uppercase() && i > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// A pinned number: its path, where it stands, and how another is set.
type Number = (&'static str, fn(&Pins) -> Option<u64>, fn(&mut Pins, u64));

const NUMBERS: &[Number] = &[
    ("layout.tp", |p| p.tp, |p, n| p.tp = Some(n)),
    ("layout.cp", |p| p.cp, |p, n| p.cp = Some(n)),
    ("layout.pp", |p| p.pp, |p, n| p.pp = Some(n)),
    ("layout.vp", |p| p.vp, |p, n| p.vp = Some(n)),
    ("layout.dp", |p| p.dp, |p, n| p.dp = Some(n)),
];

/// The nearest number to each that is pinned which works in its place, by ratio.
fn neighbours(q: &Question) -> Vec<Fix> {
    let mut fixes = Vec::new();
    for (path, pinned, set) in NUMBERS {
        let Some(pinned) = pinned(&q.pins).filter(|n| *n <= MOST_TRIED) else { continue };
        let mut others: Vec<u64> = (1..=2 * pinned).filter(|n| *n != pinned).collect();
        others.sort_by_key(|n| 1_000 * pinned.max(*n) / pinned.min(*n).max(1));
        let found = others.into_iter().find_map(|n| {
            let mut changed = q.clone();
            set(&mut changed.pins, n);
            plan(&changed).ok().map(|answer| fix(path, n.to_string(), &answer))
        });
        fixes.extend(found);
    }
    fixes
}

/// Pairs of pins that are at fault together, where none is alone.
fn pairs(q: &Question) -> Vec<Fix> {
    let released = |pins: &Pins, release: &Release| {
        let mut pins = *pins;
        release.2(&mut pins);
        (pins != q.pins).then_some(pins)
    };
    let mut fixes = Vec::new();
    for (i, one) in RELEASES.iter().enumerate() {
        let Some(without) = released(&q.pins, one) else { continue };
        for other in RELEASES.iter().skip(i + 1) {
            let Some(both) = released(&without, other).filter(|pins| *pins != without) else { continue };
            if fixes.len() >= PAIRS {
                return fixes;
            }
            if let Ok(answer) = plan(&Question { pins: both, ..q.clone() }) {
                let also = Some((other.0, other.1(&answer.plan)));
                fixes.push(Fix { also, ..fix(one.0, one.1(&answer.plan), &answer) });
            }
        }
    }
    fixes
}

/// A budget of time that holds `seconds`: rounded up, or what is printed would not do.
pub fn longer(seconds: f64) -> String {
    match seconds / 86400.0 {
        days if days >= 1.0 => format!("{:.1} days", libm::ceil(days * 10.0) / 10.0),
        _ => format!("{} s", libm::ceil(seconds)),
    }
}

/// Ways out of a budget that contradicts itself before any cluster is known: more time or money, fewer tokens, a smaller
/// model; each planned as it stands.
pub fn budget(q: &Question, failure: &Infeasible) -> Vec<Fix> {
    let Infeasible::Question { rule: "budget.contradiction", figures, .. } = failure else {
        return Vec::new();
    };
    let figure = |name: &str| figures.get(name).copied().filter(|x| x.is_finite());
    let other = |keep: fn(&Budget) -> bool, more: Vec<Budget>| Question {
        budget: q.budget.iter().filter(|b| keep(b)).cloned().chain(more).collect(),
        ..q.clone()
    };
    let mut fixes = Vec::new();
    let mut offer = |path, value: String, changed: Question| -> bool {
        let answer = plan(&changed).ok();
        fixes.extend(answer.iter().map(|answer| fix(path, value.clone(), answer)));
        answer.is_some()
    };
    if let (Some(tokens), Some(bought)) = (figure("tokens"), figure("tokens_of_flops")) {
        let flops = format!("{:.6e}", flops_6nt(&q.model, tokens));
        let (spent, fewer) = (flops.parse().unwrap_or(0.0), bought as u64);
        let most = Budget::Flops(spent);
        offer("budget", format!("{flops} FLOPs"), other(|b| !matches!(b, Budget::Flops(_)), vec![most]));
        let tokens = Budget::Tokens(fewer);
        offer("budget", format!("{fewer} tokens"), other(|b| !matches!(b, Budget::Tokens(_)), vec![tokens]));
        return fixes;
    }
    let (Ok(limits), Some(gpus)) = (limits(q), figure("gpus_best")) else { return fixes };
    let late = figure("seconds_least").filter(|least| limits.seconds.is_some_and(|asked| *least > asked));
    let dear = figure("money_there").filter(|there| limits.money.is_some_and(|asked| *there > asked));
    let currency = q.prices.currency.clone().unwrap_or_else(|| "CNY".into());
    // One device is walked where others are estimated: some percent more may be what its plan needs.
    for spare in [1.0, 1.03, 1.1] {
        let (mut words, mut more) = (Vec::new(), Vec::new());
        if let Some(seconds) = late.map(|seconds| seconds * spare) {
            words.push(longer(seconds));
            more.push(Budget::Seconds(seconds));
        } else {
            more.extend(limits.seconds.map(Budget::Seconds));
        }
        let amount = dear.map(|money| libm::ceil(money * spare));
        words.extend(amount.map(|amount| format!("{amount} {currency}")));
        let money = amount.or(limits.money);
        more.extend(money.map(|amount| Budget::Money { amount, currency: currency.clone() }));
        if offer(
            "budget",
            words.join(" "),
            other(|b| matches!(b, Budget::Tokens(_) | Budget::Flops(_)), more),
        ) {
            break;
        }
    }
    // What the best count trains within the limits, and the model that it trains within them; then without naming it.
    let node = q.hardware.gpus_per_node.max(1);
    let gpus = gpus as u64;
    let (nodes, each) = if gpus <= node { (1, gpus) } else { (gpus / node, node) };
    let cluster = Some(Cluster { nodes, gpus_per_node: each });
    let spend: fn(&Budget) -> bool = |b| !matches!(b, Budget::Tokens(_) | Budget::Flops(_));
    if let Ok(fewer) = plan(&Question { cluster, ..other(spend, Vec::new()) }) {
        // Fewer tokens have smaller batches, which spread over fewer devices.
        for part in [1, 2, 4, 8, 16] {
            let tokens = (fewer.plan.budget.tokens / part).max(1);
            if offer("budget", format!("{tokens} tokens"), other(spend, vec![Budget::Tokens(tokens)])) {
                break;
            }
        }
    }
    if let Some(smaller) = fewer_layers(&Question { cluster, ..q.clone() }, &limits) {
        let layers = smaller.plan.model.layers;
        offer(
            "model.layers",
            layers.to_string(),
            Question { model: with_layers(&q.model, layers), ..q.clone() },
        );
    }
    fixes
}

/// Fixes of a question that has no plan.
pub fn find(q: &Question) -> Vec<Fix> {
    // Only questions that reach the search can be mended here; a contradiction carries its own ways out.
    let Err(Infeasible::Layout { rule, .. }) = plan(q) else { return Vec::new() };
    let mut fixes = if rule == "memory" { Vec::new() } else { neighbours(q) };
    for (path, value, release) in RELEASES {
        let mut changed = q.clone();
        release(&mut changed.pins);
        if changed.pins == q.pins {
            continue;
        }
        if let Ok(answer) = plan(&changed) {
            let released = fix(path, value(&answer.plan), &answer);
            if !fixes.contains(&released) {
                fixes.push(released);
            }
        }
    }
    if fixes.is_empty() {
        fixes = pairs(q);
    }
    if fixes.is_empty() && q.pins != Pins::default() {
        let free = Question { pins: Pins::default(), ..q.clone() };
        if let Ok(answer) = plan(&free) {
            fixes.push(fix("layout", "none pinned".into(), &answer));
        }
    }
    if let Some(batch) = q.batch_tokens {
        let gpus = q.cluster.map_or(1, Cluster::gpus);
        let ranks = [q.pins.tp, q.pins.pp, q.pins.cp].into_iter().flatten().product::<u64>().max(1);
        let unit = (gpus / ranks).max(1) * q.pins.micro_batch.unwrap_or(1) * q.model.context;
        let whole = ((batch + unit / 2) / unit).max(1).saturating_mul(unit);
        let changed = Question { batch_tokens: Some(whole), ..q.clone() };
        if whole != batch
            && let Ok(answer) = plan(&changed)
        {
            fixes.push(fix("batch", format!("{whole} tokens"), &answer));
        }
    }
    if !["memory", "host_memory"].contains(&rule.as_str()) {
        fixes.truncate(MOST);
        return fixes;
    }
    let mut more = |path, value: String, changed: Question| {
        if let Ok(answer) = plan(&changed) {
            fixes.push(fix(path, value, &answer));
        }
    };
    let adamw = matches!(q.optimizer.kind, OptimizerKind::Adamw | OptimizerKind::PagedAdamw);
    if adamw
        && q.optimizer.gradient_dtype == DType::F32
        && matches!(q.precision, Precision::Bf16 | Precision::Fp8)
    {
        let mut changed = q.clone();
        changed.optimizer.gradient_dtype = DType::Bf16;
        more("optimizer.gradients", "bf16".into(), changed);
    }
    if q.optimizer.kind == OptimizerKind::Adamw && q.hardware.kind == Kind::Cuda {
        if q.optimizer.master.is_f32() && matches!(q.precision, Precision::Bf16 | Precision::Fp8) {
            let mut changed = q.clone();
            changed.optimizer.master = Master::Split;
            more("optimizer.master", "split".into(), changed);
        }
        let mut changed = q.clone();
        changed.optimizer.kind = OptimizerKind::PagedAdamw;
        more("optimizer", "paged_adamw".into(), changed);
        if q.optimizer.state_dtype == DType::F32 {
            let mut changed = q.clone();
            changed.optimizer.state_dtype = DType::Bf16;
            more("optimizer.state", "bf16".into(), changed);
        }
    }
    if let Some(cluster) = q.cluster {
        let node = q.hardware.gpus_per_node.max(1);
        for doublings in 1..=6 {
            let gpus = cluster.gpus().saturating_mul(1 << doublings);
            let (nodes, each) = if gpus <= node { (1, gpus) } else { (gpus.div_ceil(node), node) };
            let bigger = Question { cluster: Some(Cluster { nodes, gpus_per_node: each }), ..q.clone() };
            if let Ok(answer) = plan(&bigger) {
                fixes.push(fix("on", format!("{}x{}", nodes * each, q.hardware.name), &answer));
                break;
            }
        }
    }
    let mut shorter = q.clone();
    shorter.model.context /= 2;
    while shorter.model.context >= 512 && fixes.len() < MOST {
        if let Ok(answer) = plan(&shorter) {
            fixes.push(fix("model.ctx", shorter.model.context.to_string(), &answer));
            break;
        }
        shorter.model.context /= 2;
    }
    fixes.truncate(MOST);
    fixes
}
