//! A chunk of documents, from stored bytes to tokens: decoded, cleaned and encoded on all cores.
//!
//! Whether a document copies an earlier one depends on order, so that one question is asked between
//! decoding and encoding, on one core.

use crate::clean::{Dropped, Prints, Seen, judge, normalise};
use crate::error::{BadContent, Error, Result};
use crate::inputs::Input;
use crate::output::{Dtype, Tokens};
use crate::read::{Form, Made, Place, Raw, Text, utf8};
use crate::sample::{content_hash, held_out};
use crate::tokenizer::Encoder;
use llmc_plan::data::{CleanSpec, Dedup, OnError, Unicode};
use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};
use xxhash_rust::xxh3::xxh3_64;

/// What one core takes at a time.
const GROUP_BYTES: usize = 64 << 10;
/// Of each source's first group this much is encoded by both encoders, and of the rest one document
/// in this many, chosen by its content. At 60 times the speed of the reference the latter costs 1.5 %.
const AUDITED_BYTES: usize = 8 << 10;
const AUDITED_ONE_IN: u64 = 1 << 12;

/// What both halves of the work need to know of a source.
pub struct Context<'a> {
    pub encoder: &'a Encoder,
    pub inputs: &'a [Input],
    pub dtype: Dtype,
    pub fraction: f64,
    pub on_error: OnError,
    pub clean: &'a CleanSpec,
    /// Tables of token frequencies, as many as cores ever counted at once.
    pub counts: Mutex<Vec<[Vec<u64>; 2]>>,
    /// Buffers of groups, to be used again.
    pub spare: Mutex<Vec<Made>>,
}

/// Documents on their way from the reader to the cores.
#[derive(Default)]
pub struct Chunk {
    pub bytes: Vec<u8>,
    pub items: Vec<Item>,
    /// The source's first.
    pub first: bool,
    /// Its documents are done: they are only to be remembered as seen.
    pub again: bool,
    /// Documents of the source up to its end.
    pub position: u64,
    /// Hash of each file that ended before it or in it, and the documents up to that file's end.
    pub files: Vec<(String, u64)>,
}

pub struct Item {
    /// End of its bytes in the chunk; it begins where the one before ends.
    pub end: usize,
    pub form: Form,
    pub place: Place,
    pub file: usize,
    /// It cannot be read: why, and how long it is.
    pub bad: Option<Box<(BadContent, u64)>>,
}

/// What a group of documents became: training and validation tokens.
pub struct Encoded {
    pub splits: [Tokens; 2],
    pub text_bytes: [u64; 2],
    pub bad: Vec<(BadContent, u64)>,
    pub dropped: Dropped,
}

/// Index of the training split.
const TRAIN: usize = 0;
const VALIDATION: usize = 1;

impl Chunk {
    /// Empties it for the documents that follow.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.items.clear();
        self.files.clear();
        self.first = false;
    }
}

/// A document that is to be encoded, or not.
struct Decoded {
    content: Content,
    /// Decides its split.
    hash: u64,
    validation_file: bool,
    dropped: Option<&'static str>,
    prints: Prints,
}

enum Content {
    /// Stored text lies in the chunk, made text in the group.
    Text(Text),
    /// Token ids already.
    Ids(Vec<u32>),
}

/// A group of documents, decoded.
#[derive(Default)]
struct Group {
    documents: Vec<Decoded>,
    /// Text that does not lie in the chunk as it is.
    made: Made,
    bad: Vec<(BadContent, u64)>,
    first: bool,
}

impl Group {
    fn text<'a>(&'a self, text: &Text, chunk: &'a [u8]) -> &'a str {
        match text {
            Text::Stored(range) => utf8(chunk, range),
            Text::Made(range) => utf8(self.made.bytes(), range),
        }
    }
}

impl Context<'_> {
    /// Groups of a chunk, in order.
    pub fn encode(&self, chunk: &Chunk, seen: &mut Seen) -> Vec<Result<Encoded>> {
        let mut groups = Vec::new();
        let (mut first, mut start) = (0, 0);
        for (index, item) in chunk.items.iter().enumerate() {
            if item.end - start >= GROUP_BYTES || index + 1 == chunk.items.len() {
                let first_of_all = chunk.first && start == 0;
                groups.push((start, chunk.items.get(first..=index).unwrap_or_default(), first_of_all));
                (first, start) = (index + 1, item.end);
            }
        }
        let groups = groups.into_par_iter();
        let decoded = groups.map(|(start, items, first)| self.decode(&chunk.bytes, start, items, first));
        if seen.kind() == Dedup::Off {
            return decoded.map(|group| self.encode_group(&chunk.bytes, group?)).collect();
        }
        let mut decoded: Vec<Result<Group>> = decoded.collect();
        for document in decoded.iter_mut().flatten().flat_map(|group| &mut group.documents) {
            let prints = std::mem::take(&mut document.prints);
            document.dropped = document.dropped.or_else(|| seen.judge(prints));
        }
        if chunk.again {
            return Vec::new();
        }
        decoded.into_par_iter().map(|group| self.encode_group(&chunk.bytes, group?)).collect()
    }

    fn decode(&self, bytes: &[u8], mut start: usize, items: &[Item], first: bool) -> Result<Group> {
        let made = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let mut group = Group { first, made, ..Group::default() };
        group.documents.reserve_exact(items.len());
        for item in items {
            let (from, stored) = (start, bytes.get(start..item.end).unwrap_or_default());
            start = item.end;
            let Some(input) = self.inputs.get(item.file) else { continue };
            let raw = Raw { bytes: stored, form: item.form, place: item.place };
            let content = match &item.bad {
                Some(bad) => Err((bad.0.clone(), bad.1)),
                None => {
                    self.content(&raw, from, input, &mut group.made).map_err(|bad| (bad, stored.len() as u64))
                }
            };
            match content {
                Ok(Some(content)) => {
                    let looked = self.look(content, bytes, stored, input, &group);
                    group.documents.push(looked);
                }
                Ok(None) => {}
                Err((bad, _)) if self.on_error == OnError::Stop => return Err(bad.into()),
                Err(bad) => group.bad.push(bad),
            }
        }
        Ok(group)
    }

    /// What a document that lies at `from` in its chunk says; `None` for an empty one.
    fn content(
        &self,
        raw: &Raw<'_>,
        from: usize,
        input: &Input,
        made: &mut Made,
    ) -> std::result::Result<Option<Content>, BadContent> {
        if raw.form == Form::Ids {
            let ids = self.ids(raw, input)?;
            return Ok((!ids.is_empty()).then_some(Content::Ids(ids)));
        }
        let Some(mut text) = raw.find_text(input, made)? else { return Ok(None) };
        if self.clean.unicode != Unicode::Keep {
            let found = match &text {
                Text::Stored(range) => utf8(raw.bytes, range),
                Text::Made(range) => utf8(made.bytes(), range),
            };
            if let Some(normal) = normalise(self.clean, found) {
                text = Text::Made(made.push(&normal));
            }
        }
        if let Text::Stored(range) = &mut text {
            *range = from + range.start..from + range.end;
        }
        let (Text::Stored(range) | Text::Made(range)) = &text;
        Ok((!range.is_empty()).then_some(Content::Text(text)))
    }

    fn look(&self, content: Content, chunk: &[u8], stored: &[u8], input: &Input, group: &Group) -> Decoded {
        let (hash, dropped, prints) = match &content {
            Content::Ids(_) => (xxh3_64(stored), None, Prints::default()),
            Content::Text(text) => {
                let text = group.text(text, chunk);
                match judge(self.clean, text) {
                    Some(reason) => (0, Some(reason), Prints::default()),
                    None => (content_hash(text), None, Seen::prints(self.clean.dedup, text)),
                }
            }
        };
        Decoded { content, hash, validation_file: input.validation, dropped, prints }
    }

    fn encode_group(&self, chunk: &[u8], mut group: Group) -> Result<Encoded> {
        let empty = || Tokens::new(self.dtype);
        let mut encoded = Encoded {
            splits: [empty(), empty()],
            text_bytes: [0; 2],
            bad: std::mem::take(&mut group.bad),
            dropped: Dropped::default(),
        };
        let tables = self.counts.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut counts = tables.unwrap_or_else(|| [(); 2].map(|()| vec![0; self.encoder.vocab() as usize]));
        // No text has more tokens than bytes, and most a third.
        if let Some(train) = encoded.splits.first_mut() {
            train.reserve(group.made.len() / 2);
        }
        let mut to_audit = if group.first { AUDITED_BYTES } else { 0 };
        for document in &group.documents {
            let validation = document.validation_file || held_out(document.hash, self.fraction);
            let split = if validation { VALIDATION } else { TRAIN };
            match &document.content {
                Content::Text(text) => {
                    let text = group.text(text, chunk);
                    if let Some(reason) = document.dropped {
                        encoded.dropped.add(reason, text);
                        continue;
                    }
                    if to_audit > 0 || document.hash % AUDITED_ONE_IN == 0 {
                        self.audit(text)?;
                        to_audit = to_audit.saturating_sub(text.len());
                    }
                    encoded.push(split, &self.encoder.encode(text)?, text.len(), &mut counts)?;
                }
                Content::Ids(ids) => encoded.push(split, ids, 0, &mut counts)?,
            }
        }
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).push(counts);
        group.made.clear();
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(group.made);
        Ok(encoded)
    }

    /// Ids of a document that was tokenised before, its end added where it is missing.
    fn ids(&self, raw: &Raw, input: &Input) -> std::result::Result<Vec<u32>, BadContent> {
        let mut ids: Vec<u32> =
            raw.bytes.as_chunks::<4>().0.iter().map(|id| u32::from_le_bytes(*id)).collect();
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
        let end = (0..=AUDITED_BYTES.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
        let text = text.get(..end.unwrap_or(0)).unwrap_or(text);
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
        *text_bytes += bytes as u64;
        for &id in ids {
            if let Some(count) = counts.get_mut(id as usize) {
                // 2⁶⁴ tokens are out of reach, and a check would cost as much as the rest.
                *count = count.wrapping_add(1);
            }
        }
        tokens.push(ids)
    }
}
