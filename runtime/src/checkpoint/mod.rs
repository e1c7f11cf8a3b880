//! Checkpoints on disk: written so that a kill at any instant leaves a loadable state, verified when read.
//!
//! `checkpoints/step-N/` holds `model.safetensors` and `config.json` (a Hugging Face LLaMA, loadable as such),
//! `optimizer.safetensors` (masters and moments; `optimizer.safetensors.zst` where they are compressed), `plan.json` and `data.json` as the run had them, and `state.json`
//! ([`State`], with the hashes of the others).
//! A folder is filled under a dotted name, synced, then renamed; `checkpoints/latest` names the newest and is
//! replaced by a rename too. Not here: which tensors these are ([`crate::snapshot`]).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use llmc_plan::lang::Said;
use llmc_plan::say;
use safetensors::View;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::failure::{Failure, Outcome};
use crate::noise::NoiseScale;
use crate::train::dynamic::Measured;

pub mod config;
mod packed;
mod tensors;

pub use tensors::TensorFile;

/// Version of `state.json`; a reader refuses another major.
pub const FORMAT: &str = "1.1";

/// Weights under Hugging Face names.
pub const MODEL_FILE: &str = "model.safetensors";
/// Masters and optimizer states.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// The model's shape as Hugging Face reads it.
pub const CONFIG_FILE: &str = "config.json";
/// The plan the run had.
pub const PLAN_FILE: &str = "plan.json";
/// The data specification the run had.
pub const DATA_FILE: &str = "data.json";
const REQUIRED: [&str; 5] = [MODEL_FILE, OPTIMIZER_FILE, CONFIG_FILE, PLAN_FILE, DATA_FILE];
const STATE_FILE: &str = "state.json";
const LATEST: &str = "latest";

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// `major.minor` of this file.
    pub format: String,
    /// Optimizer steps made.
    pub step: u64,
    /// Index of the next training sample in the data order.
    pub next_sample: u64,
    /// Tokens trained.
    pub tokens: u64,
    /// Seconds spent in steps, over all sittings.
    pub seconds: f64,
    /// Updates left out because loss or gradient were not finite.
    pub skipped_updates: u64,
    /// Gradient noise so far; none where steps have one micro-batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<NoiseScale>,
    /// Loss scale and good steps since it changed, in fp16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<[f64; 2]>,
    /// Losses measured since a mixture that follows them was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix: Option<Measured>,
    /// SHA-256 of what the plan means.
    pub plan: String,
    /// SHA-256 of the corpus manifest.
    pub data: String,
    /// The other files of the folder.
    #[serde(default)]
    pub files: BTreeMap<String, FileHash>,
    /// SHA-256 of this file's JSON with this field empty.
    #[serde(default)]
    pub checksum: String,
}

/// Size and hash of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHash {
    /// Length in bytes.
    pub bytes: u64,
    /// Lower-case hex.
    pub sha256: String,
}

impl State {
    /// Before the first step of a run of `plan` on `data` (hashes of both), whose first sample is `next_sample`.
    pub fn start(plan: String, data: String, next_sample: u64) -> State {
        State {
            format: FORMAT.to_owned(),
            step: 0,
            next_sample,
            tokens: 0,
            seconds: 0.0,
            skipped_updates: 0,
            noise: None,
            loss_scale: None,
            mix: None,
            plan,
            data,
            files: BTreeMap::new(),
            checksum: String::new(),
        }
    }

    fn digest(&self) -> Outcome<String> {
        let blank = State { checksum: String::new(), ..self.clone() };
        let text = serde_json::to_vec(&blank).map_err(|e| Failure::bug(format!("state.json: {e}")))?;
        Ok(hex(&Sha256::digest(text)))
    }
}

/// How checkpoints are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Store {
    /// How many of the newest stay; 0 = all.
    pub keep: u64,
    /// zstd level of masters and moments; 0 = as they are. Weights never are compressed: other programs load them.
    pub zstd: u64,
}

/// Name of the compressed file in place of another.
pub fn zst(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".zst");
    name.into()
}

/// A verified checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Its folder.
    pub folder: PathBuf,
    /// Where the run stood.
    pub state: State,
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes `checkpoints/step-N` and points `latest` at it, then removes all but the newest `storage.keep`.
/// `texts` are (file, text); `tensors` are (file, tensors by name), whose bytes are asked for one tensor at a time;
/// `copied` says whether all of them could be had.
///
/// # Errors
/// Exit code 2 when the disk refuses; the previous checkpoint is then still there and still the latest.
pub fn write<V: View>(
    checkpoints: &Path,
    state: State,
    texts: &[(&str, String)],
    tensors: [(&str, Vec<(String, V)>); 2],
    copied: &dyn Fn() -> Outcome<()>,
    storage: Store,
) -> Outcome<Checkpoint> {
    let failed = |action: &'static str, path: &Path| {
        let path = path.to_path_buf();
        move |e: std::io::Error| Failure::io(action, &path, &e)
    };
    fs::create_dir_all(checkpoints).map_err(failed("create", checkpoints))?;
    sweep(checkpoints);
    let name = format!("step-{}", state.step);
    let temporary = checkpoints.join(format!(".tmp-{name}"));
    fs::create_dir(&temporary).map_err(failed("create", &temporary))?;
    let mut state = State { files: BTreeMap::new(), ..state };
    let mut hash = |file: &str| {
        state.files.insert(file.to_owned(), hash_file(&temporary.join(file))?);
        Ok::<(), Failure>(())
    };
    for (file, text) in texts {
        write_synced(&temporary.join(file), text.as_bytes())?;
        hash(file)?;
    }
    for (file, tensors) in tensors {
        let level = i32::try_from(storage.zstd).ok().filter(|level| *level > 0 && file == OPTIMIZER_FILE);
        let stored = if level.is_some() { zst(Path::new(file)) } else { PathBuf::from(file) };
        tensors::write(&temporary.join(&stored), tensors, level)?;
        hash(&stored.to_string_lossy())?;
    }
    copied()?;
    state.checksum = state.digest()?;
    let text = serde_json::to_string_pretty(&state).map_err(|e| Failure::bug(format!("state.json: {e}")))?;
    write_synced(&temporary.join(STATE_FILE), format!("{text}\n").as_bytes())?;
    sync_folder(&temporary)?;
    let folder = checkpoints.join(&name);
    if folder.exists() {
        // Only a damaged one can be here (a good one would have been resumed from): out of the way first.
        retire(&folder).map_err(failed("replace", &folder))?;
    }
    fs::rename(&temporary, &folder).map_err(failed("create", &folder))?;
    sync_folder(checkpoints)?;
    point_latest(checkpoints, &name)?;
    if storage.keep > 0 {
        for (_, old) in steps(checkpoints)?.into_iter().rev().skip(storage.keep as usize) {
            retire(&old).map_err(failed("remove", &old))?;
        }
    }
    Ok(Checkpoint { folder, state })
}

/// The newest good checkpoint, and a sentence for each damaged one passed over. `None` when the folder holds
/// no checkpoint at all.
///
/// # Errors
/// Exit code 2 when there are checkpoints and every one is damaged.
pub fn newest(checkpoints: &Path) -> Outcome<(Option<Checkpoint>, Vec<Said>)> {
    let mut candidates: Vec<PathBuf> = steps(checkpoints)?.into_iter().rev().map(|(_, path)| path).collect();
    // `latest` first: a newer folder beside it was renamed but its pointer not yet, and is just as whole.
    if let Some(latest) = read_latest(checkpoints) {
        candidates.sort_by_key(|path| *path != latest && step_of(path) <= step_of(&latest));
    }
    let mut damaged = Vec::new();
    for folder in &candidates {
        match open(folder) {
            Ok(checkpoint) => return Ok((Some(checkpoint), damaged)),
            Err(failure) => damaged.push(failure.message),
        }
    }
    if damaged.is_empty() {
        return Ok((None, damaged));
    }
    Err(Failure::environment(say!(
        "no checkpoint in {path} can be resumed from: {all}",
        "{path} 中没有可以继续的检查点：{all}",
        path = checkpoints.display(),
        all = Said::join(&damaged, "; ", "；")
    )))
}

/// Opens and verifies one checkpoint folder.
///
/// # Errors
/// Exit code 2 and one sentence naming the file that is missing, unreadable or not what was written.
pub fn open(folder: &Path) -> Outcome<Checkpoint> {
    let path = folder.join(STATE_FILE);
    let text = fs::read(&path).map_err(|e| Failure::io("read", &path, &e))?;
    let state: State = serde_json::from_slice(&text).map_err(|e| {
        Failure::environment(say!(
            "{path} is not a checkpoint state: {e}",
            "{path} 不是检查点状态：{e}",
            path = path.display()
        ))
    })?;
    if state.format.split('.').next() != FORMAT.split('.').next() {
        return Err(Failure::environment(say!(
            "{path} has format {found}, this build reads {FORMAT}",
            "{path} 的格式为 {found}，本程序只能读取 {FORMAT}",
            path = path.display(),
            found = state.format
        )));
    }
    if state.digest()? != state.checksum {
        return Err(Failure::damaged(&path, say!("its checksum differs", "校验和不符")));
    }
    for file in REQUIRED {
        let compressed = zst(Path::new(file)).to_string_lossy().into_owned();
        let stored = if state.files.contains_key(&compressed) { &compressed } else { file };
        let path = folder.join(stored);
        let want = state.files.get(stored).ok_or_else(|| {
            let path = folder.join(STATE_FILE);
            Failure::environment(say!(
                "{path} does not name {file}",
                "{path} 未列出 {file}",
                path = path.display()
            ))
        })?;
        let found = hash_file(&path)?;
        if found != *want {
            return Err(Failure::damaged(
                &path,
                say!(
                    "{bytes} bytes with SHA-256 {hash}, written were {bytes_written} bytes with {hash_written}",
                    "共 {bytes} 字节，SHA-256 {hash}；写入时为 {bytes_written} 字节，{hash_written}",
                    bytes = found.bytes,
                    hash = short(&found.sha256),
                    bytes_written = want.bytes,
                    hash_written = short(&want.sha256)
                ),
            ));
        }
    }
    Ok(Checkpoint { folder: folder.to_path_buf(), state })
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// Step folders in ascending order of step.
fn steps(checkpoints: &Path) -> Outcome<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(checkpoints) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Failure::io("read", checkpoints, &e)),
    };
    let mut found: Vec<(u64, PathBuf)> =
        entries.flatten().filter_map(|e| Some((step_of(&e.path())?, e.path()))).collect();
    found.sort();
    Ok(found)
}

fn step_of(folder: &Path) -> Option<u64> {
    folder.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()
}

fn read_latest(checkpoints: &Path) -> Option<PathBuf> {
    let name = fs::read_to_string(checkpoints.join(LATEST)).ok()?;
    let folder = checkpoints.join(name.trim());
    (folder.parent() == Some(checkpoints) && step_of(&folder).is_some()).then_some(folder)
}

fn point_latest(checkpoints: &Path, name: &str) -> Outcome<()> {
    let temporary = checkpoints.join(".tmp-latest");
    write_synced(&temporary, format!("{name}\n").as_bytes())?;
    let latest = checkpoints.join(LATEST);
    fs::rename(&temporary, &latest).map_err(|e| Failure::io("write", &latest, &e))?;
    sync_folder(checkpoints)
}

/// Takes a folder out of sight in one rename, then removes it.
fn retire(folder: &Path) -> std::io::Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let hidden = folder.with_file_name(format!(".old-{name}"));
    if hidden.exists() {
        fs::remove_dir_all(&hidden)?;
    }
    fs::rename(folder, &hidden)?;
    fs::remove_dir_all(&hidden)
}

/// Removes what a killed writer left. Best effort: what cannot be removed is only in the way of space.
fn sweep(checkpoints: &Path) {
    let entries = fs::read_dir(checkpoints).into_iter().flatten().flatten();
    for path in entries.map(|e| e.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(".tmp-") || name.starts_with(".old-") {
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> Outcome<()> {
    File::create(path)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .map_err(|e| Failure::io("write", path, &e))
}

/// Makes renames and new names in a folder survive a power cut.
fn sync_folder(path: &Path) -> Outcome<()> {
    File::open(path).and_then(|f| f.sync_all()).map_err(|e| Failure::io("sync", path, &e))
}

fn hash_file(path: &Path) -> Outcome<FileHash> {
    let failed = |e: std::io::Error| Failure::io("read", path, &e);
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut bytes, mut block) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut block).map_err(failed)?;
        if n == 0 {
            break;
        }
        hash.update(block.get(..n).unwrap_or_default());
        bytes += n as u64;
    }
    Ok(FileHash { bytes, sha256: hex(&hash.finalize()) })
}

#[cfg(test)]
mod tests;
