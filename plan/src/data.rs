//! The data side of a recipe, and what a built corpus says about itself.
//!
//! [`DataSpec`] is `data.json`, written by `llmc run` from the recipe and read by `llmc-data`;
//! [`Manifest`] is `manifest.json`, written by `llmc-data build` and read by the planner (token
//! counts, entropy) and by the worker. Types only: reading, building and mixing are in the corpus.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of `data.json` and `manifest.json` that this build writes. Minor versions only add;
/// readers refuse another major.
pub const DATA_FORMAT_VERSION: &str = "1.0";

/// True if a file that says `version` can be read by this build.
pub fn readable_version(version: &str) -> bool {
    let major = |v: &str| v.split('.').next().map(str::to_owned);
    major(version) == major(DATA_FORMAT_VERSION)
}

fn current_version() -> String {
    DATA_FORMAT_VERSION.to_owned()
}

/// What to read, how to tokenise, split, mix and pack it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataSpec {
    /// `1.x`; see [`readable_version`].
    #[serde(default = "current_version")]
    pub format_version: String,
    /// Folder that relative globs and paths start from. Relative itself: to the spec's own folder.
    #[serde(default = "dot")]
    pub root: String,
    /// How text becomes token ids.
    pub tokenizer: TokenizerSpec,
    /// At least one; names are unique and become file names.
    pub sources: Vec<SourceSpec>,
    /// Which documents are kept out of training.
    #[serde(default)]
    pub validation: ValidationSpec,
    /// How documents become samples of `context` tokens.
    #[serde(default)]
    pub packing: Packing,
    /// Tokens attend only inside their document, and positions restart with it.
    #[serde(default)]
    pub document_mask: bool,
    /// Tokens in a sample.
    pub context: u32,
    /// Key of the sample order.
    #[serde(default)]
    pub seed: u64,
    /// How sources share the samples.
    #[serde(default)]
    pub mix: MixSpec,
    /// What to do with a document that cannot be read.
    #[serde(default)]
    pub on_error: OnError,
    /// What is changed in documents, and which are left out.
    #[serde(default, skip_serializing_if = "CleanSpec::changes_nothing")]
    pub clean: CleanSpec,
}

fn dot() -> String {
    ".".to_owned()
}

/// Tokenizer to train, or to import.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenizerSpec {
    /// Algorithm.
    #[serde(default)]
    pub kind: TokenizerKind,
    /// Entries, special tokens included. With `import`, the imported size must equal it, unless 0.
    #[serde(default)]
    pub vocab: u32,
    /// Every digit is a token of its own (LLaMA), instead of groups of up to three (Llama 3).
    #[serde(default = "yes")]
    pub digits_split: bool,
    /// All 256 bytes are in the vocabulary, so that any text can be encoded. Byte-level BPE always
    /// has them; `false` is refused there.
    #[serde(default = "yes")]
    pub byte_fallback: bool,
    /// Special tokens in id order from 0. The first is the end of a document.
    #[serde(default = "end_of_text")]
    pub special_tokens: Vec<String>,
    /// A `tokenizer.json` to use instead of training one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<String>,
    /// Training reads about this many bytes of text, spread over all sources.
    #[serde(default = "sample_bytes")]
    pub sample_bytes: u64,
}

fn yes() -> bool {
    true
}

fn end_of_text() -> Vec<String> {
    vec!["<|endoftext|>".to_owned()]
}

fn sample_bytes() -> u64 {
    64 << 20
}

/// Tokenizer algorithms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerKind {
    /// Byte-level byte pair encoding.
    #[default]
    Bpe,
}

/// One named source of documents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceSpec {
    /// Unique; `[A-Za-z0-9_-]+`.
    pub name: String,
    /// Patterns with `*`, `?`, `[…]`, `**`, relative to the root. Text: one document a file.
    /// `.jsonl`: one document a line, its field `text`.
    pub globs: Vec<String>,
    /// Factor on its tokens where sources share by temperature: share ∝ importance · tokens^α, so that text like the
    /// target's is met more often (importance resampling, Xie et al. 2023, arXiv 2302.03169). 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub importance: Option<f64>,
    /// Fixed share of the samples. Sources with none share the rest by temperature. If every source
    /// has one, they are relative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Smallest share, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_share: Option<f64>,
    /// Largest share, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_share: Option<f64>,
    /// Times the source may be read. No limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_epochs: Option<f64>,
    /// Its files are Megatron's `.bin` and stay where they are: they are checked once and linked, not copied.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_place: bool,
}

/// Which documents are the validation split. With both fields, both kinds are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationSpec {
    /// Share of the documents of every source, chosen by a hash of their content: a document is on
    /// the same side whatever file it is in, and so are its exact copies.
    #[serde(default)]
    pub fraction: f64,
    /// Globs of files that are validation text in full.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub globs: Vec<String>,
    /// Tokens seen at once; 0 is the context, and more is refused.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub window: u32,
    /// Tokens from one window to the next, each of which counts once, seen after window − stride others; 0 is
    /// the window.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stride: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Default for ValidationSpec {
    fn default() -> Self {
        Self { fraction: 0.01, globs: Vec::new(), window: 0, stride: 0 }
    }
}

/// How documents become samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Documents end to end, cut every `context` tokens: no padding but at the very end.
    #[default]
    Concat,
    /// Documents placed whole where they fit best; only longer ones are cut.
    BestFit,
    /// One document a sample, padded.
    Padding,
    /// Samples cut into slots of context / 2^k tokens; every document in the shortest slot that
    /// holds it. Needs the document mask.
    Buckets,
}

/// How sources share the samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MixSpec {
    /// Exponent α: share ∝ tokens^α among sources without a weight. 1 is proportional to size,
    /// 0 uniform. (The same α as `weighted_sampler_alpha` of gpt-neox.)
    #[serde(default = "one")]
    pub temperature: f64,
    /// Samples of a window, in each of which every source is within one sample of its share; 0: those of
    /// one optimizer step.
    #[serde(default)]
    pub window: u64,
    /// Changes of the weights during the run, ascending in sample.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<MixStage>,
    /// Weights that follow measured losses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic: Option<DynamicSpec>,
}

/// Weights that are changed while a run goes on: what of each source is lost above its reference raises its share (the
/// exponentiated-gradient step of DoReMi, Xie et al. 2023, arXiv 2305.10429, algorithm 1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DynamicSpec {
    /// Optimizer steps from one change to the next, over which losses are averaged; 0 never changes.
    pub every_steps: u64,
    /// Step size η: a nat of excess loss multiplies a share by e^η before the shares are normalised.
    pub rate: f64,
    /// Part of the shares that is spread evenly at every change, 0 to 1.
    pub smoothing: f64,
    /// Loss that a source is held against, nats a token; 0 for those not named, as in group DRO (Sagawa et al. 2019,
    /// arXiv 1911.08731).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub references: BTreeMap<String, f64>,
}

/// Other weights from a sample on: a stage of a curriculum, or an entry of the ledger of a dynamic
/// mixture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MixStage {
    /// First sample of the stage, a multiple of the mixture's window.
    #[serde(default)]
    pub at_sample: u64,
    /// Where it begins as a share of the run, 0 to 1, until the steps are known ([`MixSpec::at_steps`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
    /// Replaces the weight of these sources; they mean what [`SourceSpec::weight`] means.
    pub weights: BTreeMap<String, f64>,
    /// Why, for whoever reads the ledger.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl MixSpec {
    /// The mixture of a run of `steps` optimizer steps of `sequences` samples: stages that begin at a share of
    /// it begin with the nearest step, the second one at the earliest.
    pub fn at_steps(&self, steps: u64, sequences: u64) -> Self {
        let place = |stage: &MixStage| {
            let Some(start) = stage.start else { return stage.clone() };
            let step = ((start * steps as f64).round() as u64).max(1);
            MixStage { at_sample: step.saturating_mul(sequences), start: None, ..stage.clone() }
        };
        Self { stages: self.stages.iter().map(place).collect(), ..self.clone() }
    }
}

fn one() -> f64 {
    1.0
}

impl Default for MixSpec {
    fn default() -> Self {
        Self { temperature: one(), window: 0, stages: Vec::new(), dynamic: None }
    }
}

/// What a document that cannot be read does to the build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// Ends it, with file, offset and what was expected.
    #[default]
    Stop,
    /// Leaves the document out, counted in the manifest and reported.
    Skip,
}

/// What is changed in documents before they are encoded, and which are left out. The default changes
/// nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CleanSpec {
    /// Unicode normalisation.
    pub unicode: Unicode,
    /// Copies of earlier documents, over all sources in the order of the specification.
    pub dedup: Dedup,
    /// Jaccard similarity of 5-word shingles from which on documents are near duplicates.
    pub similarity: f64,
    /// Shorter documents are left out.
    pub min_bytes: u64,
    /// Longer documents are left out.
    pub max_bytes: Option<u64>,
    /// Least share of letters among characters that are not white space, 0 to 1.
    pub min_letters: f64,
    /// At least half of the letters must be of these scripts; empty allows all.
    pub scripts: Vec<Script>,
}

impl CleanSpec {
    /// True for the default.
    pub fn changes_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for CleanSpec {
    fn default() -> Self {
        Self {
            unicode: Unicode::Keep,
            dedup: Dedup::Off,
            similarity: 0.8,
            min_bytes: 0,
            max_bytes: None,
            min_letters: 0.0,
            scripts: Vec::new(),
        }
    }
}

/// Unicode normalisation forms (Unicode Standard Annex 15).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unicode {
    /// Text as it is.
    #[default]
    Keep,
    /// Canonical composition.
    Nfc,
    /// Compatibility composition: full-width letters become plain ones, for instance.
    Nfkc,
}

/// Which copies are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dedup {
    /// None.
    #[default]
    Off,
    /// Equal texts.
    Exact,
    /// Equal and similar texts.
    Near,
}

/// Scripts a language heuristic tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Script {
    /// Latin letters with their accents.
    Latin,
    /// Han characters, kana, and the South-East Asian scripts without spaces.
    Han,
}

/// What a built corpus holds. Contains nothing that depends on the machine, the time or the number
/// of threads, so the same text gives the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// `1.x`; see [`readable_version`].
    pub format_version: String,
    /// The tokenizer that made the ids.
    pub tokenizer: TokenizerInfo,
    /// In the order of the specification.
    pub sources: Vec<SourceInfo>,
    /// All sources together.
    pub train: SplitInfo,
    /// All sources together.
    pub validation: SplitInfo,
    /// Length and hash of every file beside the manifest, by name.
    pub files: BTreeMap<String, FileInfo>,
}

/// A tokenizer in a manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenizerInfo {
    /// File name beside the manifest.
    pub file: String,
    /// SHA-256 of that file, hexadecimal.
    pub sha256: String,
    /// Entries, special tokens included; every id is below it.
    pub vocab: u32,
    /// Id that ends every document.
    pub end_of_document: u32,
}

/// A source in a manifest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceInfo {
    /// Its name in the specification.
    pub name: String,
    /// What training reads.
    pub train: SplitInfo,
    /// What is kept out.
    pub validation: SplitInfo,
    /// Input documents left out because they could not be read.
    #[serde(default)]
    pub skipped_documents: u64,
    /// Their bytes.
    #[serde(default)]
    pub skipped_bytes: u64,
    /// Documents that cleaning left out, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<String, u64>,
}

/// One split of one source, or of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SplitInfo {
    /// Path prefixes of `.bin` and `.idx`, relative to the manifest, in reading order. Empty in the
    /// totals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<String>,
    /// Documents.
    pub documents: u64,
    /// Tokens, the end of each document included.
    pub tokens: u64,
    /// Bytes of UTF-8 text.
    pub bytes: u64,
    /// `bytes / tokens`; 0 without tokens.
    pub bytes_per_token: f64,
    /// −Σ p ln p over the token frequencies of this split, nats a token: what a model that knows
    /// only frequencies can reach. Of a split built from text, the first 2²⁰ tokens are counted and of the others an eighth, evenly.
    pub unigram_entropy: f64,
}

/// A file in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Length in bytes.
    pub bytes: u64,
    /// xxh3-128, hexadecimal: it finds damage, at the speed of a copy; it is no signature.
    pub xxh3: String,
}
