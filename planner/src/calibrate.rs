//! `llmc calibrate`: run tables and logs of our own runs → fitted profiles, one a (stack, hardware family, precision), with a wider one a stack
//! and one over everything as priors and for what was never measured.
//!
//! Hierarchical: pooled → stack → group. Each level starts from the one above and may change at most one number per
//! five rows, only where that lowers the error on held-out fifths.

use std::collections::{BTreeMap, BTreeSet};

use llmc_plan::plan::Precision;

use crate::cost::memory::{stage_memory, totals};
use crate::fit::{Sample, choose, cross_validated, fit, fit_widely, mape, residuals};
use crate::fitted::{Evidence, Fitted, KNOBS, Knob, POOLED, Scale};
use crate::logs::OWN;
use crate::settle;
use crate::table::{Case, Peak};

/// Fewer rows than this have no profile of their own: one number needs five.
const LEAST: usize = 5;

/// From here on all knobs are fitted together.
const MANY: usize = 50;

/// Numbers of a profile over all stacks on one card.
const SHARED: usize = 3;

/// A row's place in the hierarchy.
type Key = (&'static str, String, Precision);

/// A measured peak and what the model says is reserved, without slack.
#[derive(Debug, Clone, PartialEq)]
pub struct Peaked {
    /// Row's name.
    pub id: String,
    /// Stack of the row.
    pub stack: &'static str,
    /// Slack of the base profile.
    pub base: f64,
    /// measured ÷ predicted without slack.
    pub ratio: f64,
}

/// A sample with where it belongs.
#[derive(Debug, Clone)]
pub struct Row {
    /// The sample.
    pub sample: Sample,
    /// The table's source column.
    pub source: String,
    /// What the table says beside its figures.
    pub remark: String,
    /// Stack, family, precision.
    pub key: Key,
}

/// The cases that can be fitted on: timed, and not marked as launch-bound toys.
pub fn rows(cases: &[Case]) -> Vec<Row> {
    cases.iter().cloned().filter_map(row).collect()
}

/// Peaks in a sense that includes the allocator's slack.
pub fn peaks(cases: &[Case]) -> Vec<Peaked> {
    let mut peaks = Vec::new();
    for case in cases {
        let Some(measured) = case.peak_bytes.filter(|_| case.slack.is_none()) else { continue };
        if !matches!(case.peak, Peak::Reserved | Peak::Device) {
            continue;
        }
        let base = case.setting.profile.fixed.slack;
        let mut setting = case.setting.clone();
        setting.profile.fixed.slack = 0.0;
        let stages = (0..case.point.pp).map(|i| stage_memory(&setting, &case.point, i));
        let tight = stages.map(|m| m.reserved).max().unwrap_or(0) as f64;
        let fixed = if case.peak == Peak::Device { totals(&case.setting, &case.point, 0.0).1 } else { 0.0 };
        let ratio = (measured - fixed) / tight.max(1.0);
        peaks.push(Peaked { id: case.id.clone(), stack: case.stack, base, ratio });
    }
    peaks
}

/// Adds each stack's slack, the median over its peaks, one number from five rows.
pub fn add_slack(all: &mut [Fitted], peaks: &[Peaked]) {
    for fitted in all.iter_mut() {
        let mut of: Vec<&Peaked> = peaks.iter().filter(|p| p.stack == fitted.stack).collect();
        of.sort_by(|a, b| a.ratio.total_cmp(&b.ratio));
        let Some(middle) = of.get(of.len() / 2).filter(|_| of.len() >= LEAST) else { continue };
        let factor = ((middle.ratio - 1.0) / middle.base).max(1e-3);
        fitted.scale.insert(Knob::Slack, settle4(factor));
        fitted.fit.peaks = of.len() as u64;
    }
}

fn row(case: Case) -> Option<Row> {
    let seconds = case.seconds.filter(|_| !case.memory_only)?;
    let key = (case.stack, case.setting.profile.name.clone(), case.setting.precision);
    let Case { id, setting, point, by_time, .. } = case;
    let sample = Sample { id, setting, point, seconds, by_time, weight: 1.0 };
    Some(Row { sample, source: case.source, remark: case.remark, key })
}

/// Fits all levels on `rows`.
pub fn calibrate(rows: &[Row]) -> Vec<Fitted> {
    refit(rows, None, None)
}

/// Fits all levels on `rows`; with `known`, keeps its choice of knobs and only fits their values; with `only`, leaves
/// out other stacks.
pub fn refit(rows: &[Row], known: Option<&[Fitted]>, only: Option<&[&str]>) -> Vec<Fitted> {
    let mut all = Vec::new();
    // vTrain's toys are of one machine and all launch-bound: they would drown the rest.
    let common: Vec<&Row> =
        rows.iter().filter(|r| !r.key.0.starts_with("vtrain") && r.key.0 != OWN).collect();
    let common: Vec<Row> = balanced(&common);
    let common: Vec<&Row> = common.iter().collect();
    let samples: Vec<&Sample> = common.iter().map(|r| &r.sample).collect();
    let pooled = level(POOLED, None, &samples, &Scale::new(), known);
    let top = pooled.as_ref().map(|f| f.scale.clone()).unwrap_or_default();
    all.extend(pooled);
    all.extend(groups(POOLED, &common, &top, known));
    let mut stacks: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        stacks.entry(row.key.0).or_default().push(row);
    }
    for (stack, rows) in stacks {
        if only.is_some_and(|only| !only.contains(&stack)) {
            continue;
        }
        // What other stacks showed says little about an eager Megatron of 2022, and the base profile is measured on
        // what our own runtime does.
        let alone = stack.starts_with("vtrain") || stack == OWN;
        let prior = if alone { Scale::new() } else { top.clone() };
        let samples: Vec<&Sample> = rows.iter().map(|r| &r.sample).collect();
        if rows.len() < LEAST {
            continue;
        }
        // Our own steps on one kind of device say nothing of another.
        let family = rows.first().map(|row| row.key.1.as_str()).filter(|_| stack == OWN);
        let family = family.filter(|family| rows.iter().all(|row| row.key.1 == *family));
        let wide = level(stack, family.map(|family| (family, None)), &samples, &prior, known);
        let start = wide.as_ref().map_or(prior, |f| f.scale.clone());
        let name = wide.as_ref().map(|f| f.name.clone());
        let narrow = groups(stack, &rows, &start, known).into_iter();
        let mut of_stack: Vec<Fitted> = wide.into_iter().collect();
        of_stack.extend(narrow.filter(|f| Some(&f.name) != name.as_ref()));
        if stack == OWN {
            name_device(&mut of_stack, &rows);
        }
        all.extend(of_stack);
    }
    all
}

/// Profiles of our own steps on one device bear its name: another card of the family has other memory, another clock
/// under load.
fn name_device(profiles: &mut [Fitted], rows: &[&Row]) {
    let devices: BTreeSet<&str> = rows.iter().map(|row| row.sample.setting.hardware.name.as_str()).collect();
    let (Some(device), 1) = (devices.first(), devices.len()) else { return };
    for profile in profiles {
        if let Some(family) = &profile.family {
            profile.name = profile.name.replacen(family.as_str(), &device.to_lowercase(), 1);
        }
        profile.hardware = Some((*device).to_owned());
    }
}

/// Rows weighted such that a source counts for one: what a stack without a profile is like is a question of stacks, not
/// of rows, and a source with a hundred of them is one stack all the same.
fn balanced(rows: &[&Row]) -> Vec<Row> {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        *count.entry(&row.source).or_default() += 1;
    }
    let weigh = |row: &&Row| {
        let of = count.get(row.source.as_str()).copied().unwrap_or(1) as f64;
        let mut row = (*row).clone();
        row.sample.weight = 1.0 / of;
        row
    };
    rows.iter().map(weigh).collect()
}

/// One level a (hardware family, precision) among `rows`, where they are of more than one; beneath one of the family
/// where a precision has too few rows to stand alone.
fn groups(stack: &str, rows: &[&Row], start: &Scale, known: Option<&[Fitted]>) -> Vec<Fitted> {
    let mut families: BTreeMap<&str, BTreeMap<&'static str, (Precision, Vec<&Sample>)>> = BTreeMap::new();
    for row in rows {
        let (_, family, precision) = &row.key;
        let group = families.entry(family).or_default().entry(word(*precision));
        group.or_insert((*precision, Vec::new())).1.push(&row.sample);
    }
    if families.values().map(BTreeMap::len).sum::<usize>() < 2 {
        return Vec::new();
    }
    let mut all = Vec::new();
    for (family, precisions) in families {
        let few = precisions.values().any(|(_, samples)| samples.len() < LEAST);
        let together: Vec<&Sample> = precisions.values().flat_map(|(_, s)| s.iter().copied()).collect();
        let wide = if few && precisions.len() > 1 && together.len() >= LEAST {
            level(stack, Some((family, None)), &together, start, known)
        } else {
            None
        };
        let start = wide.as_ref().map_or_else(|| start.clone(), |f| f.scale.clone());
        all.extend(wide);
        for (precision, samples) in precisions.into_values().filter(|(_, s)| s.len() >= LEAST) {
            all.extend(level(stack, Some((family, Some(precision))), &samples, &start, known));
        }
    }
    all
}

/// A precision as it stands in a file's name.
fn word(precision: Precision) -> &'static str {
    match precision {
        Precision::Bf16 => "bf16",
        Precision::Fp16 => "fp16",
        Precision::Fp8 => "fp8",
        Precision::F32 => "f32",
    }
}

/// One level; `None` when no number is worth fitting.
fn level(
    stack: &str,
    group: Option<(&str, Option<Precision>)>,
    samples: &[&Sample],
    prior: &Scale,
    known: Option<&[Fitted]>,
) -> Option<Fitted> {
    let name = match group {
        Some((family, Some(precision))) => format!("{family}-{stack}-{}", word(precision)),
        Some((family, None)) => format!("{family}-{stack}"),
        None => stack.to_string(),
    };
    if samples.len() < LEAST {
        return None;
    }
    // What all stacks on one card share is little: more numbers would describe the stacks at hand.
    let shared = stack == POOLED && group.is_some();
    let most = if shared { SHARED.min(samples.len() / 5) } else { samples.len() / 5 };
    let base = Scale::new();
    let (knobs, prior): (Vec<Knob>, &Scale) = match known {
        Some(known) => {
            let same = known.iter().find(|f| f.name == name)?;
            let start = if same.fit.from_base { &base } else { prior };
            (same.fit.knobs.iter().take(most).copied().collect(), start)
        }
        None => {
            // The level above is the better start, unless its rows were of another kind.
            let folds = 5.min(samples.len().max(1));
            // Contention was read off these very rows: it counts as a number fitted on them.
            let contended = samples.iter().any(|s| s.setting.profile.comm.contention > 0.0);
            let given: &[Knob] = if contended { &[Knob::Contention] } else { &[] };
            let tried = [prior, &base].map(|start| {
                // Many rows bear every knob, each held by its prior; few must choose.
                let knobs = if samples.len() < MANY || shared {
                    choose(samples, KNOBS, given, start, most)
                } else {
                    // Contention is 0 but where it was seen, and a factor of 0 is no number.
                    let all = KNOBS.iter().copied().filter(|k| *k != Knob::Contention);
                    all.take(samples.len() / 5).collect()
                };
                (cross_validated(samples, &knobs, start, folds), knobs, start)
            });
            let [inherited, fresh] = tried;
            if fresh.0 < 0.97 * inherited.0 { (fresh.1, fresh.2) } else { (inherited.1, inherited.2) }
        }
    };
    let from_base = prior.is_empty();
    if knobs.is_empty() && !from_base {
        return None;
    }
    // Over all stacks their kinds of network average out.
    let found =
        if stack == POOLED { fit(samples, &knobs, prior) } else { fit_widely(samples, &knobs, prior) };
    let scale: Scale = found.into_iter().map(|(k, v)| (k, settle4(v))).collect();
    let errors = residuals(samples, &scale);
    let families: BTreeSet<&str> = samples.iter().map(|s| s.setting.profile.name.as_str()).collect();
    let evidence = Evidence {
        rows: samples.len() as u64,
        families: families.into_iter().map(str::to_owned).collect(),
        from_base,
        peaks: 0,
        mape: settle4(mape(samples, &errors)),
        cross_validated: if known.is_some() {
            0.0
        } else {
            settle4(cross_validated(samples, &knobs, prior, 5.min(samples.len())))
        },
        knobs,
    };
    let residuals = samples.iter().zip(&errors).map(|(s, r)| (s.id.clone(), settle4(*r))).collect();
    Some(Fitted {
        name,
        stack: stack.to_string(),
        family: group.map(|g| g.0.to_string()),
        hardware: None,
        precision: group.and_then(|g| g.1),
        scale,
        fit: evidence,
        residuals,
    })
}

/// Four digits say all that a fit knows.
fn settle4(x: f64) -> f64 {
    settle(format!("{x:.3e}").parse().unwrap_or(x))
}

/// A fitted profile as its file.
///
/// # Errors
/// Never, in practice: the serializer's own error.
pub fn file(fitted: &Fitted) -> Result<String, String> {
    let runs = if fitted.stack == OWN { "our own steps" } else { "published runs" };
    let head = format!(
        "# Fitted by `llmc calibrate` on {runs}; factors on the base profile of the hardware family.\n\
         # residuals: ln(predicted / measured) seconds a step of each row used.\n"
    );
    toml::to_string(fitted).map(|body| format!("{head}{body}")).map_err(|e| e.to_string())
}
