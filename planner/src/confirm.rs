//! The walk over the real program has the last word on memory, wherever a plan can be lowered: the program that the
//! planner weighs is the one the worker runs.

use llmc_plan::lower::{Coordinates, LowerError, Options, lower_with};
use llmc_plan::op::Backend;
use llmc_plan::plan::{Memory, Plan, StageMemory};
use llmc_plan::program::Class;
use llmc_plan::walk::{Instant, memory, walk};
use llmc_plan::{arena, program::Program};

use crate::answer::{Answer, Infeasible, Reason};
use crate::assemble::{Outcome, answer};
use crate::cost::memory::totals;
use crate::hardware::Kind;
use crate::question::Question;
use crate::solve::{Decided, nothing_fits};

/// Micro-batches walked: the peak repeats once the accumulators exist.
const ACCUMULATION: u64 = 2;
/// The closed form may miss the walk by this much, so candidates up to here above the limit are walked too.
pub const SLACK: f64 = 0.05;

/// Makes the plan of the fastest candidate whose walked memory fits; a candidate that cannot be lowered yet is judged
/// by the closed form.
///
/// # Errors
/// [`Infeasible::Layout`] when none fits.
pub fn confirm(q: &Question, out: &Outcome, decided: &Decided) -> Result<Answer, Infeasible> {
    let mut found = out.found.clone();
    let mut tightest = None;
    let mut queue = out.found.top.iter().copied();
    while let Some(best) = queue.next() {
        found.best = Some(best);
        found.runner_up = queue.clone().next();
        let candidate = Outcome { found: found.clone(), best, ..out.clone() };
        let mut answer = answer(q, &candidate, decided.clone());
        let stage = match walked(&answer.plan, out) {
            Ok(stage) => stage,
            Err(LowerError::Unsupported { .. }) if best.device <= out.limit => return Ok(answer),
            Err(_) => continue,
        };
        let fits = stage.device <= out.limit;
        answer.plan.memory = Memory { device_bytes: stage.device, stages: vec![stage.clone()] };
        if fits {
            for reason in &mut answer.why {
                if reason.path == "memory" {
                    *reason = Reason { path: "memory".into(), rule: "memory.walk" };
                }
            }
            return Ok(answer);
        }
        if tightest.as_ref().is_none_or(|(_, memory): &(_, StageMemory)| stage.device < memory.device) {
            tightest = Some((best, stage));
        }
        found.feasible = found.feasible.saturating_sub(1);
        *found.rejected_by.entry("memory").or_default() += 1;
    }
    Err(nothing_fits(&out.setting, found, out.limit, tightest))
}

/// Memory of the program of a one-device plan.
fn walked(plan: &Plan, out: &Outcome) -> Result<StageMemory, LowerError> {
    let cuda = out.setting.hardware.kind == Kind::Cuda;
    let options = Options {
        accumulation_cap: Some(ACCUMULATION),
        ..Options::new(if cuda { Backend::Cuda } else { Backend::Cpu })
    };
    let mut program = lower_with(plan, &Coordinates::default(), &options)?;
    arena::assign(&mut program);
    Ok(figures(&program, out))
}

/// The footprint by kind. Of the arena, logits are what lives at the peak; the rest is activations.
fn figures(program: &Program, out: &Outcome) -> StageMemory {
    let whole = memory(program);
    let peak = walk(program, &program.step, &Instant).peak_by_class;
    let of = |class| peak.get(&class).copied().unwrap_or(0);
    let logits = of(Class::Logits).min(whole.arena);
    let batch = of(Class::Batch).min(whole.arena - logits);
    let (reserved, device) = totals(&out.setting, &out.best.point, whole.total as f64);
    StageMemory {
        parameters: whole.parameters,
        gradients: whole.gradients,
        optimizer: whole.optimizer,
        activations: whole.arena - logits - batch,
        logits,
        buffers: whole.constants + whole.workspace + batch,
        allocated: whole.total,
        reserved: reserved.ceil() as u64,
        device: device.ceil() as u64,
    }
}
