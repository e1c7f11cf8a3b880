//! The cost model: seconds and bytes of one layout, in closed form.
//!
//! `kernels` and `comm` know one operation each, `layer` adds them up to a layer, `memory` counts bytes a stage,
//! `step` assembles an optimizer step. Nothing here searches.

pub mod comm;
pub mod kernels;
pub mod layer;
pub mod memory;
mod own;
mod passes;
pub mod step;

use llmc_plan::plan::{Determinism, Master, Offload, OptimizerKind, Precision, Recompute, Schedule};

use crate::hardware::{Hardware, Kind};
use crate::profile::Profile;
use crate::shape::Shape;

/// Everything about a question that every layout shares.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Counts of the model.
    pub shape: Shape,
    /// The device.
    pub hardware: Hardware,
    /// Its efficiencies.
    pub profile: Profile,
    /// Machines.
    pub nodes: u64,
    /// Devices a machine.
    pub gpus_per_node: u64,
    /// Devices joined by the fast link; more than a machine has in a rack-wide NVLink domain.
    pub link_domain: u64,
    /// Sequences an optimizer step.
    pub sequences: u64,
    /// Number format.
    pub precision: Precision,
    /// Bit-equal or not.
    pub determinism: Determinism,
    /// Bytes per parameter by kind of state.
    pub state: StateBytes,
    /// Layers of each pipeline rank where a split was chosen; empty: as even as possible.
    pub split: Vec<u64>,
    /// Shares of the layers that recompute selectively and fully where a plan mixes policies; `None`: the point's policy.
    pub mixed: Option<(f64, f64)>,
    /// Share of parameters, gradients and optimizer states that the allocator reserves once more; 0 of our own runtime.
    pub state_slack: f64,
    /// What is reserved beside, as a share of the lesser of optimizer states and logits, where layers are recomputed.
    pub logit_slack: f64,
    /// Communicators besides those of the layout's groups.
    pub communicators: u64,
}

/// Bytes a parameter, by what they hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StateBytes {
    /// Weights the products read.
    pub weight: f64,
    /// Accumulated gradients (f32 in every precision).
    pub gradient: f64,
    /// What those of the blocks' matrices take less, where they are summed in 16 bits.
    pub narrower: f64,
    /// Gradients as they are sent to be reduced.
    pub reduced: f64,
    /// Master copy and moments.
    pub optimizer: f64,
    /// Of `optimizer`, what is in host memory under a paged optimizer.
    pub paged: f64,
    /// Bytes an element of what an update works through, where it is more than one kernel: a block of ours, all of a rank's
    /// share elsewhere.
    pub scratch: f64,
}

impl StateBytes {
    /// Weights, gradients, master and moments of an optimizer under a precision. bf16 with AdamW: 2 + 4 + 12 = 18
    /// (Megatron-LM, arXiv 2104.04473). A moment stored in one byte carries an f32 scale a block of 256
    /// (arXiv 2110.02861). Adafactor keeps row and column sums only (arXiv 1804.04235): below 0.01 B a parameter.
    /// A split master takes 2 B beside its weight, a stochastically rounded weight has none.
    pub fn new(precision: Precision, kind: OptimizerKind, moment_bytes: u64, master: Master) -> StateBytes {
        let weight = if precision == Precision::F32 { 4.0 } else { 2.0 };
        let master = match master {
            _ if precision == Precision::F32 => 0.0,
            Master::F32 => 4.0,
            Master::Split => 2.0,
            Master::Stochastic => 0.0,
        };
        let one = moment_bytes as f64 + if moment_bytes == 1 { 4.0 / 256.0 } else { 0.0 };
        let moments = match kind {
            OptimizerKind::Adamw | OptimizerKind::PagedAdamw => 2.0 * one,
            OptimizerKind::Lion => one,
            OptimizerKind::Adafactor => 0.01,
        };
        // The master travels with its moments: so the program pages them.
        let paged = if kind == OptimizerKind::PagedAdamw { master + moments } else { 0.0 };
        // AdamW is one kernel; the others work through blocks of f32 (plan/src/op/optimizer.rs).
        let scratch = if matches!(kind, OptimizerKind::Lion | OptimizerKind::Adafactor) { 8.0 } else { 0.0 };
        StateBytes {
            weight,
            gradient: 4.0,
            narrower: 0.0,
            reduced: 4.0,
            optimizer: master + moments,
            paged,
            scratch,
        }
    }
}

/// One point of the search space: a layout and its micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// Tensor-parallel ranks.
    pub tp: u64,
    /// Pipeline ranks.
    pub pp: u64,
    /// Context-parallel ranks.
    pub cp: u64,
    /// Virtual stages a rank.
    pub vp: u64,
    /// Data-parallel ranks.
    pub dp: u64,
    /// ZeRO stage.
    pub zero: u64,
    /// Ranks a sharded copy is spread over.
    pub shard: u64,
    /// Sequences a micro-batch.
    pub micro: u64,
    /// Recompute policy.
    pub recompute: Recompute,
    /// Offload policy.
    pub offload: Offload,
    /// Pipeline schedule.
    pub schedule: Schedule,
    /// Sequence parallelism.
    pub sp: bool,
}

impl Setting {
    /// Bytes of an activation element.
    pub fn act(&self) -> f64 {
        if self.precision == Precision::F32 { 4.0 } else { 2.0 }
    }

    /// All devices.
    pub fn gpus(&self) -> u64 {
        self.nodes * self.gpus_per_node
    }

    /// Whether the device is a GPU.
    pub fn cuda(&self) -> bool {
        self.hardware.kind == Kind::Cuda
    }

    /// Whether the program is our own lowering's, not another stack's that is scored.
    pub fn own(&self) -> bool {
        !self.shape.variant.whole_logits
    }

    /// Ranks that a sharded copy is spread over. Context-parallel ranks hold the same weights; other stacks shard over
    /// them too (Megatron-Bridge docs/training/memory-estimator.md, torchtitan), ours does not.
    pub fn sharded(&self, point: &Point) -> u64 {
        point.shard.max(1) * if self.own() { 1 } else { point.cp }
    }

    /// Micro-batches a step on one data-parallel rank.
    pub fn micro_batches(&self, point: &Point) -> u64 {
        self.sequences / (point.dp * point.micro)
    }

    /// Layers of pipeline rank `stage` of `pp`: as even as possible, the rest on the middle ranks first, because the
    /// first holds the embedding and the last the head.
    pub fn stage_layers(&self, pp: u64, stage: u64) -> u64 {
        if let Some(layers) = self.split.get(stage as usize) {
            return *layers;
        }
        let (each, rest) = (self.shape.layers / pp, self.shape.layers % pp);
        // Rank order of who gets one of the `rest`: 1, 2, …, pp−2, 0, pp−1.
        let turn = if pp == 1 {
            0
        } else if stage == 0 {
            pp - 2
        } else if stage == pp - 1 {
            pp - 1
        } else {
            stage - 1
        };
        each + u64::from(turn < rest)
    }
}
