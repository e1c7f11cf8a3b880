//! Robust, ridged least squares in log space: factors of a profile such that predicted step times meet measured ones.
//!
//! Levenberg–Marquardt on `x = ln factor` with residuals `ln(predicted ÷ measured)`, Huber weights and a quadratic
//! prior around given factors. Deterministic: fixed order, fixed iterations, no randomness.

use crate::cost::step::{compute, step};
use crate::cost::{Point, Setting};
use crate::fitted::{Knob, Scale};

/// One measured step.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Row's name.
    pub id: String,
    /// Figures of the run; its profile is the family's base.
    pub setting: Setting,
    /// Layout of the run.
    pub point: Point,
    /// Seconds a step.
    pub seconds: f64,
    /// The table gives this, not tokens per second: its error is of this.
    pub by_time: bool,
    /// How much the row counts: 1, less where many rows of one source would outvote the others.
    pub weight: f64,
}

/// Residuals beyond this count linearly: about the noise between releases of one stack.
const HUBER: f64 = 0.05;
/// Standard deviation of ln factor around its prior: a fitted number is seldom beyond a factor of two of it.
const PRIOR: f64 = 0.7;
/// Weight of one row against the prior: rows scatter by about 8 %.
const SCATTER: f64 = 0.08;
const ITERATIONS: usize = 60;

/// ln(predicted ÷ measured) of every sample under `scale`.
pub fn residuals(samples: &[&Sample], scale: &Scale) -> Vec<f64> {
    samples
        .iter()
        .map(|sample| {
            let mut setting = sample.setting.clone();
            for (knob, factor) in scale {
                knob.apply(&mut setting.profile, *factor);
            }
            let seconds = step(&setting, &sample.point, &compute(&setting, &sample.point)).total;
            libm::log(seconds / sample.seconds)
        })
        .collect()
}

/// Factors of `knobs` that meet `samples`, around `prior` (1 where it says nothing), which also gives all others.
pub fn fit(samples: &[&Sample], knobs: &[Knob], prior: &Scale) -> Scale {
    descend(samples, knobs, prior, 0.0).0
}

/// [`fit`] from two starts. Rate and latency of a network trade against each other along a ridge with a hollow at either end:
/// one start is a latency ten times as long.
pub fn fit_widely(samples: &[&Sample], knobs: &[Knob], prior: &Scale) -> Scale {
    let near = descend(samples, knobs, prior, 0.0);
    if !knobs.contains(&Knob::Latency) {
        return near.0;
    }
    let far = descend(samples, knobs, prior, 2.3);
    if far.1 < near.1 { far.0 } else { near.0 }
}

/// The factors and their cost, from `prior` with the logarithm of the latency's raised by `latency`.
fn descend(samples: &[&Sample], knobs: &[Knob], prior: &Scale, latency: f64) -> (Scale, f64) {
    let start: Vec<f64> = knobs.iter().map(|k| libm::log(*prior.get(k).unwrap_or(&1.0))).collect();
    let scale_of = |x: &[f64]| {
        let mut scale = prior.clone();
        for (knob, value) in knobs.iter().zip(x) {
            scale.insert(*knob, libm::exp(*value));
        }
        scale
    };
    let cost = |r: &[f64], x: &[f64]| {
        let rows: f64 = r
            .iter()
            .zip(samples)
            .map(|(r, sample)| {
                let a = r.abs();
                sample.weight * if a <= HUBER { a * a } else { 2.0 * HUBER * a - HUBER * HUBER }
            })
            .sum();
        let pull: f64 = x.iter().zip(&start).map(|(a, b)| (a - b) * (a - b)).sum();
        rows / (SCATTER * SCATTER) + pull / (PRIOR * PRIOR)
    };
    let first = |(x, knob): (&f64, &Knob)| if *knob == Knob::Latency { x + latency } else { *x };
    let mut x: Vec<f64> = start.iter().zip(knobs).map(first).collect();
    let mut r = residuals(samples, &scale_of(&x));
    let mut best = cost(&r, &x);
    let mut damping = 1e-2;
    let mut wide = true;
    for _ in 0..ITERATIONS {
        const STEP: f64 = 0.02;
        let columns: Vec<Vec<f64>> = (0..knobs.len())
            .map(|j| {
                let mut moved = x.clone();
                if let Some(value) = moved.get_mut(j) {
                    *value += STEP;
                }
                let there = residuals(samples, &scale_of(&moved));
                there.iter().zip(&r).map(|(a, b)| (a - b) / STEP).collect()
            })
            .collect();
        let robust = |r: &f64| (HUBER / r.abs().max(HUBER)) / (SCATTER * SCATTER);
        let weight: Vec<f64> = r.iter().zip(samples).map(|(r, s)| s.weight * robust(r)).collect();
        let dot =
            |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).zip(&weight).map(|((a, b), w)| a * b * w).sum() };
        let pull = 1.0 / (PRIOR * PRIOR);
        let gradient: Vec<f64> = columns
            .iter()
            .zip(x.iter().zip(&start))
            .map(|(c, (a, b))| -(dot(c, &r) + pull * (a - b)))
            .collect();
        let mut improved = false;
        for _ in 0..6 {
            let matrix: Vec<Vec<f64>> = columns
                .iter()
                .enumerate()
                .map(|(i, a)| {
                    let row = columns.iter().enumerate();
                    row.map(|(j, b)| {
                        let value = dot(a, b) + if i == j { pull } else { 0.0 };
                        if i == j { value * (1.0 + damping) } else { value }
                    })
                    .collect()
                })
                .collect();
            let Some(change) = solve(matrix, gradient.clone()) else { break };
            let moved: Vec<f64> = x.iter().zip(&change).map(|(a, d)| a + d.clamp(-0.7, 0.7)).collect();
            let there = residuals(samples, &scale_of(&moved));
            let value = cost(&there, &moved);
            if value < best {
                improved = best - value > 1e-5 * best;
                (x, r, best) = (moved, there, value);
                damping *= 0.3;
                break;
            }
            damping *= 5.0;
        }
        if improved {
            continue;
        }
        if !wide {
            break;
        }
        // A maximum of two terms hides a knob from the derivative: try each alone, far and near.
        wide = false;
        for j in 0..x.len() {
            for jump in [-1.6, 1.6, -0.6, 0.6, -0.2, 0.2, -0.07, 0.07] {
                let mut moved = x.clone();
                if let Some(value) = moved.get_mut(j) {
                    *value += jump;
                }
                let there = residuals(samples, &scale_of(&moved));
                let value = cost(&there, &moved);
                if value < best * (1.0 - 1e-4) {
                    (x, r, best) = (moved, there, value);
                    wide = true;
                }
            }
        }
        if !wide {
            break;
        }
        damping = 1e-2;
    }
    (scale_of(&x), best)
}

/// Gaussian elimination with pivoting; `None` for a singular matrix.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let n = b.len();
    for i in 0..n {
        let pivot = (i..n).max_by(|p, q| {
            let of = |r: &usize| a.get(*r).and_then(|row| row.get(i)).map_or(0.0, |v| v.abs());
            of(p).total_cmp(&of(q))
        })?;
        a.swap(i, pivot);
        b.swap(i, pivot);
        let top = a.get(i)?.clone();
        let diagonal = *top.get(i)?;
        if diagonal.abs() < 1e-12 {
            return None;
        }
        let right = *b.get(i)?;
        for r in i + 1..n {
            let row = a.get_mut(r)?;
            let factor = *row.get(i)? / diagonal;
            for (value, above) in row.iter_mut().zip(&top) {
                *value -= factor * above;
            }
            *b.get_mut(r)? -= factor * right;
        }
    }
    let mut x = vec![0.0; n];
    for i in (0..n).rev() {
        let row = a.get(i)?;
        let rest: f64 = row.iter().zip(&x).skip(i + 1).map(|(a, x)| a * x).sum();
        *x.get_mut(i)? = (b.get(i)? - rest) / row.get(i)?;
    }
    Some(x)
}

/// Knobs worth fitting beside `given`, greedily: each in turn the one that lowers the robust error most, until `most` are chosen or
/// none lowers it by 1.5 %. A quarter of the rows is held out in turn, so that a knob must help on rows it has not seen.
pub fn choose(
    samples: &[&Sample],
    candidates: &[Knob],
    given: &[Knob],
    prior: &Scale,
    most: usize,
) -> Vec<Knob> {
    // Sixty rows decide as well as a thousand.
    let stride = samples.len().div_ceil(60).max(1);
    let few: Vec<&Sample> = samples.iter().step_by(stride).copied().collect();
    let folds = if few.len() < 10 { few.len() } else { 4 };
    let mut chosen: Vec<Knob> = given.to_vec();
    let mut best = trimmed(&residuals(&few, prior));
    while chosen.len() < most {
        let mut next: Option<(f64, Knob)> = None;
        for knob in candidates.iter().filter(|k| !chosen.contains(k)) {
            let tried: Vec<Knob> = chosen.iter().copied().chain([*knob]).collect();
            let error = trimmed(&held_out(&few, &tried, prior, folds));
            if next.is_none_or(|(least, _)| error < least) {
                next = Some((error, *knob));
            }
        }
        match next {
            Some((error, knob)) if error < 0.985 * best => {
                best = error;
                chosen.push(knob);
            }
            _ => break,
        }
    }
    chosen
}

/// Error of what the sample's table gives, tokens per second or a step's time, from ln(predicted ÷ measured) seconds.
pub fn off(sample: &Sample, residual: f64) -> f64 {
    (libm::exp(if sample.by_time { residual } else { -residual }) - 1.0).abs()
}

/// Mean of [`off`].
pub fn mape(samples: &[&Sample], residuals: &[f64]) -> f64 {
    let sum: f64 = samples.iter().zip(residuals).map(|(s, r)| off(s, *r)).sum();
    sum / residuals.len().max(1) as f64
}

/// Mean of the smallest nine tenths of the errors: one run in ten may be a one-off (a slow node, a wrong cell) and must
/// not decide which numbers are fitted.
fn trimmed(residuals: &[f64]) -> f64 {
    let mut sorted: Vec<f64> = residuals.iter().map(|r| r.abs()).collect();
    sorted.sort_by(f64::total_cmp);
    let kept = (sorted.len() * 9).div_ceil(10).max(1);
    sorted.iter().take(kept).sum::<f64>() / kept as f64
}

/// Error over `folds` held-out parts, each predicted by factors fitted on the others; rows alternate between parts.
pub fn cross_validated(samples: &[&Sample], knobs: &[Knob], prior: &Scale, folds: usize) -> f64 {
    mape(samples, &held_out(samples, knobs, prior, folds))
}

/// ln(predicted ÷ measured) of every sample, by factors fitted without its part.
fn held_out(samples: &[&Sample], knobs: &[Knob], prior: &Scale, folds: usize) -> Vec<f64> {
    let mut held = vec![0.0; samples.len()];
    for fold in 0..folds {
        let part = |inside: bool| -> Vec<&Sample> {
            let all = samples.iter().enumerate();
            all.filter(|(i, _)| (i % folds == fold) == inside).map(|(_, s)| *s).collect()
        };
        let scale = fit(&part(false), knobs, prior);
        let places = held.iter_mut().skip(fold).step_by(folds);
        places.zip(residuals(&part(true), &scale)).for_each(|(place, residual)| *place = residual);
    }
    held
}
