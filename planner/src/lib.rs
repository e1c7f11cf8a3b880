//! `Question` → `Plan`: cost models, search, scaling laws, money.
//!
//! Data flows one way: [`question::Question`] → [`solve`] → [`Answer`]. Not here: text, spans, diagnostics
//! (compiler), the program a plan becomes (plan).

pub mod accuracy;
pub mod answer;
pub mod assemble;
pub mod calibrate;
mod confirm;
pub mod cost;
pub mod data_mix;
pub mod derive;
pub mod durations;
pub mod fit;
pub mod fitted;
mod fixes;
pub mod hardware;
pub mod joint;
pub mod laws;
pub mod logs;
pub mod milp;
pub mod money;
mod notes;
pub mod over_time;
pub mod profile;
pub mod question;
mod row;
pub mod rules;
pub mod score;
pub mod search;
pub mod shape;
mod solve;
pub mod space;
pub mod stack;
pub mod storage;
pub mod table;
pub mod uneven;
mod words;

pub use answer::{Answer, Candidate, Fix, Infeasible, Nearest, Reason};
pub use question::Question;
pub use solve::{own_base, own_setting, setting, solve};

/// A float as it stands in a plan: rounded to 9 significant digits.
pub fn settle(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() { value } else { format!("{value:.8e}").parse().unwrap_or(value) }
}
