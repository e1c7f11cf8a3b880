//! Recipe → plan: tree → resolved facts → checks → derived settings → a question for the planner → a plan with reasons.
//!
//! Pure: a function of the recipe, the overrides and one [`world::World`]. Not here: syntax (`llmc-grammar`), the search
//! (`llmc-planner`), drawing of diagnostics and anything that touches a file (the command line).
//!
//! The pipeline stands on one screen in [`compile()`].

pub mod check;
mod chinese;
pub mod columns;
mod compile;
pub mod cost;
pub mod derive;
pub mod diag;
pub mod diff;
pub mod explain;
mod join;
pub mod ledger;
pub mod question;
pub mod resolve;
pub mod shape;
mod table;
mod terms;
pub mod unit;
pub mod view;
pub mod why;
pub mod why_not;
pub mod world;

pub use compile::{Compiled, check, compile, facts_of, hash};
pub use diag::{Diagnostic, Lang, Severity};
pub use ledger::{Ledger, Why};
pub use world::{Nowhere, World};
