//! `llmc-data export`: a built folder in the formats of other programs.

use clap::ValueEnum;
use llmc_corpus::error::{Error, Result};
use llmc_corpus::export;
use llmc_corpus::folder::{read_manifest, settle};
use llmc_corpus::indexed::Indexed;
use llmc_corpus::webdataset::{self, Options};
use llmc_plan::lang::Lang;
use llmc_plan::say;
use std::path::Path;

/// WebDataset's readers share tars among nodes and their workers, which want several each, and read a tar from end to
/// end, which wants it long. From 2 GB on the eight workers of a node have one each; ten times as much as a read needs that
/// hides a millisecond of latency at 2 GB/s a hundredfold (`llmc-data bench` says what a mount asks for).
pub const TAR_MIB: u64 = 256;

/// Formats.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Parquet,
    Webdataset,
}

/// Writes `dir` to `out`.
///
/// # Errors
/// No corpus there, a damaged shard, a folder that cannot be written.
pub fn run(dir: &Path, out: &Path, kind: Kind, text: bool, tar_mib: u64, lang: Lang) -> Result<()> {
    match kind {
        Kind::Webdataset => tars(dir, out, &Options { text, tar_bytes: tar_mib << 20 }, lang),
        Kind::Parquet if text => Err(Error::Usage(say!(
            "--text is of --format webdataset: Parquet is written with token ids",
            "--text 属于 --format webdataset：Parquet 以词元 id 写出"
        ))),
        Kind::Parquet => parquet(dir, out, lang),
    }
}

fn tars(dir: &Path, out: &Path, options: &Options, lang: Lang) -> Result<()> {
    super::keep_when_interrupted(out, lang)?;
    let report = webdataset::write(dir, out, options);
    settle();
    let report = report?;
    for set in &report.sets {
        let bytes: u64 = set.tars.iter().map(|tar| tar.info.bytes).sum();
        let index = out.join(set.index());
        let said = say!(
            "{index}: {documents} documents, {bytes} bytes, tars: {tars}{how}",
            "{index}：{documents} 个文档，{bytes} 字节，{tars} 个 tar{how}",
            index = index.display(),
            documents = set.samples(),
            tars = set.tars.len(),
            how = super::how(report.up_to_date, report.resumed, say!("export", "导出"))
        );
        eprintln!("{}", said.text(lang));
    }
    Ok(())
}

fn parquet(dir: &Path, out: &Path, lang: Lang) -> Result<()> {
    let manifest = read_manifest(dir)?;
    std::fs::create_dir_all(out).map_err(|source| Error::Io {
        action: "create",
        file: out.into(),
        source,
    })?;
    for source in &manifest.sources {
        for shard in source.train.shards.iter().chain(&source.validation.shards) {
            let indexed = Indexed::open(&dir.join(shard), manifest.tokenizer.vocab)?;
            let path = out.join(format!("{shard}.parquet"));
            export::parquet(&indexed, &path)?;
            let said = say!(
                "{path}: {documents} documents, {tokens} tokens",
                "{path}：{documents} 个文档，{tokens} 词元",
                path = path.display(),
                documents = indexed.documents(),
                tokens = indexed.tokens()
            );
            eprintln!("{}", said.text(lang));
        }
    }
    Ok(())
}
