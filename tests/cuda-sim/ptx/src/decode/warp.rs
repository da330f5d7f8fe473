//! Instructions of a whole warp: shuffles, votes, matches, reductions, matrix products.

use super::{In, Linker, Result};
use crate::ast::Operand;
use crate::inst::{MmaShape, NONE, Op, RedOp, ShflMode, VoteMode};
use crate::ty::Ty;

impl<'s, 'a> Linker<'s, 'a> {
    pub(super) fn warp(&mut self, i: &mut In<'s, 'a>) -> Result<Option<Op>> {
        Ok(Some(match i.st.op {
            "shfl" => {
                self.sync(i)?;
                let mode = match i.one_of(&["up", "down", "bfly", "idx"]) {
                    Some("up") => ShflMode::Up,
                    Some("down") => ShflMode::Down,
                    Some("bfly") => ShflMode::Bfly,
                    Some("idx") => ShflMode::Idx,
                    _ => return i.unknown(),
                };
                i.ty()?;
                i.count(5)?;
                let (d, p) = self.dst_pair(i, 0)?;
                let a = self.src(i, 1, Ty::B32)?;
                let (b, c) = (self.src(i, 2, Ty::U32)?, self.src(i, 3, Ty::U32)?);
                Op::Shfl { mode, d, p, a, b, c, members: self.src(i, 4, Ty::B32)? }
            }
            "vote" => {
                self.sync(i)?;
                let mode = match i.one_of(&["all", "any", "uni", "ballot"]) {
                    Some("all") => VoteMode::All,
                    Some("any") => VoteMode::Any,
                    Some("uni") => VoteMode::Uni,
                    Some("ballot") => VoteMode::Ballot,
                    _ => return i.unknown(),
                };
                i.ty()?;
                i.count(3)?;
                let d = self.dst(i, 0)?;
                let (p, neg) = self.pred(i, 1)?;
                Op::Vote { mode, d, p, neg, members: self.src(i, 2, Ty::B32)? }
            }
            "match" => {
                let all = i.take("all");
                if !all && !i.take("any") {
                    return i.unknown();
                }
                self.sync(i)?;
                let ty = i.ty()?;
                let (d, p) = self.dst_pair(i, 0)?;
                let a = self.src(i, 1, ty)?;
                Op::Match { all, bits: ty.bits(), d, p, a, members: self.src(i, 2, Ty::B32)? }
            }
            "redux" => {
                self.sync(i)?;
                let op = match i.one_of(&["add", "min", "max", "and", "or", "xor"]) {
                    Some("add") => RedOp::Add,
                    Some("min") => RedOp::Min,
                    Some("max") => RedOp::Max,
                    Some("and") => RedOp::And,
                    Some("or") => RedOp::Or,
                    Some("xor") => RedOp::Xor,
                    _ => return i.unknown(),
                };
                let ty = i.ty()?;
                if !ty.int() || ty.bits() != 32 {
                    return i.unknown();
                }
                let d = self.dst(i, 0)?;
                let a = self.src(i, 1, ty)?;
                Op::Redux { op, signed: ty == Ty::S32, d, a, members: self.src(i, 2, Ty::B32)? }
            }
            "elect" => {
                self.sync(i)?;
                let (d, p) = self.dst_pair(i, 0)?;
                Op::Elect { d, p, members: self.src(i, 1, Ty::B32)? }
            }
            "activemask" => {
                i.ty()?;
                Op::ActiveMask { d: self.dst(i, 0)? }
            }
            "mma" => self.mma(i)?,
            _ => return Ok(None),
        }))
    }

    fn sync(&mut self, i: &mut In) -> Result<()> {
        if i.take("sync") {
            return Ok(());
        }
        i.err(format!("`{}` without .sync is not supported", i.full()))
    }

    fn mma(&mut self, i: &mut In<'s, 'a>) -> Result<Op> {
        self.sync(i)?;
        let shapes = ["m16n8k16", "m16n8k8", "m16n8k4", "m16n8k32", "m8n8k4"];
        let shape = match i.one_of(&shapes) {
            Some("m16n8k16") => (16, 8, 16),
            Some("m16n8k8") => (16, 8, 8),
            Some("m16n8k4") => (16, 8, 4),
            Some("m16n8k32") => (16, 8, 32),
            Some("m8n8k4") => (8, 8, 4),
            _ => return i.unknown(),
        };
        if !(i.take("aligned") && i.take("row") && i.take("col")) {
            return i.unknown();
        }
        let sat = i.take("satfinite");
        // Element types that are no types of registers.
        let mut types = [Ty::Pred; 4];
        for t in &mut types {
            *t = i.ty()?;
        }
        let [d, a, b, c] = types;
        let (m, n, k) = shape;
        let half = matches!((a, b), (Ty::F16, Ty::F16) | (Ty::Bf16, Ty::Bf16));
        let byte = matches!(a, Ty::S8 | Ty::U8) && matches!(b, Ty::S8 | Ty::U8);
        let acc32 = (c, d) == (Ty::F32, Ty::F32);
        let acc16 = a == Ty::F16 && matches!(c, Ty::F16 | Ty::F32) && matches!(d, Ty::F16 | Ty::F32) && c == d;
        let ok = match (m, k) {
            (16, 16) => (half && (acc32 || acc16)) || (byte && (c, d) == (Ty::S32, Ty::S32)),
            (16, 8) => (half && (acc32 || acc16)) || (a == Ty::Tf32 && b == Ty::Tf32 && acc32),
            (16, 4) => a == Ty::Tf32 && b == Ty::Tf32 && acc32,
            (16, 32) => byte && (c, d) == (Ty::S32, Ty::S32),
            _ => [a, b, c, d] == [Ty::F64; 4],
        };
        if !ok {
            return i.unknown();
        }
        let shape = MmaShape { m, n, k, a, b, c, d, sat };
        i.count(4)?;
        let regs = |rows: u32, cols: u32, ty: Ty| {
            let bits = rows * cols * ty.bits();
            (bits / 32 / ty.bits().max(32)).max(1) as usize
        };
        let (nd, na, nb, nc) = (regs(m, n, d), regs(m, k, a), regs(k, n, b), regs(m, n, c));
        let dd = self.dst_list(i, 0)?;
        let aa = self.src_list(i, 1, Ty::B64)?;
        let bb = self.src_list(i, 2, Ty::B64)?;
        let cc = self.src_list(i, 3, c)?;
        if (dd.len(), aa.len(), bb.len(), cc.len()) != (nd, na, nb, nc) {
            return i.err(format!("`{}` needs {nd}, {na}, {nb} and {nc} registers", i.full()));
        }
        debug_assert!(!dd.contains(&NONE));
        for k in 1..3 {
            if !matches!(i.arg(k)?, Operand::Vec(_) | Operand::Reg(_)) {
                return i.unknown();
            }
        }
        let plan = Box::new(crate::exec::plan(shape));
        Ok(Op::Mma { plan, d: dd, a: aa, b: bb, c: cc })
    }
}
