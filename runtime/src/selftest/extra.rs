//! Ops that no program of one device holds, on operands made here. Collectives need ranks and are not here.

use llmc_plan::op::{
    Accumulate, AdjustScale, AttentionMerge, AttentionPartial, CrossEntropyEvalParts, CrossEntropyPart,
    CrossEntropyTrainParts, NormBackwardInput, NormBackwardWeight, Op, Quantise, ScaleLoss, UnscaleNorms,
};
use tch::{Device, Kind, Tensor};

use super::lockstep::Lockstep;
use crate::failure::Outcome;
use crate::host::{Session, Source};
use crate::ops::{Context, execute};

/// Two sequences of eight tokens, four query heads on two key-value heads of sixteen.
const TOKENS: i64 = 16;
const HEADS: u64 = 4;
const KV_HEADS: u64 = 2;
const HEAD_DIM: u64 = 16;

/// Compares every one of them.
///
/// # Errors
/// The failure of an op.
pub fn compare(lockstep: &mut Lockstep) -> Outcome<()> {
    let _no_grad = tch::no_grad_guard();
    tch::manual_seed(1);
    let kind = lockstep.kind();
    let (width, kv_width) = ((HEADS * HEAD_DIM) as i64, (2 * KV_HEADS * HEAD_DIM) as i64);
    let random = |columns: i64| -> Outcome<Tensor> {
        Ok(Tensor::f_randn([TOKENS, columns], (Kind::Float, Device::Cpu))?.f_to_kind(kind)?)
    };
    let zeros = |columns: i64, kind| Tensor::f_zeros([TOKENS, columns], (kind, Device::Cpu));
    let lse = || Tensor::f_zeros([HEADS as i64, TOKENS], (Kind::Float, Device::Cpu));

    one(lockstep, Accumulate {}, &[random(width)?], &[zeros(width, Kind::Float)?])?;
    let eight_bit = zeros(width, Kind::Float8e4m3fn)?;
    let turned = Tensor::f_zeros([width, TOKENS], (Kind::Float8e4m3fn, Device::Cpu))?;
    let scale = Tensor::f_zeros([1], (Kind::Float, Device::Cpu))?;
    one(lockstep, Quantise {}, &[random(width)?], &[eight_bit, turned, scale])?;

    // fp16 alone scales its loss.
    let scalar = |value: f64| Tensor::f_full([1], value, (Kind::Float, Device::Cpu));
    one(lockstep, ScaleLoss {}, &[scalar(0.01)?, scalar(4096.0)?], &[scalar(0.0)?])?;
    one(lockstep, UnscaleNorms {}, &[scalar(4096.0)?], &[scalar(3e7)?, scalar(2e7)?])?;
    for skip in [0.0, 1.0] {
        let outputs = [scalar(1.5)?, scalar(4096.0)?, scalar(1999.0)?];
        one(lockstep, AdjustScale::CUSTOMARY, &[scalar(skip)?], &outputs)?;
    }

    // A norm's gradients apart, as frozen weights leave them.
    let (dy, x, weight) = (random(width)?, random(width)?, random(width)?.f_get(0)?);
    let rstd = Tensor::f_ones([TOKENS], (Kind::Float, Device::Cpu))?;
    let dx = [zeros(width, kind)?];
    let inputs = [&dy, &x, &weight, &rstd].map(Tensor::shallow_clone);
    one(lockstep, NormBackwardInput { accumulate: true }, &inputs, &dx)?;
    let dw = [Tensor::f_zeros([width], (Kind::Float, Device::Cpu))?];
    one(lockstep, NormBackwardWeight {}, &[dy, x, rstd], &dw)?;

    loss_in_parts(lockstep, [random(width)?, random(width)?])?;

    let partial = |key_offset, backward| AttentionPartial {
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        sequences: 2,
        query_offset: 8,
        key_offset,
        backward,
    };
    let q = random(width)?;
    let mut running: Option<[Tensor; 2]> = None;
    let blocks = [(8, random(kv_width)?), (0, random(kv_width)?)];
    for (key_offset, kv) in &blocks {
        let part = [zeros(width, Kind::Float)?, lse()?]; // partial results are merged in f32
        one(lockstep, partial(*key_offset, false), &[q.shallow_clone(), kv.shallow_clone()], &part)?;
        match &running {
            None => running = Some(part),
            Some(running) => one(lockstep, AttentionMerge { heads: HEADS }, &part, running)?,
        }
    }
    let Some([out, log_sum]) = running else { return Ok(()) };
    let out = out.f_to_kind(kind)?;
    for (key_offset, kv) in &blocks {
        let inputs = [&q, kv, &random(width)?, &out, &log_sum].map(Tensor::shallow_clone);
        let outputs = [zeros(width, kind)?, zeros(kv_width, kind)?];
        one(lockstep, partial(*key_offset, true), &inputs, &outputs)?;
    }
    Ok(())
}

/// The loss of two ranks that share a vocabulary, some columns of the second padding it, over each one's logits.
fn loss_in_parts(lockstep: &mut Lockstep, logits: [Tensor; 2]) -> Outcome<()> {
    let scalar = || Tensor::f_zeros([1], (Kind::Float, Device::Cpu));
    let columns = (HEADS * HEAD_DIM) as i64;
    let targets = Tensor::f_randint(2 * columns - 3, [TOKENS], (Kind::Int64, Device::Cpu))?;
    let weights = Tensor::f_rand([TOKENS], (Kind::Float, Device::Cpu))?;
    let parts = Tensor::f_zeros([2 * TOKENS, 3], (Kind::Float, Device::Cpu))?;
    let columns_of = |rank: i64| ((rank * columns) as u64, (columns - 3 * rank) as u64);
    for (rank, logits) in (0..).zip(&logits) {
        let (first, vocab) = columns_of(rank);
        let part = parts.f_narrow(0, rank * TOKENS, TOKENS)?;
        let inputs = [logits, &targets].map(Tensor::shallow_clone);
        one(lockstep, CrossEntropyPart { first, vocab }, &inputs, &[part])?;
    }
    let inputs = [&parts, &weights].map(Tensor::shallow_clone);
    one(lockstep, CrossEntropyEvalParts {}, &inputs, &[scalar()?])?;
    for (rank, logits) in (0..).zip(logits) {
        let (first, vocab) = columns_of(rank);
        let inputs = [&parts, &targets, &weights, &weights.f_narrow(0, 0, 1)?].map(Tensor::shallow_clone);
        one(lockstep, CrossEntropyTrainParts { first, vocab }, &inputs, &[logits, scalar()?])?;
    }
    Ok(())
}

/// Runs one op on the CPU and on the device.
fn one(lockstep: &mut Lockstep, op: impl Into<Op>, inputs: &[Tensor], outputs: &[Tensor]) -> Outcome<()> {
    let op = op.into();
    let mut host = Session::new(Source::None);
    let mut context = Context {
        seed: 1,
        step: 0,
        layer: 0,
        micro_batch: 0,
        first_token: 0,
        parameter: None,
        host: &mut host,
    };
    lockstep.prepare(inputs, outputs)?;
    execute(&op, &mut context, inputs, outputs)?;
    lockstep.compare(&op, &mut context, outputs)
}
