//! The plan as a Markdown report, through `templates/report.md.hbs` and its Chinese twin.

use handlebars::Handlebars;
use llmc_plan::plan::Plan;
use serde::Serialize;

use super::words;
use crate::chinese;
use crate::diag::{Lang, money};
use crate::unit::{grouped, human_bytes, human_count, human_time};

/// The template, for the test that every name in it exists.
pub fn markdown_template(lang: Lang) -> &'static str {
    match lang {
        Lang::En => include_str!("../../../templates/report.md.hbs"),
        Lang::Zh => include_str!("../../../templates/report.zh-CN.md.hbs"),
    }
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

fn context(p: &Plan, lang: Lang) -> Report {
    let (m, t, c, s) = (&p.model, &p.time, &p.cost, &p.loss);
    let row_of = |en, zh, (said_en, said_zh): (String, String)| match lang {
        Lang::En => row(en, said_en),
        Lang::Zh => row(zh, said_zh),
    };
    let same = |en, zh, value: String| row(lang.say(en, zh), value);
    let (params, devices) =
        (human_count(m.params as f64), format!("{} × {}", p.layout.gpus, p.hardware.name));
    let (context, rope) = (grouped(m.context), words::rope_words(p, lang));
    let (batch, steps) = (grouped(p.batch.global_tokens), grouped(p.budget.steps));
    let speed = grouped(t.tokens_per_second as u64);
    let each = grouped(t.tokens_per_second_per_gpu as u64);
    let (whole, goodput) = (human_time(t.train_seconds, lang), t.goodput * 100.0);
    let (loss, low, high, law) = (s.predicted, s.low, s.high, &s.law);
    let stage = p.memory.stages.iter().max_by_key(|s| s.device);
    let terms = stage.map_or(Vec::new(), words::memory_terms);
    Report {
        title: match lang {
            Lang::En => format!("{} {params} on {devices}", m.family),
            Lang::Zh => format!("{devices} 上的 {} {params}", m.family),
        },
        hash: p.recipe.hash.clone(),
        edition: p.recipe.edition,
        recipe: p.recipe.text.trim_end().to_owned(),
        summary: vec![
            same("parameters", "参数", grouped(m.params)),
            row_of(
                "context",
                "上下文",
                (format!("{context} tokens, {rope}"), format!("{context} 词元，{rope}")),
            ),
            same("tokens", "词元", grouped(p.budget.trained_tokens)),
            row_of(
                "batch",
                "批大小",
                (format!("{batch} tokens, {steps} steps"), format!("{batch} 词元，{steps} 步")),
            ),
            same("layout", "布局", words::layout_words(&p.layout, p.batch.micro_batch_sequences, lang)),
            same("memory", "显存", words::of_device(p, lang)),
            same("step", "每步", human_time(t.step_seconds, lang)),
            row_of(
                "tokens/s",
                "词元/秒",
                (format!("{speed} ({each} a device)"), format!("{speed}（每卡 {each}）")),
            ),
            same("MFU", "MFU", format!("{:.1}%", t.mfu * 100.0)),
            row_of(
                "run",
                "全程",
                (format!("{whole}, goodput {goodput:.1}%"), format!("{whole}，有效率 {goodput:.1}%")),
            ),
            same(
                "cost",
                "费用",
                format!("{} = {}", money(c.total, &c.currency), words::sum_of_money(p, lang)),
            ),
            row_of(
                "loss",
                "损失",
                (
                    format!("{loss:.3} ({low:.3} to {high:.3}, {law})"),
                    format!("{loss:.3}（{low:.3} 至 {high:.3}，{law}）"),
                ),
            ),
        ],
        memory: terms.into_iter().map(|(en, zh, bytes)| same(en, zh, human_bytes(bytes))).collect(),
        time: t.breakdown.iter().map(|(name, s)| row(name, human_time(*s, lang))).collect(),
        // The frontier has the best layout for fewer and for more tokens too: those are no other layouts.
        pareto: (p.search.pareto.iter())
            .filter(|x| libm::fabs(x.tokens as f64 / p.budget.trained_tokens.max(1) as f64 - 1.0) < 0.1)
            .map(|x| Point {
                layout: words::layout_words(&x.layout, x.micro_batch_sequences, lang),
                step: human_time(x.step_seconds, lang),
                cost: money(x.cost, &c.currency),
                free: human_bytes(x.margin_bytes),
            })
            .collect(),
        assumed: c.assumed.join(lang.say(", ", "、")),
        extrapolated: match lang {
            Lang::En => p.search.extrapolated.clone(),
            Lang::Zh => p.search.extrapolated.iter().map(|said| chinese::extrapolated(said)).collect(),
        },
    }
}

/// The report.
///
/// # Errors
/// A template that names what [`Report`] does not hold: a bug of ours, found by the tests.
pub fn markdown(p: &Plan, lang: Lang) -> Result<String, String> {
    let mut engine = Handlebars::new();
    engine.set_strict_mode(true);
    // Markdown is no HTML: `&` and `=` stay as they are.
    engine.register_escape_fn(handlebars::no_escape);
    engine.render_template(markdown_template(lang), &context(p, lang)).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Strict mode does not look inside `{{#if …}}`, so names are checked here.
    #[test]
    fn every_name_of_the_template_exists() {
        let c = crate::compile("model llama 7b budget 1T tokens on 64xH100", &[], &crate::Nowhere);
        let json = serde_json::to_string(&context(c.plan.as_ref().unwrap(), Lang::Zh)).unwrap();
        let [en, zh] = [Lang::En, Lang::Zh].map(markdown_template);
        for piece in en.split("{{").chain(zh.split("{{")).filter(|piece| piece.contains("}}")) {
            let inside = piece.split("}}").next().unwrap();
            let name = inside.trim_start_matches(['#', '/']).split_whitespace().last().unwrap();
            if !["each", "if", "this"].contains(&name) {
                assert!(json.contains(&format!("\"{name}\":")), "{name}");
            }
        }
    }
}
