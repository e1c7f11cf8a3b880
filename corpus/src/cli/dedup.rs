//! `llmc-data dedup`: copies among files, exact and near, with the pairs to judge the result by.

use llmc_corpus::dedup::{ByHash, Exact, Near, Signature};
use llmc_corpus::error::{BadContent, Error, Result};
use llmc_corpus::inputs::Input;
use llmc_corpus::output::{HashingFile, with_suffix};
use llmc_corpus::read::{Place, Raw, Sink, read};
use llmc_plan::lang::Lang;
use llmc_plan::say;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Pairs a report shows of each kind.
const SHOWN: usize = 5;
/// Characters of a shown document.
const EXCERPT: usize = 80;
/// Text compared at a time.
const BATCH_BYTES: usize = 8 << 20;

/// What was found.
#[derive(Default, Serialize)]
pub struct Report {
    documents: u64,
    bytes: u64,
    /// Later copies of an equal text.
    exact: u64,
    exact_bytes: u64,
    /// Of these, compared byte by byte with the first.
    exact_verified: u64,
    /// Later texts like an earlier one.
    near: u64,
    near_bytes: u64,
    unreadable: u64,
    pairs: Vec<Pair>,
}

#[derive(Serialize)]
struct Pair {
    kind: &'static str,
    kept: String,
    dropped: String,
    text: String,
}

struct Work {
    near: Option<Near>,
    exact: Exact,
    /// Where each first text is, by its hash.
    firsts: ByHash<u128, (usize, Place)>,
    /// Where each text kept by `near` is.
    kept: Vec<(usize, Place)>,
    /// Hashes with copies.
    copies: HashSet<u128>,
    paths: Vec<PathBuf>,
    batch: Vec<(String, Place)>,
    batch_bytes: usize,
    file: usize,
    out: Option<HashingFile>,
    lang: Lang,
    report: Report,
}

/// Looks through files in the order given.
///
/// # Errors
/// A file that cannot be read, or written.
pub fn run(files: &[PathBuf], near: Option<f64>, out: Option<&Path>, lang: Lang) -> Result<Report> {
    out.map_or(Ok(()), super::refuse_special)?;
    let partial = out.map(|out| with_suffix(out, ".partial"));
    let mut work = Work {
        near: near.map(Near::new),
        exact: Exact::default(),
        firsts: ByHash::default(),
        kept: Vec::new(),
        copies: HashSet::new(),
        paths: files.to_vec(),
        batch: Vec::new(),
        batch_bytes: 0,
        file: 0,
        out: partial.as_deref().map(HashingFile::create).transpose()?,
        lang,
        report: Report::default(),
    };
    for (file, path) in files.iter().enumerate() {
        work.file = file;
        let mut sink = Feed { input: input(path)?, work: &mut work };
        let opened = sink.input.clone();
        read(&opened, &mut sink, &|_| {})?;
        work.flush()?;
    }
    if let (Some(file), Some(partial), Some(out)) = (work.out.take(), partial, out) {
        file.finish()?;
        std::fs::rename(&partial, out).map_err(|source| Error::Io {
            action: "write",
            file: out.into(),
            source,
        })?;
    }
    verify(files, &mut work)?;
    Ok(work.report)
}

fn input(path: &Path) -> Result<Input> {
    let meta =
        std::fs::metadata(path).map_err(|source| Error::Io { action: "read", file: path.into(), source })?;
    let name = path.to_string_lossy().into_owned();
    Ok(Input { path: path.into(), name, bytes: meta.len(), modified: 0, validation: false, listed: None })
}

/// Decodes one file's documents for [`Work`].
struct Feed<'a> {
    input: Input,
    work: &'a mut Work,
}

impl Sink for Feed<'_> {
    fn document(&mut self, raw: Raw<'_>) -> Result<ControlFlow<()>> {
        match raw.text(&self.input) {
            Ok(Some(text)) => {
                self.work.batch_bytes += text.len();
                self.work.batch.push((text.into_owned(), raw.place));
                if self.work.batch_bytes >= BATCH_BYTES {
                    self.work.flush()?;
                }
            }
            Ok(None) => {}
            Err(bad) => self.unreadable(bad, raw.bytes.len() as u64)?,
        }
        Ok(ControlFlow::Continue(()))
    }

    fn unreadable(&mut self, bad: BadContent, _: u64) -> Result<()> {
        super::warn(&bad.said(), self.work.lang);
        self.work.report.unreadable += 1;
        Ok(())
    }
}

impl Work {
    fn flush(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let near = self.near.is_some();
        let print =
            |(text, _): &(String, Place)| (Exact::hash(text), if near { Signature::of(text) } else { None });
        let prints: Vec<_> = batch.par_iter().map(print).collect();
        let hashes: Vec<u128> = prints.iter().map(|print| print.0).collect();
        let mut new = Vec::with_capacity(hashes.len());
        self.exact.admit_all(&hashes, |_, is_new| new.push(is_new));
        for (((text, place), (hash, signature)), new) in batch.into_iter().zip(prints).zip(new) {
            self.report.documents += 1;
            self.report.bytes += text.len() as u64;
            let here = (self.file, place);
            if !new {
                self.report.exact += 1;
                self.report.exact_bytes += text.len() as u64;
                self.copies.insert(hash);
                let first = self.firsts.get(&hash).copied().unwrap_or(here);
                self.show("exact", first, here, &text);
                continue;
            }
            self.firsts.insert(hash, here);
            let like = signature.and_then(|signature| self.near.as_mut().map(|near| near.admit(signature)));
            match like {
                Some(Some(first)) => {
                    self.report.near += 1;
                    self.report.near_bytes += text.len() as u64;
                    let first = self.kept.get(first).copied().unwrap_or(here);
                    self.show("near", first, here, &text);
                    continue;
                }
                Some(None) => self.kept.push(here),
                None => {}
            }
            if let Some(out) = &mut self.out {
                let source = self.paths.get(self.file).map(|p| p.to_string_lossy()).unwrap_or_default();
                let mut line = serde_json::to_vec(&serde_json::json!({"text": text, "source": source}))
                    .map_err(Error::inner)?;
                line.push(b'\n');
                out.write(&line)?;
            }
        }
        Ok(())
    }

    fn show(&mut self, kind: &'static str, kept: (usize, Place), dropped: (usize, Place), text: &str) {
        if self.report.pairs.iter().filter(|pair| pair.kind == kind).count() < SHOWN {
            let [kept, dropped] = [kept, dropped].map(|(file, place)| {
                let file = self.paths.get(file).map(|p| p.display().to_string()).unwrap_or_default();
                format!("{file}{}", place.said().en)
            });
            let text = text.chars().take(EXCERPT).collect();
            self.report.pairs.push(Pair { kind, kept, dropped, text });
        }
    }
}

/// Compares every exact copy with the first text of its hash, in a second pass that keeps only texts
/// that have copies.
fn verify(files: &[PathBuf], work: &mut Work) -> Result<()> {
    struct Compare<'a> {
        input: Input,
        work: &'a mut Work,
        firsts: &'a mut HashMap<u128, String>,
    }
    impl Sink for Compare<'_> {
        fn document(&mut self, raw: Raw<'_>) -> Result<ControlFlow<()>> {
            if let Ok(Some(text)) = raw.text(&self.input) {
                let hash = Exact::hash(&text);
                if self.work.copies.contains(&hash) {
                    match self.firsts.get(&hash) {
                        Some(first) => self.work.report.exact_verified += u64::from(*first == text),
                        None => {
                            self.firsts.insert(hash, text.into_owned());
                        }
                    }
                }
            }
            Ok(ControlFlow::Continue(()))
        }
        fn unreadable(&mut self, _: BadContent, _: u64) -> Result<()> {
            Ok(())
        }
    }
    if work.copies.is_empty() {
        return Ok(());
    }
    let mut firsts = HashMap::new();
    for path in files {
        let mut sink = Compare { input: input(path)?, work, firsts: &mut firsts };
        let opened = sink.input.clone();
        read(&opened, &mut sink, &|_| {})?;
    }
    Ok(())
}

/// The report for people.
pub fn human(report: &Report, lang: Lang) -> String {
    let share = |bytes: u64| 100.0 * bytes as f64 / report.bytes.max(1) as f64;
    let Report { documents, bytes, exact, exact_bytes, exact_verified, near, near_bytes, unreadable, .. } =
        report;
    let said = say!(
        "{documents} documents, {bytes} bytes\nexact copies  {exact:>10}  {exact_bytes:>14} bytes  {exact_share:.2} %, \
         {exact_verified} compared byte by byte and equal\nnear copies   {near:>10}  {near_bytes:>14} bytes  \
         {near_share:.2} %\nunreadable    {unreadable:>10}\n",
        "{documents} 个文档，{bytes} 字节\n完全重复  {exact:>10}  {exact_bytes:>14} 字节  {exact_share:.2} %，\
         {exact_verified} 个经逐字节比较相同\n近似重复  {near:>10}  {near_bytes:>14} 字节  {near_share:.2} %\n\
         无法读取  {unreadable:>10}\n",
        exact_share = share(*exact_bytes),
        near_share = share(*near_bytes)
    );
    let mut text = said.text(lang).to_owned();
    for pair in &report.pairs {
        let Pair { dropped, kept, text: excerpt, .. } = pair;
        let kind =
            if pair.kind == "exact" { say!("exact", "完全重复") } else { say!("near", "近似重复") };
        let said = say!(
            "\n{kind}: {dropped}\n  like {kept}\n  {excerpt:?}\n",
            "\n{kind}：{dropped}\n  同 {kept}\n  {excerpt:?}\n",
            kind
        );
        text += said.text(lang);
    }
    text
}
