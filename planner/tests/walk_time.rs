//! The walk over a lowered program, timed by the cost model, against the closed form of the same plan.
#![allow(clippy::unwrap_used)] // a plan that cannot be made is a broken test

mod common;

use common::{model, question};
use llmc_plan::lower::{Coordinates, Options, lower_with};
use llmc_plan::op::Backend;
use llmc_plan::plan::Plan;
use llmc_plan::walk::walk;
use llmc_planner::durations::Model;
use llmc_planner::question::{Budget, Cluster, Question};
use llmc_planner::{own_setting, solve};

fn both(q: &Question) -> (Plan, f64) {
    let plan = solve(q).unwrap().plan;
    let cluster = Cluster { nodes: 1, gpus_per_node: 1 };
    let setting = own_setting(q, cluster, plan.batch.global_sequences).unwrap();
    let program = lower_with(&plan, &Coordinates::default(), &Options::new(Backend::Cuda)).unwrap();
    let seconds = walk(&program, &program.step, &Model::new(&setting)).seconds;
    (plan, seconds)
}

#[test]
fn one_device_steps_agree_with_the_closed_form() {
    for (layers, hidden, heads, ffn, context) in
        [(26, 3072, 24, 8192, 4096), (26, 3072, 24, 8192, 8192), (24, 2048, 16, 5504, 4096)]
    {
        let mut q = question(model(layers, hidden, heads, heads, ffn, 32000, context), "H100", 1, 1);
        q.budget = vec![Budget::Tokens(1_000_000_000)];
        q.batch_tokens = Some(131_072);
        let (plan, walked) = both(&q);
        let closed = plan.time.step_seconds;
        println!(
            "{hidden} {context}: closed {closed:.3} s, walked {walked:.3} s, {:+.3}",
            walked / closed - 1.0
        );
        assert!((walked / closed - 1.0).abs() < 0.05, "{hidden} {context}: {closed} s against {walked} s");
    }
}
