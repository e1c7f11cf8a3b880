//! The sizes one rank works with, and the checks that make every later division exact.

use super::{LowerError, Options};
use crate::plan::{DType, Plan, Precision};
use crate::program::Axis;

/// A rank's place on each axis of the mesh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coordinates {
    /// Among the tensor-parallel ranks.
    pub tensor: u64,
    /// Among the context-parallel ranks.
    pub context: u64,
    /// Pipeline rank.
    pub pipeline: u64,
    /// Inside the shard group.
    pub shard: u64,
    /// Which shard group.
    pub replicate: u64,
}

/// Sizes on this rank.
pub struct Shape {
    /// Mesh axes, innermost first.
    pub axes: Vec<(Axis, u64)>,
    /// Coordinates, same order.
    pub coordinates: Vec<u64>,
    /// First decoder block held.
    pub first_layer: u64,
    /// Blocks held.
    pub layers: u64,
    /// Micro-batches in flight.
    pub slots: u64,
    /// Micro-batches a step.
    pub accumulation: u64,
    /// Sequences a micro-batch.
    pub sequences: u64,
    /// Tokens a sequence.
    pub context: u64,
    /// Attention segments a sequence; none without a document mask.
    pub documents: Option<u64>,
    /// Tokens a micro-batch.
    pub tokens: u64,
    /// Format of weights and activations.
    pub compute: DType,
    /// Rows of logits at a time.
    pub head_rows: u64,
}

/// Largest logits held at once: the larger of 64 MiB and 1,024 rows (own choice: a GEMM of 1,024 rows fills a
/// device, and 64 MiB is small beside any model's activations).
const LOGITS_BYTES: u64 = 64 << 20;
const LOGITS_ROWS: u64 = 1024;

impl Shape {
    /// Reads and checks the plan.
    pub fn new(plan: &Plan, coordinates: &Coordinates, options: &Options) -> Result<Shape, LowerError> {
        let (model, layout) = (&plan.model, &plan.layout);
        let compute = match plan.precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::Bf16,
            Precision::Fp16 | Precision::Fp8 => {
                return Err(unsupported("precision", "choose f32 or bf16".to_string()));
            }
        };
        if layout.gpus != 1 {
            return Err(unsupported("layout.gpus", format!("{} devices; only 1 is lowered", layout.gpus)));
        }
        sound(plan)?;
        let sequences = plan.batch.micro_batch_sequences;
        let tokens = sequences * model.context;
        let accumulation = options
            .accumulation_cap
            .map_or(plan.batch.accumulation, |cap| plan.batch.accumulation.min(cap.max(1)));
        let _ = coordinates;
        Ok(Shape {
            axes: Vec::new(),
            coordinates: Vec::new(),
            first_layer: 0,
            layers: model.layers,
            slots: 1,
            accumulation,
            sequences,
            context: model.context,
            documents: options.documents_per_sequence.map(|d| d.max(1)),
            tokens,
            compute,
            head_rows: head_rows(tokens, model.vocab_padded * compute.bytes()),
        })
    }

    /// Row blocks the head works through.
    pub fn head_chunks(&self) -> impl Iterator<Item = (u64, u64)> {
        let (tokens, rows) = (self.tokens, self.head_rows);
        (0..tokens.div_ceil(rows)).map(move |i| (i * rows, ((i + 1) * rows).min(tokens)))
    }
}

/// Rows of logits at a time: as few blocks as the bound allows, of even size.
fn head_rows(tokens: u64, row_bytes: u64) -> u64 {
    let most = LOGITS_ROWS.max(LOGITS_BYTES / row_bytes.max(1));
    tokens.div_ceil(tokens.div_ceil(most).max(1)).max(1)
}

/// Refuses plans whose figures contradict each other. Bounds every extent, so that products of a few of
/// them stay far below 2⁶⁴.
fn sound(plan: &Plan) -> Result<(), LowerError> {
    let (model, batch) = (&plan.model, &plan.batch);
    let extents = [
        ("model.layers", model.layers, 1 << 16),
        ("model.hidden", model.hidden, 1 << 24),
        ("model.heads", model.heads, 1 << 16),
        ("model.kv_heads", model.kv_heads, 1 << 16),
        ("model.head_dim", model.head_dim, 1 << 16),
        ("model.ffn", model.ffn, 1 << 24),
        ("model.vocab", model.vocab, 1 << 24),
        ("model.vocab_padded", model.vocab_padded, 1 << 25),
        ("model.context", model.context, 1 << 26),
        ("batch.micro_batch_sequences", batch.micro_batch_sequences, 1 << 12),
        ("batch.accumulation", batch.accumulation, 1 << 20),
    ];
    for (path, value, most) in extents {
        if value == 0 || value > most {
            return Err(invalid(path, format!("{value} is outside 1..={most}")));
        }
    }
    if !model.heads.is_multiple_of(model.kv_heads) {
        let reason = format!("{} query heads are not a multiple of it ({})", model.heads, model.kv_heads);
        return Err(invalid("model.kv_heads", reason));
    }
    if !model.head_dim.is_multiple_of(2) {
        return Err(invalid("model.head_dim", format!("{} is odd; rotary pairs need even", model.head_dim)));
    }
    if model.vocab_padded < model.vocab {
        let reason = format!("{} is below the vocabulary of {}", model.vocab_padded, model.vocab);
        return Err(invalid("model.vocab_padded", reason));
    }
    if !(0.0..1.0).contains(&model.dropout) {
        return Err(invalid("model.dropout", format!("{} is outside 0..1", model.dropout)));
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
