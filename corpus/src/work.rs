//! A chunk of documents, from stored bytes to tokens: decoded, cleaned and encoded on all cores.
//!
//! Whether a document copies an earlier one depends on order, so that one question is asked between
//! decoding and encoding, on one core.

use crate::clean::{Dropped, Prints, Seen, judge, normalise};
use crate::error::{BadContent, Error, Result, or_skip};
use crate::inputs::Input;
use crate::output::{Dtype, Tokens};
use crate::read::{Buffer, Form, KEPT_BYTES, Place, Raw, Text, utf8};
use crate::sample::{content_hash, held_out};
use crate::tokenizer::Encoder;
use llmc_plan::data::{CleanSpec, Dedup, OnError, Unicode};
use llmc_plan::say;
use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};
use twox_hash::XxHash3_64;

/// What one core takes at a time.
const GROUP_BYTES: usize = 64 << 10;
/// Of each source's first group this much is encoded by both encoders, and of the rest one document
/// in this many, chosen by its content. At 60 times the speed of the reference the latter costs at most 1.5 %.
const AUDITED_BYTES: usize = 4 << 10;
const AUDITED_ONE_IN: u64 = 1 << 12;
/// Of one document no more: what differs differs in many, and eight pieces of as many documents show more than one
/// eight times as long.
const AUDITED_PIECE: usize = 512;

/// What both halves of the work need to know of a source.
pub struct Context<'a> {
    pub encoder: &'a Encoder,
    pub inputs: &'a [Input],
    pub dtype: Dtype,
    pub fraction: f64,
    pub on_error: OnError,
    pub clean: &'a CleanSpec,
    /// Buffers of made text, to be used again.
    pub made: Mutex<Vec<Buffer>>,
    /// Memory of groups that were written, to be used again.
    pub written: Mutex<Vec<[Tokens; 2]>>,
    /// Memory of the ids of one document, to be used again.
    pub ids: Mutex<Vec<Vec<u32>>>,
}

/// Documents on their way from the reader to the cores.
#[derive(Default)]
pub struct Chunk {
    pub bytes: Buffer,
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
        self.bytes.clear(KEPT_BYTES);
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
    made: Buffer,
    bad: Vec<(BadContent, u64)>,
    first: bool,
}

impl Group {
    /// A text that was found to be one.
    fn text<'a>(&'a self, text: &Text, chunk: &'a [u8]) -> &'a str {
        match text {
            Text::Stored(range) => utf8(chunk, range),
            Text::Made(range) => utf8(self.made.bytes(), range),
        }
    }
}

/// The last value that was put back, if any.
pub fn taken<T>(shelf: &Mutex<Vec<T>>) -> Option<T> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

/// Puts a value where [`taken`] finds it.
pub fn put_back<T>(shelf: &Mutex<Vec<T>>, value: T) {
    shelf.lock().unwrap_or_else(PoisonError::into_inner).push(value);
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
        let (bytes, groups) = (chunk.bytes.bytes(), groups.into_par_iter());
        if seen.kind() == Dedup::Off {
            let encode =
                |(start, items, first)| self.encode_group(bytes, self.decode(bytes, start, items, first)?);
            return groups.map(encode).collect();
        }
        let decoded = groups.map(|(start, items, first)| self.decode(bytes, start, items, first));
        let mut decoded: Vec<Result<Group>> = decoded.collect();
        for document in decoded.iter_mut().flatten().flat_map(|group| &mut group.documents) {
            let prints = std::mem::take(&mut document.prints);
            document.dropped = document.dropped.or_else(|| seen.judge(prints));
        }
        if chunk.again {
            return Vec::new();
        }
        decoded.into_par_iter().map(|group| self.encode_group(bytes, group?)).collect()
    }

    /// Leaves a document out, or stops.
    fn refuse(&self, bad: (BadContent, u64), left_out: &mut Vec<(BadContent, u64)>) -> Result<()> {
        if self.on_error == OnError::Stop {
            return Err(bad.0.into());
        }
        left_out.push(bad);
        Ok(())
    }

    fn decode(&self, bytes: &[u8], mut start: usize, items: &[Item], first: bool) -> Result<Group> {
        let made = taken(&self.made).unwrap_or_default();
        let mut group = Group { first, made, ..Group::default() };
        group.documents.reserve_exact(items.len());
        for item in items {
            let (from, stored) = (start, bytes.get(start..item.end).unwrap_or_default());
            start = item.end;
            let Some(input) = self.inputs.get(item.file) else { continue };
            let looked = match self.content(item, stored, input, &mut group.made) {
                Ok(Some((content, raw))) => self.look(content, &raw, from, input, &group.made),
                Ok(None) => continue,
                Err(bad) => Err(bad),
            };
            match looked {
                Ok(document) => group.documents.push(document),
                Err(bad) => self.refuse(bad, &mut group.bad)?,
            }
        }
        Ok(group)
    }

    /// What a document says; `None` for an empty one.
    fn content<'b>(
        &self,
        item: &Item,
        stored: &'b [u8],
        input: &Input,
        made: &mut Buffer,
    ) -> std::result::Result<Option<(Content, Raw<'b>)>, (BadContent, u64)> {
        if let Some(bad) = &item.bad {
            return Err((bad.0.clone(), bad.1));
        }
        let raw = Raw { bytes: stored, form: item.form, place: item.place };
        let content = if raw.form == Form::Ids {
            self.ids(&raw, input).map(|ids| (!ids.is_empty()).then_some(Content::Ids(ids)))
        } else {
            self.find_text(&raw, input, made).map(|text| text.map(Content::Text))
        };
        Ok(content.map_err(|bad| (bad, stored.len() as u64))?.map(|content| (content, raw)))
    }

    /// The text as it is to be encoded; `None` for an empty one.
    fn find_text(
        &self,
        raw: &Raw<'_>,
        input: &Input,
        made: &mut Buffer,
    ) -> std::result::Result<Option<Text>, BadContent> {
        let Some(mut text) = raw.find_text(input, made)? else { return Ok(None) };
        if self.clean.unicode != Unicode::Keep
            && let Some(normal) = normalise(self.clean, raw.utf8(input, &text, made)?)
        {
            text = Text::Made(made.push(normal.as_bytes()));
        }
        let (Text::Stored(range) | Text::Made(range)) = &text;
        Ok((!range.is_empty()).then_some(text))
    }

    /// Judges a document that lies at `from` in its chunk.
    fn look(
        &self,
        mut content: Content,
        raw: &Raw<'_>,
        from: usize,
        input: &Input,
        made: &Buffer,
    ) -> std::result::Result<Decoded, (BadContent, u64)> {
        let (hash, dropped, prints) = match &mut content {
            Content::Ids(_) => (XxHash3_64::oneshot(raw.bytes), None, Prints::default()),
            Content::Text(place) => {
                let text = raw.utf8(input, place, made).map_err(|bad| (bad, raw.bytes.len() as u64))?;
                if let Text::Stored(range) = place {
                    *range = from + range.start..from + range.end;
                }
                match judge(self.clean, text) {
                    Some(reason) => (0, Some(reason), Prints::default()),
                    None => (self.hash(text), None, Seen::prints(self.clean.dedup, text)),
                }
            }
        };
        Ok(Decoded { content, hash, validation_file: input.validation, dropped, prints })
    }

    /// Decides the split of a document, and whether it is audited.
    fn hash(&self, text: &str) -> u64 {
        if self.fraction > 0.0 {
            return content_hash(text);
        }
        // Its beginning and length tell it from others well enough to choose some for an audit.
        let bytes = text.as_bytes();
        XxHash3_64::oneshot_with_seed(bytes.len() as u64, bytes.get(..AUDITED_PIECE).unwrap_or(bytes))
    }

    fn encode_group(&self, chunk: &[u8], mut group: Group) -> Result<Encoded> {
        let mut encoding = Encoding::begin(self, group.first);
        encoding.encoded.bad = std::mem::take(&mut group.bad);
        for document in &group.documents {
            let (hash, validation) = (document.hash, document.validation_file);
            match (&document.content, document.dropped) {
                (Content::Text(text), Some(reason)) => {
                    encoding.encoded.dropped.add(reason, group.text(text, chunk));
                }
                (Content::Text(text), None) => encoding.text(group.text(text, chunk), hash, validation)?,
                (Content::Ids(ids), _) => encoding.ids(ids, hash, validation)?,
            }
        }
        group.made.clear(KEPT_BYTES);
        put_back(&self.made, group.made);
        Ok(encoding.end())
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
                found: if *id > i32::MAX as u32 {
                    say!("a negative or larger one", "负数或更大的 id")
                } else {
                    say!("{id}", " {id}")
                },
                expected: say!(
                    "token ids below {vocab}, the size of this corpus's tokenizer",
                    "小于 {vocab}（本语料分词器大小）的词元 id"
                ),
                hint: or_skip(
                    say!(
                        "the file was made with another tokenizer: import that one (tokenizer.import)",
                        "该文件由另一分词器生成：请导入该分词器（tokenizer.import）"
                    ),
                    say!("the document", "该文档"),
                ),
            });
        }
        let end = self.encoder.end_of_document();
        if ids.last().is_some_and(|&last| last != end) {
            ids.push(end);
        }
        Ok(ids)
    }

    /// Encodes a piece of a document twice, and returns its length. Where it lies is for the content to say.
    fn audit(&self, text: &str, hash: u64) -> Result<usize> {
        let starts = text.len().saturating_sub(AUDITED_PIECE) as u64 + 1;
        let boundary = |most: usize| (0..=most).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        let start = boundary((hash.rotate_left(32) % starts) as usize);
        let end = boundary(text.len().min(start.saturating_add(AUDITED_PIECE)));
        let text = text.get(start..end).unwrap_or(text);
        if self.encoder.is_fast() && self.encoder.encode(text)? != self.encoder.encode_reference(text)? {
            return Err(Error::EncodersDiffer { text: text.chars().take(60).collect() });
        }
        Ok(text.len())
    }
}

/// A group on its way to tokens.
struct Encoding<'a> {
    context: &'a Context<'a>,
    encoded: Encoded,
    /// Bytes that are to be encoded by both encoders yet.
    to_audit: usize,
    /// Of one document.
    ids: Vec<u32>,
}

impl<'a> Encoding<'a> {
    fn begin(context: &'a Context<'a>, first: bool) -> Self {
        let empty = || [(); 2].map(|()| Tokens::new(context.dtype));
        let encoded = Encoded {
            splits: taken(&context.written).unwrap_or_else(empty),
            text_bytes: [0; 2],
            bad: Vec::new(),
            dropped: Dropped::default(),
        };
        let ids = taken(&context.ids).unwrap_or_default();
        Self { context, encoded, to_audit: if first { AUDITED_BYTES } else { 0 }, ids }
    }

    fn end(self) -> Encoded {
        if self.ids.capacity() * size_of::<u32>() <= KEPT_BYTES {
            put_back(&self.context.ids, self.ids);
        }
        self.encoded
    }

    fn text(&mut self, text: &str, hash: u64, validation_file: bool) -> Result<()> {
        if self.to_audit > 0 || hash.is_multiple_of(AUDITED_ONE_IN) {
            self.to_audit = self.to_audit.saturating_sub(self.context.audit(text, hash)?);
        }
        let mut ids = std::mem::take(&mut self.ids);
        self.context.encoder.encode_into(text, &mut ids)?;
        self.push(&ids, hash, validation_file, text.len())?;
        self.ids = ids;
        Ok(())
    }

    fn ids(&mut self, ids: &[u32], hash: u64, validation_file: bool) -> Result<()> {
        self.push(ids, hash, validation_file, 0)
    }

    fn push(&mut self, ids: &[u32], hash: u64, validation_file: bool, text_bytes: usize) -> Result<()> {
        let validation = validation_file || held_out(hash, self.context.fraction);
        let split = if validation { VALIDATION } else { TRAIN };
        let encoded = &mut self.encoded;
        let all = encoded.splits.get_mut(split).zip(encoded.text_bytes.get_mut(split));
        let Some((tokens, sum)) = all else { return Ok(()) };
        *sum += text_bytes as u64;
        tokens.push(ids)
    }
}
