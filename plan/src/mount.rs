//! What a disk or network mount gives: measured by `llmc data bench`, written as JSON, read by the planner, and what
//! the plan says of it.

use serde::{Deserialize, Serialize};

use crate::data::readable_version;

/// What a mount gives to one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// `1.x`; minor versions only add.
    pub format_version: String,
    /// Sequential reads.
    pub bandwidth: Vec<Point>,
    /// Reads of 4 KiB at random places.
    pub random: Vec<Point>,
    /// Largest bandwidth found, bytes a second.
    pub bytes_per_second: f64,
    /// One file written from end to end and flushed, bytes a second; 0 where it was not measured.
    #[serde(default)]
    pub write_bytes_per_second: f64,
    /// Time of one small read by one thread, seconds.
    pub latency_seconds: f64,
    /// Shards should be at least this large, bytes.
    pub shard_bytes: u64,
    /// Bytes to have in flight.
    pub prefetch_bytes: u64,
    /// Threads of the best bandwidth.
    pub threads: u64,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Threads that read side by side.
    pub threads: u64,
    /// Bytes of a read.
    pub block_bytes: u64,
    /// All threads together.
    pub bytes_per_second: f64,
    /// All threads together.
    pub operations_per_second: f64,
}

impl Mount {
    /// Reads the file.
    ///
    /// # Errors
    /// One sentence: no JSON, a key that is missing, another version, a figure that no mount has.
    pub fn read(text: &str) -> Result<Mount, String> {
        let mount: Mount = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if !readable_version(&mount.format_version) {
            return Err(format!("format_version is `{}`, this build reads 1.x", mount.format_version));
        }
        let figures = [
            ("bytes_per_second", mount.bytes_per_second, 1.0),
            ("write_bytes_per_second", mount.write_bytes_per_second, 0.0),
            ("latency_seconds", mount.latency_seconds, 0.0),
        ];
        let points = mount
            .bandwidth
            .iter()
            .chain(&mount.random)
            .map(|p| ("bytes_per_second of a point", p.bytes_per_second, 0.0));
        for (name, value, least) in figures.into_iter().chain(points) {
            if !(value >= least && value < 1e15) {
                return Err(format!("{name} is {value}"));
            }
        }
        Ok(mount)
    }

    /// Best bandwidth of one thread, bytes a second.
    pub fn one_thread(&self) -> f64 {
        let alone =
            self.bandwidth.iter().filter(|p| p.threads == 1).map(|p| p.bytes_per_second).fold(0.0, f64::max);
        if alone > 0.0 { alone } else { self.bytes_per_second }
    }
}

/// A mount that `llmc data bench` has measured, and what follows from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Storage {
    /// Largest read bandwidth of one machine, bytes a second.
    pub read_bytes_per_second: f64,
    /// Write bandwidth of one machine, bytes a second; 0 where it was not measured.
    pub write_bytes_per_second: f64,
    /// Time of a small read, seconds.
    pub latency_seconds: f64,
    /// Shards should be at least this large, bytes.
    pub shard_bytes: u64,
    /// Micro-batches that a rank reads ahead.
    pub read_ahead: u64,
    /// Seconds that reading the samples of one step takes beside it.
    pub data_seconds: f64,
    /// Seconds of them by which a step is longer.
    pub exposed_seconds: f64,
    /// Seconds that training stands still for one checkpoint.
    pub checkpoint_seconds: f64,
}

impl Storage {
    /// Micro-batches read ahead where no mount was measured: four cover the jitter of a page cache. (Own choice.)
    pub const READ_AHEAD: u64 = 4;
}
