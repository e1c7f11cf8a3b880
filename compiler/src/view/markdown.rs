//! The plan as a Markdown report, through `templates/report.md.hbs`.

use handlebars::Handlebars;
use llmc_plan::plan::Plan;
use serde::Serialize;

use super::words;
use crate::diag::{Lang, money};
use crate::unit::{grouped, human_bytes, human_count, human_time};

/// The template, for the test that every name in it exists.
pub fn markdown_template() -> &'static str {
    include_str!("../../../templates/report.md.hbs")
}

/// Everything the template may name.
#[derive(Debug, Serialize)]
struct Report {
    title: String,
    hash: String,
    edition: u64,
    recipe: String,
    summary: Vec<Row>,
    memory: Vec<Row>,
    time: Vec<Row>,
    pareto: Vec<Point>,
    assumed: String,
    extrapolated: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    value: String,
}

#[derive(Debug, Serialize)]
struct Point {
    layout: String,
    step: String,
    cost: String,
    free: String,
}

fn row(name: &str, value: String) -> Row {
    Row { name: name.to_owned(), value }
}

fn context(p: &Plan) -> Report {
    let (m, t, c) = (&p.model, &p.time, &p.cost);
    let stage = p.memory.stages.iter().max_by_key(|s| s.device);
    Report {
        title: format!(
            "{} {} on {} × {}",
            m.family,
            human_count(m.params as f64),
            p.layout.gpus,
            p.hardware.name
        ),
        hash: p.recipe.hash.clone(),
        edition: p.recipe.edition,
        recipe: p.recipe.text.trim_end().to_owned(),
        summary: vec![
            row("parameters", grouped(m.params)),
            row("context", format!("{} tokens, {}", grouped(m.context), words::rope_words(p, Lang::En))),
            row("tokens", grouped(p.budget.trained_tokens)),
            row(
                "batch",
                format!("{} tokens, {} steps", grouped(p.batch.global_tokens), grouped(p.budget.steps)),
            ),
            row("layout", words::layout_words(&p.layout, p.batch.micro_batch_sequences, Lang::En)),
            row("memory", words::of_device(p, Lang::En)),
            row("step", human_time(t.step_seconds, Lang::En)),
            row(
                "tokens/s",
                format!(
                    "{} ({} a device)",
                    grouped(t.tokens_per_second as u64),
                    grouped(t.tokens_per_second_per_gpu as u64)
                ),
            ),
            row("MFU", format!("{:.1}%", t.mfu * 100.0)),
            row(
                "run",
                format!("{}, goodput {:.1}%", human_time(t.train_seconds, Lang::En), t.goodput * 100.0),
            ),
            row("cost", format!("{} = {}", money(c.total, &c.currency), words::sum_of_money(p, Lang::En))),
            row(
                "loss",
                format!("{:.3} ({:.3} to {:.3}, {})", p.loss.predicted, p.loss.low, p.loss.high, p.loss.law),
            ),
        ],
        memory: stage.map_or(Vec::new(), |s| {
            words::memory_terms(s).into_iter().map(|(name, _, bytes)| row(name, human_bytes(bytes))).collect()
        }),
        time: t.breakdown.iter().map(|(name, s)| row(name, human_time(*s, Lang::En))).collect(),
        pareto: (p.search.pareto.iter())
            .map(|x| Point {
                layout: words::layout_words(&x.layout, x.micro_batch_sequences, Lang::En),
                step: human_time(x.step_seconds, Lang::En),
                cost: money(x.cost, &c.currency),
                free: human_bytes(x.margin_bytes),
            })
            .collect(),
        assumed: c.assumed.join(", "),
        extrapolated: p.search.extrapolated.clone(),
    }
}

/// The report.
///
/// # Errors
/// A template that names what [`Report`] does not hold: a bug of ours, found by the tests.
pub fn markdown(p: &Plan) -> Result<String, String> {
    let mut engine = Handlebars::new();
    engine.set_strict_mode(true);
    // Markdown is no HTML: `&` and `=` stay as they are.
    engine.register_escape_fn(handlebars::no_escape);
    engine.render_template(markdown_template(), &context(p)).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Strict mode does not look inside `{{#if …}}`, so names are checked here.
    #[test]
    fn every_name_of_the_template_exists() {
        let c = crate::compile("model llama 7b budget 1T tokens on 64xH100", &[], &crate::Nowhere);
        let json = serde_json::to_string(&context(c.plan.as_ref().unwrap())).unwrap();
        for piece in markdown_template().split("{{").skip(1) {
            let inside = piece.split("}}").next().unwrap();
            let name = inside.trim_start_matches(['#', '/']).split_whitespace().last().unwrap();
            if !["each", "if", "this"].contains(&name) {
                assert!(json.contains(&format!("\"{name}\":")), "{name}");
            }
        }
    }
}
