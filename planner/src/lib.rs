//! `Question` → `Plan`: cost models, search, scaling laws, money.
//!
//! Data flows one way: [`question::Question`] → [`solve`] → [`Answer`]. Not here: text, spans, diagnostics
//! (compiler), the program a plan becomes (plan).

pub mod answer;
pub mod hardware;
pub mod question;
pub mod rules;
pub mod shape;
mod solve;

pub use answer::{Answer, Candidate, Fix, Infeasible, Nearest, Reason};
pub use question::Question;
pub use solve::solve;
