//! A built folder as WebDataset, for trainers that read it: tars of samples, and an index for every source and split.
//!
//! A document is a sample, `KEY.input_ids.npy` (its ids, as stored) or `KEY.txt` (its text, decoded). Keys and tars are
//! numbered, so the same folder gives the same bytes. Tars wait in `.partial/` with a note of those that are whole; an
//! export that was killed goes on after them, and everything moves into place at the end, `.export.json` last.

use crate::error::{Error, Result};
use crate::folder::{MANIFEST, Partial, lock, read_manifest};
use crate::indexed::Indexed;
use crate::journal::NOTE;
use crate::npy;
use crate::output::{Dtype, HashingFile};
use crate::packing::for_each_block;
use crate::tokenizer::{Encoder, hex};
use crate::wids;
use llmc_plan::data::{FileInfo, Manifest};
use llmc_plan::say;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tar::{Builder, Header};

/// What a folder of tars holds; hidden, so that no glob for tars or indices matches it.
const RECEIPT: &str = ".export.json";
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

/// The tars of a source and split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// `SOURCE-train` or `SOURCE-validation`, from which the names of its files follow.
    pub name: String,
    /// In order.
    pub tars: Vec<Tar>,
}

/// A tar that is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tar {
    /// In its folder.
    pub file: String,
    /// Documents in it.
    pub samples: u64,
    /// Its length and hash.
    pub info: FileInfo,
}

/// What an export did.
#[derive(Debug)]
pub struct Report {
    /// What the folder holds now.
    pub sets: Vec<Set>,
    /// Nothing had changed, nothing was done.
    pub up_to_date: bool,
    /// One that did not end had written the beginning.
    pub resumed: bool,
}

impl Set {
    /// Name of the index of its tars.
    pub fn index(&self) -> String {
        format!("{}.json", self.name)
    }

    /// Documents in all of its tars.
    pub fn samples(&self) -> u64 {
        self.tars.iter().map(|tar| tar.samples).sum()
    }
}

/// What is exported, and what of it is there.
#[derive(Default, Serialize, Deserialize)]
struct Note {
    /// Hash of the manifest and the options.
    of: String,
    sets: Vec<Set>,
}

/// Writes `dir`, a built folder, to `out`, or goes on with an export of the same that was killed.
///
/// # Errors
/// No built folder, a damaged shard, a folder that cannot be written.
pub fn write(dir: &Path, out: &Path, options: &Options) -> Result<Report> {
    let manifest = read_manifest(dir)?;
    if out.join(MANIFEST).exists() {
        let out = out.display();
        return Err(Error::Usage(say!(
            "{out} holds a built corpus: export to a folder of its own",
            "{out} 中有已构建的语料：请导出到单独的目录"
        )));
    }
    let of = identity(dir, options)?;
    let before: Option<Note> = read_note(&out.join(RECEIPT));
    let indexed = |note: &Note| note.sets.iter().all(|set| out.join(set.index()).is_file());
    if let Some(before) =
        before.as_ref().filter(|before| before.of == of && whole(out, &before.sets) && indexed(before))
    {
        return Ok(Report { sets: before.sets.clone(), up_to_date: true, resumed: false });
    }
    fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let _lock = lock(out)?;
    let partial = Partial::open(out)?;
    let unfinished: Option<Note> = read_note(&partial.path().join(note_name()));
    let unfinished = unfinished.filter(|note| note.of == of && whole(partial.path(), &note.sets));
    let resumed = unfinished.is_some();
    let mut export = Export {
        dir,
        manifest: &manifest,
        encoder: options.text.then(|| decoder(dir, &manifest)).transpose()?,
        options,
        note: match unfinished {
            Some(note) => note,
            None => {
                partial.clear()?;
                Note { of, sets: Vec::new() }
            }
        },
        partial: &partial,
    };
    for source in &manifest.sources {
        export.split(&source.name, "train", &source.train.shards)?;
        export.split(&source.name, "validation", &source.validation.shards)?;
    }
    let note = export.note;
    let mut names = Vec::new();
    for set in &note.sets {
        partial.put(&set.index(), &index(set)?)?;
        names.extend(files_of(set));
    }
    partial.put(RECEIPT, &json(&note)?)?;
    let old: Vec<String> = before.iter().flat_map(|before| &before.sets).flat_map(files_of).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    partial.publish(out, &[RECEIPT], old.iter().map(String::as_str), &names)?;
    Ok(Report { sets: note.sets, up_to_date: false, resumed })
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(Error::inner)
}

fn note_name() -> String {
    format!("export{NOTE}")
}

fn read_note(path: &Path) -> Option<Note> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn identity(dir: &Path, options: &Options) -> Result<String> {
    let path = dir.join(MANIFEST);
    let manifest = fs::read(&path).map_err(Error::io("read", &path))?;
    Ok(hex(&Sha256::digest(json(&(
        REVISION,
        hex(&Sha256::digest(manifest)),
        options.text,
        options.tar_bytes,
    ))?)))
}

fn decoder(dir: &Path, manifest: &Manifest) -> Result<Encoder> {
    let tokenizer = &manifest.tokenizer;
    Encoder::of_corpus(&dir.join(&tokenizer.file), tokenizer.end_of_document)
}

/// True if all tars are there, as long as they were.
fn whole(folder: &Path, sets: &[Set]) -> bool {
    let there =
        |tar: &Tar| fs::metadata(folder.join(&tar.file)).is_ok_and(|meta| meta.len() == tar.info.bytes);
    sets.iter().flat_map(|set| &set.tars).all(there)
}

fn files_of(set: &Set) -> Vec<String> {
    set.tars.iter().map(|tar| tar.file.clone()).chain([set.index()]).collect()
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
    let entry = |tar: &Tar| {
        BTreeMap::from([
            ("url", tar.file.clone().into()),
            ("nsamples", tar.samples.into()),
            ("filesize", tar.info.bytes.into()),
            ("xxh3", tar.info.xxh3.clone().into()),
        ])
    };
    let shardlist = set.tars.iter().map(entry).collect();
    json(&Index { __kind__: wids::KIND, wids_version: 1, name: &set.name, shardlist })
}

struct Export<'a> {
    dir: &'a Path,
    manifest: &'a Manifest,
    /// Where text is asked for.
    encoder: Option<Encoder>,
    options: &'a Options,
    /// What is whole so far.
    note: Note,
    partial: &'a Partial,
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
        if !self.note.sets.iter().any(|set| set.name == name) {
            self.note.sets.push(Set { name: name.clone(), tars: Vec::new() });
        }
        let done = self.note.sets.iter().find(|set| set.name == name).map_or(0, Set::samples);
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
                let number = self.note.sets.iter().find(|of| of.name == set).map_or(0, |set| set.tars.len());
                let file = format!("{set}-{number:06}.tar");
                let tar = Builder::new(HashingFile::create(&self.partial.path().join(&file))?);
                open.insert(Open { file, tar, samples: 0, bytes: 0 })
            }
        };
        // Owner and time would differ between machines.
        let mut header = Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o444);
        let path = self.partial.path().join(&open.file);
        open.tar.append_data(&mut header, member, bytes).map_err(Error::io("write", &path))?;
        open.samples += 1;
        open.bytes += length;
        Ok(())
    }

    /// Ends a tar, and notes that it is whole.
    fn close(&mut self, set: &str, open: Option<Open>) -> Result<()> {
        let Some(Open { file, tar, samples, .. }) = open else { return Ok(()) };
        let path = self.partial.path().join(&file);
        let info = tar.into_inner().map_err(Error::io("write", &path))?.finish()?;
        if let Some(set) = self.note.sets.iter_mut().find(|of| of.name == set) {
            set.tars.push(Tar { file, samples, info });
        }
        let (name, json) = (note_name(), json(&self.note)?);
        let new = format!("{name}.new");
        self.partial.put(&new, &json)?;
        let to = self.partial.path().join(name);
        fs::rename(self.partial.path().join(new), &to).map_err(Error::io("write", &to))
    }
}
