//! How long an instruction of a [`Program`](llmc_plan::program::Program) takes, by the cost model's own kernels: the
//! walk over the program then predicts the step that the closed form predicts.

use llmc_plan::op::{Kind, Op, TensorType};
use llmc_plan::program::Instr;
use llmc_plan::walk::Durations;

use crate::cost::Setting;
use crate::cost::comm::{Group, all_reduce, scatter, send};
use crate::cost::kernels::{bandwidth, bitwise, gemm};

/// The cost model of one setting, for the walk.
pub struct Model<'a> {
    setting: &'a Setting,
}

impl<'a> Model<'a> {
    /// Times of instructions under `setting`.
    pub fn new(setting: &'a Setting) -> Model<'a> {
        Model { setting }
    }

    fn attention(&self, op: &Op, inputs: &[TensorType], outputs: &[TensorType]) -> f64 {
        let s = self.setting;
        let p = &s.profile.attention;
        let narrow = if s.shape.head_dim < 128 { p.narrow_head } else { 1.0 };
        let flops = op.spec().flops(inputs, outputs);
        // The log-sum-exp and cumulative lengths aside, an output holds queries (forward) or all three (backward).
        let elements = outputs.first().map_or(0.0, |t| t.elements() as f64);
        let backward = matches!(op, Op::AttentionBackward(_));
        let (rate, each) = if backward {
            let packed = (s.shape.heads + 2 * s.shape.kv_heads) as f64 / s.shape.heads as f64;
            (p.backward, p.backward_element / packed)
        } else {
            (p.forward, p.forward_element)
        };
        let launches = if backward { 2.0 } else { 1.0 };
        let time = launches * s.profile.gemm.launch
            + flops / (s.hardware.peak_bf16 * narrow * rate)
            + elements * each;
        let heads = match op {
            Op::AttentionForward(a) => a.sequences * a.heads,
            Op::AttentionBackward(a) => a.forward.sequences * a.forward.heads,
            _ => return time,
        };
        let (slower_forward, slower_backward) = bitwise(s, heads as f64);
        time * if backward { slower_backward } else { slower_forward }
    }
}

impl Durations for Model<'_> {
    fn seconds(&self, instr: &Instr, inputs: &[TensorType], outputs: &[TensorType]) -> f64 {
        let s = self.setting;
        let spec = instr.op.spec();
        let stack = s.profile.fixed.stack;
        let bytes = spec.bytes(inputs, outputs) as f64;
        match spec.kind() {
            Kind::Gemm => {
                let (Op::Gemm(op), Some(a), Some(b)) = (&instr.op, inputs.first(), inputs.get(1)) else {
                    return 0.0;
                };
                let (m, n, k) = op.extents(a, b).unwrap_or((0, 0, 0));
                // The accumulator is read and written once more than the product's own store.
                let added = op.accumulate || op.add;
                let sum = if added { outputs.first().map_or(0.0, |t| t.bytes() as f64) } else { 0.0 };
                stack * (gemm(s, m as f64, n as f64, k as f64, false) + sum / bandwidth(s))
            }
            Kind::Attention => stack * self.attention(&instr.op, inputs, outputs),
            Kind::Memory => stack * (bytes / bandwidth(s) + s.profile.gemm.launch),
            Kind::Optimizer => bytes / (s.hardware.memory_bandwidth * s.profile.memory.optimizer),
            Kind::Collective => {
                let ranks = Group::strided(s.gpus(), 1, s.link_domain);
                match &instr.op {
                    Op::AllReduce(_) => all_reduce(s, ranks, bytes / 2.0),
                    Op::Send(_) | Op::Recv(_) => send(s, bytes, s.nodes > 1),
                    _ => scatter(s, ranks, bytes),
                }
            }
            Kind::Copy => bytes / s.hardware.host_bandwidth,
            Kind::Host => 0.0,
        }
    }
}
