//! `llmc-data export`: a built folder in the formats of other programs.

use clap::ValueEnum;
use llmc_corpus::error::{Error, Result};
use llmc_corpus::export;
use llmc_corpus::exporting::{Set, Whole};
use llmc_corpus::folder::settle;
use llmc_corpus::webdataset::{self, Options};
use llmc_plan::lang::{Lang, Said};
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
    if text && kind == Kind::Parquet {
        return Err(Error::Usage(say!(
            "--text is of --format webdataset: Parquet is written with token ids",
            "--text 属于 --format webdataset：Parquet 以词元 id 写出"
        )));
    }
    super::keep_when_interrupted(out, lang)?;
    let report = match kind {
        Kind::Parquet => export::write(dir, out),
        Kind::Webdataset => webdataset::write(dir, out, &Options { text, tar_bytes: tar_mib << 20 }),
    };
    settle();
    let report = report?;
    let how = super::how(report.up_to_date, report.resumed, say!("export", "导出"));
    for set in &report.sets {
        let said = match kind {
            Kind::Parquet => set.files.iter().map(|file| parquet(out, file, &how)).collect(),
            Kind::Webdataset => vec![tars(out, set, &how)],
        };
        eprintln!("{}", Said::join(&said, "\n", "\n").text(lang));
    }
    Ok(())
}

fn tars(out: &Path, set: &Set, how: &Said) -> Said {
    let index = out.join(set.index());
    say!(
        "{index}: {documents} documents, {bytes} bytes, tars: {tars}{how}",
        "{index}：{documents} 个文档，{bytes} 字节，{tars} 个 tar{how}",
        index = index.display(),
        documents = set.samples(),
        bytes = set.files.iter().map(|tar| tar.info.bytes).sum::<u64>(),
        tars = set.files.len(),
        how
    )
}

fn parquet(out: &Path, Whole { file, samples, info }: &Whole, how: &Said) -> Said {
    let path = out.join(file);
    say!(
        "{path}: {samples} documents, {bytes} bytes{how}",
        "{path}：{samples} 个文档，{bytes} 字节{how}",
        path = path.display(),
        bytes = info.bytes,
        how
    )
}
