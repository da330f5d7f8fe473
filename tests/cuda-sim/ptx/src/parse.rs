//! PTX text to [`Ast`]: declarations, scopes, names. Instructions keep their words; `decode` reads those.

use std::collections::HashMap;

use crate::ast::{Ast, Formal, Func, Operand, Space, Stmt, Sym, Var};
use crate::error::Error;
use crate::lex::{Tok, Token, lex};
use crate::ty::Ty;

type Result<T> = std::result::Result<T, Error>;

/// Names of one `{ }` scope.
#[derive(Default)]
struct Scope<'a> {
    id: u32,
    /// `%r<5>`: first register and count.
    ranges: HashMap<&'a str, (u32, u32)>,
    regs: HashMap<&'a str, u32>,
    vars: HashMap<&'a str, Sym>,
}

struct Parser<'a> {
    toks: Vec<Token<'a>>,
    pos: usize,
    ast: Ast<'a>,
    globals: HashMap<&'a str, Sym>,
}

/// Parses a whole module.
pub(crate) fn parse(text: &str) -> Result<Ast<'_>> {
    let mut p = Parser { toks: lex(text)?, pos: 0, ast: Ast::default(), globals: HashMap::new() };
    while p.pos < p.toks.len() {
        p.item()?;
    }
    if p.ast.target.is_empty() {
        return Err(Error::new(1, "this is not PTX: it has no .target directive"));
    }
    Ok(p.ast)
}

fn align_up(n: u32, align: u32) -> u32 {
    n.next_multiple_of(align.max(1))
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Tok<'a>> {
        self.toks.get(self.pos).map(|t| t.tok)
    }

    fn line(&self) -> u32 {
        self.toks.get(self.pos.min(self.toks.len().saturating_sub(1))).map_or(0, |t| t.line)
    }

    fn err<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::new(self.line(), message))
    }

    fn next(&mut self) -> Result<Tok<'a>> {
        let Some(t) = self.peek() else { return self.err("the text ends in the middle of a declaration") };
        self.pos += 1;
        Ok(t)
    }

    fn eat(&mut self, c: u8) -> bool {
        let hit = self.peek() == Some(Tok::Punct(c));
        self.pos += usize::from(hit);
        hit
    }

    fn expect(&mut self, c: u8) -> Result<()> {
        if self.eat(c) {
            return Ok(());
        }
        self.err(format!("expected `{}`, found {:?}", c as char, self.peek()))
    }

    fn word(&mut self) -> Result<&'a str> {
        match self.next()? {
            Tok::Word(w) => Ok(w),
            t => {
                self.pos -= 1;
                self.err(format!("expected a name, found {t:?}"))
            }
        }
    }

    fn int(&mut self) -> Result<u64> {
        match self.next()? {
            Tok::Int(n) => Ok(n),
            t => {
                self.pos -= 1;
                self.err(format!("expected a number, found {t:?}"))
            }
        }
    }

    fn small(&mut self) -> Result<u32> {
        let n = self.int()?;
        u32::try_from(n).ok().filter(|n| *n < 1 << 30).map_or_else(|| self.err(format!("{n} is too large")), Ok)
    }

    fn skip_line(&mut self) {
        let line = self.line();
        while self.toks.get(self.pos).is_some_and(|t| t.line == line) {
            self.pos += 1;
        }
    }

    fn skip_braces(&mut self) -> Result<()> {
        while !self.eat(b'{') {
            self.next()?;
        }
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                Tok::Punct(b'{') => depth += 1,
                Tok::Punct(b'}') => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn item(&mut self) -> Result<()> {
        let mut external = false;
        loop {
            let w = self.word()?;
            match w {
                ".target" => {
                    self.ast.target = self.word()?.to_string();
                    self.pos -= 1;
                    self.skip_line();
                    return Ok(());
                }
                ".version" | ".file" | ".loc" | ".address_size" | ".alias" => {
                    self.pos -= 1;
                    self.skip_line();
                    return Ok(());
                }
                ".section" => return self.skip_braces(),
                ".pragma" => {
                    while !self.eat(b';') {
                        self.next()?;
                    }
                    return Ok(());
                }
                ".extern" => external = true,
                ".visible" | ".weak" | ".common" => {}
                ".entry" => return self.function(true),
                ".func" => return self.function(false),
                ".global" | ".const" | ".shared" => {
                    let space = match w {
                        ".global" => Space::Global,
                        ".const" => Space::Const,
                        _ => Space::Shared,
                    };
                    for (name, var) in self.variables(space)? {
                        if external && space != Space::Shared {
                            return self.err(format!("external variable {name} is not supported: nothing is linked"));
                        }
                        self.globals.insert(name, Sym::Var(self.ast.vars.len() as u32));
                        self.ast.vars.push(var);
                    }
                    return Ok(());
                }
                _ => {
                    self.pos -= 1;
                    return self.err(format!("unknown directive `{w}`"));
                }
            }
        }
    }

    /// Declarations after a space directive up to the semicolon.
    fn variables(&mut self, space: Space) -> Result<Vec<(&'a str, Var)>> {
        let (mut align, mut lanes, mut ty) = (0, 1u32, None);
        while let Some(Tok::Word(w)) = self.peek() {
            if !w.starts_with('.') {
                break;
            }
            self.pos += 1;
            match w {
                ".align" => align = self.small()?,
                ".v2" => lanes = 2,
                ".v4" => lanes = 4,
                ".ptr" | ".global" | ".const" | ".shared" | ".local" | ".managed" | ".unified" => {}
                _ => match Ty::parse(&w[1..]) {
                    Some(t) => ty = Some(t),
                    None => return self.err(format!("unknown attribute `{w}` of a variable")),
                },
            }
        }
        let Some(ty) = ty else { return self.err("a variable without a type") };
        let mut out = Vec::new();
        loop {
            let name = self.word()?;
            let (mut count, mut dynamic) = (lanes, false);
            while self.eat(b'[') {
                if self.eat(b']') {
                    dynamic = true;
                } else {
                    let n = self.small()?;
                    count = match count.checked_mul(n) {
                        Some(c) if c < 1 << 30 => c,
                        _ => return self.err("the array is too large"),
                    };
                    self.expect(b']')?;
                }
            }
            let mut init = Vec::new();
            if self.eat(b'=') {
                self.initialiser(ty, &mut init)?;
            }
            let mut size = count.saturating_mul(ty.bytes());
            if dynamic && init.is_empty() {
                size = 0;
            } else if dynamic {
                size = init.len() as u32;
                dynamic = false;
            }
            if init.len() > size as usize {
                return self.err(format!("{name} has more initial values than room"));
            }
            let align = align.max(ty.bytes() * lanes);
            out.push((name, Var { name: name.to_string(), space, align, size, init, dynamic }));
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b';')?;
        Ok(out)
    }

    fn initialiser(&mut self, ty: Ty, out: &mut Vec<u8>) -> Result<()> {
        if self.eat(b'{') {
            while !self.eat(b'}') {
                self.initialiser(ty, out)?;
                self.eat(b',');
            }
            return Ok(());
        }
        let negative = self.eat(b'-');
        let mut v = match self.next()? {
            Tok::Int(n) => n,
            Tok::F32(x) if ty == Ty::F64 => f64::from(f32::from_bits(x)).to_bits(),
            Tok::F32(x) => u64::from(x),
            Tok::F64(x) if ty == Ty::F32 => u64::from((f64::from_bits(x) as f32).to_bits()),
            Tok::F64(x) => x,
            t => {
                self.pos -= 1;
                return self.err(format!("initial value {t:?} is not supported, only numbers are"));
            }
        };
        if negative {
            v = v.wrapping_neg();
        }
        out.extend_from_slice(&v.to_le_bytes()[..ty.bytes().min(8) as usize]);
        Ok(())
    }

    fn function(&mut self, entry: bool) -> Result<()> {
        let mut f = Func { entry, line: self.line(), scopes: vec![0], ..Func::default() };
        let mut scope = Scope::default();
        if !entry && self.peek() == Some(Tok::Punct(b'(')) {
            f.returns = self.formals(&mut f, &mut scope)?;
        }
        f.name = self.word()?;
        if self.peek() == Some(Tok::Punct(b'(')) {
            f.params = self.formals(&mut f, &mut scope)?;
        }
        if entry {
            f.param_bytes = f.params.last().map_or(0, |p| p.offset + p.size);
        }
        loop {
            match self.next()? {
                Tok::Punct(b';') => break,
                Tok::Punct(b'{') => {
                    f.has_body = true;
                    let mut scopes = vec![scope];
                    self.body(&mut f, &mut scopes)?;
                    break;
                }
                Tok::Word(".noreturn" | ".explicitcluster" | ".maxnctapersm" | ".blocksareclusters") => {}
                Tok::Word(".maxntid" | ".reqntid") => {
                    let req = self.toks[self.pos - 1].tok == Tok::Word(".reqntid");
                    let mut n = [1; 3];
                    n[0] = self.small()?;
                    for slot in n.iter_mut().skip(1) {
                        if self.eat(b',') {
                            *slot = self.small()?;
                        }
                    }
                    if req {
                        f.req_threads = Some(n);
                    } else {
                        f.max_threads = Some(n.iter().fold(1u32, |a, b| a.saturating_mul(*b)));
                    }
                }
                Tok::Word(".minnctapersm" | ".maxnreg") => {
                    self.small()?;
                }
                Tok::Word(".pragma") => {
                    self.next()?;
                    self.expect(b';')?;
                }
                t => {
                    self.pos -= 1;
                    return self.err(format!("unexpected {t:?} in the head of function {}", f.name));
                }
            }
        }
        self.ast.funcs.push(f);
        Ok(())
    }

    fn formals(&mut self, f: &mut Func<'a>, scope: &mut Scope<'a>) -> Result<Vec<Formal>> {
        self.expect(b'(')?;
        let mut out = Vec::new();
        let mut at = if f.entry { 0 } else { f.frame };
        while !self.eat(b')') {
            let w = self.word()?;
            if w != ".param" {
                return self.err(format!("parameters in `{w}` are not supported, only .param is"));
            }
            let (mut align, mut ty, mut count) = (0, Ty::B8, 1);
            let mut pointer = false;
            let name = loop {
                let w = self.word()?;
                match w {
                    // `.ptr .global .align 4`: the alignment is that of the memory pointed to.
                    ".ptr" => pointer = true,
                    ".global" | ".shared" | ".const" | ".local" | ".noalias" => {}
                    ".align" => {
                        let a = self.small()?;
                        if !pointer {
                            align = a;
                        }
                    }
                    _ if w.starts_with('.') => match Ty::parse(&w[1..]) {
                        Some(t) => ty = t,
                        None => return self.err(format!("unknown attribute `{w}` of a parameter")),
                    },
                    _ => break w,
                }
            };
            if self.eat(b'[') {
                if self.peek() == Some(Tok::Punct(b']')) {
                    return self.err("parameters of unknown size are not supported");
                }
                count = self.small()?;
                self.expect(b']')?;
            }
            let size = ty.bytes() * count;
            at = align_up(at, align.max(ty.bytes()));
            scope.vars.insert(name, if f.entry { Sym::KernelParam(at) } else { Sym::Frame(at) });
            out.push(Formal { offset: at, size });
            at += size;
            self.eat(b',');
        }
        if !f.entry {
            f.frame = at;
        }
        Ok(out)
    }

    fn body(&mut self, f: &mut Func<'a>, scopes: &mut Vec<Scope<'a>>) -> Result<()> {
        loop {
            match self.next()? {
                Tok::Punct(b'}') => {
                    scopes.pop();
                    if scopes.is_empty() {
                        return Ok(());
                    }
                }
                Tok::Punct(b'{') => {
                    let id = f.scopes.len() as u32;
                    f.scopes.push(scopes.last().map_or(0, |s| s.id));
                    scopes.push(Scope { id, ..Scope::default() });
                }
                Tok::Punct(b';') => {}
                Tok::Word(".loc" | ".file") => {
                    self.pos -= 1;
                    self.skip_line();
                }
                Tok::Word(".pragma") => {
                    self.next()?;
                    self.expect(b';')?;
                }
                Tok::Word(".reg") => self.registers(f, scopes)?,
                Tok::Word(w @ (".local" | ".param" | ".shared" | ".global" | ".const")) => self.scoped(w, f, scopes)?,
                Tok::Word(w) if self.eat(b':') => self.label(w, f, scopes)?,
                Tok::Word(w) if w.starts_with('.') => {
                    self.pos -= 1;
                    return self.err(format!("unknown directive `{w}`"));
                }
                Tok::Punct(b'@') => {
                    let negate = self.eat(b'!');
                    let name = self.word()?;
                    let Some(reg) = find_reg(scopes, name) else {
                        return self.err(format!("unknown predicate `{name}`"));
                    };
                    let op = self.word()?;
                    self.statement(op, Some((reg, negate)), f, scopes)?;
                }
                Tok::Word(op) => self.statement(op, None, f, scopes)?,
                t => {
                    self.pos -= 1;
                    return self.err(format!("unexpected {t:?} where an instruction begins"));
                }
            }
        }
    }

    fn label(&mut self, name: &'a str, f: &mut Func<'a>, scopes: &[Scope<'a>]) -> Result<()> {
        let scope = scopes.last().map_or(0, |s| s.id);
        if self.peek() == Some(Tok::Word(".branchtargets")) {
            self.pos += 1;
            let mut targets = vec![self.word()?];
            while self.eat(b',') {
                targets.push(self.word()?);
            }
            self.expect(b';')?;
            f.tables.push((scope, name, targets));
        } else if let Some(Tok::Word(w @ (".callprototype" | ".calltargets"))) = self.peek() {
            return self.err(format!("`{w}`: indirect calls are not supported"));
        } else {
            f.labels.push((scope, name, f.stmts.len() as u32));
        }
        Ok(())
    }

    fn registers(&mut self, f: &mut Func<'a>, scopes: &mut [Scope<'a>]) -> Result<()> {
        let w = self.word()?;
        let Some(ty) = w.strip_prefix('.').and_then(Ty::parse) else {
            return self.err(format!("unknown register type `{w}`"));
        };
        let scope = scopes.last_mut().expect("a body has a scope");
        loop {
            let name = self.word()?;
            let first = f.regs.len() as u32;
            let mut count = 1;
            if self.eat(b'<') {
                count = self.small()?;
                self.expect(b'>')?;
                if count > 1 << 20 {
                    return self.err("more than a million registers");
                }
                scope.ranges.insert(name, (first, count));
            } else {
                scope.regs.insert(name, first);
            }
            f.regs.extend(std::iter::repeat_n(ty, count as usize));
            if !self.eat(b',') {
                return self.expect(b';');
            }
        }
    }

    fn scoped(&mut self, w: &str, f: &mut Func<'a>, scopes: &mut [Scope<'a>]) -> Result<()> {
        let space = match w {
            ".shared" => Space::Shared,
            ".global" => Space::Global,
            ".const" => Space::Const,
            _ => Space::Local,
        };
        for (name, var) in self.variables(space)? {
            let sym = if space == Space::Local {
                f.frame = align_up(f.frame, var.align);
                let at = f.frame;
                f.frame += var.size;
                Sym::Frame(at)
            } else {
                self.ast.vars.push(var);
                Sym::Var(self.ast.vars.len() as u32 - 1)
            };
            scopes.last_mut().expect("a body has a scope").vars.insert(name, sym);
        }
        Ok(())
    }

    fn statement(
        &mut self,
        word: &'a str,
        guard: Option<(u32, bool)>,
        f: &mut Func<'a>,
        scopes: &[Scope<'a>],
    ) -> Result<()> {
        let line = self.toks[self.pos - 1].line;
        let mut parts = word.split('.');
        let op = parts.next().unwrap_or("");
        let mods = parts.collect();
        let mut operands = Vec::new();
        if !self.eat(b';') {
            loop {
                operands.push(self.operand(scopes)?);
                if !self.eat(b',') {
                    break;
                }
            }
            self.expect(b';')?;
        }
        let scope = scopes.last().map_or(0, |s| s.id);
        f.stmts.push(Stmt { line, scope, guard, op, mods, operands });
        Ok(())
    }

    fn operand(&mut self, scopes: &[Scope<'a>]) -> Result<Operand<'a>> {
        let first = self.simple(scopes)?;
        if self.eat(b'|') {
            let second = self.simple(scopes)?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn simple(&mut self, scopes: &[Scope<'a>]) -> Result<Operand<'a>> {
        Ok(match self.next()? {
            Tok::Punct(b'{') => Operand::Vec(self.list(b'}', scopes)?),
            Tok::Punct(b'(') => Operand::List(self.list(b')', scopes)?),
            Tok::Punct(b'[') => {
                let base = self.simple(scopes)?;
                let (base, mut off) = match base {
                    Operand::Sym(s, o) => (Operand::Sym(s, 0), o),
                    b => (b, 0),
                };
                off += self.offset()?;
                self.expect(b']')?;
                Operand::Mem(Box::new(base), off)
            }
            Tok::Punct(b'-') => match self.next()? {
                Tok::Int(n) => Operand::Int(n.wrapping_neg()),
                Tok::F32(x) => Operand::F32(x ^ (1 << 31)),
                Tok::F64(x) => Operand::F64(x ^ (1 << 63)),
                t => return self.err(format!("expected a number after `-`, found {t:?}")),
            },
            Tok::Punct(b'!') => {
                let name = self.word()?;
                match find_reg(scopes, name) {
                    Some(r) => Operand::NotReg(r),
                    None => return self.err(format!("unknown predicate `{name}`")),
                }
            }
            Tok::Int(n) => Operand::Int(n),
            Tok::F32(x) => Operand::F32(x),
            Tok::F64(x) => Operand::F64(x),
            Tok::Word("_") => Operand::Sink,
            Tok::Word(w) => {
                if let Some(r) = find_reg(scopes, w) {
                    Operand::Reg(r)
                } else if let Some(s) = self.find_var(scopes, w) {
                    let off = self.offset()?;
                    Operand::Sym(s, off)
                } else if w.starts_with('%') || w == "WARP_SZ" {
                    Operand::Special(w)
                } else {
                    Operand::Name(w)
                }
            }
            t => {
                self.pos -= 1;
                return self.err(format!("unexpected {t:?} where an operand begins"));
            }
        })
    }

    fn list(&mut self, close: u8, scopes: &[Scope<'a>]) -> Result<Vec<Operand<'a>>> {
        let mut out = Vec::new();
        while !self.eat(close) {
            out.push(self.simple(scopes)?);
            if !self.eat(b',') {
                self.expect(close)?;
                break;
            }
        }
        Ok(out)
    }

    /// `+4`, `+-4`, `-4` or nothing.
    fn offset(&mut self) -> Result<i64> {
        let mut sign = 1i64;
        if self.eat(b'-') {
            sign = -1;
        } else if !self.eat(b'+') {
            return Ok(0);
        }
        if self.eat(b'-') {
            sign = -sign;
        }
        Ok((self.int()? as i64).wrapping_mul(sign))
    }

    fn find_var(&self, scopes: &[Scope<'a>], name: &str) -> Option<Sym> {
        scopes.iter().rev().find_map(|s| s.vars.get(name)).or_else(|| self.globals.get(name)).copied()
    }
}

fn find_reg(scopes: &[Scope], name: &str) -> Option<u32> {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number: Option<u32> = name[stem.len()..].parse().ok();
    scopes.iter().rev().find_map(|s| {
        if let Some(r) = s.regs.get(name) {
            return Some(*r);
        }
        let (first, count) = *s.ranges.get(stem)?;
        number.filter(|n| *n < count).map(|n| first + n)
    })
}
