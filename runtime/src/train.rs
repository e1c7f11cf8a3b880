//! The training loop: steps, evaluations, checkpoints, until the plan's last step or a signal.
//!
//! Not here: what a step is ([`crate::interpret`] runs the program's), how files look.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use llmc_corpus::loader::{Loaded, Part};
use llmc_corpus::{Loader, Stream};
use llmc_plan::lang::Lang;
use llmc_plan::plan::{Plan, Storage};
use llmc_plan::say;
use llmc_plan::walk;
use tch::Device;

use crate::breakdown::Breakdown;
use crate::checkpoint::{self, State, Store, config::config};
use crate::evaluate::evaluate;
use crate::events::Events;
use crate::failure::{Failure, Outcome};
use crate::host::{Session, Source, data_failure};
use crate::import::import;
use crate::interpret::{Machine, Observer, Pass};
use crate::layers::{self, Layers};
use crate::metrics::{EvalMetrics, Metrics, StepMetrics};
use crate::noise::{Estimate, NoiseScale};
use crate::oom::{self, Ledger};
use crate::profile::Profile;
use crate::progress::Progress;
use crate::run_folder::{RunFolder, write_whole};
use crate::schedule::learning_rate;
use crate::snapshot::{Snapshot, restore};
use crate::sources::SourceSums;
use crate::start::starting_state;
use crate::stop::Stop;
use crate::trace::Trace;
use crate::warm::warm;
use crate::watch::Several;
use crate::{chrome, device, prepare};

pub mod dynamic;
mod logging;

/// Micro-batches read before they are used.
fn read_ahead(plan: &Plan) -> usize {
    let asked = plan.storage.as_ref().map_or(Storage::READ_AHEAD, |storage| storage.read_ahead);
    usize::try_from(asked.clamp(1, 1 << 10)).unwrap_or(1)
}

/// Device scalars that only some programs have.
const FIRST_NORM: &str = "grad_sq.first";
const LOSS_SCALE: &str = "loss_scale";
const GOOD_STEPS: &str = "loss_scale.good";

/// Steps whose instructions go to `--trace`: the second one waits for events of the first.
const TRACED_STEPS: u64 = 2;

/// What the command line asks.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The built corpus; `data/` in the run folder when not given.
    pub data: Option<PathBuf>,
    /// Go on from the newest checkpoint.
    pub resume: bool,
    /// Write what the first steps did.
    pub trace: Option<PathBuf>,
    /// Write where the time of an early step went.
    pub profile: Option<PathBuf>,
    /// Run this program instead of the plan's.
    pub program: Option<PathBuf>,
    /// Stop after this optimizer step (the schedule stays that of the whole run).
    pub steps: Option<u64>,
    /// Choose GEMM algorithms at length.
    pub search_gemm: bool,
    /// Threads an operation may use; all cores when not given.
    pub threads: Option<usize>,
    /// Index of the device on this machine.
    pub local_rank: usize,
    /// Language of what is said.
    pub lang: Lang,
}

/// How training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All steps asked for are made.
    Complete,
    /// A signal asked to stop; the state is saved. Holds the exit code.
    Stopped(u8),
}

/// A run under way.
struct Run<'a> {
    folder: &'a RunFolder,
    stream: Arc<Stream>,
    loader: Loader,
    part: Part,
    following: Option<dynamic::Following>,
    machine: Machine<'a>,
    device: Device,
    metrics: Metrics,
    layers: Metrics,
    events: Events,
    progress: Progress,
    /// What instructions have taken from the allocator.
    ledger: Ledger,
    /// Bytes of library scratch that the program may take anyway.
    scratch: u64,
    /// Where to write the first watched step.
    profile: Option<PathBuf>,
    /// The last watched step.
    breakdown: Option<Breakdown>,
    /// Where it stands; what is on disk as a checkpoint when `saved`.
    state: State,
    saved: bool,
    /// Updates left out since the last one made.
    skipped_in_a_row: u64,
    clock: Instant,
    /// Seconds of former sittings.
    seconds_before: f64,
    /// Seconds of each step of this sitting.
    step_seconds: Vec<f64>,
    loss: Option<f64>,
    eval: Option<EvalMetrics>,
    /// Losses by source over the last tenth of the steps.
    late: SourceSums,
}

/// Trains the run in `folder`.
///
/// # Errors
/// One sentence and an exit code, see [`Failure`].
pub fn train(folder: &RunFolder, options: &Options, stop: &Stop) -> Outcome<Ended> {
    let plan = &folder.plan;
    let program = match &options.program {
        Some(path) => prepare::edited(path)?,
        None => prepare::lowered(plan, Some(&folder.data))?,
    };
    let data = options.data.clone().unwrap_or_else(|| folder.path.join("data"));
    let mut stream = prepare::corpus(&data, plan, &folder.data)?;
    let state = starting_state(folder, &mut stream, options.resume, options.lang)?;

    let device = device::prepare(plan, options.local_rank, options.threads)?;
    let footprint = walk::memory(&program);
    device::check_device(plan, device)?;
    device::check_libraries(device, &program)?;
    device::check_memory(plan, device, footprint.total)?;
    warm(plan, &program, device, &folder.path, options.search_gemm, options.lang)?;
    let explain =
        |ledger: &Ledger, failure| oom::explain(&folder.path, plan, &program, device, ledger, failure);
    let mut machine =
        Machine::new(&program, device, plan.seed).map_err(|e| explain(&Ledger::default(), e))?;
    let begin = Pass { list: "init", steps_done: 0 };
    machine.run(&program.init, begin, &mut Session::new(Source::None), None)?;
    let (state, from) = state;
    if let Some(checkpoint) = &from {
        restore(&program, machine.memory(), checkpoint, plan.model.vocab)?;
        if let Some([scale, good]) = state.loss_scale.filter(|_| has(&machine, LOSS_SCALE)) {
            machine.set(LOSS_SCALE, scale)?;
            machine.set(GOOD_STEPS, good)?;
        }
    } else if let Some(base) = &plan.from {
        // Paths of a recipe start from its folder, which is the root of its data.
        import(&program, machine.memory(), &Path::new(&folder.data.root).join(base), plan.model.vocab)?;
    }

    let last = options.steps.map_or(plan.budget.steps, |s| s.min(plan.budget.steps));
    let progress = Progress::start(last, state.step, &plan.cost.currency, options.lang);
    if from.is_some() {
        let (step, steps) = (state.step, plan.budget.steps);
        progress.note(&say!("resumed at step {step} of {steps}", "从第 {step} 步继续，共 {steps} 步"));
    }
    let following = dynamic::open(folder, &mut stream, &machine, options.resume)?;
    if following.is_none() {
        // Now, not in the middle of a run.
        stream.reaches(last).map_err(data_failure)?;
    }
    let stream = Arc::new(stream);
    let part = Part {
        first_step: state.step,
        end_step: last,
        accumulation: plan.batch.accumulation,
        rank: 0,
        ranks: 1,
    };
    let mut run = Run {
        late: SourceSums::new(&machine, &stream),
        loader: Loader::start(stream.clone(), part, read_ahead(plan)),
        part,
        following,
        device,
        metrics: Metrics::open(&folder.path.join("metrics.jsonl"), state.step)?,
        layers: Metrics::open(&folder.path.join("layers.jsonl"), state.step)?,
        ledger: Ledger::default(),
        scratch: footprint.workspace,
        profile: options.profile.clone(),
        breakdown: None,
        events: Events::create(&folder.path.join("events"), state.step)?,
        progress,
        folder,
        stream,
        machine,
        seconds_before: state.seconds,
        saved: from.is_some(),
        state,
        skipped_in_a_row: 0,
        clock: Instant::now(),
        step_seconds: Vec::new(),
        loss: None,
        eval: None,
    };
    let mut trace = options.trace.as_deref().map(Trace::create).transpose()?;
    let ended = run.go(last, stop, &mut trace);
    let ended = ended.map_err(|failure| explain(&run.ledger, failure))?;
    if let Some(trace) = trace {
        trace.finish()?; // fewer steps than a trace has
    }
    run.progress.finish();
    if run.step_seconds.is_empty() {
        let (path, made) = (folder.path.display(), run.state.step);
        let said = say!(
            "{path} is complete: {made} of {last} steps are made",
            "{path} 已完成：共 {last} 步，已完成 {made} 步"
        );
        eprintln!("{}", said.text(options.lang));
    } else if ended == Ended::Complete {
        let summary = run.summary(footprint.total)?;
        let text = serde_json::to_string_pretty(&summary).map_err(|e| Failure::bug(e.to_string()))?;
        write_whole(&folder.path.join("summary.json"), &format!("{text}\n"))?;
        eprintln!("\n{}", summary.table(options.lang));
    }
    Ok(ended)
}

/// Whether its program has a buffer.
fn has(machine: &Machine<'_>, buffer: &str) -> bool {
    machine.program().buffer_named(buffer).is_some()
}

impl Run<'_> {
    fn plan(&self) -> &Plan {
        &self.folder.plan
    }

    /// Steps until the last or a signal.
    fn go(&mut self, last: u64, stop: &Stop, trace: &mut Option<Trace>) -> Outcome<Ended> {
        let schedule = self.folder.plan.schedule.clone();
        let due = |every: u64, step: u64| every > 0 && step.is_multiple_of(every);
        let mut left_to_trace = TRACED_STEPS;
        while self.state.step < last {
            self.step(last, trace.as_mut())?;
            left_to_trace = left_to_trace.saturating_sub(1);
            if let Some(trace) = trace.take_if(|_| left_to_trace == 0) {
                trace.finish()?;
            }
            let step = self.state.step;
            if let Some(code) = stop.asked() {
                self.save()?;
                self.progress.note(&say!(
                    "stopped after step {step}; `--resume` goes on from here",
                    "已在第 {step} 步后停止；用 `--resume` 从这里继续"
                ));
                return Ok(Ended::Stopped(code));
            }
            if step == last || due(schedule.eval_every_steps, step) {
                self.evaluate()?;
            }
            if step == last || due(schedule.checkpoint_every_steps, step) {
                self.save()?;
            }
        }
        Ok(Ended::Complete)
    }

    /// Whether the next step is watched: once early, when everything is warm, and once near the end.
    fn watched(&self, last: u64) -> bool {
        let (made, left) = (self.step_seconds.len(), last.saturating_sub(self.state.step));
        made == 2 || made < 2 && left == 1 || made > 4 && left == 2
    }

    /// One optimizer step, logged.
    fn step(&mut self, last: u64, trace: Option<&mut Trace>) -> Outcome<()> {
        let done = self.state.step;
        let plan = &self.folder.plan;
        let every = layers::every(plan.budget.steps);
        let watched = self.watched(last) && trace.is_none();
        let recorded = !watched && ((done + 1).is_multiple_of(every) || done + 1 == plan.budget.steps);
        let scale = if recorded { self.loss_scale()?.unwrap_or(1.0) } else { 1.0 };
        let mut layers = recorded.then(|| Layers::new(self.scratch / 2, scale, plan.model.vocab));
        let mut ledger = std::mem::take(&mut self.ledger);
        let mut observers: Vec<&mut dyn Observer> = Vec::new();
        if (self.step_seconds.len() as u64) < oom::KEPT_STEPS {
            observers.push(&mut ledger);
        }
        if let Some(trace) = trace {
            observers.push(trace);
        }
        if let Some(layers) = &mut layers {
            observers.push(layers);
        }
        let mut profile = watched.then(|| Profile::start(self.device)).transpose()?;
        if let Some(profile) = &mut profile {
            observers.push(profile);
        }
        let made = self.update(observers);
        self.ledger = ledger;
        let seconds = made?;

        if let Some(layers) = layers {
            self.record(layers)?;
        }
        if let Some(profile) = profile {
            self.take_apart(profile, done + 1, seconds)?;
        }
        Ok(())
    }

    /// One optimizer step, its figures logged; its seconds.
    fn update(&mut self, observers: Vec<&mut dyn Observer>) -> Outcome<f64> {
        let clock = Instant::now();
        let waited = self.loader.starvation().waited;
        let done = self.state.step;
        let plan = &self.folder.plan;
        let first = self.first_batch(done)?;
        let (weight, weights) = (first.step_weight(), first.source_weights.clone());
        let Loaded { batch, .. } = first;
        if weight <= 0.0 {
            return Err(Failure::environment(say!(
                "no token of step {step} counts in the loss: look at the texts, or at what `document_mask` leaves",
                "第 {step} 步没有任何词元计入损失：请检查文本，以及 `document_mask` 保留了什么",
                step = done + 1
            )));
        }
        let lr = learning_rate(&plan.lr, plan.budget.steps, done + 1);
        self.machine.set("lr", lr)?;
        self.machine.set("inv_weight", 1.0 / weight)?;
        // Bias correction counts updates, not steps: a skipped one left the moments alone.
        self.machine.set("step", (done + 1 - self.state.skipped_updates) as f64)?;
        let first_weight: f64 = batch.weights.iter().map(|w| f64::from(*w)).sum();
        let mut session = Session::new(Source::Ahead { first: Some(batch), loader: &mut self.loader });
        let calls = &self.machine.program().step;
        let mut several = Several(observers);
        let observer = (!several.0.is_empty()).then_some(&mut several as &mut dyn Observer);
        self.machine.run(calls, Pass { list: "step", steps_done: done }, &mut session, observer)?;
        let loss = self.machine.get("loss_sum")? / weight;
        let mut sources = SourceSums::new(&self.machine, &self.stream);
        sources.add(&self.machine, &weights)?;
        if done < plan.budget.steps - plan.budget.steps / 10 {
            self.late = sources.clone();
        } else {
            self.late.add(&self.machine, &weights)?;
        }
        let grad_norm = self.machine.get("grad_sq")?.sqrt();
        let skipped = self.machine.get("skip")? != 0.0;
        let first_sample = self.state.next_sample;

        let seconds = clock.elapsed().as_secs_f64();
        self.step_seconds.push(seconds);
        self.state.step += 1;
        self.state.tokens += plan.batch.global_tokens;
        self.state.next_sample = self.stream.cursor(self.state.step).map_err(data_failure)?.next_sample;
        self.state.seconds = self.seconds();
        self.state.skipped_updates += u64::from(skipped);
        let noise = self.noise(first_weight / weight, grad_norm * grad_norm)?;
        let loss_scale = self.loss_scale()?;
        self.saved = false;
        self.loss = loss.is_finite().then_some(loss);
        let (tokens_per_second, mfu) = self.speed(seconds);
        let metrics = StepMetrics {
            step: self.state.step,
            loss: self.loss,
            lr,
            grad_norm: grad_norm.is_finite().then_some(grad_norm),
            tokens: self.state.tokens,
            tokens_per_second,
            mfu,
            seconds,
            data_wait: (self.loader.starvation().waited - waited).as_secs_f64() / seconds.max(1e-9),
            source_tokens: self.source_tokens()?,
            source_loss: sources.losses(),
            cost: self.cost(),
            noise_scale: noise.map(|n| n.tokens),
            noise_scale_error: noise.map(|n| n.error),
            loss_scale,
            skipped,
        };
        self.log(&metrics, loss, grad_norm)?;
        self.judge(&metrics, first_sample)?;
        self.follow(&sources)?;
        Ok(seconds)
    }

    /// Factor on the loss of the next step; none unless in fp16.
    fn loss_scale(&self) -> Outcome<Option<f64>> {
        has(&self.machine, LOSS_SCALE).then(|| self.machine.get(LOSS_SCALE)).transpose()
    }

    /// Gradient noise, this step counted: `share` of its weight is the first micro-batch's.
    fn noise(&mut self, share: f64, grad_sq: f64) -> Outcome<Option<Estimate>> {
        if !has(&self.machine, FIRST_NORM) {
            return Ok(None);
        }
        let first_sq = self.machine.get(FIRST_NORM)? / (share * share);
        let tokens = self.plan().batch.global_tokens as f64;
        let noise = self.state.noise.get_or_insert_with(NoiseScale::default);
        noise.add((first_sq, share * tokens), (grad_sq, tokens));
        Ok(noise.estimate())
    }

    /// Writes what every layer did.
    fn record(&mut self, layers: Layers) -> Outcome<()> {
        let record = layers.finish(self.state.step)?;
        self.layers.write(&record)?;
        let scalars = record.scalars();
        let scalars: Vec<(&str, f64)> = scalars.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        self.events.scalars(record.step, &scalars)
    }

    /// Says where a watched step's time went, and keeps it for the end.
    fn take_apart(&mut self, profile: Profile, step: u64, seconds: f64) -> Outcome<()> {
        let watched = profile.finish()?;
        if let Some(path) = self.profile.take() {
            chrome::write(&path, step, &device::name(self.device), &watched)?;
        }
        let breakdown = Breakdown::new(self.plan(), step, &watched, seconds);
        if self.breakdown.is_none() {
            self.progress.note(&breakdown.line());
        }
        self.breakdown = Some(breakdown);
        Ok(())
    }

    /// Tokens of each source so far.
    fn source_tokens(&self) -> Outcome<BTreeMap<String, u64>> {
        let tokens = self.stream.source_tokens(self.state.step).map_err(data_failure)?;
        Ok(tokens.into_iter().map(|(name, tokens)| (name.to_owned(), tokens)).collect())
    }

    /// The first micro-batch of a step. An edited program may have left some of the step before unread.
    fn first_batch(&mut self, step: u64) -> Outcome<Loaded> {
        loop {
            let next = self.loader.next_batch();
            let next =
                next.ok_or_else(|| Failure::bug(format!("no batch was read for step {}", step + 1)))?;
            let loaded = next.map_err(data_failure)?;
            if loaded.step == step && loaded.micro_batch == 0 {
                return Ok(loaded);
            }
        }
    }

    /// Reports a step that was not finite; gives up when they do not end.
    fn judge(&mut self, metrics: &StepMetrics, first_sample: u64) -> Outcome<()> {
        if !metrics.skipped && metrics.loss.is_some() {
            self.skipped_in_a_row = 0;
            return Ok(());
        }
        // In fp16 gradients may overflow although the loss does not: the scale has been lowered, and the next step tries
        // again. At a scale of 1 that says what it says elsewhere.
        let overflowed = metrics.loss.is_some() && metrics.loss_scale.is_some_and(|scale| scale > 1.0);
        self.skipped_in_a_row += u64::from(!overflowed);
        let last_sample = self.state.next_sample.saturating_sub(1);
        let finite =
            |is| if is { say!("finite", "为有限值") } else { say!("not finite", "不是有限值") };
        let what = say!(
            "step {step} (samples {first_sample} to {last_sample}): loss {loss} and gradient norm {norm}",
            "第 {step} 步（样本 {first_sample} 到 {last_sample}）：损失{loss}，梯度范数{norm}",
            step = metrics.step,
            loss = finite(metrics.loss.is_some()),
            norm = finite(metrics.grad_norm.is_some())
        );
        if self.skipped_in_a_row > self.plan().schedule.skip_steps {
            return Err(Failure::recipe(say!(
                "{what}, number {count} in a row: lower the peak learning rate, lengthen the warm-up, or look at \
                 these samples; the last checkpoint is untouched",
                "{what}，已连续 {count} 次：请降低峰值学习率、加长预热，或检查这些样本；最后的检查点未受影响",
                what,
                count = self.skipped_in_a_row
            )));
        }
        let scale = metrics.loss_scale.map(|scale| say!("; loss scale {scale}", "；损失缩放 {scale}"));
        let (scale, skipped) = (scale.unwrap_or_default(), metrics.skipped);
        let update = if skipped { say!("skipped", "已跳过") } else { say!("made", "已执行") };
        self.progress.note(&say!(
            "{what}; update {update}{scale}",
            "{what}；更新{update}{scale}",
            what,
            update,
            scale
        ));
        Ok(())
    }

    fn evaluate(&mut self) -> Outcome<()> {
        let (sequences, micro) =
            (self.plan().schedule.eval_sequences, self.plan().batch.micro_batch_sequences);
        let found = evaluate(&mut self.machine, &self.stream, sequences, micro, self.state.step)?;
        let Some(metrics) = found else { return Ok(()) };
        self.metrics.write(&metrics)?;
        let values = [("eval/loss", metrics.eval_loss), ("eval/perplexity", metrics.perplexity)];
        self.events.scalars(metrics.step, &values)?;
        self.progress.note(&say!(
            "step {step}  validation loss {loss:.4}  perplexity {perplexity:.2}",
            "第 {step} 步  验证损失 {loss:.4}  困惑度 {perplexity:.2}",
            step = metrics.step,
            loss = metrics.eval_loss,
            perplexity = metrics.perplexity
        ));
        self.eval = Some(metrics);
        Ok(())
    }

    fn save(&mut self) -> Outcome<()> {
        if self.saved {
            return Ok(());
        }
        let folder = self.folder;
        let plan = &folder.plan;
        let mut session = Session::new(Source::None);
        let pass = Pass { list: "save", steps_done: self.state.step };
        let calls = &self.machine.program().save;
        self.machine.run(calls, pass, &mut session, None)?;
        self.state.loss_scale = match self.loss_scale()? {
            Some(scale) => Some([scale, self.machine.get(GOOD_STEPS)?]),
            None => None,
        };
        let snapshot = Snapshot::new(self.machine.program(), &session.saved, plan.model.vocab)?;
        let failure = snapshot.reports();
        let end = self.stream.manifest().tokenizer.end_of_document;
        self.state.seconds = self.seconds();
        let texts = [
            (checkpoint::CONFIG_FILE, config(&plan.model, plan.precision, Some(end))),
            (checkpoint::PLAN_FILE, folder.plan_text.clone()),
            (checkpoint::DATA_FILE, folder.data_text.clone()),
        ];
        let tensors =
            [(checkpoint::MODEL_FILE, snapshot.model), (checkpoint::OPTIMIZER_FILE, snapshot.optimizer)];
        let copied = || Snapshot::failure(&failure);
        let schedule = &plan.schedule;
        let storage = Store { keep: schedule.checkpoint_keep, zstd: schedule.checkpoint_zstd };
        checkpoint::write(&folder.checkpoints(), self.state.clone(), &texts, tensors, &copied, storage)?;
        self.saved = true;
        Ok(())
    }

    /// Seconds of all sittings, whole milliseconds: a decimal of seventeen digits may come back from `state.json` as
    /// another number, and its checksum with it.
    fn seconds(&self) -> f64 {
        ((self.seconds_before + self.clock.elapsed().as_secs_f64()) * 1e3).round() / 1e3
    }

    /// Tokens a second and model FLOPs utilisation of a step of `seconds`.
    fn speed(&self, seconds: f64) -> (f64, f64) {
        let plan = self.plan();
        let tokens_per_second = plan.batch.global_tokens as f64 / seconds.max(1e-9);
        let peak = plan.hardware.peak_bf16_flops * plan.layout.gpus as f64;
        (tokens_per_second, tokens_per_second * plan.model.flops_per_token() / peak.max(1.0))
    }

    /// Rent and electricity of the time so far, at the plan's prices.
    fn cost(&self) -> f64 {
        let cost = &self.plan().cost;
        let hourly = cost.gpu_per_hour + cost.power_kw * cost.pue * cost.electricity_per_kwh;
        self.state.seconds / 3600.0 * self.plan().layout.gpus as f64 * hourly
    }
}
