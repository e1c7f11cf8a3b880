//! How executors cut their loops: the plain-tensor ones into blocks of rows, the fused ones into partial sums.
//! Executors and workspace formulas share these figures, so that what an op allocates is known before it runs.
//!
//! A loop converts or combines a block of rows at a time: on the CPU so few that the block stays in the L2
//! cache, on a device so many that launches do not dominate.

use super::Backend;

/// Working set of one block in bytes. CPU: half of a server core's L2 cache. Device: 8 k tokens of an 8 k wide
/// f32 row take four blocks.
pub fn block_bytes(backend: Backend) -> u64 {
    match backend {
        Backend::Cpu => 1 << 20,
        Backend::Cuda => 64 << 20,
    }
}

/// Rows of a block when one row works on `row_bytes`: at least 1, at most `rows`.
pub fn rows(backend: Backend, rows: u64, row_bytes: u64) -> u64 {
    (block_bytes(backend) / row_bytes.max(1)).clamp(1, rows.max(1))
}

/// Rows of a block of RMSNorm over `[n, h]`: three rows of the format computed in.
pub fn norm(backend: Backend, n: u64, h: u64, math_bytes: u64) -> u64 {
    rows(backend, n, h.saturating_mul(3 * math_bytes))
}

/// Whether the fused backward of a norm takes rows of `h` elements of `bytes`: it keeps 4 accesses of 16 bytes in
/// each of at most 512 threads.
pub fn norm_fits(h: u64, bytes: u64) -> bool {
    h.saturating_mul(bytes) <= 4 * 512 * 16
}

/// Rows of the table of partial sums of a norm's weight gradient on a device, for `n` rows: one a block, a block
/// for each multiprocessor of an H100 (132), the same on every card so that the sums have one order.
pub fn norm_partials(n: u64) -> u64 {
    n.clamp(1, 132)
}

/// Partial sums of the squared norm of `n` elements on a device: four blocks for each multiprocessor of an H100, fewer
/// for fewer elements, the same on every card.
pub fn norm_parts(n: u64) -> u64 {
    n.div_ceil(8192).clamp(1, 4 * 132)
}

/// Rows of a block of SwiGLU over `[n, 2f]`: gate, up and two results.
pub fn swiglu(backend: Backend, n: u64, f: u64, math_bytes: u64) -> u64 {
    rows(backend, n, f.saturating_mul(4 * math_bytes))
}

/// Rows of a block of RoPE over `[n, width]`: the row itself, its tables and products.
pub fn rope(backend: Backend, n: u64, width: u64, math_bytes: u64) -> u64 {
    rows(backend, n, width.saturating_mul(2 * math_bytes))
}

/// Rows of a block of the cross-entropy over `[n, vocab]` logits.
pub fn loss(backend: Backend, n: u64, vocab: u64, math_bytes: u64) -> u64 {
    rows(backend, n, vocab.saturating_mul(math_bytes))
}

/// Rows of c and columns of c of a tile of a narrow GEMM on the CPU, whose operands become f32 on the way. Whole
/// inner extents, so that every element is rounded once; a tile of c and the two strips that make it take four
/// blocks each at most.
pub fn narrow_gemm(backend: Backend, m: u64, n: u64, k: u64) -> (u64, u64) {
    let columns = rows(backend, n, k);
    let strip = rows(backend, m, k);
    (strip.min(rows(backend, m, columns)), columns)
}

/// Rows that a weight gradient `[m, k]` of narrow operands converts at once. A GEMM with a short inner extent
/// rereads its result for every block, so this loop takes four times the usual block.
pub fn weight_gradient(backend: Backend, n: u64, m: u64, k: u64, math_bytes: u64) -> u64 {
    rows(backend, n, (m.saturating_add(k)).saturating_mul(math_bytes) / 4)
}

/// Rows of a block of `[rows, columns]` f32 values that are split into bf16 weights and the rest: values, the same on
/// their way from a host, and integers to take them apart.
pub fn split_rows(backend: Backend, all: u64, columns: u64) -> u64 {
    rows(backend, all, columns.saturating_mul(12))
}

/// Elements of a block of a flat loop over `n` elements of `bytes` each.
pub fn flat(backend: Backend, n: u64, bytes: u64) -> u64 {
    rows(backend, n, bytes)
}

/// How attention cuts its score matrix `[group, kv heads, query rows, keys]`: query rows and key–value heads of
/// a block, for at most `keys` keys and `group` query heads to each key–value head.
pub fn attention(backend: Backend, keys: u64, group: u64, kv_heads: u64, math_bytes: u64) -> (u64, u64) {
    // Fewer rows than this and the products are too thin to be fast.
    let least = match backend {
        Backend::Cpu => 64,
        Backend::Cuda => 512,
    };
    let row = keys.max(1).saturating_mul(group.max(1)).saturating_mul(math_bytes);
    let fit = block_bytes(backend) / row.saturating_mul(kv_heads.max(1));
    let query_rows = fit.max(least).clamp(1, keys.max(1));
    let heads = (block_bytes(backend) / row.saturating_mul(query_rows)).clamp(1, kv_heads.max(1));
    (query_rows, heads)
}
