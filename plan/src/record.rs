//! `plan.search`: how a plan was found, and what its alternatives cost. The only part of a plan that needs no reasons.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::plan::Layout;

/// How the search went. The only part of a plan that needs no reasons.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// Points before pruning.
    pub considered: u64,
    /// Points whose cost was evaluated.
    pub evaluated: u64,
    /// Points that fit.
    pub feasible: u64,
    /// Rule → points it rejected.
    pub rejected_by: BTreeMap<String, u64>,
    /// The second-best layout and what decided.
    pub runner_up: Option<RunnerUp>,
    /// Points no other beats in time, money and memory at once.
    pub pareto: Vec<ParetoPoint>,
    /// Inputs outside what was measured.
    pub extrapolated: Vec<String>,
    /// Bound → points it spared. Since 1.1, as are the following.
    #[serde(default)]
    pub pruned_by: BTreeMap<String, u64>,
    /// Mixed-integer programmes of uneven stages that were solved, because a bound beat the best plan found so far.
    #[serde(default)]
    pub milp: u64,
    /// What more memory would be worth.
    #[serde(default)]
    pub memory_price: Option<MemoryPrice>,
    /// What each law asks for, beside what was chosen.
    #[serde(default)]
    pub laws: Vec<LawValue>,
    /// What departures from the plan cost until its loss is reached.
    #[serde(default)]
    pub exchange: Vec<Exchange>,
    /// Smaller batches to begin with, by the critical batch of the loss so far; empty where the plan's batch is below it
    /// nearly throughout.
    #[serde(default)]
    pub ramp: Vec<RampStep>,
}

/// The price of memory on every device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryPrice {
    /// How many bytes more.
    pub bytes: u64,
    /// Seconds a step that the best plan with them saves; 0 where they change nothing.
    pub step_seconds: f64,
    /// What that saves over the whole run.
    pub cost: f64,
    /// Dual of the relaxed programme of layers: seconds a step that the chosen layout alone would save.
    pub relaxed_step_seconds: f64,
}

/// One law's value of a derived setting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LawValue {
    /// Path in the plan.
    pub path: String,
    /// Name of the law.
    pub law: String,
    /// Its value.
    pub value: f64,
}

/// The exchange rate of one change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// What changes: `loss -0.1%`, `batch x2`, `lr x0.5`.
    pub change: String,
    /// Change of the loss when the tokens stay, relative.
    pub loss: f64,
    /// Tokens more until the plan's loss is reached (of `loss …`: until that loss is).
    pub tokens: f64,
    /// Seconds of wall time more.
    pub seconds: f64,
    /// Money more, in the plan's currency.
    pub cost: f64,
}

/// One stage of a batch ramp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RampStep {
    /// From this token on.
    pub from_tokens: u64,
    /// Tokens an optimizer step.
    pub global_tokens: u64,
}

/// The second-best layout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunnerUp {
    /// Its layout.
    pub layout: Layout,
    /// Its micro-batch in sequences.
    pub micro_batch_sequences: u64,
    /// Seconds a step it loses.
    pub slower_by_seconds: f64,
    /// The breakdown term with the largest difference.
    pub decided_by: String,
}

/// One point of the frontier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParetoPoint {
    /// Its layout.
    pub layout: Layout,
    /// Its micro-batch in sequences.
    pub micro_batch_sequences: u64,
    /// Seconds a step.
    pub step_seconds: f64,
    /// Total cost of the run in the plan's currency.
    pub cost: f64,
    /// Bytes free on the fullest device.
    pub margin_bytes: u64,
    /// Tokens trained. Since 1.1, as are the following.
    #[serde(default)]
    pub tokens: u64,
    /// Seconds of the run.
    #[serde(default)]
    pub train_seconds: f64,
    /// Loss then.
    #[serde(default)]
    pub loss: f64,
}
