//! Gradient norm and update of every layer, every so many steps: `layers.jsonl`.
//!
//! Seen from outside the program, at its `optimize` instructions. Not here: the norm over all layers, which every step
//! computes by itself.

use std::collections::BTreeMap;

use llmc_plan::op::{Op, Weights};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::Result;
use crate::failure::Outcome;
use crate::interpret::{Event, Observer};
use crate::meter::Measured;
use crate::ops::{split, squared_norm};

/// Records a run leaves.
const RECORDS: u64 = 100;

/// Fewest steps between two: a record reads every parameter twice and every gradient once more, as much as an update
/// does, which is 2 to 5 % of a step.
const LEAST_EVERY: u64 = 10;

/// Steps between records of a run of `steps`.
pub fn every(steps: u64) -> u64 {
    (steps / RECORDS).max(LEAST_EVERY)
}

/// One line of `layers.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayersRecord {
    /// Optimizer step, from 1.
    pub step: u64,
    /// Embedding, blocks, last norm, head.
    pub layers: Vec<LayerRecord>,
}

impl LayersRecord {
    /// As TensorBoard names them: `grad_norm/layers.0`, `update_ratio/layers.0`, …
    pub fn scalars(&self) -> Vec<(String, f64)> {
        let both = |l: &LayerRecord| {
            let named = |what: &str, value: Option<f64>| Some((format!("{what}/{}", l.name), value?));
            [named("grad_norm", l.grad_norm), named("update_ratio", l.update_ratio)]
        };
        self.layers.iter().flat_map(both).flatten().collect()
    }
}

/// A layer at a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// `layers.0`, `embed`, …
    pub name: String,
    /// Norm of its gradient before clipping. Null when not finite.
    pub grad_norm: Option<f64>,
    /// Norm of its parameters before the update.
    pub weight_norm: Option<f64>,
    /// Norm of the update over that of the parameters. About 1e-3 is customary (Karpathy's rule of thumb).
    pub update_ratio: Option<f64>,
}

/// Device scalars `[1]` of a layer: Σ g², Σ w², Σ Δw².
struct Sums([Tensor; 3]);

/// A step whose updates are measured.
pub struct Layers {
    /// Most bytes of a copy.
    scratch: u64,
    /// By which gradients are too large.
    scale: f64,
    /// Rows of embedding and head that are tokens; the rest pads them.
    vocab: i64,
    before: Option<(Tensor, i64)>,
    sums: BTreeMap<(u64, String), Sums>,
}

impl Layers {
    /// `scratch`: bytes that the update of a parameter may be compared in. Rows beyond that are sampled evenly: a
    /// program's workspace is idle while it updates, so that nothing is allocated beyond the plan. `scale`: by which
    /// gradients are too large (fp16). `vocab`: rows of embedding and head that count.
    pub fn new(scratch: u64, scale: f64, vocab: u64) -> Layers {
        Layers { scratch, scale, vocab: crate::ops::signed(vocab), before: None, sums: BTreeMap::new() }
    }

    /// Waits for the device.
    ///
    /// # Errors
    /// When the device failed.
    pub fn finish(self, step: u64) -> Outcome<LayersRecord> {
        let mut layers = Vec::new();
        for ((_, name), Sums(sums)) in self.sums {
            let [gradient, weight, update] = sums;
            let root = |t: &Tensor| -> Result<f64> { Ok(t.f_double_value(&[0])?.sqrt()) };
            let (gradient, weight, update) = (root(&gradient)? / self.scale, root(&weight)?, root(&update)?);
            let finite = |x: f64| Some(x).filter(|x| x.is_finite());
            layers.push(LayerRecord {
                name,
                grad_norm: finite(gradient),
                weight_norm: finite(weight),
                update_ratio: finite(update / weight),
            });
        }
        Ok(LayersRecord { step, layers })
    }

    fn start(&mut self, event: &Event<'_>) -> Result<()> {
        let (Some(gradient), Some(weight)) = (event.inputs.first(), self.weight(event)?) else {
            return Ok(());
        };
        let weight = &weight;
        let Sums([gradient_sq, weight_sq, _]) = self.sums(event)?;
        squared_norm(gradient, gradient_sq)?;
        squared_norm(weight, weight_sq)?;
        let rows = weight.size().first().copied().unwrap_or(1).max(1);
        // A split master is put together before and after, with what is in between.
        let each = if missing(event).is_some() { 16 } else { 4 };
        let row_bytes = crate::ops::elements(weight) / rows * each;
        let kept = (i64::try_from(self.scratch).unwrap_or(i64::MAX) / row_bytes.max(1)).max(1);
        let stride = (rows + kept - 1) / kept;
        self.before = Some((master(event, &sample(weight, stride)?, stride)?, stride));
        Ok(())
    }

    fn end(&mut self, event: &Event<'_>) -> Result<()> {
        let (Some((mut before, stride)), Some(weight)) = (self.before.take(), self.weight(event)?) else {
            return Ok(());
        };
        let weight = &weight;
        let after = match missing(event) {
            Some(_) => master(event, &sample(weight, stride)?, stride)?,
            None => sample(weight, stride)?,
        };
        let _ = before.f_sub_(&after)?;
        let share = crate::ops::elements(weight) as f64 / crate::ops::elements(&before) as f64;
        let part = zero(weight)?;
        squared_norm(&before, &part)?;
        let Sums([_, _, update_sq]) = self.sums(event)?;
        let _ = update_sq.f_add_(&part.f_mul_scalar(share)?)?;
        Ok(())
    }

    /// What the instruction updates, without padding.
    fn weight(&self, event: &Event<'_>) -> Result<Option<Tensor>> {
        let Some(weight) = event.outputs.first() else { return Ok(None) };
        let padded = event.parameter.is_some_and(|(spec, _)| ["embed", "head"].contains(&spec.name.as_str()));
        let rows = weight.size().first().copied().unwrap_or(0);
        let kept = if padded { rows.min(self.vocab) } else { rows };
        Ok(Some(weight.f_narrow(0, 0, kept)?))
    }

    fn sums(&mut self, event: &Event<'_>) -> Result<&mut Sums> {
        let spec = event.parameter.map(|(spec, _)| spec);
        // Blocks in order between what comes before and after them.
        let key = match spec.map(|s| (s.layer, s.name.as_str())) {
            Some((Some(layer), _)) => (1 + layer, format!("layers.{layer}")),
            Some((None, "embed")) => (0, "embed".to_owned()),
            Some((None, name)) => (u64::MAX, name.to_owned()),
            None => (u64::MAX, event.place.segment.clone()),
        };
        if !self.sums.contains_key(&key)
            && let Some(weight) = event.outputs.first()
        {
            self.sums.insert(key.clone(), Sums([zero(weight)?, zero(weight)?, zero(weight)?]));
        }
        self.sums.get_mut(&key).ok_or_else(|| crate::error::Error::Operand {
            op: "optimize",
            problem: "has no outputs".to_owned(),
        })
    }
}

fn zero(like: &Tensor) -> Result<Tensor> {
    Ok(Tensor::f_zeros([1], (Kind::Float, like.device()))?)
}

/// Every `stride`th row.
fn sample(t: &Tensor, stride: i64) -> Result<Tensor> {
    Ok(t.f_slice(0, None, None, stride)?)
}

/// What the updated weights lack of a split master.
fn missing<'e>(event: &Event<'e>) -> Option<&'e Tensor> {
    let split = matches!(&event.instr.op, Op::Optimize(o) if o.weights == Weights::Split);
    event.outputs.last().filter(|_| split)
}

/// A copy in f32 of sampled weights; of their masters where those are split.
fn master(event: &Event<'_>, weights: &Tensor, stride: i64) -> Result<Tensor> {
    let Some(missing) = missing(event) else { return copy(weights) };
    let rows = weights.size().first().copied().unwrap_or(0);
    let missing = sample(missing, stride)?.f_narrow(0, 0, rows)?;
    let flat = |t: &Tensor| t.f_contiguous()?.f_view([-1]);
    Ok(split::joined(&flat(weights)?, &flat(&missing)?)?.f_view(weights.size().as_slice())?)
}

/// A copy in f32 of its own.
fn copy(t: &Tensor) -> Result<Tensor> {
    let mut copy = Tensor::f_empty(t.size(), (Kind::Float, t.device()))?;
    copy.f_copy_(t)?;
    Ok(copy)
}

impl Observer for Layers {
    fn waits(&self) -> bool {
        false
    }

    fn before(&mut self, event: &Event<'_>) -> Outcome<()> {
        if matches!(event.instr.op, Op::Optimize(_)) {
            self.start(event)?;
        }
        Ok(())
    }

    fn after(&mut self, event: &Event<'_>, _measured: Measured, _seconds: (f64, f64)) -> Outcome<()> {
        if matches!(event.instr.op, Op::Optimize(_)) {
            self.end(event)?;
        }
        Ok(())
    }
}
