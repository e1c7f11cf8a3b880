//! What the planner answers: a plan with the reasons of what it decided, or why nothing works and what would.

use std::collections::BTreeMap;

use llmc_plan::plan::{Plan, StageMemory};

/// A plan and why it is so. The runner-up, the rejections and the frontier stand in `plan.search`.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The plan, floats rounded to 9 significant digits. `recipe`, `freeze`, `from` and `facts` are left empty.
    pub plan: Plan,
    /// JSON path → what decided it, for every value that search or derivation chose.
    pub why: Vec<Reason>,
    /// JSON path → the assumption made for want of an input.
    pub assumed: BTreeMap<String, String>,
    /// Spread of the laws: every candidate of a derived quantity beside the chosen one.
    pub spread: Vec<Candidate>,
    /// Points whose full cost was computed, by the bound that spared the others.
    pub pruned_by: BTreeMap<String, u64>,
}

/// What decided one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// JSON path in the plan, `layout.tp`.
    pub path: String,
    /// Identifier of the rule, resolved by [`crate::rules::find`]; `search` for the layout search.
    pub rule: &'static str,
}

/// One law's value for a derived quantity.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// JSON path it would stand at.
    pub path: &'static str,
    /// Rule that gives it.
    pub rule: &'static str,
    /// Value in the unit of the path.
    pub value: f64,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Infeasible {
    /// The question contradicts itself or misses something; nothing was searched.
    Question {
        /// Stable name of the check, `budget.contradiction`.
        rule: &'static str,
        /// The figures that clash, by name.
        figures: BTreeMap<&'static str, f64>,
        /// What would resolve it.
        fixes: Vec<Fix>,
    },
    /// Every layout was rejected.
    Layout {
        /// Device bytes a plan may use.
        device_bytes: u64,
        /// The layout that came nearest and its fullest stage, when memory was what failed.
        nearest: Option<Box<Nearest>>,
        /// First failing rule of the pinned layout, or the rule that rejected most.
        rule: String,
        /// The figures of that rule, by name.
        figures: BTreeMap<&'static str, f64>,
        /// Rule → points rejected.
        rejected_by: BTreeMap<String, u64>,
        /// Changes that were each planned again and fit.
        fixes: Vec<Fix>,
    },
}

impl Infeasible {
    /// Changes that were each planned again and work.
    pub fn fixes(&self) -> &[Fix] {
        match self {
            Infeasible::Question { fixes, .. } | Infeasible::Layout { fixes, .. } => fixes,
        }
    }
}

/// The nearest miss.
#[derive(Debug, Clone, PartialEq)]
pub struct Nearest {
    /// Its layout.
    pub layout: llmc_plan::plan::Layout,
    /// Its micro-batch in sequences.
    pub micro_batch_sequences: u64,
    /// Terms of its fullest stage.
    pub memory: StageMemory,
}

/// A change to the question after which a plan exists (verified by planning it).
#[derive(Debug, Clone, PartialEq)]
pub struct Fix {
    /// What changes, as recipe path and value: `on = 16xH100`, `layout.recompute = full`.
    pub path: &'static str,
    /// New value in canonical words.
    pub value: String,
    /// A second change without which the first is not enough.
    pub also: Option<(&'static str, String)>,
    /// Device bytes of the plan that then results.
    pub device_bytes: u64,
    /// Its seconds a step.
    pub step_seconds: f64,
    /// Its total cost, in the question's currency.
    pub cost: f64,
}
