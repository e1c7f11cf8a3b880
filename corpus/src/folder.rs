//! The target folder of a build: lock, partial files, the move into place, the manifest.
//!
//! Everything is written to `.partial/` inside the target and moved in at the end, the manifest
//! last: a folder with a manifest is whole. What an unfinished build leaves there is for the next one to
//! go on from.

use crate::durable::{HashingFile, Settling, Written, settle_all};
use crate::error::{Error, Result};
use crate::inputs::Receipt;
use crate::journal::is_worth_keeping;
use crate::tokenizer::hex;
use llmc_plan::data::{DATA_FORMAT_VERSION, Manifest};
use llmc_plan::say;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Name of the manifest.
pub const MANIFEST: &str = "manifest.json";
/// What was read, for the next build.
pub const RECEIPT: &str = "inputs.json";
const PARTIAL: &str = ".partial";
const LOCK: &str = ".lock";

/// Held while files move into place, while `.partial/` is made, and from an interrupt to the end of the process.
/// True once this process has moved its files into place.
static COMMIT: Mutex<bool> = Mutex::new(false);

fn held() -> MutexGuard<'static, bool> {
    COMMIT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a commit under way, and for ever once an interrupt has taken the folder: a build that fails because
/// of that has nothing of its own to say.
pub fn settle() {
    drop(held());
}

/// Reads a folder's manifest.
///
/// # Errors
/// None there, malformed, or of another major version.
pub fn read_manifest(dir: &Path) -> Result<Manifest> {
    let path = dir.join(MANIFEST);
    let json = fs::read(&path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => Error::Usage(say!(
            "{dir} holds no built corpus: run `llmc data build` first",
            "{dir} 中没有已构建的语料：请先运行 `llmc data build`",
            dir = dir.display()
        )),
        _ => Error::Io { action: "read", file: path.clone(), source },
    })?;
    let manifest: Manifest = serde_json::from_slice(&json).map_err(|e| {
        Error::corrupt(&path, None, say!("a corpus manifest", "语料清单"), say!("{e}", " {e}"))
    })?;
    if !llmc_plan::data::readable_version(&manifest.format_version) {
        let found = say!("version {version}", "版本 {version}", version = manifest.format_version);
        let expected = say!("format version {DATA_FORMAT_VERSION}", "格式版本 {DATA_FORMAT_VERSION}");
        return Err(Error::corrupt(&path, None, expected, found));
    }
    Ok(manifest)
}

/// One build at a time in a folder; the system releases the lock with the process.
///
/// # Errors
/// Another build holds it.
pub fn lock(dir: &Path) -> Result<fs::File> {
    let path = dir.join(LOCK);
    let file = fs::File::create(&path).map_err(Error::io("create", &path))?;
    file.try_lock().map_err(|e| match e {
        fs::TryLockError::WouldBlock => Error::Usage(say!(
            "another build is writing {dir}: wait for it, or choose another folder",
            "另一个构建正在写入 {dir}：请等待，或另选目录",
            dir = dir.display()
        )),
        fs::TryLockError::Error(source) => Error::Io { action: "lock", file: path, source },
    })?;
    Ok(file)
}

/// The folder a build writes to; removed when dropped, unless another build can go on from it.
pub struct Partial {
    path: PathBuf,
    committed: bool,
}

impl Partial {
    /// Opens it, with what an unfinished build left there.
    ///
    /// # Errors
    /// The system's.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(PARTIAL);
        let _guard = held();
        fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        Ok(Self { path, committed: false })
    }

    /// Removes what is there.
    ///
    /// # Errors
    /// The system's.
    pub fn clear(&self) -> Result<()> {
        let _guard = held();
        fs::remove_dir_all(&self.path).map_err(Error::io("remove", &self.path))?;
        fs::create_dir(&self.path).map_err(Error::io("create", &self.path))
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves everything into `dir`, once the device has it. The old manifest goes first and the new one comes last, so a
    /// folder never has a manifest that speaks of other files.
    ///
    /// # Errors
    /// The system's.
    pub fn commit(
        self,
        dir: &Path,
        manifest: &Manifest,
        mut receipt: Receipt,
        settling: Option<Settling>,
    ) -> Result<()> {
        let json = serde_json::to_vec_pretty(manifest).map_err(Error::inner)?;
        receipt.manifest = hex(&Sha256::digest(&json));
        let receipt = serde_json::to_vec(&receipt).map_err(Error::inner)?;
        settle_all(&[self.write(RECEIPT, &receipt)?, self.write(MANIFEST, &json)?])?;
        settling.map_or(Ok(()), Settling::wait)?;
        let old = read_manifest(dir).map(|m| m.files).unwrap_or_default();
        let new: Vec<&str> = manifest.files.keys().map(String::as_str).collect();
        self.publish(dir, &[RECEIPT, MANIFEST], old.keys().map(String::as_str), &new)
    }

    /// Writes a file, through to the device.
    ///
    /// # Errors
    /// The system's.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        settle_all(&[self.write(name, bytes)?])
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<Written> {
        let mut file = HashingFile::create(&self.path.join(name))?;
        file.write(bytes)?;
        Ok(file.close()?.1)
    }

    /// Moves `new` into `dir`, then `heads`, which say what the folder holds: those that lie there go first, then
    /// what is `old` and not new.
    ///
    /// # Errors
    /// The system's.
    pub fn publish<'n>(
        mut self,
        dir: &Path,
        heads: &[&str],
        old: impl Iterator<Item = &'n str>,
        new: &[&str],
    ) -> Result<()> {
        let mut published = held();
        for name in heads {
            remove_if_there(&dir.join(name))?;
        }
        let kept: BTreeSet<&str> = new.iter().copied().collect();
        for name in old.filter(|name| !kept.contains(name) && is_plain(name)) {
            remove_if_there(&dir.join(name))?;
        }
        for name in new.iter().chain(heads) {
            let to = dir.join(name);
            fs::rename(self.path.join(name), &to).map_err(Error::io("write", &to))?;
        }
        // While an interrupt waits, which would take what is left there for the beginning of another export.
        let _ = fs::remove_dir_all(&self.path);
        (self.committed, *published) = (true, true);
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.committed || !is_worth_keeping(&self.path) {
            // Nothing more can be done here, and the next build tries again.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// What an interrupt leaves in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// What it held before.
    Before,
    /// The beginning of what was to be written, from which the same command goes on.
    Beginning,
    /// All of it: the interrupt came too late.
    Everything,
}

/// For a signal handler that is about to end the process: waits for a commit under way, then removes
/// what an unfinished build has written, unless another one can go on from it; what is left.
///
/// The build's threads still run and may create a file while its folder is emptied, which is then emptied
/// again; once it is gone nobody makes it anew, because that takes the guard.
pub fn abandon(dir: &Path) -> (impl Drop + use<>, Left) {
    let guard = held();
    if *guard {
        return (guard, Left::Everything);
    }
    let partial = dir.join(PARTIAL);
    let kept = is_worth_keeping(&partial);
    let again = |e: &std::io::Error| matches!(e.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound);
    while !kept && partial.exists() && fs::remove_dir_all(&partial).is_err_and(|e| again(&e)) {}
    (guard, if kept { Left::Beginning } else { Left::Before })
}

/// A name read from an old manifest must not lead out of the folder.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\']) && name != ".." && name != "."
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(Error::Io { action: "remove", file: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
