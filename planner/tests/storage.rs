//! A mount too slow to hide, and one whose writing was not measured.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may

mod common;

use llmc_plan::mount::{Mount, Point};
use llmc_planner::question::{Budget, Cluster};
use llmc_planner::{Question, solve};

/// One thread reads half of what all together do.
fn mount(bytes_per_second: f64, write_bytes_per_second: f64) -> Mount {
    let one = Point {
        threads: 1,
        block_bytes: 1 << 20,
        bytes_per_second: bytes_per_second / 2.0,
        operations_per_second: 1.0,
    };
    Mount {
        format_version: "1.0".into(),
        bandwidth: vec![one],
        random: Vec::new(),
        bytes_per_second,
        write_bytes_per_second,
        latency_seconds: 0.01,
        shard_bytes: 1 << 26,
        prefetch_bytes: 1 << 20,
        threads: 2,
    }
}

fn planned(mount: Option<Mount>) -> llmc_plan::plan::Plan {
    let question = Question {
        cluster: Some(Cluster { nodes: 1, gpus_per_node: 8 }),
        budget: vec![Budget::Tokens(10_000_000_000)],
        batch_tokens: Some(4 << 20),
        mount,
        ..Question::of(common::llama_7b(8192))
    };
    solve(&question).expect("fits").plan
}

#[test]
fn what_a_step_cannot_hide_is_waited_for() {
    let (plain, slow) = (planned(None), planned(Some(mount(100e3, 0.0))));
    let storage = slow.storage.clone().unwrap();
    // 512 sequences of 8,192 two-byte ids over 100 kB/s: no thread is slower alone.
    let data = 512.0 * 16_384.0 / 100e3;
    assert!((storage.data_seconds / data - 1.0).abs() < 1e-8, "{storage:?}");
    assert!(data > plain.time.step_seconds, "{}", plain.time.step_seconds);
    assert!((slow.time.step_seconds / data - 1.0).abs() < 1e-8);
    assert!((storage.exposed_seconds - (data - plain.time.step_seconds)).abs() < 1e-6);
    assert_eq!(slow.time.breakdown["data"], storage.exposed_seconds);
    let sum: f64 = slow.time.breakdown.values().sum();
    assert!((sum / slow.time.step_seconds - 1.0).abs() < 1e-6, "the terms still sum to the step");
    assert!(slow.time.mfu < plain.time.mfu && slow.cost.total > plain.cost.total);
}

#[test]
fn a_mount_whose_writing_was_not_measured_leaves_checkpoints_alone() {
    let (plain, read_only, both) =
        (planned(None), planned(Some(mount(10e9, 0.0))), planned(Some(mount(10e9, 4e9))));
    assert_eq!(read_only.time, plain.time);
    assert_eq!(read_only.schedule, plain.schedule);
    // Assumed 2 GB/s, measured 4.
    let ratio = both.storage.unwrap().checkpoint_seconds / read_only.storage.unwrap().checkpoint_seconds;
    assert!((ratio - 0.5).abs() < 1e-6 && both.time.goodput > plain.time.goodput);
}
