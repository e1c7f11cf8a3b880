//! Byte-level BPE: training, import, and encoding with ids equal to Hugging Face `tokenizers`.
//!
//! Two encoders read the same `tokenizer.json`. `tokenizers` defines the ids; `fastokens` gives the
//! same ones at 15 to 60 times the speed, and every build checks that it does (`crate::encode`).

use crate::error::{BadContent, Error, Result};
use crate::read::Place;
use fastokens::{AddedTokenPolicy, PreTokenizer, Split};
use llmc_plan::data::TokenizerSpec;
use llmc_plan::lang::Said;
use llmc_plan::say;
use sha2::{Digest, Sha256};
use std::path::Path;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    SplitDelimiterBehavior, Tokenizer, TokenizerBuilder,
};

/// Word pattern of Llama 3 (`tokenizer_config` of meta-llama/Meta-Llama-3-8B, itself cl100k's):
/// contractions, words with one leading mark, numbers, punctuation, line ends, spaces.
const WORDS: [&str; 2] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];
/// Every digit alone, as LLaMA does (Touvron et al. 2023, arXiv 2302.13971, section 2.1).
const DIGITS_ALONE: &str = r"\p{N}";
/// Groups of up to three, as Llama 3 and cl100k do.
const DIGITS_GROUPED: &str = r"\p{N}{1,3}";
/// A pair seen once saves nothing in any other text.
const MIN_FREQUENCY: u64 = 2;

/// A tokenizer ready to encode, with the bytes of its `tokenizer.json`.
pub struct Encoder {
    tokenizer: Tokenizer,
    /// Absent where the library does not read this tokenizer, or gave other ids.
    fast: Option<Fast>,
    json: Vec<u8>,
    sha256: String,
    vocab: u32,
    end_of_document: u32,
}

/// Trains on `texts`. The result depends on the texts and the specification alone.
///
/// # Errors
/// The library's own, which a checked specification should not meet.
pub fn train(spec: &TokenizerSpec, texts: &[String]) -> Result<Encoder> {
    let special: Vec<AddedToken> = spec.special_tokens.iter().map(|t| AddedToken::from(t, true)).collect();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(spec.vocab as usize)
        .min_frequency(MIN_FREQUENCY)
        .special_tokens(special)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let json = untrained(spec)
        .and_then(|mut tokenizer| {
            tokenizer.train(&mut trainer, texts.iter())?;
            tokenizer.to_string(false)
        })
        .map_err(|e| Error::spec(say!("the tokenizer cannot be trained: {e}", "无法训练分词器：{e}")))?;
    Encoder::from_json(Path::new("tokenizer.json"), json.into_bytes(), end_of_document(spec))
}

/// How a tokenizer's end of a document is known.
#[derive(Clone, Copy)]
enum EndOfDocument<'a> {
    Text(&'a str),
    Id(u32),
}

fn end_of_document(spec: &TokenizerSpec) -> EndOfDocument<'_> {
    EndOfDocument::Text(spec.special_tokens.first().map_or("", String::as_str))
}

/// The fast encoder.
struct Fast {
    tokenizer: fastokens::Tokenizer,
    /// What is looked for in text besides words.
    added: AddedTokenPolicy,
}

impl Fast {
    /// Absent if the library does not read this tokenizer.
    fn read(json: &[u8]) -> Option<Self> {
        let mut tokenizer = fastokens::Tokenizer::from_json(serde_json::from_slice(json).ok()?).ok()?;
        tokenizer.set_truncation(None);
        // Where all added tokens are special ones, which text never spells, none needs to be looked for.
        let special = tokenizer.added_token_configs().iter().all(|token| token.special);
        let added = if special { AddedTokenPolicy::None } else { AddedTokenPolicy::SkipSpecial };
        let fast = Self { tokenizer, added };
        if rayon::current_num_threads() > 1 {
            // What its caches begin with is made at the first word; later all threads would wait for that.
            let _ = fast.append("a", &mut Vec::new());
        }
        Some(fast)
    }

    /// Appends the ids of a text, or what there is of them when the library refuses it.
    fn append(&self, text: &str, ids: &mut Vec<u32>) -> Option<()> {
        if let Some(kind) = self.words().and_then(Split::scan_kind) {
            // As `encode_unpadded` does here, but into memory that is there, and in the cache: fresh memory for each text
            // takes 3 % longer (code of 18 kB a document, 2-core AMD EPYC VM, 2026-11-30).
            return self.tokenizer.model().tokenize_scanned_segment(kind, text, ids).ok();
        }
        ids.append(&mut self.tokenizer.encode_unpadded(text, false, self.added).ok()?);
        Some(())
    }

    /// What finds the words of a tokenizer that does nothing else to text than find and merge them, bytes as they
    /// are: the conditions of `fastokens::Tokenizer::encode` for its shortest way (version 0.3.5, `detect_fused_byte_level`).
    fn words(&self) -> Option<&Split> {
        let plain = self.added == AddedTokenPolicy::None
            && self.tokenizer.normalizer().is_none()
            && self.tokenizer.model().supports_fused_byte_level();
        match self.tokenizer.pre_tokenizer() {
            Some(PreTokenizer::Sequence(steps)) if plain => match &steps[..] {
                [PreTokenizer::Split(split), PreTokenizer::ByteLevel(bytes)] if bytes.is_bulk_only() => {
                    Some(split)
                }
                _ => None,
            },
            _ => None,
        }
    }
}

type Untrained = tokenizers::TokenizerImpl<
    BPE,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

fn untrained(spec: &TokenizerSpec) -> tokenizers::Result<Untrained> {
    let digits = if spec.digits_split { DIGITS_ALONE } else { DIGITS_GROUPED };
    let pattern = split::SplitPattern::Regex(WORDS.join(digits));
    let words = split::Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?;
    let bytes = ByteLevel::new(false, true, false);
    TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(Sequence::new(vec![words.into(), bytes.into()]).into()))
        .with_post_processor(None)
        .with_decoder(Some(bytes.into()))
        .build()
}

impl Encoder {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// Unreadable or malformed file, a vocabulary other than the specification's, or no
    /// end-of-document token of that name.
    pub fn import(path: &Path, spec: &TokenizerSpec) -> Result<Self> {
        let json = std::fs::read(path).map_err(Error::io("read", path))?;
        let encoder = Self::from_json(path, json, end_of_document(spec))?;
        if spec.vocab != 0 && encoder.vocab > spec.vocab {
            return Err(Error::spec(say!(
                "tokenizer.import has {entries} entries and vocab is {vocab}: make the model's vocab at least as large",
                "tokenizer.import 有 {entries} 个词条，而 vocab 为 {vocab}：模型的 vocab 至少应与之相同",
                entries = encoder.vocab,
                vocab = spec.vocab
            )));
        }
        Ok(encoder)
    }

    /// Reads the tokenizer of a built folder.
    ///
    /// # Errors
    /// As [`Encoder::import`].
    pub fn of_corpus(path: &Path, end_of_document: u32) -> Result<Self> {
        let json = std::fs::read(path).map_err(Error::io("read", path))?;
        Self::from_json(path, json, EndOfDocument::Id(end_of_document))
    }

    fn from_json(path: &Path, json: Vec<u8>, end: EndOfDocument) -> Result<Self> {
        let bad = |found: Said, expected: Said, hint: Said| -> Error {
            BadContent { file: path.to_owned(), place: Place::default(), found, expected, hint }.into()
        };
        let (tokenizer, fast) = rayon::join(|| Tokenizer::from_bytes(&json), || Fast::read(&json));
        let mut tokenizer = tokenizer.map_err(|e| {
            bad(
                say!("text its reader refuses ({e})", "其读取器拒绝的文本（{e}）"),
                say!("a Hugging Face tokenizer.json", " Hugging Face 的 tokenizer.json"),
                say!("export it again with save_pretrained", "请用 save_pretrained 重新导出"),
            )
        })?;
        // Text that spells a special token is text: a document cannot end another one.
        tokenizer.set_encode_special_tokens(true);
        // The file may ask to cut or pad documents for inference.
        let _ = tokenizer.with_truncation(None).map_err(Error::inner)?;
        tokenizer.with_padding(None);
        let end_of_document = match end {
            EndOfDocument::Id(id) => id,
            EndOfDocument::Text(end) => tokenizer.token_to_id(end).ok_or_else(|| {
                bad(
                    say!("no entry {end:?}", "没有词条 {end:?}"),
                    say!("the end-of-document token", "文档结束词元"),
                    say!(
                        "name the one it has as the first of tokenizer.special_tokens, for instance </s>",
                        "请将其所用的写为 tokenizer.special_tokens 的第一个，例如 </s>"
                    ),
                )
            })?,
        };
        // Ids of some published tokenizers have gaps, so the count alone is not the bound.
        let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        let vocab = largest.saturating_add(1);
        let sha256 = hex(&Sha256::digest(&json));
        Ok(Self { tokenizer, fast, json, sha256, vocab, end_of_document })
    }

    /// The same tokenizer without its fast encoder.
    pub fn without_fast(self) -> Self {
        Self { fast: None, ..self }
    }

    /// True if [`Encoder::encode`] has a fast encoder, whose ids are to be audited.
    pub fn is_fast(&self) -> bool {
        self.fast.is_some()
    }

    /// The bytes of `tokenizer.json`.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// SHA-256 of [`Encoder::json`], hexadecimal.
    pub fn sha256(&self) -> String {
        self.sha256.clone()
    }

    /// Every id is below this.
    pub fn vocab(&self) -> u32 {
        self.vocab
    }

    /// The id that ends every document.
    pub fn end_of_document(&self) -> u32 {
        self.end_of_document
    }

    /// The ids of one document, its end included, by the fastest encoder there is.
    ///
    /// # Errors
    /// The library's own; a byte-level tokenizer encodes any text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        self.encode_into(text, &mut ids)?;
        Ok(ids)
    }

    /// As [`Encoder::encode`], in the memory of other ids.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        ids.clear();
        // Text that the fast encoder refuses (a resource limit of its pattern matcher) is no
        // error yet.
        match self.fast.as_ref().and_then(|fast| fast.append(text, ids)) {
            Some(()) => ids.push(self.end_of_document),
            None => *ids = self.encode_reference(text)?,
        }
        Ok(())
    }

    /// As [`Encoder::encode`], by Hugging Face `tokenizers`.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn encode_reference(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|e| {
            Error::spec(say!("the tokenizer refuses a document: {e}", "分词器拒绝一个文档：{e}"))
        })?;
        let mut ids = encoding.get_ids().to_vec();
        ids.push(self.end_of_document);
        Ok(ids)
    }

    /// Text of ids, special tokens included.
    ///
    /// # Errors
    /// The library's own.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer
            .decode(ids, false)
            .map_err(|e| Error::spec(say!("ids cannot be decoded: {e}", "无法解码 id：{e}")))
    }

    /// The text of one entry.
    pub fn entry(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
