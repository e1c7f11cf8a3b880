//! Lowering for one device.

mod support;

use llmc_plan::lower::{Coordinates, lower};
use llmc_plan::op::Backend;
use llmc_plan::plan::*;

#[test]
fn lowers_every_variation() {
    for policy in [Recompute::None, Recompute::Selective, Recompute::Full] {
        for precision in [Precision::F32, Precision::Bf16] {
            for (tied, dropout, freeze) in [(false, 0.0, ""), (true, 0.1, ""), (false, 0.1, "embeddings")] {
                let mut plan = support::toy();
                plan.layout.recompute = policy;
                plan.precision = precision;
                plan.model.tied = tied;
                plan.model.dropout = dropout;
                plan.freeze = freeze.split_whitespace().map(str::to_string).collect();
                lower(&plan, &Coordinates::default(), Backend::Cpu).unwrap();
            }
        }
    }
}
