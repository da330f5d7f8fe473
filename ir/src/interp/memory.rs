//! The bytes of a program run. Buffers of the arena may overlap and a donated buffer is its input's memory:
//! a plan that is wrong gives wrong numbers.

use super::HostTensor;
use crate::error::{Error, Result};
use crate::program::{BufId, Place, Program};
use crate::shape::Type;
use std::ops::Range;

/// What memory holds before it is first written.
const POISON: u8 = 0xA5;

pub(super) struct Memory {
    regions: Vec<Vec<u8>>,
    slots: Vec<Slot>,
}

struct Slot {
    region: usize,
    offset: usize,
    ty: Type,
}

impl Memory {
    /// Inputs copied in, constants in place, everything else poisoned.
    pub fn new(program: &Program, inputs: &[HostTensor]) -> Result<Memory> {
        let mut regions: Vec<Vec<u8>> = inputs.iter().map(HostTensor::to_bytes).collect();
        let arena = regions.len();
        regions.push(vec![POISON; program.arena_bytes]);
        let mut slots = Vec::with_capacity(program.buffers.len());
        for (i, buf) in program.buffers.iter().enumerate() {
            let (region, offset) = match &buf.place {
                Place::Input(n) | Place::Donated(n) if (*n as usize) < inputs.len() => (*n as usize, 0),
                Place::Input(n) | Place::Donated(n) => {
                    return Err(Error::internal(format!("buffer b{i} names input {n} of {}", inputs.len())));
                }
                Place::Output => {
                    regions.push(vec![POISON; buf.ty.nbytes()]);
                    (regions.len() - 1, 0)
                }
                Place::Arena { offset } => (arena, *offset),
                Place::Const(data) => {
                    regions.push(data.to_vec());
                    (regions.len() - 1, 0)
                }
            };
            let end = offset.checked_add(buf.ty.nbytes());
            if end.is_none_or(|end| end > regions[region].len()) {
                return Err(Error::internal(format!("buffer b{i} ({}) ends beyond its memory", buf.ty)));
            }
            slots.push(Slot { region, offset, ty: buf.ty.clone() });
        }
        Ok(Memory { regions, slots })
    }

    fn slot(&self, buf: BufId) -> Result<&Slot> {
        self.slots.get(buf.0 as usize).ok_or_else(|| Error::internal(format!("no buffer b{}", buf.0)))
    }

    /// Type of a buffer.
    pub fn ty(&self, buf: BufId) -> Result<&Type> {
        Ok(&self.slot(buf)?.ty)
    }

    fn element(&self, buf: BufId, index: i64) -> Result<(usize, Range<usize>)> {
        let slot = self.slot(buf)?;
        let size = slot.ty.dtype.size();
        match usize::try_from(index) {
            Ok(i) if i < slot.ty.numel() => {
                let start = slot.offset + i * size;
                Ok((slot.region, start..start + size))
            }
            _ => Err(Error::internal(format!("element {index} of b{} ({}) does not exist", buf.0, slot.ty))),
        }
    }

    /// Bits of one element.
    pub fn load(&self, buf: BufId, index: i64) -> Result<u64> {
        let (region, range) = self.element(buf, index)?;
        let mut b = [0; 8];
        b[..range.len()].copy_from_slice(&self.regions[region][range]);
        Ok(u64::from_le_bytes(b))
    }

    /// Writes the bits of one element.
    pub fn store(&mut self, buf: BufId, index: i64, bits: u64) -> Result<()> {
        let (region, range) = self.element(buf, index)?;
        let size = range.len();
        self.regions[region][range].copy_from_slice(&bits.to_le_bytes()[..size]);
        Ok(())
    }

    /// A copy of a whole buffer.
    pub fn tensor(&self, buf: BufId) -> Result<HostTensor> {
        let slot = self.slot(buf)?;
        let bytes = &self.regions[slot.region][slot.offset..slot.offset + slot.ty.nbytes()];
        HostTensor::from_bytes(slot.ty.clone(), bytes)
    }

    /// Overwrites a whole buffer.
    pub fn write(&mut self, buf: BufId, value: &HostTensor) -> Result<()> {
        let slot = self.slot(buf)?;
        if slot.ty.dtype != value.dtype() || slot.ty.numel() != value.len() {
            return Err(Error::internal(format!("b{} is {}, the value is {}", buf.0, slot.ty, value.ty)));
        }
        let (region, start, n) = (slot.region, slot.offset, slot.ty.nbytes());
        self.regions[region][start..start + n].copy_from_slice(&value.to_bytes());
        Ok(())
    }

    /// Makes the old contents of a buffer unreadable; whoever still needs them sees garbage.
    pub fn poison(&mut self, buf: BufId) -> Result<()> {
        let slot = self.slot(buf)?;
        let (region, start, n) = (slot.region, slot.offset, slot.ty.nbytes());
        self.regions[region][start..start + n].fill(POISON);
        Ok(())
    }

    /// True when two buffers are the same bytes.
    pub fn same_place(&self, a: BufId, b: BufId) -> Result<bool> {
        let (a, b) = (self.slot(a)?, self.slot(b)?);
        Ok(a.region == b.region && a.offset == b.offset)
    }
}
