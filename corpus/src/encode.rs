//! Documents to token shards: one source at a time, encoded on all cores, written in order.

use crate::build::Observer;
use crate::error::{BadContent, Error, Result};
use crate::inputs::Input;
use crate::output::{Dtype, ShardWriter};
use crate::read::{Sink, read};
use crate::stats::{bytes_per_token, unigram_entropy};
use crate::tokenizer::Encoder;
use llmc_plan::data::{DataSpec, FileInfo, OnError, SourceInfo, SplitInfo};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

/// Text encoded at a time: enough for all cores, little against memory.
const CHUNK_BYTES: usize = 8 << 20;
/// Messages of left-out documents that a report repeats; all are counted.
const SHOWN: usize = 3;

/// True if a document belongs to the validation split: its content decides, so exact copies stay on
/// one side wherever they are.
fn held_out(text: &str, fraction: f64) -> bool {
    // 53 bits: the integers that f64 holds exactly.
    ((xxh3_64(text.as_bytes()) >> 11) as f64) < fraction * (1u64 << 53) as f64
}

/// About `sample_bytes` of training text, spread over all files in proportion to their size.
pub fn sample(spec: &DataSpec, inputs: &[Vec<Input>], observer: &dyn Observer) -> Result<Vec<String>> {
    let files: Vec<&Input> = inputs.iter().flatten().filter(|input| !input.validation).collect();
    let total: u64 = files.iter().map(|input| input.bytes).sum();
    observer.phase("train the tokenizer", total);
    let share = (spec.tokenizer.sample_bytes as f64 / total.max(1) as f64).min(1.0);
    let mut taken =
        Sample { texts: Vec::new(), credit: 0, fraction: spec.validation.fraction, on_error: spec.on_error };
    let mut left = spec.tokenizer.sample_bytes as i64;
    for input in files {
        // A file whose documents overdrew its share leaves less to the next one. Compressed text
        // may exceed the file, so what is left bounds it too.
        let due = taken.credit.min(0) + (share * input.bytes as f64).ceil() as i64;
        let due = if share < 1.0 { due.min(left) } else { left };
        taken.credit = due;
        if due > 0 {
            read(input, &mut taken)?;
        }
        left -= due - taken.credit;
        observer.advance(input.bytes);
    }
    Ok(taken.texts)
}

struct Sample {
    texts: Vec<String>,
    /// Bytes this file may still give.
    credit: i64,
    fraction: f64,
    on_error: OnError,
}

impl Sink for Sample {
    fn document(&mut self, text: &str) -> Result<ControlFlow<()>> {
        if !text.is_empty() && !held_out(text, self.fraction) {
            self.texts.push(text.to_owned());
            self.credit -= text.len() as i64;
        }
        Ok(if self.credit > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    }

    fn unreadable(&mut self, bad: BadContent, _: u64) -> Result<()> {
        match self.on_error {
            OnError::Stop => Err(bad.into()),
            OnError::Skip => Ok(()),
        }
    }
}

/// One split of a source while it is built.
struct SplitJob {
    name: String,
    writer: ShardWriter,
    counts: Vec<u64>,
    bytes: u64,
}

/// A source while it is built.
pub struct SourceJob<'a> {
    name: String,
    encoder: &'a Encoder,
    fraction: f64,
    on_error: OnError,
    /// The file being read is validation text.
    validation_file: bool,
    /// Of the files read.
    hashes: Vec<String>,
    /// Documents that wait to be encoded, and whether each is validation text.
    pending: Vec<(String, bool)>,
    pending_bytes: usize,
    train: SplitJob,
    validation: SplitJob,
    skipped: Vec<String>,
    skipped_documents: u64,
    skipped_bytes: u64,
}

impl<'a> SourceJob<'a> {
    /// Begins the source's shards in the folder `partial`.
    ///
    /// # Errors
    /// The system's.
    pub fn new(spec: &DataSpec, name: &str, encoder: &'a Encoder, partial: &Path) -> Result<Self> {
        let split = |split: &str| -> Result<SplitJob> {
            let name = format!("{name}.{split}");
            let writer = ShardWriter::create(&partial.join(&name), Dtype::for_vocab(encoder.vocab()))?;
            Ok(SplitJob { name, writer, counts: vec![0; encoder.vocab() as usize], bytes: 0 })
        };
        Ok(Self {
            name: name.to_owned(),
            encoder,
            fraction: spec.validation.fraction,
            on_error: spec.on_error,
            validation_file: false,
            hashes: Vec::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            train: split("train")?,
            validation: split("validation")?,
            skipped: Vec::new(),
            skipped_documents: 0,
            skipped_bytes: 0,
        })
    }

    /// Reads a file of the source.
    ///
    /// # Errors
    /// A document that cannot be read, or a write that fails.
    pub fn read(&mut self, input: &Input) -> Result<()> {
        self.validation_file = input.validation;
        let hash = read(input, self)?;
        self.hashes.push(hash);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let encoder = self.encoder;
        let encoded: Vec<Result<Vec<u32>>> =
            self.pending.par_iter().map(|(text, _)| encoder.encode(text)).collect();
        for ((text, validation), ids) in self.pending.drain(..).zip(encoded) {
            let ids = ids?;
            let split = if validation { &mut self.validation } else { &mut self.train };
            split.writer.push(&ids)?;
            split.bytes += text.len() as u64;
            for id in ids {
                if let Some(count) = split.counts.get_mut(id as usize) {
                    *count += 1;
                }
            }
        }
        self.pending_bytes = 0;
        Ok(())
    }

    /// Ends the source: lists its shards in `files` and adds to `warnings`.
    ///
    /// # Errors
    /// A write that fails, or a source without training text.
    pub fn finish(
        mut self,
        files: &mut BTreeMap<String, FileInfo>,
        warnings: &mut Vec<String>,
    ) -> Result<Built> {
        self.flush()?;
        if self.skipped_documents > 0 {
            warnings.push(format!(
                "source `{}`: {} documents, {} bytes, could not be read and were left out{}{}",
                self.name,
                self.skipped_documents,
                self.skipped_bytes,
                self.skipped.iter().map(|message| format!("\n  {message}")).collect::<String>(),
                if self.skipped_documents > SHOWN as u64 { "\n  …" } else { "" }
            ));
        }
        if self.train.writer.tokens == 0 {
            return Err(Error::spec(format!(
                "source `{}` has no training document: {} documents are validation text, {} could not be read; \
                 add text or lower validation.fraction",
                self.name, self.validation.writer.documents, self.skipped_documents
            )));
        }
        let (train, train_counts) = self.train.finish(files)?;
        let (validation, validation_counts) = self.validation.finish(files)?;
        Ok(Built {
            info: SourceInfo {
                name: self.name,
                train,
                validation,
                skipped_documents: self.skipped_documents,
                skipped_bytes: self.skipped_bytes,
            },
            train_counts,
            validation_counts,
            hashes: self.hashes,
        })
    }
}

impl Sink for SourceJob<'_> {
    fn document(&mut self, text: &str) -> Result<ControlFlow<()>> {
        if !text.is_empty() {
            let validation = self.validation_file || held_out(text, self.fraction);
            self.pending.push((text.to_owned(), validation));
            self.pending_bytes += text.len();
            if self.pending_bytes >= CHUNK_BYTES {
                self.flush()?;
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn unreadable(&mut self, bad: BadContent, bytes: u64) -> Result<()> {
        if self.on_error == OnError::Stop {
            return Err(bad.into());
        }
        self.skipped_documents += 1;
        self.skipped_bytes += bytes;
        if self.skipped.len() < SHOWN {
            self.skipped.push(bad.to_string());
        }
        Ok(())
    }
}

impl SplitJob {
    fn finish(self, files: &mut BTreeMap<String, FileInfo>) -> Result<(SplitInfo, Vec<u64>)> {
        let (documents, tokens) = (self.writer.documents, self.writer.tokens);
        let mut shards = Vec::new();
        if let Some((bin, idx)) = self.writer.finish()? {
            files.insert(format!("{}.bin", self.name), bin);
            files.insert(format!("{}.idx", self.name), idx);
            shards.push(self.name);
        }
        Ok((split_info(shards, documents, tokens, self.bytes, &self.counts), self.counts))
    }
}

pub fn split_info(shards: Vec<String>, documents: u64, tokens: u64, bytes: u64, counts: &[u64]) -> SplitInfo {
    SplitInfo {
        shards,
        documents,
        tokens,
        bytes,
        bytes_per_token: bytes_per_token(bytes, tokens),
        unigram_entropy: unigram_entropy(counts),
    }
}

/// A source that is built.
pub struct Built {
    /// For the manifest.
    pub info: SourceInfo,
    /// Frequency of each id.
    pub train_counts: Vec<u64>,
    /// Frequency of each id.
    pub validation_counts: Vec<u64>,
    /// Of the files, in reading order.
    pub hashes: Vec<String>,
}
