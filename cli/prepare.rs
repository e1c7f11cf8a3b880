//! From a file named on the command line to a compiled recipe, its findings drawn; or to a plan read back.

use std::path::{Path, PathBuf};

use llmc_compiler::check::meaning;
use llmc_compiler::{Compiled, Severity, facts_of};
use llmc_plan::data::DataSpec;
use llmc_plan::plan::Plan;

use crate::args::Global;
use crate::exit::Failure;
use crate::terminal::{Terminal, talk};
use crate::world::Folder;
use crate::{draw, files};

/// A plan ready to be executed.
pub struct Prepared {
    /// The plan.
    pub plan: Plan,
    /// Its bytes, as they are written.
    pub json: String,
    /// Its corpus.
    pub data: DataSpec,
    /// The folder that paths of the recipe start from.
    pub root: PathBuf,
}

/// Compiles a recipe and draws its findings on stderr.
pub fn compiled(terminal: &Terminal, global: &Global, recipe: &Path) -> Result<Compiled, Failure> {
    let world = Folder::new(recipe, &global.hardware)?;
    let compiled = llmc_compiler::compile(&recipe_text(recipe)?, &global.set, &world);
    report(terminal, recipe, &compiled);
    Ok(compiled)
}

/// Compiles a recipe that a question is asked about, its warnings only counted on stderr.
pub fn answered(terminal: &Terminal, global: &Global, recipe: &Path) -> Result<Compiled, Failure> {
    let world = Folder::new(recipe, &global.hardware)?;
    let compiled = llmc_compiler::compile(&recipe_text(recipe)?, &global.set, &world);
    let name = recipe.display().to_string();
    talk(&draw::brief(terminal, &name, &compiled.sources, &compiled.diagnostics));
    Ok(compiled)
}

/// The text of a recipe. A plan in its place would be hundreds of lines that are no part of the language.
pub fn recipe_text(path: &Path) -> Result<String, Failure> {
    let text = files::read(path)?;
    if text.trim_start().starts_with('{') && text.contains("\"format_version\"") {
        let path = path.display();
        return Err(Failure::new(
            format!(
                "{path} is a plan, not a recipe: `llmc run`, `llmc diff` and `--against` read plans; its recipe is the `recipe.text` in it"
            ),
            format!(
                "{path} 是计划而不是配方：`llmc run`、`llmc diff` 和 `--against` 读取计划；配方在其中的 `recipe.text`"
            ),
        ));
    }
    Ok(text)
}

/// Draws the findings on stderr.
pub fn report(terminal: &Terminal, recipe: &Path, compiled: &Compiled) {
    let name = recipe.display().to_string();
    talk(&draw::all(terminal, &name, &compiled.sources, &compiled.diagnostics));
}

/// `plan.json`: the plan with its facts, ending in a newline.
pub fn json(plan: &Plan, compiled: &Compiled) -> Result<String, Failure> {
    let whole = Plan { facts: facts_of(plan, &compiled.ledger), ..plan.clone() };
    pretty(&whole)
}

/// Any data as indented JSON, ending in a newline.
pub fn pretty(data: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(data).map(|text| text + "\n").map_err(|error| Failure::new(&error, &error))
}

/// A recipe compiled with these `--set`, its findings drawn only when it is wrong; `None` then.
pub fn prepare_with(
    terminal: &Terminal,
    global: &Global,
    set: &[String],
    path: &Path,
) -> Result<Option<Prepared>, Failure> {
    let world = Folder::new(path, &global.hardware)?;
    let mut compiled = llmc_compiler::compile(&recipe_text(path)?, set, &world);
    demand_files(&mut compiled);
    if compiled.failed() {
        report(terminal, path, &compiled);
        return Ok(None);
    }
    ready(terminal, &compiled, &world)
}

/// A recipe compiled, or a plan read back; `None` when the recipe is wrong, which has been drawn then.
pub fn prepare(terminal: &Terminal, global: &Global, path: &Path) -> Result<Option<Prepared>, Failure> {
    if is_plan(path) {
        return plan_and_data(path, global).map(Some);
    }
    let world = Folder::new(path, &global.hardware)?;
    let mut compiled = llmc_compiler::compile(&recipe_text(path)?, &global.set, &world);
    demand_files(&mut compiled);
    report(terminal, path, &compiled);
    if compiled.failed() { Ok(None) } else { ready(terminal, &compiled, &world) }
}

/// Plan and data of a recipe without errors.
fn ready(terminal: &Terminal, compiled: &Compiled, world: &Folder) -> Result<Option<Prepared>, Failure> {
    match (&compiled.plan, &compiled.data) {
        (Some(plan), Some(data)) => {
            let json = json(plan, compiled)?;
            Ok(Some(Prepared { plan: plan.clone(), json, data: data.clone(), root: world.root().to_owned() }))
        }
        (Some(_), None) => {
            no_text(terminal);
            Ok(None)
        }
        (None, _) => Ok(None),
    }
}

/// What planning may assume, a run needs: findings about absent files become errors.
pub fn demand_files(compiled: &mut Compiled) {
    for found in &mut compiled.diagnostics {
        let needed = [meaning::corpus::RULE, meaning::base_absent::RULE, meaning::table_absent::RULE];
        if needed.iter().any(|rule| rule.code == found.code) {
            found.severity = Severity::Error;
        }
    }
}

/// Says that a recipe without `data` cannot run.
pub fn no_text(terminal: &Terminal) {
    talk(terminal.say(
        "llmc: the recipe names no text: add a `data` clause, as in data < web \"corpus/*.jsonl\" >\n",
        "llmc: 配方没有指定文本：请加上 `data` 子句，例如 data < web \"corpus/*.jsonl\" >\n",
    ));
}

/// Whether a path names a plan rather than a recipe.
pub fn is_plan(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

/// A plan with its own bytes. Another major version is refused.
pub fn read_plan(path: &Path) -> Result<(Plan, String), Failure> {
    let json = files::read(path)?;
    let shown = path.display();
    let version: serde_json::Value = serde_json::from_str(&json).map_err(|error| {
        Failure::new(
            format!(
                "{shown} is no plan, not even JSON ({error}): `llmc plan RECIPE -o plan.json` writes one"
            ),
            format!(
                "{shown} 不是计划，也不是 JSON（{error}）：请用 `llmc plan RECIPE -o plan.json` 写出计划"
            ),
        )
    })?;
    let version = version.get("format_version").and_then(|version| version.as_str()).unwrap_or("none");
    let ours = llmc_plan::plan::FORMAT_VERSION;
    if version.split('.').next() != ours.split('.').next() {
        return Err(Failure::new(
            format!("{shown} has format version {version}, this llmc reads {ours}: plan the recipe again"),
            format!("{shown} 的格式版本为 {version}，本程序只能读取 {ours}：请重新生成计划"),
        ));
    }
    let plan = serde_json::from_str(&json).map_err(|error| {
        Failure::new(format!("{shown} is no plan: {error}"), format!("{shown} 不是计划：{error}"))
    })?;
    Ok((plan, json))
}

/// A plan, and the corpus that the recipe inside it names. Its paths start from the folder of the plan, unless a run
/// has written the plan: then they are those of the `data.json` beside it.
fn plan_and_data(path: &Path, global: &Global) -> Result<Prepared, Failure> {
    let (plan, json) = read_plan(path)?;
    llmc_plan::lower::check(&plan).map_err(|error| {
        let path = path.display();
        Failure::new(
            format!("{path} cannot be run: {error}; plan the recipe again"),
            format!("{path} 无法运行：{error}；请重新生成计划"),
        )
    })?;
    let beside = path.with_file_name("data.json");
    let world = Folder::new(path, &global.hardware)?;
    let mut root = world.root().to_owned();
    let data = if beside.exists() {
        let data: DataSpec = serde_json::from_str(&files::read(&beside)?).map_err(|error| {
            let beside = beside.display();
            Failure::new(format!("{beside}: {error}"), format!("{beside}：{error}"))
        })?;
        root = root.join(&data.root);
        Some(data)
    } else {
        llmc_compiler::check(&plan.recipe.text, &global.set, &world).data
    };
    let data = data.ok_or_else(|| {
        let path = path.display();
        Failure::new(
            format!("the recipe inside {path} names no text: add a `data` clause and plan again"),
            format!("{path} 中的配方没有指定文本：请加上 `data` 子句并重新生成计划"),
        )
    })?;
    Ok(Prepared { plan, json, data, root })
}
