//! What both schedules share: a function under construction, calls of primitives, loops and addresses.
//!
//! Modules are compiled with `opt_level=none` (it keeps program order, which the inline schedule needs), so
//! nothing is hoisted or folded behind our back: the helpers here fold what is cheap to fold. Kernels in blocks for
//! libraries are optimised besides (`emit_with`).

use super::prims::Prim;
use super::vec;
use cranelift::codegen::ir::{BlockArg, FuncRef};
use cranelift::module::{FuncId, Linkage, Module};
use cranelift::prelude::*;
use std::collections::HashMap;
use torsh_ir::kernel::{Affine, Kernel};
use torsh_ir::{DType, Error, Result};

/// Most bytes of stack that a kernel takes, at once and in all: less than a page, so that no guard page is skipped.
const STACK_PIECE: u64 = 256;
const STACK: u64 = 1024;

/// Memory flags of every access: addresses are checked by the kernel verifier, alignment is the element's.
pub(super) fn flags() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

/// The Cranelift type that holds one element of `dtype` in memory.
pub(super) fn clif_type(dtype: DType) -> Type {
    match dtype {
        DType::Bool | DType::U8 | DType::I8 => types::I8,
        DType::I16 | DType::F16 | DType::BF16 => types::I16,
        DType::I32 => types::I32,
        DType::I64 => types::I64,
        DType::F32 => types::F32,
        DType::F64 => types::F64,
    }
}

/// Turns a Cranelift failure into ours.
pub(super) fn clif_error(what: &str, e: impl std::fmt::Display) -> Error {
    Error::compile(format!("{what}: {e}"))
}

/// One read or write of a stage, or an index map by itself: `base + scale * map(axes)`.
pub(super) struct Access<'k> {
    pub param: Option<usize>,
    pub map: &'k Affine,
    pub scale: i64,
}

/// An open loop.
pub(super) struct Loop {
    head: Block,
    exit: Block,
    /// The counter.
    pub index: Value,
}

/// Where the addresses of parameters come from.
enum Params {
    /// They were read on entry.
    Read(Vec<Value>),
    /// Each use reads its own from the caller's table, which is here: less code than to keep them on the stack.
    Table(Value),
}

/// Machine code of our own that a kernel calls.
pub(super) struct Raw {
    pub func: FuncId,
    pub code: vec::Code,
}

/// A function under construction.
pub(super) struct Emitter<'f, M: Module> {
    pub b: FunctionBuilder<'f>,
    pub module: &'f mut M,
    refs: HashMap<Prim, FuncRef>,
    /// Primitives called so far, in order of first use.
    pub prims: Vec<Prim>,
    /// Addresses of the parameters.
    params: Params,
    pub row_lo: Value,
    pub row_hi: Value,
    pub col_lo: Value,
    pub col_hi: Value,
    pub scratch: Value,
    /// Bytes of stack in use.
    stack: u64,
    /// Vector functions called so far; they are to be defined in the same module.
    pub raws: Vec<Raw>,
    name: &'f str,
    /// What the symbols of primitives begin with.
    prefix: &'f str,
}

impl<'f, M: Module> Emitter<'f, M> {
    /// Opens the entry block of a kernel function with `params` buffers, whose addresses are read right here or where
    /// they are used.
    pub fn new(
        mut b: FunctionBuilder<'f>,
        module: &'f mut M,
        (name, prefix): (&'f str, &'f str),
        params: Option<usize>,
    ) -> Emitter<'f, M> {
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        let p: Vec<Value> = b.block_params(entry).to_vec();
        let params = match params {
            Some(n) => Params::Read((0..n).map(|i| b.ins().load(types::I64, flags(), p[0], (8 * i) as i32)).collect()),
            None => Params::Table(p[0]),
        };
        Emitter {
            b,
            module,
            refs: HashMap::new(),
            prims: Vec::new(),
            params,
            row_lo: p[1],
            row_hi: p[2],
            col_lo: p[3],
            col_hi: p[4],
            scratch: p[5],
            stack: 0,
            raws: Vec::new(),
            name,
            prefix,
        }
    }

    /// Returns from the function and hands back the primitives and vector functions that it calls.
    pub fn finish(mut self) -> (Vec<Prim>, Vec<Raw>) {
        self.b.ins().return_(&[]);
        self.b.seal_all_blocks();
        let config = self.module.target_config();
        self.b.finalize(config);
        (self.prims, self.raws)
    }

    /// Memory on the stack, of any alignment, or `None` if it is not little: a kernel that needs no more has no use
    /// for scratch memory.
    pub fn stack(&mut self, bytes: u64) -> Option<Value> {
        if bytes > STACK_PIECE || self.stack + bytes > STACK {
            return None;
        }
        self.stack += bytes;
        let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, bytes as u32, 4);
        let slot = self.b.create_sized_stack_slot(slot);
        Some(self.b.ins().stack_addr(types::I64, slot, 0))
    }

    /// Calls a vector function over `n` elements.
    pub fn call_raw(&mut self, code: vec::Code, area: Value, n: Value) -> Result<()> {
        let mut sig = self.module.make_signature();
        sig.params.extend([AbiParam::new(types::I64); 2]);
        let name = format!("{}_vector{}", self.name, self.raws.len());
        let func = self
            .module
            .declare_function(&name, Linkage::Local, &sig)
            .map_err(|e| clif_error("cannot declare a vector function", e))?;
        let f = self.module.declare_func_in_func(func, self.b.func);
        // By its whole address: executable memory need not be near itself.
        self.b.func.dfg.ext_funcs[f].colocated = false;
        self.b.ins().call(f, &[area, n]);
        self.raws.push(Raw { func, code });
        Ok(())
    }

    pub fn call(&mut self, prim: Prim, args: &[Value]) -> Result<()> {
        if args.len() != prim.params() {
            let (name, takes) = (prim.name(), prim.params());
            return Err(Error::internal(format!("{name} takes {takes} arguments, got {}", args.len())));
        }
        let func = match self.refs.get(&prim) {
            Some(&f) => f,
            None => {
                let mut sig = self.module.make_signature();
                sig.params.extend(std::iter::repeat_n(AbiParam::new(types::I64), prim.params()));
                let id = self
                    .module
                    .declare_function(&format!("{}{}", self.prefix, prim.name()), Linkage::Import, &sig)
                    .map_err(|e| clif_error("cannot declare a primitive", e))?;
                let f = self.module.declare_func_in_func(id, self.b.func);
                // Primitives under a prefix are linked into one library with the kernels: a call of five bytes.
                self.b.func.dfg.ext_funcs[f].colocated = !self.prefix.is_empty();
                self.refs.insert(prim, f);
                self.prims.push(prim);
                f
            }
        };
        self.b.ins().call(func, args);
        Ok(())
    }

    pub fn int(&mut self, v: i64) -> Value {
        self.b.ins().iconst(types::I64, v)
    }

    pub fn add_imm(&mut self, x: Value, imm: i64) -> Value {
        if imm == 0 { x } else { self.b.ins().iadd_imm_s(x, imm) }
    }

    pub fn mul_imm(&mut self, x: Value, imm: i64) -> Value {
        match imm {
            1 => x,
            _ if imm > 0 && imm & (imm - 1) == 0 => self.b.ins().ishl_imm_u(x, i64::from(imm.trailing_zeros())),
            _ => self.b.ins().imul_imm_s(x, imm),
        }
    }

    /// `x + coord * step`.
    pub fn advance(&mut self, x: Value, coord: Value, step: i64) -> Value {
        if step == 0 {
            return x;
        }
        let d = self.mul_imm(coord, step);
        self.b.ins().iadd(x, d)
    }

    /// An address in scratch memory.
    pub fn scratch_at(&mut self, offset: u64) -> Value {
        let s = self.scratch;
        self.add_imm(s, offset as i64)
    }

    /// Opens `i = lo; while i < hi { ...`, unsigned.
    pub fn open_loop(&mut self, lo: Value, hi: Value) -> Loop {
        let head = self.b.create_block();
        let inside = self.b.create_block();
        let exit = self.b.create_block();
        self.b.append_block_param(head, types::I64);
        self.b.ins().jump(head, &[BlockArg::Value(lo)]);
        self.b.switch_to_block(head);
        let index = self.b.block_params(head)[0];
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, index, hi);
        self.b.ins().brif(more, inside, &[], exit, &[]);
        self.b.switch_to_block(inside);
        Loop { head, exit, index }
    }

    /// Closes `... i = next }`.
    pub fn close_loop(&mut self, open: Loop, next: Value) {
        self.b.ins().jump(open.head, &[BlockArg::Value(next)]);
        self.b.switch_to_block(open.exit);
    }

    /// `min(hi - i, limit)`.
    pub fn block_len(&mut self, i: Value, hi: Value, limit: i64) -> Value {
        let left = self.b.ins().isub(hi, i);
        let limit = self.int(limit);
        self.b.ins().umin(left, limit)
    }

    /// Grid coordinates of linear row `row`.
    pub fn grid_coords(&mut self, kernel: &Kernel, row: Value) -> Vec<Value> {
        let mut coords = vec![row; kernel.grid.len()];
        let mut rest = row;
        for axis in (1..kernel.grid.len()).rev() {
            let extent = self.int(kernel.grid[axis].max(1) as i64);
            let quotient = self.b.ins().udiv(rest, extent);
            let whole = self.b.ins().imul(quotient, extent);
            coords[axis] = self.b.ins().isub(rest, whole);
            rest = quotient;
        }
        if let Some(first) = coords.first_mut() {
            *first = rest;
        }
        coords
    }

    /// The part of an access that the grid coordinates fix.
    pub fn grid_address(&mut self, access: &Access<'_>, coords: &[Value]) -> Value {
        let offset = access.map.offset.wrapping_mul(access.scale);
        let mut at = match access.param {
            Some(p) => {
                let base = match &self.params {
                    Params::Read(read) => read[p],
                    Params::Table(table) => self.b.ins().load(types::I64, flags(), *table, (8 * p) as i32),
                };
                self.add_imm(base, offset)
            }
            None => self.int(offset),
        };
        for (&coord, &stride) in coords.iter().zip(&access.map.strides) {
            at = self.advance(at, coord, stride.wrapping_mul(access.scale));
        }
        at
    }
}
