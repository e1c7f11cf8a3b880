//! Faults planted on purpose are caught, with the instruction's name.

use llmc_plan::batch::Batch;
use llmc_plan::op::Op;
use llmc_runtime::error::Result;
use llmc_runtime::failure::Failure;
use llmc_runtime::host::{Session, Source};
use llmc_runtime::interpret::Pass;
use llmc_runtime::ops::Host;
use tch::{Device, Kind, Tensor};

use crate::support::{alone, machine, plan, program, stream};

/// A host whose batches cost more tensor memory than `load_batch` declares.
struct Wasteful<'a> {
    inner: Session<'a>,
    kept: Option<Tensor>,
    keep: bool,
}

impl Host for Wasteful<'_> {
    fn next_batch(&mut self) -> Result<Batch> {
        let extra = Tensor::zeros([40_000], (Kind::Float, Device::Cpu));
        self.kept = self.keep.then_some(extra);
        self.inner.next_batch()
    }

    fn snapshot(&mut self, tensors: &[Tensor]) -> Result<()> {
        self.inner.snapshot(tensors)
    }

    fn exchange(&mut self, op: &Op, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        self.inner.exchange(op, inputs, outputs)
    }
}

fn run_wastefully(keep: bool) -> Failure {
    let plan = plan();
    let (program, stream) = (program(&plan), stream(&plan));
    let mut machine = machine(&program, &plan);
    let inner = Session::new(Source::Train { stream: &stream, step: 0 });
    let mut host = Wasteful { inner, kept: None, keep };
    let pass = Pass { list: "step", steps_done: 0 };
    machine.run(&program.step, pass, &mut host, None).expect_err("caught")
}

#[test]
fn a_planted_temporary_is_caught() {
    let _alone = alone();
    let failure = run_wastefully(false);
    assert_eq!(failure.code, 70);
    assert!(failure.message.en.contains("load/0 layer 0 micro-batch 0 (load_batch) took"), "{failure}");
}

#[test]
fn a_planted_leak_is_caught() {
    let _alone = alone();
    let plan = plan();
    // With the temporary declared, what stays behind is still found.
    let failure = run_wastefully(true);
    assert!(failure.message.en.contains("load_batch"), "{failure}");
    let mut program = program(&plan);
    let load = program.segment_named("load").expect("segment").0 as usize;
    program.segments[load].instrs[0].workspace += 200_000;
    let stream = stream(&plan);
    let mut machine = machine(&program, &plan);
    let inner = Session::new(Source::Train { stream: &stream, step: 0 });
    let mut host = Wasteful { inner, kept: None, keep: true };
    let pass = Pass { list: "step", steps_done: 0 };
    let failure = machine.run(&program.step, pass, &mut host, None).expect_err("caught");
    assert!(failure.message.en.contains("left 160000 bytes"), "{failure}");
}

#[test]
fn a_workspace_declared_too_small_is_caught() {
    let _alone = alone();
    let plan = plan();
    let mut program = program(&plan);
    let instrs = program.segments.iter_mut().flat_map(|s| &mut s.instrs);
    let hungry = instrs.max_by_key(|i| i.workspace).expect("an instruction");
    let (key, declared) = (hungry.op.key(), hungry.workspace);
    assert!(declared > 16_384, "{key} declares {declared}");
    hungry.workspace = 1024;
    let stream = stream(&plan);
    let mut machine = machine(&program, &plan);
    let mut session = Session::new(Source::Train { stream: &stream, step: 0 });
    let pass = Pass { list: "step", steps_done: 0 };
    let failure = machine.run(&program.step, pass, &mut session, None).expect_err("caught");
    assert!(failure.message.en.contains(key) && failure.message.en.contains("declares 1024"), "{failure}");
}
