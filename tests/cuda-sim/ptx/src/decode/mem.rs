//! Loads, stores, atomics, asynchronous copies, matrix loads.

use super::{In, Linker, Result};
use crate::ast::{Operand, Space};
use crate::inst::{AtomOp, NONE, Op};
use crate::ty::Ty;

/// Modifiers that say how strongly and how far an access is ordered, or how it is cached: no effect here.
const HINTS: &[&str] = &[
    "weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "mmio", "gpu", "cta", "sys", "cluster", "ca", "cg",
    "cs", "lu", "cv", "wb", "wt", "unified", "L2::64B", "L2::128B", "L2::256B",
];

impl<'s, 'a> Linker<'s, 'a> {
    pub(super) fn memory(&mut self, i: &mut In<'s, 'a>) -> Result<Option<Op>> {
        Ok(Some(match i.st.op {
            "ld" | "ldu" => self.load(i)?,
            "st" => self.store(i)?,
            "atom" | "red" => self.atomic(i)?,
            "cp" => self.cp_async(i)?,
            "ldmatrix" => {
                let (n, trans) = self.matrix(i)?;
                let d = self.dst_list(i, 0)?;
                let (at, _) = self.addr(i, 1)?;
                if d.len() != n as usize {
                    return i.err(format!("ldmatrix.x{n} needs {n} registers"));
                }
                Op::Ldmatrix { n, trans, at, d }
            }
            "stmatrix" => {
                let (n, trans) = self.matrix(i)?;
                let (at, _) = self.addr(i, 0)?;
                let s = self.src_list(i, 1, Ty::B32)?;
                if s.len() != n as usize {
                    return i.err(format!("stmatrix.x{n} needs {n} registers"));
                }
                Op::Stmatrix { n, trans, at, s }
            }
            _ => return Ok(None),
        }))
    }

    fn hints(i: &mut In) {
        while i.one_of(HINTS).is_some() {}
        i.left.retain(|m| !m.starts_with("L1::") || *m == "L1::cache_hint");
        i.take("L2::cache_hint");
    }

    fn space(i: &mut In) -> Space {
        let names = ["global", "shared", "shared::cta", "local", "param", "param::entry", "param::func", "const"];
        match i.one_of(&names) {
            Some("global") => Space::Global,
            Some("shared" | "shared::cta") => Space::Shared,
            Some("local") => Space::Local,
            Some("param" | "param::entry" | "param::func") => Space::Param,
            Some("const") => Space::Const,
            _ => Space::Generic,
        }
    }

    /// The space that an access is really made in: parameters of functions and calls lie in the frame.
    fn settle(space: Space, symbol: Option<Space>) -> Space {
        match (space, symbol) {
            (Space::Param | Space::Generic, Some(s)) => s,
            (s, _) => s,
        }
    }

    fn vector(i: &mut In) -> usize {
        match i.one_of(&["v2", "v4", "v8"]) {
            Some("v2") => 2,
            Some("v4") => 4,
            Some("v8") => 8,
            _ => 1,
        }
    }

    fn load(&mut self, i: &mut In<'s, 'a>) -> Result<Op> {
        let nc = i.take("nc");
        Self::hints(i);
        let space = Self::space(i);
        let n = Self::vector(i);
        let ty = i.ty()?;
        if ty == Ty::B128 || ty == Ty::Pred {
            return i.unknown();
        }
        let d = self.dst_list(i, 0)?;
        if d.len() != n {
            return i.err(format!("a load of {n} elements into {} registers", d.len()));
        }
        let (at, symbol) = self.addr(i, 1)?;
        let width = match i.arg(0)? {
            Operand::Vec(list) => list.iter().map(|o| self.width(i, o, ty.bits())).max().unwrap_or(64),
            o => self.width(i, o, ty.bits()),
        };
        if width < ty.bits() {
            return i.err(format!("a register of {width} bits is too narrow for a load of {}", ty.bits()));
        }
        let sext = if ty.signed() && width > ty.bits() { width } else { 0 };
        Ok(Op::Ld { space: Self::settle(space, symbol), bytes: ty.bytes(), sext, at, d, nc })
    }

    fn store(&mut self, i: &mut In<'s, 'a>) -> Result<Op> {
        Self::hints(i);
        let space = Self::space(i);
        let n = Self::vector(i);
        let ty = i.ty()?;
        if ty == Ty::B128 || ty == Ty::Pred {
            return i.unknown();
        }
        let (at, symbol) = self.addr(i, 0)?;
        let s = self.src_list(i, 1, ty)?;
        if s.len() != n {
            return i.err(format!("a store of {n} elements from {} registers", s.len()));
        }
        let space = Self::settle(space, symbol);
        if space == Space::Const || space == Space::Param {
            return i.err("a store to memory that is constant");
        }
        Ok(Op::St { space, bytes: ty.bytes(), at, s })
    }

    fn atomic(&mut self, i: &mut In<'s, 'a>) -> Result<Op> {
        let red = i.st.op == "red";
        if i.take("async") {
            return i.unknown();
        }
        Self::hints(i);
        i.take("noftz");
        let space = Self::space(i);
        let Some(name) = i.one_of(&["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"]) else {
            return i.unknown();
        };
        let op = match name {
            "add" => AtomOp::Add,
            "min" => AtomOp::Min,
            "max" => AtomOp::Max,
            "and" => AtomOp::And,
            "or" => AtomOp::Or,
            "xor" => AtomOp::Xor,
            "exch" => AtomOp::Exch,
            "cas" => AtomOp::Cas,
            "inc" => AtomOp::Inc,
            _ => AtomOp::Dec,
        };
        let ty = i.ty()?;
        let ok = match op {
            AtomOp::Add => !matches!(ty, Ty::B8 | Ty::B128 | Ty::Pred),
            AtomOp::Min | AtomOp::Max => matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64),
            AtomOp::Inc | AtomOp::Dec => ty == Ty::U32,
            AtomOp::Cas => matches!(ty.bits(), 16 | 32 | 64),
            _ => matches!(ty.bits(), 32 | 64),
        };
        if !ok {
            return i.unknown();
        }
        let first = usize::from(!red);
        let d = if red { NONE } else { self.dst(i, 0)? };
        let (at, symbol) = self.addr(i, first)?;
        let b = self.src(i, first + 1, ty)?;
        let c = if op == AtomOp::Cas { self.src(i, first + 2, ty)? } else { NONE };
        let space = Self::settle(space, symbol);
        if !matches!(space, Space::Global | Space::Shared | Space::Generic) {
            return i.err("atomics are for global and shared memory");
        }
        Ok(Op::Atom { space, op, ty, at, d, b, c })
    }

    fn cp_async(&mut self, i: &mut In<'s, 'a>) -> Result<Op> {
        if !i.take("async") || i.st.mods.contains(&"bulk") || i.st.mods.contains(&"mbarrier") {
            return i.unknown();
        }
        if i.take("commit_group") {
            return Ok(Op::CpCommit);
        }
        if i.take("wait_all") {
            return Ok(Op::CpWaitAll);
        }
        if i.take("wait_group") {
            let Operand::Int(n) = *i.arg(0)? else { return i.err("cp.async.wait_group needs a number") };
            return Ok(Op::CpWait { groups: n.min(u64::from(u32::MAX)) as u32 });
        }
        let cg = i.take("cg");
        let hint = i.st.mods.contains(&"L2::cache_hint");
        Self::hints(i);
        if !(i.take("shared") || i.take("shared::cta")) || !i.take("global") {
            return i.unknown();
        }
        let (dst, _) = self.addr(i, 0)?;
        let (src, _) = self.addr(i, 1)?;
        let Operand::Int(bytes) = *i.arg(2)? else { return i.err("the size of cp.async must be a number") };
        if !(bytes == 16 || (!cg && (bytes == 4 || bytes == 8))) {
            return i.err(format!("cp.async cannot copy {bytes} bytes"));
        }
        let (mut size, mut ignore) = (NONE, NONE);
        let extra = i.st.operands.len() - usize::from(hint);
        if extra > 3 {
            let is_pred = matches!(i.arg(3)?, Operand::Reg(r) if i.func.regs[*r as usize] == Ty::Pred);
            if is_pred {
                ignore = self.src(i, 3, Ty::Pred)?;
            } else {
                size = self.src(i, 3, Ty::U32)?;
            }
        }
        Ok(Op::CpAsync { dst, src, bytes: bytes as u32, size, ignore })
    }

    fn matrix(&mut self, i: &mut In<'s, 'a>) -> Result<(u32, bool)> {
        let known = i.take("sync") && i.take("aligned") && i.take("m8n8");
        let n = match i.one_of(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            Some("x4") => 4,
            _ => return i.unknown(),
        };
        let trans = i.take("trans");
        i.one_of(&["shared", "shared::cta"]);
        if !known || i.ty()? != Ty::B16 {
            return i.unknown();
        }
        Ok((n, trans))
    }
}
