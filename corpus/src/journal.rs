//! What an unfinished build has done, so that one that was killed goes on where it was.
//!
//! A head names what is built from what; every source has a note of its own, which says that it is done or
//! how far it is. A note speaks of bytes that were handed to the system and states their hash: if a power
//! cut lost some of them, the source is begun again. Everything appears by rename.

use crate::clean::Dropped;
use crate::durable::{HashingFile, Settling, Written, settle_all};
use crate::encode::Built;
use crate::error::{Error, Result};
use crate::inputs::Input;
use crate::output::{ShardState, remove};
use llmc_plan::data::FileInfo;
use llmc_plan::lang::Said;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const HEAD: &str = "head.json";
/// End of the name of a note, which makes a folder worth keeping.
pub(crate) const NOTE: &str = ".note.json";

/// What is built, from what.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Hash of the parts of the specification that shape the shards.
    pub spec: String,
    /// Name, length and time of every input, by source.
    inputs: Vec<Vec<(String, u64, String, bool)>>,
    /// SHA-256 of the tokenizer that lies beside.
    pub tokenizer: String,
    /// Id that ends every document.
    pub end_of_document: u32,
    /// The fast encoder gives the right ids so far.
    pub fast: bool,
    /// What was said before the first source.
    pub warnings: Vec<Said>,
}

impl Head {
    /// The head of a build that begins.
    pub fn new(spec: String, inputs: &[Vec<Input>], tokenizer: (String, u32), warnings: Vec<Said>) -> Self {
        let (tokenizer, end_of_document) = tokenizer;
        Self { spec, inputs: listed(inputs), tokenizer, end_of_document, fast: true, warnings }
    }

    /// True if it is about this specification and these inputs, unchanged.
    pub fn covers(&self, spec: &str, inputs: &[Vec<Input>]) -> bool {
        self.spec == spec && self.inputs == listed(inputs)
    }
}

fn listed(inputs: &[Vec<Input>]) -> Vec<Vec<(String, u64, String, bool)>> {
    let entry = |input: &Input| {
        // As text, since JSON numbers stop at 64 bits.
        (input.name.clone(), input.bytes, input.modified.to_string(), input.validation)
    };
    inputs.iter().map(|files| files.iter().map(entry).collect()).collect()
}

/// How far a source is.
#[derive(Serialize, Deserialize)]
pub enum Note {
    /// Its shards are whole.
    Done(Box<Done>),
    /// Its shards are being written.
    Open(Box<Open>),
}

/// A source that is built.
#[derive(Serialize, Deserialize)]
pub struct Done {
    /// What it gave.
    pub built: Built,
    /// Its files.
    pub files: BTreeMap<String, FileInfo>,
    /// What is to be said about it.
    pub warnings: Vec<Said>,
}

/// A source up to some document.
#[derive(Default, Serialize, Deserialize)]
pub struct Open {
    /// Documents that are done, the unreadable and the dropped among them.
    pub items: u64,
    /// Hash of each file that is done, and the documents up to its end.
    pub files: Vec<(String, u64)>,
    /// Training and validation shard.
    pub shards: Vec<ShardState>,
    /// Frequency of each id in both.
    pub counts: [Vec<u64>; 2],
    /// Of text in both.
    pub text_bytes: [u64; 2],
    /// See [`llmc_plan::data::SourceInfo`].
    pub skipped_documents: u64,
    /// See [`llmc_plan::data::SourceInfo`].
    pub skipped_bytes: u64,
    /// First messages of unreadable documents.
    pub shown: Vec<Said>,
    /// Documents left out by cleaning.
    pub dropped: Dropped,
}

/// The notes in a folder.
pub struct Journal {
    dir: PathBuf,
    /// Text after which an open source is noted again, bytes.
    pub interval: u64,
}

impl Journal {
    /// The notes in `dir`.
    pub fn new(dir: &Path, interval: u64) -> Self {
        Self { dir: dir.to_owned(), interval }
    }

    /// The head, if there is a readable one.
    pub fn head(&self) -> Option<Head> {
        self.read(HEAD)
    }

    /// Writes the head.
    ///
    /// # Errors
    /// The system's.
    pub fn begin(&self, head: &Head) -> Result<()> {
        self.write(HEAD, head)
    }

    /// The note of a source, if there is a readable one.
    pub fn note(&self, source: &str) -> Option<Note> {
        self.read(&format!("{source}{NOTE}"))
    }

    /// Replaces the note of a source.
    ///
    /// # Errors
    /// The system's.
    pub fn put(&self, source: &str, note: &Note) -> Result<()> {
        self.write(&format!("{source}{NOTE}"), note)
    }

    /// As [`Journal::put`] once the device has `files`, of which the note speaks, and removes `leftovers` then. Nobody
    /// waits for that here.
    ///
    /// # Errors
    /// The system's.
    pub fn put_after(
        &self,
        mut files: Vec<Written>,
        source: &str,
        note: &Note,
        leftovers: Vec<PathBuf>,
    ) -> Result<Settling> {
        let (file, from, to) = self.prepare(&format!("{source}{NOTE}"), note)?;
        files.push(file);
        Settling::begin(files, move || {
            fs::rename(&from, &to).map_err(Error::io("write", &to))?;
            leftovers.iter().try_for_each(|path| remove(path))
        })
    }

    /// Removes the notes of all sources.
    ///
    /// # Errors
    /// The system's.
    pub fn forget(&self) -> Result<()> {
        for entry in fs::read_dir(&self.dir).map_err(Error::io("list", &self.dir))?.flatten() {
            if is_note(&entry) {
                fs::remove_file(entry.path()).map_err(Error::io("remove", &entry.path()))?;
            }
        }
        Ok(())
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&fs::read(self.dir.join(name)).ok()?).ok()
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let (file, from, to) = self.prepare(name, value)?;
        settle_all(&[file])?;
        fs::rename(&from, &to).map_err(Error::io("write", &to))
    }

    /// Writes a file under another name, and says which and what its own is.
    fn prepare<T: Serialize>(&self, name: &str, value: &T) -> Result<(Written, PathBuf, PathBuf)> {
        let json = serde_json::to_vec(value).map_err(Error::inner)?;
        let (to, from) = (self.dir.join(name), self.dir.join(format!("{name}.new")));
        let mut file = HashingFile::create(&from)?;
        file.write(&json)?;
        Ok((file.close()?.1, from, to))
    }
}

/// True if a folder holds the note of some source: more than a moment's work.
pub fn is_worth_keeping(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| is_note(&entry))))
}

fn is_note(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().ends_with(NOTE)
}
