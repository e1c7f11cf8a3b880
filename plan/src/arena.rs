//! Addresses: every transient instance on the device gets an offset in one arena.
//!
//! Two instances may share bytes when they never live at the same time and one and the same stream touches
//! both: then the order of that stream keeps them apart. What several streams touch keeps its own bytes;
//! lowering puts such tensors in ring buffers, so little is lost. Placement is greedy by size, largest first
//! at the lowest free offset (Pisarchyk & Lee 2020, arXiv 2001.03288), which packs the stack-like lifetimes of
//! forward and backward without gaps; where it leaves some, what lies too high is placed earlier and all of it again, up to
//! near the least that any placement takes. Deterministic: ties go to the instance created first.
//!
//! Not here: persistent buffers and host memory, which the runtime allocates one by one.

use crate::live::{Instances, replay};
use crate::program::{Buffer, Program, Space, StreamId};

/// Offsets are multiples of this many bytes (the alignment of CUDA allocations, and more than any vector
/// load on a CPU asks for).
pub const ALIGNMENT: u64 = 256;

/// Times that a placement is tried again, and pairs of instances that all of them may look at.
const ROUNDS: usize = 64;
const WORK: usize = 8_000_000;
/// No better placement is looked for than one this part above the least.
const NEAR: u64 = 256;

/// Sets `offsets` of every transient device buffer and `arena_bytes`; replaces what was there. Instances no
/// list uses get offset 0. Leaves a program with an absurd number of instances as it is; `verify` refuses it.
pub fn assign(program: &mut Program) {
    let Some(instances) = Instances::new(program) else { return };
    let used = collect(program, &instances);
    let placed = place(&used, least(program, &instances, &used));

    for buffer in &mut program.buffers {
        let in_arena = !buffer.class.persistent() && buffer.space == Space::Device;
        buffer.offsets = if in_arena { vec![0; buffer.instances() as usize] } else { Vec::new() };
    }
    program.arena_bytes = 0;
    for (item, offset) in used.iter().zip(&placed) {
        let buffer = instances.owner.get(item.key).and_then(|b| program.buffers.get_mut(*b));
        let slot = buffer.and_then(|b| b.offsets.get_mut(instances.local(item.key)));
        if let Some(slot) = slot {
            *slot = *offset;
        }
        program.arena_bytes = program.arena_bytes.max(offset.saturating_add(item.bytes));
    }
}

/// Bytes that no placement can do without: what shares with nothing, and the most of the rest that live at once.
fn least(program: &Program, instances: &Instances, items: &[Item]) -> u64 {
    let mut sharing: Vec<u64> = vec![0; instances.len()];
    let mut alone: u64 = 0;
    for item in items {
        match item.stream {
            Some(_) => sharing[item.key] = item.bytes,
            None => alone = alone.saturating_add(item.bytes),
        }
    }
    let mut most: u64 = 0;
    for calls in [&program.init, &program.step, &program.eval, &program.save] {
        let mut now: u64 = 0;
        let sum = |keys: &[usize]| {
            keys.iter()
                .filter_map(|key| sharing.get(*key))
                .fold(0_u64, |sum, bytes| sum.saturating_add(*bytes))
        };
        replay(program, instances, calls, |step| {
            now = now.saturating_add(sum(step.created));
            most = most.max(now);
            now = now.saturating_sub(sum(step.freed));
        });
    }
    alone.saturating_add(most)
}

/// An instance to place.
struct Item {
    key: usize,
    bytes: u64,
    /// The only stream that touches it; none where several do, or it shares bytes with nothing.
    stream: Option<StreamId>,
    /// Items created earlier that lived when this one was created, as a bit set.
    met: Vec<u64>,
}

/// Every arena instance some list creates, in order of creation, with what it lived beside.
fn collect(program: &Program, instances: &Instances) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let mut number = vec![usize::MAX; instances.len()];
    for calls in [&program.init, &program.step, &program.eval, &program.save] {
        let mut alive: Vec<u64> = Vec::new();
        replay(program, instances, calls, |step| {
            for key in step.created.iter().filter(|key| instances.in_arena(**key)) {
                if number[*key] == usize::MAX {
                    number[*key] = items.len();
                    let bytes = instances.bytes(*key).checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX);
                    let buffer = instances.owner.get(*key).and_then(|b| program.buffers.get(*b));
                    let stream = Some(step.instr.stream).filter(|_| !buffer.is_some_and(|b| b.apart));
                    items.push(Item { key: *key, bytes, stream, met: Vec::new() });
                }
                let met = &mut items[number[*key]].met;
                met.resize(met.len().max(alive.len()), 0);
                met.iter_mut().zip(&alive).for_each(|(met, alive)| *met |= alive);
                set(&mut alive, number[*key], true);
            }
            let touched = step.instr.inputs.iter().chain(&step.instr.outputs);
            for key in touched.filter_map(|r| instances.key(program, &step.call, r)) {
                if let Some(item) = number.get(key).and_then(|n| items.get_mut(*n)) {
                    item.stream = item.stream.filter(|stream| *stream == step.instr.stream);
                }
            }
            for key in step.freed.iter().filter(|key| instances.in_arena(**key)) {
                set(&mut alive, number[*key], false);
            }
        });
    }
    items
}

/// Offsets, in the order of the items: largest first, which leaves gaps where lifetimes are not nested. Then those that lie
/// above the least that any placement takes are placed first, again and again, and the best is kept (squeaky wheel
/// optimisation, Joslin & Clements, Journal of Artificial Intelligence Research 10, 1999).
fn place(items: &[Item], least: u64) -> Vec<u64> {
    let size = |i: usize| items.get(i).map_or(0, |item| item.bytes);
    let end = |offsets: &[u64], i: usize| offsets.get(i).map_or(0, |offset| offset.saturating_add(size(i)));
    let height = |offsets: &[u64]| (0..items.len()).map(|i| end(offsets, i)).max().unwrap_or(0);
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(size(*i)), *i));
    let conflicts = Conflicts::new(items);
    let mut best = in_order(items, &conflicts, &order);
    let mut most = height(&best);
    let mut offsets = best.clone();
    let rounds = (WORK / (items.len() * items.len()).max(1)).min(ROUNDS);
    for _ in 0..rounds {
        if most <= least.saturating_add(least / NEAR) {
            break;
        }
        let above = |i: &usize| end(&offsets, *i) > least;
        let (first, rest): (Vec<usize>, Vec<usize>) = order.iter().copied().partition(above);
        order = first.into_iter().chain(rest).collect();
        offsets = in_order(items, &conflicts, &order);
        let now = height(&offsets);
        if now < most {
            most = now;
            best.clone_from(&offsets);
        }
    }
    best
}

/// Every item at the lowest offset that is free when its turn comes.
fn in_order(items: &[Item], conflicts: &Conflicts, order: &[usize]) -> Vec<u64> {
    let mut offsets: Vec<u64> = vec![0; items.len()];
    let mut placed: Vec<usize> = Vec::new(); // by offset
    for this in order.iter().copied() {
        let mut offset: u64 = 0;
        for other in &placed {
            if !conflicts.any(this, *other) {
                continue;
            }
            if offsets[*other] >= offset.saturating_add(items[this].bytes) {
                break;
            }
            offset = offset.max(offsets[*other].saturating_add(items[*other].bytes));
        }
        offsets[this] = offset;
        let position = placed.partition_point(|other| offsets[*other] <= offset);
        placed.insert(position, this);
    }
    offsets
}

/// Which items must not share bytes, as a square of bits.
struct Conflicts(Vec<Vec<u64>>);

impl Conflicts {
    fn new(items: &[Item]) -> Conflicts {
        let mut rows = vec![vec![0; items.len().div_ceil(64)]; items.len()];
        for a in 0..items.len() {
            for b in (0..a).filter(|b| conflict(items, a, *b)) {
                set(&mut rows[a], b, true);
                set(&mut rows[b], a, true);
            }
        }
        Conflicts(rows)
    }

    fn any(&self, a: usize, b: usize) -> bool {
        self.0.get(a).is_some_and(|row| get(row, b))
    }
}

fn conflict(items: &[Item], a: usize, b: usize) -> bool {
    let shared_stream = items[a].stream.is_some() && items[a].stream == items[b].stream;
    !shared_stream || get(&items[a].met, b) || get(&items[b].met, a)
}

fn get(bits: &[u64], index: usize) -> bool {
    bits.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
}

fn set(bits: &mut Vec<u64>, index: usize, on: bool) {
    let word = index / 64;
    bits.resize(bits.len().max(word + 1), 0);
    let mask = 1 << (index % 64);
    bits[word] = if on { bits[word] | mask } else { bits[word] & !mask };
}

/// Reports placements under which two tensors would share bytes although both may be in use: instances that
/// live at the same time, or that different streams touch. Says nothing of a program without addresses.
pub(crate) fn overlaps(program: &Program, instances: &Instances, report: &mut dyn FnMut(String)) {
    let in_arena = |b: &&Buffer| !b.class.persistent() && b.space == Space::Device;
    if program.buffers.iter().filter(in_arena).all(|b| b.offsets.is_empty()) {
        return;
    }
    let mut spans = Vec::new();
    let items = collect(program, instances);
    for (index, item) in items.iter().enumerate() {
        let Some(buffer) = instances.owner.get(item.key).and_then(|b| program.buffers.get(*b)) else {
            continue;
        };
        let Some(offset) = buffer.offsets.get(instances.local(item.key)) else {
            report(format!("{} has {} addresses, not one an instance", buffer.name, buffer.offsets.len()));
            continue;
        };
        let end = offset.saturating_add(instances.bytes(item.key));
        if end > program.arena_bytes {
            report(format!("{} ends at byte {end} of an arena of {}", buffer.name, program.arena_bytes));
        }
        if offset % ALIGNMENT != 0 {
            report(format!("{} starts at byte {offset}, not a multiple of {ALIGNMENT}", buffer.name));
        }
        spans.push((*offset, end, index, buffer.name.as_str()));
    }
    spans.sort_unstable();
    for (position, (_, end, index, name)) in spans.iter().enumerate() {
        let overlapping = spans.iter().skip(position + 1).take_while(|(start, ..)| start < end);
        for (.., other_name) in overlapping.filter(|(_, _, other, _)| conflict(&items, *index, *other)) {
            report(format!("{name} and {other_name} share bytes of the arena while both may be in use"));
        }
    }
}
