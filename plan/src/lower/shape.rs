//! The sizes one rank works with, and the checks that make every later division exact.

use super::pipeline::{Action, Pipe, Windows, actions, windows};
use super::{LowerError, Options};
use crate::plan::{DType, Offload, OptimizerKind, Plan, Precision, Recompute, Schedule, StageLayers};
use crate::program::Axis;

/// A rank's place on each axis of the mesh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coordinates {
    /// Among the tensor-parallel ranks.
    pub tensor: u64,
    /// Among the context-parallel ranks.
    pub context: u64,
    /// Inside the shard group.
    pub shard: u64,
    /// Which shard group.
    pub replicate: u64,
    /// Pipeline rank.
    pub pipeline: u64,
}

impl Coordinates {
    /// Coordinates of a global rank: tensor ranks are neighbours, then context, shard, replicate, pipeline
    /// ranks (the order of Megatron-LM: the axis that talks most is innermost).
    pub fn of_rank(plan: &Plan, rank: u64) -> Coordinates {
        let mut rest = rank;
        let [tensor, context, shard, replicate, pipeline] = sizes(plan).map(|(_, size)| {
            let size = size.max(1);
            let coordinate = rest % size;
            rest /= size;
            coordinate
        });
        Coordinates { tensor, context, shard, replicate, pipeline }
    }

    fn along(&self) -> [u64; 5] {
        [self.tensor, self.context, self.shard, self.replicate, self.pipeline]
    }
}

/// Sizes of the mesh axes, innermost first. Without ZeRO every data-parallel rank is a replica.
fn sizes(plan: &Plan) -> [(Axis, u64); 5] {
    let l = &plan.layout;
    let shard = if l.zero_stage == 0 { 1 } else { l.shard_group.max(1) };
    [
        (Axis::Tensor, l.tp),
        (Axis::Context, l.cp),
        (Axis::Shard, shard),
        (Axis::Replicate, l.dp / shard),
        (Axis::Pipeline, l.pp),
    ]
}

/// A run of decoder blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// First block.
    pub first: u64,
    /// Blocks.
    pub layers: u64,
}

impl Chunk {
    /// Its blocks.
    pub fn range(&self) -> std::ops::Range<u64> {
        self.first..self.after()
    }

    /// The layer after its last.
    pub fn after(&self) -> u64 {
        self.first + self.layers
    }
}

/// Sizes on this rank.
pub struct Shape {
    /// Mesh axes larger than 1, innermost first.
    pub axes: Vec<(Axis, u64)>,
    /// Coordinates, same order.
    pub coordinates: Vec<u64>,
    /// Tensor-parallel ranks and this rank among them.
    pub tensor: (u64, u64),
    /// Context-parallel ranks and this rank among them.
    pub cp: (u64, u64),
    /// Ranks of the shard group and this rank among them.
    pub shard: (u64, u64),
    /// ZeRO stage; 0 when the shard group is one rank.
    pub zero: u64,
    /// Runs of blocks held, in order.
    pub chunks: Vec<Chunk>,
    /// Layers from one run's first to the next run's; 0 with one run.
    pub period: u64,
    /// Whether this rank embeds, and whether it has the head.
    pub ends: (bool, bool),
    /// Passes in order.
    pub actions: Vec<Action>,
    /// How many are in flight at once.
    pub windows: Windows,
    /// Whether weight gradients run apart from input gradients.
    pub deferred: bool,
    /// Block inputs wait for the backward pass in host memory.
    pub offload_activations: bool,
    /// Optimizer states live in host memory.
    pub offload_optimizer: bool,
    /// Sequences a micro-batch.
    pub sequences: u64,
    /// Tokens of a sequence on this rank.
    pub context: u64,
    /// Attention segments a sequence; none without a document mask.
    pub documents: Option<u64>,
    /// Sources whose losses are summed up apart; 1: none.
    pub sources: u64,
    /// Tokens of a micro-batch on this rank's context block.
    pub tokens: u64,
    /// Rows of the residual stream on this rank (sequence parallelism splits tokens along tensor ranks).
    pub rows: u64,
    /// Query heads on this rank.
    pub heads: u64,
    /// Key and value heads on this rank.
    pub kv_heads: u64,
    /// Columns of the feed-forward on this rank.
    pub ffn: u64,
    /// First id of this rank's rows of embedding and head, and how many they are.
    pub vocab: (u64, u64),
    /// Format of weights and activations.
    pub compute: DType,
    /// Products of the blocks in 8 bits.
    pub eight_bit: bool,
    /// Rows of logits at a time.
    pub head_rows: u64,
    /// Recompute policy of all blocks, and of this rank's where they differ.
    recompute: (Recompute, Option<StageLayers>),
}

/// Largest logits held at once: the larger of 256 MiB and 1,024 rows (own choice: a GEMM of 1,024 rows fills a
/// device, 256 MiB is small beside any model's activations, and the head's gradient, which every chunk reads and
/// writes whole, costs more the smaller the chunks are: 0.7 % of a 3B step at 64 MiB).
const LOGITS_BYTES: u64 = 256 << 20;
const LOGITS_ROWS: u64 = 1024;

/// Extents of 8-bit products (cuBLAS documentation, 3.1.4: 16-byte alignment of every row).
const EIGHT_BIT_MULTIPLE: u64 = 16;

/// Elements of the largest activation; far above any device, far below what would overflow.
const MOST_ELEMENTS: u64 = 1 << 50;
/// Sources told apart; far above what anybody mixes.
const MOST_SOURCES: u64 = 1 << 16;
/// Passes over a layer in one step; a run of 405B in 4,096 micro-batches has about a million.
const MOST_PASSES: u64 = 1 << 22;

impl Shape {
    /// Reads and checks the plan.
    pub fn new(plan: &Plan, coordinates: &Coordinates, options: &Options) -> Result<Shape, LowerError> {
        let (model, layout) = (&plan.model, &plan.layout);
        let compute = match plan.precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 | Precision::Fp8 => DType::Bf16,
            Precision::Fp16 => DType::F16,
        };
        sound(plan)?;
        mesh(plan, coordinates)?;
        lowered(plan, options)?;
        let (tp, cp) = (layout.tp, layout.cp);
        let context = model.context / cp;
        let tokens = plan.batch.micro_batch_sequences * context;
        let accumulation = plan.batch.accumulation;
        // A pipeline is full once every rank has all the micro-batches it can hold in flight.
        let full = if layout.pp > 1 { 2 * layout.pp * layout.vp } else { 1 };
        let micro_batches = options.accumulation_cap.map_or(accumulation, |cap| {
            accumulation.min(cap.min(accumulation).max(full).next_multiple_of(layout.pp))
        });
        if micro_batches * model.layers * 2 > MOST_PASSES {
            let reason =
                format!("{micro_batches} micro-batches of {} layers: choose larger ones", model.layers);
            return Err(unsupported("batch.accumulation", reason));
        }
        let pipe = Pipe { rank: coordinates.pipeline, ranks: layout.pp, chunks: layout.vp, micro_batches };
        let actions = actions(layout.schedule, pipe);
        let shard = sizes(plan)[2].1;
        let vocab = model.vocab_padded / tp;
        let present = sizes(plan).into_iter().zip(coordinates.along()).filter(|((_, size), _)| *size > 1);
        let (axes, along): (Vec<_>, Vec<_>) = present.unzip();
        let chunks = chunks(plan, coordinates.pipeline);
        let ends = (
            chunks.first().is_some_and(|c| c.first == 0),
            chunks.last().is_some_and(|c| c.after() == model.layers),
        );
        Ok(Shape {
            axes,
            coordinates: along,
            tensor: (tp, coordinates.tensor),
            cp: (cp, coordinates.context),
            shard: (shard, coordinates.shard),
            zero: if shard > 1 { layout.zero_stage } else { 0 },
            period: if layout.vp > 1 { model.layers / layout.vp } else { 0 },
            ends,
            chunks,
            windows: windows(&actions),
            deferred: layout.schedule == Schedule::ZeroBubble,
            actions,
            offload_activations: layout.offload == Offload::Activations,
            offload_optimizer: layout.offload == Offload::Optimizer
                || plan.optimizer.kind == OptimizerKind::PagedAdamw,
            sequences: plan.batch.micro_batch_sequences,
            context,
            sources: options.sources.clamp(1, MOST_SOURCES),
            documents: options.documents_per_sequence.map(|d| d.clamp(1, model.context)),
            tokens,
            rows: tokens / tp,
            heads: model.heads / tp,
            kv_heads: model.kv_heads / tp,
            ffn: model.ffn / tp,
            vocab: (coordinates.tensor * vocab, vocab),
            compute,
            eight_bit: plan.precision == Precision::Fp8,
            head_rows: head_rows(tokens, vocab * compute.bytes()),
            recompute: (layout.recompute, layout.stages.get(coordinates.pipeline as usize).copied()),
        })
    }

    /// Recompute policy of a layer of this rank.
    pub fn policy(&self, layer: u64) -> Recompute {
        let first = self.chunks.first().map_or(0, |c| c.first);
        match self.recompute {
            (_, Some(stage)) => stage.recompute(layer.saturating_sub(first)),
            (all, None) => all,
        }
    }

    /// All layers held, in order.
    pub fn layers(&self) -> Vec<u64> {
        self.chunks.iter().flat_map(Chunk::range).collect()
    }

    /// Row blocks the head works through.
    pub fn head_chunks(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let (tokens, rows) = (self.tokens, self.head_rows);
        (0..tokens.div_ceil(rows)).map(move |i| (i * rows, ((i + 1) * rows).min(tokens)))
    }

    /// Size of an axis of the mesh.
    pub fn size(&self, axis: Axis) -> u64 {
        self.axes.iter().find(|(a, _)| *a == axis).map_or(1, |(_, size)| *size)
    }
}

/// Rows of logits at a time, of `tokens` rows of `row_bytes`: as few blocks as the bound allows, of even size.
pub fn head_rows(tokens: u64, row_bytes: u64) -> u64 {
    let most = LOGITS_ROWS.max(LOGITS_BYTES / row_bytes.max(1));
    tokens.div_ceil(tokens.div_ceil(most).max(1)).max(1)
}

/// Runs of blocks of a pipeline rank. One run a rank: as even as possible, the rest on the middle ranks first,
/// because the first holds the embedding and the last the head (the planner counts the same way). Several:
/// run i of rank r is the (i·ranks + r)th of the model.
fn chunks(plan: &Plan, rank: u64) -> Vec<Chunk> {
    let (layers, ranks, runs) = (plan.model.layers, plan.layout.pp, plan.layout.vp);
    if runs > 1 {
        let each = layers / (ranks * runs);
        return (0..runs).map(|run| Chunk { first: (run * ranks + rank) * each, layers: each }).collect();
    }
    if !plan.layout.stages.is_empty() {
        let held = |r: u64| plan.layout.stages.get(r as usize).map_or(0, |s| s.layers);
        return vec![Chunk { first: (0..rank).map(held).sum(), layers: held(rank) }];
    }
    let (each, rest) = (layers / ranks, layers % ranks);
    let turn = |r: u64| match r {
        _ if ranks == 1 || r == ranks - 1 => ranks - 1,
        0 => ranks - 2,
        _ => r - 1,
    };
    let held = |r: u64| each + u64::from(turn(r) < rest);
    vec![Chunk { first: (0..rank).map(held).sum(), layers: held(rank) }]
}

/// Refuses a plan that no rank could execute: figures that contradict each other, a layout that does not tile the devices.
/// Plans of the planner pass; edited files may not.
///
/// # Errors
/// [`LowerError::Invalid`] with the first figure that is wrong.
pub fn check(plan: &Plan) -> Result<(), LowerError> {
    sound(plan)?;
    mesh(plan, &Coordinates::default())
}

/// Refuses plans whose figures contradict each other. Bounds every extent, so that products of a few of
/// them stay far below 2⁶⁴.
fn sound(plan: &Plan) -> Result<(), LowerError> {
    let (model, batch, layout) = (&plan.model, &plan.batch, &plan.layout);
    let extents = [
        ("model.layers", model.layers, 1 << 12),
        ("model.hidden", model.hidden, 1 << 20),
        ("model.heads", model.heads, 1 << 12),
        ("model.kv_heads", model.kv_heads, 1 << 12),
        ("model.head_dim", model.head_dim, 1 << 12),
        ("model.ffn", model.ffn, 1 << 22),
        ("model.vocab", model.vocab, 1 << 24),
        ("model.vocab_padded", model.vocab_padded, 1 << 25),
        ("model.context", model.context, 1 << 24),
        ("batch.micro_batch_sequences", batch.micro_batch_sequences, 1 << 12),
        ("batch.accumulation", batch.accumulation, 1 << 20),
        ("layout.gpus", layout.gpus, 1 << 20),
        ("layout.dp", layout.dp, 1 << 20),
        ("layout.tp", layout.tp, 1 << 10),
        ("layout.cp", layout.cp, 1 << 10),
        ("layout.pp", layout.pp, 1 << 10),
        ("layout.vp", layout.vp, 1 << 10),
    ];
    for (path, value, most) in extents {
        if value == 0 || value > most {
            return Err(invalid(path, format!("{value} is outside 1..={most}")));
        }
    }
    let tokens = batch.micro_batch_sequences * model.context;
    let widest = model.hidden.max(model.qkv_rows()).max(2 * model.ffn);
    if tokens * widest > MOST_ELEMENTS {
        let reason = format!("{tokens} tokens of {widest} elements are more than any device holds");
        return Err(invalid("batch.micro_batch_sequences", reason));
    }
    let multiples = [
        ("model.kv_heads", "model.heads", model.heads, model.kv_heads),
        ("layout.tp", "model.heads", model.heads, layout.tp),
        ("layout.tp", "model.kv_heads", model.kv_heads, layout.tp),
        ("layout.tp", "model.ffn", model.ffn, layout.tp),
        ("layout.tp", "model.vocab_padded", model.vocab_padded, layout.tp),
    ];
    for (path, other, whole, part) in multiples {
        if !whole.is_multiple_of(part) {
            return Err(invalid(path, format!("{other}, {whole}, is not a multiple of {part}")));
        }
    }
    if !model.head_dim.is_multiple_of(2) {
        return Err(invalid("model.head_dim", format!("{} is odd; rotary pairs need even", model.head_dim)));
    }
    if model.vocab_padded < model.vocab {
        let reason = format!("{} is below the vocabulary of {}", model.vocab_padded, model.vocab);
        return Err(invalid("model.vocab_padded", reason));
    }
    let adamw = matches!(plan.optimizer.kind, OptimizerKind::Adamw | OptimizerKind::PagedAdamw);
    let sixteen = matches!(plan.precision, Precision::Bf16 | Precision::Fp8);
    if !(plan.optimizer.master.is_f32() || adamw && sixteen) {
        let reason = format!(
            "only AdamW on bf16 weights goes without an f32 master, not {:?} under {:?}",
            plan.optimizer.kind, plan.precision
        );
        return Err(invalid("optimizer.master", reason));
    }
    let summed = plan.optimizer.gradient_dtype;
    if !(summed == DType::F32 || summed == DType::Bf16 && adamw && sixteen) {
        let reason = format!(
            "only AdamW on bf16 weights takes gradients in {summed:?}, not {:?} under {:?}",
            plan.optimizer.kind, plan.precision
        );
        return Err(invalid("optimizer.gradient_dtype", reason));
    }
    if !(0.0..1.0).contains(&model.dropout) {
        return Err(invalid("model.dropout", format!("{} is outside 0..1", model.dropout)));
    }
    Ok(())
}

/// Refuses layouts that do not tile the devices, and coordinates outside them.
fn mesh(plan: &Plan, coordinates: &Coordinates) -> Result<(), LowerError> {
    let (model, layout) = (&plan.model, &plan.layout);
    let product = layout.dp * layout.tp * layout.pp * layout.cp;
    if product != layout.gpus {
        return Err(invalid("layout.gpus", format!("dp·tp·pp·cp is {product}, not {}", layout.gpus)));
    }
    if layout.zero_stage > 3 {
        return Err(invalid("layout.zero_stage", format!("{} is outside 0..=3", layout.zero_stage)));
    }
    if layout.zero_stage > 0 && (layout.shard_group == 0 || !layout.dp.is_multiple_of(layout.shard_group)) {
        let reason = format!("{} does not divide dp {}", layout.shard_group, layout.dp);
        return Err(invalid("layout.shard_group", reason));
    }
    if (layout.pp > 1) == (layout.schedule == Schedule::None) {
        let reason = format!("{:?} with {} pipeline ranks", layout.schedule, layout.pp);
        return Err(invalid("layout.schedule", reason));
    }
    if layout.vp > 1 && layout.schedule != Schedule::Interleaved {
        let reason = format!("{} chunks a rank need the interleaved schedule", layout.vp);
        return Err(invalid("layout.vp", reason));
    }
    let parts = layout.pp * layout.vp;
    if parts > model.layers || layout.vp > 1 && !model.layers.is_multiple_of(parts) {
        let reason = format!("{} layers cannot be cut into {parts} runs", model.layers);
        return Err(invalid("layout.pp", reason));
    }
    if !layout.stages.is_empty() {
        let whole = layout.stages.iter().all(|s| {
            (1..=model.layers).contains(&s.layers)
                && s.selective.checked_add(s.full).is_some_and(|again| again <= s.layers)
                && s.offload <= s.full
        });
        let count = layout.stages.len() as u64;
        let total = layout.stages.iter().fold(0u64, |sum, s| sum.saturating_add(s.layers));
        if !whole || count != layout.pp || total != model.layers || layout.vp > 1 {
            let reason = format!(
                "{count} stages of {total} layers where {} ranks of one run share {}",
                layout.pp, model.layers
            );
            return Err(invalid("layout.stages", reason));
        }
    }
    if layout.schedule == Schedule::Interleaved && !plan.batch.accumulation.is_multiple_of(layout.pp) {
        let reason = format!("{} is not a multiple of {} pipeline ranks", plan.batch.accumulation, layout.pp);
        return Err(invalid("batch.accumulation", reason));
    }
    for ((axis, size), at) in sizes(plan).into_iter().zip(coordinates.along()) {
        if at >= size {
            return Err(invalid("layout", format!("there is no rank {at} among {size} along {axis:?}")));
        }
    }
    let blocks = if layout.cp > 1 { 2 * layout.cp } else { 1 };
    if !model.context.is_multiple_of(blocks) {
        let reason = format!("context {} is not a multiple of {blocks} blocks", model.context);
        return Err(invalid("layout.cp", reason));
    }
    let tokens = plan.batch.micro_batch_sequences * (model.context / layout.cp);
    if !tokens.is_multiple_of(layout.tp) {
        return Err(invalid("layout.tp", format!("{tokens} tokens are not a multiple of {}", layout.tp)));
    }
    Ok(())
}

/// Refuses sound plans that are not lowered: their memory and time are the closed form's alone.
///
/// # Errors
/// [`LowerError::Unsupported`] with the path that is in the way and what to choose instead.
pub fn lowered(plan: &Plan, options: &Options) -> Result<(), LowerError> {
    let (model, layout) = (&plan.model, &plan.layout);
    let no = |path, reason: &str| Err(unsupported(path, reason.to_string()));
    if layout.tp > 1 && !layout.sequence_parallel {
        return no(
            "layout.sequence_parallel",
            "tensor parallelism is lowered with sequence parallelism only",
        );
    }
    if plan.optimizer.state_dtype.bytes() < 2 {
        return no("optimizer.state_dtype", "moments of 8 bits are planned, not lowered: choose state bf16");
    }
    if layout.pp > 1 && model.tied {
        return no("model.tied", "a tied head needs embedding and head on one pipeline rank: choose pp 1");
    }
    if layout.cp > 1 && options.documents_per_sequence.is_some() {
        return no("layout.cp", "attention inside documents is not lowered for a ring: choose cp 1");
    }
    if layout.cp > 1 && layout.schedule == Schedule::ZeroBubble {
        return no("layout.schedule", "zero-bubble is not lowered with a ring: choose one_f_one_b");
    }
    if layout.schedule == Schedule::ZeroBubble && layout.zero_stage > 1 && layout.shard_group > 1 {
        return no("layout.zero_stage", "deferred weight gradients need whole accumulators: choose zero 1");
    }
    if plan.precision == Precision::Fp8 {
        let tokens = plan.batch.micro_batch_sequences * model.context;
        let widths = [tokens, model.hidden, model.ffn, model.heads * model.head_dim, model.qkv_rows()];
        if let Some(odd) = widths.iter().find(|width| !width.is_multiple_of(EIGHT_BIT_MULTIPLE)) {
            let reason = format!("8-bit products need multiples of {EIGHT_BIT_MULTIPLE}, {odd} is none");
            return Err(unsupported("precision", format!("{reason}: choose bf16")));
        }
        if layout.tp * layout.cp > 1 || layout.schedule == Schedule::ZeroBubble || layout.zero_stage > 2 {
            return no("precision", "fp8 is lowered for tp 1, cp 1, zero 0 to 2 and no zero-bubble schedule");
        }
    }
    if layout.offload == Offload::Activations && layout.recompute != Recompute::Full {
        return no("layout.offload", "only block inputs are offloaded: choose recompute full");
    }
    if layout.offload != Offload::Activations && layout.stages.iter().any(|s| s.offload > 0) {
        return no("layout.stages", "the inputs of all blocks are offloaded, or of none");
    }
    if layout.offload == Offload::Activations && layout.pp > 1 {
        return no("layout.offload", "activations are not offloaded from a pipeline: choose pp 1");
    }
    Ok(())
}

/// A contradiction in the plan.
pub fn invalid(path: &'static str, reason: String) -> LowerError {
    LowerError::Invalid { path, reason }
}

/// A plan beyond what is lowered.
pub fn unsupported(path: &'static str, reason: String) -> LowerError {
    LowerError::Unsupported { path, reason }
}
