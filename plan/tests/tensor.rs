//! Tensor parallelism with sequence parallelism, on two ranks.
#![allow(clippy::unwrap_used)]

mod support;

use llmc_plan::op::Op;
use llmc_plan::program::Program;
use llmc_plan::walk::memory;
use support::{programs, spread, wide, words};

fn exchanges(program: &Program, segment: &str) -> String {
    let segment = program.segments.iter().find(|s| s.name == segment).unwrap();
    let name = |instr: &llmc_plan::program::Instr| {
        let operand = instr.inputs.first().or(instr.outputs.first()).unwrap().buffer;
        let buffer = &program.buffers[operand.0 as usize].name;
        match &instr.op {
            Op::Gather(_) => Some(format!("gather-{buffer}")),
            Op::ReduceScatter(_) => Some("scatter".to_string()),
            Op::Gemm(gemm) => Some(if gemm.transpose_a { "weight" } else { "gemm" }.to_string()),
            _ => None,
        }
    };
    segment.instrs.iter().filter_map(name).collect::<Vec<_>>().join(" ")
}

/// Each of the two branches gathers all tokens before its first product and scatters its sums after the last
/// (Korthikanti et al. 2022, arXiv 2205.05198); the backward pass mirrors it and gathers inputs again for the
/// weight gradients.
#[test]
fn a_block_gathers_and_scatters() {
    let program = &programs(&spread(1, 2, 1, 1))[0];
    assert_eq!(
        exchanges(program, "block.forward.none"),
        "gather-n1 gemm gemm scatter gather-n2 gemm gemm scatter"
    );
    assert_eq!(
        exchanges(program, "block.backward.none"),
        "gather-dres weight gemm gather-n2 weight gemm scatter gather-dres weight gemm gather-n1 weight gemm scatter"
    );
}

/// Both ends work on all tokens with half the ids (Shoeybi et al. 2019, arXiv 1909.08053, section 3): each rank says
/// three numbers of a row of its logits, and the sums of embeddings and of the head's input gradients are scattered.
#[test]
fn the_ends_share_the_vocabulary() {
    let program = &programs(&spread(1, 2, 1, 1))[1];
    assert_eq!(exchanges(program, "embed.forward"), "scatter");
    assert_eq!(exchanges(program, "head.loss"), "gather-xf gemm gather-logits.part weight gemm scatter");
    assert_eq!(exchanges(program, "embed.backward"), "gather-dres");
    assert_eq!(exchanges(program, "head.eval"), "gather-xf gemm gather-logits.part");
    let first = program.segments.iter().flat_map(|s| &s.instrs).find_map(|instr| match &instr.op {
        Op::CrossEntropyTrainParts(op) => Some((op.first, op.vocab)),
        _ => None,
    });
    // Ids 16 to 29; 30 and 31 pad.
    assert_eq!(first, Some((16, 14)));
    // Both have the loss of all tokens: it is not summed over them.
    assert!(program.segments.iter().all(|s| s.name != "loss.reduce"));
}

/// Matrices are halved, embedding and head by ids; norms are whole.
#[test]
fn parameters_are_split() {
    use wide::*;
    let program = &programs(&spread(1, 2, 1, 1))[1];
    let split = BLOCK - 2 * NORM;
    let elements = 2 * (split / 2 + 2 * NORM) + 2 * (VOCABULARY / 2) + NORM;
    assert_eq!(memory(program).parameters, 4 * elements);
    let qkv = program.params.iter().find(|p| p.name == "layers.0.qkv").unwrap();
    assert_eq!(qkv.shard, [(llmc_plan::program::Axis::Tensor, 0)]);
    assert_eq!(qkv.global_shape, [32, 8]);
    let shape = |name: &str| program.buffers[program.buffer_named(name).unwrap().0 as usize].shape.clone();
    assert_eq!((shape("w.qkv"), shape("w.o"), shape("w.down")), (vec![16, 8], vec![8, 8], vec![8, 8]));
    assert_eq!((shape("x"), shape("gate_up")), (vec![8, 8], vec![16, 16]));
}

/// The norm of split gradients is summed over the ranks before what all ranks hold is added once.
#[test]
fn the_gradient_norm_counts_everything_once() {
    let program = &programs(&spread(1, 2, 1, 1))[0];
    let calls = words(program, &program.step);
    let norms: Vec<&str> = calls.iter().map(String::as_str).filter(|w| w.starts_with("norm.")).collect();
    assert_eq!(
        norms.join(" "),
        "norm.block@0 norm.block@1 norm.top norm.reduce.tensor norm.block.whole@0 norm.block.whole@1 norm.top.whole"
    );
}
