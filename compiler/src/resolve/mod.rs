//! Clauses → typed facts. One file per group of clauses; each reader marks what it consumes.
//!
//! Nothing is derived here: a fact is what somebody typed. Presets and rules follow in `derive/`.

mod budget;
pub mod cx;
mod data;
mod layout;
pub mod merge;
pub mod mix;
mod model;
pub mod read;
mod syntax;
mod training;

use llmc_grammar::Cmp;
use llmc_plan::mount::Mount;
use llmc_planner::fitted::Fitted;
use llmc_planner::hardware::Hardware;

use crate::diag::Span;
use crate::ledger::Facts;
use crate::unit::{Currency, Dimension};
use crate::world::World;
pub use cx::Cx;
pub use data::{DataClause, Phase, SourceClause};
pub use model::MAX_PARAMETERS;

/// What the recipe says, typed.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// Plain values by path.
    pub facts: Facts,
    /// The device of `on`, if it is known.
    pub hardware: Option<Hardware>,
    /// File of `llmc data bench`.
    pub mount_file: Option<mix::Table>,
    /// What it says, once it was read.
    pub mount: Option<Mount>,
    /// File of `llmc calibrate`.
    pub profile_file: Option<mix::Table>,
    /// What it says, once it was read.
    pub fitted: Option<Fitted>,
    /// Sources of text and what is done to them.
    pub data: DataClause,
    /// Parameters that are not trained.
    pub freeze: Vec<String>,
    /// Bounds the plan must meet.
    pub expect: Vec<Expectation>,
    /// The first currency a sum names, and where.
    pub currency: Option<(Currency, Span)>,
    /// Is there a `model` clause? Without one there is nothing to check.
    pub has_model: bool,
}

/// `memory <= 76 GiB`
#[derive(Clone, Debug)]
pub struct Expectation {
    /// Which figure of the plan.
    pub metric: Metric,
    /// Direction.
    pub cmp: Cmp,
    /// The bound, in base units.
    pub bound: f64,
    /// Where.
    pub span: Span,
}

/// A figure of the plan that `expect` may bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name in a recipe.
    pub name: &'static str,
    /// Its path in the plan.
    pub path: &'static str,
    /// Its dimension.
    pub dimension: Dimension,
}

/// Every metric.
pub const METRICS: &[Metric] = &[
    Metric { name: "memory", path: "memory.device_bytes", dimension: Dimension::Bytes },
    Metric { name: "time", path: "time.train_seconds", dimension: Dimension::Time },
    Metric { name: "step", path: "time.step_seconds", dimension: Dimension::Time },
    Metric { name: "cost", path: "cost.total", dimension: Dimension::Money },
    Metric { name: "energy", path: "cost.electricity_kwh", dimension: Dimension::Energy },
    Metric { name: "mfu", path: "time.mfu", dimension: Dimension::Ratio },
    Metric { name: "goodput", path: "time.goodput", dimension: Dimension::Ratio },
    Metric { name: "loss", path: "loss.predicted", dimension: Dimension::Count },
    Metric { name: "tokens", path: "budget.trained_tokens", dimension: Dimension::Tokens },
];

/// Reads all clauses of a recipe and its overrides.
pub fn resolve(cx: &mut Cx, world: &dyn World) -> Resolved {
    let mut r = Resolved::default();
    syntax::report(cx);
    model::model(cx, &mut r);
    training::edition(cx, &mut r);
    training::seed(cx, &mut r);
    budget::from(cx, &mut r);
    budget::budget(cx, &mut r);
    budget::on(cx, &mut r, world);
    training::batch(cx, &mut r);
    training::optimizer(cx, &mut r);
    training::lr(cx, &mut r);
    training::precision(cx, &mut r);
    training::determinism(cx, &mut r);
    training::freeze(cx, &mut r);
    layout::layout(cx, &mut r);
    layout::checkpoint(cx, &mut r);
    layout::eval(cx, &mut r);
    data::tokenizer(cx, &mut r);
    data::data(cx, &mut r);
    data::clean(cx, &mut r);
    data::pack(cx, &mut r);
    data::mixture(cx, &mut r);
    budget::price(cx, &mut r);
    budget::expect(cx, &mut r);
    r
}

impl Resolved {
    /// Writes a typed value at its path.
    fn put(&mut self, path: &str, fact: (crate::ledger::Fact, crate::ledger::Why)) {
        self.facts.put(path, fact.0, fact.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_keyword_is_read() {
        for keyword in llmc_grammar::Keyword::ALL {
            let text = format!("{} zzz", keyword.text());
            let mut cx = Cx::new(&text, &[]);
            resolve(&mut cx, &crate::world::Nowhere);
            let left = cx.leftovers();
            assert!(left.iter().all(|s| s.start > 0), "nothing reads `{}`", keyword.text());
        }
    }
}
