//! `llmc calibrate --device`: a short set of plans, each timed by `llmc-worker bench` on this machine.
//!
//! A plan is one process with its own time limit; its report lies beside it as soon as it is done, so that a set that
//! was stopped goes on where it was. Not here: fitting ([`crate::calibrate`]).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use llmc_compiler::world::World;
use llmc_planner::hardware;
use serde::Deserialize;

use crate::args::Global;
use crate::exit::Failure;
use crate::files;
use crate::prepare::json;
use crate::sibling::{TIMED_OUT, WORKER};
use crate::terminal::{Terminal, talk};
use crate::world::Folder;

/// What one process may take: start, algorithms, eight steps of at most five seconds.
const LIMIT: Duration = Duration::from_secs(120);

/// Timed steps of a plan, after two to warm up.
const STEPS: &str = "5";

/// Codes of a process that was asked to stop: SIGHUP, SIGINT, SIGTERM.
const STOPPED: [u8; 3] = [129, 130, 143];

/// Name, and recipe without `on`. Shape, context, micro-batch, recomputation, precision and states vary, because each
/// moves another part of a step.
type Set = &'static [(&'static str, &'static str)];

const CUDA: Set = &[
    ("1b-4k", include_str!("calibration/1b-4k.llm")),
    ("1b-4k-fp8", include_str!("calibration/1b-4k-fp8.llm")),
    ("1b-4k-one", include_str!("calibration/1b-4k-one.llm")),
    ("1b-8k-selective", include_str!("calibration/1b-8k-selective.llm")),
    ("350m-2k", include_str!("calibration/350m-2k.llm")),
    ("350m-4k-full", include_str!("calibration/350m-4k-full.llm")),
    ("3b-4k", include_str!("calibration/3b-4k.llm")),
    ("3b-4k-fp8", include_str!("calibration/3b-4k-fp8.llm")),
    ("3b-8k", include_str!("calibration/3b-8k.llm")),
    ("3b-8k-fp8", include_str!("calibration/3b-8k-fp8.llm")),
];

const CPU: Set = &[
    ("tiny-64", include_str!("calibration/cpu/tiny-64.llm")),
    ("tiny-128", include_str!("calibration/cpu/tiny-128.llm")),
    ("tiny-full", include_str!("calibration/cpu/tiny-full.llm")),
    ("wide", include_str!("calibration/cpu/wide.llm")),
    ("deep", include_str!("calibration/cpu/deep.llm")),
    ("vocabulary", include_str!("calibration/cpu/vocabulary.llm")),
];

/// What the worker says of a device.
#[derive(Deserialize)]
struct Found {
    name: String,
    memory_bytes: u64,
}

/// The figures of a report that are shown.
#[derive(Deserialize)]
struct Report {
    step_seconds: Compared,
}

#[derive(Deserialize)]
struct Compared {
    predicted: f64,
    measured: f64,
}

/// Times the set of `device` (`cuda` or `cpu`); the reports in `folder`, and the code to end with when the set was
/// stopped.
pub fn measure(
    terminal: &Terminal,
    global: &Global,
    device: &str,
    folder: &Path,
) -> Result<(Vec<PathBuf>, Option<u8>), Failure> {
    WORKER.find()?;
    let world = Folder::new(Path::new("-"), &global.hardware)?;
    let described = world.hardware().iter().find(|found| found.kind == hardware::Kind::Cuda);
    let (sku, set) = match (device, described) {
        ("cpu", _) => ("CPU", CPU),
        (_, Some(described)) => (described.name.as_str(), CUDA),
        _ => (card(terminal)?, CUDA),
    };
    let mut reports = Vec::new();
    for (at, (name, recipe)) in set.iter().enumerate() {
        let report = folder.join(format!("{name}.bench.json"));
        let head = format!("{}/{} {name}", at + 1, set.len());
        if !report.exists() {
            match time(terminal, global, &format!("{recipe}on 1x{sku}\n"), folder, name)? {
                Timed::Done => {}
                Timed::Unfit => {
                    let why = terminal.say("does not fit this device: left out", "放不进该设备：略过");
                    talk(&format!("{head}: {why}\n"));
                    continue;
                }
                Timed::Failed(code) if STOPPED.contains(&code) => {
                    let kept = terminal.say("timings are kept in", "项计时已保存在");
                    let next = terminal.say("the same command goes on", "再次运行同一命令即可继续");
                    talk(&format!("{head}: {} {kept} {}; {next}\n", reports.len(), folder.display()));
                    return Ok((reports, Some(code)));
                }
                Timed::Failed(TIMED_OUT) => {
                    let why = terminal.say("took too long: left out", "超时：略过");
                    talk(&format!("{head}: {why}\n"));
                    continue;
                }
                Timed::Failed(code) => {
                    let why = terminal.say("failed, left out: code", "失败，略过：代码");
                    talk(&format!("{head}: {why} {code}\n"));
                    continue;
                }
            }
        }
        let read: Report = serde_json::from_str(&files::read(&report)?).map_err(|e| {
            let path = report.display();
            Failure::new(
                format!("{path}: {e}: remove it to time the plan again"),
                format!("{path}：{e}：删除后会重新计时"),
            )
        })?;
        let Compared { predicted, measured } = read.step_seconds;
        let (step, planned) =
            (terminal.say("s a step, planned", "秒一步，计划"), 100.0 * (predicted / measured - 1.0));
        talk(&format!("{head}: {measured:.3} {step} {predicted:.3} ({planned:+.1} %)\n"));
        reports.push(report);
    }
    Ok((reports, None))
}

enum Timed {
    Done,
    /// No plan of it fits.
    Unfit,
    Failed(u8),
}

/// Plans a recipe and times it; plan and report appear in the folder.
fn time(
    terminal: &Terminal,
    global: &Global,
    recipe: &str,
    folder: &Path,
    name: &str,
) -> Result<Timed, Failure> {
    let world = Folder::new(Path::new(name), &global.hardware)?;
    let compiled = llmc_compiler::compile(recipe, &[], &world);
    let Some(planned) = &compiled.plan else { return Ok(Timed::Unfit) };
    let plan = folder.join(format!("{name}.json"));
    files::write(&plan, &json(planned, &compiled)?)?;
    let failed = |error: std::io::Error| Failure::io(("write in", "写入"), folder, &error);
    let part = folder.join(format!("{name}.bench.part"));
    let algorithms = folder.join(format!("{name}.gemm"));
    std::fs::create_dir_all(&algorithms).map_err(failed)?;
    let mut command = WORKER.command(terminal.lang)?;
    command.args(["bench", "--steps", STEPS, "--plan"]).arg(&plan).arg("--algorithms").arg(&algorithms);
    command.stdin(Stdio::null()).stdout(Stdio::from(File::create(&part).map_err(failed)?));
    match WORKER.run_within(vec![command], Some(LIMIT))? {
        0 => {
            std::fs::rename(&part, folder.join(format!("{name}.bench.json"))).map_err(failed)?;
            Ok(Timed::Done)
        }
        code => {
            let _ = std::fs::remove_file(&part);
            Ok(Timed::Failed(code))
        }
    }
}

/// The preset of this machine's CUDA device.
fn card(terminal: &Terminal) -> Result<&'static str, Failure> {
    let output = WORKER.command(terminal.lang)?.arg("device").stdin(Stdio::null()).output();
    let output = output.map_err(|error| WORKER.cannot_start(&error))?;
    let found: Option<Found> =
        serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success());
    let Some(found) = found else {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("llmc-worker: ").to_owned();
        return Err(Failure::new(
            format!(
                "{said}; run this on the machine with the card, or calibrate this processor with --device cpu"
            ),
            format!("{said}；请在装有该卡的机器上运行，或用 --device cpu 校准本机处理器"),
        ));
    };
    preset(&found.name, found.memory_bytes).ok_or_else(|| {
        let (name, known) = (&found.name, hardware::names().collect::<Vec<_>>().join(", "));
        Failure::new(
            format!(
                "{name} is none of the devices that have a preset ({known}): describe it in a hardware file and give that with --hardware"
            ),
            format!("{name} 不在预设设备之列（{known}）：请用硬件文件描述，并以 --hardware 指定"),
        )
    })
}

/// Of the presets whose model number (`H100`, `4090`) stands in the driver's name, the one with the closest memory.
fn preset(found: &str, memory: u64) -> Option<&'static str> {
    let found = found.to_ascii_lowercase();
    let words: Vec<&str> = found.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let here = |name: &&str| {
        let lower = name.to_ascii_lowercase();
        let model = lower.split('-').next().unwrap_or_default().trim_start_matches("rtx").to_owned();
        words.contains(&model.as_str())
    };
    let distance = |name: &&str| hardware::preset(name).map_or(u64::MAX, |h| h.memory_bytes.abs_diff(memory));
    hardware::names().filter(here).min_by_key(distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_known_by_its_number_and_memory() {
        assert_eq!(preset("NVIDIA H100 80GB HBM3", 84_942_979_072), Some("H100"));
        assert_eq!(preset("NVIDIA H200", 150_000_000_000), Some("H200"));
        assert_eq!(preset("NVIDIA A100-SXM4-40GB", 42_000_000_000), Some("A100-40G"));
        assert_eq!(preset("NVIDIA GeForce RTX 4090", 25_000_000_000), Some("RTX4090"));
        assert_eq!(preset("NVIDIA RTX A6000", 51_000_000_000), Some("A6000"));
        assert_eq!(preset("Tesla V100-SXM2-16GB", 16_900_000_000), Some("V100-16G"));
        assert_eq!(preset("NVIDIA GeForce GTX 1080", 8_000_000_000), None);
    }

    /// Every recipe of a set has a plan on the device it is for: a fit needs ten rows for two numbers, five for one.
    #[test]
    fn every_recipe_has_a_plan() {
        for (sku, set, least) in [("H100", CUDA, 10), ("CPU", CPU, 5)] {
            let planned = set.iter().filter(|(name, recipe)| {
                let world = Folder::new(Path::new(name), &[]).unwrap();
                let compiled = llmc_compiler::compile(&format!("{recipe}on 1x{sku}\n"), &[], &world);
                assert!(compiled.plan.is_some(), "{name}: {:?}", compiled.diagnostics);
                true
            });
            assert!(planned.count() >= least);
        }
    }
}
