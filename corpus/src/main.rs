//! `llmc-data`: corpora from the command line. Reached as `llmc data …` and `llmc tokenizer …`.

mod cli;

use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use llmc_corpus::build::{NOTE_BYTES, Observer, build_noting, train_tokenizer};
use llmc_corpus::error::{Error, Result};
use llmc_corpus::folder::settle;
use llmc_corpus::table::csv;
use llmc_plan::lang::{Lang, Said};
use llmc_plan::say;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// From folders of text to token shards.
#[derive(Parser)]
#[command(version, after_help = "Exit codes: 0 done, 2 usage or a file, 70 a bug of ours, 130 Ctrl-C.")]
struct Cli {
    /// Language of sentences [default: LLMC_LANG, else the locale].
    #[arg(long, global = true, value_parser = ["en", "zh"])]
    lang: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Tokenise the sources of a specification into a folder of shards.
    #[command(
        after_help = "Example:\n  llmc-data build --spec runs/quickstart/data.json --out .cache/quickstart\n\n\
        A second build of unchanged files does nothing. After Ctrl-C, a kill or a full disk the folder holds\n\
        what it did, and the same command goes on where it was."
    )]
    Build {
        #[command(flatten)]
        input: Input,
        /// Folder of the shards; created if absent.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Text after which a build notes how far it is, MiB; one that is killed goes on from there.
        #[arg(long, value_name = "MIB", default_value_t = NOTE_BYTES >> 20)]
        note_every: u64,
    },
    /// Train a tokenizer without building shards.
    #[command(subcommand)]
    Tokenizer(TokenizerCommand),
    /// Show what a built folder holds.
    #[command(
        after_help = "Example:\n  llmc-data stats .cache/quickstart --format json | jq .validation.unigram_entropy"
    )]
    Stats {
        /// Folder written by `build`.
        dir: PathBuf,
        /// For people or for programs.
        #[arg(long, default_value = "human")]
        format: Format,
        /// Tokens in a sample, for the padding of each packing.
        #[arg(long, default_value_t = 4096)]
        context: u32,
        /// Draw the document lengths.
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// Find equal and similar documents.
    #[command(after_help = "Example:\n  llmc-data dedup corpus/*.jsonl --near 0.8 --out kept.jsonl\n\n\
        The first of several stays. Equal texts are compared byte by byte.")]
    Dedup {
        /// Text, .jsonl, .parquet, .tar.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Also texts whose 5-word shingles have this Jaccard similarity, from 0.5 to 1.
        #[arg(long, value_name = "SIMILARITY")]
        near: Option<f64>,
        /// Write what is kept, one {"text", "source"} a line.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// For people or for programs.
        #[arg(long, default_value = "human")]
        format: Format,
    },
    /// Measure the reads of a disk or network mount.
    #[command(after_help = "Example:\n  llmc-data bench /mnt/cpfs --out mount.json")]
    Bench {
        /// Folder on the mount; a scratch file is written there and removed.
        dir: PathBuf,
        /// Size of the scratch file, MiB.
        #[arg(long, default_value_t = 1024)]
        mib: u64,
        /// Write the figures as JSON, for the planner.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print a Parquet table of sources as `name,number` lines, as `mix importance("table.parquet")` reads it.
    #[command(after_help = "Example:\n  llmc-data table weights.parquet > weights.csv")]
    Table {
        /// Two columns, the sources' names and a number for each.
        file: PathBuf,
    },
    /// Write a built folder for other programs: Parquet, or WebDataset's tars with an index.
    #[command(after_help = "Examples:\n  llmc-data export .cache/quickstart --out parquet/\n  \
        llmc-data export .cache/quickstart --out tars/ --format webdataset --tar-mib 512\n\n\
        parquet: a file for every shard, a document a row, column input_ids.\n\
        webdataset: SOURCE-train-000000.tar and so on, a document a sample, KEY.input_ids.npy or with --text KEY.txt,\n\
        and SOURCE-train.json, an index of wids. A source may name the index: data < web \"tars/web-train.json\" >.\n\
        A second export of the same does nothing; after Ctrl-C or a kill the same command goes on where it was.")]
    Export {
        /// Folder written by `build`.
        dir: PathBuf,
        /// Folder of the files; created if absent.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// What to write.
        #[arg(long, default_value = "parquet")]
        format: cli::export::Kind,
        /// webdataset: the text of documents instead of their token ids.
        #[arg(long)]
        text: bool,
        /// webdataset: most MiB in a tar, unless one document has more.
        #[arg(long, value_name = "MIB", default_value_t = cli::export::TAR_MIB, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
        tar_mib: u64,
    },
}

#[derive(Subcommand)]
enum TokenizerCommand {
    /// Train on the training documents of a specification and write tokenizer.json.
    #[command(after_help = "Example:\n  llmc-data tokenizer train --spec data.json --out tokenizer.json")]
    Train {
        #[command(flatten)]
        input: Input,
        /// File to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Bytes a token by source, entries never used, longest entries, entries that look like secrets.
    #[command(after_help = "Example:\n  llmc-data tokenizer report .cache/quickstart")]
    Report {
        /// Folder written by `build`.
        dir: PathBuf,
        /// For people or for programs.
        #[arg(long, default_value = "human")]
        format: Format,
    },
}

#[derive(Args)]
struct Input {
    /// data.json: sources, tokenizer, split, mixture.
    #[arg(long, value_name = "FILE")]
    spec: PathBuf,
    /// Draw a progress bar on stderr.
    #[arg(long)]
    progress: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Human,
    Json,
}

/// The fast encoder would split long documents over threads of its own, which spin in the way of ours: documents
/// are spread over all cores already. Two cores built 1.4 times as fast as one with its threads and 1.65 times
/// without (2-core VM, 2026-11-24).
#[allow(unsafe_code)]
fn one_thread_a_document() {
    // SAFETY: nothing else runs yet that could read the environment.
    unsafe { std::env::set_var("FASTOKENS_BPE_THREADS", "1") }
}

fn main() -> ExitCode {
    one_thread_a_document();
    let Cli { lang, command } = Cli::parse();
    let environment = || Lang::of(|name| std::env::var(name).ok());
    let lang = lang.map_or_else(environment, |code| Lang::from(code.as_str()));
    match std::panic::catch_unwind(|| run(command, lang)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("llmc-data: {}", error.said().text(lang));
            ExitCode::from(2)
        }
        Err(_) => {
            let said = say!(
                "this is a bug of ours; please report it with the lines above",
                "这是 llmc 的程序错误，请连同以上各行一起报告"
            );
            eprintln!("llmc-data: {}", said.text(lang));
            ExitCode::from(70)
        }
    }
}

fn run(command: Command, lang: Lang) -> Result<()> {
    match command {
        Command::Build { input, out, note_every } => {
            build_command(&input, &out, note_every.saturating_mul(1 << 20), lang)
        }
        Command::Tokenizer(TokenizerCommand::Train { input, out }) => tokenizer_command(&input, &out, lang),
        Command::Tokenizer(TokenizerCommand::Report { dir, format }) => cli::tokens::run(&dir, format, lang),
        Command::Stats { dir, format, context, svg } => {
            cli::stats::run(&dir, (format, lang), context.max(1), svg.as_deref())
        }
        Command::Dedup { files, near, out, format } => {
            if let Some(near) = near.filter(|near| !(0.5..=1.0).contains(near)) {
                return Err(Error::Usage(say!(
                    "--near is {near}: give a similarity from 0.5 to 1",
                    "--near 为 {near}：请给出 0.5 到 1 的相似度"
                )));
            }
            let report = cli::dedup::run(&files, near, out.as_deref(), lang)?;
            cli::print(&report, format, |report| cli::dedup::human(report, lang))
        }
        Command::Bench { dir, mib, out } => cli::mount::run(&dir, mib.max(64), out.as_deref(), lang),
        Command::Table { file } => {
            cli::print(&llmc_corpus::table::read(&file)?, Format::Human, |rows| csv(rows))
        }
        Command::Export { dir, out, format, text, tar_mib } => {
            cli::export::run(&dir, &out, format, text, tar_mib, lang)
        }
    }
}

fn build_command(input: &Input, out: &Path, note_bytes: u64, lang: Lang) -> Result<()> {
    let spec = llmc_corpus::spec::load(&input.spec)?;
    cli::keep_when_interrupted(out, lang)?;
    let report = build_noting(&spec, out, &observer(input.progress, lang), note_bytes);
    settle();
    let report = report?;
    for warning in &report.warnings {
        cli::warn(warning, lang);
    }
    let (train, validation) = (&report.manifest.train, &report.manifest.validation);
    // Unknown of shards that are read in place.
    let per_token = (train.bytes > 0).then_some(train.bytes_per_token);
    let per_token = per_token
        .map(|bytes| say!("{bytes:.2} bytes a token; ", "每词元 {bytes:.2} 字节；"))
        .unwrap_or_default();
    let said = say!(
        "{out}: {tokens} tokens in {documents} documents to train on, {held_out} in {held_out_documents} to validate; \
         {per_token}unigram entropy {entropy:.3} and {held_out_entropy:.3} nats a token{how}",
        "{out}：训练 {documents} 个文档 {tokens} 词元，验证 {held_out_documents} 个文档 {held_out} 词元；\
         {per_token}一元熵分别为每词元 {entropy:.3} 和 {held_out_entropy:.3} nat{how}",
        out = out.display(),
        tokens = train.tokens,
        documents = train.documents,
        held_out = validation.tokens,
        held_out_documents = validation.documents,
        per_token,
        entropy = train.unigram_entropy,
        held_out_entropy = validation.unigram_entropy,
        how = cli::how(report.up_to_date, report.resumed, say!("build", "构建"))
    );
    eprintln!("{}", said.text(lang));
    Ok(())
}

fn tokenizer_command(input: &Input, out: &Path, lang: Lang) -> Result<()> {
    let spec = llmc_corpus::spec::load(&input.spec)?;
    let encoder = train_tokenizer(&spec, &observer(input.progress, lang))?;
    cli::write_whole(out, encoder.json())?;
    let said = say!(
        "{out}: {entries} entries, sha256 {hash}",
        "{out}：{entries} 个词条，sha256 {hash}",
        out = out.display(),
        entries = encoder.vocab(),
        hash = encoder.sha256()
    );
    eprintln!("{}", said.text(lang));
    Ok(())
}

/// A progress bar, or nothing.
struct Bar(Option<ProgressBar>, Lang);

fn observer(progress: bool, lang: Lang) -> Bar {
    let bar = progress.then(|| {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{msg:<20} {wide_bar} {bytes}/{total_bytes} {eta}") {
            bar.set_style(style);
        }
        bar
    });
    Bar(bar, lang)
}

impl Observer for Bar {
    fn phase(&self, name: &Said, total: u64) {
        if let Some(bar) = &self.0 {
            bar.reset();
            bar.set_length(total);
            bar.set_message(name.text(self.1).to_owned());
        }
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(bytes);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
