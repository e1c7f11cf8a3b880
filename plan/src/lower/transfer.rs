//! Between pipeline ranks, and between device and host.

use super::Lowering;
use super::build::Draft;
use super::params::{Param, Stored};
use crate::op::{Copy, Recv, Send};
use crate::program::{Axis, Ref};

/// Copies to and from host memory run beside compute, one stream a direction.
const COPY_OUT: &str = "copy.out";
const COPY_IN: &str = "copy.in";

/// Activations go one rank on, gradients one rank back; each direction has a stream for what leaves and one
/// for what arrives, so that neither waits for the other.
///
/// `last`: the rank is done with the micro-batch, as after its last run of an evaluation.
pub fn send_forward(l: &Lowering, last: bool) -> Draft {
    let name = if last { "send.forward.last" } else { "send.forward" };
    let done = [l.acts.positions, l.acts.cu_seqlens];
    let done = if last { done.as_slice() } else { &[] };
    send(name, "pipeline.forward.send", 1, "forward", l.acts.x, done)
}

/// Input of the first block of a run.
pub fn receive_forward(l: &Lowering) -> Draft {
    receive("receive.forward", "pipeline.forward.receive", -1, "forward", l.acts.x)
}

/// Gradient of a run's input. `last`: the rank is done with the micro-batch.
pub fn send_backward(l: &Lowering, last: bool) -> Draft {
    let name = if last { "send.backward.last" } else { "send.backward" };
    let done = [l.acts.positions, l.acts.cu_seqlens];
    let done = if last { done.as_slice() } else { &[] };
    send(name, "pipeline.backward.send", -1, "backward", l.acts.dres, done)
}

/// Gradient of a run's output.
pub fn receive_backward(l: &Lowering) -> Draft {
    receive("receive.backward", "pipeline.backward.receive", 1, "backward", l.acts.dres)
}

fn send(name: &str, stream: &'static str, offset: i64, tag: &str, x: Ref, done: &[Ref]) -> Draft {
    let mut s = Draft::new(name);
    s.on(stream);
    s.op(Send { axis: Axis::Pipeline, offset, tag: tag.to_string() }, [x], []);
    s.free([x]);
    s.free(done.iter().copied());
    s
}

fn receive(name: &str, stream: &'static str, offset: i64, tag: &str, x: Ref) -> Draft {
    let mut s = Draft::new(name);
    s.on(stream);
    s.op(Recv { axis: Axis::Pipeline, offset, tag: tag.to_string() }, [], [x]);
    s
}

/// Saves a block's input to host memory. The block reads it afterwards, then frees it.
pub fn offload(l: &Lowering, host: Ref) -> Draft {
    let mut s = Draft::new("block.offload");
    s.on(COPY_OUT);
    s.op(Copy {}, [l.acts.x], [host]);
    s
}

/// Brings it back before the block's backward pass.
pub fn fetch(l: &Lowering, host: Ref) -> Draft {
    let mut s = Draft::new("block.fetch");
    s.on(COPY_IN);
    s.op(Copy {}, [host], [l.acts.x]);
    s.free([host]);
    s
}

/// Takes one tensor of the optimizer to its home, if that is in host memory.
pub fn store(s: &mut Draft, stored: Stored) {
    if stored.home != stored.work {
        s.on_for(COPY_OUT, |s| {
            s.op(Copy {}, [stored.work], [stored.home]);
            s.free([stored.work]);
        });
    }
}

/// Brings the optimizer's tensors of some parameters to the device; empty when they live there.
pub fn fetch_states(name: &str, params: &[&Param]) -> Draft {
    let mut s = Draft::new(name);
    s.on(COPY_IN);
    for stored in params.iter().flat_map(|p| p.stored()).filter(|stored| stored.home != stored.work) {
        s.op(Copy {}, [stored.home], [stored.work]);
    }
    s
}

/// Takes them back.
pub fn store_states(name: &str, params: &[&Param]) -> Draft {
    let mut s = Draft::new(name);
    for stored in params.iter().flat_map(|p| p.stored()) {
        store(&mut s, stored);
    }
    s
}
