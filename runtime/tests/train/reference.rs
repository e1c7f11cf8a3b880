//! The same model written a second time: plain tensors, separate projections, full attention matrices, libtorch's
//! autograd. Shares nothing with the runtime but the names of the weights.

use std::collections::BTreeMap;

use llmc_plan::batch::Batch;
use llmc_plan::plan::Plan;
use llmc_plan::program::Program;
use tch::{Kind, Tensor};

/// Weights that require gradients, by instance name (`w.qkv[1]`).
pub type Weights = BTreeMap<String, Tensor>;

/// Cosine and sine of position × frequency, `[context, head_dim/2]`, of unscaled RoPE
/// (Su et al. 2021, arXiv 2104.09864): frequency i = θ^(−2i/d).
pub fn plain_tables(plan: &Plan) -> (Tensor, Tensor) {
    let (d, theta) = (plan.model.head_dim as f64, plan.model.rope.theta);
    let angles: Vec<f64> = (0..plan.model.context)
        .flat_map(|p| {
            (0..plan.model.head_dim / 2).map(move |i| p as f64 * libm::pow(theta, -2.0 * i as f64 / d))
        })
        .collect();
    let shape = [plan.model.context as i64, plan.model.head_dim as i64 / 2];
    let angles = Tensor::from_slice(&angles).reshape(shape);
    (angles.cos(), angles.sin())
}

/// Σ w·nll of a micro-batch.
pub fn loss_sum(
    plan: &Plan,
    program: &Program,
    w: &Weights,
    tables: &(Tensor, Tensor),
    batch: &Batch,
) -> Tensor {
    let m = &plan.model;
    let (h, kv, d) = (m.heads as i64, m.kv_heads as i64, m.head_dim as i64);
    let n = batch.ids.len() as i64;
    let long = |values: &[u32]| Tensor::from_slice(&values.iter().map(|v| i64::from(*v)).collect::<Vec<_>>());
    let positions = long(&batch.positions);
    let (cos, sin) = (tables.0.index_select(0, &positions), tables.1.index_select(0, &positions));
    let mask = mask(batch, n);
    let mut x = w["w.embed[0]"].index_select(0, &long(&batch.ids));
    for layer in 0..m.layers {
        let at = |name: &str| &w[&format!("w.{name}[{layer}]")];
        let a = rms_norm(&x, at("norm1"), m.norm_eps);
        let (q_rows, kv_rows) = (h * d, kv * d);
        let project = |start, rows| a.matmul(&at("qkv").narrow(0, start, rows).tr());
        let heads = |t: Tensor, count: i64| t.reshape([n, count, d]).transpose(0, 1);
        let q = rotate(&heads(project(0, q_rows), h), &cos, &sin);
        let k = rotate(&heads(project(q_rows, kv_rows), kv), &cos, &sin);
        let v = heads(project(q_rows + kv_rows, kv_rows), kv);
        let (k, v) =
            (k.repeat_interleave_self_int(h / kv, 0, None), v.repeat_interleave_self_int(h / kv, 0, None));
        let scores = q.matmul(&k.transpose(1, 2)) / (d as f64).sqrt() + &mask;
        let out = scores.softmax(-1, None).matmul(&v).transpose(0, 1).reshape([n, h * d]);
        x = &x + out.matmul(&at("o").tr());
        let b = rms_norm(&x, at("norm2"), m.norm_eps);
        let f = m.ffn as i64;
        let gate = b.matmul(&at("gate_up").narrow(0, 0, f).tr());
        let up = b.matmul(&at("gate_up").narrow(0, f, f).tr());
        x = &x + (&gate * gate.sigmoid() * up).matmul(&at("down").tr());
    }
    let head = if program.buffer_named("w.head").is_some() { "w.head[0]" } else { "w.embed[0]" };
    let logits = rms_norm(&x, &w["w.norm_f[0]"], m.norm_eps).matmul(&w[head].tr());
    let log_p = logits.narrow(1, 0, m.vocab as i64).log_softmax(-1, None);
    let nll = -log_p.gather(1, &long(&batch.targets).unsqueeze(1), false).squeeze_dim(1);
    (nll * Tensor::from_slice(&batch.weights).to_kind(Kind::Double)).sum(None)
}

fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    x / (x.square().mean_dim(-1, true, None) + eps).sqrt() * weight
}

/// The first half of a head pairs with the second, as in Hugging Face's LLaMA.
fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
    let half = x.size()[2] / 2;
    let (a, b) = (x.narrow(2, 0, half), x.narrow(2, half, half));
    Tensor::cat(&[&a * cos - &b * sin, &b * cos + &a * sin], 2)
}

/// 0 where a query may look, −∞ elsewhere: not ahead, not outside its segment.
fn mask(batch: &Batch, n: i64) -> Tensor {
    let segment = |token: i64| batch.cu_seqlens.iter().filter(|start| i64::from(**start) <= token).count();
    let allowed = |q: i64, k: i64| k <= q && segment(q) == segment(k);
    let values: Vec<f64> = (0..n)
        .flat_map(|q| (0..n).map(move |k| (q, k)))
        .map(|(q, k)| if allowed(q, k) { 0.0 } else { f64::NEG_INFINITY })
        .collect();
    Tensor::from_slice(&values).reshape([n, n])
}
