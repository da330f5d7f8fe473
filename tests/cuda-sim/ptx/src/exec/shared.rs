//! Shared memory of one block: regions exact to the byte, written bytes, copies under way, races.

use std::cell::Cell;
use std::collections::HashMap;

use super::Check;
use crate::decode::{Kernel, SHARED_BASE};
use crate::error::{Fault, FaultKind};
use crate::mem::POISON;
use crate::race::Shadow;

pub(crate) struct SharedMem {
    /// (first address, size, name), by address.
    regions: Vec<(u64, u64, String)>,
    /// First address and size of the region that was used last.
    last: Cell<(u64, u64)>,
    data: Vec<u8>,
    init: Vec<bool>,
    /// Asynchronous copies under way that will write each byte.
    pending: HashMap<u64, u32>,
    pub shadow: Option<Shadow>,
}

impl SharedMem {
    pub fn new(k: &Kernel, dynamic: u32, races: bool) -> SharedMem {
        let mut regions: Vec<_> = k.shared.iter().map(|v| (v.addr, u64::from(v.size), v.name.clone())).collect();
        if dynamic > 0 {
            regions.push((k.dynamic_base, u64::from(dynamic), "dynamic shared memory".to_string()));
        }
        let end = regions.last().map_or(SHARED_BASE, |r| r.0 + r.1);
        let n = (end - SHARED_BASE) as usize;
        let shadow = races.then(Shadow::default);
        SharedMem {
            regions,
            last: Cell::new((u64::MAX, 0)),
            data: vec![POISON; n],
            init: vec![false; n],
            pending: HashMap::new(),
            shadow,
        }
    }

    /// Makes the memory that of a new block.
    pub fn reset(&mut self) {
        self.data.fill(POISON);
        self.init.fill(false);
        self.pending.clear();
        if let Some(s) = &mut self.shadow {
            s.clear();
        }
    }

    /// Offset of the range in the data, if one region holds all of it.
    fn locate(&self, addr: u64, bytes: u64) -> Check<usize> {
        let (base, size) = self.last.get();
        if addr >= base && addr - base <= size && bytes <= size - (addr - base) {
            return Ok((addr - SHARED_BASE) as usize);
        }
        let i = self.regions.partition_point(|r| r.0 <= addr);
        if let Some((base, size, _)) = i.checked_sub(1).map(|i| &self.regions[i])
            && addr - base <= *size
            && bytes <= size - (addr - base)
        {
            self.last.set((*base, *size));
            return Ok((addr - SHARED_BASE) as usize);
        }
        let near = i.checked_sub(1).or(if self.regions.is_empty() { None } else { Some(0) });
        let text = match near.map(|i| &self.regions[i]) {
            None => "the kernel has no shared memory".to_string(),
            Some((base, size, name)) => {
                format!(
                    "the nearest variable is {name}, {size} bytes at {base:#x}: offset {}",
                    addr.wrapping_sub(*base) as i64
                )
            }
        };
        Err(Fault::at(FaultKind::OutOfBounds, addr, format!("{bytes} bytes of shared memory; {text}")))
    }

    fn not_pending(&self, addr: u64, bytes: u64) -> Check {
        if self.pending.is_empty() {
            return Ok(());
        }
        match (addr..addr + bytes).find(|a| self.pending.contains_key(a)) {
            None => Ok(()),
            Some(a) => Err(Fault::at(
                FaultKind::AsyncPending,
                a,
                "an asynchronous copy to this byte is under way: cp.async.wait_group (and a barrier for other threads) \
                 must come first",
            )),
        }
    }

    pub fn read(&self, addr: u64, out: &mut [u8], check_uninit: bool) -> Check {
        let n = out.len();
        let at = self.locate(addr, n as u64)?;
        self.not_pending(addr, n as u64)?;
        if check_uninit && let Some(k) = self.init[at..at + n].iter().position(|i| !i) {
            return Err(Fault::at(
                FaultKind::Uninitialised,
                addr + k as u64,
                format!("a load of {n} bytes of shared memory, of which this one was never written"),
            ));
        }
        out.copy_from_slice(&self.data[at..at + n]);
        Ok(())
    }

    pub fn write(&mut self, addr: u64, data: &[u8]) -> Check {
        let at = self.locate(addr, data.len() as u64)?;
        self.not_pending(addr, data.len() as u64)?;
        self.data[at..at + data.len()].copy_from_slice(data);
        self.init[at..at + data.len()].fill(true);
        Ok(())
    }

    /// An asynchronous copy to the range begins.
    pub fn begin(&mut self, addr: u64, bytes: u64) -> Check {
        self.locate(addr, bytes)?;
        self.not_pending(addr, bytes)?;
        for a in addr..addr + bytes {
            *self.pending.entry(a).or_insert(0) += 1;
        }
        Ok(())
    }

    /// The copy arrives.
    pub fn arrive(&mut self, addr: u64, data: &[u8]) -> Check {
        for a in addr..addr + data.len() as u64 {
            self.pending.remove(&a);
        }
        self.write(addr, data)
    }
}
