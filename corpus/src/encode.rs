//! Documents to token shards: one source at a time, decoded and encoded on all cores, written in
//! order.
//!
//! A reader thread finds documents and hands over chunks of them; while all cores work on a chunk,
//! one of them first writes what the chunk before gave. Chunk and group sizes show in no result.

use crate::build::Observer;
use crate::error::{BadContent, Error, Result};
use crate::inputs::Input;
use crate::output::{Dtype, ShardWriter, Tokens};
use crate::read::{Form, Place, Raw, Sink, read};
use crate::sample::{content_hash, held_out};
use crate::stats::{bytes_per_token, unigram_entropy};
use crate::tokenizer::Encoder;
use llmc_plan::data::{DataSpec, FileInfo, OnError, SourceInfo, SplitInfo};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use xxhash_rust::xxh3::xxh3_64;

/// Raw bytes worked on at a time: enough for all cores, little against memory.
const CHUNK_BYTES: usize = 8 << 20;
/// What one core takes at a time.
const GROUP_BYTES: usize = 128 << 10;
/// Chunks that wait for the cores.
const CHUNKS_AHEAD: usize = 2;
/// Messages of left-out documents that a report repeats; all are counted.
const SHOWN: usize = 3;
/// Of each source's first group this much is encoded by both encoders, and of the rest one document
/// in this many, chosen by its content. At 60 times the speed of the reference the latter costs 1.5 %.
const AUDITED_BYTES: usize = 32 << 10;
const AUDITED_ONE_IN: u64 = 1 << 12;

/// What both halves of the work need to know of a source.
struct Context<'a> {
    encoder: &'a Encoder,
    inputs: &'a [Input],
    dtype: Dtype,
    fraction: f64,
    on_error: OnError,
    /// Tables of token frequencies, as many as cores ever counted at once.
    counts: Mutex<Vec<[Vec<u64>; 2]>>,
}

/// Documents on their way from the reader to the cores.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    items: Vec<Item>,
    /// The source's first.
    first: bool,
}

struct Item {
    /// End of its bytes in the chunk; it begins where the one before ends.
    end: usize,
    form: Form,
    place: Place,
    file: usize,
    /// It cannot be read: why, and how long it is.
    bad: Option<Box<(BadContent, u64)>>,
}

/// What a group of documents became: training and validation tokens.
struct Encoded {
    splits: [Tokens; 2],
    text_bytes: [u64; 2],
    bad: Vec<(BadContent, u64)>,
}

const TRAIN: usize = 0;
const VALIDATION: usize = 1;

/// Where a build writes, and what it has to say.
pub struct Target<'a> {
    /// Folder of the shards.
    pub partial: &'a Path,
    /// The shards by name.
    pub files: &'a mut BTreeMap<String, FileInfo>,
    /// For the user.
    pub warnings: &'a mut Vec<String>,
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
        counts: Mutex::default(),
    };
    let mut output = Output::create(&context, name, target.partial)?;
    let (sender, receiver) = sync_channel(CHUNKS_AHEAD);
    let hashes = std::thread::scope(|scope| {
        let work = scope.spawn(|| output.consume(receiver));
        let mut reader = Reader {
            chunk: Chunk { first: true, ..Chunk::default() },
            file: 0,
            on_error: spec.on_error,
            sender,
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
        let empty = Chunk { bytes: Vec::with_capacity(CHUNK_BYTES + GROUP_BYTES), ..Chunk::default() };
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
        })
    }

    fn consume(&mut self, chunks: Receiver<Chunk>) -> Result<()> {
        let mut ready = Vec::new();
        let context = self.context;
        for chunk in chunks {
            let (encoded, written) = rayon::join(|| context.encode(&chunk), || self.write(ready));
            written?;
            ready = encoded;
        }
        self.write(ready)
    }

    fn write(&mut self, groups: Vec<Result<Encoded>>) -> Result<()> {
        for group in groups {
            let group = group?;
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
        let [train, validation] = self.writers;
        if train.tokens == 0 {
            return Err(Error::spec(format!(
                "source `{name}` has no training document: {} documents are validation text, {} could not be read; \
                 add text or lower validation.fraction",
                validation.documents, self.skipped_documents
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
            },
            train_counts,
            validation_counts,
            hashes,
        })
    }
}

impl Context<'_> {
    /// Groups of a chunk, in order.
    fn encode(&self, chunk: &Chunk) -> Vec<Result<Encoded>> {
        let mut groups = Vec::new();
        let (mut first, mut start, mut previous) = (0, 0, 0);
        for (index, item) in chunk.items.iter().enumerate() {
            if item.end - start >= GROUP_BYTES || index + 1 == chunk.items.len() {
                groups.push((start, chunk.items.get(first..=index).unwrap_or_default()));
                (first, start) = (index + 1, item.end);
            }
            previous = item.end;
        }
        debug_assert_eq!(previous, chunk.bytes.len());
        groups
            .into_par_iter()
            .map(|(start, items)| self.encode_group(&chunk.bytes, start, items, chunk.first && start == 0))
            .collect()
    }

    fn encode_group(&self, bytes: &[u8], mut start: usize, items: &[Item], first: bool) -> Result<Encoded> {
        let empty = || Tokens::new(self.dtype);
        let mut encoded = Encoded { splits: [empty(), empty()], text_bytes: [0; 2], bad: Vec::new() };
        let tables = self.counts.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut counts = tables.unwrap_or_else(|| [(); 2].map(|()| vec![0; self.encoder.vocab() as usize]));
        let mut to_audit = if first { AUDITED_BYTES } else { 0 };
        for item in items {
            let stored = bytes.get(start..item.end).unwrap_or_default();
            start = item.end;
            let Some(input) = self.inputs.get(item.file) else { continue };
            let raw = Raw { bytes: stored, form: item.form, place: item.place };
            let bad = match &item.bad {
                Some(bad) => Some((bad.0.clone(), bad.1)),
                None if raw.form == Form::Ids => match self.ids(&raw, input) {
                    Ok(ids) if ids.is_empty() => None,
                    Ok(ids) => {
                        let validation = input.validation || held_out(xxh3_64(stored), self.fraction);
                        let split = if validation { VALIDATION } else { TRAIN };
                        encoded.push(split, &ids, 0, &mut counts)?;
                        None
                    }
                    Err(bad) => Some((bad, stored.len() as u64)),
                },
                None => match raw.text(input) {
                    Ok(Some(text)) if !text.is_empty() => {
                        let hash = content_hash(&text);
                        let validation = input.validation || held_out(hash, self.fraction);
                        let split = if validation { VALIDATION } else { TRAIN };
                        if to_audit > 0 || hash % AUDITED_ONE_IN == 0 {
                            self.audit(&text)?;
                            to_audit = to_audit.saturating_sub(text.len());
                        }
                        let ids = self.encoder.encode(&text)?;
                        encoded.push(split, &ids, text.len(), &mut counts)?;
                        None
                    }
                    Ok(_) => None,
                    Err(bad) => Some((bad, stored.len() as u64)),
                },
            };
            match bad {
                Some((bad, _)) if self.on_error == OnError::Stop => return Err(bad.into()),
                bad => encoded.bad.extend(bad),
            }
        }
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).push(counts);
        Ok(encoded)
    }

    /// Ids of a document that was tokenised before, its end added where it is missing.
    fn ids(&self, raw: &Raw, input: &Input) -> std::result::Result<Vec<u32>, BadContent> {
        let mut ids: Vec<u32> = raw.bytes.as_chunks::<4>().0.iter().map(|id| u32::from_le_bytes(*id)).collect();
        let vocab = self.encoder.vocab();
        if let Some(id) = ids.iter().find(|&&id| id >= vocab) {
            return Err(BadContent {
                file: input.path.clone(),
                place: raw.place,
                found: if *id > i32::MAX as u32 { "a negative or larger one".into() } else { id.to_string() },
                expected: format!("token ids below {vocab}, the size of this corpus's tokenizer"),
                hint: "the file was made with another tokenizer: import that one (tokenizer.import), or set \
                       on_error to skip to leave the document out"
                    .into(),
            });
        }
        let end = self.encoder.end_of_document();
        if ids.last().is_some_and(|&last| last != end) {
            ids.push(end);
        }
        Ok(ids)
    }

    /// Encodes the beginning of a document twice.
    fn audit(&self, text: &str) -> Result<()> {
        let text = text.get(..text.floor_char_boundary(AUDITED_BYTES)).unwrap_or(text);
        if self.encoder.is_fast() && self.encoder.encode(text)? != self.encoder.encode_reference(text)? {
            return Err(Error::EncodersDiffer { text: text.chars().take(60).collect() });
        }
        Ok(())
    }
}

impl Encoded {
    fn push(&mut self, split: usize, ids: &[u32], bytes: usize, counts: &mut [Vec<u64>; 2]) -> Result<()> {
        let all = self.splits.get_mut(split).zip(self.text_bytes.get_mut(split)).zip(counts.get_mut(split));
        let Some(((tokens, text_bytes), counts)) = all else { return Ok(()) };
        tokens.push(ids)?;
        *text_bytes += bytes as u64;
        for &id in ids {
            if let Some(count) = counts.get_mut(id as usize) {
                *count += 1;
            }
        }
        Ok(())
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
