//! Buffers that are not parameters: constants, batches, activations, transients.

use super::build::Builder;
use super::shape::Shape;
use crate::plan::{DType, Plan};
use crate::program::{Class, Index, Ref};

/// Handles of every buffer that is not a parameter.
pub struct Activations {
    /// Cosine and sine tables.
    pub rope: [Ref; 2],
    /// Device scalars `[1]` f32: learning rate, 1/Σ weights of the step, Σ w·nll, Σ g², clip divisor, skip
    /// flag, step number from 1.
    pub lr: Ref,
    pub inv_weight: Ref,
    pub loss_sum: Ref,
    pub grad_sq: Ref,
    pub grad_scale: Ref,
    pub skip: Ref,
    pub step: Ref,
    /// The micro-batch.
    pub ids: Ref,
    pub targets: Ref,
    pub positions: Ref,
    pub cu_seqlens: Ref,
    pub weights: Ref,
    /// Residual stream: the input of each block; the last feeds the head.
    pub x: Ref,
    /// Saved by a block.
    pub n1: Ref,
    pub rstd1: Ref,
    pub qkv: Ref,
    pub o: Ref,
    pub lse: Ref,
    pub x2: Ref,
    pub n2: Ref,
    pub rstd2: Ref,
    pub gate_up: Ref,
    pub act: Ref,
    /// Output of a residual branch before it is added.
    pub branch: Ref,
    /// Gradient of the residual stream, updated in place from block to block.
    pub dres: Ref,
    /// Gradient of a residual branch: `dres` after dropout.
    pub dbranch: Ref,
    pub dact: Ref,
    pub dn: Ref,
    pub d_o: Ref,
    pub dqkv: Ref,
    /// Head.
    pub xf: Ref,
    pub rstdf: Ref,
    pub logits: Ref,
    pub dxf: Ref,
}

/// Declares them.
pub fn declare(b: &mut Builder, plan: &Plan, shape: &Shape) -> Activations {
    let m = &plan.model;
    let (n, h, f, c) = (shape.tokens, m.hidden, m.ffn, shape.compute);
    let (heads, qkv) = (m.heads * m.head_dim, m.qkv_rows());
    let documents = shape.sequences * shape.documents.unwrap_or(1);

    let table = [m.context, m.head_dim / 2];
    let mut constant =
        |name: &str, shape: &[u64]| b.buffer(name, shape, DType::F32, Class::Constant, Index::One);
    let rope = [constant("rope.cos", &table), constant("rope.sin", &table)];
    let [lr, inv_weight, loss_sum, grad_sq, grad_scale, skip, step] =
        ["lr", "inv_weight", "loss_sum", "grad_sq", "grad_scale", "skip", "step"].map(|s| constant(s, &[1]));

    let mut batch = |name: &str, extent, dtype| b.buffer(name, &[extent], dtype, Class::Batch, Index::Slot);
    let [ids, targets, positions] = ["ids", "targets", "positions"].map(|s| batch(s, n, DType::I64));
    let cu_seqlens = batch("cu_seqlens", documents + 1, DType::I32);
    let weights = batch("weights", n, DType::F32);

    let mut saved =
        |name: &str, shape: &[u64], dtype| b.buffer(name, shape, dtype, Class::Activation, Index::LayerSlot);
    let x = saved("x", &[n, h], c);
    let n1 = saved("n1", &[n, h], c);
    let rstd1 = saved("rstd1", &[n], DType::F32);
    let qkv_ = saved("qkv", &[n, qkv], c);
    let o = saved("o", &[n, heads], c);
    let lse = saved("lse", &[m.heads, n], DType::F32);
    let x2 = saved("x2", &[n, h], c);
    let n2 = saved("n2", &[n, h], c);
    let rstd2 = saved("rstd2", &[n], DType::F32);
    let gate_up = saved("gate_up", &[n, 2 * f], c);
    let act = saved("act", &[n, f], c);
    if let Some(x) = b.edit(x) {
        x.layers += 1;
    }

    let mut transient =
        |name: &str, shape: &[u64], dtype, class| b.buffer(name, shape, dtype, class, Index::Slot);
    let mut rows = |name: &str, width| transient(name, &[n, width], c, Class::Activation);
    let [branch, dres, dbranch, dn] = ["branch", "dres", "dbranch", "dn"].map(|s| rows(s, h));
    let (dact, d_o, dqkv) = (rows("dact", f), rows("do", heads), rows("dqkv", qkv));
    let (xf, dxf) = (rows("xf", h), rows("dxf", h));
    let rstdf = transient("rstdf", &[n], DType::F32, Class::Activation);
    let logits = transient("logits", &[shape.head_rows, m.vocab_padded], c, Class::Logits);

    Activations {
        rope,
        lr,
        inv_weight,
        loss_sum,
        grad_sq,
        grad_scale,
        skip,
        step,
        ids,
        targets,
        positions,
        cu_seqlens,
        weights,
        x,
        n1,
        rstd1,
        qkv: qkv_,
        o,
        lse,
        x2,
        n2,
        rstd2,
        gate_up,
        act,
        branch,
        dres,
        dbranch,
        dact,
        dn,
        d_o,
        dqkv,
        xf,
        rstdf,
        logits,
        dxf,
    }
}
