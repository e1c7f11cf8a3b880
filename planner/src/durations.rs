//! How long an instruction of a [`Program`](llmc_plan::program::Program) takes, by the cost model's own kernels: the
//! walk over the program then predicts the step that the closed form predicts.

use llmc_plan::op::{Kind, Op, Recv, Send, TensorType};
use llmc_plan::program::{Axis, Instr};
use llmc_plan::walk::Durations;

use crate::cost::comm::{Group, all_reduce, scatter, send};
use crate::cost::kernels::{bandwidth, bitwise, gemm};
use crate::cost::{Point, Setting};

/// The cost model of one setting, for the walk.
pub struct Model<'a> {
    setting: &'a Setting,
    /// The same, in which a product does not cast its operands.
    cast: Setting,
    /// Ranks of each axis, and how many devices lie between neighbours.
    axes: [(Axis, u64, u64); 5],
}

impl<'a> Model<'a> {
    /// Times of instructions of one device under `setting`.
    pub fn new(setting: &'a Setting) -> Model<'a> {
        Model { setting, cast: cast(setting), axes: mesh(1, 1, 1, 1, 1) }
    }

    /// Times of instructions of a rank of `point`.
    pub fn of(setting: &'a Setting, point: &Point) -> Model<'a> {
        let shard = if point.zero == 0 { 1 } else { point.shard.max(1) };
        Model {
            setting,
            cast: cast(setting),
            axes: mesh(point.tp, point.cp, shard, point.dp / shard, point.pp),
        }
    }

    /// The ranks that an exchange along `axis` is among.
    fn group(&self, axis: Axis) -> Group {
        let found = self.axes.iter().find(|(a, ..)| *a == axis);
        let (ranks, apart) = found.map_or((1, 1), |(_, ranks, apart)| (*ranks, *apart));
        Group::strided(ranks, apart, self.setting.link_domain)
    }

    /// A kernel that moves bytes through device memory.
    fn pass(&self, bytes: f64) -> f64 {
        let s = self.setting;
        s.profile.fixed.stack * (bytes / bandwidth(s) + s.profile.gemm.launch)
    }

    fn exchange(&self, op: &Op, bytes: f64) -> f64 {
        let s = self.setting;
        match op {
            Op::AllReduce(op) => all_reduce(s, self.group(op.axis), bytes / 2.0),
            Op::Gather(op) => scatter(s, self.group(op.axis), whole(bytes, self.group(op.axis))),
            Op::ReduceScatter(op) => scatter(s, self.group(op.axis), whole(bytes, self.group(op.axis))),
            Op::Send(Send { axis, .. }) | Op::Recv(Recv { axis, .. }) => {
                send(s, bytes, s.nodes > 1 && self.group(*axis).nodes > 1)
            }
            _ => 0.0,
        }
    }

    fn attention(&self, op: &Op, inputs: &[TensorType], outputs: &[TensorType]) -> f64 {
        let s = self.setting;
        let p = &s.profile.attention;
        let narrow = if s.shape.head_dim < 128 { p.narrow_head } else { 1.0 };
        let flops = op.spec().flops(inputs, outputs);
        // The log-sum-exp and cumulative lengths aside, an output holds queries (forward) or all three (backward).
        let elements = outputs.first().map_or(0.0, |t| t.elements() as f64);
        let whole = matches!(op, Op::AttentionBackward(_));
        let backward = whole || matches!(op, Op::AttentionPartial(p) if p.backward);
        let (rate, each) = if backward && !whole {
            (p.backward, p.backward_element)
        } else if backward {
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

fn cast(setting: &Setting) -> Setting {
    let mut cast = setting.clone();
    cast.profile.gemm.fp8_cast_passes = 0.0;
    cast
}

/// Axes of a mesh, innermost first (plan/src/lower/shape.rs, `sizes`), each with its ranks and the devices between them.
fn mesh(tp: u64, cp: u64, shard: u64, replicate: u64, pp: u64) -> [(Axis, u64, u64); 5] {
    [
        (Axis::Tensor, tp, 1),
        (Axis::Context, cp, tp),
        (Axis::Shard, shard, tp * cp),
        (Axis::Replicate, replicate, tp * cp * shard),
        (Axis::Pipeline, pp, tp * cp * shard * replicate),
    ]
}

/// Of the bytes of a whole and of one rank's part of it, the whole's.
fn whole(both: f64, group: Group) -> f64 {
    both * group.ranks as f64 / (group.ranks + 1) as f64
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
                // Operands in 8 bits are cast by instructions of their own.
                let wide = a.dtype.bytes() > 1;
                let s = &self.cast;
                let sum = if added { outputs.first().map_or(0.0, |t| t.bytes() as f64) } else { 0.0 };
                stack * (gemm(s, m as f64, n as f64, k as f64, wide) + sum / bandwidth(s))
            }
            Kind::Attention => stack * self.attention(&instr.op, inputs, outputs),
            Kind::Memory => self.pass(bytes),
            Kind::Optimizer => bytes / (s.hardware.memory_bandwidth * s.profile.memory.optimizer),
            Kind::Collective => self.exchange(&instr.op, bytes),
            Kind::Copy => bytes / s.hardware.host_bandwidth,
            Kind::Host => 0.0,
        }
    }
    fn within_device(&self, instr: &Instr, inputs: &[TensorType], outputs: &[TensorType]) -> f64 {
        self.pass(instr.op.spec().bytes(inputs, outputs) as f64)
    }
}
