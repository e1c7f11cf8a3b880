//! `why-not CHOICE`: the recipe planned again with another choice, and what that costs or what forbids it.

use llmc_plan::plan::Plan;
use serde::Serialize;

use crate::compile::{Compiled, compile};
use crate::diag::{Diagnostic, Lang, Severity, render};
use crate::diff::{Difference, decisions, diff};
use crate::world::World;

/// The verdict on a choice.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It is what the plan has.
    Chosen,
    /// It works, with these consequences against the plan.
    Worse {
        /// Plan → plan with the choice.
        difference: Difference,
    },
    /// It is refused.
    Refused {
        /// The first rule that rejects it, with its figures.
        diagnostics: Vec<Diagnostic>,
    },
}

/// A choice such as `tp=8 zero=3`, `recompute=full`, `budget=3 days` as overrides: a bare name is the layout's, a word
/// without `=` goes on with the value before it.
pub fn overrides(choice: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for part in choice.split([',', ' ']).filter(|part| !part.is_empty()) {
        match all.last_mut() {
            Some(before) if !part.contains(['=', '<', '>']) => {
                before.push(' ');
                before.push_str(part);
            }
            _ => {
                let clause = part.split(['=', '<', '>', '.']).next().unwrap_or("");
                let known = llmc_grammar::Keyword::from_text(clause).is_some();
                all.push(if known { part.to_owned() } else { format!("layout.{part}") });
            }
        }
    }
    all
}

/// Clauses that decide speed and cost only.
const SCHEDULE: &[&str] = &["on", "layout", "precision", "determinism"];

/// Plans the choice and compares, in the words of `lang`. The planned recipe with the choice comes back too, for its
/// texts.
pub fn why_not(
    recipe: &str,
    sets: &[String],
    choice: &str,
    world: &dyn World,
    lang: Lang,
) -> (Verdict, Compiled) {
    let base = compile(recipe, sets, world);
    let mut with: Vec<String> = sets.to_vec();
    let changes = overrides(choice);
    // A choice replaces an earlier `--set` of the same path instead of clashing with it.
    let path = |s: &str| s.split(['=', '<', '>']).next().unwrap_or("").trim().to_owned();
    with.retain(|old| changes.iter().all(|new| path(new) != path(old)));
    with.extend(changes.iter().cloned());
    // Schedule apart from meaning: a choice of layout is judged at the plan's own batch, as long as it can be kept.
    let only_schedule = changes.iter().all(|c| SCHEDULE.iter().any(|clause| c.starts_with(clause)));
    let batch = base.plan.as_ref().filter(|_| only_schedule && !base.facts.has("batch.asked_tokens"));
    let pinned = batch.map(|p| {
        let mut same = with.clone();
        same.push(format!("batch={} tokens", p.batch.global_tokens));
        compile(recipe, &same, world)
    });
    let other = match pinned {
        Some(c) if c.plan.is_some() => c,
        _ => compile(recipe, &with, world),
    };
    let verdict = match (&base.plan, &other.plan) {
        (_, None) => Verdict::Refused {
            diagnostics: other
                .diagnostics
                .iter()
                .filter(|d| d.severity == Severity::Error)
                .cloned()
                .collect(),
        },
        (Some(a), Some(b)) if same(a, b) => Verdict::Chosen,
        (Some(a), Some(b)) => Verdict::Worse { difference: diff(a, b, lang) },
        (None, Some(_)) => Verdict::Worse { difference: Difference::default() },
    };
    (verdict, other)
}

/// Whether both decide and predict the same; the way there may differ, a pin shortens it.
fn same(a: &Plan, b: &Plan) -> bool {
    decisions(a) == Plan { search: a.search.clone(), ..decisions(b) }
}

fn head(lang: Lang) -> &'static str {
    lang.say("it works; plan → with this choice:", "可行；计划 → 改用此选择：")
}

/// The verdict as Markdown.
pub fn markdown(verdict: &Verdict, other: &Compiled, lang: Lang) -> String {
    match verdict {
        Verdict::Worse { difference } => format!("{}\n\n{}", head(lang), difference.markdown(lang)),
        _ => lines(verdict, other, lang),
    }
}

/// The verdict as lines.
pub fn lines(verdict: &Verdict, other: &Compiled, lang: Lang) -> String {
    match verdict {
        Verdict::Chosen => match lang {
            Lang::En => "this is what the plan has\n".to_owned(),
            Lang::Zh => "计划采用的正是它\n".to_owned(),
        },
        Verdict::Worse { difference } => {
            format!("{}\n{}", head(lang), difference.lines(lang))
        }
        Verdict::Refused { diagnostics } => {
            diagnostics.iter().map(|d| render(d, &other.sources, lang)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = "model llama 7b < ctx 8k > budget 1T tokens on 64xH100";

    #[test]
    fn bare_names_are_the_layouts() {
        assert_eq!(overrides("tp=8 zero=3"), ["layout.tp=8", "layout.zero=3"]);
        assert_eq!(overrides("model.ctx=4k, recompute=full"), ["model.ctx=4k", "layout.recompute=full"]);
        assert_eq!(overrides("budget=3 days tp=2"), ["budget=3 days", "layout.tp=2"]);
        assert_eq!(overrides("expect.memory<=70 GiB"), ["expect.memory<=70 GiB"]);
    }

    #[test]
    fn a_worse_choice_shows_its_price() {
        let (verdict, other) = why_not(RECIPE, &[], "tp=8", &crate::Nowhere, Lang::En);
        let Verdict::Worse { difference } = &verdict else { panic!("{verdict:?}") };
        let step = difference.consequences.iter().find(|c| c.path == "time.step_seconds").unwrap();
        assert!(step.after.as_f64() > step.before.as_f64(), "{}", lines(&verdict, &other, Lang::En));
    }

    #[test]
    fn only_what_the_plan_has_is_chosen() {
        for (choice, chosen) in [
            ("micro=1", true),
            ("precision=bf16", true),
            ("seed=2", false),
            ("precision=fp8", false),
            ("price.gpu=¥9/h", false),
        ] {
            let (verdict, other) = why_not(RECIPE, &[], choice, &crate::Nowhere, Lang::Zh);
            let said = lines(&verdict, &other, Lang::Zh);
            assert_eq!(matches!(verdict, Verdict::Chosen), chosen, "{choice}: {said}");
            assert!(!said.contains("step:"), "{said}");
        }
    }

    #[test]
    fn an_impossible_choice_names_the_rule() {
        let (verdict, _) = why_not(RECIPE, &[], "tp=3", &crate::Nowhere, Lang::En);
        let Verdict::Refused { diagnostics } = verdict else { panic!("{verdict:?}") };
        assert_eq!(diagnostics[0].code, "LLM0801");
    }
}
