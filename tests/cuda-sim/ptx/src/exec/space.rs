//! Reads and writes of one lane in any state space, with every check.

use super::warp::Warp;
use super::{Check, Env};
use crate::ast::Space;
use crate::decode::{LOCAL_BASE, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_SIZE};
use crate::error::{Fault, FaultKind};
use crate::race::{Conflict, Kind};

/// Where a generic address leads.
pub(crate) fn resolve(space: Space, addr: u64) -> (Space, u64) {
    if space != Space::Generic {
        return (if space == Space::Const { Space::Global } else { space }, addr);
    }
    for (window, space) in [(SHARED_WINDOW, Space::Shared), (LOCAL_WINDOW, Space::Local), (PARAM_WINDOW, Space::Param)]
    {
        if addr.wrapping_sub(window) < WINDOW_SIZE {
            return (space, addr - window);
        }
    }
    (Space::Global, addr)
}

impl Env<'_> {
    /// Reads the bytes; space and address are resolved.
    pub fn read(&mut self, warp: &Warp, space: Space, addr: u64, out: &mut [u8], kind: Kind, atomic: bool) -> Check {
        let n = out.len() as u64;
        match space {
            Space::Shared => {
                self.shared.read(addr, out, self.launch.check_uninit)?;
                self.note_shared(addr, n, kind, atomic)
            }
            Space::Local => {
                let at = self.local(addr, n)?;
                let at = self.lane as usize * self.launch.kernel.frame as usize + at;
                if self.launch.check_uninit
                    && let Some(k) = warp.local_init[at..at + out.len()].iter().position(|i| !i)
                {
                    let text = "a load from local memory of a byte that was never written";
                    return Err(Fault::at(FaultKind::Uninitialised, addr + k as u64, text));
                }
                out.copy_from_slice(&warp.local[at..at + out.len()]);
                Ok(())
            }
            Space::Param => {
                let p = self.launch.params;
                match addr.checked_add(n) {
                    Some(end) if end <= p.len() as u64 => {
                        out.copy_from_slice(&p[addr as usize..end as usize]);
                        Ok(())
                    }
                    _ => Err(Fault::at(
                        FaultKind::OutOfBounds,
                        addr,
                        format!("{n} bytes of kernel parameters, of which there are {} bytes", p.len()),
                    )),
                }
            }
            _ => {
                let Some(a) = self.launch.global.find(addr, n, &mut self.hint) else {
                    let (kind, text) = self.launch.memory.describe(addr, n);
                    return Err(Fault::at(kind, addr, text));
                };
                if self.launch.check_uninit
                    && let Some(at) = a.unwritten(addr, n)
                {
                    return Err(Fault::at(
                        FaultKind::Uninitialised,
                        at,
                        format!(
                            "a load of {n} bytes, of which the one at offset {} of the allocation of {} bytes at {:#x} \
                             was never written",
                            at - a.base,
                            a.len,
                            a.base
                        ),
                    ));
                }
                a.read(addr, out);
                self.note_global(addr, n, kind, atomic)
            }
        }
    }

    /// Writes the bytes; space and address are resolved.
    pub fn write(&mut self, warp: &mut Warp, space: Space, addr: u64, data: &[u8], atomic: bool) -> Check {
        let n = data.len() as u64;
        match space {
            Space::Shared => {
                self.shared.write(addr, data)?;
                self.note_shared(addr, n, Kind::Write, atomic)
            }
            Space::Local => {
                let at = self.local(addr, n)?;
                let at = self.lane as usize * self.launch.kernel.frame as usize + at;
                warp.local[at..at + data.len()].copy_from_slice(data);
                warp.local_init[at..at + data.len()].fill(true);
                Ok(())
            }
            Space::Param => {
                Err(Fault::at(FaultKind::ReadOnly, addr, "a store to kernel parameters, which are constant"))
            }
            _ => {
                let Some(a) = self.launch.global.find(addr, n, &mut self.hint) else {
                    let (kind, text) = self.launch.memory.describe(addr, n);
                    return Err(Fault::at(kind, addr, text));
                };
                if a.read_only {
                    let text = format!("a store to {}, which is constant", a.name);
                    return Err(Fault::at(FaultKind::ReadOnly, addr, text));
                }
                a.write(addr, data);
                self.note_global(addr, n, Kind::Write, atomic)
            }
        }
    }

    /// Offset in a thread's frame.
    fn local(&self, addr: u64, n: u64) -> Check<usize> {
        let frame = u64::from(self.launch.kernel.frame);
        match addr.checked_sub(LOCAL_BASE) {
            Some(at) if at <= frame && n <= frame - at => Ok(at as usize),
            _ => Err(Fault::at(
                FaultKind::OutOfBounds,
                addr,
                format!("{n} bytes of local memory, which has {frame} bytes at {LOCAL_BASE:#x}"),
            )),
        }
    }

    /// Notes the write of an asynchronous copy.
    pub fn note_async(&mut self, addr: u64, n: u64) -> Check {
        self.note_shared(addr, n, Kind::Write, false)
    }

    fn note_shared(&mut self, addr: u64, n: u64, kind: Kind, atomic: bool) -> Check {
        let stamp = self.stamp(atomic);
        let Some(shadow) = &mut self.shared.shadow else { return Ok(()) };
        match shadow.access(addr, n, stamp, kind) {
            None => Ok(()),
            Some((at, c)) => Err(self.race("shared", at, kind, c)),
        }
    }

    fn note_global(&mut self, addr: u64, n: u64, kind: Kind, atomic: bool) -> Check {
        let Some(shadow) = &self.launch.shadow else { return Ok(()) };
        let stamp = self.stamp(atomic);
        let hit = shadow.lock().unwrap_or_else(std::sync::PoisonError::into_inner).access(addr, n, stamp, kind);
        match hit {
            None => Ok(()),
            Some((at, c)) => Err(self.race("global", at, kind, c)),
        }
    }

    fn race(&self, space: &str, addr: u64, kind: Kind, c: Conflict) -> Box<Fault> {
        let e = c.earlier;
        let grid = self.launch.grid;
        let block = [e.block % grid[0], e.block / grid[0] % grid[1], e.block / grid[0] / grid[1]];
        let who = if e.lane == 32 {
            format!("several lanes of warp {} of block {block:?}", e.warp)
        } else {
            format!("thread {:?} of block {block:?}", self.thread(u32::from(e.warp), u32::from(e.lane)))
        };
        let verb = |write| if write { "writes" } else { "reads" };
        let now = verb(kind == Kind::Write);
        let earlier_line = self.launch.lines.get(e.line.wrapping_sub(1) as usize).map_or("", |l| l.trim());
        let text = format!(
            "this thread {now} a byte of {space} memory that {who} {} at PTX line {} (`{earlier_line}`)",
            verb(c.earlier_wrote),
            e.line
        );
        let (what, rule) = if c.non_coherent {
            (FaultKind::NonCoherent, "; ld.global.nc needs memory that nobody writes during the launch")
        } else {
            (FaultKind::Race, "; nothing orders the two accesses")
        };
        let mut f = Fault::at(what, addr, text + rule);
        f.threads.push(self.thread(self.warp, self.lane));
        if e.lane < 32 {
            f.threads.push(self.thread(u32::from(e.warp), u32::from(e.lane)));
        }
        f
    }
}
