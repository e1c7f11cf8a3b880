//! Documents to token shards: one source at a time, decoded and encoded on all cores, written in
//! order.
//!
//! One core finds documents and hands over chunks of them; while the others work on a chunk, one of them first
//! writes what the chunk before gave, and the first helps once it has found the chunk after. Chunk and group sizes
//! show in no result.
//!
//! A build that was killed finds the documents again and passes over those that are done; where copies
//! are looked for, it looks at them once more, because what was seen is in no file.

use crate::build::Observer;
use crate::clean::Seen;
use crate::durable::Settling;
use crate::error::{BadContent, Error, Result};
use crate::inputs::Input;
use crate::journal::{Done, Journal, Note, Open};
use crate::output::{Closed, Dtype, ShardWriter, Tokens};
use crate::read::{Buffer, Form, Found, Place, Raw, Sink, each_document, read};
use crate::stats::{Tally, bytes_per_token, unigram_entropy};
use crate::tokenizer::Encoder;
use crate::work::{Chunk, Context, Encoded, Item, put_back};
use llmc_plan::data::{DataSpec, Dedup, FileInfo, OnError, SourceInfo, SplitInfo};
use llmc_plan::lang::Said;
use llmc_plan::say;
use rayon::{Scope, Yield};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Raw bytes worked on at a time: enough for some cores, and those that wait fit the cache.
const CHUNK_BYTES: usize = 2 << 20;
/// Smaller blocks are gathered.
const SMALL_BYTES: usize = 64 << 10;
/// Messages of left-out documents that a report repeats; all are counted.
const SHOWN: usize = 3;

/// Where a build writes, and what it has to say.
pub struct Target<'a> {
    /// Folder of the shards.
    pub partial: &'a Path,
    /// Notes of what is done, in the same folder.
    pub journal: &'a Journal,
    /// The shards by name.
    pub files: &'a mut BTreeMap<String, FileInfo>,
    /// For the user.
    pub warnings: &'a mut Vec<Said>,
    /// The documents of the sources before, and of this one so far.
    pub seen: &'a mut Seen,
    /// The source before, of which the device may lack some yet.
    pub settling: &'a mut Option<Settling>,
}

/// Builds the shards of one source, or goes on where a note says it is.
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
        made: Mutex::default(),
        written: Mutex::default(),
        ids: Mutex::default(),
    };
    let again = spec.clean.dedup != Dedup::Off;
    let note = match target.journal.note(name) {
        Some(Note::Done(done)) => {
            if again {
                let look = |chunk: &mut Chunk| {
                    drop(context.encode(chunk, target.seen));
                    Ok(())
                };
                feed(&context, u64::MAX, again, &[], observer, look)?;
            } else {
                observer.advance(inputs.iter().map(|input| input.bytes).sum());
            }
            return Ok(restore(*done, target));
        }
        Some(Note::Open(open)) => Some(*open),
        None => None,
    };
    let mut output = Output::open(&context, name, target, note)?;
    let (skip, files) = (output.state.items, output.state.files.clone());
    let work = |chunk: &mut Chunk| output.encode(chunk, target.seen);
    let hashes = feed(&context, skip, again, &files, observer, work);
    // What was found lies before what the reader stumbled over.
    let ready = std::mem::take(&mut output.ready);
    output.write(ready)?;
    output.finish(name, hashes?, target)
}

/// Reads beside the work on what is found; returns the hashes of the files. `skip` documents are done, among them
/// those of the first files, `files`.
fn feed(
    context: &Context,
    skip: u64,
    again: bool,
    files: &[(String, u64)],
    observer: &dyn Observer,
    work: impl FnMut(&mut Chunk) -> Result<()> + Send,
) -> Result<Vec<String>> {
    let bench = Bench {
        busy: AtomicBool::new(false),
        inside: Mutex::new(Inside { work, chunk: Chunk::default(), result: Ok(()) }),
    };
    let hashes = rayon::scope(|scope| {
        let mut reader = Reader {
            chunk: Chunk { first: true, again: again && skip > 0, ..Chunk::default() },
            file: 0,
            items: 0,
            skip,
            again,
            on_error: context.on_error,
            bench: &bench,
            scope,
        };
        reader.read_all(context.inputs, files, observer)
    });
    bench.inside.into_inner().unwrap_or_else(PoisonError::into_inner).result.and(hashes)
}

/// Where one chunk at a time is worked on.
struct Bench<W> {
    busy: AtomicBool,
    inside: Mutex<Inside<W>>,
}

struct Inside<W> {
    work: W,
    /// The last one, done: fresh memory costs a page fault every 4 KiB, as much as the copy into it.
    chunk: Chunk,
    result: Result<()>,
}

impl<W: FnMut(&mut Chunk) -> Result<()> + Send> Bench<W> {
    /// Works until the last chunk is done.
    fn help(&self) {
        while self.busy.load(Ordering::Acquire) {
            if rayon::yield_now() != Some(Yield::Executed) {
                std::thread::yield_now();
            }
        }
    }

    /// Gives the memory of the last chunk back once it is done; `None` after an error.
    fn wait(&self) -> Option<Chunk> {
        self.help();
        let mut inside = self.inside.lock().ok()?;
        inside.result.is_ok().then(|| std::mem::take(&mut inside.chunk))
    }

    /// Lets the cores work on a chunk; no other may be there.
    fn put<'s>(&'s self, chunk: Chunk, scope: &Scope<'s>) {
        self.busy.store(true, Ordering::Release);
        scope.spawn(move |_| {
            let _busy = Busy(&self.busy);
            let Ok(mut inside) = self.inside.lock() else { return };
            inside.chunk = chunk;
            let Inside { work, chunk, result } = &mut *inside;
            *result = work(chunk);
        });
    }
}

/// When dropped, as after a panic, the bench is free.
struct Busy<'a>(&'a AtomicBool);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Takes over a source that is done.
pub fn restore(done: Done, target: &mut Target) -> Built {
    target.files.extend(done.files);
    target.warnings.extend(done.warnings);
    done.built
}

/// The reader's side.
struct Reader<'a, 's, W> {
    chunk: Chunk,
    file: usize,
    /// Documents found so far, over all files.
    items: u64,
    /// This many are done.
    skip: u64,
    /// They are to be looked at again.
    again: bool,
    on_error: OnError,
    bench: &'s Bench<W>,
    scope: &'a Scope<'s>,
}

impl<W: FnMut(&mut Chunk) -> Result<()> + Send> Reader<'_, '_, W> {
    /// `done` are the first files' hashes, and the documents up to their ends.
    fn read_all(
        &mut self,
        inputs: &[Input],
        done: &[(String, u64)],
        observer: &dyn Observer,
    ) -> Result<Vec<String>> {
        let mut hashes = Vec::new();
        for (file, input) in inputs.iter().enumerate() {
            self.file = file;
            if let Some((hash, items)) = done.get(file).filter(|_| !self.again) {
                self.items = *items;
                hashes.push(hash.clone());
                observer.advance(input.bytes);
                continue;
            }
            let hash = read(input, self, &|bytes| observer.advance(bytes));
            if hash.is_err() {
                // What came before the error may hold an earlier one.
                let _ = self.hand_over();
            }
            let hash = hash?;
            if done.get(file).is_none() {
                self.chunk.files.push((hash.clone(), self.items));
            }
            hashes.push(hash);
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
        let done = self.items < self.skip;
        self.items += 1;
        if done && !self.again {
            return ControlFlow::Continue(());
        }
        if self.chunk.again && !done {
            self.hand_over()?;
        }
        self.chunk.bytes.push(bytes);
        self.chunk.items.push(Item { end: self.chunk.bytes.len(), form, place, file: self.file, bad });
        self.chunk.position = self.items;
        if self.chunk.bytes.len() < CHUNK_BYTES { ControlFlow::Continue(()) } else { self.hand_over() }
    }

    fn hand_over(&mut self) -> ControlFlow<()> {
        // An error of the work's own is the one reported.
        let Some(mut empty) = self.bench.wait() else { return ControlFlow::Break(()) };
        empty.clear();
        empty.again = self.again && self.items < self.skip;
        empty.position = self.items;
        self.bench.put(std::mem::replace(&mut self.chunk, empty), self.scope);
        if rayon::current_num_threads() == 1 {
            // While it is in the cache.
            self.bench.help();
        }
        ControlFlow::Continue(())
    }
}

impl<W: FnMut(&mut Chunk) -> Result<()> + Send> Sink for Reader<'_, '_, W> {
    fn document(&mut self, raw: Raw<'_>) -> Result<ControlFlow<()>> {
        Ok(self.push(raw.bytes, raw.form, raw.place, None))
    }

    fn documents(&mut self, block: &mut Buffer, found: &[Found], form: Form) -> Result<ControlFlow<()>> {
        let small = block.len() < SMALL_BYTES;
        if small || self.items < self.skip || self.chunk.again {
            return each_document(self, block, found, form);
        }
        // A large block becomes a chunk as it is: copying it would cost as much as reading it.
        if !self.chunk.items.is_empty() && self.hand_over().is_break() {
            return Ok(ControlFlow::Break(()));
        }
        std::mem::swap(&mut self.chunk.bytes, block);
        let item = |&Found { end, place }: &Found| Item { end, form, place, file: self.file, bad: None };
        self.chunk.items.extend(found.iter().map(item));
        self.items += found.len() as u64;
        self.chunk.position = self.items;
        Ok(self.hand_over())
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
    name: &'a str,
    journal: &'a Journal,
    writers: [ShardWriter; 2],
    /// Of the ids in both splits. Counted here and not by document, after each of which the encoder's own tables
    /// would have pushed the counters out of the cache.
    counts: [Tally; 2],
    /// What the next note says, but for shards and counts.
    state: Open,
    /// Encoded, to be written.
    ready: Vec<Result<Encoded>>,
    /// Text written since the last note, bytes.
    unnoted: u64,
}

impl<'a> Output<'a> {
    /// Goes on from a note, or begins.
    fn open(
        context: &'a Context<'a>,
        name: &'a str,
        target: &Target<'a>,
        note: Option<Open>,
    ) -> Result<Self> {
        let path = |split| target.partial.join(format!("{name}.{split}"));
        let (train, validation) = (path("train"), path("validation"));
        let (mut state, mut writers) = (note.unwrap_or_default(), None);
        if let [train_state, validation_state] = &state.shards[..]
            && let Some(train) = ShardWriter::reopen(&train, context.dtype, train_state)?
            && let Some(validation) = ShardWriter::reopen(&validation, context.dtype, validation_state)?
        {
            writers = Some([train, validation]);
        }
        let (writers, counts) = match writers {
            Some(writers) => (writers, std::mem::take(&mut state.counts).map(Tally::from)),
            None => {
                state = Open::default();
                let create = |path: &Path| ShardWriter::create(path, context.dtype);
                let counts = [(); 2].map(|()| Tally::new(context.encoder.vocab()));
                ([create(&train)?, create(&validation)?], counts)
            }
        };
        let (journal, ready) = (target.journal, Vec::new());
        Ok(Self { context, name, journal, writers, counts, state, ready, unnoted: 0 })
    }

    /// Encodes a chunk, and writes what the one before gave.
    fn encode(&mut self, chunk: &mut Chunk, seen: &mut Seen) -> Result<()> {
        let (context, ready) = (self.context, std::mem::take(&mut self.ready));
        // What was made last is written first: on one core it is still in the cache.
        let (written, encoded) = rayon::join(|| self.write(ready), || context.encode(chunk, seen));
        written?;
        self.ready = encoded;
        self.state.files.append(&mut chunk.files);
        if !chunk.again {
            self.state.items = chunk.position;
            self.unnoted += chunk.bytes.len() as u64;
        }
        if self.unnoted >= self.journal.interval {
            let ready = std::mem::take(&mut self.ready);
            self.write(ready)?;
            self.note()?;
        }
        Ok(())
    }

    fn write(&mut self, groups: Vec<Result<Encoded>>) -> Result<()> {
        let groups = groups.into_iter().collect::<Result<Vec<_>>>()?;
        for (split, (writer, counts)) in self.writers.iter_mut().zip(&mut self.counts).enumerate() {
            let tokens: Vec<_> = groups.iter().filter_map(|group| group.splits.get(split)).collect();
            let mut position = writer.tokens;
            for tokens in &tokens {
                tokens.count(position, counts);
                position += tokens.tokens();
            }
            writer.append_all(&tokens)?;
        }
        for group in groups {
            self.state.dropped.append(group.dropped);
            for (bad, bytes) in group.bad {
                self.state.skipped_documents += 1;
                self.state.skipped_bytes += bytes;
                if self.state.shown.len() < SHOWN {
                    self.state.shown.push(bad.said());
                }
            }
            for (sum, bytes) in self.state.text_bytes.iter_mut().zip(group.text_bytes) {
                *sum += bytes;
            }
            let mut splits = group.splits;
            splits.iter_mut().for_each(Tokens::clear);
            put_back(&self.context.written, splits);
        }
        Ok(())
    }

    /// Notes how far the source is. Nothing may be under way.
    fn note(&mut self) -> Result<()> {
        let shards = self.writers.iter_mut().map(ShardWriter::so_far).collect::<Result<_>>()?;
        let state = std::mem::take(&mut self.state);
        let note = Note::Open(Box::new(Open { shards, counts: self.counts(), ..state }));
        self.journal.put(self.name, &note)?;
        if let Note::Open(state) = note {
            self.state = Open { shards: Vec::new(), counts: Default::default(), ..*state };
        }
        self.unnoted = 0;
        Ok(())
    }

    /// Frequencies of ids in both splits.
    fn counts(&self) -> [Vec<u64>; 2] {
        let vocab = self.context.encoder.vocab() as usize;
        self.counts.each_ref().map(|tally| {
            let mut sums = vec![0; vocab];
            tally.add_to(&mut sums);
            sums
        })
    }

    fn finish(self, name: &str, hashes: Vec<String>, target: &mut Target) -> Result<Built> {
        let state = &self.state;
        let mut warnings = Vec::new();
        let shown: Vec<Said> =
            state.shown.iter().map(|message| say!("\n  {message}", "\n  {message}", message)).collect();
        let shown = Said::join(&shown, "", "");
        if state.skipped_documents > 0 {
            warnings.push(say!(
                "source `{name}`: {documents} documents, {bytes} bytes, could not be read and were left out{shown}{more}",
                "来源 `{name}`：{documents} 个文档、{bytes} 字节无法读取，已略去{shown}{more}",
                documents = state.skipped_documents,
                bytes = state.skipped_bytes,
                shown,
                more = if state.skipped_documents > SHOWN as u64 { "\n  …" } else { "" }
            ));
        }
        warnings.extend(state.dropped.sentences(name));
        let [train_counts, mut validation_counts] = self.counts();
        let [train, validation] = self.writers;
        if validation.tokens == 0 {
            validation_counts.clear();
        }
        if train.tokens == 0 {
            return Err(Error::spec(say!(
                "source `{name}` has no training document: {validation} documents are validation text, {unreadable} \
                 could not be read, {dropped} were cleaned away; add text, lower validation.fraction or clean \
                 less{shown}",
                "来源 `{name}` 没有训练文档：{validation} 个文档为验证文本，{unreadable} 个无法读取，{dropped} 个被清洗掉；\
                 请增加文本、降低 validation.fraction 或放宽清洗{shown}",
                validation = validation.documents,
                unreadable = state.skipped_documents,
                dropped = state.dropped.counts().values().sum::<u64>(),
                shown
            )));
        }
        let [train_bytes, validation_bytes] = state.text_bytes;
        let mut closed = Closed { info: None, files: Vec::new(), leftovers: Vec::new() };
        let mut files = BTreeMap::new();
        let mut finish = |writer, split, bytes, counts| {
            finish_split(writer, format!("{name}.{split}"), bytes, counts, &mut files, &mut closed)
        };
        let train = finish(train, "train", train_bytes, &train_counts)?;
        let validation = finish(validation, "validation", validation_bytes, &validation_counts)?;
        let info = SourceInfo {
            name: name.to_owned(),
            train,
            validation,
            skipped_documents: state.skipped_documents,
            skipped_bytes: state.skipped_bytes,
            dropped: state.dropped.counts(),
        };
        let built = Built { info, train_counts, validation_counts, hashes };
        let note = Note::Done(Box::new(Done { built, files, warnings }));
        // One at a time, however many small sources there are.
        target.settling.take().map_or(Ok(()), Settling::wait)?;
        *target.settling = Some(self.journal.put_after(closed.files, name, &note, closed.leftovers)?);
        let Note::Done(done) = note else { return Err(Error::Stopped) };
        Ok(restore(*done, target))
    }
}

/// Closes a shard, and adds its files and what is left of it to others.
fn finish_split(
    writer: ShardWriter,
    name: String,
    bytes: u64,
    counts: &[u64],
    files: &mut BTreeMap<String, FileInfo>,
    all: &mut Closed,
) -> Result<SplitInfo> {
    let (documents, tokens) = (writer.documents, writer.tokens);
    let mut shards = Vec::new();
    let mut closed = writer.close()?;
    all.files.append(&mut closed.files);
    all.leftovers.append(&mut closed.leftovers);
    if let Some((bin, idx)) = closed.info {
        files.insert(format!("{name}.bin"), bin);
        files.insert(format!("{name}.idx"), idx);
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
#[derive(Serialize, Deserialize)]
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
