//! `llmc-data stats`: what a built folder holds, as text, JSON and SVG.

use crate::Format;
use llmc_corpus::error::{Error, Result};
use llmc_corpus::folder::read_manifest;
use llmc_corpus::indexed::Indexed;
use llmc_corpus::packing::{for_each_block, waste};
use llmc_corpus::stats::{Lengths, lengths};
use llmc_plan::data::{Manifest, Packing, SplitInfo};
use std::io::Write;
use std::path::Path;

/// Prints a built folder's figures; with `svg`, draws them too.
///
/// # Errors
/// No corpus there, a damaged shard, a file that cannot be written.
pub fn run(dir: &Path, format: Format, context: u32, svg: Option<&Path>) -> Result<()> {
    let manifest = read_manifest(dir)?;
    if let Some(path) = svg {
        draw(dir, &manifest, path)?;
    }
    let mut text = Vec::new();
    let written = match format {
        Format::Json => serde_json::to_writer_pretty(&mut text, &stats_json(dir, &manifest, context)?)
            .map_err(std::io::Error::from)
            .and_then(|()| writeln!(text)),
        Format::Human => stats_human(dir, &manifest, context, &mut text)?,
    };
    let written = written.and_then(|()| std::io::stdout().write_all(&text));
    match written {
        // The reader may be `head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(source) => Err(Error::Io { action: "write", file: "stdout".into(), source }),
        Ok(()) => Ok(()),
    }
}

fn stats_json(dir: &Path, manifest: &Manifest, context: u32) -> Result<serde_json::Value> {
    let mut value = serde_json::to_value(manifest).map_err(|e| Error::spec(e.to_string()))?;
    let mut all = serde_json::Map::new();
    for source in &manifest.sources {
        let found = lengths(dir, manifest, &source.train)?;
        all.insert(source.name.clone(), serde_json::to_value(found).map_err(|e| Error::spec(e.to_string()))?);
    }
    if let Some(object) = value.as_object_mut() {
        object.insert("document_lengths".into(), all.into());
        let packing: Vec<_> = packings(dir, manifest, context)?
            .into_iter()
            .map(|p| serde_json::json!({"packing": p.policy, "context": context, "padding_predicted": p.predicted, "padding": p.measured}))
            .collect();
        object.insert("packing".into(), packing.into());
    }
    Ok(value)
}

fn stats_human(
    dir: &Path,
    manifest: &Manifest,
    context: u32,
    out: &mut Vec<u8>,
) -> Result<std::io::Result<()>> {
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
            for (reason, documents) in &source.dropped {
                writeln!(out, "{}: {documents} documents left out as {reason}", source.name)?;
            }
            match lengths(dir, manifest, &source.train) {
                Ok(found) => histogram(out, &source.name, &found)?,
                Err(error) => return Ok(Err(error)),
            }
        }
        match packings(dir, manifest, context) {
            Ok(found) => {
                writeln!(out, "\npadding of samples of {context} tokens      predicted   measured")?;
                for p in found {
                    let policy = serde_json::to_value(p.policy).unwrap_or_default();
                    let policy = policy.as_str().unwrap_or_default();
                    writeln!(
                        out,
                        "  {policy:<36} {:>9.3} % {:>8.3} %",
                        100.0 * p.predicted,
                        100.0 * p.measured
                    )?;
                }
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(error)),
        }
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

/// Documents whose lengths a prediction looks at.
const PREDICTED_FROM: u64 = 4096;

/// The padding of a policy.
struct Padding {
    policy: Packing,
    /// From a few thousand documents spread over the corpus, as a plan would.
    predicted: f64,
    /// Of all rows.
    measured: f64,
}

fn packings(dir: &Path, manifest: &Manifest, context: u32) -> Result<Vec<Padding>> {
    let policies = [Packing::Concat, Packing::BestFit, Packing::Buckets, Packing::Padding];
    let every = (manifest.train.documents / PREDICTED_FROM).max(1);
    let (mut sample, mut seen) = (Vec::new(), 0);
    let mut rows = [0.0; 4];
    let mut tokens = 0;
    for shard in manifest.sources.iter().flat_map(|source| &source.train.shards) {
        let shard = Indexed::open(&dir.join(shard), manifest.tokenizer.vocab)?;
        for_each_block(&shard, |_, lengths| {
            for &length in lengths {
                if seen % every == 0 {
                    sample.push(length);
                }
                seen += 1;
            }
            let block: u64 = lengths.iter().sum();
            tokens += block;
            for (rows, policy) in rows.iter_mut().zip(policies) {
                *rows += block as f64 / (1.0 - waste(policy, context, lengths));
            }
            Ok(())
        })?;
    }
    let padding = |(policy, rows): (Packing, f64)| Padding {
        policy,
        predicted: waste(policy, context, &sample),
        measured: if rows == 0.0 { 0.0 } else { 1.0 - tokens as f64 / rows },
    };
    Ok(policies.into_iter().zip(rows).map(padding).collect())
}

/// Width of the drawing and of a bar's row.
const WIDTH: usize = 720;
const ROW: usize = 16;

/// One histogram of document lengths below the other.
fn draw(dir: &Path, manifest: &Manifest, path: &Path) -> Result<()> {
    let mut body = String::new();
    let mut y = ROW;
    for source in &manifest.sources {
        let found = lengths(dir, manifest, &source.train)?;
        body += &format!(
            "<text x=\"8\" y=\"{y}\" font-weight=\"bold\">{}: {} documents, {} tokens</text>\n",
            source.name, source.train.documents, source.train.tokens
        );
        let most = found.histogram.iter().copied().max().unwrap_or(0).max(1);
        let first = found.histogram.iter().position(|&count| count > 0).unwrap_or(0);
        for (bucket, &count) in found.histogram.iter().enumerate().skip(first) {
            y += ROW;
            let bar = (count as u128 * (WIDTH - 220) as u128 / u128::from(most)) as usize;
            body += &format!(
                "<text x=\"96\" y=\"{y}\" text-anchor=\"end\">\u{2265} {}</text>\
                 <rect x=\"104\" y=\"{}\" width=\"{bar}\" height=\"12\" fill=\"#4477aa\"/>\
                 <text x=\"{}\" y=\"{y}\">{count}</text>\n",
                1u64 << bucket,
                y - 10,
                110 + bar
            );
        }
        y += 2 * ROW;
    }
    let svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<title>Documents by tokens</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    );
    super::write_whole(path, svg.as_bytes())
}
