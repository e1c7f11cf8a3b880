//! What every export of a built folder shares: files in `.partial/` with a note of those that are whole, so that an export
//! that was killed goes on after them; everything moves into place at the end, `.export.json` with lengths and hashes last.
//!
//! Not here: the formats ([`crate::webdataset`], [`crate::export`]).

use crate::error::{Error, Result};
use crate::folder::{MANIFEST, Partial, lock, read_manifest};
use crate::journal::NOTE;
use crate::tokenizer::hex;
use llmc_plan::data::{FileInfo, Manifest};
use llmc_plan::say;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;

/// What a folder of exported files holds; hidden, so that no glob matches it.
const RECEIPT: &str = ".export.json";

/// The files of a source and split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// `SOURCE-train` or `SOURCE-validation`.
    pub name: String,
    /// In order.
    pub files: Vec<Whole>,
}

/// A file that is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whole {
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
    /// Name of the index of its files, in formats that have one.
    pub fn index(&self) -> String {
        format!("{}.json", self.name)
    }

    /// Documents in all of its files.
    pub fn samples(&self) -> u64 {
        self.files.iter().map(|file| file.samples).sum()
    }
}

/// What is exported, and what of it is there.
#[derive(Default, Serialize, Deserialize)]
struct Note {
    /// Hash of the manifest and the options.
    of: String,
    sets: Vec<Set>,
}

/// How to make the index of a set, where a format has one.
pub(crate) type Index = Option<fn(&Set) -> Result<Vec<u8>>>;

/// An export under way.
pub(crate) struct Exporting {
    partial: Partial,
    note: Note,
}

impl Exporting {
    /// The folder to write to.
    pub fn path(&self) -> &Path {
        self.partial.path()
    }

    /// The files of a set that are whole, which is there from now on.
    pub fn set(&mut self, name: &str) -> &Set {
        let at = self.note.sets.iter().position(|set| set.name == name).unwrap_or_else(|| {
            self.note.sets.push(Set { name: name.to_owned(), files: Vec::new() });
            self.note.sets.len() - 1
        });
        &self.note.sets[at]
    }

    /// Notes that another file of a set is whole.
    ///
    /// # Errors
    /// The system's.
    pub fn whole(&mut self, set: &str, file: Whole) -> Result<()> {
        if let Some(set) = self.note.sets.iter_mut().find(|of| of.name == set) {
            set.files.push(file);
        }
        let (name, json) = (note_name(), json(&self.note)?);
        let new = format!("{name}.new");
        self.partial.put(&new, &json)?;
        let to = self.path().join(name);
        fs::rename(self.path().join(new), &to).map_err(Error::io("write", &to))
    }
}

/// Exports `dir`, a built folder, to `out`, or goes on with an export of the same that was killed. `options` decide the
/// bytes beside the corpus; `make` writes what is not whole yet.
///
/// # Errors
/// No built folder, a damaged shard, a folder that cannot be written.
pub(crate) fn export(
    dir: &Path,
    out: &Path,
    options: &impl Serialize,
    index: Index,
    make: impl FnOnce(&Manifest, &mut Exporting) -> Result<()>,
) -> Result<Report> {
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
    let indexed =
        |note: &Note| index.is_none() || note.sets.iter().all(|set| out.join(set.index()).is_file());
    if let Some(before) =
        before.as_ref().filter(|before| before.of == of && are_whole(out, &before.sets) && indexed(before))
    {
        return Ok(Report { sets: before.sets.clone(), up_to_date: true, resumed: false });
    }
    fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let _lock = lock(out)?;
    let partial = Partial::open(out)?;
    let unfinished: Option<Note> = read_note(&partial.path().join(note_name()));
    let unfinished = unfinished.filter(|note| note.of == of && are_whole(partial.path(), &note.sets));
    let resumed = unfinished.is_some();
    let note = match unfinished {
        Some(note) => note,
        None => {
            partial.clear()?;
            Note { of, sets: Vec::new() }
        }
    };
    let mut exporting = Exporting { partial, note };
    make(&manifest, &mut exporting)?;
    let Exporting { partial, note } = exporting;
    let mut names = Vec::new();
    for set in &note.sets {
        if let Some(index) = index {
            partial.put(&set.index(), &index(set)?)?;
            names.push(set.index());
        }
        names.extend(set.files.iter().map(|file| file.file.clone()));
    }
    partial.put(RECEIPT, &json(&note)?)?;
    let of_set =
        |set: &Set| set.files.iter().map(|file| file.file.clone()).chain([set.index()]).collect::<Vec<_>>();
    let old: Vec<String> = before.iter().flat_map(|before| &before.sets).flat_map(of_set).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    partial.publish(out, &[RECEIPT], old.iter().map(String::as_str), &names)?;
    Ok(Report { sets: note.sets, up_to_date: false, resumed })
}

pub(crate) fn json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(Error::inner)
}

fn note_name() -> String {
    format!("export{NOTE}")
}

fn read_note(path: &Path) -> Option<Note> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn identity(dir: &Path, options: &impl Serialize) -> Result<String> {
    let path = dir.join(MANIFEST);
    let manifest = fs::read(&path).map_err(Error::io("read", &path))?;
    Ok(hex(&Sha256::digest(json(&(hex(&Sha256::digest(manifest)), options))?)))
}

/// True if all files are there, as long as they were.
fn are_whole(folder: &Path, sets: &[Set]) -> bool {
    let there =
        |file: &Whole| fs::metadata(folder.join(&file.file)).is_ok_and(|meta| meta.len() == file.info.bytes);
    sets.iter().flat_map(|set| &set.files).all(there)
}
