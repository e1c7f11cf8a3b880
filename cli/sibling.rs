//! Finding and running `llmc-worker` and `llmc-data`: `llmc` itself links neither libtorch nor tokenizers.
//!
//! A started program has a process group of its own, and every signal that reaches `llmc` is passed to it once: a
//! Ctrl-C at the terminal arrives as one SIGINT, as does `kill -INT` from a scheduler. One that comes between two
//! programs of a set, when nobody is there to take it, keeps the next from starting.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use llmc_plan::lang::{self, Lang};

use crate::exit::{Exit, Failure};

/// How long the other ranks have to stop after one has failed: they may be inside a collective that never ends.
const GRACE: Duration = Duration::from_secs(20);

/// What the dynamic loader of Linux exits with when a shared library is missing (glibc, elf/rtld.c).
const NOT_LOADED: u8 = 127;
/// What a process that took too long counts as (coreutils, timeout.c).
pub const TIMED_OUT: u8 = 124;
/// OpenMP reads it before the worker's first line runs. Threads that spin at a barrier starve the one they wait for when
/// cores are shared: the quickstart ran at 200 tokens/s spinning and 3,600 waiting, on 2 cores at load 8
/// (own measurement, 2026-11-24, Intel Xeon VM).
const WAIT_POLICY: &str = "OMP_WAIT_POLICY";

/// A program that stands beside `llmc`.
#[derive(Debug, Clone, Copy)]
pub struct Sibling {
    /// Its file name.
    pub name: &'static str,
    /// The variable that names another file.
    pub variable: &'static str,
    /// The command that builds it.
    pub build: &'static str,
}

/// Trains and evaluates.
pub const WORKER: Sibling = Sibling { name: "llmc-worker", variable: "LLMC_WORKER", build: "make worker" };
/// Builds corpora and tokenizers.
pub const DATA: Sibling =
    Sibling { name: "llmc-data", variable: "LLMC_DATA", build: "cargo build --release -p llmc-corpus" };

impl Sibling {
    /// The file its variable names, else the one beside `llmc`, else the first on the path.
    pub fn find(&self) -> Result<PathBuf, Failure> {
        let named =
            std::env::var_os(self.variable).map(PathBuf::from).filter(|path| !path.as_os_str().is_empty());
        if let Some(path) = named {
            return if path.is_file() {
                Ok(path)
            } else {
                Err(self.missing(&format!("{} is not there", path.display())))
            };
        }
        let file = format!("{}{}", self.name, std::env::consts::EXE_SUFFIX);
        let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
        let on_path = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
        let mut folders = beside.into_iter().chain(on_path.into_iter().flatten());
        let found = folders.find_map(|folder| Some(folder.join(&file)).filter(|path| path.is_file()));
        found.ok_or_else(|| self.missing(&format!("{} is neither beside llmc nor on the path", self.name)))
    }

    fn missing(&self, what: &str) -> Failure {
        let build = self.build;
        Failure::new(format!("{what}: build it with `{build}`"), format!("{what}：请用 `{build}` 构建"))
    }

    /// A command of this program that speaks `lang`, ready for arguments.
    pub fn command(&self, lang: Lang) -> Result<Command, Failure> {
        let mut command = Command::new(self.find()?);
        command.envs(libraries()).env(lang::VARIABLE, lang.code());
        if std::env::var_os(WAIT_POLICY).is_none() {
            command.env(WAIT_POLICY, "passive");
        }
        Ok(command)
    }

    /// Runs one process to its end and passes its code through.
    pub fn run(&self, command: Command) -> Result<ExitCode, Failure> {
        self.run_all(vec![command])
    }

    /// Runs several processes at once, signals passed on. The first that fails decides the code and ends the others.
    pub fn run_all(&self, commands: Vec<Command>) -> Result<ExitCode, Failure> {
        self.run_within(commands, None).map(ExitCode::from)
    }

    /// The same, to an end after `limit`; the code. Starts nothing after a signal that an earlier one of this process
    /// was there for, or that came since.
    pub fn run_within(&self, commands: Vec<Command>, limit: Option<Duration>) -> Result<u8, Failure> {
        let limit = limit.map(|limit| Instant::now() + limit);
        if let Some(code) = relay::stopped().map_err(|error| self.cannot_start(&error))? {
            return Ok(code);
        }
        let mut children = Vec::new();
        for mut command in commands {
            relay::own_group(&mut command);
            match command.spawn() {
                Ok(child) => children.push(child),
                Err(error) => {
                    stop(&mut children);
                    return Err(self.cannot_start(&error));
                }
            }
        }
        let (mut failed, mut deadline): (Option<u8>, Option<Instant>) = (None, None);
        while !children.is_empty() {
            relay::pass_on(&children);
            let mut running = Vec::with_capacity(children.len());
            for mut child in children {
                match child.try_wait() {
                    Ok(None) => running.push(child),
                    Ok(Some(status)) if status.success() => {}
                    Ok(Some(status)) => failed = failed.or(Some(code(status))),
                    Err(error) => return Err(self.cannot_start(&error)),
                }
            }
            children = running;
            if limit.is_some_and(|limit| Instant::now() > limit) && !children.is_empty() {
                failed = failed.or(Some(TIMED_OUT));
            }
            if failed.is_some() && !children.is_empty() {
                match deadline {
                    None => {
                        relay::terminate(&children);
                        deadline = Some(Instant::now() + GRACE);
                    }
                    Some(deadline) if Instant::now() > deadline => stop(&mut children),
                    Some(_) => {}
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        match failed {
            Some(NOT_LOADED) => Err(self.not_loaded()),
            Some(code) => Ok(code),
            None => Ok(0),
        }
    }

    fn not_loaded(&self) -> Failure {
        let (name, build) = (self.name, self.build);
        Failure::new(
            format!("{name} finds no libtorch: `{build}` fetches it, or set LIBTORCH to its folder"),
            format!("{name} 找不到 libtorch：运行 `{build}` 获取，或将 LIBTORCH 设为其目录"),
        )
    }

    /// Why a program did not start.
    pub fn cannot_start(&self, error: &std::io::Error) -> Failure {
        let name = self.name;
        Failure::new(format!("cannot run {name}: {error}"), format!("无法运行 {name}：{error}"))
    }
}

/// Kills what still runs.
fn stop(children: &mut [Child]) {
    for child in children {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The code of a process; of a signal, what a shell would say. One that is neither (Windows says so of a crash) is a
/// bug of ours.
fn code(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    #[cfg(not(unix))]
    let signal: Option<i32> = None;
    let code = status.code().or(signal.map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(Exit::Bug as u8)
}

/// Where libtorch and the CUDA libraries lie, so that the loader finds them without the user's help: `LIBTORCH`, else
/// the user cache that `make libtorch` fills.
pub fn libraries() -> Option<(&'static str, OsString)> {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let torch = std::env::var_os("LIBTORCH").filter(|path| !path.is_empty()).map(PathBuf::from);
    let torch = torch.or_else(|| cache.map(|cache| cache.join("llmc/libtorch-2.11.0/torch")))?;
    let ours =
        [torch.join("lib"), torch.join("../nvidia/cu13/lib")].into_iter().filter(|folder| folder.is_dir());
    let theirs = std::env::var_os("LD_LIBRARY_PATH").filter(|paths| !paths.is_empty());
    let theirs: Vec<PathBuf> =
        theirs.map(|paths| std::env::split_paths(&paths).collect()).unwrap_or_default();
    let all: Vec<PathBuf> = theirs.into_iter().chain(ours).collect();
    if all.is_empty() {
        return None;
    }
    std::env::join_paths(all).ok().map(|paths| ("LD_LIBRARY_PATH", paths))
}

#[cfg(unix)]
mod relay {
    //! Signals to process groups.

    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};
    use std::sync::{Mutex, PoisonError};

    use rustix::process::{Pid, Signal, kill_process_group};
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    /// The handlers, and the last signal. They stay while the process lives: what comes when no program runs is kept
    /// for the next, where a handler of each program's own would swallow it.
    static HEARD: Mutex<Option<(Signals, Option<i32>)>> = Mutex::new(None);

    /// Starts to listen; the code to end with if a signal has come since the first call.
    pub fn stopped() -> std::io::Result<Option<u8>> {
        let mut heard = HEARD.lock().unwrap_or_else(PoisonError::into_inner);
        let (signals, last) = match &mut *heard {
            Some(listening) => listening,
            silent => silent.insert((Signals::new([SIGHUP, SIGINT, SIGTERM])?, None)),
        };
        *last = signals.pending().last().or(*last);
        Ok(last.and_then(|signal| u8::try_from(128 + signal).ok()))
    }

    /// Passes on each signal that has come since the last call.
    pub fn pass_on(children: &[Child]) {
        let mut heard = HEARD.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((signals, last)) = &mut *heard else { return };
        for signal in signals.pending() {
            *last = Some(signal);
            let signal = match signal {
                SIGINT => Signal::INT,
                SIGHUP => Signal::HUP,
                _ => Signal::TERM,
            };
            send(children, signal);
        }
    }

    pub fn own_group(command: &mut Command) {
        command.process_group(0);
    }

    pub fn terminate(children: &[Child]) {
        send(children, Signal::TERM);
    }

    fn send(children: &[Child], signal: Signal) {
        for child in children {
            // A child that has just ended is no error.
            let _ = i32::try_from(child.id())
                .ok()
                .and_then(Pid::from_raw)
                .map(|group| kill_process_group(group, signal));
        }
    }
}

#[cfg(not(unix))]
mod relay {
    //! Elsewhere the console delivers Ctrl-C to every process itself.

    use std::process::{Child, Command};

    pub fn stopped() -> std::io::Result<Option<u8>> {
        Ok(None)
    }

    pub fn pass_on(_children: &[Child]) {}

    pub fn own_group(_command: &mut Command) {}

    pub fn terminate(_children: &[Child]) {}
}

#[cfg(all(test, unix))]
mod tests {
    use signal_hook::consts::SIGINT;
    use signal_hook::low_level::raise;

    use super::*;

    /// Between two programs of a set nobody takes a Ctrl-C; the second must not start.
    #[test]
    fn a_signal_between_two_programs_keeps_the_second_from_starting() {
        let run = || WORKER.run_within(vec![Command::new("true")], None).unwrap();
        assert_eq!(run(), 0);
        raise(SIGINT).unwrap();
        assert_eq!(run(), 130);
    }
}
