//! Control flow, barriers of the block, and instructions without effect here.

use super::{In, Linker, Result, callee};
use crate::ast::Operand;
use crate::inst::{BarRed, NONE, Op};
use crate::ty::Ty;

impl<'s, 'a> Linker<'s, 'a> {
    pub(super) fn flow(&mut self, i: &mut In<'s, 'a>) -> Result<Option<Op>> {
        Ok(Some(match i.st.op {
            "bra" => {
                i.take("uni");
                i.count(1)?;
                Op::Bra { target: self.target(i, 0)? }
            }
            "brx" => {
                i.take("idx");
                i.take("uni");
                i.count(2)?;
                let index = self.src(i, 0, Ty::U32)?;
                let Operand::Name(table) = i.arg(1)? else { return i.err("brx.idx needs a table of labels") };
                let Some(labels) = i.func.table(i.st.scope, table) else {
                    return i.err(format!("unknown table of labels `{table}`"));
                };
                let mut targets = Vec::new();
                for l in labels {
                    targets.push(self.label(i, l)?);
                }
                Op::BrxIdx { index, targets: targets.into() }
            }
            "call" => self.call(i)?,
            "ret" => {
                i.take("uni");
                if i.func.entry { Op::Exit } else { Op::Ret }
            }
            "exit" => Op::Exit,
            "trap" | "brkpt" => Op::Trap,
            "bar" if i.st.mods.first() == Some(&"warp") => {
                i.take("warp");
                i.take("sync");
                Op::SyncWarp { members: self.src(i, 0, Ty::B32)? }
            }
            "bar" | "barrier" => self.barrier(i)?,
            "membar" | "fence" => {
                for m in ["cta", "gl", "sys", "gpu", "cluster", "sc", "acq_rel", "acquire", "release"] {
                    i.take(m);
                }
                Op::Fence
            }
            // Hints and events.
            "prefetch" | "prefetchu" | "applypriority" | "discard" | "nanosleep" | "pmevent" | "griddepcontrol"
            | "setmaxnreg" => {
                i.left.clear();
                Op::Nop
            }
            _ => return Ok(None),
        }))
    }

    fn label(&self, i: &In, name: &str) -> Result<u32> {
        match i.func.label(i.st.scope, name) {
            Some(at) => Ok(i.code + at),
            None => i.err(format!("unknown label `{name}`")),
        }
    }

    fn target(&self, i: &In, n: usize) -> Result<u32> {
        match i.arg(n)? {
            Operand::Name(l) => self.label(i, l),
            _ => i.err("a branch needs a label"),
        }
    }

    fn call(&mut self, i: &mut In<'s, 'a>) -> Result<Op> {
        i.take("uni");
        let f = callee(self.ast, i.st)?;
        let func = &self.ast.funcs[f];
        let (target, frame) = {
            let p = self.place(f);
            (p.code, p.frame)
        };
        let name_at = i.st.operands.iter().position(|o| matches!(o, Operand::Name(_))).unwrap_or(0);
        let frame_of = |o: Option<&Operand>| -> Result<Vec<u32>> {
            let Some(Operand::List(list)) = o else { return Ok(Vec::new()) };
            list.iter()
                .map(|o| match o {
                    Operand::Sym(crate::ast::Sym::Frame(at), 0) => Ok(i.frame + at),
                    _ => i.err("arguments of a call must be .param variables"),
                })
                .collect()
        };
        let results = frame_of(if name_at == 1 { i.st.operands.first() } else { None })?;
        let args = frame_of(i.st.operands.get(name_at + 1))?;
        if results.len() != func.returns.len() || args.len() != func.params.len() {
            return i.err(format!(
                "function `{}` takes {} arguments and returns {}, the call has {} and {}",
                func.name,
                func.params.len(),
                func.returns.len(),
                args.len(),
                results.len()
            ));
        }
        let copies = args.iter().zip(&func.params).map(|(from, p)| (frame + p.offset, *from, p.size)).collect();
        let results = results.iter().zip(&func.returns).map(|(to, p)| (*to, frame + p.offset, p.size)).collect();
        Ok(Op::Call { target, copies, results })
    }

    fn barrier(&mut self, i: &mut In<'s, 'a>) -> Result<Op> {
        i.take("cta");
        let aligned = i.take("aligned");
        let _ = aligned;
        if i.take("sync") {
            let id = self.src(i, 0, Ty::U32)?;
            let count = if i.st.operands.len() > 1 { self.src(i, 1, Ty::U32)? } else { NONE };
            return Ok(Op::Bar { id, count, wait: true, red: BarRed::No, d: NONE, p: NONE, neg: false });
        }
        if i.take("arrive") {
            i.count(2)?;
            let (id, count) = (self.src(i, 0, Ty::U32)?, self.src(i, 1, Ty::U32)?);
            return Ok(Op::Bar { id, count, wait: false, red: BarRed::No, d: NONE, p: NONE, neg: false });
        }
        if !i.take("red") {
            return i.unknown();
        }
        let red = match i.one_of(&["popc", "and", "or"]) {
            Some("popc") => BarRed::Popc,
            Some("and") => BarRed::And,
            Some("or") => BarRed::Or,
            _ => return i.unknown(),
        };
        i.ty()?;
        let d = self.dst(i, 0)?;
        let id = self.src(i, 1, Ty::U32)?;
        let last = i.st.operands.len() - 1;
        let count = if last == 3 { self.src(i, 2, Ty::U32)? } else { NONE };
        let (p, neg) = self.pred(i, last)?;
        Ok(Op::Bar { id, count, wait: true, red, d, p, neg })
    }
}
