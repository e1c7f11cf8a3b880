//! `--profile FILE`: a watched step in the format that chrome://tracing and Perfetto show (Trace Event Format, Google
//! 2016), streams as threads.

use std::path::Path;

use serde_json::{Value, json};

use crate::failure::{Failure, Outcome};
use crate::profile::Watched;
use crate::run_folder::write_whole;

/// Writes step number `step` of a run on `device`.
///
/// # Errors
/// Exit code 2 when the file cannot be written.
pub fn write(path: &Path, step: u64, device: &str, watched: &Watched) -> Outcome<()> {
    let text = serde_json::to_string(&trace(step, device, watched))
        .map_err(|e| Failure::bug(format!("profile: {e}")))?;
    write_whole(path, &format!("{text}\n"))
}

fn trace(step: u64, device: &str, watched: &Watched) -> Value {
    let name = |kind: &str, thread: usize, name: &str| json!({"ph": "M", "name": kind, "pid": 0, "tid": thread, "args": {"name": name}});
    let mut events = vec![name("process_name", 0, &format!("step {step} on {device}"))];
    events.extend(watched.streams.iter().enumerate().map(|(i, stream)| name("thread_name", i, stream)));
    for span in &watched.spans {
        let Some(row) = watched.rows.get(span.row) else { continue };
        let seconds = span.end - span.start;
        let mut args = json!({
            "segment": row.segment, "index": row.index, "layer": span.layer, "micro_batch": span.micro_batch,
            "shapes": row.shapes, "recompute": row.recompute,
        });
        if seconds > 0.0 {
            args["GB/s"] = json!(row.bytes as f64 / seconds / 1e9);
            if row.flops > 0.0 {
                args["TFLOP/s"] = json!(row.flops / seconds / 1e12);
            }
        }
        events.push(json!({
            "ph": "X", "name": row.op, "cat": row.kind, "pid": 0, "tid": span.stream,
            "ts": 1e6 * span.start, "dur": 1e6 * seconds, "args": args,
        }));
    }
    json!({"displayTimeUnit": "ms", "traceEvents": events})
}
