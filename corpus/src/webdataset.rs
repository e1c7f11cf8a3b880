//! A built folder as WebDataset, for trainers that read it: tars of samples, and an index for every source and split.
//!
//! A document is a sample, `KEY.input_ids.npy` (its ids, as stored) or `KEY.txt` (its text, decoded). Keys and tars are
//! numbered, so the same folder gives the same bytes. Not here: how an export goes on ([`crate::exporting`]).

use crate::error::{Error, Result};
use crate::exporting::{Exporting, Report, Set, Whole, export, json};
use crate::indexed::Indexed;
use crate::npy;
use crate::output::{Dtype, HashingFile};
use crate::packing::for_each_block;
use crate::tokenizer::Encoder;
use crate::wids;
use llmc_plan::data::Manifest;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use tar::{Builder, Header};

/// Raised when the same folder would give other tars than before.
const REVISION: u32 = 1;
/// A tar consists of blocks of this size, and ends with two of zeros.
const BLOCK: u64 = 512;

/// What to write.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The text of documents instead of their ids.
    pub text: bool,
    /// A tar is closed before the sample that would make it larger, bytes.
    pub tar_bytes: u64,
}

/// Writes `dir`, a built folder, to `out`, or goes on with an export of the same that was killed.
///
/// # Errors
/// No built folder, a damaged shard, a folder that cannot be written.
pub fn write(dir: &Path, out: &Path, options: &Options) -> Result<Report> {
    let identity = ("webdataset", REVISION, options.text, options.tar_bytes);
    export(dir, out, &identity, Some(index), |manifest, exporting| {
        let encoder = options.text.then(|| decoder(dir, manifest)).transpose()?;
        let mut export = Export { dir, manifest, encoder, options, exporting };
        for source in &manifest.sources {
            export.split(&source.name, "train", &source.train.shards)?;
            export.split(&source.name, "validation", &source.validation.shards)?;
        }
        Ok(())
    })
}

fn decoder(dir: &Path, manifest: &Manifest) -> Result<Encoder> {
    let tokenizer = &manifest.tokenizer;
    Encoder::of_corpus(&dir.join(&tokenizer.file), tokenizer.end_of_document)
}

/// The index that `wids` reads, with our hash beside its fields.
fn index(set: &Set) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Index<'a> {
        __kind__: &'a str,
        wids_version: u32,
        name: &'a str,
        shardlist: Vec<BTreeMap<&'a str, serde_json::Value>>,
    }
    let entry = |tar: &Whole| {
        BTreeMap::from([
            ("url", tar.file.clone().into()),
            ("nsamples", tar.samples.into()),
            ("filesize", tar.info.bytes.into()),
            ("xxh3", tar.info.xxh3.clone().into()),
        ])
    };
    let shardlist = set.files.iter().map(entry).collect();
    json(&Index { __kind__: wids::KIND, wids_version: 1, name: &set.name, shardlist })
}

struct Export<'a> {
    dir: &'a Path,
    manifest: &'a Manifest,
    /// Where text is asked for.
    encoder: Option<Encoder>,
    options: &'a Options,
    exporting: &'a mut Exporting,
}

/// A tar that is being written.
struct Open {
    file: String,
    tar: Builder<HashingFile>,
    samples: u64,
    bytes: u64,
}

impl Export<'_> {
    /// Writes the samples of a split that are in no tar yet.
    fn split(&mut self, source: &str, split: &str, shards: &[String]) -> Result<()> {
        if shards.is_empty() {
            return Ok(());
        }
        let name = format!("{source}-{split}");
        let done = self.exporting.set(&name).samples();
        let dtype = Dtype::for_vocab(self.manifest.tokenizer.vocab);
        let (mut open, mut number, mut ids) = (None, 0, Vec::new());
        for shard in shards {
            let shard = Indexed::open(&self.dir.join(shard), self.manifest.tokenizer.vocab)?;
            for_each_block(&shard, |first, lengths| {
                let mut from = first;
                for &length in lengths {
                    number += 1;
                    let start = from;
                    from += length;
                    if number <= done {
                        continue;
                    }
                    ids.resize(length as usize, 0);
                    shard.read(start, &mut ids)?;
                    let (member, bytes) = self.sample(&ids, dtype)?;
                    let key = format!("{name}-{:09}.{member}", number - 1);
                    self.append(&name, &key, &bytes, &mut open)?;
                }
                Ok(())
            })?;
        }
        self.close(&name, open)
    }

    /// A document's end of name, and its bytes.
    fn sample(&self, ids: &[u32], dtype: Dtype) -> Result<(&'static str, Vec<u8>)> {
        let Some(encoder) = &self.encoder else { return Ok(("input_ids.npy", npy::write(dtype, ids))) };
        let end = self.manifest.tokenizer.end_of_document;
        let text = encoder.decode(ids.strip_suffix(&[end]).unwrap_or(ids))?;
        Ok(("txt", text.into_bytes()))
    }

    fn append(&mut self, set: &str, member: &str, bytes: &[u8], open: &mut Option<Open>) -> Result<()> {
        let length = BLOCK + (bytes.len() as u64).next_multiple_of(BLOCK);
        let full = |open: &Open| open.bytes + length + 2 * BLOCK > self.options.tar_bytes;
        if open.as_ref().is_some_and(full) {
            self.close(set, open.take())?;
        }
        let open = match open {
            Some(open) => open,
            None => {
                let number = self.exporting.set(set).files.len();
                let file = format!("{set}-{number:06}.tar");
                let tar = Builder::new(HashingFile::create(&self.exporting.path().join(&file))?);
                open.insert(Open { file, tar, samples: 0, bytes: 0 })
            }
        };
        // Owner and time would differ between machines.
        let mut header = Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o444);
        let path = self.exporting.path().join(&open.file);
        open.tar.append_data(&mut header, member, bytes).map_err(Error::io("write", &path))?;
        open.samples += 1;
        open.bytes += length;
        Ok(())
    }

    /// Ends a tar, and notes that it is whole.
    fn close(&mut self, set: &str, open: Option<Open>) -> Result<()> {
        let Some(Open { file, tar, samples, .. }) = open else { return Ok(()) };
        let path = self.exporting.path().join(&file);
        let info = tar.into_inner().map_err(Error::io("write", &path))?.finish()?;
        self.exporting.whole(set, Whole { file, samples, info })
    }
}
