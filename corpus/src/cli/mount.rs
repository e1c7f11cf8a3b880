//! `llmc-data bench`: what a disk or network mount gives by threads and block size, and what shard
//! size and prefetch follow.

use llmc_corpus::error::{Error, Result};
use llmc_plan::columns::right;
use llmc_plan::data::DATA_FORMAT_VERSION;
use llmc_plan::lang::Lang;
use llmc_plan::mount::{Mount, Point};
use llmc_plan::say;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

const MIB: u64 = 1 << 20;
const THREADS: [u64; 4] = [1, 2, 4, 8];
/// Block sizes of reads that move data, and of reads that count operations.
const BLOCKS: [u64; 3] = [256 << 10, MIB, 8 * MIB];
const SMALL: u64 = 4 << 10;
/// Small reads of one measurement.
const OPERATIONS: u64 = 4096;
/// A read of a shard should take this many times the latency of its first byte.
const AMORTISED: f64 = 100.0;

/// Writes a scratch file of `mib` MiB in `dir`, reads it in every way, and removes it.
///
/// # Errors
/// A folder that cannot be written, or is full.
pub fn run(dir: &Path, mib: u64, out: Option<&Path>, lang: Lang) -> Result<()> {
    let path = dir.join(".llmc-bench");
    let result = measure(&path, mib * MIB);
    let _ = std::fs::remove_file(&path);
    let mount = result.map_err(|source| Error::Io { action: "measure", file: path, source })?;
    let heads = [("threads", "线程", 7), ("block", "块", 11), ("MB/s", "MB/s", 14), ("reads/s", "次/秒", 15)];
    let heads = heads.map(|(en, zh, places)| right(lang.say(en, zh), places));
    eprintln!("{}", heads.concat());
    for point in mount.bandwidth.iter().chain(&mount.random) {
        let (block, bandwidth) = (point.block_bytes >> 10, point.bytes_per_second / 1e6);
        eprintln!(
            "{:>7} {block:>6} KiB {bandwidth:>13.1} {:>14.0}",
            point.threads, point.operations_per_second
        );
    }
    let said = say!(
        "written and flushed at {rate:.1} MB/s\nmake shards of {shard} MiB or more; keep {ahead} KiB in flight, {threads} \
         threads; a small read takes {latency:.0} µs",
        "写入并落盘 {rate:.1} MB/s\n分片宜为 {shard} MiB 或更大；保持 {ahead} KiB 在途，{threads} 个线程；一次小读耗时 \
         {latency:.0} µs",
        rate = mount.write_bytes_per_second / 1e6,
        shard = mount.shard_bytes.div_ceil(MIB),
        ahead = mount.prefetch_bytes >> 10,
        threads = mount.threads,
        latency = mount.latency_seconds * 1e6
    );
    eprintln!("{}", said.text(lang));
    if !cfg!(target_os = "linux") {
        let said = say!(
            "the page cache cannot be emptied on this system: the figures may be those of memory",
            "此系统无法清空页缓存：这些数字可能是内存的速度"
        );
        eprintln!("{}", said.text(lang));
    }
    match out {
        Some(out) => {
            let json = serde_json::to_vec_pretty(&mount).map_err(Error::inner)?;
            super::write_whole(out, &json)
        }
        None => Ok(()),
    }
}

fn measure(path: &Path, size: u64) -> std::io::Result<Mount> {
    let clock = Instant::now();
    write(path, size)?;
    let write_bytes_per_second = size as f64 / clock.elapsed().as_secs_f64().max(1e-9);
    let mut bandwidth = Vec::new();
    for threads in THREADS {
        for block in BLOCKS {
            let blocks = size / block;
            // Every thread reads its own part from end to end.
            let share = blocks / threads;
            bandwidth.push(read(path, threads, block, share, |thread, n| (thread * share + n) * block)?);
        }
    }
    let mut random = Vec::new();
    for threads in THREADS {
        let places = size / SMALL;
        let place = |thread: u64, n: u64| llmc_corpus::permute::permute(thread, places, n % places) * SMALL;
        random.push(read(path, threads, SMALL, OPERATIONS / threads, place)?);
    }
    let best = bandwidth.iter().max_by(|a, b| a.bytes_per_second.total_cmp(&b.bytes_per_second));
    let (bytes_per_second, threads) = best.map_or((0.0, 1), |best| (best.bytes_per_second, best.threads));
    let latency_seconds = random.first().map_or(0.0, |point| 1.0 / point.operations_per_second.max(1e-9));
    let in_flight = bytes_per_second * latency_seconds;
    Ok(Mount {
        format_version: DATA_FORMAT_VERSION.to_owned(),
        bytes_per_second,
        write_bytes_per_second,
        latency_seconds,
        shard_bytes: ((AMORTISED * in_flight) as u64).clamp(64 * MIB, 4096 * MIB).next_multiple_of(MIB),
        prefetch_bytes: (in_flight as u64).max(MIB).next_multiple_of(MIB),
        threads,
        bandwidth,
        random,
    })
}

fn write(path: &Path, size: u64) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    // Not compressible, in case the mount compresses.
    let mut block = vec![0; MIB as usize];
    for number in 0..size / MIB {
        for (n, bytes) in block.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *bytes = llmc_corpus::permute::mix(number << 20 | n as u64).to_le_bytes();
        }
        file.write_all(&block)?;
    }
    file.sync_all()
}

/// `count` reads by each thread, after the file left the page cache.
fn read(
    path: &Path,
    threads: u64,
    block: u64,
    count: u64,
    place: impl Fn(u64, u64) -> u64 + Sync,
) -> std::io::Result<Point> {
    let file = File::open(path)?;
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let start = Instant::now();
    std::thread::scope(|scope| {
        let work = |thread| {
            let (file, place) = (&file, &place);
            move || -> std::io::Result<()> {
                let mut buffer = vec![0; block as usize];
                (0..count).try_for_each(|n| file.read_exact_at(&mut buffer, place(thread, n)))
            }
        };
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(work(thread))).collect();
        running.into_iter().try_for_each(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
    })?;
    let seconds = start.elapsed().as_secs_f64().max(1e-9);
    let operations = (threads * count) as f64 / seconds;
    Ok(Point {
        threads,
        block_bytes: block,
        bytes_per_second: operations * block as f64,
        operations_per_second: operations,
    })
}
