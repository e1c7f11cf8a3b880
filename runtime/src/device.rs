//! Which device a plan runs on, and whether this machine has it.

use std::path::{Path, PathBuf};

use llmc_plan::plan::{Determinism, Plan, Precision};
use tch::{Device, Kind};

use crate::cuda;
use crate::failure::{Failure, Outcome};
use crate::shim;

/// Whether the plan is for this machine's processor; every other device is CUDA.
pub fn is_cpu(plan: &Plan) -> bool {
    plan.hardware.name.to_ascii_lowercase().starts_with("cpu")
}

/// Readies libtorch for a plan: counting allocator, threads, the CUDA back end, determinism.
///
/// # Errors
/// Exit code 2 when the machine lacks the device, with what the plan wants and what is there.
pub fn prepare(plan: &Plan, local_rank: usize, threads: Option<usize>) -> Outcome<Device> {
    shim::install_cpu_allocator()?;
    let threads = threads.or_else(asked_threads).unwrap_or_else(cores);
    tch::set_num_threads(i32::try_from(threads).unwrap_or(1).max(1));
    if is_cpu(plan) {
        return Ok(Device::Cpu);
    }
    let wanted = format!("the plan is for {} × {}", plan.layout.gpus, plan.hardware.name);
    load_cuda()
        .map_err(|why| Failure::environment(format!("{wanted}, this machine has 0 CUDA devices ({why})")))?;
    let found = tch::Cuda::device_count().max(0) as u64;
    if found < plan.layout.gpus || local_rank as u64 >= found {
        return Err(Failure::environment(format!("{wanted}, this machine has {found} CUDA devices")));
    }
    // cuBLAS picks one workspace a stream and split-K orders by it; `Bitwise` refuses atomics instead.
    if plan.determinism == Determinism::Bitwise {
        tch::Cuda::set_user_enabled_cudnn(true);
        tch::Cuda::cudnn_set_benchmark(false);
    }
    let device = Device::Cuda(local_rank);
    let kind = if plan.precision == Precision::F32 { Kind::Float } else { Kind::BFloat16 };
    cuda::prepare(device, kind).map_err(|e| Failure::environment(e.to_string()))?;
    Ok(device)
}

/// Loads libtorch's CUDA back end from where libtorch itself was loaded, if there is a driver.
pub fn load_cuda() -> Result<(), String> {
    if !Path::new("/dev/nvidiactl").exists() {
        return Err("no NVIDIA driver".to_owned());
    }
    let folder = libtorch_folder().ok_or("libtorch_cpu.so is not in /proc/self/maps")?;
    shim::load_cuda(&folder.join("libtorch_cuda.so")).map_err(|e| e.to_string())
}

/// The folder that libtorch itself was loaded from.
pub(crate) fn libtorch_folder() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|l| l.ends_with("/libtorch_cpu.so"))?;
    Path::new(line.get(line.find('/')?..)?).parent().map(Path::to_path_buf)
}

/// Refuses a program that needs more memory than the machine can give, before anything is allocated.
///
/// # Errors
/// Exit code 2 with both figures.
pub fn check_memory(device: Device, needed: u64) -> Outcome<()> {
    if device != Device::Cpu {
        return Ok(()); // the allocator itself refuses with both figures
    }
    match available_memory() {
        Some(available) if needed > available => Err(Failure::environment(format!(
            "the program needs {} MiB of tensors, this machine has {} MiB available: lower the micro-batch, choose \
             `layout < recompute full >`, or run it elsewhere",
            needed.div_ceil(1 << 20),
            available >> 20
        ))),
        _ => Ok(()),
    }
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
