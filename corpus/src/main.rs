//! `llmc-data`: corpora from the command line. Reached as `llmc data …` and `llmc tokenizer …`.

use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use llmc_corpus::build::{Observer, build, train_tokenizer};
use llmc_corpus::error::{Error, Result};
use llmc_corpus::folder::{abandon, read_manifest};
use llmc_corpus::output::HashingFile;
use llmc_corpus::stats::{Lengths, lengths};
use llmc_plan::data::{Manifest, SplitInfo};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// From folders of text to token shards.
#[derive(Parser)]
#[command(version, after_help = "Exit codes: 0 done, 2 usage or a file, 70 a bug of ours, 130 Ctrl-C.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Tokenise the sources of a specification into a folder of shards.
    #[command(
        after_help = "Example:\n  llmc-data build --spec runs/quickstart/data.json --out .cache/quickstart\n\n\
        A second build of unchanged files does nothing. Ctrl-C leaves the folder as it was."
    )]
    Build {
        #[command(flatten)]
        input: Input,
        /// Folder of the shards; created if absent.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
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

fn main() -> ExitCode {
    let cli = Cli::parse();
    match std::panic::catch_unwind(|| run(cli)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("llmc-data: {error}");
            ExitCode::from(2)
        }
        Err(_) => {
            eprintln!("llmc-data: this is a bug of ours; please report it with the lines above");
            ExitCode::from(70)
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Build { input, out } => build_command(&input, &out),
        Command::Tokenizer(TokenizerCommand::Train { input, out }) => tokenizer_command(&input, &out),
        Command::Stats { dir, format } => stats_command(&dir, format),
    }
}

fn build_command(input: &Input, out: &Path) -> Result<()> {
    let spec = llmc_corpus::spec::load(&input.spec)?;
    let folder = out.to_owned();
    let handler = ctrlc::set_handler(move || {
        let _guard = abandon(&folder);
        eprintln!("llmc-data: interrupted; {} is as it was", folder.display());
        std::process::exit(130);
    });
    handler.map_err(|e| Error::spec(format!("Ctrl-C cannot be caught: {e}")))?;
    let report = build(&spec, out, &observer(input.progress))?;
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    let (train, validation) = (&report.manifest.train, &report.manifest.validation);
    eprintln!(
        "{}: {} tokens in {} documents to train on, {} in {} to validate; {:.2} bytes a token; unigram entropy \
         {:.3} and {:.3} nats a token{}",
        out.display(),
        train.tokens,
        train.documents,
        validation.tokens,
        validation.documents,
        train.bytes_per_token,
        train.unigram_entropy,
        validation.unigram_entropy,
        if report.up_to_date { " (up to date)" } else { "" }
    );
    Ok(())
}

fn tokenizer_command(input: &Input, out: &Path) -> Result<()> {
    let spec = llmc_corpus::spec::load(&input.spec)?;
    let encoder = train_tokenizer(&spec, &observer(input.progress))?;
    let partial = llmc_corpus::output::with_suffix(out, ".partial");
    let mut file = HashingFile::create(&partial)?;
    file.write(encoder.json())?;
    file.finish()?;
    std::fs::rename(&partial, out).map_err(|source| Error::Io {
        action: "write",
        file: out.to_owned(),
        source,
    })?;
    eprintln!("{}: {} entries, sha256 {}", out.display(), encoder.vocab(), encoder.sha256());
    Ok(())
}

fn stats_command(dir: &Path, format: Format) -> Result<()> {
    let manifest = read_manifest(dir)?;
    let mut text = Vec::new();
    let written = match format {
        Format::Json => serde_json::to_writer_pretty(&mut text, &stats_json(dir, &manifest)?)
            .map_err(std::io::Error::from)
            .and_then(|()| writeln!(text)),
        Format::Human => stats_human(dir, &manifest, &mut text)?,
    };
    let written = written.and_then(|()| std::io::stdout().write_all(&text));
    match written {
        // The reader may be `head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(source) => Err(Error::Io { action: "write", file: "stdout".into(), source }),
        Ok(()) => Ok(()),
    }
}

fn stats_json(dir: &Path, manifest: &Manifest) -> Result<serde_json::Value> {
    let mut value = serde_json::to_value(manifest).map_err(|e| Error::spec(e.to_string()))?;
    let mut all = serde_json::Map::new();
    for source in &manifest.sources {
        let found = lengths(dir, manifest, &source.train)?;
        all.insert(source.name.clone(), serde_json::to_value(found).map_err(|e| Error::spec(e.to_string()))?);
    }
    if let Some(object) = value.as_object_mut() {
        object.insert("document_lengths".into(), all.into());
    }
    Ok(value)
}

fn stats_human(dir: &Path, manifest: &Manifest, out: &mut Vec<u8>) -> Result<std::io::Result<()>> {
    let mut write = || -> std::io::Result<Result<()>> {
        writeln!(
            out,
            "tokenizer  {} entries, sha256 {}",
            manifest.tokenizer.vocab, manifest.tokenizer.sha256
        )?;
        writeln!(
            out,
            "\n{:<16} {:<10} {:>12} {:>16} {:>16} {:>8} {:>10}",
            "source", "split", "documents", "tokens", "bytes", "B/token", "nats/token"
        )?;
        for source in &manifest.sources {
            row(out, &source.name, "train", &source.train)?;
            row(out, &source.name, "validation", &source.validation)?;
        }
        row(out, "all", "train", &manifest.train)?;
        row(out, "all", "validation", &manifest.validation)?;
        for source in &manifest.sources {
            if source.skipped_documents > 0 {
                let (documents, bytes) = (source.skipped_documents, source.skipped_bytes);
                writeln!(out, "\n{}: {documents} unreadable documents left out, {bytes} bytes", source.name)?;
            }
            match lengths(dir, manifest, &source.train) {
                Ok(found) => histogram(out, &source.name, &found)?,
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(()))
    };
    match write() {
        Ok(Ok(())) => Ok(Ok(())),
        Ok(Err(error)) => Err(error),
        Err(error) => Ok(Err(error)),
    }
}

fn row(out: &mut Vec<u8>, source: &str, name: &str, split: &SplitInfo) -> std::io::Result<()> {
    writeln!(
        out,
        "{source:<16} {name:<10} {:>12} {:>16} {:>16} {:>8.3} {:>10.4}",
        split.documents, split.tokens, split.bytes, split.bytes_per_token, split.unigram_entropy
    )
}

/// Columns of the longest bar.
const BAR: u64 = 48;

fn histogram(out: &mut Vec<u8>, name: &str, found: &Lengths) -> std::io::Result<()> {
    writeln!(out, "\n{name}: documents by tokens, {} to {}", found.least, found.most)?;
    let most = found.histogram.iter().copied().max().unwrap_or(0).max(1);
    let first = found.histogram.iter().position(|&count| count > 0).unwrap_or(0);
    for (bucket, &count) in found.histogram.iter().enumerate().skip(first) {
        let bar = "█".repeat((count as u128 * u128::from(BAR) / u128::from(most)) as usize);
        writeln!(out, "{:>12} {count:>12} {bar}", format!("≥ {}", 1u64 << bucket))?;
    }
    Ok(())
}

/// A progress bar, or nothing.
struct Bar(Option<ProgressBar>);

fn observer(progress: bool) -> Bar {
    Bar(progress.then(|| {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{msg:<20} {wide_bar} {bytes}/{total_bytes} {eta}") {
            bar.set_style(style);
        }
        bar
    }))
}

impl Observer for Bar {
    fn phase(&self, name: &str, total: u64) {
        if let Some(bar) = &self.0 {
            bar.reset();
            bar.set_length(total);
            bar.set_message(name.to_owned());
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
