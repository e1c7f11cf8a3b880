//! The command line as typed. What a command does with it is in the file of its name.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{exit, sweep};

const EXAMPLES: &str = "Examples:
  llmc plan recipe.llm
  llmc plan recipe.llm --set optimizer.wd=0.05 --format json -o plan.json
  llmc why recipe.llm lr.peak
  llmc run recipe.llm                             # needs its text, llmc-worker and llmc-data: `make worker`";

const DATA: &str = "Commands of llmc-data (llmc data COMMAND --help has the options):
  build RECIPE            tokenise a recipe's sources into runs/NAME/data; or --spec data.json --out DIR
  stats DIR               what a built folder holds: tokens, documents, lengths, padding
  export DIR --out DIR    write a built folder as Parquet or WebDataset tars
  dedup FILES...          find equal and similar documents
  bench DIR               measure the reads and writes of a disk or network mount

Examples:
  make quickstart-text                            # the text that the recipe names
  llmc data build recipes/quickstart.llm
  llmc data stats runs/quickstart/data            # once it is built
  llmc data bench /mnt/cpfs --out mount.json";

const TOKENIZER: &str = "Commands of llmc-data tokenizer (llmc tokenizer COMMAND --help has the options):
  train RECIPE            write runs/NAME/tokenizer.json; or --spec data.json --out FILE
  report DIR              bytes a token by source, unused and longest entries, entries that look like secrets

Examples:
  make quickstart-text                            # the text that the recipe names
  llmc tokenizer train recipes/quickstart.llm
  llmc tokenizer report runs/quickstart/data      # after `llmc data build`";

const RUN: &str = "Examples:
  llmc run recipes/quickstart.llm                 # its text: `make quickstart-text`
  llmc run runs/quickstart/plan.json --resume     # after Ctrl-C
  llmc run recipe.llm --profile step.json

Training needs llmc-worker and llmc-data beside llmc: `make worker` builds both.
On several nodes, start it on each with MASTER_ADDR, MASTER_PORT and NODE_RANK set.";

const SWEEP: &str = "Example:
  llmc sweep lr recipes/quickstart.llm --lr 3e-4..1e-2 --points 4 --steps 30

Every point is a training run: it needs what `llmc run` needs.";

const SWEEP_LR: &str = "Examples:
  llmc sweep lr recipe.llm
  llmc sweep lr recipe.llm --lr 1e-4..1e-2 --points 7 --batch 4096,8192,16384
  llmc sweep lr recipe.llm --lr 3e-4,1e-3 --steps 50 --format json

Every point is a training run and needs what `llmc run` needs; all train the same tokens, with the recipe's schedule over
them. Points that are finished are not run again.";

const EVAL: &str = "Without DATA, the validation text of the checkpoint's run. DATA: the folder of a built corpus (its validation split), \
or text files. --threads N: threads an operation may use.

Examples, after `llmc run recipes/quickstart.llm`:
  llmc eval runs/quickstart
  llmc eval runs/quickstart/checkpoints/step-400 notes.txt";

const SCORE: &str = "Columns: layers, hidden, heads, kv_heads, ffn, vocab, seq; hardware, n_gpus; micro_batch_seqs, global_batch_seqs, tp, \
pp, cp, zero_stage, act_ckpt, precision; measured tokens_per_s_per_gpu or peak_mem_gib. A row that lacks what it needs is \
named with the reason.

Examples:
  llmc score planner/data/held-out.csv
  llmc score runs.csv --format json";

const CALIBRATE: &str = "Examples:
  llmc calibrate runs.csv vtrain.csv -o profiles --report accuracy.md
  llmc calibrate runs/* -o profiles               # finished runs of `llmc run`
  llmc calibrate --device -o profiles             # times this machine; needs llmc-worker: `make worker`";

/// A compiler for LLM training: one page of recipe becomes a plan that is true and a run that executes it.
#[derive(Debug, Parser)]
#[command(name = "llmc", version, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
#[command(disable_help_subcommand = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Override one value of the recipe, written as in the recipe: --set lr.peak=3e-4
    #[arg(long, global = true, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// How data is written to stdout, and findings to stderr
    #[arg(long, global = true, value_enum, default_value_t = Format::Human, hide_default_value = true)]
    pub format: Format,
    /// Language of sentences; from the locale unless given
    #[arg(long, global = true, value_enum)]
    pub lang: Option<LangArg>,
    /// When to colour; auto honours NO_COLOR
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, hide_default_value = true)]
    pub color: Color,
    /// A hardware record to use beside the built-in ones
    #[arg(long, global = true, value_name = "FILE")]
    pub hardware: Vec<PathBuf>,
    /// Say more: how the search of a plan went, warnings of a recipe that is only asked about, what a run does
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// Shapes of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people, in a terminal
    Human,
    /// For programs; English keys and messages
    Json,
    /// For a report or a pull request
    Markdown,
}

/// Languages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LangArg {
    /// English
    En,
    /// 中文
    Zh,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check recipes without planning; needs no data and no hardware
    #[command(after_help = "Examples:\n  llmc check recipes/*.llm\n  llmc check recipe.llm --format json")]
    Check {
        /// Recipes; - is stdin
        #[arg(required = true, value_name = "RECIPE")]
        recipes: Vec<PathBuf>,
    },
    /// Rewrite recipes in the one canonical layout
    #[command(after_help = "Examples:\n  llmc fmt recipes/*.llm\n  llmc fmt --check recipes/*.llm")]
    Fmt {
        /// Recipes; - reads stdin and writes stdout
        #[arg(required = true, value_name = "RECIPE")]
        recipes: Vec<PathBuf>,
        /// Write nothing; exit with 3 if a recipe is not in the canonical layout
        #[arg(long)]
        check: bool,
    },
    /// Plan a run: does it fit, how long, what does it cost, what loss
    #[command(
        after_help = "Examples:\n  llmc plan recipe.llm --lang zh\n  llmc plan recipe.llm -o plan.json\n  llmc plan recipe.llm --set model.ctx=4k --against plan.json\n  llmc plan recipe.llm --format markdown > report.md"
    )]
    Plan(PlanArgs),
    /// Where a value of the plan comes from: recipe text, preset, rule, paper
    #[command(after_help = "Example:\n  llmc why recipe.llm memory.device_bytes")]
    Why {
        /// The recipe
        recipe: PathBuf,
        /// A path in the plan, such as lr.peak
        path: String,
    },
    /// Why the planner did not choose something, such as tp=8
    #[command(
        after_help = "Examples:\n  llmc why-not recipe.llm tp=8\n  llmc why-not recipe.llm recompute=full zero=2"
    )]
    WhyNot {
        /// The recipe
        recipe: PathBuf,
        /// A choice of one or more values, such as tp=8 zero=3
        #[arg(required = true)]
        choice: Vec<String>,
    },
    #[command(after_help = "Example:\n  llmc diff recipes/llama-7b-4k.llm recipes/llama-7b-8k.llm")]
    /// Compare two recipes or plans in consequences: GiB, tokens/s, days, money
    Diff {
        /// A recipe or a plan.json
        a: PathBuf,
        /// Another one
        b: PathBuf,
    },
    /// What recipes cost: GPU hours, electricity, money; without one, 3B, 7B and 13B at 4k and 8k
    #[command(
        after_help = "Examples:\n  llmc cost\n  llmc cost --set 'price.gpu=¥15/h' --set 'price.electricity=¥0.6/kWh' --set price.pue=1.2\n  llmc cost recipe.llm --tokens-per-second 11000\n  llmc cost --set 'price.buy=¥250k' --set price.spares=3%"
    )]
    Cost {
        /// Recipes
        #[arg(value_name = "RECIPE")]
        recipes: Vec<PathBuf>,
        /// Measured tokens a second and device, instead of the predicted ones
        #[arg(long, value_name = "N")]
        tokens_per_second: Option<f64>,
    },
    /// Execute a plan: build the data, train, checkpoint
    #[command(
        after_help = RUN
    )]
    Run(RunArgs),
    /// Try settings in short runs and map their losses
    #[command(
        after_help = SWEEP
    )]
    Sweep {
        /// What to vary
        #[command(subcommand)]
        over: Over,
    },
    /// Evaluate a checkpoint on texts
    #[command(
        after_help = EVAL
    )]
    Eval {
        /// A checkpoint folder, then texts and options of llmc-worker eval
        #[arg(
            required = true,
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "CHECKPOINT DATA"
        )]
        args: Vec<String>,
    },
    /// Train a tokenizer or report on one: `tokenizer train RECIPE` (llmc-data)
    #[command(after_help = TOKENIZER, override_usage = "llmc tokenizer [OPTIONS] <COMMAND> [ARGS]...")]
    Tokenizer(PassOn),
    /// Build or measure a corpus: `data build RECIPE`, `data stats|export|dedup|bench` (llmc-data)
    #[command(after_help = DATA, override_usage = "llmc data [OPTIONS] <COMMAND> [ARGS]...")]
    Data(PassOn),
    /// Score the planner's predictions against measured runs
    #[command(after_help = SCORE)]
    Score {
        /// A table of measurements
        #[arg(value_name = "RUNS.csv")]
        table: PathBuf,
    },
    /// Fit profiles on measured runs: how much of its peak each part of a step reaches
    #[command(
        after_help = CALIBRATE
    )]
    Calibrate(CalibrateArgs),
    /// Explain a diagnostic code, a keyword, a rule, a name in a plan, a device or the hardware file; without a name, list every
    /// code
    #[command(
        after_help = "Examples:\n  llmc explain LLM0901\n  llmc explain budget\n  llmc explain H100 > mine.toml          # to describe another card"
    )]
    Explain {
        /// Such as LLM0101, budget, lr.step_law, straggler, H200 or hardware
        name: Option<String>,
    },
    /// Print the JSON schema of plan.json
    Schema,
    /// Print a completion script
    #[command(
        after_help = "Examples:\n  llmc completions bash > ~/.local/share/bash-completion/completions/llmc\n  llmc completions zsh > ~/.zfunc/_llmc        # a folder of $fpath"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// What a sweep varies.
#[derive(Debug, Subcommand)]
pub enum Over {
    /// Peak learning rate, and batch: a heat map in the terminal, sweeps/NAME/sweep.svg and sweep.json
    #[command(
        after_help = SWEEP_LR
    )]
    Lr(SweepArgs),
}

/// Arguments of `sweep lr`.
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// The recipe
    pub recipe: PathBuf,
    /// Learning rates: both ends, or a list; a tenth to ten times the recipe's unless given
    #[arg(long, value_name = "LOW..HIGH", value_parser = sweep::rates)]
    pub lr: Option<sweep::Rates>,
    /// Learning rates between both ends, in equal ratios
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub points: u32,
    /// Batches in tokens; the recipe's unless given
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', value_parser = sweep::tokens)]
    pub batch: Vec<u64>,
    /// Steps of a point at the recipe's batch; other batches train as many tokens [default: 100, or the recipe's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,
    /// Name of the sweep; from the recipe's file name unless given
    #[arg(long)]
    pub name: Option<String>,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The recipe; - is stdin
    pub recipe: PathBuf,
    /// Write plan.json there
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Compare with an earlier plan; exit with 3 if they differ
    #[arg(long, value_name = "PLAN")]
    pub against: Option<PathBuf>,
}

/// Arguments of `calibrate`.
#[derive(Debug, Args)]
pub struct CalibrateArgs {
    /// Tables of measurements, folders of runs (runs/NAME), reports of `llmc-worker bench` (NAME.bench.json beside NAME.json)
    #[arg(required_unless_present = "device", value_name = "RUNS")]
    pub tables: Vec<PathBuf>,
    /// Time a short set of plans on this machine first: its CUDA device, or its processor
    #[arg(long, value_name = "DEVICE", num_args = 0..=1, default_missing_value = "cuda", value_parser = ["cuda", "cpu"])]
    pub device: Option<String>,
    /// Folder of those timings; what is there already is not timed again
    #[arg(long, value_name = "DIR", default_value = "calibration")]
    pub keep: PathBuf,
    /// Folder of the profile files
    #[arg(short, long, value_name = "DIR", default_value = "profiles")]
    pub output: PathBuf,
    /// Write the page of errors there too
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A recipe, or a plan.json written by `llmc plan -o`
    pub recipe: PathBuf,
    /// Name of the run; from the recipe's file name unless given
    #[arg(long)]
    pub name: Option<String>,
    /// Go on from the last checkpoint
    #[arg(long)]
    pub resume: bool,
    /// Choose GEMM algorithms under load: a minute more at the first start, kept in runs/NAME/gemm.json
    #[arg(long)]
    pub search_gemm: bool,
    /// Record every instruction, in runs/NAME/trace.jsonl unless =FILE is given
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub trace: Option<Option<PathBuf>>,
    /// Write where an early step's time went, for chrome://tracing or Perfetto
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// Execute an edited Program instead of the one lowered from the plan
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
}

/// Arguments that a sibling program reads.
#[derive(Debug, Args)]
pub struct PassOn {
    /// A command and its arguments
    #[arg(required = true, value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<String>,
}
