//! Which documents are held out, and the text a tokenizer is trained on.

use crate::build::Observer;
use crate::error::{BadContent, Result};
use crate::inputs::Input;
use crate::read::{Raw, Sink, read};
use llmc_plan::data::{DataSpec, OnError};
use llmc_plan::say;
use std::ops::ControlFlow;
use twox_hash::XxHash3_64;

/// Names a document by its content.
pub fn content_hash(text: &str) -> u64 {
    XxHash3_64::oneshot(text.as_bytes())
}

/// True if a document belongs to the validation split: its content decides, so exact copies stay on
/// one side wherever they are.
pub fn held_out(content_hash: u64, fraction: f64) -> bool {
    // 53 bits: the integers that f64 holds exactly.
    ((content_hash >> 11) as f64) < fraction * (1u64 << 53) as f64
}

/// About `sample_bytes` of training text, spread over all files in proportion to their size.
pub fn sample(spec: &DataSpec, inputs: &[Vec<Input>], observer: &dyn Observer) -> Result<Vec<String>> {
    let files: Vec<&Input> = inputs.iter().flatten().filter(|input| !input.validation).collect();
    let total: u64 = files.iter().map(|input| input.bytes).sum();
    observer.phase(&say!("train the tokenizer", "训练分词器"), total);
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
            let mut sink = FileSample { input, taken: &mut taken };
            read(input, &mut sink, &|_| {})?;
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

struct FileSample<'a> {
    input: &'a Input,
    taken: &'a mut Sample,
}

impl Sink for FileSample<'_> {
    fn document(&mut self, raw: Raw<'_>) -> Result<ControlFlow<()>> {
        let taken = &mut *self.taken;
        match raw.text(self.input) {
            Ok(Some(text)) if !text.is_empty() && !held_out(content_hash(&text), taken.fraction) => {
                taken.credit -= text.len() as i64;
                taken.texts.push(text.into_owned());
            }
            Ok(_) => {}
            Err(bad) => self.unreadable(bad, raw.bytes.len() as u64)?,
        }
        Ok(if self.taken.credit > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    }

    fn unreadable(&mut self, bad: BadContent, _: u64) -> Result<()> {
        match self.taken.on_error {
            OnError::Stop => Err(bad.into()),
            OnError::Skip => Ok(()),
        }
    }
}
