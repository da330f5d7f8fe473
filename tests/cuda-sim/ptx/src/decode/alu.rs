//! Arithmetic, comparison, conversion and moves.

use super::{In, LOCAL_WINDOW, Linker, PARAM_WINDOW, Result, SHARED_WINDOW, WINDOW_SIZE};
use crate::alu::{cvt, float, int, l1, l2};
use crate::ast::Operand;
use crate::inst::{Approx, Bool, Carry, Cmp, CvtOp, CvtRnd, F1, F2, FloatOp, MinMax, NONE, Op, PureOp, Reg};
use crate::soft::{Arith, Rnd};
use crate::ty::Ty;

fn rounding(m: Option<&str>) -> Rnd {
    match m {
        Some("rz") => Rnd::Rz,
        Some("rm") => Rnd::Rm,
        Some("rp") => Rnd::Rp,
        Some("rna") => Rnd::Rna,
        _ => Rnd::Rn,
    }
}

fn comparison(i: &mut In, ty: Ty) -> Result<Cmp> {
    let names = [
        "eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan", "lo", "ls", "hi",
        "hs",
    ];
    let Some(name) = i.one_of(&names) else { return i.unknown() };
    let float = ty.float() || matches!(ty, Ty::F16x2 | Ty::Bf16x2);
    Ok(match name {
        "eq" => Cmp::Eq,
        "ne" => Cmp::Ne,
        "lt" | "lo" => Cmp::Lt,
        "le" | "ls" => Cmp::Le,
        "gt" | "hi" => Cmp::Gt,
        "ge" | "hs" => Cmp::Ge,
        _ if !float => return i.unknown(),
        "equ" => Cmp::Equ,
        "neu" => Cmp::Neu,
        "ltu" => Cmp::Ltu,
        "leu" => Cmp::Leu,
        "gtu" => Cmp::Gtu,
        "geu" => Cmp::Geu,
        "num" => Cmp::Num,
        _ => Cmp::Nan,
    })
}

/// The type of an instruction that may name several: the last one is the operand type of comparisons.
fn peek_last_ty(i: &In) -> Option<Ty> {
    i.left.iter().rev().find_map(|m| Ty::parse(m))
}

impl<'s, 'a> Linker<'s, 'a> {
    pub(super) fn arithmetic(&mut self, i: &mut In<'s, 'a>) -> Result<Op> {
        let op = i.st.op;
        match op {
            "mov" => self.mov(i),
            "cvt" => self.cvt(i),
            "cvta" => self.cvta(i),
            "isspacep" => self.isspacep(i),
            "setp" => self.setp(i),
            "set" => {
                let Some(src) = peek_last_ty(i) else { return i.unknown() };
                let cmp = comparison(i, src)?;
                let ftz = i.take("ftz");
                let dst = i.ty()?;
                let src = i.ty()?;
                i.count(3)?;
                self.pure(i, PureOp::Set { cmp, src, dst, ftz }, &[src, src])
            }
            "selp" => {
                let ty = i.ty()?;
                i.count(4)?;
                let d = self.dst(i, 0)?;
                let (a, b) = (self.src(i, 1, ty)?, self.src(i, 2, ty)?);
                let (p, neg) = self.pred(i, 3)?;
                Ok(Op::Selp { d, a, b, p, neg })
            }
            "slct" => {
                i.take("ftz");
                let (src, sel) = (i.ty()?, i.ty()?);
                self.pure(i, PureOp::Slct { src, sel }, &[src, src, sel])
            }
            "addc" | "subc" | "madc" => self.carry(i),
            "add" | "sub" | "mad" if i.st.mods.contains(&"cc") => self.carry(i),
            "ex2" | "lg2" | "sin" | "cos" | "tanh" | "rsqrt" => {
                let f = match i.st.op {
                    "ex2" => Approx::Ex2,
                    "lg2" => Approx::Lg2,
                    "sin" => Approx::Sin,
                    "cos" => Approx::Cos,
                    "tanh" => Approx::Tanh,
                    _ => Approx::Rsqrt,
                };
                if !i.take("approx") {
                    return i.unknown();
                }
                self.approx(i, f)
            }
            "rcp" | "sqrt" | "div" if i.take("approx") || i.take("full") => {
                let f = match i.st.op {
                    "rcp" => Approx::Rcp,
                    "sqrt" => Approx::Sqrt,
                    // The full-range division scales its operands; no divisor is special.
                    _ if i.st.mods.contains(&"full") => Approx::DivFull,
                    _ => Approx::Div,
                };
                self.approx(i, f)
            }
            "testp" => {
                let tests = ["finite", "infinite", "number", "notanumber", "normal", "subnormal"];
                let Some(m) = i.one_of(&tests) else { return i.unknown() };
                let test = tests.iter().position(|t| *t == m).unwrap_or(0) as u8;
                let ty = i.ty()?;
                self.pure(i, PureOp::Testp { test, ty }, &[ty])
            }
            "copysign" => {
                let ty = i.ty()?;
                let f = float::copysign(ty);
                self.a2(i, f, [ty, ty])
            }
            "neg" | "abs" if peek_last_ty(i).is_some_and(|t| !t.int()) => {
                let ftz = i.take("ftz");
                let ty = i.ty()?;
                if float::sign1(i.st.op, ty, ftz).is_some() {
                    let f = float::sign1(i.st.op, ty, ftz);
                    return self.a1(i, f, ty);
                }
                if ty == Ty::Pred {
                    return i.unknown();
                }
                self.pure(i, PureOp::NegAbs { ty, abs: i.st.op == "abs", ftz }, &[ty])
            }
            "min" | "max" if peek_last_ty(i).is_some_and(|t| !t.int() && !matches!(t, Ty::U16x2 | Ty::S16x2)) => {
                let op = if i.st.op == "min" { MinMax::Min } else { MinMax::Max };
                let (ftz, nan, xorsign) = (i.take("ftz"), i.take("NaN"), i.take("xorsign"));
                if xorsign && !i.take("abs") {
                    return i.unknown();
                }
                let ty = i.ty()?;
                if ty == Ty::F32 && !(ftz || nan || xorsign) {
                    return self.a2(i, Some(float::fast_minmax(op)), [ty, ty]);
                }
                self.pure(i, PureOp::MinMax { op, ty, ftz, nan, xorsign, relu: false }, &[ty, ty])
            }
            "add" | "sub" | "mul" | "fma" | "mad" | "div" | "sqrt" | "rcp"
                if peek_last_ty(i).is_some_and(|t| t.float() || matches!(t, Ty::F16x2 | Ty::Bf16x2)) =>
            {
                self.float(i)
            }
            _ => self.integer(i),
        }
    }

    fn a1(&mut self, i: &In, f: Option<F1>, ty: Ty) -> Result<Op> {
        let Some(f) = f else { return i.unknown() };
        i.count(2)?;
        let d = self.dst(i, 0)?;
        let a = self.src(i, 1, ty)?;
        Ok(Op::A1 { f, d, a })
    }

    fn a2(&mut self, i: &In, f: Option<F2>, ty: [Ty; 2]) -> Result<Op> {
        let Some(f) = f else { return i.unknown() };
        i.count(3)?;
        let d = self.dst(i, 0)?;
        Ok(Op::A2 { f, d, a: self.src(i, 1, ty[0])?, b: self.src(i, 2, ty[1])? })
    }

    fn pure(&mut self, i: &In, f: PureOp, types: &[Ty]) -> Result<Op> {
        i.count(types.len() + 1)?;
        let d = self.dst(i, 0)?;
        let mut s: [Reg; 4] = [NONE; 4];
        for (k, ty) in types.iter().enumerate() {
            s[k] = self.src(i, k + 1, *ty)?;
        }
        Ok(Op::Pure { f, d, s })
    }

    fn mov(&mut self, i: &mut In<'s, 'a>) -> Result<Op> {
        let ty = i.ty()?;
        i.count(2)?;
        if ty == Ty::B128 {
            return i.unknown();
        }
        match (i.arg(0)?.clone(), i.arg(1)?.clone()) {
            (Operand::Vec(_), Operand::Vec(_)) => i.unknown(),
            (Operand::Vec(parts), a) => {
                let bits = ty.bits() / parts.len().max(1) as u32;
                let parts = parts.iter().map(|o| self.dst_of(i, o)).collect::<Result<Box<[Reg]>>>()?;
                Ok(Op::Unpack { parts, a: self.src_of(i, &a, ty)?, bits })
            }
            (_, Operand::Vec(parts)) => {
                let bits = ty.bits() / parts.len().max(1) as u32;
                let part_ty = match bits {
                    8 => Ty::B8,
                    16 => Ty::B16,
                    _ => Ty::B32,
                };
                let parts = parts.iter().map(|o| self.src_of(i, o, part_ty)).collect::<Result<Box<[Reg]>>>()?;
                Ok(Op::Pack { d: self.dst(i, 0)?, parts, bits })
            }
            (
                _,
                Operand::Special(name @ ("%clock" | "%clock64" | "%clock_hi" | "%globaltimer" | "%globaltimer_lo")),
            ) => {
                let bits = if matches!(name, "%clock64" | "%globaltimer") { 64 } else { 32 };
                Ok(Op::Clock { d: self.dst(i, 0)?, bits })
            }
            (_, Operand::Sym(s, off)) if off != 0 => {
                let (at, _) = self.symbol(i, s, 0);
                let (d, b) = (self.dst(i, 0)?, self.constant(off as u64));
                Ok(Op::A2 { f: l2!(a, b => a.wrapping_add(b)), d, a: at.base, b })
            }
            _ => {
                let d = self.dst(i, 0)?;
                Ok(Op::Mov { d, a: self.src(i, 1, ty)?, bits: ty.bits() })
            }
        }
    }

    fn cvta(&mut self, i: &mut In<'s, 'a>) -> Result<Op> {
        let to = i.take("to");
        let window = i.one_of(&["global", "shared", "shared::cta", "local", "const", "param", "param::entry"]);
        let ty = i.ty()?;
        let f: F1 = match (window, to) {
            (Some("global" | "const"), _) => l1!(a => a),
            (Some("shared" | "shared::cta"), false) => l1!(a => a.wrapping_add(SHARED_WINDOW)),
            (Some("shared" | "shared::cta"), true) => l1!(a => a.wrapping_sub(SHARED_WINDOW)),
            (Some("local"), false) => l1!(a => a.wrapping_add(LOCAL_WINDOW)),
            (Some("local"), true) => l1!(a => a.wrapping_sub(LOCAL_WINDOW)),
            (Some("param" | "param::entry"), false) => l1!(a => a.wrapping_add(PARAM_WINDOW)),
            (Some("param" | "param::entry"), true) => l1!(a => a.wrapping_sub(PARAM_WINDOW)),
            _ => return i.unknown(),
        };
        self.a1(i, Some(f), ty)
    }

    fn isspacep(&mut self, i: &mut In<'s, 'a>) -> Result<Op> {
        let f: F1 = match i.one_of(&["global", "shared", "shared::cta", "local", "const", "param", "param::entry"]) {
            Some("global") => l1!(a => u64::from(a >= PARAM_WINDOW + WINDOW_SIZE)),
            Some("shared" | "shared::cta") => l1!(a => u64::from(a.wrapping_sub(SHARED_WINDOW) < WINDOW_SIZE)),
            Some("local") => l1!(a => u64::from(a.wrapping_sub(LOCAL_WINDOW) < WINDOW_SIZE)),
            Some("param" | "param::entry") => l1!(a => u64::from(a.wrapping_sub(PARAM_WINDOW) < WINDOW_SIZE)),
            _ => return i.unknown(),
        };
        self.a1(i, Some(f), Ty::U64)
    }

    fn setp(&mut self, i: &mut In<'s, 'a>) -> Result<Op> {
        let Some(ty) = peek_last_ty(i) else { return i.unknown() };
        let cmp = comparison(i, ty)?;
        let bool_op = match i.one_of(&["and", "or", "xor"]) {
            Some("and") => Some(Bool::And),
            Some("or") => Some(Bool::Or),
            Some(_) => Some(Bool::Xor),
            None => None,
        };
        let ftz = i.take("ftz");
        let ty = i.ty()?;
        let (p, q) = self.dst_pair(i, 0)?;
        let (a, b) = (self.src(i, 1, ty)?, self.src(i, 2, ty)?);
        let fold = match bool_op {
            Some(op) => {
                i.count(4)?;
                let (c, neg) = self.pred(i, 3)?;
                Some((op, c, neg))
            }
            None => {
                i.count(3)?;
                None
            }
        };
        Ok(Op::Setp { cmp, ty, ftz, p, q, a, b, fold })
    }

    fn carry(&mut self, i: &mut In<'s, 'a>) -> Result<Op> {
        let set_cc = i.take("cc");
        let use_cc = i.st.op.ends_with('c');
        let name = i.st.op;
        let op = match name {
            "add" | "addc" => Carry::Add,
            "sub" | "subc" => Carry::Sub,
            _ if i.take("lo") => Carry::MadLo,
            _ if i.take("hi") => Carry::MadHi,
            _ => return i.unknown(),
        };
        let ty = i.ty()?;
        if !ty.int() || ty.bits() < 32 {
            return i.unknown();
        }
        let d = self.dst(i, 0)?;
        let (a, b) = (self.src(i, 1, ty)?, self.src(i, 2, ty)?);
        let c = if matches!(op, Carry::MadLo | Carry::MadHi) { self.src(i, 3, ty)? } else { NONE };
        Ok(Op::Carry { op, bits: ty.bits(), signed: ty.signed(), use_cc, set_cc, d, a, b, c })
    }

    fn approx(&mut self, i: &mut In<'s, 'a>, f: Approx) -> Result<Op> {
        let (ftz, sat) = (i.take("ftz"), i.take("sat"));
        let ty = i.ty()?;
        let ok = match ty {
            Ty::F32 => true,
            Ty::F64 => ftz && matches!(f, Approx::Rcp | Approx::Rsqrt) || f == Approx::Rsqrt,
            Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 => matches!(f, Approx::Ex2 | Approx::Tanh),
            _ => false,
        };
        if !ok {
            return i.unknown();
        }
        let n = if matches!(f, Approx::Div | Approx::DivFull) { 2 } else { 1 };
        self.pure(i, PureOp::Approx { f, ty, ftz, sat }, &[ty, ty][..n])
    }

    fn float(&mut self, i: &mut In<'s, 'a>) -> Result<Op> {
        let op = match i.st.op {
            "add" => Arith::Add,
            "sub" => Arith::Sub,
            "mul" => Arith::Mul,
            "fma" | "mad" => Arith::Fma,
            "div" => Arith::Div,
            "sqrt" => Arith::Sqrt,
            _ => Arith::Rcp,
        };
        let rnd = i.one_of(&["rn", "rz", "rm", "rp"]);
        let (ftz, sat, relu) = (i.take("ftz"), i.take("sat"), i.take("relu"));
        let ty = i.ty()?;
        let half = matches!(ty, Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2);
        if rnd.is_none() && matches!(op, Arith::Fma | Arith::Div | Arith::Sqrt | Arith::Rcp) {
            return i.err(format!("`{}` needs a rounding mode", i.full()));
        }
        let bad = if half {
            matches!(op, Arith::Div | Arith::Sqrt | Arith::Rcp) || rnd.is_some_and(|r| r != "rn")
        } else {
            relu || ty == Ty::Tf32 || (ty == Ty::F64 && (ftz || sat))
        };
        if bad {
            return i.unknown();
        }
        let one = match ty {
            Ty::F16x2 => Ty::F16,
            Ty::Bf16x2 => Ty::Bf16,
            t => t,
        };
        let o = FloatOp { op, ty: one, rnd: rounding(rnd), ftz, sat, relu };
        if one == ty {
            if let Some(f) = float::fast2(&o) {
                return self.a2(i, Some(f), [ty, ty]);
            }
            if let Some(f) = float::fast3(&o) {
                i.count(4)?;
                let d = self.dst(i, 0)?;
                return Ok(Op::A3 { f, d, a: self.src(i, 1, ty)?, b: self.src(i, 2, ty)?, c: self.src(i, 3, ty)? });
            }
        }
        let n = match op {
            Arith::Fma => 3,
            Arith::Sqrt | Arith::Rcp => 1,
            _ => 2,
        };
        let f = if one == ty { PureOp::Float(o) } else { PureOp::Float2(o) };
        self.pure(i, f, &[ty; 3][..n])
    }

    fn cvt(&mut self, i: &mut In<'s, 'a>) -> Result<Op> {
        let int = i.one_of(&["rni", "rzi", "rmi", "rpi"]);
        let flt = i.one_of(&["rn", "rz", "rm", "rp", "rna"]);
        let (ftz, relu) = (i.take("ftz"), i.take("relu"));
        let sat = i.take("sat") | i.take("satfinite");
        let (dst, src) = (i.ty()?, i.ty()?);
        let rnd = match (int, flt) {
            (Some("rni"), _) => CvtRnd::Int(Rnd::Rn),
            (Some("rzi"), _) => CvtRnd::Int(Rnd::Rz),
            (Some("rmi"), _) => CvtRnd::Int(Rnd::Rm),
            (Some(_), _) => CvtRnd::Int(Rnd::Rp),
            (None, Some(r)) => CvtRnd::Float(rounding(Some(r))),
            (None, None) => CvtRnd::None,
        };
        if matches!(dst, Ty::F16x2 | Ty::Bf16x2 | Ty::E4m3x2 | Ty::E5m2x2) {
            if src != Ty::F32 {
                return i.unknown();
            }
            return self.pure(i, PureOp::CvtPack { dst, rnd: rounding(flt), sat, relu }, &[src, src]);
        }
        let known = |t: Ty| t.int() || t.float();
        let narrower = dst.float() && src.float() && dst.bits() < src.bits();
        let from_int = dst.float() && !src.float();
        let needs_int = !dst.float() && src.float();
        if !known(dst)
            || !known(src)
            || src == Ty::Tf32
            || ((narrower || from_int) && flt.is_none())
            || (needs_int && int.is_none())
            || (relu && !matches!(dst, Ty::F16 | Ty::Bf16 | Ty::Tf32))
        {
            return i.unknown();
        }
        let o = i.arg(0)?.clone();
        if !sat && let Some(f) = cvt::fast(dst, src, rnd, self.width(i, &o, dst.bits())) {
            return self.a1(i, Some(f), src);
        }
        let dst_bits = self.width(i, &o, dst.bits());
        self.pure(i, PureOp::Cvt(CvtOp { dst, src, dst_bits, rnd, ftz, sat, relu }), &[src])
    }

    fn integer(&mut self, i: &mut In<'s, 'a>) -> Result<Op> {
        let op = i.st.op;
        let shiftamt = i.take("shiftamt");
        let dp = matches!(op, "dp4a" | "dp2a");
        let mut how = String::new();
        if dp {
            // Two types name the operands.
            let (x, y) = (i.ty()?, i.ty()?);
            let name = |t: Ty| if t == Ty::S32 { "s32" } else { "u32" };
            how = format!("{}.{}", name(x), name(y));
        }
        let ways = ["lo", "hi", "wide", "sat", "l", "r", "wrap", "clamp", "f4e", "b4e", "rc8", "ecl", "ecr", "rc16"];
        while let Some(w) = i.one_of(&ways) {
            if !how.is_empty() {
                how.push('.');
            }
            how.push_str(w);
        }
        let ty = if dp { Ty::U32 } else { i.ty()? };
        if op == "lop3" {
            i.count(5)?;
            let Operand::Int(lut) = *i.arg(4)? else { return i.err("lop3 needs a table as a number") };
            let s = [self.src(i, 1, ty)?, self.src(i, 2, ty)?, self.src(i, 3, ty)?, NONE];
            return Ok(Op::Pure { f: PureOp::Lop3(lut as u8), d: self.dst(i, 0)?, s });
        }
        if let Some(f) = int::described(op, &how, 0, ty) {
            let types: &[Ty] = if op == "bfi" { &[ty, ty, Ty::U32, Ty::U32] } else { &[ty, ty, ty] };
            return self.pure(i, f, types);
        }
        if op == "shf" {
            // `shf.l.wrap`: the direction is part of the name.
            let (dir, mode) = how.split_once('.').unwrap_or((&how, ""));
            if let Some(f) = int::ternary(&format!("shf.{dir}"), mode, ty) {
                return self.a3(i, f, [ty, ty, Ty::U32]);
            }
        }
        if how.is_empty()
            && let Some(f) = int::unary(op, shiftamt, ty)
        {
            return self.a1(i, Some(f), ty);
        }
        if let Some(f) = int::binary(op, &how, ty) {
            let second = if matches!(op, "shl" | "shr" | "szext") { Ty::U32 } else { ty };
            return self.a2(i, Some(f), [ty, second]);
        }
        if let Some(f) = int::ternary(op, &how, ty) {
            let third = match (how.as_str(), ty) {
                ("wide", Ty::U32) => Ty::U64,
                ("wide", Ty::S32) => Ty::S64,
                ("wide", _) => Ty::U32,
                _ => ty,
            };
            let types = if op == "bfe" { [ty, Ty::U32, Ty::U32] } else { [ty, ty, third] };
            return self.a3(i, f, types);
        }
        i.unknown()
    }

    fn a3(&mut self, i: &In, f: crate::inst::F3, ty: [Ty; 3]) -> Result<Op> {
        i.count(4)?;
        let d = self.dst(i, 0)?;
        Ok(Op::A3 { f, d, a: self.src(i, 1, ty[0])?, b: self.src(i, 2, ty[1])?, c: self.src(i, 3, ty[2])? })
    }
}
