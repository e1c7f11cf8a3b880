//! `llmc-worker`: trains, evaluates and shows the program of a plan. One process a device; `llmc run`,
//! `torchrun`, `srun` or Kubernetes start it with RANK, WORLD_SIZE and LOCAL_RANK.

use llmc_plan::lang::Lang;
use llmc_plan::say;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use llmc_runtime::bench::bench;
use llmc_runtime::cuda::probe::probe;
use llmc_runtime::device;
use llmc_runtime::examine::examine;
use llmc_runtime::failure::{Failure, Outcome};
use llmc_runtime::prepare;
use llmc_runtime::run_folder::{RunFolder, read_data, read_plan};
use llmc_runtime::selftest::gradients::gradients;
use llmc_runtime::selftest::selftest;
use llmc_runtime::stop::Stop;
use llmc_runtime::train::{Ended, Options, train};

const EXIT_CODES: &str = "Exit codes: 0 done, 1 the recipe diverges or its text does not last, 2 usage, environment or a file, \
    70 a bug of ours, 130 and 143 stopped by a signal with the state saved.";

/// Executes the plans of llmc.
#[derive(Debug, Parser)]
#[command(name = "llmc-worker", version, after_help = EXIT_CODES)]
struct Arguments {
    /// Language of sentences [default: LLMC_LANG, else the locale]
    #[arg(long, global = true, value_parser = ["en", "zh"])]
    lang: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train the run in a folder
    Train {
        /// Folder with plan.json and data.json
        #[arg(long, value_name = "runs/NAME")]
        run: PathBuf,
        /// Built corpus [default: data/ in the run folder]
        #[arg(long, value_name = "FOLDER")]
        data: Option<PathBuf>,
        /// Go on from the newest checkpoint
        #[arg(long)]
        resume: bool,
        /// Write every instruction of the first two steps, one JSON object a line
        #[arg(long, value_name = "FILE")]
        trace: Option<PathBuf>,
        /// Write where an early step's time went, for chrome://tracing or Perfetto
        #[arg(long, value_name = "FILE")]
        profile: Option<PathBuf>,
        /// Run an edited program (see `llmc-worker program`) instead of the plan's
        #[arg(long, value_name = "FILE")]
        program: Option<PathBuf>,
        /// Stop after this optimizer step
        #[arg(long, value_name = "N")]
        steps: Option<u64>,
        /// Choose GEMM algorithms under load: a minute more at the first start, kept in the run's gemm.json
        #[arg(long)]
        search_gemm: bool,
        /// Threads an operation may use [default: OMP_NUM_THREADS, else all cores]
        #[arg(long, value_name = "N")]
        threads: Option<usize>,
    },
    /// Loss, perplexity and bits a byte of a checkpoint; one JSON object
    Eval {
        /// A step-N folder, or a run's folder for its newest
        #[arg(long = "checkpoint", value_name = "FOLDER")]
        checkpoint: Option<PathBuf>,
        /// A built corpus (its validation split) or text files [default: the corpus of the checkpoint's run]
        #[arg(long = "data", value_name = "PATH", num_args = 1..)]
        data: Vec<PathBuf>,
        /// The same by position: the checkpoint, then data
        #[arg(value_name = "CHECKPOINT DATA", conflicts_with_all = ["checkpoint", "data"])]
        paths: Vec<PathBuf>,
        /// Threads an operation may use [default: OMP_NUM_THREADS, else all cores]
        #[arg(long, value_name = "N")]
        threads: Option<usize>,
    },
    /// Compare this machine's device with its CPU, op by op and in training; one JSON object
    Selftest {
        /// cpu or cuda
        #[arg(long, default_value = "cuda")]
        device: String,
    },
    /// The first CUDA device: the driver's name of it and its memory; one JSON object
    Device,
    /// Compare gradients in bf16 and fp8 with f64, tensor by tensor, at the widths of real models; one JSON object
    Gradients {
        /// cpu or cuda
        #[arg(long, default_value = "cuda")]
        device: String,
        /// tiny, 1b or 3b; several with commas
        #[arg(long, value_name = "WIDTH", value_delimiter = ',', default_values = ["1b", "3b"])]
        width: Vec<String>,
        /// Tokens of the sequence
        #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u64).range(128..=8192))]
        tokens: u64,
    },
    /// Time steps of a plan on random tokens, without corpus or run folder; one JSON object
    Bench {
        /// A plan.json
        #[arg(long, value_name = "FILE")]
        plan: PathBuf,
        /// Timed steps
        #[arg(long, value_name = "N", default_value_t = 5)]
        steps: u64,
        /// Folder where GEMM algorithms are kept between runs [default: the plan's]
        #[arg(long, value_name = "FOLDER")]
        algorithms: Option<PathBuf>,
        /// Choose GEMM algorithms under load: takes a minute, unless the folder holds some chosen so
        #[arg(long)]
        search: bool,
    },
    /// Print the program of a plan as JSON
    Program {
        /// A plan.json
        #[arg(long, value_name = "FILE")]
        plan: PathBuf,
        /// The run's data.json: a document mask changes the program
        #[arg(long, value_name = "FILE")]
        data: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let Arguments { lang, command } = Arguments::parse();
    let environment = || Lang::of(|name| std::env::var(name).ok());
    let lang = lang.map_or_else(environment, |code| Lang::from(code.as_str()));
    match std::panic::catch_unwind(|| run(command, Instant::now(), lang)) {
        Ok(Ok(code)) => ExitCode::from(code),
        Ok(Err(failure)) => {
            eprintln!("llmc-worker: {}", failure.message.text(lang));
            ExitCode::from(failure.code)
        }
        Err(_) => {
            let said = say!(
                "this is a bug of ours; please report it with the lines above",
                "这是 llmc 的程序错误，请连同以上各行一起报告"
            );
            eprintln!("llmc-worker: {}", said.text(lang));
            ExitCode::from(70)
        }
    }
}

fn run(command: Command, began: Instant, lang: Lang) -> Outcome<u8> {
    match command {
        Command::Train { run, data, resume, trace, profile, program, steps, search_gemm, threads } => {
            let local_rank = ranks()?;
            let stop = Stop::install()?;
            let folder = RunFolder::open(&run)?;
            let options = Options {
                data,
                resume,
                trace,
                profile,
                program,
                steps,
                search_gemm,
                threads,
                local_rank,
                lang,
            };
            Ok(match train(&folder, &options, &stop)? {
                Ended::Complete => 0,
                Ended::Stopped(code) => code,
            })
        }
        Command::Program { plan, data } => {
            let data = data.map(|path| read_data(&path)).transpose()?;
            let program = prepare::lowered(&read_plan(&plan)?.0, data.as_ref().map(|d| &d.0))?;
            print(&program)?;
            Ok(0)
        }
        Command::Eval { checkpoint, data, paths, threads } => {
            let (checkpoint, data) = match (checkpoint, paths.split_first()) {
                (Some(checkpoint), _) => (checkpoint, data),
                (None, Some((first, rest))) => (first.clone(), rest.to_vec()),
                (None, None) => {
                    return Err(Failure::environment(say!(
                        "name a checkpoint: runs/NAME, or runs/NAME/checkpoints/step-N",
                        "请指定检查点：runs/NAME，或 runs/NAME/checkpoints/step-N"
                    )));
                }
            };
            print(&examine(&checkpoint, &data, threads, lang)?)?;
            Ok(0)
        }
        Command::Bench { plan, steps, algorithms, search } => {
            let folder = algorithms.or_else(|| plan.parent().map(Path::to_path_buf)).unwrap_or_default();
            print(&bench(&read_plan(&plan)?.0, steps.max(1), &folder, search, began, lang)?)?;
            Ok(0)
        }
        Command::Device => {
            device::load_cuda().map_err(device::no_cuda)?;
            let found = probe(0)?;
            print(&serde_json::json!({ "name": found.name, "memory_bytes": found.total }))?;
            Ok(0)
        }
        Command::Gradients { device, width, tokens } => {
            let report = gradients(&device, &width, tokens)?;
            print(&report)?;
            if report.ok {
                Ok(0)
            } else {
                Err(Failure::bug("a gradient is too far from f64: see `ok` above"))
            }
        }
        Command::Selftest { device } => {
            let report = selftest(&device)?;
            print(&report)?;
            if report.ok {
                Ok(0)
            } else {
                Err(Failure::bug("the device differs from the CPU: see `ok` above"))
            }
        }
    }
}

/// One JSON object on stdout.
fn print(value: &impl serde::Serialize) -> Outcome<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::bug(e.to_string()))?;
    // A closed pipe is the reader's choice, not a failure.
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(())
}

/// Index of the device on this machine, from the launcher's variables.
fn ranks() -> Outcome<usize> {
    let number = |name: &str, default: usize| match std::env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse::<usize>().map_err(|_| {
            Failure::environment(say!(
                "{name} is `{text}`, which is not a number",
                "{name} 为 `{text}`，不是数字"
            ))
        }),
    };
    let (rank, world) = (number("RANK", 0)?, number("WORLD_SIZE", 1)?);
    if world != 1 || rank != 0 {
        return Err(Failure::environment(say!(
            "WORLD_SIZE is {world}: this version of llmc-worker trains on one device; start one process, with a plan \
             for one device",
            "WORLD_SIZE 为 {world}：此版本的 llmc-worker 只在一个设备上训练；请用单设备的计划启动一个进程"
        )));
    }
    number("LOCAL_RANK", 0)
}
