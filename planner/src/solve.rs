//! From a question to a plan.

use std::collections::BTreeMap;

use crate::answer::{Answer, Infeasible};
use crate::question::Question;

/// Plans.
///
/// # Errors
/// [`Infeasible`] when the question contradicts itself or nothing fits.
pub fn solve(question: &Question) -> Result<Answer, Infeasible> {
    let _ = question;
    Err(Infeasible::Question { rule: "planner.not_landed", figures: BTreeMap::new(), fixes: Vec::new() })
}
