//! Which device a plan runs on, whether this machine has it, whether its libraries fit, and whether the program does.

use std::path::{Path, PathBuf};

use llmc_plan::lang::Said;
use llmc_plan::op::Op;
use llmc_plan::plan::{DType, Determinism, Plan};
use llmc_plan::program::Program;
use llmc_plan::say;
use tch::Device;

use crate::cuda::probe::{driver, probe};
use crate::failure::{Failure, Outcome};
use crate::shim;

/// The libtorch this worker is linked against (tch 0.24).
const LIBTORCH: &str = "2.11.0";

/// The CUDA that libtorch is built for, as the driver counts (`torch/version.py` of the wheel: cu130), and the oldest
/// driver that has it (NVIDIA, CUDA 13.0 release notes, table 2).
const CUDA: u64 = 13_000;
const DRIVER: &str = "580";

/// Oldest cuDNN whose attention is trusted on sm_90; libtorch 2.11 itself prefers it from there on and takes
/// FlashAttention 2 in silence below it (`aten/src/ATen/native/transformers/cuda/sdp_utils.cpp`).
const CUDNN: i64 = 91_501;

/// Whether the plan is for this machine's processor; every other device is CUDA.
pub fn is_cpu(plan: &Plan) -> bool {
    plan.hardware.name.to_ascii_lowercase().starts_with("cpu")
}

/// Readies libtorch for a plan: counting allocator, threads, the CUDA back end, determinism.
///
/// # Errors
/// Exit code 2 when the machine lacks the device or its libraries do not fit, with what the plan wants and what is
/// there.
pub fn prepare(plan: &Plan, local_rank: usize, threads: Option<usize>) -> Outcome<Device> {
    if let Some((folder, found)) = libtorch_version() {
        check_libtorch(&found, &folder)?;
    }
    shim::install_cpu_allocator()?;
    let threads = threads.or_else(asked_threads).unwrap_or_else(cores);
    tch::set_num_threads(i32::try_from(threads).unwrap_or(1).max(1));
    if is_cpu(plan) {
        return Ok(Device::Cpu);
    }
    let (gpus, name) = (plan.layout.gpus, &plan.hardware.name);
    let lacks = |found: u64, why: Said| {
        Failure::environment(say!(
            "the plan is for {gpus} × {name}, this machine has {found} CUDA devices{why}",
            "计划面向 {gpus} × {name}，而本机有 {found} 个 CUDA 设备{why}",
            why
        ))
    };
    if let Some(found) = driver().ok().flatten() {
        check_driver(found)?;
    }
    load_cuda().map_err(|why| lacks(0, say!(" ({why})", "（{why}）", why)))?;
    let found = tch::Cuda::device_count().max(0) as u64;
    if found < plan.layout.gpus || local_rank as u64 >= found {
        return Err(lacks(found, Said::default()));
    }
    // cuBLAS picks one workspace a stream and split-K orders by it; `Bitwise` refuses atomics instead.
    if plan.determinism == Determinism::Bitwise {
        tch::Cuda::set_user_enabled_cudnn(true);
        tch::Cuda::cudnn_set_benchmark(false);
    }
    Ok(Device::Cuda(local_rank))
}

/// Refuses a plan for another device than there is.
///
/// # Errors
/// Exit code 2 with both devices.
pub fn check_device(plan: &Plan, device: Device) -> Outcome<()> {
    let Device::Cuda(index) = device else { return Ok(()) };
    let (found, planned) = (probe(index)?, &plan.hardware);
    if is_named(&planned.name, &found.name) {
        return Ok(());
    }
    Err(Failure::environment(say!(
        "the plan is for {planned} of {planned_gib} GiB, device {index} is {found} of {found_gib} GiB: plan it again \
         `on` that device",
        "计划面向 {planned}（{planned_gib} GiB），而设备 {index} 是 {found}（{found_gib} GiB）：请用 `on` 指定该设备并重新规划",
        planned_gib = gib(planned.memory_bytes),
        found_gib = gib(found.total),
        planned = planned.name,
        found = found.name
    )))
}

/// Loads libtorch's CUDA back end from where libtorch itself was loaded, if there is a driver.
pub fn load_cuda() -> Result<(), Said> {
    if !Path::new("/dev/nvidiactl").exists() {
        return Err(say!("no NVIDIA driver", "没有 NVIDIA 驱动"));
    }
    let folder = libtorch_folder().ok_or_else(|| Said::same("libtorch_cpu.so is not in /proc/self/maps"))?;
    shim::load_cuda(&folder.join("libtorch_cuda.so")).map_err(Said::same)
}

/// The failure of a command that needs a CUDA device.
pub fn no_cuda(why: Said) -> Failure {
    Failure::environment(say!("no CUDA device here: {why}", "本机没有可用的 CUDA 设备：{why}", why))
}

/// The folder that libtorch itself was loaded from.
pub(crate) fn libtorch_folder() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|l| l.ends_with("/libtorch_cpu.so"))?;
    Path::new(line.get(line.find('/')?..)?).parent().map(Path::to_path_buf)
}

/// The folder of the libtorch that was loaded and its version, from the file beside its libraries: `version.py` of a
/// wheel, `build-version` of an archive. Unknown where neither is.
fn libtorch_version() -> Option<(PathBuf, String)> {
    let folder = libtorch_folder()?.parent()?.to_path_buf();
    let of_wheel = || {
        let text = std::fs::read_to_string(folder.join("version.py")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
        Some(line.trim_matches(['\'', '"']).to_owned())
    };
    let of_archive = || Some(std::fs::read_to_string(folder.join("build-version")).ok()?.trim().to_owned());
    let version = of_wheel().or_else(of_archive)?;
    Some((folder, version))
}

fn check_libtorch(found: &str, folder: &Path) -> Outcome<()> {
    if found.split('+').next() == Some(LIBTORCH) {
        return Ok(());
    }
    Err(Failure::environment(say!(
        "libtorch {found} was loaded from {folder}, this worker needs {LIBTORCH}: `make libtorch` fetches it, LIBTORCH \
         names its folder",
        "从 {folder} 加载的是 libtorch {found}，而本程序需要 {LIBTORCH}：用 `make libtorch` 获取，或以 LIBTORCH 指定其目录",
        folder = folder.display()
    )))
}

fn check_driver(found: u64) -> Outcome<()> {
    if found >= CUDA {
        return Ok(());
    }
    let dotted = |version: u64| format!("{}.{}", version / 1000, version % 1000 / 10);
    Err(Failure::environment(say!(
        "the NVIDIA driver supports CUDA up to {found}, libtorch {LIBTORCH} needs {needed}: install driver {DRIVER} or \
         newer",
        "NVIDIA 驱动最高支持 CUDA {found}，而 libtorch {LIBTORCH} 需要 {needed}：请安装 {DRIVER} 或更新的驱动",
        found = dotted(found),
        needed = dotted(CUDA)
    )))
}

/// Whether a plan's name of a device can mean the one that the driver calls `found`. What tells cards apart is the
/// model number (`H100`, `A800`, `4090`); a record of the user's own may have a name without one.
fn is_named(planned: &str, found: &str) -> bool {
    let found = found.to_ascii_lowercase();
    let lower = planned.to_ascii_lowercase();
    let mut words = lower.split(|c: char| !c.is_ascii_alphanumeric());
    let model = words.find(|word| {
        word.chars().filter(char::is_ascii_digit).count() >= 2 || *word == "l4" || *word == "t4"
    });
    let number = |word: &str| word.trim_start_matches("rtx").trim_start_matches("gtx").to_owned();
    model.is_none_or(|word| {
        let number = number(word);
        found.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| part == number)
    })
}

/// Refuses libraries that a program would fall short with: attention that goes to cuDNN needs one that can.
///
/// # Errors
/// Exit code 2 with the version found and the version needed.
pub fn check_libraries(device: Device, program: &Program) -> Outcome<()> {
    if device == Device::Cpu || !uses_cudnn(program) {
        return Ok(());
    }
    check_cudnn(shim::cudnn_version()?)
}

fn check_cudnn(found: i64) -> Outcome<()> {
    if found >= CUDNN {
        return Ok(());
    }
    let dotted = |version: i64| format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100);
    let loaded = if found > 0 {
        say!("libtorch loaded cuDNN {found}", "libtorch 加载的是 cuDNN {found}", found = dotted(found))
    } else {
        say!("libtorch loaded no cuDNN", "libtorch 没有加载到 cuDNN")
    };
    Err(Failure::environment(say!(
        "{loaded}, attention needs {needed} or newer: LD_LIBRARY_PATH must name no other before \
         libtorch's own; or choose `determinism bitwise`, which uses FlashAttention",
        "{loaded}，注意力需要 {needed} 或更新版本：LD_LIBRARY_PATH 中 libtorch 自带的目录之前不能有其他版本；\
         或选择 `determinism bitwise`，它使用 FlashAttention",
        loaded,
        needed = dotted(CUDNN)
    )))
}

/// Whether any attention of the program goes to cuDNN.
fn uses_cudnn(program: &Program) -> bool {
    let instrs = program.segments.iter().flat_map(|s| &s.instrs);
    instrs.filter_map(|i| Some((i, i.inputs.first()?))).any(|(instr, qkv)| match &instr.op {
        Op::AttentionForward(a) => {
            let narrow = program.tensor(qkv).is_some_and(|t| matches!(t.dtype, DType::Bf16 | DType::F16));
            narrow && crate::ops::goes_to_cudnn(a)
        }
        _ => false,
    })
}

/// Refuses a program that needs more memory than is free, before anything is allocated. `needed` are bytes of tensors;
/// on a CUDA device the allocator's own rounding, as the plan predicts it, comes on top.
///
/// # Errors
/// Exit code 2 with both figures.
pub fn check_memory(plan: &Plan, device: Device, needed: u64) -> Outcome<()> {
    let advice = say!(
        "lower the micro-batch, choose `layout < recompute full >`, or run it elsewhere",
        "请减小微批，选择 `layout < recompute full >`，或换一台机器运行"
    );
    if let Device::Cuda(index) = device {
        let found = probe(index)?;
        let stage = plan.memory.stages.first();
        let rounding = stage.map_or(0, |s| s.reserved.saturating_sub(s.allocated));
        return if needed.saturating_add(rounding) > found.free {
            Err(Failure::environment(say!(
                "the program needs {needed} GiB of tensors and {rounding} GiB for the allocator's rounding, device \
                 {index} has {free} GiB free of {total} GiB ({held} GiB are held by the CUDA context of this process \
                 and by others): {advice}",
                "程序需要 {needed} GiB 张量和 {rounding} GiB 分配器取整，而设备 {index} 共 {total} GiB，空闲 {free} GiB\
                 （{held} GiB 被本进程的 CUDA 上下文和其他进程占用）：{advice}",
                needed = gib(needed),
                rounding = gib(rounding),
                free = gib(found.free),
                total = gib(found.total),
                held = gib(found.total.saturating_sub(found.free)),
                advice
            )))
        } else {
            Ok(())
        };
    }
    match available_memory() {
        Some(available) if needed > available => Err(Failure::environment(say!(
            "the program needs {needed} MiB of tensors, this machine has {available} MiB available: {advice}",
            "程序需要 {needed} MiB 张量，而本机可用内存为 {available} MiB：{advice}",
            needed = needed.div_ceil(1 << 20),
            available = available >> 20,
            advice
        ))),
        _ => Ok(()),
    }
}

/// `cpu`, `cuda:0`.
pub fn name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    }
}

/// GiB with two decimals.
pub(crate) fn gib(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / (1u64 << 30) as f64)
}

/// `MemAvailable` of the machine in bytes; unknown outside Linux.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// `OMP_NUM_THREADS`, which libtorch obeys when nobody sets a number: launchers and cluster managers set it.
fn asked_threads() -> Option<usize> {
    std::env::var("OMP_NUM_THREADS").ok()?.parse().ok().filter(|n| *n > 0)
}

/// Cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names from `planner/data/hardware` against what drivers report.
    #[test]
    fn a_plan_knows_its_device_by_the_model_number() {
        for (planned, found) in [
            ("H100", "NVIDIA H100 80GB HBM3"),
            ("H100-PCIe", "NVIDIA H100 PCIe"),
            ("A100-40G", "NVIDIA A100-SXM4-40GB"),
            ("RTX4090", "NVIDIA GeForce RTX 4090"),
            ("L40S", "NVIDIA L40S"),
            ("A6000", "NVIDIA RTX A6000"),
            ("H20", "NVIDIA H20"),
            ("our-card", "NVIDIA H100 80GB HBM3"),
        ] {
            assert!(is_named(planned, found), "{planned} {found}");
        }
        for (planned, found) in [
            ("H100", "NVIDIA H200"),
            ("H20", "NVIDIA H200"),
            ("H100", "NVIDIA A100-SXM4-80GB"),
            ("A800", "NVIDIA A100-SXM4-80GB"),
            ("RTX4090", "NVIDIA GeForce RTX 3090"),
            ("A10", "NVIDIA A10G"),
            ("L4", "NVIDIA L40S"),
        ] {
            assert!(!is_named(planned, found), "{planned} {found}");
        }
    }

    #[test]
    fn libraries_that_do_not_match_are_one_sentence_with_both_versions() {
        let said = |outcome: Outcome<()>| {
            let failure = outcome.expect_err("refused");
            assert_eq!(failure.code, 2);
            failure.message.en
        };
        let old = said(check_driver(12_040));
        assert!(
            old.contains("CUDA up to 12.4") && old.contains("needs 13.0") && old.contains("580"),
            "{old}"
        );
        assert!(check_driver(13_000).is_ok() && check_driver(13_010).is_ok());
        let old = said(check_cudnn(91_002));
        assert!(old.contains("cuDNN 9.10.2") && old.contains("9.15.1"), "{old}");
        assert!(said(check_cudnn(0)).contains("no cuDNN"));
        assert!(check_cudnn(91_900).is_ok());
        let old = said(check_libtorch("2.9.1+cu128", Path::new("/opt/torch")));
        assert!(
            old.contains("libtorch 2.9.1+cu128") && old.contains("2.11.0") && old.contains("/opt/torch"),
            "{old}"
        );
        assert!(check_libtorch("2.11.0+cpu", Path::new("/opt/torch")).is_ok());
    }
}
