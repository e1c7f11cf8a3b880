//! Memory in use over a step: the program of the fullest stage is walked under the cost model's times. What is allocated,
//! reserved and on the device does not change with time: transients lie in one arena, taken at the start
//! (runtime/src/memory.rs). Not here: those figures (`cost::memory`, `confirm`).

use llmc_plan::lower::{Coordinates, Options, lower_with};
use llmc_plan::op::Backend;
use llmc_plan::plan::Plan;
use llmc_plan::walk::walk;

use crate::cost::Point;
use crate::durations::Model;
use crate::question::{Cluster, Question};
use crate::solve::own_setting;

/// Parts that a step is cut into.
const PARTS: usize = 12;

/// One of the equally long parts of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Seconds from the start of the step to its end.
    pub until: f64,
    /// Most bytes in living tensors and workspaces at once in it.
    pub live: u64,
}

/// A step of one stage.
#[derive(Debug, Clone, PartialEq)]
pub struct OverTime {
    /// Pipeline rank.
    pub stage: u64,
    /// Micro-batches walked; those in between repeat the middle.
    pub micro_batches: u64,
    /// In order.
    pub moments: Vec<Moment>,
}

/// The layout and micro-batch of a plan.
pub fn point(plan: &Plan) -> Point {
    let l = &plan.layout;
    Point {
        tp: l.tp,
        pp: l.pp,
        cp: l.cp,
        vp: l.vp,
        dp: l.dp,
        zero: l.zero_stage,
        shard: l.shard_group,
        micro: plan.batch.micro_batch_sequences,
        recompute: l.recompute,
        offload: l.offload,
        schedule: l.schedule,
        sp: l.sequence_parallel,
    }
}

/// Memory of the plan's fullest stage over a step; `None` where the layout has no program.
pub fn over_time(q: &Question, plan: &Plan) -> Option<OverTime> {
    let l = &plan.layout;
    let cluster = Cluster { nodes: l.nodes, gpus_per_node: l.gpus.checked_div(l.nodes)? };
    let s = own_setting(q, cluster, plan.batch.global_sequences)?;
    let stage = (0..).zip(&plan.memory.stages).max_by_key(|(_, memory)| memory.device)?.0;
    // Twice what is in flight shows filling, the steady state and draining.
    let micro_batches = plan.batch.accumulation.min(2 * l.pp.max(1));
    let backend = if s.cuda() { Backend::Cuda } else { Backend::Cpu };
    let options = Options { accumulation_cap: Some(micro_batches), ..Options::new(backend) };
    let at = Coordinates { pipeline: stage, ..Coordinates::default() };
    let program = lower_with(plan, &at, &options).ok()?;
    let point = point(plan);
    let walked = walk(&program, &program.step, &Model::of(&s, &point));
    let part = walked.seconds / PARTS as f64;
    let mut most = [0_u64; PARTS];
    for record in &walked.records {
        let from = (record.start / part) as usize;
        let to = (record.end / part) as usize;
        for bytes in most.iter_mut().take(to + 1).skip(from.min(PARTS - 1)) {
            *bytes = (*bytes).max(record.live_bytes + record.workspace);
        }
    }
    let moments = (1..).zip(most).map(|(n, live)| Moment { until: f64::from(n) * part, live });
    Some(OverTime { stage, micro_batches, moments: moments.collect() })
}
