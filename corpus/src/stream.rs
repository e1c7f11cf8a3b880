//! The sample stream of a run: which tokens any rank reads at any step.
//!
//! Everything is a function of (specification, seed, global sample number). There is no state to
//! carry but the number of the next sample, and neither the number of ranks nor the micro-batch size
//! changes which samples a step holds or what is in them.

use crate::dynamic;
use crate::error::{Error, Result};
use crate::folder::{MANIFEST, read_manifest};
use crate::indexed::Indexed;
use crate::pack::{Opened, Rule, Samples, Scratch, finish, prepare};
use crate::packing::PackIndex;
use crate::permute::{mix, permute};
use crate::schedule::Schedule;
use crate::tokenizer::hex;
use llmc_plan::batch::{Batch, BatchShape};
use llmc_plan::data::{
    DataSpec, DynamicSpec, Manifest, MixStage, Packing, SourceInfo, SourceSpec, SplitInfo,
};
use llmc_plan::lang::Said;
use llmc_plan::say;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use twox_hash::XxHash3_64;

/// Validation order does not depend on the seed, so losses of runs can be compared.
const VALIDATION_KEY: u64 = 0;

/// Where a run stands in its data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Number of the first sample not yet used.
    pub next_sample: u64,
    /// [`Stream::data_hash`] of the stream that was read.
    pub data_hash: String,
}

/// An opened corpus. Cheap to share between threads: all methods take `&self`.
pub struct Stream {
    manifest: Manifest,
    shape: BatchShape,
    global_sequences: u64,
    /// Sample number of step 0, which may lie before the first sample after a change of batch size.
    first: i128,
    spec: DataSpec,
    tokens: Vec<u64>,
    schedule: Schedule,
    sources: Vec<Source>,
    validation: Samples,
    data_hash: String,
}

struct Source {
    name: String,
    samples: Samples,
    key: u64,
    max_epochs: Option<f64>,
}

/// Opens the corpus built in `dir`. `shape` is one micro-batch of one data-parallel rank, and
/// `global_sequences` all sequences of an optimizer step.
///
/// # Errors
/// No corpus there, a shard that contradicts the manifest, a specification with other sources, a
/// shape that does not fit the specification or the global batch, or a mixture that cannot be met.
pub fn open(dir: &Path, spec: &DataSpec, shape: BatchShape, global_sequences: u64) -> Result<Stream> {
    crate::spec::check(spec)?;
    check_shape(spec, shape, global_sequences)?;
    let manifest = read_manifest(dir)?;
    let rule = Rule {
        context: spec.context,
        window: spec.context,
        stride: spec.context,
        document_mask: spec.document_mask,
        documents: shape.documents_per_sequence(),
        padding: manifest.tokenizer.end_of_document,
    };
    let (window, stride) = crate::spec::windows(spec);
    // Windows slide over documents end to end, whatever the rows of training are.
    let sliding = (window, stride) != (spec.context, spec.context);
    let validation_packing = if sliding { Packing::Concat } else { spec.packing };
    let mut sources = Vec::new();
    let mut validation = Vec::new();
    for (index, source) in spec.sources.iter().enumerate() {
        let info = built_source(dir, &manifest, &source.name)?;
        let train = shards(dir, &manifest, spec, spec.packing, &info.train, index)?;
        validation.extend(shards(dir, &manifest, spec, validation_packing, &info.validation, index)?);
        sources.push(Source {
            name: source.name.clone(),
            samples: Samples::new(train, rule),
            // By name: a new source leaves the order inside the others as it was.
            key: mix(spec.seed ^ XxHash3_64::oneshot(source.name.as_bytes())),
            max_epochs: source.max_epochs,
        });
    }
    if let Some(empty) = sources.iter().find(|source| source.samples.len() == 0) {
        return Err(Error::spec(say!(
            "source `{name}` has no training tokens in {dir}",
            "来源 `{name}` 在 {dir} 中没有训练词元",
            name = empty.name,
            dir = dir.display()
        )));
    }
    let tokens: Vec<u64> = spec
        .sources
        .iter()
        .filter_map(|source| manifest.sources.iter().find(|built| built.name == source.name))
        .map(|built| built.train.tokens)
        .collect();
    let mixed = if spec.mix.window == 0 { global_sequences } else { spec.mix.window };
    let schedule = Schedule::new(spec, &tokens, mixed)?;
    let data_hash = data_hash(spec, &manifest, rule.documents, mixed)?;
    let validation = Samples::new(validation, Rule { window, stride, ..rule });
    Ok(Stream {
        manifest,
        shape,
        global_sequences,
        first: 0,
        spec: spec.clone(),
        tokens,
        schedule,
        sources,
        validation,
        data_hash,
    })
}

fn check_shape(spec: &DataSpec, shape: BatchShape, global_sequences: u64) -> Result<()> {
    let refuse = |message: Said| Err(Error::spec(message));
    if shape.context != spec.context {
        return refuse(say!(
            "the batch has context {of_batch}, the specification {of_spec}",
            "批的上下文为 {of_batch}，而规格为 {of_spec}",
            of_batch = shape.context,
            of_spec = spec.context
        ));
    }
    if shape.sequences == 0 || global_sequences == 0 {
        return refuse(say!("a batch of no sequences", "批中没有序列"));
    }
    if shape.tokens() > u64::from(u32::MAX) / 2 {
        return refuse(say!(
            "a micro-batch of {tokens} tokens exceeds 2^31 − 1",
            "{tokens} 词元的微批超过 2^31 − 1",
            tokens = shape.tokens()
        ));
    }
    if shape.max_documents < shape.sequences || !shape.max_documents.is_multiple_of(shape.sequences) {
        return refuse(say!(
            "max_documents is {documents}: give a multiple of the {sequences} sequences of the micro-batch",
            "max_documents 为 {documents}：请给出微批 {sequences} 条序列的倍数",
            documents = shape.max_documents,
            sequences = shape.sequences
        ));
    }
    if !global_sequences.is_multiple_of(u64::from(shape.sequences)) {
        return refuse(say!(
            "the global batch of {global_sequences} sequences is no multiple of the micro-batch of {sequences}",
            "全局批的 {global_sequences} 条序列不是微批 {sequences} 条的倍数",
            sequences = shape.sequences
        ));
    }
    Ok(())
}

fn built_source<'a>(dir: &Path, manifest: &'a Manifest, name: &str) -> Result<&'a SourceInfo> {
    manifest.sources.iter().find(|built| built.name == name).ok_or_else(|| {
        let built: Vec<_> = manifest.sources.iter().map(|s| s.name.as_str()).collect();
        Error::spec(say!(
            "{dir} holds the sources {built} and not `{name}`: run `llmc data build` again",
            "{dir} 中有来源 {built}，而没有 `{name}`：请重新运行 `llmc data build`",
            dir = dir.display(),
            built = built.join(", ")
        ))
    })
}

fn shards(
    dir: &Path,
    manifest: &Manifest,
    spec: &DataSpec,
    packing: Packing,
    split: &SplitInfo,
    source: usize,
) -> Result<Vec<Opened>> {
    let mut tokens = 0;
    let mut opened = Vec::new();
    for shard in &split.shards {
        let path = dir.join(shard);
        let listed = manifest.files.get(&format!("{shard}.idx"));
        let Some(listed) = listed.filter(|_| !shard.contains(['/', '\\'])) else {
            return Err(Error::corrupt(
                &path,
                None,
                say!("a shard beside the manifest and listed in it", "清单旁且列于其中的分片"),
                say!("neither", "两者皆非"),
            ));
        };
        let indexed = Indexed::open(&path, manifest.tokenizer.vocab)?;
        tokens += indexed.tokens();
        let rows = match packing {
            Packing::Concat => None,
            policy => {
                let key = XxHash3_64::oneshot(listed.xxh3.as_bytes());
                Some(PackIndex::open(&path, &indexed, policy, spec.context, key)?)
            }
        };
        opened.push(Opened { source: source as u32, tokens: indexed, rows });
    }
    if tokens != split.tokens {
        let expected = say!(
            "{tokens} tokens in the shards {shards:?}",
            "分片 {shards:?} 中共 {tokens} 词元",
            tokens = split.tokens,
            shards = split.shards
        );
        let found = say!("{tokens}", " {tokens}");
        return Err(Error::corrupt(&dir.join(MANIFEST), None, expected, found));
    }
    Ok(opened)
}

/// Everything that decides which tokens sample n holds.
fn data_hash(spec: &DataSpec, manifest: &Manifest, documents: u32, window: u64) -> Result<String> {
    let sources: Vec<_> =
        spec.sources.iter().map(|s| (&s.name, s.weight, s.min_share, s.max_share, s.importance)).collect();
    let documents = spec.document_mask.then_some(documents);
    let mix = (spec.mix.temperature, &spec.mix.stages, &spec.mix.dynamic, window);
    let parts = (manifest, sources, mix, spec.packing, documents, spec.context, spec.seed);
    let json = serde_json::to_vec(&parts).map_err(Error::inner)?;
    Ok(hex(&Sha256::digest(json)))
}

impl Stream {
    /// The micro-batch that data-parallel rank `rank` of `ranks` reads at a step. Micro-batches run
    /// from 0 to accumulation − 1, with accumulation = global sequences / (ranks · sequences).
    ///
    /// # Errors
    /// Coordinates outside the global batch, a source that runs out, a damaged shard.
    pub fn batch(&self, step: u64, micro_batch: u64, rank: u64, ranks: u64) -> Result<Batch> {
        let mut batch = Batch::default();
        self.fill(step, micro_batch, rank, ranks, &mut batch)?;
        Ok(batch)
    }

    /// As [`Stream::batch`], into a batch whose memory is reused: touching fresh memory would cost as
    /// much as everything else.
    ///
    /// # Errors
    /// As [`Stream::batch`]; the batch then holds nothing of use.
    pub fn fill(&self, step: u64, micro_batch: u64, rank: u64, ranks: u64, batch: &mut Batch) -> Result<()> {
        let sequences = u64::from(self.shape.sequences);
        let parts = self.global_sequences / sequences;
        let part = micro_batch.checked_mul(ranks).and_then(|p| p.checked_add(rank));
        let part = part.filter(|&part| rank < ranks && parts.is_multiple_of(ranks) && part < parts);
        let Some(part) = part else {
            return Err(Error::spec(say!(
                "micro-batch {micro_batch} of rank {rank} of {ranks} lies outside the global batch of {all} sequences, \
                 {sequences} at a time",
                "{ranks} 个 rank 中 rank {rank} 的微批 {micro_batch} 超出全局批的 {all} 条序列（每次 {sequences} 条）",
                all = self.global_sequences
            )));
        };
        let first = self.step_start(step)?;
        prepare(batch, self.shape);
        let mut scratch = Scratch::default();
        for (row, sample) in (first + part * sequences..first + (part + 1) * sequences).enumerate() {
            let (_, source, index) = self.locate(sample)?;
            source.samples.fill(index, row, batch, &mut scratch)?;
        }
        finish(batch, self.shape);
        Ok(())
    }

    /// Σ w over the whole global batch of a step: what every rank divides its loss sum by.
    ///
    /// # Errors
    /// A source that runs out, a damaged index.
    pub fn step_weight(&self, step: u64) -> Result<f64> {
        Ok(self.source_weights(step)?.iter().sum())
    }

    /// The same for each source, in the order of the specification. Whole numbers.
    ///
    /// # Errors
    /// As [`Stream::step_weight`].
    pub fn source_weights(&self, step: u64) -> Result<Vec<f64>> {
        let first = self.step_start(step)?;
        let mut weights = vec![0.0; self.sources.len()];
        let mut scratch = Scratch::default();
        for sample in first..first + self.global_sequences {
            let (number, source, index) = self.locate(sample)?;
            let weight = source.samples.weight(index, &mut scratch)?;
            weights.get_mut(number).into_iter().for_each(|sum| *sum += weight as f64);
        }
        Ok(weights)
    }

    /// Samples until a source has been read as often as its limit allows; `None` without limits.
    pub fn available_samples(&self) -> Option<u64> {
        let limits = self
            .sources
            .iter()
            .enumerate()
            .filter_map(|(index, source)| Some(self.schedule.reaches(index, source.limit()?)));
        limits.min()
    }

    /// Whether the samples before a step can be had as the mixture stands now.
    ///
    /// # Errors
    /// A source that runs out before it.
    pub fn reaches(&self, step: u64) -> Result<()> {
        let end = self.step_start(step)?;
        let sources = self.sources.iter().enumerate();
        let limits =
            sources.filter_map(|(n, source)| Some((self.schedule.reaches(n, source.limit()?), source)));
        let first = limits.min_by_key(|(available, _)| *available);
        match first.filter(|(available, _)| *available < end) {
            Some((available, source)) => Err(Error::Exhausted {
                name: source.name.clone(),
                epochs: source.max_epochs.unwrap_or(0.0),
                available,
                sample: end - 1,
            }),
            None => Ok(()),
        }
    }

    /// Name, share of the samples, and samples of one epoch of each source.
    pub fn sources(&self) -> Vec<(&str, f64, u64)> {
        let shares = self.schedule.realised(0);
        self.sources.iter().zip(shares).map(|(s, share)| (s.name.as_str(), share, s.samples.len())).collect()
    }

    /// Tokens of each source in the steps before a step, padding included; of a step that begins inside a
    /// window of the mixture, those before the window.
    ///
    /// # Errors
    /// A step beyond 2⁶⁴ samples.
    pub fn source_tokens(&self, step: u64) -> Result<BTreeMap<&str, u64>> {
        let start = self.step_start(step)?;
        let tokens =
            |source| self.schedule.count(source, start).saturating_mul(u64::from(self.shape.context));
        Ok(self.sources.iter().enumerate().map(|(n, source)| (source.name.as_str(), tokens(n))).collect())
    }

    /// Share of the training rows' tokens that is padding, measured over one epoch of each source in
    /// its share of the samples.
    pub fn padding(&self) -> f64 {
        let context = f64::from(self.shape.context);
        let shares = self.schedule.realised(0);
        let used = self.sources.iter().zip(shares).map(|(source, share)| {
            share * source.samples.tokens() as f64 / (source.samples.len() as f64 * context)
        });
        1.0 - used.sum::<f64>()
    }

    /// Batches of the validation split, the last one padded with sequences of no weight.
    pub fn validation_batches(&self) -> u64 {
        self.validation.len().div_ceil(u64::from(self.shape.sequences))
    }

    /// A validation batch. The order is shuffled once and for all, so a prefix is a fair sample of
    /// all sources and the same for every seed.
    ///
    /// # Errors
    /// A damaged shard.
    pub fn validation_batch(&self, index: u64) -> Result<Batch> {
        let samples = self.validation.len();
        let sequences = u64::from(self.shape.sequences);
        let mut batch = Batch::default();
        prepare(&mut batch, self.shape);
        let mut scratch = Scratch::default();
        for row in 0..sequences {
            let number = index.saturating_mul(sequences).saturating_add(row);
            let sample = if number < samples { permute(VALIDATION_KEY, samples, number) } else { samples };
            self.validation.fill(sample, row as usize, &mut batch, &mut scratch)?;
        }
        finish(&mut batch, self.shape);
        Ok(batch)
    }

    /// All validation batches.
    pub fn validation(&self) -> impl Iterator<Item = Result<Batch>> + '_ {
        (0..self.validation_batches()).map(|index| self.validation_batch(index))
    }

    /// Where the run stands before a step.
    ///
    /// # Errors
    /// A step beyond 2⁶⁴ samples.
    pub fn cursor(&self, step: u64) -> Result<Cursor> {
        Ok(Cursor { next_sample: self.step_start(step)?, data_hash: self.data_hash.clone() })
    }

    /// Continues at a cursor: `step` will read from its sample on, also if the global batch has
    /// another size than the run had before and the specification gives the mixture's window.
    ///
    /// # Errors
    /// The cursor is of other data, mixture, context or seed.
    pub fn resume(&mut self, step: u64, cursor: &Cursor) -> Result<()> {
        if cursor.data_hash != self.data_hash {
            return Err(Error::Cursor(say!(
                "the checkpoint was trained on other data (hash {before}) than this corpus and recipe give ({now}): \
                 restore sources, tokenizer, mix, its window (the global batch, unless mix.window is given), context \
                 and seed, or start a new run",
                "检查点训练所用的数据（哈希 {before}）与此语料和配方给出的（{now}）不同：请恢复来源、分词器、混合、\
                 其窗口（全局批，除非给出 mix.window）、上下文和种子，或开始新的运行",
                before = short(&cursor.data_hash),
                now = short(&self.data_hash)
            )));
        }
        self.first = i128::from(cursor.next_sample) - i128::from(step) * i128::from(self.global_sequences);
        Ok(())
    }

    /// Changes the weights from a step on, which must not have been read yet, or from the next window of
    /// the mixture if one does not begin there, and returns the entry
    /// for the ledger ([`crate::schedule::append_ledger`]).
    ///
    /// # Errors
    /// Unknown sources, shares that cannot be met, or a step before an earlier change.
    pub fn change_mix(
        &mut self,
        step: u64,
        weights: BTreeMap<String, f64>,
        reason: &str,
    ) -> Result<MixStage> {
        let at_sample = self.change_sample(step)?;
        let stage = MixStage { at_sample, start: None, weights, reason: reason.to_owned() };
        self.schedule.push(&self.spec, &self.tokens, &stage)?;
        Ok(stage)
    }

    /// The weights from a step on that follow from the mean loss of each source (none where it was not met) in a run of
    /// `steps` steps, for [`Stream::change_mix`]; none if the specification asks for no change, or a stage with shares
    /// of its own begins there. Floors, ceilings and what the epoch limits and later stages leave hold.
    ///
    /// # Errors
    /// A step beyond 2⁶⁴ samples.
    pub fn followed(
        &self,
        step: u64,
        steps: u64,
        losses: &[Option<f64>],
    ) -> Result<Option<BTreeMap<String, f64>>> {
        let Some(rule) = &self.spec.mix.dynamic else { return Ok(None) };
        let at = self.change_sample(step)?;
        let stage = self.schedule.stage_from(at);
        if stage == Some(at) {
            return Ok(None);
        }
        let end = self.step_start(steps)?;
        let until = stage.unwrap_or(end).min(end);
        let left = until.saturating_sub(at).max(1) as f64;
        let bound = |(index, (source, spec)): (usize, (&Source, &SourceSpec))| {
            // One sample less: a window may hold one more than its share.
            let count = |sample| self.schedule.count(index, sample);
            let later = count(end).saturating_sub(count(until));
            let rest = source.limit().map(|limit| limit.saturating_sub(count(at) + later + 1) as f64 / left);
            let most = spec.max_share.unwrap_or(1.0).min(rest.unwrap_or(1.0));
            (spec.min_share.unwrap_or(0.0).min(most), most)
        };
        let bounds: Vec<_> = self.sources.iter().zip(&self.spec.sources).enumerate().map(bound).collect();
        let references: Vec<f64> =
            self.sources.iter().map(|s| rule.references.get(&s.name).copied().unwrap_or(0.0)).collect();
        let shares = dynamic::follow(self.schedule.asked(at), losses, &references, rule, &bounds);
        Ok(Some(self.sources.iter().map(|s| s.name.clone()).zip(shares).collect()))
    }

    /// Where a change from a step on falls: at the step, or at the next window of the mixture.
    ///
    /// # Errors
    /// A step beyond 2⁶⁴ samples.
    pub fn change_sample(&self, step: u64) -> Result<u64> {
        Ok(self.schedule.window_after(self.step_start(step)?))
    }

    /// How the mixture follows losses, if it does.
    pub fn dynamic(&self) -> Option<&DynamicSpec> {
        self.spec.mix.dynamic.as_ref()
    }

    /// Makes the changes that a ledger holds, after [`open`] and before the first batch of a resumed
    /// run.
    ///
    /// # Errors
    /// As [`Stream::change_mix`].
    pub fn replay(&mut self, ledger: &[MixStage]) -> Result<()> {
        ledger.iter().try_for_each(|stage| self.schedule.push(&self.spec, &self.tokens, stage))
    }

    /// Hash of everything that decides which tokens a sample holds.
    pub fn data_hash(&self) -> &str {
        &self.data_hash
    }

    /// What the corpus says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn step_start(&self, step: u64) -> Result<u64> {
        let start = self.first + i128::from(step) * i128::from(self.global_sequences);
        // Leaves room for one more global batch, so that sums below cannot overflow.
        let last = u64::MAX - self.global_sequences;
        u64::try_from(start).ok().filter(|&start| start <= last).ok_or_else(|| {
            Error::spec(say!(
                "step {step} starts at sample {start}, outside of 0 to {last}",
                "第 {step} 步从样本 {start} 开始，超出 0 到 {last}"
            ))
        })
    }

    /// Number of a sample's source, the source, and which of its samples it is.
    fn locate(&self, sample: u64) -> Result<(usize, &Source, u64)> {
        let (index, count) = self.schedule.source(sample);
        let source = self
            .sources
            .get(index)
            .ok_or_else(|| Error::spec(say!("a corpus without sources", "没有来源的语料")))?;
        if source.limit().is_some_and(|limit| count >= limit) {
            return Err(Error::Exhausted {
                name: source.name.clone(),
                epochs: source.max_epochs.unwrap_or(0.0),
                available: self.available_samples().unwrap_or(0),
                sample,
            });
        }
        let samples = source.samples.len();
        let epoch_key = mix(source.key ^ (count / samples));
        Ok((index, source, permute(epoch_key, samples, count % samples)))
    }
}

impl Source {
    /// Samples this source may give.
    fn limit(&self) -> Option<u64> {
        self.max_epochs.map(|epochs| (epochs * self.samples.len() as f64) as u64)
    }
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
