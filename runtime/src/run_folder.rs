//! `runs/NAME`: what a run reads and where it writes.
//!
//! `plan.json` and `data.json` are written by `llmc run`; the built corpus lies in `data/`; the worker writes
//! `metrics.jsonl`, `events/`, `checkpoints/` and `summary.json`. One worker at a time: the folder is locked.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use llmc_plan::data::DataSpec;
use llmc_plan::plan::{Master, Plan};
use llmc_plan::say;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::checkpoint::hex;
use crate::failure::{Failure, Outcome};

/// A run folder, read and locked.
#[derive(Debug)]
pub struct RunFolder {
    /// The folder.
    pub path: PathBuf,
    /// Its plan.
    pub plan: Plan,
    /// Text of `plan.json`.
    pub plan_text: String,
    /// Its data specification.
    pub data: DataSpec,
    /// Text of `data.json`.
    pub data_text: String,
    /// Held until the worker ends, however it ends.
    _lock: File,
}

impl RunFolder {
    /// Reads and locks a folder.
    ///
    /// # Errors
    /// Exit code 2 when a file is missing or unreadable, or another worker is at it.
    pub fn open(path: &Path) -> Outcome<RunFolder> {
        let (plan, plan_text) = read_plan(&path.join("plan.json"))?;
        let (data, data_text) = read_data(&path.join("data.json"))?;
        let lock_path = path.join(".lock");
        let lock = File::create(&lock_path).map_err(|e| Failure::io("write", &lock_path, &e))?;
        lock.try_lock().map_err(|_| {
            Failure::environment(say!(
                "another worker is training in {path}: wait for it or stop it",
                "另一个进程正在 {path} 中训练：请等它结束，或将其停止",
                path = path.display()
            ))
        })?;
        Ok(RunFolder { path: path.to_path_buf(), plan, plan_text, data, data_text, _lock: lock })
    }

    /// Where checkpoints lie.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }
}

/// Reads a plan.
///
/// # Errors
/// Exit code 2 and what is wrong with the file.
pub fn read_plan(path: &Path) -> Outcome<(Plan, String)> {
    let text = fs::read_to_string(path).map_err(|e| Failure::io("read", path, &e))?;
    let plan = Plan::from_json(&text).map_err(|e| {
        Failure::environment(say!(
            "{path}: {e}",
            "{path} 不是可读的计划（{e}）：请重新生成计划",
            path = path.display()
        ))
    })?;
    Ok((plan, text))
}

/// Reads a data specification.
///
/// # Errors
/// Exit code 2 and what is wrong with the file.
pub fn read_data(path: &Path) -> Outcome<(DataSpec, String)> {
    let text = fs::read_to_string(path).map_err(|e| Failure::io("read", path, &e))?;
    let data = llmc_corpus::spec::load(path).map_err(crate::host::data_failure)?;
    Ok((data, text))
}

/// SHA-256 of what a plan means: model, length, global batch, optimizer, learning rate, seed. What only decides
/// how it is executed (devices, layout, micro-batch, recompute, precision, a master split or not) may change between sittings.
pub fn meaning(plan: &Plan) -> Outcome<String> {
    let model = json!({
        "layers": plan.model.layers, "hidden": plan.model.hidden, "heads": plan.model.heads,
        "kv_heads": plan.model.kv_heads, "head_dim": plan.model.head_dim, "ffn": plan.model.ffn,
        "vocab": plan.model.vocab, "context": plan.model.context, "rope": plan.model.rope,
        "tied": plan.model.tied, "norm_eps": plan.model.norm_eps, "dropout": plan.model.dropout,
        "init_std": plan.model.init_std,
    });
    // A split master is the same f32 in another place; checkpoints hold it whole.
    let mut optimizer = plan.optimizer.clone();
    if optimizer.master == Master::Split {
        optimizer.master = Master::F32;
    }
    let parts = json!([
        model,
        plan.budget.steps,
        plan.batch.global_sequences,
        optimizer,
        plan.lr,
        plan.seed,
        plan.freeze,
        plan.from,
    ]);
    let text = serde_json::to_vec(&parts).map_err(|e| Failure::bug(format!("plan: {e}")))?;
    Ok(hex(&Sha256::digest(text)))
}

/// Whether a path is a device or a pipe, which a rename would replace by a file.
pub fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|old| !old.is_file() && !old.is_dir())
}

/// Writes a file by rename; to a device or a pipe, directly.
///
/// # Errors
/// Exit code 2 when the folder cannot be written.
pub fn write_whole(path: &Path, text: &str) -> Outcome<()> {
    if is_special(path) {
        return fs::write(path, text).map_err(|e| Failure::io("write", path, &e));
    }
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|e| Failure::io("write", path, &e))
}
