//! `llmc why` and `llmc why-not`: where a value comes from, and what another choice would do.

use std::path::Path;

use llmc_compiler::why::{self, why};
use llmc_compiler::why_not::{self, Verdict, why_not};

use crate::args::{Format, Global};
use crate::draw;
use crate::exit::{Exit, Failure, Outcome};
use crate::prepare::{self, pretty};
use crate::terminal::{Terminal, data, fit, talk};
use crate::world::Folder;

/// The derivation of one value.
pub fn run(terminal: &Terminal, global: &Global, recipe: &Path, path: &str) -> Outcome {
    let compiled = prepare::answered(terminal, global, recipe)?;
    if compiled.plan.is_none() {
        return Ok(Exit::Recipe.into());
    }
    let mut node = why(&compiled, path).map_err(|near| unknown(path, near))?;
    why::explore(
        &mut node,
        &compiled,
        &compiled.sources.recipe,
        &global.set,
        &Folder::new(recipe, &global.hardware)?,
    );
    data(&match terminal.format {
        Format::Json => pretty(&node)?,
        Format::Markdown => fenced(&why::lines(&node, terminal.lang)),
        Format::Human => fit(&why::lines(&node, terminal.lang), terminal.columns, 0),
    })?;
    Ok(Exit::Ok.into())
}

/// The consequences of another choice, or the rule that refuses it. The question is answered in either case.
pub fn not(terminal: &Terminal, global: &Global, recipe: &Path, choice: &str) -> Outcome {
    if choice.trim().is_empty() {
        return Err(Failure::new(
            "no choice is given: write it as in `llmc why-not recipe.llm tp=8`",
            "没有给出选择：请写成 `llmc why-not recipe.llm tp=8` 的形式",
        ));
    }
    // The recipe itself must stand before a choice can be judged.
    let compiled = prepare::answered(terminal, global, recipe)?;
    if compiled.plan.is_none() {
        return Ok(Exit::Recipe.into());
    }
    let world = Folder::new(recipe, &global.hardware)?;
    let (verdict, other) =
        why_not(&compiled.sources.recipe, &global.set, choice, &world, terminal.data_lang());
    let name = recipe.display().to_string();
    // Of words and kinds of value that the language lacks there is nothing to weigh: the command line is wrong, not the
    // choice.
    if let Verdict::Refused { diagnostics } = &verdict
        && diagnostics.iter().any(|d| d.code < "LLM0300")
    {
        talk(&draw::each(terminal, &name, &other.sources, diagnostics));
        return Ok(Exit::Usage.into());
    }
    data(&match (&verdict, terminal.format) {
        (_, Format::Json) => pretty(&verdict)?,
        (Verdict::Refused { diagnostics }, _) => draw::each(terminal, &name, &other.sources, diagnostics),
        (_, Format::Markdown) => why_not::markdown(&verdict, &other, terminal.lang),
        _ => fit(&why_not::lines(&verdict, &other, terminal.lang), terminal.columns, 2),
    })?;
    Ok(Exit::Ok.into())
}

/// A tree as Markdown keeps it.
fn fenced(lines: &str) -> String {
    format!("```text\n{lines}```\n")
}

fn unknown(path: &str, near: Option<String>) -> Failure {
    let list = ("`llmc plan --format json` shows all of them", "`llmc plan --format json` 列出全部");
    Failure::unknown(("no value", "值"), path, near, list)
}
