//! Two tensor-parallel ranks, each a process of its own, against one.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use llmc_corpus::Stream;
use llmc_plan::batch::Batch;
use llmc_plan::lower::{Coordinates, Options, lower_with};
use llmc_plan::op::{Backend, Op};
use llmc_plan::param::ParamSpec;
use llmc_plan::plan::Plan;
use llmc_plan::program::Axis;
use llmc_runtime::error::Result;
use llmc_runtime::host::{Session, Source};
use llmc_runtime::interpret::{Machine, Pass};
use llmc_runtime::ops::Host;
use llmc_runtime::schedule;
use tch::Tensor;

use crate::support::{alone, machine, plan, program, relative_error, step, stream, tensors};

const SOCKET: &str = "LLMC_TEST_PEER";
const STEPS: u64 = 4;

/// A rank's host: batches of the corpus, and the other rank at the end of a socket.
struct Rank<'a> {
    session: Session<'a>,
    rank: usize,
    peer: &'a mut UnixStream,
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.reshape([-1])).expect("f32")
}

/// Written in pieces, so that an exchange allocates no more than scalars do.
fn write(values: &[f32], to: &Tensor) {
    for (at, piece) in (0i64..).step_by(256).zip(values.chunks(256)) {
        to.view([-1]).narrow(0, at, piece.len() as i64).copy_(&Tensor::from_slice(piece));
    }
}

impl Rank<'_> {
    /// Both ranks' numbers, in the order of ranks.
    fn swap(&mut self, mine: Vec<f32>) -> [Vec<f32>; 2] {
        let sent: Vec<u8> = mine.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut got = vec![0; sent.len()];
        // One talks while the other listens: no buffer of the system's needs to hold it all.
        for turn in 0..2 {
            if turn == self.rank {
                self.peer.write_all(&sent).expect("send");
            } else {
                self.peer.read_exact(&mut got).expect("receive");
            }
        }
        let theirs = got.chunks(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect();
        if self.rank == 0 { [mine, theirs] } else { [theirs, mine] }
    }
}

impl Host for Rank<'_> {
    fn next_batch(&mut self) -> Result<Batch> {
        self.session.next_batch()
    }

    fn snapshot(&mut self, tensors: &[Tensor]) -> Result<()> {
        self.session.snapshot(tensors)
    }

    fn exchange(&mut self, op: &Op, inputs: &[Tensor], outputs: &[Tensor]) -> Result<()> {
        let [first, second] = self.swap(numbers(inputs.first().unwrap_or(&outputs[0])));
        let sum = || first.iter().zip(&second).map(|(a, b)| a + b).collect::<Vec<f32>>();
        match op {
            Op::Gather(_) => write(&[&first[..], &second[..]].concat(), &outputs[0]),
            Op::AllReduce(_) => write(&sum(), &outputs[0]),
            Op::ReduceScatter(op) if !op.accumulate => {
                let half = first.len() / 2;
                write(&sum()[self.rank * half..][..half], &outputs[0]);
            }
            other => panic!("{} between tensor ranks", other.key()),
        }
        Ok(())
    }
}

/// The rank's part of a whole parameter: of each of its parts an equal share of rows, or of columns.
fn part(whole: &Tensor, spec: &ParamSpec, rank: i64) -> Tensor {
    match spec.shard.iter().find(|(axis, _)| *axis == Axis::Tensor) {
        None => whole.shallow_clone(),
        Some((_, 0)) => {
            let mut start = 0;
            let share = |part: &llmc_plan::param::Part| {
                let each = part.rows as i64 / 2;
                start += part.rows as i64;
                whole.narrow(0, start - part.rows as i64 + rank * each, each)
            };
            Tensor::cat(&spec.parts.iter().map(share).collect::<Vec<_>>(), 0)
        }
        Some((_, axis)) => {
            let each = whole.size()[*axis as usize] / 2;
            whole.narrow(*axis as i64, rank * each, each)
        }
    }
}

/// A plan's model, and the same plan on two tensor ranks.
fn plans(tied: bool) -> (Plan, Plan) {
    let mut one = plan();
    one.model.tied = tied;
    let mut two = one.clone();
    (two.layout.gpus, two.layout.tp, two.layout.sequence_parallel) = (2, 2, true);
    (one, two)
}

/// Trains as `rank` of two beside the whole model, and compares: losses, and the rank's part of what was trained.
fn compare(tied: bool, rank: usize, peer: &mut UnixStream) {
    let (one, two) = plans(tied);
    let (whole_program, corpus) = (program(&one), stream(&one));
    let at = Coordinates { tensor: rank as u64, ..Coordinates::default() };
    let mut own = lower_with(&two, &at, &Options::new(Backend::Cpu)).expect("lower");
    llmc_plan::arena::assign(&mut own);
    // Weights are the whole model's: initialisation does not yet know of columns that ranks share.
    own.segments.iter_mut().for_each(|s| s.instrs.retain(|i| !matches!(i.op, Op::Initialise(_))));
    let mut whole = machine(&whole_program, &one);
    let mut mine = Machine::new(&own, tch::Device::Cpu, two.seed).expect("allocate");
    let init = Pass { list: "init", steps_done: 0 };
    let mut host = Rank { session: Session::new(Source::None), rank, peer };
    mine.run(&own.init, init, &mut host, None).expect("init");
    let each = |mine: &Machine<'_>, whole: &Machine<'_>, visit: &mut dyn FnMut(&str, &Tensor, Tensor)| {
        for spec in &own.params {
            let buffer = &own.buffers[spec.buffers.weight.0 as usize].name;
            let name = format!("{buffer}[{}]", spec.layer.unwrap_or(0));
            let find =
                |machine| tensors(machine, buffer).into_iter().find(|(n, _)| *n == name).expect("it").1;
            visit(&spec.name, &find(mine), part(&find(whole), spec, rank as i64));
        }
    };
    each(&mine, &whole, &mut |_, mine, part| mine.shallow_clone().copy_(&part));
    for done in 0..STEPS {
        let want = step(&mut whole, &one, &corpus, done);
        let got = step_of(&mut mine, &two, &corpus, done, rank, peer);
        assert!((got / want - 1.0).abs() < 1e-5, "step {done}: {got} beside {want}");
    }
    let mut trained = 0;
    each(&mine, &whole, &mut |name, mine, part| {
        let error = relative_error(mine, &part);
        assert!(error < 1e-4, "{name}: {error}");
        trained += 1;
    });
    assert_eq!(trained, 3 * 6 + if tied { 2 } else { 3 });
    let pass = Pass { list: "eval", steps_done: STEPS };
    let batch = corpus.batch(STEPS, 0, 0, 1).expect("batch");
    let mut session = Session::new(Source::Given(batch.clone()));
    whole.run(&whole_program.eval, pass, &mut session, None).expect("eval");
    let mut host = Rank { session: Session::new(Source::Given(batch)), rank, peer };
    mine.run(&own.eval, pass, &mut host, None).expect("eval");
    let (got, want) = (mine.get("loss_sum").expect("loss"), whole.get("loss_sum").expect("loss"));
    assert!((got / want - 1.0).abs() < 1e-5, "evaluation: {got} beside {want}");
}

fn step_of(
    machine: &mut Machine<'_>,
    plan: &Plan,
    stream: &Stream,
    done: u64,
    rank: usize,
    peer: &mut UnixStream,
) -> f64 {
    let weight = stream.step_weight(done).expect("weight");
    machine.set("lr", schedule::learning_rate(&plan.lr, plan.budget.steps, done + 1)).expect("lr");
    machine.set("inv_weight", 1.0 / weight).expect("inv_weight");
    machine.set("step", (done + 1) as f64).expect("step");
    let calls = &machine.program().step;
    let mut host = Rank { session: Session::new(Source::Train { stream, step: done }), rank, peer };
    machine.run(calls, Pass { list: "step", steps_done: done }, &mut host, None).expect("step");
    machine.get("loss_sum").expect("loss") / weight
}

#[test]
fn two_tensor_ranks_train_as_one_does() {
    let _alone = alone();
    if let Ok(path) = std::env::var(SOCKET) {
        let mut peer = UnixStream::connect(path).expect("connect");
        [false, true].into_iter().for_each(|tied| compare(tied, 1, &mut peer));
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("peer");
    let listener = UnixListener::bind(&path).expect("bind");
    let mut other = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "tensor::two_tensor_ranks_train_as_one_does"])
        .env(SOCKET, &path)
        .spawn()
        .expect("start the other rank");
    let mut peer = listener.accept().expect("the other rank").0;
    [false, true].into_iter().for_each(|tied| compare(tied, 0, &mut peer));
    assert!(other.wait().expect("the other rank").success());
}
