//! Walks the programs of all ranks together: matches sends with receives and collectives with each other,
//! finds deadlocks, and says when everything happens.
//!
//! Every exchange is a rendezvous: it starts when the last participant is ready, and each participant's stream
//! is busy until it ends. Collectives of a group match by stream and order, as communicators do; sends and
//! receives by sender, receiver, tag and order.

use std::collections::BTreeMap;

use crate::op::Op;
use crate::order::{Raised, awaited};
use crate::program::{Axis, Call, Instr, Place, Program};
use crate::walk::{Durations, Table, place};

/// When one instruction ran.
#[derive(Debug, Clone, PartialEq)]
pub struct Timed {
    /// Where it stands.
    pub place: Place,
    /// Key of its op.
    pub op: &'static str,
    /// Stream name.
    pub stream: String,
    /// Seconds from the start of the list.
    pub start: f64,
    /// Seconds from the start of the list.
    pub end: f64,
}

/// All ranks, walked.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranks {
    /// Of each rank, in issue order.
    pub timed: Vec<Vec<Timed>>,
    /// Until the last rank is done.
    pub seconds: f64,
    /// Of each rank: share of those seconds in which its compute stream has nothing to do.
    pub bubble: Vec<f64>,
}

/// Walks one list of every rank, for example `|p| &p.step`.
///
/// # Errors
/// One sentence for each exchange without its other side, with another shape there, or, when all match, for
/// each rank that waits for ever.
pub fn walk_ranks(
    programs: &[Program],
    list: fn(&Program) -> &[Call],
    durations: &dyn Durations,
) -> Result<Ranks, Vec<String>> {
    let nodes = nodes(programs, list, durations, 1);
    let times = timed(programs, &nodes)?;
    let mut ranks = Ranks { timed: vec![Vec::new(); programs.len()], seconds: 0.0, bubble: Vec::new() };
    let mut busy = vec![0.0; programs.len()];
    for (node, (start, end)) in nodes.iter().zip(times) {
        ranks.seconds = ranks.seconds.max(end);
        if node.instr.stream.0 == 0 {
            busy[node.rank] += end - start;
        }
        let stream = programs[node.rank].streams.get(node.instr.stream.0 as usize);
        let stream = stream.cloned().unwrap_or_default();
        let op = node.instr.op.key();
        ranks.timed[node.rank].push(Timed { place: node.place.clone(), op, stream, start, end });
    }
    let idle = |busy: f64| if ranks.seconds > 0.0 { 1.0 - busy / ranks.seconds } else { 0.0 };
    ranks.bubble = busy.into_iter().map(idle).collect();
    Ok(ranks)
}

/// Seconds from one step's end to the next one's, when each goes on from where the one before left its streams: what
/// hides behind the next forward pass, as a gather of updated weights, is not charged.
///
/// # Errors
/// As [`walk_ranks`].
pub fn steady_seconds(programs: &[Program], durations: &dyn Durations) -> Result<f64, Vec<String>> {
    let nodes = nodes(programs, |p| &p.step, durations, 2);
    let times = timed(programs, &nodes)?;
    // The end of a step is when its last pass and update are done; what it publishes is read by the next.
    let end = |round: usize| {
        let of = nodes.iter().zip(&times).filter(|(node, _)| node.round == round);
        of.filter(|(node, _)| node.instr.stream.0 == 0).map(|(_, (_, end))| *end).fold(0.0, f64::max)
    };
    Ok(end(1) - end(0))
}

/// Start and end of every node.
fn timed(programs: &[Program], nodes: &[Node]) -> Result<Vec<(f64, f64)>, Vec<String>> {
    let mut wrong = Vec::new();
    let group = groups(programs, nodes, &mut wrong);
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let times = schedule(nodes, &group);
    let stuck: Vec<usize> = (0..nodes.len()).filter(|i| times[*i].is_none()).collect();
    if !stuck.is_empty() {
        return Err(deadlock(programs, nodes, &stuck));
    }
    Ok(times.into_iter().flatten().collect())
}

/// One issued instruction of one rank.
struct Node<'a> {
    rank: usize,
    /// How often the list was walked before.
    round: usize,
    place: Place,
    instr: &'a Instr,
    seconds: f64,
    /// Nodes that end before it starts: the one before on its stream, and those whose events it waits for.
    after: Vec<usize>,
}

/// Issues a list of every rank `rounds` times. Events of the round before are those of the previous step; the first round
/// waits for none.
fn nodes<'a>(
    programs: &'a [Program],
    list: fn(&Program) -> &[Call],
    durations: &dyn Durations,
    rounds: usize,
) -> Vec<Node<'a>> {
    let mut nodes = Vec::new();
    for (rank, program) in programs.iter().enumerate() {
        let table = Table::new(program, durations);
        let mut last: BTreeMap<u32, usize> = BTreeMap::new();
        let mut previous: BTreeMap<Raised, usize> = BTreeMap::new();
        for round in 0..rounds {
            let mut events: BTreeMap<Raised, usize> = BTreeMap::new();
            for (call, index, segment, instr) in program.instrs(list(program)) {
                let this = nodes.len();
                let awaited = instr.waits.iter().filter_map(|wait| {
                    let of = if wait.previous_step { &previous } else { &events };
                    awaited(&call, wait).and_then(|event| of.get(&event)).copied()
                });
                let after = last.get(&instr.stream.0).copied().into_iter().chain(awaited).collect();
                last.insert(instr.stream.0, this);
                for event in &instr.signals {
                    events.insert((*event, call.layer, call.micro_batch), this);
                }
                let place = place(&segment.name, index, &call);
                nodes.push(Node { rank, round, place, instr, seconds: table.seconds(&call, index), after });
            }
            previous = events;
        }
    }
    nodes
}

/// What exchanges must have in common to match; they do so in order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Channel {
    /// Axis, lowest rank of the group, stream.
    Collective(Axis, usize, String),
    /// Sender, receiver, tag.
    Pair(usize, usize, String),
}

/// For each node the node that stands for its exchange: itself when it is none.
fn groups(programs: &[Program], nodes: &[Node], wrong: &mut Vec<String>) -> Vec<usize> {
    let atlas = atlas(programs);
    let mut group: Vec<usize> = (0..nodes.len()).collect();
    // Channel → rank → nodes in order.
    let mut channels: BTreeMap<Channel, BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        match members(programs, &atlas, node) {
            Ok(None) => {}
            Ok(Some((channel, members))) => {
                let lanes = channels.entry(channel).or_default();
                for rank in members {
                    lanes.entry(rank).or_default();
                }
                lanes.entry(node.rank).or_default().push(index);
            }
            Err(reason) => wrong.push(format!("rank {} {}: {reason}", node.rank, node.place)),
        }
    }
    for (channel, lanes) in &channels {
        let most = lanes.values().map(Vec::len).max().unwrap_or(0);
        for turn in 0..most {
            let present: Vec<usize> = lanes.values().filter_map(|lane| lane.get(turn)).copied().collect();
            let Some(first) = present.first().copied() else { continue };
            if present.len() < lanes.len() {
                let missing = lanes.iter().find(|(_, lane)| lane.len() <= turn).map_or(0, |(rank, _)| *rank);
                let (rank, place) = (nodes[first].rank, &nodes[first].place);
                wrong.push(format!("rank {rank} {place}: rank {missing} never takes part"));
                break;
            }
            for other in &present[1..] {
                if let Err(reason) = fit(programs, &nodes[first], &nodes[*other], channel) {
                    let (a, b) = (&nodes[first], &nodes[*other]);
                    let (ra, rb) = (a.rank, b.rank);
                    wrong.push(format!("rank {ra} {} meets rank {rb} {}: {reason}", a.place, b.place));
                }
                group[*other] = first;
            }
        }
    }
    group
}

/// Channel and ranks of an exchange; `None` when the instruction is none.
fn members(
    programs: &[Program],
    atlas: &Atlas,
    node: &Node,
) -> Result<Option<(Channel, Vec<usize>)>, String> {
    let (axis, along) = match &node.instr.op {
        Op::Gather(op) => (op.axis, None),
        Op::ReduceScatter(op) => (op.axis, None),
        Op::AllReduce(op) => (op.axis, None),
        Op::Send(op) => (op.axis, Some((op.offset, &op.tag))),
        Op::Recv(op) => (op.axis, Some((op.offset, &op.tag))),
        _ => return Ok(None),
    };
    let program = &programs[node.rank];
    let size = program.mesh.size(axis);
    let at = |coordinate: u64| {
        let found = atlas.get(&coordinates(program, axis, coordinate)).copied();
        found.ok_or_else(|| format!("there is no rank {coordinate} along {axis:?}"))
    };
    let Some((offset, tag)) = along else {
        let ranks = (0..size).map(at).collect::<Result<Vec<usize>, String>>()?;
        let stream = program.streams.get(node.instr.stream.0 as usize).cloned().unwrap_or_default();
        let lowest = ranks.iter().min().copied().unwrap_or(node.rank);
        return Ok(Some((Channel::Collective(axis, lowest, stream), ranks)));
    };
    let here = program.mesh.coordinate(axis) as i64;
    let peer = at((here.wrapping_add(offset)).rem_euclid((size as i64).max(1)) as u64)?;
    let sends = matches!(node.instr.op, Op::Send(_));
    let (from, to) = if sends { (node.rank, peer) } else { (peer, node.rank) };
    if from == to {
        return Err("sends to itself".to_string());
    }
    Ok(Some((Channel::Pair(from, to, tag.clone()), vec![from, to])))
}

/// Coordinates → position among the programs.
type Atlas = BTreeMap<Vec<(Axis, u64)>, usize>;

fn atlas(programs: &[Program]) -> Atlas {
    let of = |p: &Program| p.mesh.axes.iter().map(|(a, _)| (*a, p.mesh.coordinate(*a))).collect();
    programs.iter().enumerate().map(|(index, program)| (of(program), index)).collect()
}

/// Coordinates of a rank with one replaced.
fn coordinates(program: &Program, axis: Axis, coordinate: u64) -> Vec<(Axis, u64)> {
    let axes = program.mesh.axes.iter().map(|(a, _)| *a);
    axes.map(|a| (a, if a == axis { coordinate } else { program.mesh.coordinate(a) })).collect()
}

/// Whether two sides of an exchange mean the same.
fn fit(programs: &[Program], a: &Node, b: &Node, channel: &Channel) -> Result<(), String> {
    let tensors = |node: &Node| {
        let refs = node.instr.inputs.iter().chain(&node.instr.outputs);
        refs.map(|r| programs[node.rank].tensor(r)).collect::<Vec<_>>()
    };
    let (ta, tb) = (tensors(a), tensors(b));
    if ta != tb {
        return Err(format!("one has {ta:?}, the other {tb:?}"));
    }
    let same_op = matches!(channel, Channel::Pair(..)) || a.instr.op == b.instr.op;
    let same_call = (a.place.layer, a.place.micro_batch) == (b.place.layer, b.place.micro_batch);
    if same_op && same_call { Ok(()) } else { Err("they are not the same exchange".to_string()) }
}

/// Start and end of every node that ever runs.
fn schedule(nodes: &[Node], group: &[usize]) -> Vec<Option<(f64, f64)>> {
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut waiting: Vec<usize> = vec![0; nodes.len()];
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        members[group[index]].push(index);
        waiting[group[index]] += node.after.len();
        node.after.iter().for_each(|before| followers[*before].push(group[index]));
    }
    let mut ready: Vec<usize> = (0..nodes.len()).filter(|i| group[*i] == *i && waiting[*i] == 0).collect();
    let mut times: Vec<Option<(f64, f64)>> = vec![None; nodes.len()];
    while let Some(this) = ready.pop() {
        let before = members[this].iter().flat_map(|m| &nodes[*m].after);
        let start = before.filter_map(|b| times[*b]).map(|(_, end)| end).fold(0.0, f64::max);
        let seconds = members[this].iter().map(|m| nodes[*m].seconds).fold(0.0, f64::max);
        for member in &members[this] {
            times[*member] = Some((start, start + seconds));
            for follower in &followers[*member] {
                waiting[*follower] -= 1;
                if waiting[*follower] == 0 {
                    ready.push(*follower);
                }
            }
        }
    }
    times
}

/// What each rank waits for, where nothing can go on.
fn deadlock(programs: &[Program], nodes: &[Node], stuck: &[usize]) -> Vec<String> {
    let atlas = atlas(programs);
    let mut first: BTreeMap<(usize, u32), usize> = BTreeMap::new();
    for index in stuck {
        first.entry((nodes[*index].rank, nodes[*index].instr.stream.0)).or_insert(*index);
    }
    let exchanges =
        first.into_values().filter(|i| matches!(members(programs, &atlas, &nodes[*i]), Ok(Some(_))));
    let stuck = exchanges.map(|i| format!("rank {} waits for ever at {}", nodes[i].rank, nodes[i].place));
    stuck.collect()
}
