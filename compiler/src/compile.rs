//! The pipeline on one screen: resolve · derive · check · ask · join.

use std::collections::BTreeMap;

use llmc_plan::data::DataSpec;
use llmc_plan::mount::Mount;
use llmc_plan::plan::{Fact as PlanFact, Plan};
use llmc_planner::fitted;
use llmc_planner::logs::OWN;
use llmc_planner::{Answer, Question};
use sha2::{Digest, Sha256};

use crate::check::meaning::{
    base_absent, base_shape, batch_layout, budget_over, corpus, expectation, impossible, layout, mount,
    no_hardware, profile, table_absent, table_rows, unfit,
};
use crate::check::{self, syntax};
use crate::derive;
use crate::diag::{Diagnostic, Severity, Source, Sources};
use crate::ledger::{Fact, Facts, Ledger, Why};
use crate::question;
use crate::resolve::mix::Table;
use crate::resolve::{self, Cx, Resolved};
use crate::table;
use crate::world::World;

/// Everything known about a recipe.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The plan, its `facts` left empty until [`Compiled::plan_json`]; `None` when an error stands in the way, or in [`check`].
    pub plan: Option<Plan>,
    /// The planner's whole answer: spread of the laws, assumptions.
    pub answer: Option<Answer>,
    /// Reason of every leaf of the plan but `search.*`.
    pub ledger: Ledger,
    /// Typed and derived values, those included that a plan does not repeat.
    pub facts: Facts,
    /// What the planner was asked.
    pub question: Option<Question>,
    /// What `llmc-data` is told; `None` without a `data` clause.
    pub data: Option<DataSpec>,
    /// What was found, errors first as they stand in the text.
    pub diagnostics: Vec<Diagnostic>,
    /// The texts that spans point into.
    pub sources: Sources,
}

impl Compiled {
    /// `plan.json`: the plan with `facts` joined, each value once with its reason.
    pub fn plan_json(&self) -> Option<String> {
        let mut plan = self.plan.clone()?;
        plan.facts = facts_of(&plan, &self.ledger);
        plan.to_json().ok()
    }

    /// Is there an error among the findings?
    pub fn failed(&self) -> bool {
        self.diagnostics.iter().any(|d| d.severity == Severity::Error)
    }
}

/// Checks a recipe: no hardware needed, nothing searched.
pub fn check(recipe: &str, sets: &[String], world: &dyn World) -> Compiled {
    let (r, mut diagnostics, sources) = front(recipe, sets, world);
    sort(&mut diagnostics);
    Compiled {
        plan: None,
        answer: None,
        ledger: ledger_of(&r.facts),
        question: question::question(&r),
        data: question::data(&r),
        facts: r.facts,
        diagnostics,
        sources,
    }
}

/// Compiles a recipe to a plan.
pub fn compile(recipe: &str, sets: &[String], world: &dyn World) -> Compiled {
    let (r, mut diagnostics, sources) = front(recipe, sets, world);
    let mut question = None;
    let mut planned = None;
    if !failed(&diagnostics) {
        diagnostics.extend(no_hardware::check(&r));
    }
    nearest(&r, &mut diagnostics);
    if !failed(&diagnostics) {
        question = question::question(&r);
        planned = question.as_ref().and_then(|q| solve(&r, q, &sources, &mut diagnostics));
    }
    let mut out = Compiled {
        plan: None,
        answer: None,
        ledger: ledger_of(&r.facts),
        data: question::data(&r),
        facts: r.facts,
        question,
        diagnostics: Vec::new(),
        sources,
    };
    if let Some((plan, answer)) = planned {
        out.ledger = crate::join::ledger(&plan, &out.facts, &answer);
        out.plan = Some(plan);
        out.answer = Some(answer);
    }
    sort(&mut diagnostics);
    out.diagnostics = diagnostics;
    out
}

fn failed(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|d| d.severity == Severity::Error)
}

/// Text order within a severity, so that the same recipe always reports alike.
fn sort(diagnostics: &mut [Diagnostic]) {
    diagnostics
        .sort_by(|a, b| (a.severity, a.labels.first(), a.code).cmp(&(b.severity, b.labels.first(), b.code)));
}

/// Resolve, derive, check.
fn front(recipe: &str, sets: &[String], world: &dyn World) -> (Resolved, Vec<Diagnostic>, Sources) {
    let (shown, mut diagnostics) = texts(recipe, sets);
    // Of a text that is reported as a whole nothing is read.
    let whole = |source| {
        diagnostics.iter().any(|d: &Diagnostic| d.labels.first().is_some_and(|l| l.source == source))
    };
    let read = |source, text: &String| if whole(source) { String::new() } else { text.clone() };
    let set_texts: Vec<String> =
        shown.sets.iter().enumerate().map(|(i, text)| read(Source::Set(i + 1), text)).collect();
    let mut cx = Cx::new(&read(Source::Recipe, &shown.recipe), &set_texts);
    let mut r = resolve::resolve(&mut cx, world);
    for span in cx.leftovers() {
        let words = cx.slice(span).to_owned();
        cx.report(syntax::leftover::found(span, &words));
    }
    diagnostics.extend(std::mem::take(&mut cx.diagnostics));
    let base = read_base(&mut r, world);
    read_corpus(&mut r, world);
    diagnostics.extend(read_tables(&mut r, world));
    diagnostics.extend(read_mount(&mut r, world));
    diagnostics.extend(read_profile(&mut r, world));
    hardware_facts(&mut r);
    derive::run(&mut r.facts);
    // Checks over a half-read recipe would report the consequences of what is reported already.
    if !failed(&diagnostics) {
        diagnostics.extend(check::run(&r));
        diagnostics.extend(outside(&r, world, base));
    }
    (r, diagnostics, shown)
}

/// The recipe and each `--set` as a small recipe; what is none is reported as a whole and shown as typed.
fn texts(recipe: &str, sets: &[String]) -> (Sources, Vec<Diagnostic>) {
    let mut diagnostics: Vec<Diagnostic> = syntax::size::check(Source::Recipe, recipe).into_iter().collect();
    let mut shown = Sources { recipe: recipe.to_owned(), sets: Vec::new() };
    for (i, typed) in sets.iter().enumerate() {
        let source = Source::Set(i + 1);
        let text = resolve::merge::recipe_of_set(typed).unwrap_or_else(|head| {
            let near = crate::diag::nearest(&head, llmc_grammar::Keyword::ALL.iter().map(|k| k.text()));
            diagnostics.push(syntax::set::found(i + 1, typed, &head, near));
            typed.clone()
        });
        if diagnostics.iter().all(|d| d.labels.first().is_none_or(|l| l.source != source)) {
            diagnostics.extend(syntax::size::check(source, &text));
        }
        shown.sets.push(text);
    }
    (shown, diagnostics)
}

/// What `config.json` of the base says, by the model's path.
type Base = BTreeMap<&'static str, u64>;

/// Reads the base model's config.json into facts; what the recipe pins is compared later.
fn read_base(r: &mut Resolved, world: &dyn World) -> Option<Base> {
    let path = format!("{}/config.json", r.facts.word("from")?.trim_end_matches('/'));
    let text = world.read(&path)?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    let mut base = Base::new();
    // Keys of Hugging Face's LlamaConfig (huggingface/transformers, models/llama/configuration_llama.py).
    for (key, name) in [
        ("num_hidden_layers", "model.layers"),
        ("hidden_size", "model.hidden"),
        ("num_attention_heads", "model.heads"),
        ("num_key_value_heads", "model.kv_heads"),
        ("head_dim", "model.head_dim"),
        ("intermediate_size", "model.ffn"),
        ("vocab_size", "model.vocab"),
        ("max_position_embeddings", "base.config_context"),
    ] {
        if let Some(n) =
            config.get(key).and_then(serde_json::Value::as_u64).filter(|n| (1..=1 << 30).contains(n))
        {
            base.insert(name, n);
        }
    }
    let why =
        Why::Preset { table: path, row: "config.json".to_owned(), cite: format!("sha256 {}", hash(&text)) };
    for (name, n) in &base {
        if !r.facts.has(name) && (*name == "base.config_context" || !r.facts.has("model.size")) {
            r.facts.put(*name, Fact::Count(*n), why.clone());
        }
    }
    if let Some(theta) = config.get("rope_theta").and_then(serde_json::Value::as_f64).filter(|t| *t >= 1.0)
        && !r.facts.has("model.rope.theta")
    {
        r.facts.put("model.rope.theta", Fact::Real(theta), why);
    }
    Some(base)
}

/// Tokens of the sources as built. They decide what is said about the mixture, never the plan: that must not change when
/// the corpus of its own run appears.
fn read_corpus(r: &mut Resolved, world: &dyn World) {
    let Some(text) = world.manifest() else { return };
    let Ok(manifest) = serde_json::from_str::<llmc_plan::data::Manifest>(&text) else { return };
    for source in &mut r.data.sources {
        source.tokens = manifest.sources.iter().find(|s| s.name == source.name).map(|s| s.train.tokens);
    }
}

/// Reads the tables that `mix` names. A source with a fixed share needs no factor.
fn read_tables(r: &mut Resolved, world: &dyn World) -> Vec<Diagnostic> {
    let mut out = Vec::new();
    let all: Vec<String> = r.data.sources.iter().map(|s| s.name.clone()).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let free = r.data.sources.iter().filter(|s| s.weight.is_none()).map(|s| s.name.clone());
    let free: Vec<String> = free.collect();
    let free: Vec<&str> = free.iter().map(String::as_str).collect();
    let mut read = |named: &Option<Table>, needed: &[&str]| {
        let named = named.as_ref()?;
        let Some(text) = world.read(&named.path) else {
            out.push(table_absent::found(named.span, &named.path));
            return None;
        };
        let (numbers, wrong) = table::read(&named.path, &text, &all, needed);
        if wrong.is_empty() {
            return Some(numbers);
        }
        out.push(table_rows::found(named.span, &named.path, &wrong));
        None
    };
    let importance = read(&r.data.importance, &free);
    let reference = r.data.dynamic.as_ref().and_then(|rule| rule.reference.clone());
    r.data.references = read(&reference, &all).unwrap_or_default();
    for source in &mut r.data.sources {
        source.importance = importance.as_ref().and_then(|numbers| numbers.get(&source.name).copied());
    }
    out
}

/// Reads what `llmc data bench` has measured; the plan repeats it with the file as its reason.
fn read_mount(r: &mut Resolved, world: &dyn World) -> Option<Diagnostic> {
    let named = r.mount_file.clone()?;
    let Some(text) = world.read(&named.path) else {
        return Some(mount::found(named.span, &named.path, "it cannot be read"));
    };
    let measured = match Mount::read(&text) {
        Ok(measured) => measured,
        Err(problem) => return Some(mount::found(named.span, &named.path, &problem)),
    };
    let why = Why::Preset {
        table: named.path,
        row: "llmc data bench".to_owned(),
        cite: format!("sha256 {}", hash(&text)),
    };
    let mut put = |name: &str, fact: Fact| r.facts.put(format!("storage.{name}"), fact, why.clone());
    put("read_bytes_per_second", Fact::Real(measured.bytes_per_second));
    put("write_bytes_per_second", Fact::Real(measured.write_bytes_per_second));
    put("latency_seconds", Fact::Real(measured.latency_seconds));
    put("shard_bytes", Fact::Count(measured.shard_bytes));
    r.mount = Some(measured);
    None
}

/// Reads what `llmc calibrate` has fitted on our own runs of the recipe's device.
fn read_profile(r: &mut Resolved, world: &dyn World) -> Option<Diagnostic> {
    let named = r.profile_file.clone()?;
    let wrong = |problem: &str| Some(profile::found(named.span, &named.path, problem));
    let Some(text) = world.read(&named.path) else { return wrong("it cannot be read") };
    let fitted = match fitted::read(&text) {
        Ok(fitted) => fitted,
        Err(problem) => return wrong(&problem),
    };
    if fitted.stack != OWN {
        return wrong(&format!("it was fitted on runs of {}", fitted.stack));
    }
    let device = r.hardware.as_ref()?;
    match (&fitted.hardware, &fitted.family) {
        (Some(other), _) if *other != device.name => {
            return wrong(&format!("it was fitted on {other}, the recipe asks for {}", device.name));
        }
        (None, Some(other)) if *other != device.profile => {
            return wrong(&format!(
                "it was fitted on the family {other}, {} is of {}",
                device.name, device.profile
            ));
        }
        _ => r.fitted = Some(fitted),
    }
    None
}

fn hardware_facts(r: &mut Resolved) {
    let Some(h) = &r.hardware else { return };
    let kind = if h.kind == llmc_planner::hardware::Kind::Cpu { "cpu" } else { "cuda" };
    let why = Why::Preset {
        table: "hardware".to_owned(),
        row: h.name.clone(),
        cite: h.sources.get("memory").cloned().unwrap_or_default(),
    };
    r.facts.put("hardware.kind", Fact::Word(kind.to_owned()), why);
}

/// What depends on files: absent text, an absent or different base.
fn outside(r: &Resolved, world: &dyn World, base: Option<Base>) -> Vec<Diagnostic> {
    let mut out = Vec::new();
    for source in &r.data.sources {
        if world.matches(&source.glob) == Some(false) {
            out.push(corpus::found(source.span, &source.name, &source.glob));
        }
    }
    let Some(path) = r.facts.word("from") else { return out };
    let at = r.facts.span("from");
    match (base, at) {
        (None, Some(at)) => {
            out.push(base_absent::found(at, path, r.facts.count("base.context").unwrap_or(0)));
        }
        (Some(base), _) => {
            let figures: Vec<(String, u64, u64)> = (base.iter())
                .filter_map(|(name, theirs)| {
                    let ours = r.facts.count(name).filter(|n| n != theirs)?;
                    Some((name.strip_prefix("model.")?.to_owned(), *theirs, ours))
                })
                .collect();
            if let Some((name, _, _)) = figures.first() {
                let model = r.facts.span(&format!("model.{name}")).or(r.facts.span("model.size"));
                out.push(base_shape::found(at, model, &figures, path));
            }
        }
        _ => {}
    }
    out
}

fn solve(
    r: &Resolved,
    q: &Question,
    sources: &Sources,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<(Plan, Answer)> {
    let currency = r.facts.word("cost.currency").unwrap_or("CNY");
    match llmc_planner::solve(q) {
        Ok(answer) => {
            let mut plan = answer.plan.clone();
            plan.recipe.hash = hash(&sources.recipe);
            plan.recipe.edition = r.facts.count("recipe.edition").unwrap_or(2026);
            plan.recipe.text = sources.recipe.clone();
            plan.freeze = r.freeze.clone();
            plan.from = r.facts.word("from").map(str::to_owned);
            let json = serde_json::to_value(&plan).unwrap_or_default();
            for e in &r.expect {
                let planned = crate::join::leaf(&json, e.metric.path).and_then(serde_json::Value::as_f64);
                diagnostics.extend(planned.and_then(|x| expectation::check(e, x, &plan.cost.currency)));
            }
            Some((plan, answer))
        }
        Err(why) => {
            let d = unfit::found(r, currency, &why).or_else(|| budget_over::found(r, currency, &why));
            diagnostics.push(d.unwrap_or_else(|| impossible::found(r, currency, &why)));
            None
        }
    }
}

/// Where a pin that cannot work is all that is wrong: the nearest layouts that do.
fn nearest(r: &Resolved, diagnostics: &mut [Diagnostic]) {
    let mut errors = diagnostics.iter_mut().filter(|d| d.severity == Severity::Error);
    let (Some(only), None) = (errors.next(), errors.next()) else { return };
    let of_pins = [layout::RULE.code, batch_layout::RULE.code].contains(&only.code);
    let Some(q) = question::question(r).filter(|_| of_pins) else { return };
    let Err(why) = llmc_planner::solve(&q) else { return };
    let currency = r.facts.word("cost.currency").unwrap_or("CNY");
    *only = unfit::with_fixes(only.clone(), why.fixes(), currency);
}

fn ledger_of(facts: &Facts) -> Ledger {
    facts.iter().map(|(path, _, why)| (path.to_owned(), why.clone())).collect()
}

/// SHA-256 in lower-case hex.
pub fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

/// `facts` of a plan: value and reason by path.
pub fn facts_of(plan: &Plan, ledger: &Ledger) -> BTreeMap<String, PlanFact> {
    let json = serde_json::to_value(plan).unwrap_or_default();
    let why = |w: &Why| serde_json::to_value(w).unwrap_or_default();
    (crate::join::leaves(&json).into_iter())
        .filter_map(|(path, value)| Some((path.clone(), PlanFact { value, why: why(ledger.get(&path)?) })))
        .collect()
}
