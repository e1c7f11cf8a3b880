//! Documents to token shards: one source at a time, decoded and encoded on all cores, written in
//! order.
//!
//! A reader thread finds documents and hands over chunks of them; while all cores work on a chunk,
//! one of them first writes what the chunk before gave. Chunk and group sizes show in no result.

use crate::build::Observer;
use crate::clean::{Dropped, Seen};
use crate::error::{BadContent, Error, Result};
use crate::inputs::Input;
use crate::output::{Dtype, ShardWriter};
use crate::read::{Form, Place, Raw, Sink, read};
use crate::stats::{bytes_per_token, unigram_entropy};
use crate::tokenizer::Encoder;
use crate::work::{Chunk, Context, Encoded, Item};
use llmc_plan::data::{DataSpec, FileInfo, OnError, SourceInfo, SplitInfo};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Raw bytes worked on at a time: enough for all cores, little against memory.
const CHUNK_BYTES: usize = 8 << 20;
/// Chunks that wait for the cores.
const CHUNKS_AHEAD: usize = 2;
/// Messages of left-out documents that a report repeats; all are counted.
const SHOWN: usize = 3;
/// Where a build writes, and what it has to say.
pub struct Target<'a> {
    /// Folder of the shards.
    pub partial: &'a Path,
    /// The shards by name.
    pub files: &'a mut BTreeMap<String, FileInfo>,
    /// For the user.
    pub warnings: &'a mut Vec<String>,
    /// The documents of the sources before, and of this one so far.
    pub seen: &'a mut Seen,
}

/// Builds the shards of one source.
///
/// # Errors
/// A document that cannot be read, a write that fails, a source without training text, or
/// [`Error::EncodersDiffer`].
pub fn build_source(
    spec: &DataSpec,
    name: &str,
    inputs: &[Input],
    encoder: &Encoder,
    observer: &dyn Observer,
    target: &mut Target,
) -> Result<Built> {
    let context = Context {
        encoder,
        inputs,
        dtype: Dtype::for_vocab(encoder.vocab()),
        fraction: spec.validation.fraction,
        on_error: spec.on_error,
        clean: &spec.clean,
        counts: Mutex::default(),
    };
    let mut output = Output::create(&context, name, target.partial)?;
    let (sender, receiver) = sync_channel(CHUNKS_AHEAD);
    let (spare, returned) = channel();
    let hashes = std::thread::scope(|scope| {
        let work = scope.spawn(|| output.consume(receiver, spare, target.seen));
        let mut reader = Reader {
            chunk: Chunk { first: true, ..Chunk::default() },
            file: 0,
            on_error: spec.on_error,
            sender,
            returned,
        };
        let hashes = reader.read_all(inputs, observer);
        drop(reader);
        // What the cores found lies before what the reader stumbled over.
        work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).and(hashes)
    })?;
    output.finish(name, hashes, target)
}

/// The reader's side.
struct Reader {
    chunk: Chunk,
    file: usize,
    on_error: OnError,
    sender: SyncSender<Chunk>,
    /// Chunks that were used, for their memory.
    returned: Receiver<Chunk>,
}

impl Reader {
    fn read_all(&mut self, inputs: &[Input], observer: &dyn Observer) -> Result<Vec<String>> {
        let mut hashes = Vec::new();
        for (file, input) in inputs.iter().enumerate() {
            self.file = file;
            let hash = read(input, self, &|bytes| observer.advance(bytes));
            if hash.is_err() {
                // What came before the error may hold an earlier one.
                let _ = self.hand_over();
            }
            hashes.push(hash?);
        }
        let _ = self.hand_over();
        Ok(hashes)
    }

    fn push(
        &mut self,
        bytes: &[u8],
        form: Form,
        place: Place,
        bad: Option<Box<(BadContent, u64)>>,
    ) -> ControlFlow<()> {
        self.chunk.bytes.extend_from_slice(bytes);
        self.chunk.items.push(Item { end: self.chunk.bytes.len(), form, place, file: self.file, bad });
        if self.chunk.bytes.len() < CHUNK_BYTES { ControlFlow::Continue(()) } else { self.hand_over() }
    }

    fn hand_over(&mut self) -> ControlFlow<()> {
        // Fresh memory costs a page fault every 4 KiB, as much as the copy into it.
        let mut empty = self.returned.try_recv().unwrap_or_default();
        empty.clear();
        // The other side has gone only after an error of its own, which is the one reported.
        match self.sender.send(std::mem::replace(&mut self.chunk, empty)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

impl Sink for Reader {
    fn document(&mut self, raw: Raw<'_>) -> Result<ControlFlow<()>> {
        Ok(self.push(raw.bytes, raw.form, raw.place, None))
    }

    fn unreadable(&mut self, bad: BadContent, bytes: u64) -> Result<()> {
        let place = bad.place;
        let stop = self.on_error == OnError::Stop;
        let _ = self.push(&[], Form::Text, place, Some(Box::new((bad, bytes))));
        if stop { Err(Error::Stopped) } else { Ok(()) }
    }
}

/// The writer's side.
struct Output<'a> {
    context: &'a Context<'a>,
    writers: [ShardWriter; 2],
    text_bytes: [u64; 2],
    shown: Vec<String>,
    skipped_documents: u64,
    skipped_bytes: u64,
    dropped: Dropped,
}

impl<'a> Output<'a> {
    fn create(context: &'a Context<'a>, name: &str, partial: &Path) -> Result<Self> {
        let writer = |split| ShardWriter::create(&partial.join(format!("{name}.{split}")), context.dtype);
        Ok(Self {
            context,
            writers: [writer("train")?, writer("validation")?],
            text_bytes: [0; 2],
            shown: Vec::new(),
            skipped_documents: 0,
            skipped_bytes: 0,
            dropped: Dropped::default(),
        })
    }

    fn consume(&mut self, chunks: Receiver<Chunk>, spare: Sender<Chunk>, seen: &mut Seen) -> Result<()> {
        let mut ready = Vec::new();
        let context = self.context;
        for chunk in chunks {
            let (encoded, written) = rayon::join(|| context.encode(&chunk, seen), || self.write(ready));
            written?;
            // The reader may be done.
            let _ = spare.send(chunk);
            ready = encoded;
        }
        self.write(ready)
    }

    fn write(&mut self, groups: Vec<Result<Encoded>>) -> Result<()> {
        for group in groups {
            let group = group?;
            self.dropped.append(group.dropped);
            for (bad, bytes) in group.bad {
                self.skipped_documents += 1;
                self.skipped_bytes += bytes;
                if self.shown.len() < SHOWN {
                    self.shown.push(bad.to_string());
                }
            }
            for (writer, tokens) in self.writers.iter_mut().zip(&group.splits) {
                writer.append(tokens)?;
            }
            for (sum, bytes) in self.text_bytes.iter_mut().zip(group.text_bytes) {
                *sum += bytes;
            }
        }
        Ok(())
    }

    fn finish(self, name: &str, hashes: Vec<String>, target: &mut Target) -> Result<Built> {
        if self.skipped_documents > 0 {
            target.warnings.push(format!(
                "source `{name}`: {} documents, {} bytes, could not be read and were left out{}{}",
                self.skipped_documents,
                self.skipped_bytes,
                self.shown.iter().map(|message| format!("\n  {message}")).collect::<String>(),
                if self.skipped_documents > SHOWN as u64 { "\n  …" } else { "" }
            ));
        }
        target.warnings.extend(self.dropped.sentences(name));
        let [train, validation] = self.writers;
        if train.tokens == 0 {
            return Err(Error::spec(format!(
                "source `{name}` has no training document: {} documents are validation text, {} could not be read, {} \
                 were cleaned away; add text, lower validation.fraction or clean less",
                validation.documents,
                self.skipped_documents,
                self.dropped.counts().values().sum::<u64>()
            )));
        }
        let mut counts = [(); 2].map(|()| vec![0; self.context.encoder.vocab() as usize]);
        for table in self.context.counts.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for (sum, more) in counts.iter_mut().flatten().zip(table.iter().flatten()) {
                *sum += more;
            }
        }
        let [train_counts, validation_counts] = counts;
        let [train_bytes, validation_bytes] = self.text_bytes;
        let train = finish_split(train, format!("{name}.train"), train_bytes, &train_counts, target)?;
        let validation = finish_split(
            validation,
            format!("{name}.validation"),
            validation_bytes,
            &validation_counts,
            target,
        )?;
        Ok(Built {
            info: SourceInfo {
                name: name.to_owned(),
                train,
                validation,
                skipped_documents: self.skipped_documents,
                skipped_bytes: self.skipped_bytes,
                dropped: self.dropped.counts(),
            },
            train_counts,
            validation_counts,
            hashes,
        })
    }
}

fn finish_split(
    writer: ShardWriter,
    name: String,
    bytes: u64,
    counts: &[u64],
    target: &mut Target,
) -> Result<SplitInfo> {
    let (documents, tokens) = (writer.documents, writer.tokens);
    let mut shards = Vec::new();
    if let Some((bin, idx)) = writer.finish()? {
        target.files.insert(format!("{name}.bin"), bin);
        target.files.insert(format!("{name}.idx"), idx);
        shards.push(name);
    }
    Ok(split_info(shards, documents, tokens, bytes, counts))
}

/// A split's line in the manifest.
pub fn split_info(shards: Vec<String>, documents: u64, tokens: u64, bytes: u64, counts: &[u64]) -> SplitInfo {
    SplitInfo {
        shards,
        documents,
        tokens,
        bytes,
        bytes_per_token: bytes_per_token(bytes, tokens),
        unigram_entropy: unigram_entropy(counts),
    }
}

/// A source that is built.
pub struct Built {
    /// For the manifest.
    pub info: SourceInfo,
    /// Frequency of each id.
    pub train_counts: Vec<u64>,
    /// Frequency of each id.
    pub validation_counts: Vec<u64>,
    /// Of the files, in reading order.
    pub hashes: Vec<String>,
}
