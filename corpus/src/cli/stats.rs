//! `llmc-data stats`: what a built folder holds, as text, JSON and SVG.

use crate::Format;
use llmc_corpus::clean::named;
use llmc_corpus::error::{Error, Result};
use llmc_corpus::folder::read_manifest;
use llmc_corpus::indexed::Indexed;
use llmc_corpus::packing::{for_each_block, waste};
use llmc_corpus::stats::{Lengths, lengths};
use llmc_plan::columns::{left, right};
use llmc_plan::data::{Manifest, Packing, SplitInfo};
use llmc_plan::lang::Lang;
use llmc_plan::say;
use std::io::Write;
use std::path::Path;

/// Prints a built folder's figures; with `svg`, draws them too.
///
/// # Errors
/// No corpus there, a damaged shard, a file that cannot be written.
pub fn run(dir: &Path, (format, lang): (Format, Lang), context: u32, svg: Option<&Path>) -> Result<()> {
    let manifest = read_manifest(dir)?;
    if let Some(path) = svg {
        draw(dir, &manifest, path)?;
    }
    let mut text = Vec::new();
    let written = match format {
        Format::Json => serde_json::to_writer_pretty(&mut text, &stats_json(dir, &manifest, context)?)
            .map_err(std::io::Error::from)
            .and_then(|()| writeln!(text)),
        Format::Human => stats_human(dir, &manifest, context, &mut text, lang)?,
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
    let mut value = serde_json::to_value(manifest).map_err(Error::inner)?;
    let mut all = serde_json::Map::new();
    for source in &manifest.sources {
        let found = lengths(dir, manifest, &source.train)?;
        all.insert(source.name.clone(), serde_json::to_value(found).map_err(Error::inner)?);
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
    lang: Lang,
) -> Result<std::io::Result<()>> {
    let mut write = || -> std::io::Result<Result<()>> {
        let said = say!(
            "tokenizer  {entries} entries, sha256 {hash}\n",
            "分词器  {entries} 个词条，sha256 {hash}\n",
            entries = manifest.tokenizer.vocab,
            hash = manifest.tokenizer.sha256
        );
        writeln!(out, "{}", said.text(lang))?;
        let heads = [("source", "来源"), ("split", "划分"), ("documents", "文档"), ("tokens", "词元")];
        let [source, split, documents, tokens] = heads.map(|(en, zh)| lang.say(en, zh));
        let heads = [("bytes", "字节"), ("B/token", "字节/词元"), ("nats/token", "nat/词元")];
        let [bytes, per_token, entropy] = heads.map(|(en, zh)| lang.say(en, zh));
        cells(out, source, split, [documents, tokens, bytes, per_token, entropy])?;
        let (train, validation) = (lang.say("train", "训练"), lang.say("validation", "验证"));
        for source in &manifest.sources {
            row(out, &source.name, train, &source.train)?;
            row(out, &source.name, validation, &source.validation)?;
        }
        row(out, lang.say("all", "全部"), train, &manifest.train)?;
        row(out, lang.say("all", "全部"), validation, &manifest.validation)?;
        for source in &manifest.sources {
            if source.skipped_documents > 0 {
                let said = say!(
                    "\n{name}: {documents} unreadable documents left out, {bytes} bytes",
                    "\n{name}：略去 {documents} 个无法读取的文档，{bytes} 字节",
                    name = source.name,
                    documents = source.skipped_documents,
                    bytes = source.skipped_bytes
                );
                writeln!(out, "{}", said.text(lang))?;
            }
            for (reason, documents) in &source.dropped {
                let said = say!(
                    "{name}: {documents} documents left out as {reason}",
                    "{name}：{documents} 个文档因{reason}被略去",
                    name = source.name,
                    reason = named(reason)
                );
                writeln!(out, "{}", said.text(lang))?;
            }
            match lengths(dir, manifest, &source.train) {
                Ok(found) => histogram(out, &source.name, &found, lang)?,
                Err(error) => return Ok(Err(error)),
            }
        }
        match packings(dir, manifest, context) {
            Ok(found) => {
                let said = say!("padding of samples of {context} tokens", "{context} 词元样本的填充");
                let [predicted, measured] =
                    [("predicted", "预测"), ("measured", "实测")].map(|(en, zh)| right(lang.say(en, zh), 11));
                writeln!(out, "\n{}{predicted}{measured}", left(said.text(lang), 39))?;
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
    let (per_token, entropy) =
        (format!("{:.3}", split.bytes_per_token), format!("{:.4}", split.unigram_entropy));
    let counts = [split.documents, split.tokens, split.bytes].map(|count| count.to_string());
    let [documents, tokens, bytes] = &counts;
    cells(out, source, name, [documents, tokens, bytes, &per_token, &entropy])
}

/// A line of the table.
fn cells(out: &mut Vec<u8>, source: &str, split: &str, figures: [&str; 5]) -> std::io::Result<()> {
    let figures = figures.into_iter().zip([12, 16, 16, 9, 10]);
    let figures: String = figures.map(|(figure, places)| format!(" {}", right(figure, places))).collect();
    writeln!(out, "{} {}{figures}", left(source, 16), left(split, 10))
}

/// Columns of the longest bar.
const BAR: u64 = 48;

fn histogram(out: &mut Vec<u8>, name: &str, found: &Lengths, lang: Lang) -> std::io::Result<()> {
    let (least, most) = (found.least, found.most);
    let said = say!(
        "\n{name}: documents by tokens, {least} to {most}",
        "\n{name}：文档按词元数分布，{least} 到 {most}"
    );
    writeln!(out, "{}", said.text(lang))?;
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
