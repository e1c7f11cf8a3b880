//! Where every millisecond of a step went, by kind of work, next to what the plan predicted; the terms sum to the step.
//!
//! Not here: measuring ([`crate::profile`]), the table ([`crate::report`]).

use llmc_plan::lang::Said;
use llmc_plan::op::Kind;
use llmc_plan::plan::Plan;
use llmc_plan::say;
use serde::{Deserialize, Serialize};

use crate::profile::Watched;
use crate::report::Compared;

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Term {
    /// Matrix products, the head's among them.
    Gemm,
    /// Attention.
    Attention,
    /// Bound by memory bandwidth: norms, rotations, activations, loss.
    Memory,
    /// Work of the forward pass done again.
    Recompute,
    /// Gradient norm, clipping, optimizer.
    Optimizer,
    /// Copies between host and device and between ranks, batches: as far as no computing hides them.
    Copies,
    /// Nothing ran on the device.
    Idle,
}

impl Term {
    /// All of them, as they are printed.
    pub const ALL: [Term; 7] = [
        Term::Gemm,
        Term::Attention,
        Term::Memory,
        Term::Recompute,
        Term::Optimizer,
        Term::Copies,
        Term::Idle,
    ];

    /// As a table names it.
    pub fn label(self) -> Said {
        match self {
            Term::Gemm => say!("GEMM", "矩阵乘"),
            Term::Attention => say!("attention", "注意力"),
            Term::Memory => say!("memory-bound", "访存受限"),
            Term::Recompute => say!("recompute", "重计算"),
            Term::Optimizer => say!("optimizer", "优化器"),
            Term::Copies => say!("exposed copies", "未掩盖的拷贝"),
            Term::Idle => say!("idle", "空闲"),
        }
    }

    fn of(kind: Kind, recompute: bool) -> Term {
        match kind {
            _ if recompute => Term::Recompute,
            Kind::Gemm => Term::Gemm,
            Kind::Attention => Term::Attention,
            Kind::Memory => Term::Memory,
            Kind::Optimizer => Term::Optimizer,
            Kind::Collective | Kind::Copy | Kind::Host => Term::Copies,
        }
    }

    /// Where a term of `plan.time.breakdown` belongs. The planner's `head` is two products and a loss: the products
    /// are by far the most of it.
    fn of_planned(name: &str) -> Term {
        match name {
            "gemm" | "head" => Term::Gemm,
            "attention" => Term::Attention,
            "pointwise" => Term::Memory,
            "recompute" => Term::Recompute,
            "optimizer" => Term::Optimizer,
            "offload" | "data_parallel" | "tensor_parallel" | "context_parallel" | "pipeline_send" => {
                Term::Copies
            }
            _ => Term::Idle, // launch, overhead, straggler, pipeline_bubble, interference
        }
    }
}

/// One term of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Which.
    pub term: Term,
    /// Seconds a step.
    pub seconds: Compared,
}

/// A step taken apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Breakdown {
    /// Which step was watched.
    pub step: u64,
    /// Its seconds against the plan's: what the terms sum to.
    pub step_seconds: Compared,
    /// Every term.
    pub terms: Vec<Share>,
}

impl Breakdown {
    /// Takes step number `step` apart, which lasted `wall` seconds.
    pub fn new(plan: &Plan, step: u64, watched: &Watched, wall: f64) -> Breakdown {
        let measured = measured(watched, wall);
        let mut predicted = [0.0; Term::ALL.len()];
        for (name, seconds) in &plan.time.breakdown {
            if let Some(sum) = predicted.get_mut(Term::of_planned(name) as usize) {
                *sum += seconds;
            }
        }
        let terms = Term::ALL.iter().zip(predicted.iter().zip(measured));
        Breakdown {
            step,
            step_seconds: Compared::new(plan.time.step_seconds, measured.iter().sum()),
            terms: terms
                .map(|(term, (p, m))| Share { term: *term, seconds: Compared::new(*p, m) })
                .filter(|share| share.term != Term::Recompute || share.seconds != Compared::new(0.0, 0.0))
                .collect(),
        }
    }

    /// One line: `step 3 took 812.4 ms: GEMM 520.1, attention …`.
    pub fn line(&self) -> Said {
        let part = |share: &Share| {
            let (label, ms) = (share.term.label(), 1e3 * share.seconds.measured);
            say!("{label} {ms:.1}", "{label} {ms:.1}", label)
        };
        let parts: Vec<Said> = self.terms.iter().map(part).collect();
        say!(
            "step {step} took {ms:.1} ms: {parts}",
            "第 {step} 步用时 {ms:.1} ms：{parts}",
            step = self.step,
            ms = 1e3 * self.step_seconds.measured,
            parts = Said::join(&parts, ", ", "，")
        )
    }
}

/// Seconds by term. Everything on the compute stream counts; of another stream, what happens while no stream before
/// it is at work; the rest of the step is idle.
fn measured(watched: &Watched, wall: f64) -> [f64; Term::ALL.len()] {
    let mut terms = [0.0; Term::ALL.len()];
    let mut busy: Vec<(f64, f64)> = Vec::new();
    for stream in 0..watched.streams.len() {
        let mut mine: Vec<(f64, f64)> = Vec::new();
        for span in watched.spans.iter().filter(|s| s.stream == stream) {
            let Some(row) = watched.rows.get(span.row) else { continue };
            if let Some(sum) = terms.get_mut(Term::of(row.kind, row.recompute) as usize) {
                *sum += span.end - span.start - covered(&busy, span.start, span.end);
            }
            mine.push((span.start, span.end));
        }
        busy = union(busy, mine);
    }
    let sum: f64 = terms.iter().sum();
    if let Some(idle) = terms.get_mut(Term::Idle as usize) {
        *idle = (wall - sum).max(0.0);
    }
    terms
}

/// Seconds of `[start, end)` inside disjoint intervals in order.
fn covered(busy: &[(f64, f64)], start: f64, end: f64) -> f64 {
    let first = busy.partition_point(|(_, b)| *b <= start);
    let inside = busy.iter().skip(first).take_while(|(a, _)| *a < end);
    inside.map(|(a, b)| b.min(end) - a.max(start)).sum()
}

/// Disjoint intervals in order that cover the same.
fn union(mut all: Vec<(f64, f64)>, more: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    all.extend(more);
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut out: Vec<(f64, f64)> = Vec::new();
    for (start, end) in all {
        match out.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => out.push((start, end)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Span, Timed};

    fn row(kind: Kind, recompute: bool) -> Timed {
        Timed {
            segment: "s".into(),
            index: 0,
            op: "gemm",
            kind,
            recompute,
            count: 1,
            seconds: 0.0,
            flops: 0.0,
            bytes: 0,
            shapes: Vec::new(),
            workspace: 0,
            allocator_bytes: 0,
        }
    }

    /// Compute: GEMM 0–2, recomputed GEMM 3–4, optimizer 4–5. Copies: 1–3.5, of which 2–3 is exposed. A step of 6 s.
    #[test]
    fn terms_sum_to_the_step_and_hidden_copies_do_not_count() {
        let rows = vec![
            row(Kind::Gemm, false),
            row(Kind::Gemm, true),
            row(Kind::Optimizer, false),
            row(Kind::Copy, false),
        ];
        let span = |row, stream, start, end| Span { row, stream, layer: 0, micro_batch: 0, start, end };
        let spans =
            vec![span(0, 0, 0.0, 2.0), span(3, 1, 1.0, 3.5), span(1, 0, 3.0, 4.0), span(2, 0, 4.0, 5.0)];
        let watched = Watched { rows, spans, streams: vec!["compute".into(), "copy".into()] };
        let terms = measured(&watched, 6.0);
        assert_eq!(terms, [2.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(terms.iter().sum::<f64>(), 6.0);
    }
}
