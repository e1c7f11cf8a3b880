//! Which instances of transient buffers are live when: the one replay that arena, walk and verification share.
//!
//! An instance lives from the first instruction that writes it to the one that frees it, in issue order.

use crate::program::{Call, Instr, Program, Ref, Segment, Space};

/// Most instances a program may declare; a 405B model in flight 16 times has about 25,000.
const MOST_INSTANCES: u64 = 1 << 22;

/// Numbers every instance of every buffer.
pub(crate) struct Instances {
    base: Vec<usize>,
    /// Buffer of each instance.
    pub owner: Vec<usize>,
    /// Bytes of each buffer's instances.
    bytes: Vec<u64>,
    transient: Vec<bool>,
    on_device: Vec<bool>,
}

impl Instances {
    /// `None` when the program declares more instances than any real one.
    pub fn new(program: &Program) -> Option<Instances> {
        let mut base = Vec::with_capacity(program.buffers.len());
        let mut owner = Vec::new();
        for (index, buffer) in program.buffers.iter().enumerate() {
            base.push(owner.len());
            if buffer.instances() > MOST_INSTANCES - owner.len() as u64 {
                return None;
            }
            owner.resize(owner.len() + buffer.instances() as usize, index);
        }
        Some(Instances {
            base,
            owner,
            bytes: program.buffers.iter().map(|b| b.bytes()).collect(),
            transient: program.buffers.iter().map(|b| !b.class.persistent()).collect(),
            on_device: program.buffers.iter().map(|b| b.space == Space::Device).collect(),
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.owner.len()
    }

    /// Number of the instance an operand means in a call.
    pub fn key(&self, program: &Program, call: &Call, reference: &Ref) -> Option<usize> {
        let local = usize::try_from(program.instance(call, reference)?).ok()?;
        let key = self.base.get(reference.buffer.0 as usize)?.checked_add(local)?;
        (self.owner.get(key) == Some(&(reference.buffer.0 as usize))).then_some(key)
    }

    /// Position of an instance inside its buffer.
    pub fn local(&self, key: usize) -> usize {
        let base = self.owner.get(key).and_then(|buffer| self.base.get(*buffer));
        key - base.copied().unwrap_or(key)
    }

    /// Bytes of an instance.
    pub fn bytes(&self, key: usize) -> u64 {
        self.of(&self.bytes, key)
    }

    /// Whether it is created and freed by instructions.
    pub fn transient(&self, key: usize) -> bool {
        self.of(&self.transient, key)
    }

    /// Whether it lives in the arena of the device.
    pub fn in_arena(&self, key: usize) -> bool {
        self.transient(key) && self.of(&self.on_device, key)
    }

    fn of<T: Copy + Default>(&self, values: &[T], key: usize) -> T {
        self.owner.get(key).and_then(|buffer| values.get(*buffer)).copied().unwrap_or_default()
    }
}

/// One instruction of a replay.
pub(crate) struct Step<'a> {
    pub call: Call,
    pub index: u64,
    pub segment: &'a Segment,
    pub instr: &'a Instr,
    /// Transient instances that come to life with it.
    pub created: &'a [usize],
    /// Transient instances that die after it.
    pub freed: &'a [usize],
}

/// Visits a list in issue order. Operands that mean no instance are passed over: `verify` reports them.
pub(crate) fn replay(program: &Program, instances: &Instances, calls: &[Call], mut visit: impl FnMut(Step)) {
    let mut alive = vec![false; instances.len()];
    let (mut created, mut freed) = (Vec::new(), Vec::new());
    for (call, index, segment, instr) in program.instrs(calls) {
        created.clear();
        freed.clear();
        let keys = |refs: &[Ref]| {
            let keys = refs.iter().filter_map(|r| instances.key(program, &call, r));
            keys.filter(|key| instances.transient(*key)).collect::<Vec<_>>()
        };
        for key in keys(&instr.outputs) {
            if let Some(state) = alive.get_mut(key).filter(|state| !**state) {
                *state = true;
                created.push(key);
            }
        }
        for key in keys(&instr.frees) {
            if let Some(state) = alive.get_mut(key).filter(|state| **state) {
                *state = false;
                freed.push(key);
            }
        }
        visit(Step { call, index, segment, instr, created: &created, freed: &freed });
    }
}
