//! Mixtures that follow one another: the stages of a curriculum, and the ledger of a mixture that is
//! changed while it runs. Both are lists of [`MixStage`]; replaying the list gives the same samples.
//!
//! A change falls between two windows of the mixture, so no document is lost or repeated at it: every
//! source goes on where it was. A change of the ledger holds until the next stage, which begins with its own shares.

use crate::error::{Error, Result};
use crate::mix::shares;
use crate::stratified::{MOST_SAMPLES, Mixture};
use llmc_plan::data::{DataSpec, MixStage};
use llmc_plan::say;
use std::io::Write;
use std::path::Path;

/// The source of every sample of a run.
pub struct Schedule {
    /// At least one; the first begins at sample 0.
    parts: Vec<Part>,
    /// Samples of a window of every part.
    window: u64,
    /// Where the last change begins.
    changed: u64,
    /// Where the stages of the specification begin.
    stages: Vec<u64>,
}

struct Part {
    first: u64,
    mixture: Mixture,
    /// The shares that were asked for.
    shares: Vec<f64>,
    /// Samples of each source before `first`.
    before: Vec<u64>,
}

impl Schedule {
    /// The specification's mixture and its stages, in windows of `window` samples. `tokens` are the
    /// sources' training tokens.
    ///
    /// # Errors
    /// Shares that cannot be met, or stages that do not ascend, fall inside a window or name an unknown
    /// source.
    pub fn new(spec: &DataSpec, tokens: &[u64], window: u64) -> Result<Self> {
        if !(1..=MOST_SAMPLES).contains(&window) {
            return Err(Error::spec(say!(
                "the mixture has a window of {window} samples: give 1 to {MOST_SAMPLES} as mix.window",
                "混合的窗口为 {window} 个样本：请将 mix.window 设为 1 到 {MOST_SAMPLES}"
            )));
        }
        let shares = shares(spec, tokens)?;
        let mixture = Mixture::new(&shares, window);
        let first = Part { first: 0, mixture, shares, before: vec![0; tokens.len()] };
        let mut schedule = Self { parts: vec![first], window, changed: 0, stages: Vec::new() };
        for stage in &spec.mix.stages {
            schedule.push(spec, tokens, stage)?;
        }
        schedule.changed = 0;
        schedule.stages = spec.mix.stages.iter().map(|stage| stage.at_sample).collect();
        Ok(schedule)
    }

    /// Adds a change after all others, which holds until the next stage of the specification.
    ///
    /// # Errors
    /// As [`Schedule::new`].
    pub fn push(&mut self, spec: &DataSpec, tokens: &[u64], stage: &MixStage) -> Result<()> {
        if let Some(start) = stage.start {
            return Err(Error::spec(say!(
                "mix.stages: a stage begins at {percent} % of a run whose steps are not known here: give at_sample",
                "mix.stages：有阶段从运行的 {percent} % 开始，而这里不知道总步数：请给出 at_sample",
                percent = 100.0 * start
            )));
        }
        let (at, last) = (stage.at_sample, self.changed);
        if last > at || at == 0 {
            return Err(Error::spec(say!(
                "mix.stages: a stage at sample {at} follows one at sample {last}: list them in ascending order, from \
                 sample 1 on",
                "mix.stages：样本 {at} 处的阶段排在样本 {last} 处的之后：请从样本 1 起按升序列出"
            )));
        }
        if !at.is_multiple_of(self.window) {
            return Err(Error::spec(say!(
                "mix.stages: sample {at} lies inside a window of {window} samples: begin the stage at {before} or {after}",
                "mix.stages：样本 {at} 位于 {window} 个样本的窗口之内：请让该阶段从 {before} 或 {after} 开始",
                window = self.window,
                before = at / self.window * self.window,
                after = self.window_after(at)
            )));
        }
        let mut changed = spec.clone();
        for (name, &weight) in &stage.weights {
            let source = changed.sources.iter_mut().find(|source| source.name == *name);
            let valid = weight.is_finite() && weight > 0.0 && weight <= 1e6;
            let Some(source) = source.filter(|_| valid) else {
                return Err(Error::spec(say!(
                    "mix.stages at sample {at}: weight {weight} for `{name}`: name a source of this specification and \
                     give a number above 0",
                    "mix.stages 样本 {at} 处：`{name}` 的权重为 {weight}：请指定本规格中的来源，并给出大于 0 的数"
                )));
            };
            source.weight = Some(weight);
        }
        let shares = shares(&changed, tokens)?;
        let mixture = Mixture::new(&shares, self.window);
        // A stage that begins where another does replaces it; those after it go on from other counts.
        let mut later = self.parts.split_off(self.parts.partition_point(|part| part.first < at));
        later.retain(|part| part.first > at);
        for part in std::iter::once(Part { first: at, mixture, shares, before: Vec::new() }).chain(later) {
            let before = (0..tokens.len()).map(|source| self.count(source, part.first)).collect();
            self.parts.push(Part { before, ..part });
        }
        self.changed = at;
        Ok(())
    }

    /// The first stage of the specification that begins at a sample or after it.
    pub fn stage_from(&self, sample: u64) -> Option<u64> {
        self.stages.iter().copied().find(|&at| at >= sample)
    }

    fn part(&self, sample: u64) -> Option<&Part> {
        let after = self.parts.partition_point(|part| part.first <= sample);
        self.parts.get(after.saturating_sub(1))
    }

    /// Source of a sample, and its number among the samples of that source.
    pub fn source(&self, sample: u64) -> (usize, u64) {
        let Some(part) = self.part(sample) else { return (0, sample) };
        let (source, count) = part.mixture.source(sample - part.first);
        (source, part.before.get(source).copied().unwrap_or(0) + count)
    }

    /// How many samples of `source` come before the window that holds `sample`.
    pub fn count(&self, source: usize, sample: u64) -> u64 {
        let Some(part) = self.part(sample) else { return 0 };
        let before = part.before.get(source).copied().unwrap_or(0);
        before.saturating_add(part.mixture.before(source, (sample - part.first) / self.window))
    }

    /// The first sample whose number in its source is `number` or higher; saturates.
    pub fn reaches(&self, source: usize, number: u64) -> u64 {
        let before = |part: &Part| part.before.get(source).copied().unwrap_or(0);
        let after = self.parts.partition_point(|part| before(part) <= number);
        // Where a part has none of the source, the next part begins with the same count.
        let Some(part) = self.parts.get(after.saturating_sub(1)) else { return u64::MAX };
        part.mixture.reaches(source, number - before(part)).saturating_add(part.first)
    }

    /// The first window that begins at a sample or after it; saturates.
    pub fn window_after(&self, sample: u64) -> u64 {
        sample.div_ceil(self.window).saturating_mul(self.window)
    }

    /// The share each source was to have at a sample.
    pub fn asked(&self, sample: u64) -> &[f64] {
        self.part(sample).map_or(&[], |part| &part.shares)
    }

    /// The share each source has at a sample.
    pub fn realised(&self, sample: u64) -> Vec<f64> {
        self.part(sample).map(|part| part.mixture.realised()).unwrap_or_default()
    }
}

/// The stages a ledger holds, in order; none if there is no file. A last line that a kill cut short was never
/// followed, and goes.
///
/// # Errors
/// A line that is no stage.
pub fn read_ledger(path: &Path) -> Result<Vec<MixStage>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io("read", path))?,
    };
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    if whole < text.len() {
        let file = std::fs::OpenOptions::new().write(true).open(path);
        file.and_then(|file| file.set_len(whole as u64)).map_err(Error::io("write", path))?;
    }
    let text = text.get(..whole).unwrap_or_default();
    let stage = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| {
            Error::corrupt(
                path,
                None,
                say!(
                    "a change of the mixture on line {line}",
                    "第 {line} 行为混合比例的变更",
                    line = number + 1
                ),
                say!("{e}", " {e}"),
            )
        })
    };
    text.lines().enumerate().filter(|(_, line)| !line.is_empty()).map(stage).collect()
}

/// Appends a stage to a ledger and waits until it is on the device: it must be there before the first
/// sample it changes is used.
///
/// # Errors
/// The system's.
pub fn append_ledger(path: &Path, stage: &MixStage) -> Result<()> {
    let mut line = serde_json::to_vec(stage).map_err(Error::inner)?;
    line.push(b'\n');
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let mut file = file.map_err(Error::io("open", path))?;
    file.write_all(&line).and_then(|()| file.sync_all()).map_err(Error::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn spec() -> DataSpec {
        serde_json::from_str(
            r#"{"tokenizer": {"vocab": 300}, "context": 8, "sources":
               [{"name": "a", "globs": ["a"]}, {"name": "b", "globs": ["b"]}, {"name": "c", "globs": ["c"]}]}"#,
        )
        .unwrap()
    }

    fn stage(at_sample: u64, a: f64, b: f64) -> MixStage {
        let weights = BTreeMap::from([("a".into(), a), ("b".into(), b), ("c".into(), 1.0)]);
        MixStage { at_sample, start: None, weights, reason: String::new() }
    }

    proptest! {
        #[test]
        fn every_source_goes_on_where_it_was(
            mut cuts in prop::collection::vec((1u64..60, 1u32..20, 1u32..20), 0..5),
            mut ledger in prop::collection::vec((1u64..60, 1u32..20, 1u32..20), 0..5), window in 1u64..12
        ) {
            cuts.sort_unstable();
            ledger.sort_unstable();
            let mut spec = spec();
            let stage = |&(at, a, b): &(u64, u32, u32)| stage(at * window, f64::from(a), f64::from(b));
            spec.mix.stages = cuts.iter().map(stage).collect();
            let mut schedule = Schedule::new(&spec, &[5, 3, 2], window).unwrap();
            // Changes of the ledger fall before, between and after the stages.
            for change in &ledger {
                schedule.push(&spec, &[5, 3, 2], &stage(change)).unwrap();
            }
            let mut seen = [(); 3].map(|()| std::collections::BTreeSet::new());
            for sample in 0..600 / window * window {
                if sample.is_multiple_of(window) {
                    for (source, seen) in seen.iter().enumerate() {
                        prop_assert_eq!(schedule.count(source, sample), seen.len() as u64);
                        // All numbers so far, and none above.
                        prop_assert!(seen.last().is_none_or(|&last| last + 1 == seen.len() as u64));
                    }
                }
                let (source, number) = schedule.source(sample);
                prop_assert!(seen[source].insert(number), "twice");
                prop_assert!(schedule.reaches(source, number) <= sample);
            }
        }
    }

    #[test]
    fn a_change_holds_until_the_next_stage() {
        let mut spec = spec();
        spec.mix.stages = vec![stage(40, 2.0, 2.0), stage(80, 3.0, 3.0)];
        let mut schedule = Schedule::new(&spec, &[1, 1, 1], 10).unwrap();
        for (at, a) in [(20, 7.0), (60, 9.0)] {
            schedule.push(&spec, &[1, 1, 1], &stage(at, a, 1.0)).unwrap();
        }
        let asked =
            [0, 19, 20, 39, 40, 59, 60, 79, 80, 999].map(|at| (schedule.asked(at)[0] * 100.0).round());
        let (even, first, second) = (33.0, 40.0, 43.0);
        assert_eq!(asked, [even, even, 78.0, 78.0, first, first, 82.0, 82.0, second, second]);
        assert_eq!([0, 40, 41, 81].map(|at| schedule.stage_from(at)), [Some(40), Some(40), Some(80), None]);
        let error = schedule.push(&spec, &[1, 1, 1], &stage(50, 1.0, 1.0)).unwrap_err().to_string();
        assert!(error.contains("a stage at sample 50 follows one at sample 60"), "{error}");
    }

    #[test]
    fn a_ledger_replays_and_refuses_what_is_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mix.jsonl");
        assert!(read_ledger(&path).unwrap().is_empty());
        let stages = [stage(64, 2.0, 1.0), stage(128, 1.0, 3.0)];
        stages.iter().for_each(|stage| append_ledger(&path, stage).unwrap());
        assert_eq!(read_ledger(&path).unwrap(), stages);
        let torn = [std::fs::read(&path).unwrap(), b"{\"at_sample\": 19".to_vec()].concat();
        std::fs::write(&path, torn).unwrap();
        assert_eq!(read_ledger(&path).unwrap(), stages);
        append_ledger(&path, &stage(192, 1.0, 1.0)).unwrap();
        assert_eq!(read_ledger(&path).unwrap().len(), 3);
        std::fs::write(&path, "{\"at_sample\": 1\n").unwrap();
        let error = read_ledger(&path).unwrap_err().to_string();
        assert!(error.contains("a change of the mixture on line 1"), "{error}");
        let mut spec = spec();
        spec.mix.stages = vec![stage(64, 1.0, 1.0), stage(63, 1.0, 1.0)];
        let error = Schedule::new(&spec, &[1, 1, 1], 1).err().unwrap().to_string();
        assert!(error.contains("a stage at sample 63 follows one at sample 64"), "{error}");
        let error = Schedule::new(&spec, &[1, 1, 1], 48).err().unwrap().to_string();
        assert!(
            error.contains("sample 64 lies inside a window of 48 samples: begin the stage at 48 or 96"),
            "{error}"
        );
    }
}
