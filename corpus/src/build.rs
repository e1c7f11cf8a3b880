//! `llmc-data build`: sources to tokenizer, shards and manifest.
//!
//! Everything is written to `.partial/` inside the target and moved in at the end, the manifest
//! last: a folder with a manifest is whole. A build that was killed goes on from there
//! ([`crate::journal`]). Documents are encoded on all cores but written in the
//! order of the sorted file names, so neither threads nor the file system show in the result.

use crate::adopt::adopt_source;
use crate::clean::Seen;
use crate::durable::Settling;
use crate::encode::{Built, Target, build_source, split_info};
use crate::error::{Error, Result};
use crate::folder::{MANIFEST, Partial, RECEIPT, lock, read_manifest};
use crate::inputs::{Input, Receipt, ReceiptEntry, empty_files, expand};
use crate::journal::{Head, Journal};
use crate::output::HashingFile;
use crate::sample::sample;
use crate::tokenizer::{Encoder, hex, train};
use llmc_plan::data::{
    DATA_FORMAT_VERSION, DataSpec, FileInfo, Manifest, SourceSpec, SplitInfo, TokenizerInfo,
};
use llmc_plan::lang::Said;
use llmc_plan::say;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use twox_hash::XxHash3_128;

/// Name of the tokenizer in the target folder.
const TOKENIZER: &str = "tokenizer.json";
/// Raised when the same text would give other shards than before.
const BUILD_REVISION: u32 = 2;

/// Text of a source after which a build notes how far it is, bytes: some seconds of work.
pub const NOTE_BYTES: u64 = 1 << 30;

/// Told how a build goes on.
pub trait Observer: Sync {
    /// A phase of `total` input bytes begins.
    fn phase(&self, name: &Said, total: u64);
    /// `bytes` more input bytes are done.
    fn advance(&self, bytes: u64);
}

/// Tells nobody.
impl Observer for () {
    fn phase(&self, _: &Said, _: u64) {}
    fn advance(&self, _: u64) {}
}

/// What a build did.
#[derive(Debug)]
pub struct BuildReport {
    /// What the folder holds now.
    pub manifest: Manifest,
    /// Nothing had changed, nothing was done.
    pub up_to_date: bool,
    /// A build that did not end had done the beginning.
    pub resumed: bool,
    /// For the user; each a sentence.
    pub warnings: Vec<Said>,
}

/// Builds `dir` from `spec`, goes on with an unfinished build of the same, or finds that it is up to date.
///
/// # Errors
/// A contradiction in the specification, an input that cannot be read, a write that fails; what `dir` held
/// is then as it was.
pub fn build(spec: &DataSpec, dir: &Path, observer: &dyn Observer) -> Result<BuildReport> {
    build_noting(spec, dir, observer, NOTE_BYTES)
}

/// As [`build`], noting how far it is after every `note_bytes` of text.
///
/// # Errors
/// As [`build`].
pub fn build_noting(
    spec: &DataSpec,
    dir: &Path,
    observer: &dyn Observer,
    note_bytes: u64,
) -> Result<BuildReport> {
    crate::spec::check(spec)?;
    let inputs = expand(spec)?;
    let imported = match &spec.tokenizer.import {
        Some(path) => Some(Encoder::import(&crate::spec::root(spec).join(path), &spec.tokenizer)?),
        None => None,
    };
    let fingerprint = fingerprint(spec, imported.as_ref())?;
    if let Some(manifest) = up_to_date(dir, &fingerprint, &inputs) {
        return Ok(BuildReport { manifest, up_to_date: true, resumed: false, warnings: Vec::new() });
    }
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let _lock = lock(dir)?;
    let partial = Partial::open(dir)?;
    let journal = Journal::new(partial.path(), note_bytes);
    let tokenizer = partial.path().join(TOKENIZER);
    let unfinished = journal.head().filter(|head| head.covers(&fingerprint, &inputs)).and_then(|head| {
        let encoder = Encoder::of_corpus(&tokenizer, head.end_of_document).ok()?;
        (encoder.sha256() == head.tokenizer).then_some((head, encoder))
    });
    let resumed = unfinished.is_some();
    let (mut head, mut encoder) = match unfinished {
        Some((head, encoder)) if head.fast => (head, encoder),
        Some((head, encoder)) => (head, encoder.without_fast()),
        None => {
            partial.clear()?;
            let encoder = match imported {
                Some(encoder) => encoder,
                None => train(&spec.tokenizer, &sample(spec, &inputs, observer)?)?,
            };
            let mut file = HashingFile::create(&tokenizer)?;
            file.write(encoder.json())?;
            file.finish()?;
            let identity = (encoder.sha256(), encoder.end_of_document());
            let head = Head::new(fingerprint.clone(), &inputs, identity, too_small(spec, &encoder));
            journal.begin(&head)?;
            (head, encoder)
        }
    };
    let built = loop {
        match build_sources(spec, &inputs, &encoder, &partial, &journal, observer) {
            Err(Error::EncodersDiffer { text }) => {
                head.warnings.push(say!(
                    "the fast encoder gives other ids than `tokenizers` for the document that begins {text:?}: the \
                     slower `tokenizers` encoded everything",
                    "对以 {text:?} 开头的文档，快速编码器与 `tokenizers` 的 id 不同：全部改由较慢的 `tokenizers` 编码"
                ));
                head.fast = false;
                encoder = encoder.without_fast();
                journal.forget()?;
                journal.begin(&head)?;
            }
            other => break other?,
        }
    };
    let (built, mut files, warnings, settling) = built;
    let json = encoder.json();
    let info = FileInfo { bytes: json.len() as u64, xxh3: format!("{:032x}", XxHash3_128::oneshot(json)) };
    files.insert(TOKENIZER.to_owned(), info);
    head.warnings.extend(warnings);
    let manifest = assemble(&encoder, &built, files);
    let receipt = receipt(fingerprint, &inputs, &built);
    partial.commit(dir, &manifest, receipt, settling)?;
    Ok(BuildReport { manifest, up_to_date: false, resumed, warnings: head.warnings })
}

/// What to say of a tokenizer with fewer entries than asked for.
fn too_small(spec: &DataSpec, encoder: &Encoder) -> Vec<Said> {
    if encoder.vocab() >= spec.tokenizer.vocab || spec.tokenizer.import.is_some() {
        return Vec::new();
    }
    vec![say!(
        "the text gives a vocabulary of only {found} of the {asked} entries asked for: lower vocab or add text",
        "文本只给出 {found} 个词条，而要求 {asked} 个：请减小 vocab 或增加文本",
        found = encoder.vocab(),
        asked = spec.tokenizer.vocab
    )]
}

type Sources = (Vec<Built>, BTreeMap<String, FileInfo>, Vec<Said>, Option<Settling>);

fn build_sources(
    spec: &DataSpec,
    inputs: &[Vec<Input>],
    encoder: &Encoder,
    partial: &Partial,
    journal: &Journal,
    observer: &dyn Observer,
) -> Result<Sources> {
    observer.phase(&say!("encode", "编码"), inputs.iter().flatten().map(|input| input.bytes).sum());
    let (mut files, mut warnings, mut settling) = (BTreeMap::new(), Vec::new(), None);
    let mut seen = Seen::new(&spec.clean);
    let build = |(source, inputs): (&SourceSpec, &Vec<Input>)| {
        let (files, warnings, seen, settling) = (&mut files, &mut warnings, &mut seen, &mut settling);
        warnings.extend(empty_files(&source.name, inputs));
        let mut target = Target { partial: partial.path(), journal, files, warnings, seen, settling };
        let build = if source.in_place { adopt_source } else { build_source };
        build(spec, &source.name, inputs, encoder, observer, &mut target)
    };
    let built = spec.sources.iter().zip(inputs).map(build).collect::<Result<_>>()?;
    Ok((built, files, warnings, settling))
}

/// Hash of all that shapes the shards. Context, packing, mixture and seed do not: they may change
/// without a new build.
fn fingerprint(spec: &DataSpec, imported: Option<&Encoder>) -> Result<String> {
    let sources: Vec<_> = spec.sources.iter().map(|s| (&s.name, &s.globs, s.in_place)).collect();
    let parts = (
        (BUILD_REVISION, DATA_FORMAT_VERSION),
        (&spec.tokenizer, imported.map(Encoder::sha256)),
        sources,
        &spec.validation,
        spec.on_error,
        &spec.clean,
    );
    let json = serde_json::to_vec(&parts).map_err(Error::inner)?;
    Ok(hex(&Sha256::digest(json)))
}

fn up_to_date(dir: &Path, fingerprint: &str, inputs: &[Vec<Input>]) -> Option<Manifest> {
    let receipt: Receipt = serde_json::from_slice(&fs::read(dir.join(RECEIPT)).ok()?).ok()?;
    let manifest = fs::read(dir.join(MANIFEST)).ok()?;
    let intact = receipt.spec == fingerprint
        && receipt.manifest == hex(&Sha256::digest(&manifest))
        && receipt.covers(inputs);
    let manifest = intact.then(|| read_manifest(dir).ok())??;
    let whole = |(name, info): (&String, &FileInfo)| {
        fs::metadata(dir.join(name)).is_ok_and(|meta| meta.len() == info.bytes)
    };
    manifest.files.iter().all(whole).then_some(manifest)
}

fn assemble(encoder: &Encoder, built: &[Built], files: BTreeMap<String, FileInfo>) -> Manifest {
    let total = |split: fn(&Built) -> (&SplitInfo, &Vec<u64>)| {
        let mut counts = vec![0; encoder.vocab() as usize];
        let mut sum = SplitInfo::default();
        for (info, source_counts) in built.iter().map(split) {
            sum.documents += info.documents;
            sum.tokens += info.tokens;
            sum.bytes += info.bytes;
            for (count, more) in counts.iter_mut().zip(source_counts) {
                *count += more;
            }
        }
        split_info(Vec::new(), sum.documents, sum.tokens, sum.bytes, &counts)
    };
    Manifest {
        format_version: DATA_FORMAT_VERSION.to_owned(),
        tokenizer: TokenizerInfo {
            file: TOKENIZER.to_owned(),
            sha256: encoder.sha256(),
            vocab: encoder.vocab(),
            end_of_document: encoder.end_of_document(),
        },
        sources: built.iter().map(|b| b.info.clone()).collect(),
        train: total(|b| (&b.info.train, &b.train_counts)),
        validation: total(|b| (&b.info.validation, &b.validation_counts)),
        files,
    }
}

fn receipt(spec: String, inputs: &[Vec<Input>], built: &[Built]) -> Receipt {
    let entry = |(input, hash): (&Input, &String)| ReceiptEntry {
        name: input.name.clone(),
        bytes: input.bytes,
        modified: input.modified.to_string(),
        hash: hash.clone(),
        validation: input.validation,
    };
    let inputs = inputs.iter().zip(built);
    let inputs =
        inputs.map(|(inputs, built)| inputs.iter().zip(&built.hashes).map(entry).collect()).collect();
    Receipt { spec, manifest: String::new(), inputs }
}

/// Trains a tokenizer on the sources of `spec` without building shards.
///
/// # Errors
/// As [`build`].
pub fn train_tokenizer(spec: &DataSpec, observer: &dyn Observer) -> Result<Encoder> {
    crate::spec::check(spec)?;
    let inputs = expand(spec)?;
    train(&spec.tokenizer, &sample(spec, &inputs, observer)?)
}
