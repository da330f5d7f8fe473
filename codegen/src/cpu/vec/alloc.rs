//! Registers for the values of one loop body, given out while its instructions are written.
//!
//! A body is straight-line code over `copies` independent copies of the graph, so the whole future is known:
//! when registers run out, the value whose next use is farthest goes. Values that are in memory anyway
//! (constants, uniform elements, elements of streams) are dropped, others are spilled once.

use super::asm::{Asm, BROADCASTSS, Base, MOVUPS, MOVUPS_STORE, Mask, Mem, RAX, RDI, Rm, Width};
use super::graph::{Graph, Id, NodeOp};
use std::collections::HashMap;
use torsh_ir::{Error, Result};

/// Most copies of a body.
pub(super) const MAX_COPIES: usize = 4;
/// The mask of a partial vector, and the same for the upper eight lanes.
pub(super) const TAIL_MASK: u8 = 1;
pub(super) const TAIL_MASK_HIGH: u8 = 2;
/// General registers that hold stream addresses; the last one serves in turn for those that find no place.
pub(super) const POINTERS: [u8; 12] = [8, 9, 10, 11, 2, 1, 3, 5, 12, 13, 14, 15];

/// A value of one copy.
type Key = (Id, u8);

/// Where things are in the area, in bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Area {
    pub uniforms: i32,
    pub uniform_step: i32,
    pub tails: i32,
    pub tail_step: i32,
    pub tail_masks: i32,
    pub end: i32,
}

/// What addresses and masks a body uses.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// Whole vectors of the streams.
    Whole,
    /// A partial vector under a mask.
    Masked,
    /// Copies of the streams' last elements in the area.
    Copied,
}

/// The state of registers at a point of a body.
pub(super) struct Alloc<'g> {
    pub g: &'g Graph,
    pub asm: Asm,
    pub area: Area,
    /// Positions of uses, by node.
    pub uses: Vec<Vec<u32>>,
    /// Registers that values have for the whole function.
    pub pinned: Vec<Option<u8>>,
    /// Registers taken for the whole function: vector and mask.
    pub taken: [u32; 2],
    pub copies: usize,
    pub mode: Mode,
    /// The position being written, and its copy.
    pub at: u32,
    pub copy: u8,
    held: HashMap<Key, u8>,
    owner: [[Option<Key>; 32]; 2],
    locked: [u32; 2],
    spilled: HashMap<Key, i32>,
    slots: HashMap<Key, i32>,
    free_slots: Vec<i32>,
    /// Slots that the current operation may still read.
    retired: Vec<i32>,
}

impl<'g> Alloc<'g> {
    pub fn new(g: &'g Graph, asm: Asm, area: Area, uses: Vec<Vec<u32>>) -> Alloc<'g> {
        Alloc {
            g,
            asm,
            area,
            uses,
            pinned: vec![None; g.nodes.len()],
            taken: [0, 0b111],
            copies: 1,
            mode: Mode::Whole,
            at: 0,
            copy: 0,
            held: HashMap::new(),
            owner: [[None; 32]; 2],
            locked: [0; 2],
            spilled: HashMap::new(),
            slots: HashMap::new(),
            free_slots: Vec::new(),
            retired: Vec::new(),
        }
    }

    /// Begins a body with nothing in registers but what is pinned.
    pub fn begin(&mut self, copies: usize, mode: Mode) {
        self.free_slots.append(&mut self.retired);
        self.copies = copies;
        self.mode = mode;
        self.held.clear();
        self.owner = [[None; 32]; 2];
        self.locked = [0; 2];
        self.spilled.clear();
        self.free_slots.extend(self.slots.drain().map(|(_, at)| at));
        self.free_slots.sort_unstable_by(|a, b| b.cmp(a));
    }

    pub fn width(&self) -> Width {
        if self.g.is_wide() { Width::Z } else { Width::Y }
    }

    fn registers(&self, class: usize) -> u8 {
        match (class, self.g.is_wide()) {
            (0, true) => 32,
            (0, false) => 16,
            _ => 8,
        }
    }

    fn class(&self, id: Id) -> usize {
        usize::from(self.g.is_wide() && self.g.nodes[id as usize].is_mask())
    }

    fn key(&self, id: Id, copy: u8) -> Key {
        (id, if self.g.nodes[id as usize].is_uniform() { 0 } else { copy })
    }

    /// The position of the next use after the current operation.
    fn next_use(&self, key: Key) -> Option<u32> {
        let uses = &self.uses[key.0 as usize];
        let first = uses.partition_point(|&p| p < self.at);
        let shared = self.g.nodes[key.0 as usize].is_uniform();
        match uses.get(first) {
            Some(&p) if p == self.at => {
                let again = if shared { usize::from(self.copy) + 1 < self.copies } else { key.1 > self.copy };
                if again { Some(p) } else { uses[first..].iter().copied().find(|&q| q > p) }
            }
            other => other.copied(),
        }
    }

    /// True when the value's register is free after the current operation.
    pub fn dies(&self, id: Id) -> bool {
        self.pinned[id as usize].is_none() && self.next_use(self.key(id, self.copy)).is_none()
    }

    /// The register that holds a value, if any.
    pub fn register_of(&self, id: Id) -> Option<u8> {
        self.pinned[id as usize].or_else(|| self.held.get(&self.key(id, self.copy)).copied())
    }

    /// Where a value is in memory, for good or because it was spilled.
    fn home(&mut self, key: Key) -> Option<Mem> {
        let wide = self.g.is_wide();
        match self.g.nodes[key.0 as usize].op {
            NodeOp::Const(bits) => {
                let one = bits.to_le_bytes();
                let disp = if wide { self.asm.constant(&one) } else { self.asm.constant(&one.repeat(8)) };
                Some(Mem { base: Base::Pool, index: None, disp, splat: wide })
            }
            NodeOp::Uniform(n) => {
                let disp = self.area.uniforms + i32::from(n) * self.area.uniform_step;
                Some(Mem { splat: wide, ..Mem::at(RDI, disp) })
            }
            NodeOp::Stream(n) => Some(self.stream(n, key.1, 4)),
            _ => self.spilled.get(&key).map(|&at| Mem::at(RDI, at)),
        }
    }

    /// The address of the elements of a stream that a copy works on.
    pub fn stream(&mut self, n: u16, copy: u8, size: usize) -> Mem {
        let step = (self.g.level.lanes() * size) as i32 * i32::from(copy);
        if self.mode == Mode::Copied {
            return Mem::at(RDI, self.area.tails + i32::from(n) * self.area.tail_step + step);
        }
        let base = self.pointer(n);
        Mem { base: Base::Gpr(base), index: Some((RAX, size.trailing_zeros() as u8)), disp: step, splat: false }
    }

    /// The register with the address of a stream.
    fn pointer(&mut self, n: u16) -> u8 {
        let last = POINTERS.len() - 1;
        let n = usize::from(n);
        if n < last || self.g.streams.len() <= POINTERS.len() {
            return POINTERS[n];
        }
        self.asm.load(POINTERS[last], Mem::at(RDI, 8 * n as i32));
        POINTERS[last]
    }

    /// A value in a register, which stays until [`Alloc::release`].
    pub fn reg(&mut self, id: Id) -> Result<u8> {
        let class = self.class(id);
        if let Some(r) = self.register_of(id) {
            self.locked[class] |= 1 << r;
            return Ok(r);
        }
        let key = self.key(id, self.copy);
        let r = self.take(class)?;
        let Some(home) = self.home(key) else {
            return Err(Error::internal("a vector value is neither in a register nor in memory"));
        };
        self.load(r, class, id, home);
        self.own(key, class, r);
        self.locked[class] |= 1 << r;
        Ok(r)
    }

    /// Reads a value from where it is in memory.
    fn load(&mut self, r: u8, class: usize, id: Id, home: Mem) {
        let width = self.width();
        if class == 1 {
            self.asm.k_memory(r, RDI, home.disp, false);
        } else if home.splat {
            self.asm.v(&BROADCASTSS, width, r, 0, Rm::Mem(Mem { splat: false, ..home }), None);
        } else {
            let masked = self.mode == Mode::Masked && matches!(self.g.nodes[id as usize].op, NodeOp::Stream(_));
            let mask = if masked { Mask { k: TAIL_MASK, zero: true } } else { Mask::default() };
            self.asm.masked(&MOVUPS, width, r, 0, Rm::Mem(home), None, mask);
        }
    }

    /// Loads a value that is the same everywhere into a register of the caller's.
    pub fn load_uniform(&mut self, r: u8, id: Id) {
        if let Some(home) = self.home((id, 0)) {
            self.load(r, 0, id, home);
        }
    }

    /// A value as an operand that may be memory. Ask for it after all others of an operation.
    pub fn rm(&mut self, id: Id) -> Result<Rm> {
        if self.register_of(id).is_none() && self.class(id) == 0 {
            let key = self.key(id, self.copy);
            let last = self.next_use(key).is_none();
            let readable = match self.g.nodes[id as usize].op {
                NodeOp::Const(_) | NodeOp::Uniform(_) => true,
                NodeOp::Stream(_) => last && self.mode != Mode::Masked,
                _ => last,
            };
            if readable && let Some(home) = self.home(key) {
                return Ok(Rm::Mem(home));
            }
        }
        Ok(Rm::Reg(self.reg(id)?))
    }

    fn own(&mut self, key: Key, class: usize, r: u8) {
        self.held.insert(key, r);
        self.owner[class][usize::from(r)] = Some(key);
    }

    /// A free register; something goes to memory if there is none.
    pub fn take(&mut self, class: usize) -> Result<u8> {
        let busy = self.taken[class] | self.locked[class];
        let all = 0..self.registers(class);
        let open = |r: &u8| busy & (1 << r) == 0;
        if let Some(r) = all.clone().filter(open).find(|&r| self.owner[class][usize::from(r)].is_none()) {
            return Ok(r);
        }
        let far = |&r: &u8| {
            let key = self.owner[class][usize::from(r)];
            key.map_or(u32::MAX, |key| self.next_use(key).unwrap_or(u32::MAX))
        };
        let Some(r) = all.filter(open).max_by_key(far) else {
            return Err(Error::internal("an operation needs more registers than there are"));
        };
        self.evict(class, r);
        Ok(r)
    }

    fn evict(&mut self, class: usize, r: u8) {
        let Some(key) = self.owner[class][usize::from(r)].take() else { return };
        self.held.remove(&key);
        let kept = self.g.nodes[key.0 as usize].is_uniform()
            || matches!(self.g.nodes[key.0 as usize].op, NodeOp::Stream(_))
            || self.spilled.contains_key(&key);
        if kept {
            return;
        }
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            let at = self.area.end;
            self.area.end += 64;
            at
        });
        self.slots.insert(key, slot);
        self.spilled.insert(key, slot);
        if class == 1 {
            self.asm.k_memory(r, RDI, slot, true);
        } else {
            let width = self.width();
            self.asm.v(&MOVUPS_STORE, width, r, 0, Rm::Mem(Mem::at(RDI, slot)), None);
        }
    }

    /// Unlocks everything and frees the registers of operands that are not used again.
    pub fn release(&mut self, args: &[Id]) {
        self.locked = [0; 2];
        self.free_slots.append(&mut self.retired);
        for &id in args {
            if self.dies(id) {
                let key = self.key(id, self.copy);
                if let Some(r) = self.held.remove(&key) {
                    let class = self.class(id);
                    self.owner[class][usize::from(r)] = None;
                }
                self.spilled.remove(&key);
                if let Some(slot) = self.slots.remove(&key) {
                    self.retired.push(slot);
                }
            }
        }
    }

    /// A register for the result of the current operation. What was in it goes to memory by an instruction
    /// before the operation's own, which may still read it.
    pub fn define(&mut self, id: Id) -> Result<u8> {
        let class = self.class(id);
        let r = self.take(class)?;
        let key = self.key(id, self.copy);
        self.own(key, class, r);
        Ok(r)
    }

    /// Gives a value the register of another one, which is not used again.
    pub fn inherit(&mut self, id: Id, r: u8) {
        let class = self.class(id);
        if let Some(old) = self.owner[class][usize::from(r)].take() {
            self.held.remove(&old);
        }
        let key = self.key(id, self.copy);
        self.own(key, class, r);
    }

    /// Keeps a vector register from being taken until [`Alloc::release`].
    pub fn lock(&mut self, r: u8) {
        self.locked[0] |= 1 << r;
    }
}
