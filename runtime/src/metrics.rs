//! `metrics.jsonl`: one JSON object a line, a step or an evaluation, flushed as it is written.
//!
//! The file only grows while a run lives. On resume, lines after the resumed step (and a last line that a
//! kill cut short) are removed first, so that every step is there once. Not here: TensorBoard
//! ([`crate::events`]), the terminal ([`crate::progress`]).

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome};

/// What one optimizer step gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Optimizer step, from 1.
    pub step: u64,
    /// Σ w·nll / Σ w of the step, nats a token. Null when not finite.
    pub loss: Option<f64>,
    /// Learning rate.
    pub lr: f64,
    /// Global gradient norm before clipping. Null when not finite.
    pub grad_norm: Option<f64>,
    /// Tokens trained so far, this step included.
    pub tokens: u64,
    /// Tokens a second of this step.
    pub tokens_per_second: f64,
    /// Model FLOPs utilisation of this step against the plan's dense peak.
    pub mfu: f64,
    /// Seconds of this step.
    pub seconds: f64,
    /// Share of them spent waiting for the corpus, 0 to 1.
    #[serde(default)]
    pub data_wait: f64,
    /// Tokens of each source so far, padding included.
    #[serde(default)]
    pub source_tokens: BTreeMap<String, u64>,
    /// Loss of each source in this step, nats a token; of those it held, where there are several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub source_loss: BTreeMap<String, f64>,
    /// Cost of the run so far at the plan's prices, in the plan's currency.
    pub cost: f64,
    /// Gradient noise scale B_simple, in tokens, over about the last hundred steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise_scale: Option<f64>,
    /// Its standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise_scale_error: Option<f64>,
    /// Factor on the loss of the next step, in fp16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    /// The update was left out because loss or gradient were not finite.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
}

/// What one evaluation gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalMetrics {
    /// Optimizer steps made before it.
    pub step: u64,
    /// Mean loss of the validation tokens, nats a token.
    pub eval_loss: f64,
    /// The same for each source, where there are several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub source_eval_loss: BTreeMap<String, f64>,
    /// e to the loss.
    pub perplexity: f64,
    /// Tokens that counted.
    pub eval_tokens: u64,
    /// Seconds it took.
    pub seconds: f64,
}

/// The open file.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Opens `path` for a run that has `steps_done` steps behind it; what the file says about later steps goes.
    ///
    /// # Errors
    /// Exit code 2 when the file cannot be read or written.
    pub fn open(path: &Path, steps_done: u64) -> Outcome<Metrics> {
        let keep = bytes_up_to(path, steps_done).map_err(|e| Failure::io("read", path, &e))?;
        let opened = OpenOptions::new().create(true).append(true).open(path).and_then(|file| {
            file.set_len(keep)?;
            Ok(file)
        });
        let file = opened.map_err(|e| Failure::io("write", path, &e))?;
        Ok(Metrics { path: path.to_path_buf(), file })
    }

    /// Appends one record as one line in one write.
    ///
    /// # Errors
    /// Exit code 2 when the disk is full or gone.
    pub fn write(&mut self, record: &impl Serialize) -> Outcome<()> {
        let mut line = serde_json::to_vec(record).map_err(|e| Failure::bug(format!("metrics: {e}")))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|e| Failure::io("write", &self.path, &e))
    }
}

/// Length of the leading part whose lines are whole and belong to steps up to `steps_done`.
fn bytes_up_to(path: &Path, steps_done: u64) -> std::io::Result<u64> {
    #[derive(Deserialize)]
    struct Step {
        step: u64,
    }
    let mut reader = match File::open(path) {
        Ok(file) => BufReader::new(file),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    let (mut keep, mut line) = (0, Vec::new());
    while reader.read_until(b'\n', &mut line)? > 0 {
        let whole = line.ends_with(b"\n");
        let belongs = serde_json::from_slice::<Step>(&line).is_ok_and(|s| s.step <= steps_done);
        if !(whole && belongs) {
            break;
        }
        keep += line.len() as u64;
        line.clear();
    }
    Ok(keep)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> StepMetrics {
        StepMetrics {
            step,
            loss: Some(4.5),
            lr: 1e-3,
            grad_norm: None,
            tokens: step * 1024,
            tokens_per_second: 10.0,
            mfu: 0.5,
            seconds: 1.0,
            data_wait: 0.0,
            source_tokens: BTreeMap::new(),
            source_loss: BTreeMap::new(),
            cost: 0.25,
            noise_scale: None,
            noise_scale_error: None,
            loss_scale: None,
            skipped: false,
        }
    }

    #[test]
    fn resume_cuts_later_steps_and_a_torn_line() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("metrics.jsonl");
        let mut metrics = Metrics::open(&path, 0).expect("open");
        for n in 1..=5 {
            metrics.write(&step(n)).expect("write");
        }
        drop(metrics);
        let whole = std::fs::read(&path).expect("read");
        std::fs::write(&path, [whole.as_slice(), b"{\"step\":6,\"lo"].concat()).expect("tear");
        let mut metrics = Metrics::open(&path, 3).expect("reopen");
        metrics.write(&step(4)).expect("write");
        let text = std::fs::read_to_string(&path).expect("read");
        let steps: Vec<StepMetrics> =
            text.lines().map(|l| serde_json::from_str(l).expect("a whole line")).collect();
        assert_eq!(steps.iter().map(|s| s.step).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(steps.last(), Some(&step(4)));
    }

    #[test]
    fn a_fresh_run_starts_an_empty_file() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"step\":1}\nnot json\n").expect("write");
        drop(Metrics::open(&path, 0).expect("open"));
        assert_eq!(std::fs::read(&path).expect("read"), b"");
    }

    #[test]
    fn a_folder_in_the_way_is_one_sentence() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let failure = Metrics::open(folder.path(), 0).expect_err("a folder");
        assert_eq!(failure.code, 2);
    }
}
