//! From statements to flat code: one kernel with every function that it calls, laid out in one register file, one
//! frame and one code array, so that a call needs no new file. Recursion is therefore refused.

mod alu;
mod flow;
mod mem;
mod warp;

use std::collections::HashMap;

use crate::ast::{Ast, Func, Operand, Space, Stmt, Sym, Var};
use crate::error::Error;
use crate::inst::{Addr, Inst, NONE, Op, Reg};
use crate::ty::{Ty, trunc};

type Result<T> = std::result::Result<T, Error>;

/// Where shared memory begins: address zero of the window stays invalid.
pub(crate) const SHARED_BASE: u64 = 1024;
/// Where a thread's frame begins in local memory.
pub(crate) const LOCAL_BASE: u64 = 256;
/// Free bytes between two static shared variables; a multiple of the 32 banks, so that conflicts stay as they are.
const SHARED_GAP: u64 = 128;
/// The windows of generic addresses. Global addresses are generic addresses as they are.
pub(crate) const SHARED_WINDOW: u64 = 0x1_0000_0000;
pub(crate) const LOCAL_WINDOW: u64 = 0x2_0000_0000;
pub(crate) const PARAM_WINDOW: u64 = 0x3_0000_0000;
pub(crate) const WINDOW_SIZE: u64 = 0x1_0000_0000;

/// Values that are fixed while a block runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    MaskEq,
    MaskLt,
    MaskLe,
    MaskGt,
    MaskGe,
    SmId,
    NSmId,
    DynamicShared,
    TotalShared,
    Number(u32),
}

/// A shared variable at its address in the window.
#[derive(Clone, Debug)]
pub(crate) struct SharedVar {
    pub name: String,
    pub addr: u64,
    pub size: u32,
}

/// A kernel ready to run.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub name: String,
    pub code: Vec<Inst>,
    pub regs: u32,
    pub consts: Vec<(Reg, u64)>,
    pub specials: Vec<(Reg, Special)>,
    /// Registers that hold the addresses of module variables.
    pub vars: Vec<(Reg, u32)>,
    pub frame: u32,
    pub param_bytes: u32,
    /// Offset and size of every parameter.
    pub params: Vec<(u32, u32)>,
    pub max_threads: Option<u32>,
    pub req_threads: Option<[u32; 3]>,
    pub shared: Vec<SharedVar>,
    pub static_shared: u32,
    pub dynamic_base: u64,
    pub uses_dynamic: bool,
    pub declared_regs: u32,
}

struct Place {
    code: u32,
    regs: Reg,
    frame: u32,
}

struct Linker<'s, 'a> {
    ast: &'s Ast<'a>,
    places: HashMap<usize, Place>,
    queue: Vec<usize>,
    code_len: u32,
    regs: u32,
    frame: u32,
    consts: HashMap<u64, Reg>,
    specials: HashMap<Special, Reg>,
    vars: HashMap<u32, Reg>,
    shared: HashMap<u32, u64>,
    cc: Reg,
}

/// One statement while it is decoded: every modifier must be taken by somebody.
struct In<'s, 'a> {
    st: &'s Stmt<'a>,
    func: &'s Func<'a>,
    left: Vec<&'a str>,
    regs: Reg,
    frame: u32,
    code: u32,
}

impl<'a> In<'_, 'a> {
    fn err<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::new(self.st.line, message))
    }

    fn take(&mut self, m: &str) -> bool {
        let at = self.left.iter().position(|x| *x == m);
        if let Some(i) = at {
            self.left.remove(i);
        }
        at.is_some()
    }

    fn one_of(&mut self, list: &[&'a str]) -> Option<&'a str> {
        let i = self.left.iter().position(|m| list.contains(m))?;
        Some(self.left.remove(i))
    }

    /// The first modifier that is a type.
    fn ty(&mut self) -> Result<Ty> {
        let Some(i) = self.left.iter().position(|m| Ty::parse(m).is_some()) else {
            return self.err(format!("`{}` without a type that is known here", self.full()));
        };
        Ty::parse(self.left.remove(i)).map_or_else(|| self.err("no type"), Ok)
    }

    fn full(&self) -> String {
        std::iter::once(self.st.op).chain(self.st.mods.iter().copied()).collect::<Vec<_>>().join(".")
    }

    fn arg(&self, i: usize) -> Result<&Operand<'a>> {
        match self.st.operands.get(i) {
            Some(o) => Ok(o),
            None => self.err(format!("`{}` lacks operand {}", self.full(), i + 1)),
        }
    }

    fn count(&self, n: usize) -> Result<()> {
        if self.st.operands.len() == n {
            return Ok(());
        }
        self.err(format!("`{}` takes {n} operands, found {}", self.full(), self.st.operands.len()))
    }

    fn unknown<T>(&self) -> Result<T> {
        self.err(format!("instruction `{}` is not supported", self.full()))
    }
}

/// Links one entry point.
pub(crate) fn link(ast: &Ast, entry: usize) -> Result<Kernel> {
    let mut path = Vec::new();
    check_calls(ast, entry, &mut path)?;
    let mut l = Linker {
        ast,
        places: HashMap::new(),
        queue: Vec::new(),
        code_len: 0,
        regs: 0,
        frame: 0,
        consts: HashMap::new(),
        specials: HashMap::new(),
        vars: HashMap::new(),
        shared: HashMap::new(),
        cc: NONE,
    };
    l.cc = l.scratch();
    let (shared, static_shared, dynamic_base, uses_dynamic) = l.lay_out_shared(entry);
    l.place(entry);
    let mut code = Vec::new();
    let mut done = 0;
    while done < l.queue.len() {
        let index = l.queue[done];
        done += 1;
        l.function(index, &mut code)?;
    }
    let f = &ast.funcs[entry];
    Ok(Kernel {
        name: f.name.to_string(),
        code,
        regs: l.regs,
        consts: l.consts.iter().map(|(v, r)| (*r, *v)).collect(),
        specials: l.specials.iter().map(|(s, r)| (*r, *s)).collect(),
        vars: l.vars.iter().map(|(v, r)| (*r, *v)).collect(),
        frame: l.frame,
        param_bytes: f.param_bytes,
        params: f.params.iter().map(|p| (p.offset, p.size)).collect(),
        max_threads: f.max_threads,
        req_threads: f.req_threads,
        shared,
        static_shared,
        dynamic_base,
        uses_dynamic,
        declared_regs: f.regs.len() as u32,
    })
}

/// The function that a call statement names.
fn callee(ast: &Ast, st: &Stmt) -> Result<usize> {
    let name = st.operands.iter().find_map(|o| if let Operand::Name(n) = o { Some(*n) } else { None });
    let Some(name) = name else {
        return Err(Error::new(st.line, "indirect calls are not supported"));
    };
    let with_body = ast.funcs.iter().position(|f| f.name == name && f.has_body && !f.entry);
    with_body
        .ok_or_else(|| Error::new(st.line, format!("function `{name}` is not defined here, and nothing is linked")))
}

fn check_calls(ast: &Ast, f: usize, path: &mut Vec<usize>) -> Result<()> {
    if path.contains(&f) {
        let func = &ast.funcs[f];
        return Err(Error::new(
            func.line,
            format!("function `{}` calls itself; recursion is not supported", func.name),
        ));
    }
    path.push(f);
    for st in ast.funcs[f].stmts.iter().filter(|s| s.op == "call") {
        check_calls(ast, callee(ast, st)?, path)?;
    }
    path.pop();
    Ok(())
}

fn visit<'a>(o: &Operand<'a>, f: &mut impl FnMut(&Operand<'a>)) {
    f(o);
    match o {
        Operand::Vec(list) | Operand::List(list) => list.iter().for_each(|o| visit(o, f)),
        Operand::Mem(base, _) => visit(base, f),
        Operand::Pair(a, b) => {
            visit(a, f);
            visit(b, f);
        }
        _ => {}
    }
}

impl<'s, 'a> Linker<'s, 'a> {
    fn scratch(&mut self) -> Reg {
        self.regs += 1;
        self.regs - 1
    }

    fn place(&mut self, f: usize) -> &Place {
        if !self.places.contains_key(&f) {
            let func = &self.ast.funcs[f];
            let regs = self.regs;
            self.regs += func.regs.len() as u32;
            let frame = self.frame.next_multiple_of(16);
            self.frame = frame + func.frame;
            let code = self.code_len;
            self.code_len += func.stmts.len() as u32 + 1;
            self.places.insert(f, Place { code, regs, frame });
            self.queue.push(f);
        }
        &self.places[&f]
    }

    /// Gives an address to every shared variable that the kernel and its functions touch.
    fn lay_out_shared(&mut self, entry: usize) -> (Vec<SharedVar>, u32, u64, bool) {
        let mut used = Vec::new();
        let (mut todo, mut seen) = (vec![entry], Vec::new());
        while let Some(f) = todo.pop() {
            if seen.contains(&f) {
                continue;
            }
            seen.push(f);
            for st in &self.ast.funcs[f].stmts {
                if st.op == "call" {
                    todo.extend(callee(self.ast, st).ok());
                }
                for o in &st.operands {
                    visit(o, &mut |o| {
                        if let Operand::Sym(Sym::Var(v), _) = o
                            && self.ast.vars[*v as usize].space == Space::Shared
                            && !used.contains(v)
                        {
                            used.push(*v);
                        }
                    });
                }
            }
        }
        used.sort_unstable();
        let (mut out, mut total, mut at, mut dynamic) = (Vec::new(), 0u32, SHARED_BASE, Vec::new());
        for v in used {
            let var: &Var = &self.ast.vars[v as usize];
            if var.dynamic {
                dynamic.push(v);
                continue;
            }
            let align = u64::from(var.align.max(1));
            at = at.next_multiple_of(align.max(16));
            total = total.next_multiple_of(var.align.max(1)) + var.size;
            self.shared.insert(v, at);
            out.push(SharedVar { name: var.name.clone(), addr: at, size: var.size });
            at = (at + u64::from(var.size)).next_multiple_of(SHARED_GAP) + SHARED_GAP;
        }
        let base = at.next_multiple_of(1024);
        for v in &dynamic {
            self.shared.insert(*v, base);
        }
        (out, total, base, !dynamic.is_empty())
    }

    fn function(&mut self, index: usize, code: &mut Vec<Inst>) -> Result<()> {
        let func = &self.ast.funcs[index];
        let place = &self.places[&index];
        let (regs, frame, base) = (place.regs, place.frame, place.code);
        for st in &func.stmts {
            let mut i = In { st, func, left: st.mods.clone(), regs, frame, code: base };
            let op = self.statement(&mut i)?;
            if let Some(m) = i.left.first() {
                return i.err(format!("instruction `{}`: modifier `.{m}` is not supported", i.full()));
            }
            let (guard, negate) = st.guard.map_or((NONE, false), |(r, n)| (regs + r, n));
            code.push(Inst { op, guard, negate, line: st.line });
        }
        let end = if func.entry { Op::Exit } else { Op::Ret };
        let line = func.stmts.last().map_or(func.line, |s| s.line);
        code.push(Inst { op: end, guard: NONE, negate: false, line });
        Ok(())
    }

    fn statement(&mut self, i: &mut In<'s, 'a>) -> Result<Op> {
        if let Some(op) = self.flow(i)? {
            return Ok(op);
        }
        if let Some(op) = self.memory(i)? {
            return Ok(op);
        }
        if let Some(op) = self.warp(i)? {
            return Ok(op);
        }
        self.arithmetic(i)
    }

    fn constant(&mut self, v: u64) -> Reg {
        if let Some(r) = self.consts.get(&v) {
            return *r;
        }
        let r = self.scratch();
        self.consts.insert(v, r);
        r
    }

    fn special(&mut self, i: &In, name: &str) -> Result<Reg> {
        use Special::*;
        let axis = |s: &str| match s {
            "x" => Some(0),
            "y" => Some(1),
            "z" => Some(2),
            _ => None,
        };
        let (stem, dim) = name.split_once('.').map_or((name, None), |(s, d)| (s, axis(d)));
        let s = match (stem, dim) {
            ("%tid", Some(d)) => Tid(d),
            ("%ntid", Some(d)) => Ntid(d),
            ("%ctaid" | "%clusterid", Some(d)) => Ctaid(d),
            ("%nctaid" | "%nclusterid", Some(d)) => Nctaid(d),
            ("%cluster_ctaid", Some(_)) => Number(0),
            ("%cluster_nctaid", Some(_)) => Number(1),
            ("%cluster_ctarank" | "%gridid" | "%envreg0" | "%is_explicit_cluster", None) => Number(0),
            ("%cluster_nctarank", None) => Number(1),
            ("%laneid", None) => LaneId,
            ("%warpid", None) => WarpId,
            ("%nwarpid", None) => NWarpId,
            ("%lanemask_eq", None) => MaskEq,
            ("%lanemask_lt", None) => MaskLt,
            ("%lanemask_le", None) => MaskLe,
            ("%lanemask_gt", None) => MaskGt,
            ("%lanemask_ge", None) => MaskGe,
            ("%smid", None) => SmId,
            ("%nsmid", None) => NSmId,
            ("%dynamic_smem_size", None) => DynamicShared,
            ("%total_smem_size", None) => TotalShared,
            ("WARP_SZ", None) => Number(32),
            _ => return i.err(format!("register `{name}` is not declared and no special register that is supported")),
        };
        if let Some(r) = self.specials.get(&s) {
            return Ok(*r);
        }
        let r = self.scratch();
        self.specials.insert(s, r);
        Ok(r)
    }

    /// Register and offset of a symbol's address in its own space.
    fn symbol(&mut self, i: &In, s: Sym, off: i64) -> (Addr, Space) {
        match s {
            Sym::Frame(at) => {
                let base = self.constant(LOCAL_BASE + u64::from(i.frame + at));
                (Addr { base, off }, Space::Local)
            }
            Sym::KernelParam(at) => (Addr { base: self.constant(u64::from(at)), off }, Space::Param),
            Sym::Var(v) => {
                let space = self.ast.vars[v as usize].space;
                if space == Space::Shared {
                    let at = self.shared[&v];
                    return (Addr { base: self.constant(at), off }, space);
                }
                let base = match self.vars.get(&v) {
                    Some(r) => *r,
                    None => {
                        let r = self.scratch();
                        self.vars.insert(v, r);
                        r
                    }
                };
                (Addr { base, off }, space)
            }
        }
    }

    /// A source operand, read as `ty`.
    fn src(&mut self, i: &In, n: usize, ty: Ty) -> Result<Reg> {
        let o = i.arg(n)?.clone();
        self.src_of(i, &o, ty)
    }

    fn src_of(&mut self, i: &In, o: &Operand, ty: Ty) -> Result<Reg> {
        match *o {
            Operand::Reg(r) => Ok(i.regs + r),
            Operand::Int(v) => Ok(self.constant(match ty {
                Ty::F32 if !matches!(i.st.op, "mov" | "selp" | "st") => u64::from((v as i64 as f32).to_bits()),
                Ty::Pred => u64::from(v != 0),
                _ => trunc(v, ty.bits()),
            })),
            Operand::F32(x) if ty == Ty::F64 => Ok(self.constant(f64::from(f32::from_bits(x)).to_bits())),
            Operand::F32(x) => Ok(self.constant(u64::from(x))),
            Operand::F64(x) if ty == Ty::F32 => Ok(self.constant(u64::from((f64::from_bits(x) as f32).to_bits()))),
            Operand::F64(x) => Ok(self.constant(x)),
            Operand::Special(name) => self.special(i, name),
            Operand::Sym(s, 0) => Ok(self.symbol(i, s, 0).0.base),
            _ => i.err(format!("`{}`: operand {o:?} is not supported here", i.full())),
        }
    }

    /// A predicate source and whether it is negated.
    fn pred(&mut self, i: &In, n: usize) -> Result<(Reg, bool)> {
        match *i.arg(n)? {
            Operand::NotReg(r) => Ok((i.regs + r, true)),
            Operand::Reg(r) => Ok((i.regs + r, false)),
            Operand::Int(v) => Ok((self.constant(u64::from(v != 0)), false)),
            _ => i.err(format!("`{}`: operand {} is no predicate", i.full(), n + 1)),
        }
    }

    fn dst(&mut self, i: &In, n: usize) -> Result<Reg> {
        let o = i.arg(n)?.clone();
        self.dst_of(i, &o)
    }

    fn dst_of(&mut self, i: &In, o: &Operand) -> Result<Reg> {
        match *o {
            Operand::Reg(r) => Ok(i.regs + r),
            Operand::Sink => Ok(self.scratch()),
            _ => i.err(format!("`{}`: {o:?} is no register to write to", i.full())),
        }
    }

    /// `d` or `d|p`; a missing second register is [`NONE`].
    fn dst_pair(&mut self, i: &In, n: usize) -> Result<(Reg, Reg)> {
        match i.arg(n)?.clone() {
            Operand::Pair(a, b) => Ok((self.dst_of(i, &a)?, self.dst_of(i, &b)?)),
            o => Ok((self.dst_of(i, &o)?, NONE)),
        }
    }

    /// Declared width of a register operand, in bits.
    fn width(&self, i: &In, o: &Operand, or: u32) -> u32 {
        if let Operand::Reg(r) = o { i.func.regs[*r as usize].bits() } else { or }
    }

    /// Registers of `{a, b}` or of a lone register, to read.
    fn src_list(&mut self, i: &In, n: usize, ty: Ty) -> Result<Box<[Reg]>> {
        match i.arg(n)?.clone() {
            Operand::Vec(list) => list.iter().map(|o| self.src_of(i, o, ty)).collect(),
            o => Ok(Box::new([self.src_of(i, &o, ty)?])),
        }
    }

    fn dst_list(&mut self, i: &In, n: usize) -> Result<Box<[Reg]>> {
        match i.arg(n)?.clone() {
            Operand::Vec(list) => list.iter().map(|o| self.dst_of(i, o)).collect(),
            o => Ok(Box::new([self.dst_of(i, &o)?])),
        }
    }

    /// An address operand: base, offset, and the space of its symbol, if it is one.
    fn addr(&mut self, i: &In, n: usize) -> Result<(Addr, Option<Space>)> {
        let Operand::Mem(base, off) = i.arg(n)?.clone() else {
            return i.err(format!("`{}`: operand {} is no address", i.full(), n + 1));
        };
        match *base {
            Operand::Sym(s, o) => {
                let (a, space) = self.symbol(i, s, o.wrapping_add(off));
                Ok((a, Some(space)))
            }
            Operand::Int(v) => Ok((Addr { base: self.constant(v), off }, None)),
            b => Ok((Addr { base: self.src_of(i, &b, Ty::U64)?, off }, None)),
        }
    }
}
