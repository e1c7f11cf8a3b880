//! Batches made ahead of the step that needs them, on a thread of their own.
//!
//! The queue is bounded: a trainer that is slower than the corpus holds it back, and one that is
//! faster waits, which [`Starvation`] states. Copying to pinned memory or a device is the runtime's.

use crate::error::Result;
use crate::stream::Stream;
use llmc_plan::batch::Batch;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a rank reads.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// First step.
    pub first_step: u64,
    /// Step after the last.
    pub end_step: u64,
    /// Micro-batches of a step.
    pub accumulation: u64,
    /// Data-parallel rank.
    pub rank: u64,
    /// Data-parallel ranks.
    pub ranks: u64,
}

/// A batch with its place in the run.
#[derive(Debug)]
pub struct Loaded {
    /// Step.
    pub step: u64,
    /// Micro-batch of the step.
    pub micro_batch: u64,
    /// Σ w of each source in the whole step, over all ranks.
    pub source_weights: Arc<[f64]>,
    /// The tokens.
    pub batch: Batch,
}

impl Loaded {
    /// Σ w of the whole step, over all ranks and sources.
    pub fn step_weight(&self) -> f64 {
        self.source_weights.iter().sum()
    }
}

/// How long the trainer waited for data.
#[derive(Clone, Copy, Debug, Default)]
pub struct Starvation {
    /// Batches delivered.
    pub batches: u64,
    /// Of these, not ready when asked for. The first never is.
    pub late: u64,
    /// Time spent waiting.
    pub waited: Duration,
    /// Time since the first batch was asked for.
    pub elapsed: Duration,
}

impl Starvation {
    /// Share of the time spent waiting, 0 to 1.
    pub fn share(&self) -> f64 {
        if self.elapsed.is_zero() { 0.0 } else { self.waited.as_secs_f64() / self.elapsed.as_secs_f64() }
    }
}

/// Reads ahead of the trainer. Dropping it ends its thread.
pub struct Loader {
    batches: Option<Receiver<Result<Loaded>>>,
    spare: Sender<Batch>,
    thread: Option<JoinHandle<()>>,
    began: Option<Instant>,
    seen: Starvation,
}

impl Loader {
    /// Begins to read `part` of a stream, at most `ahead` batches (at least one) before they are used.
    pub fn start(stream: Arc<Stream>, part: Part, ahead: usize) -> Self {
        let (sender, batches) = sync_channel(ahead.max(1));
        let (spare, returned) = channel();
        let thread = std::thread::spawn(move || read_ahead(&stream, part, &sender, &returned));
        Self { batches: Some(batches), spare, thread: Some(thread), began: None, seen: Starvation::default() }
    }

    /// The next batch, in order; `None` after the last. After an error there is nothing more.
    ///
    /// # Errors
    /// As [`Stream::batch`].
    pub fn next_batch(&mut self) -> Option<Result<Loaded>> {
        let batches = self.batches.as_ref()?;
        let asked = Instant::now();
        self.began.get_or_insert(asked);
        let ready = batches.try_recv();
        let next = ready.or_else(|_| {
            self.seen.late += 1;
            batches.recv()
        });
        self.seen.waited += asked.elapsed();
        match next {
            Ok(loaded) => {
                self.seen.batches += 1;
                Some(loaded)
            }
            Err(_) => {
                // The end is not a late batch.
                self.seen.late -= 1;
                None
            }
        }
    }

    /// Stops reading: nothing holds the stream any more, and what was read ahead is gone.
    pub fn stop(&mut self) {
        // Closes the queue, which ends the thread's next send.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Reads on after [`Loader::stop`], a changed stream or another part of it.
    pub fn go_on(&mut self, stream: Arc<Stream>, part: Part, ahead: usize) {
        let mut started = Self::start(stream, part, ahead);
        (started.began, started.seen) = (self.began, self.seen);
        *self = started;
    }

    /// Gives a used batch back, so that its memory is used again.
    pub fn recycle(&self, batch: Batch) {
        // After the last batch nobody takes it, which is no loss.
        let _ = self.spare.send(batch);
    }

    /// How the trainer was served so far.
    pub fn starvation(&self) -> Starvation {
        Starvation { elapsed: self.began.map_or(Duration::ZERO, |began| began.elapsed()), ..self.seen }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop();
    }
}

fn read_ahead(stream: &Stream, part: Part, sender: &SyncSender<Result<Loaded>>, returned: &Receiver<Batch>) {
    for step in part.first_step..part.end_step {
        let source_weights: Arc<[f64]> = match stream.source_weights(step) {
            Ok(weights) => weights.into(),
            Err(error) => {
                let _ = sender.send(Err(error));
                return;
            }
        };
        for micro_batch in 0..part.accumulation {
            let mut batch = returned.try_recv().unwrap_or_default();
            let filled = stream.fill(step, micro_batch, part.rank, part.ranks, &mut batch);
            let loaded = filled.map(|()| {
                let source_weights = source_weights.clone();
                Loaded { step, micro_batch, source_weights, batch }
            });
            let failed = loaded.is_err();
            if sender.send(loaded).is_err() || failed {
                return;
            }
        }
    }
}
