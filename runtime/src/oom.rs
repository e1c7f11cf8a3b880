//! Out of memory in spite of the plan: what was predicted, what every instruction took, where the report is.

use std::collections::BTreeMap;
use std::path::Path;

use llmc_plan::plan::Plan;
use llmc_plan::program::Program;
use llmc_plan::say;
use llmc_plan::walk;
use serde::Serialize;
use serde_json::{Value, json};
use tch::Device;

use crate::cuda::probe::probe;
use crate::device::gib;
use crate::failure::{Failure, Outcome};
use crate::interpret::{Event, Observer};
use crate::meter::Measured;
use crate::run_folder::write_whole;
use crate::shim;

/// File of a run folder.
pub const FILE: &str = "out-of-memory.json";

/// Steps in which every instruction's allocations are kept: what comes later repeats them.
pub const KEPT_STEPS: u64 = 2;

/// What one instruction of a segment took from the allocator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Taken {
    segment: String,
    index: u64,
    op: &'static str,
    declared_bytes: u64,
    allocated_bytes: u64,
}

/// The most that every instruction has taken so far.
#[derive(Debug, Default)]
pub struct Ledger(BTreeMap<(String, u64), Taken>);

impl Observer for Ledger {
    fn waits(&self) -> bool {
        false
    }

    fn after(&mut self, event: &Event<'_>, measured: Measured, _seconds: (f64, f64)) -> Outcome<()> {
        let key = (event.place.segment.clone(), event.place.index);
        let (segment, index) = key.clone();
        let taken = self.0.entry(key).or_insert_with(|| Taken {
            segment,
            index,
            op: event.instr.op.key(),
            declared_bytes: event.instr.workspace,
            allocated_bytes: 0,
        });
        taken.allocated_bytes = taken.allocated_bytes.max(measured.peak);
        Ok(())
    }
}

/// A failure that is none of memory comes back as it is; else the report is written into `folder` and the failure says
/// where, with what was predicted and what was there.
pub fn explain(
    folder: &Path,
    plan: &Plan,
    program: &Program,
    device: Device,
    ledger: &Ledger,
    failure: Failure,
) -> Failure {
    if !is_out_of_memory(&failure.message.en) {
        return failure;
    }
    let footprint = walk::memory(program);
    let (held, device_state) = state(device);
    let mut taken: Vec<&Taken> = ledger.0.values().collect();
    taken.sort_by_key(|t| std::cmp::Reverse(t.allocated_bytes));
    let stage = plan.memory.stages.first();
    let report = json!({
        "error": failure.message.en,
        "predicted": {
            "plan_allocated_bytes": stage.map(|s| s.allocated),
            "plan_reserved_bytes": stage.map(|s| s.reserved),
            "parameters": footprint.parameters,
            "gradients": footprint.gradients,
            "optimizer": footprint.optimizer,
            "constants": footprint.constants,
            "arena": footprint.arena,
            "workspace": footprint.workspace,
            "total": footprint.total,
        },
        "device": device_state,
        "instructions": taken,
    });
    let path = folder.join(FILE);
    let text = serde_json::to_string_pretty(&report).unwrap_or_else(|_| report.to_string());
    let written = match write_whole(&path, &format!("{text}\n")) {
        Ok(()) => {
            say!("what every instruction took is in {path}", "每条指令的占用见 {path}", path = path.display())
        }
        Err(Failure { message: why, .. }) => say!("no report, for {why}", "没有报告，因为{why}", why),
    };
    Failure::environment(say!(
        "out of memory: {predicted} GiB of tensors were predicted (plan: {planned} GiB), {held} GiB are held; {why}; \
         {written}",
        "内存不足：预测张量占用 {predicted} GiB（计划：{planned} GiB），已占用 {held} GiB；{why}；{written}",
        predicted = gib(footprint.total),
        planned = gib(stage.map_or(0, |s| s.allocated)),
        held = gib(held),
        why = failure.message.en,
        written
    ))
}

/// How libtorch and our CPU allocator say it.
fn is_out_of_memory(message: &str) -> bool {
    ["CUDA out of memory", "CPU memory exhausted", "not enough memory", "can't allocate memory"]
        .iter()
        .any(|sign| message.contains(sign))
}

/// Bytes of tensors held, and what there is to say of the device.
fn state(device: Device) -> (u64, Value) {
    let Device::Cuda(index) = device else {
        let stats = shim::cpu_stats();
        return (stats.live_bytes, json!({"live_bytes": stats.live_bytes, "peak_bytes": stats.peak_bytes}));
    };
    let stats = shim::device_stats(i8::try_from(index).unwrap_or(0));
    let live = stats.as_ref().map_or(0, |s| s.live_bytes);
    let stats = stats.ok().map(|s| {
        json!({
            "live_bytes": s.live_bytes, "peak_bytes": s.peak_bytes, "allocated_bytes": s.allocated_bytes,
            "reserved_bytes": s.reserved_bytes, "device_allocations": s.device_allocations,
        })
    });
    let found = probe(index).ok();
    let of = |get: fn(&crate::cuda::probe::Probe) -> u64| found.as_ref().map(get);
    (live, json!({"allocator": stats, "free_bytes": of(|p| p.free), "total_bytes": of(|p| p.total)}))
}
