//! The host side of a list: which batch `load_batch` gets, where `snapshot` puts tensors.

use llmc_corpus::{Loader, Stream};
use llmc_plan::batch::Batch;
use llmc_plan::op::Op;
use llmc_plan::say;
use tch::Tensor;

use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::ops::Host;

/// Where batches come from while a list runs.
pub enum Source<'a> {
    /// Nowhere: the list loads none.
    None,
    /// Training micro-batches of a step (from 0), in order.
    Train {
        /// The corpus.
        stream: &'a Stream,
        /// The step.
        step: u64,
    },
    /// Training micro-batches that a thread has read ahead: the first, then the loader's next ones.
    Ahead {
        /// Taken already, for the step's weight comes with it.
        first: Option<Batch>,
        /// Where the others come from.
        loader: &'a mut Loader,
    },
    /// This batch.
    Given(Batch),
}

/// One run of one list.
pub struct Session<'a> {
    source: Source<'a>,
    next_micro_batch: u64,
    /// Tensors handed over by `snapshot`, in order.
    pub saved: Vec<Tensor>,
}

impl<'a> Session<'a> {
    /// Begins a list.
    pub fn new(source: Source<'a>) -> Session<'a> {
        Session { source, next_micro_batch: 0, saved: Vec::new() }
    }
}

/// The corpus's sentence: text that does not last is the recipe's fault, a file that cannot be read the environment's.
pub fn data_failure(error: llmc_corpus::Error) -> Failure {
    match error {
        llmc_corpus::Error::Exhausted { .. } => Failure::recipe(error.said()),
        _ => Failure::environment(error.said()),
    }
}

impl Host for Session<'_> {
    fn next_batch(&mut self) -> Result<Batch> {
        let micro_batch = self.next_micro_batch;
        self.next_micro_batch += 1;
        let from_corpus = |e| Error::Host(data_failure(e));
        let missing = || {
            Error::Host(Failure::environment(say!(
                "the program loads micro-batch {micro_batch}, which this list does not have",
                "程序读取了微批 {micro_batch}，而此列表中没有它"
            )))
        };
        match &mut self.source {
            Source::Train { stream, step } => stream.batch(*step, micro_batch, 0, 1).map_err(from_corpus),
            Source::Ahead { first, loader } => match first.take() {
                Some(batch) => Ok(batch),
                None => {
                    let loaded = loader.next_batch().ok_or_else(missing)?.map_err(from_corpus)?;
                    if loaded.micro_batch == micro_batch { Ok(loaded.batch) } else { Err(missing()) }
                }
            },
            Source::Given(batch) if micro_batch == 0 => Ok(batch.clone()),
            Source::Given(_) | Source::None => Err(missing()),
        }
    }

    fn take_back(&mut self, batch: Batch) {
        if let Source::Ahead { loader, .. } = &mut self.source {
            loader.recycle(batch);
        }
    }

    fn snapshot(&mut self, tensors: &[Tensor]) -> Result<()> {
        // Views: the writer has copied them out before the next step changes them.
        self.saved.extend(tensors.iter().map(Tensor::shallow_clone));
        Ok(())
    }

    fn exchange(&mut self, op: &Op, _inputs: &[Tensor], _outputs: &[Tensor]) -> Result<()> {
        Err(Error::Host(Failure::environment(say!(
            "{op} needs other ranks; this run has one",
            "{op} 需要其他 rank，而本次运行只有一个",
            op = op.key()
        ))))
    }
}
