//! What a measured mount means for a run: reading samples, reading ahead, checkpoints.
//!
//! Not here: how it is measured (`llmc data bench`), when checkpoints are written ([`crate::money`]).

use llmc_plan::model::Model;
use llmc_plan::mount::Mount;
use llmc_plan::plan::{Layout, Storage};

use crate::settle;

/// Ids below this are stored in two bytes, others in four (Megatron's rule: megatron/core/datasets/indexed_dataset.py,
/// `DType.optimal_dtype`, 65,500).
const SHORT_IDS: u64 = 65_500;
/// Most micro-batches read ahead: a rank's queue stays within tens of megabytes.
const MOST_AHEAD: u64 = 64;

/// Seconds that reading the samples of a step takes. One thread of each rank reads sample after sample, each at another
/// place: a latency and its bytes. The ranks of a machine share what the mount gives it; those that read the same
/// samples read them once.
pub fn data_seconds(mount: &Mount, model: &Model, layout: &Layout, global_sequences: u64) -> f64 {
    let sample = (model.context * bytes_of_id(model)) as f64;
    let each = global_sequences as f64 / layout.dp.max(1) as f64;
    let together = layout.dp.div_ceil(layout.nodes.max(1)) as f64;
    let alone = each * (mount.latency_seconds + sample / mount.one_thread());
    alone.max(together * each * sample / mount.bytes_per_second)
}

fn bytes_of_id(model: &Model) -> u64 {
    if model.vocab < SHORT_IDS { 2 } else { 4 }
}

/// The plan's section. `step_seconds` are without waiting for data.
pub fn section(
    mount: &Mount,
    (model, layout): (&Model, &Layout),
    (global_sequences, micro_batch): (u64, u64),
    step_seconds: f64,
    checkpoint_seconds: f64,
) -> Storage {
    let data = data_seconds(mount, model, layout, global_sequences);
    let bytes = (micro_batch * model.context * bytes_of_id(model)).max(1);
    Storage {
        read_bytes_per_second: settle(mount.bytes_per_second),
        write_bytes_per_second: settle(mount.write_bytes_per_second),
        latency_seconds: settle(mount.latency_seconds),
        shard_bytes: mount.shard_bytes,
        // What the mount wants in flight (Little 1961: bandwidth times latency).
        read_ahead: mount.prefetch_bytes.div_ceil(bytes).clamp(Storage::READ_AHEAD, MOST_AHEAD),
        data_seconds: settle(data),
        exposed_seconds: settle((data - step_seconds).max(0.0)),
        checkpoint_seconds: settle(checkpoint_seconds),
    }
}
