//! A module as parsed: functions of statements whose names are resolved, before decoding.

use crate::ty::Ty;

/// A state space, as modifiers and declarations name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of PTX")]
pub enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

/// A variable of the module or of a function.
#[derive(Clone, Debug)]
pub(crate) struct Var {
    pub name: String,
    pub space: Space,
    pub align: u32,
    pub size: u32,
    /// Initial bytes; empty when there is no initialiser.
    pub init: Vec<u8>,
    /// An unsized shared array: its size comes with the launch.
    pub dynamic: bool,
}

/// What an address or a symbol operand stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sym {
    /// Offset in the function's own frame of local memory (also its call parameters).
    Frame(u32),
    /// Offset in the kernel's parameters.
    KernelParam(u32),
    /// Index of a module variable.
    Var(u32),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand<'a> {
    /// Register by its index in the function.
    Reg(u32),
    /// `!%p`.
    NotReg(u32),
    Special(&'a str),
    Int(u64),
    F32(u32),
    F64(u64),
    /// A symbol's address plus an offset.
    Sym(Sym, i64),
    /// A name that is no register and no variable: a label or a function.
    Name(&'a str),
    Vec(Vec<Operand<'a>>),
    /// `[base + offset]`.
    Mem(Box<Operand<'a>>, i64),
    /// `%p|%q`.
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
    /// `( ... )` of a call.
    List(Vec<Operand<'a>>),
    /// `_`.
    Sink,
}

#[derive(Clone, Debug)]
pub(crate) struct Stmt<'a> {
    pub line: u32,
    /// The scope that labels are looked up from.
    pub scope: u32,
    /// Predicate register and whether it is negated.
    pub guard: Option<(u32, bool)>,
    /// The opcode without modifiers.
    pub op: &'a str,
    /// The modifiers in order.
    pub mods: Vec<&'a str>,
    pub operands: Vec<Operand<'a>>,
}

/// A formal parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Formal {
    /// Offset in kernel parameters, or in the function's frame.
    pub offset: u32,
    pub size: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Func<'a> {
    pub name: &'a str,
    pub line: u32,
    pub entry: bool,
    pub params: Vec<Formal>,
    pub returns: Vec<Formal>,
    /// Type of every register.
    pub regs: Vec<Ty>,
    /// Bytes of local frame.
    pub frame: u32,
    pub param_bytes: u32,
    pub max_threads: Option<u32>,
    pub req_threads: Option<[u32; 3]>,
    pub stmts: Vec<Stmt<'a>>,
    /// (scope, name, statement index).
    pub labels: Vec<(u32, &'a str, u32)>,
    /// Parent of every scope; the first is its own parent.
    pub scopes: Vec<u32>,
    /// `.branchtargets` by (scope, name): the labels.
    pub tables: Vec<(u32, &'a str, Vec<&'a str>)>,
    pub has_body: bool,
}

impl Func<'_> {
    /// The statement that a label names, seen from a scope.
    pub fn label(&self, scope: u32, name: &str) -> Option<u32> {
        self.up(scope, |s| self.labels.iter().find(|(at, n, _)| *at == s && *n == name).map(|l| l.2))
    }

    /// The labels of a branch table, seen from a scope.
    pub fn table(&self, scope: u32, name: &str) -> Option<&[&str]> {
        self.up(scope, |s| self.tables.iter().find(|(at, n, _)| *at == s && *n == name).map(|t| t.2.as_slice()))
    }

    fn up<T>(&self, scope: u32, find: impl Fn(u32) -> Option<T>) -> Option<T> {
        let mut s = scope;
        loop {
            if let Some(found) = find(s) {
                return Some(found);
            }
            let parent = self.scopes[s as usize];
            if parent == s {
                return None;
            }
            s = parent;
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Ast<'a> {
    pub target: String,
    pub vars: Vec<Var>,
    pub funcs: Vec<Func<'a>>,
}
