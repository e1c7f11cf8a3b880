//! A found layout becomes a [`Plan`]: every number settled, every decision with its rule.

use std::collections::BTreeMap;

use llmc_plan::lower::{LowerError, Options, lowered};
use llmc_plan::op::Backend;
use llmc_plan::plan::{
    Batch, Budget, Cost, FORMAT_VERSION, HardwareSummary, LawValue, Layout, Loss, Memory, MemoryPrice,
    ParetoPoint, Plan, Recipe, RunSchedule, RunnerUp, Search, StageLayers, Time,
};

use crate::answer::{Answer, Candidate, Reason};
use crate::cost::layer::{ends, plain_layer};
use crate::cost::memory::stage_memory;
use crate::cost::step::breakdown;
use crate::cost::{Point, Setting};
use crate::derive::{batch_tokens, flops_6nt, learning_rate, loss_laws, span_steps};
use crate::money::{FAILURES_PER_GPU_HOUR, RESTART_SECONDS, Rates, WRITER_BANDWIDTH, daly, goodput, rates};
use crate::question::{Question, Span};
use crate::search::{Costed, Found};
use crate::uneven::{self, Node};
use crate::{joint, laws, settle, storage};

/// Frontier points shown differ by at least this many free bytes.
const FRONTIER_STEP: u64 = 1 << 30;

/// A searched question before it becomes a plan.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What was searched.
    pub setting: Setting,
    /// What was found.
    pub found: Found,
    /// The best point.
    pub best: Costed,
    /// Tokens asked for.
    pub tokens: u64,
    /// Device bytes a plan may use.
    pub limit: u64,
}

/// Time over the whole run of a step time.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Optimizer steps.
    pub steps: u64,
    /// Seconds of wall time.
    pub seconds: f64,
    /// Share that trains.
    pub goodput: f64,
    /// Seconds between checkpoints.
    pub interval: f64,
    /// Seconds between failures.
    pub mtbf: f64,
    /// Seconds of one checkpoint.
    pub checkpoint: f64,
}

impl Outcome {
    /// Tokens of one step.
    pub fn global_tokens(&self) -> u64 {
        self.setting.sequences * self.setting.shape.context
    }

    /// The whole run at `step_seconds` a step.
    pub fn run(&self, q: &Question, step_seconds: f64) -> Run {
        let s = &self.setting;
        let steps = self.tokens.div_ceil(self.global_tokens()).max(1);
        let useful = steps as f64 * step_seconds;
        let rate = q.reliability.failures_per_gpu_hour.unwrap_or(FAILURES_PER_GPU_HOUR);
        let mtbf = 3600.0 / (rate * s.gpus() as f64).max(1e-12);
        let state = s.shape.params() as f64 * (s.state.optimizer + s.state.weight);
        let measured =
            q.mount.as_ref().map(|mount| mount.write_bytes_per_second).filter(|speed| *speed > 0.0);
        let writer = s.nodes as f64 * measured.unwrap_or(WRITER_BANDWIDTH);
        let delta = q.reliability.checkpoint_seconds.unwrap_or(state / writer).max(1e-3);
        let restart = q.reliability.restart_seconds.unwrap_or(RESTART_SECONDS);
        let interval = match q.run.checkpoint_every {
            Some(span) => span_steps(span, steps, self.global_tokens(), step_seconds) as f64 * step_seconds,
            None => daly(delta, mtbf).max(step_seconds),
        };
        // A run shorter than its interval writes one checkpoint, at its end, and loses half of itself to a failure.
        let interval = interval.min(useful.max(step_seconds));
        let share = goodput(delta, interval, restart, mtbf);
        Run { steps, seconds: useful / share, goodput: share, interval, mtbf, checkpoint: delta }
    }
}

fn layout(s: &Setting, p: &Point, stages: &[StageLayers]) -> Layout {
    Layout {
        nodes: s.nodes,
        gpus: s.gpus(),
        dp: p.dp,
        tp: p.tp,
        sequence_parallel: p.sp,
        cp: p.cp,
        pp: p.pp,
        vp: p.vp,
        zero_stage: p.zero,
        shard_group: p.shard,
        schedule: p.schedule,
        recompute: p.recompute,
        offload: p.offload,
        stages: stages.to_vec(),
    }
}

/// The layout of a point in the plan's words.
pub fn layout_of(s: &Setting, found: &Found, costed: &Costed) -> Layout {
    layout(s, &costed.point, stages_of(found, costed))
}

/// What its stages hold where they differ.
fn stages_of<'a>(found: &'a Found, costed: &Costed) -> &'a [StageLayers] {
    costed.split.and_then(|at| found.splits.get(at)).map_or(&[], |(held, _)| held)
}

/// The term in which `second` loses most against `first`.
fn decided_by(first: &Costed, second: &Costed) -> String {
    let a = breakdown(&first.compute, &first.step);
    let b = breakdown(&second.compute, &second.step);
    let mut most = (0.0, String::new());
    for (name, seconds) in &b {
        let more = seconds - a.get(name).copied().unwrap_or(0.0);
        if more > most.0 {
            most = (more, name.clone());
        }
    }
    if most.1.is_empty() { "memory".into() } else { most.1 }
}

/// A layout that trains `tokens`, as a point of the frontier of time, money, loss and memory.
fn frontier_point(out: &Outcome, q: &Question, rates: &Rates, c: &Costed, tokens: u64) -> ParetoPoint {
    let s = &out.setting;
    let run = Outcome { tokens, ..out.clone() }.run(q, c.step.total);
    let trained = run.steps * out.global_tokens();
    ParetoPoint {
        layout: layout_of(s, &out.found, c),
        micro_batch_sequences: c.point.micro,
        step_seconds: settle(c.step.total),
        cost: rates.bill(s.gpus(), run.seconds).total,
        margin_bytes: s.hardware.memory_bytes.saturating_sub(c.device),
        tokens: trained,
        train_seconds: settle(run.seconds),
        loss: settle(loss_of(q, trained, out.global_tokens()).0),
    }
}

/// Loss with its interval after `trained` tokens in batches of `batch`: of as many tokens at the best batch as these are
/// worth.
fn loss_of(q: &Question, trained: u64, batch: u64) -> (f64, f64, f64) {
    laws::loss(q.model.params as f64, worth(q, trained, batch), q.model.vocab)
}

/// Tokens at the best batch that `trained` ones in batches of `batch` are worth, those of a base among them.
fn worth(q: &Question, trained: u64, batch: u64) -> f64 {
    let base = q.continued.and_then(|c| c.base_tokens).unwrap_or(0) as f64;
    trained as f64 / joint::tokens_factor(q, trained as f64, batch as f64) + base
}

fn search_record(out: &Outcome, q: &Question, rates: &Rates, spread: &[Candidate]) -> Search {
    let s = &out.setting;
    let memory = s.hardware.memory_bytes;
    let mut pareto: Vec<ParetoPoint> = Vec::new();
    for c in &out.found.frontier {
        let margin = memory.saturating_sub(c.device);
        if pareto.last().is_some_and(|last| margin < last.margin_bytes + FRONTIER_STEP) {
            continue;
        }
        pareto.push(frontier_point(out, q, rates, c, out.tokens));
    }
    // Fewer and more tokens at the best layout: cheaper and sooner, or a lower loss.
    for tokens in [out.tokens / 2, out.tokens.saturating_mul(2)] {
        if out.tokens >= 2 * out.global_tokens() {
            pareto.push(frontier_point(out, q, rates, &out.best, tokens));
        }
    }
    let step = out.best.step.total;
    let own = Node {
        point: out.best.point,
        plain: plain_layer(s, &out.best.point),
        ends: ends(s, &out.best.point),
    };
    let saves = out.found.roomier.map_or(0.0, |more| (step - more.step.total).max(0.0));
    let run = out.run(q, step);
    let (relaxed, whole) = uneven::gibibyte(s, &q.pins, &own, &out.best, out.limit).unwrap_or((0.0, 0.0));
    let saves = saves.max(whole);
    let memory_price = MemoryPrice {
        bytes: 1 << 30,
        step_seconds: settle(saves),
        cost: settle(rates.bill(s.gpus(), run.seconds).total * saves / step),
        relaxed_step_seconds: settle(relaxed),
    };
    let laws = spread.iter().map(|c| LawValue { path: c.path.into(), law: c.rule.into(), value: c.value });
    Search {
        considered: out.found.considered,
        evaluated: out.found.evaluated,
        feasible: out.found.feasible,
        rejected_by: out.found.rejected_by.iter().map(|(rule, n)| (rule.to_string(), *n)).collect(),
        runner_up: out.found.runner_up.map(|second| RunnerUp {
            layout: layout_of(s, &out.found, &second),
            micro_batch_sequences: second.point.micro,
            slower_by_seconds: settle(second.step.total - out.best.step.total),
            decided_by: decided_by(&out.best, &second),
        }),
        pareto,
        extrapolated: extrapolated(s, q.model.params as f64, out.tokens as f64),
        pruned_by: out.found.pruned_by.iter().map(|(bound, n)| (bound.to_string(), *n)).collect(),
        milp: out.found.milp,
        memory_price: Some(memory_price),
        laws: laws.collect(),
        exchange: joint::exchange(q, out, &run, rates),
        ramp: joint::ramp(q, out),
    }
}

/// What lies outside of the profile's measurements.
fn extrapolated(s: &Setting, params: f64, tokens: f64) -> Vec<String> {
    let known = &s.profile.measured;
    let mut list = Vec::new();
    if !known.hardware.contains(&s.hardware.name) {
        list.push(format!(
            "hardware {}: scaled by its peaks from profile {}",
            s.hardware.name, s.profile.name
        ));
    }
    if s.gpus() > known.gpus {
        list.push(format!("{} devices: measured up to {}", s.gpus(), known.gpus));
    }
    if s.shape.context > known.context {
        list.push(format!("context {}: measured up to {}", s.shape.context, known.context));
    }
    let precision = format!("{:?}", s.precision).to_lowercase();
    if !known.precision.contains(&precision) {
        list.push(format!("precision {precision}: not measured"));
    }
    let outside = |value: f64, range: (f64, f64)| value < range.0 || value > range.1;
    if outside(params, laws::LAW_PARAMS) {
        list.push(format!("loss of {params:.3e} parameters: law fitted on 4.4e7 to 1.6e10"));
    }
    if outside(tokens, laws::LAW_TOKENS) {
        list.push(format!("loss after {tokens:.3e} tokens: law fitted on 5e9 to 5e11"));
    }
    list
}

/// Builds the answer.
pub fn answer(q: &Question, out: &Outcome, decided: Vec<(&'static str, &'static str)>) -> Answer {
    let s = &out.setting;
    let p = &out.best.point;
    let computing = out.best.step.total;
    let layout = layout_of(s, &out.found, &out.best);
    let waits = q.mount.as_ref().map_or(0.0, |mount| {
        (storage::data_seconds(mount, &q.model, &layout, s.sequences) - computing).max(0.0)
    });
    let step_seconds = computing + waits;
    let run = out.run(q, step_seconds);
    let global_tokens = out.global_tokens();
    let trained = run.steps * global_tokens;
    let rates = rates(&q.prices, &s.hardware);
    let (lr, lr_why, lr_spread) = learning_rate(q, trained as f64, global_tokens, run.steps, step_seconds);
    let (_, mut spread) = batch_tokens(&q.model, trained as f64);
    spread.extend(lr_spread);
    spread.extend(loss_laws(&q.model, worth(q, trained, global_tokens)));
    let (predicted, low, high) = loss_of(q, trained, global_tokens);
    let stages: Vec<_> = match out.best.split.and_then(|at| out.found.splits.get(at)) {
        Some((held, node)) => uneven::stage_memories(s, &q.pins, node, p, held),
        None => (0..p.pp).map(|stage| stage_memory(s, p, stage)).collect(),
    };
    let tokens_per_second = global_tokens as f64 / step_seconds;
    let each = tokens_per_second / s.gpus() as f64;

    let mut why: Vec<(&str, &'static str)> = decided;
    why.extend(lr_why);
    let fixed: [(&str, &'static str, bool); 14] = [
        ("layout.stages", "search", out.best.split.is_some()),
        ("layout.tp", "search", q.pins.tp.is_none()),
        ("layout.sequence_parallel", "search", q.pins.sequence_parallel.is_none()),
        ("layout.cp", "search", q.pins.cp.is_none()),
        ("layout.pp", "search", q.pins.pp.is_none()),
        ("layout.vp", "search", q.pins.vp.is_none()),
        ("layout.schedule", "search", q.pins.schedule.is_none()),
        ("layout.dp", "search", q.pins.dp.is_none()),
        ("layout.zero_stage", "search", q.pins.zero_stage.is_none()),
        ("layout.shard_group", "search", q.pins.shard_group.is_none()),
        ("batch.micro_batch_sequences", "search", q.pins.micro_batch.is_none()),
        ("layout.recompute", "search", q.pins.recompute.is_none()),
        ("layout.offload", "search", q.pins.offload.is_none()),
        ("determinism", "determinism.default", q.determinism.is_none()),
    ];
    why.extend(fixed.into_iter().filter(|(_, _, open)| *open).map(|(path, rule, _)| (path, rule)));
    why.extend([
        ("batch.critical_tokens", "batch.critical"),
        ("batch.accumulation", "batch.whole"),
        ("batch.global_sequences", "batch.whole"),
        ("budget.steps", "batch.whole"),
        ("budget.trained_tokens", "batch.whole"),
        ("budget.flops", "batch.whole"),
        ("budget.flops_6nt", "batch.whole"),
        ("memory", "memory.closed_form"),
        ("storage", "storage.mount"),
        ("time", "time.cost_model"),
        ("time.goodput", "goodput.daly"),
        ("time.train_seconds", "goodput.daly"),
        ("cost", "cost.money"),
        ("loss", "loss.chinchilla"),
    ]);
    for path in ["cost.gpu_per_hour", "cost.power_kw", "cost.pue", "cost.electricity_per_kwh"] {
        if rates.assumed.iter().any(|name| path.strip_prefix("cost.") == Some(name)) {
            why.push((path, "cost.assumed"));
        }
    }
    if q.run.checkpoint_every.is_none() {
        why.push(("schedule.checkpoint_every_steps", "goodput.daly"));
    }
    if q.run.eval_every.is_none() {
        why.push(("schedule.eval_every_steps", "schedule.eval"));
    }
    for (path, open) in [
        ("schedule.checkpoint_keep", q.run.checkpoint_keep.is_none()),
        ("schedule.checkpoint_zstd", q.run.checkpoint_zstd.is_none()),
        ("schedule.eval_sequences", q.run.eval_sequences.is_none()),
        ("schedule.skip_steps", q.run.skip_steps.is_none()),
    ] {
        if open {
            why.push((path, "schedule.defaults"));
        }
    }
    // Zero where the schedule has no decay: nobody typed it.
    if lr.schedule != llmc_plan::plan::LrSchedule::Wsd {
        why.push(("lr.decay_fraction", "lr.schedule"));
    }
    why.sort();

    let mut assumed: BTreeMap<String, String> =
        rates.assumed.iter().map(|name| (format!("cost.{name}"), "no price given".into())).collect();
    if q.reliability.failures_per_gpu_hour.is_none() {
        assumed.insert("time.goodput".into(), "failure rate of Llama 3's run".into());
    }
    let eval = q.run.eval_every.unwrap_or(Span::Fraction(0.02));
    let mut plan = Plan {
        format_version: FORMAT_VERSION.into(),
        recipe: Recipe { hash: String::new(), edition: 0, text: String::new() },
        model: q.model.clone(),
        budget: Budget {
            tokens: out.tokens,
            trained_tokens: trained,
            flops: settle(q.model.flops_per_token() * trained as f64),
            flops_6nt: settle(flops_6nt(&q.model, trained as f64)),
            steps: run.steps,
        },
        batch: Batch {
            global_tokens,
            global_sequences: s.sequences,
            micro_batch_sequences: p.micro,
            accumulation: s.micro_batches(p),
            critical_tokens: laws::critical_batch(predicted).ceil() as u64,
        },
        hardware: HardwareSummary {
            name: s.hardware.name.clone(),
            memory_bytes: s.hardware.memory_bytes,
            peak_bf16_flops: s.hardware.peak_bf16,
        },
        storage: q.mount.as_ref().map(|mount| {
            let sequences = (s.sequences, p.micro);
            storage::section(mount, (&q.model, &layout), sequences, computing, run.checkpoint)
        }),
        layout,
        optimizer: q.optimizer.clone(),
        lr,
        precision: q.precision,
        determinism: s.determinism,
        seed: q.seed,
        freeze: Vec::new(),
        from: None,
        schedule: RunSchedule {
            checkpoint_every_steps: ((run.interval / step_seconds).round().max(1.0) as u64).min(run.steps),
            checkpoint_keep: q.run.checkpoint_keep.unwrap_or(3),
            checkpoint_zstd: q.run.checkpoint_zstd.unwrap_or(0),
            eval_every_steps: span_steps(eval, run.steps, global_tokens, step_seconds),
            eval_sequences: q.run.eval_sequences.unwrap_or(0),
            skip_steps: q.run.skip_steps.unwrap_or(RunSchedule::SKIP_STEPS),
        },
        memory: Memory { device_bytes: stages.iter().map(|m| m.device).max().unwrap_or(0), stages },
        time: Time {
            step_seconds: settle(step_seconds),
            tokens_per_second: settle(tokens_per_second),
            tokens_per_second_per_gpu: settle(each),
            mfu: settle(each * q.model.flops_per_token() / s.hardware.peak_bf16),
            breakdown: breakdown(&out.best.compute, &out.best.step)
                .into_iter()
                .chain((waits > 0.0).then(|| ("data".to_string(), waits)))
                .map(|(name, seconds)| (name, settle(seconds)))
                .collect(),
            train_seconds: settle(run.seconds),
            goodput: settle(run.goodput),
        },
        cost: Cost { failures: settle(run.seconds / run.mtbf), ..rates.bill(s.gpus(), run.seconds) },
        loss: Loss {
            predicted: settle(predicted),
            low: settle(low),
            high: settle(high),
            law: laws::BESIROGLU.name.into(),
        },
        search: search_record(out, q, &rates, &spread),
        facts: BTreeMap::new(),
    };
    // What the lowering does not know has no program to hold the closed form against.
    if let Err(LowerError::Unsupported { reason, .. }) = lowered(&plan, &Options::new(Backend::Cuda)) {
        plan.search.extrapolated.push(format!("no program, closed form alone: {reason}"));
    }
    Answer {
        plan,
        why: why.into_iter().map(|(path, rule)| Reason { path: path.into(), rule }).collect(),
        assumed,
        spread,
        pruned_by: out.found.pruned_by.iter().map(|(bound, n)| (bound.to_string(), *n)).collect(),
    }
}
