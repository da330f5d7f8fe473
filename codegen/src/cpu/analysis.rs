//! Facts about a normalised kernel that the block schedule needs: which values are one number per block,
//! which are other names of a value, which live on between stages and how.

use super::normal::{Normal, VectorAxis};
use std::collections::HashSet;
use torsh_ir::DType;
use torsh_ir::kernel::{Domain, Inst, Kernel, ValueId};
use torsh_ir::scalar::{BinOp, ScalarOp, UnOp};

/// How a value of a `Full` stage reaches later `Full` stages.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Keep {
    /// It does not, or it lives in a cell or slot of its own.
    No,
    /// It is computed again there: a load of memory that nobody has written meanwhile, or an index.
    Again,
    /// It is stored in row scratch memory.
    Scratch,
}

/// Facts, indexed by value.
pub(super) struct Facts {
    /// The value that this one is another name of (itself for most).
    pub canon: Vec<ValueId>,
    /// Varies along the vector axis.
    pub vector: Vec<bool>,
    /// How it reaches later stages.
    pub keep: Vec<Keep>,
    /// The stage that computes it.
    pub stage: Vec<usize>,
    /// The last stage that uses it.
    pub last_stage: Vec<Option<usize>>,
    /// Used by nothing but stores of its own dtype.
    pub only_stored: Vec<bool>,
    /// Values to compute, per stage, in order: own ones and those computed again.
    pub order: Vec<Vec<ValueId>>,
    aliases: HashSet<(u32, u32)>,
}

/// The dtype that a value has in scratch memory: 16-bit floats as f32, bools as bytes.
pub(super) fn slot_dtype(dtype: DType) -> DType {
    match dtype {
        DType::Bool => DType::U8,
        other => other.compute(),
    }
}

/// True when an operation's result has the bits of its operand in scratch memory.
fn is_renaming(op: ScalarOp, from: DType, to: DType) -> bool {
    match op {
        ScalarOp::Un(un) => match un {
            UnOp::Floor | UnOp::Ceil | UnOp::Round | UnOp::Trunc => !from.is_float(),
            UnOp::Abs => matches!(from, DType::Bool | DType::U8),
            UnOp::Neg | UnOp::Sign => from == DType::Bool,
            _ => false,
        },
        ScalarOp::Cast => {
            // Widening of 16-bit floats is how they are held; a bool is a byte.
            from == to || (slot_dtype(from) == slot_dtype(to) && !is_16_bit_float(to) && to != DType::Bool)
        }
        ScalarOp::Bitcast => from == to || (!is_16_bit_float(from) && !is_16_bit_float(to) && to != DType::Bool),
        ScalarOp::Bin(_) | ScalarOp::Cmp(_) | ScalarOp::Select => false,
    }
}

/// True for f16 and bf16.
pub(super) fn is_16_bit_float(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

/// True when `op` on rounded 16-bit floats gives a number that needs no rounding.
pub(super) fn is_exact(op: ScalarOp) -> bool {
    match op {
        ScalarOp::Select => true,
        ScalarOp::Un(un) => {
            matches!(un, UnOp::Neg | UnOp::Abs | UnOp::Sign | UnOp::Floor | UnOp::Ceil | UnOp::Round | UnOp::Trunc)
        }
        ScalarOp::Bin(bin) => matches!(bin, BinOp::Max | BinOp::Min),
        ScalarOp::Cmp(_) | ScalarOp::Cast | ScalarOp::Bitcast => false,
    }
}

impl Facts {
    /// Gathers the facts. `aliases` are pairs of parameters that share memory.
    pub fn new(normal: &Normal, aliases: &[(u32, u32)]) -> Facts {
        let k = &normal.kernel;
        let n = k.values.len();
        let mut facts = Facts {
            canon: (0..n as u32).map(ValueId).collect(),
            vector: vec![false; n],
            keep: vec![Keep::No; n],
            stage: vec![0; n],
            last_stage: vec![None; n],
            only_stored: vec![true; n],
            order: vec![Vec::new(); k.stages.len()],
            aliases: aliases.iter().flat_map(|&(a, b)| [(a, b), (b, a)]).collect(),
        };
        facts.rename_and_vectors(normal);
        facts.keep(normal);
        facts.orders(k);
        facts
    }

    /// The value that `v` is another name of.
    pub fn canon(&self, v: ValueId) -> ValueId {
        self.canon[v.0 as usize]
    }

    /// True when `v` varies along the vector axis.
    pub fn is_vector(&self, v: ValueId) -> bool {
        self.vector[v.0 as usize]
    }

    /// True when a store to `written` may change what a load of `read` sees.
    pub fn may_overlap(&self, written: u32, read: u32) -> bool {
        written == read || self.aliases.contains(&(written, read))
    }

    /// True when some value of the kernel is loaded from memory that `param` may share.
    pub fn is_read(&self, k: &Kernel, param: u32) -> bool {
        k.values.iter().any(|v| match &v.inst {
            Inst::Load { param: read, .. } => self.may_overlap(param, *read),
            Inst::Const(_) | Inst::Index(_) | Inst::Op(..) | Inst::Reduced => false,
        })
    }

    fn rename_and_vectors(&mut self, normal: &Normal) {
        let k = &normal.kernel;
        let axis = match normal.axis {
            VectorAxis::Inner => k.grid.len() + k.inner.len() - 1,
            VectorAxis::Grid => k.grid.len() - 1,
        };
        for (s, stage) in k.stages.iter().enumerate() {
            let along = |strides: &[i64]| {
                strides[axis] != 0 && (stage.domain == Domain::Full || normal.axis == VectorAxis::Grid)
            };
            for &v in &stage.insts {
                let i = v.0 as usize;
                self.stage[i] = s;
                match &k.values[i].inst {
                    Inst::Const(_) | Inst::Reduced => {}
                    Inst::Load { index, .. } | Inst::Index(index) => self.vector[i] = along(&index.strides),
                    Inst::Op(op, args) => {
                        self.vector[i] = args.iter().any(|a| self.vector[a.0 as usize]);
                        if args.len() == 1 && is_renaming(*op, k.value(args[0]).dtype, k.values[i].dtype) {
                            self.canon[i] = self.canon(args[0]);
                        }
                    }
                }
            }
            for reduce in &stage.reduces {
                self.stage[reduce.out.0 as usize] = s;
                self.vector[reduce.out.0 as usize] = normal.axis == VectorAxis::Grid;
            }
        }
    }

    /// Every use: the used canonical value, the stage, and whether a store of its own dtype uses it.
    fn for_each_use(&self, k: &Kernel, mut f: impl FnMut(ValueId, usize, bool)) {
        for (s, stage) in k.stages.iter().enumerate() {
            for &v in &stage.insts {
                if let (Inst::Op(_, args), true) = (&k.value(v).inst, self.canon(v) == v) {
                    args.iter().for_each(|&a| f(self.canon(a), s, false));
                }
            }
            stage.reduces.iter().for_each(|r| f(self.canon(r.value), s, false));
            for store in &stage.stores {
                // A renamed value is stored as what it is renamed to: such a store does not round.
                let v = self.canon(store.value);
                f(v, s, k.value(v).dtype == k.params[store.param as usize].dtype);
            }
        }
    }

    fn keep(&mut self, normal: &Normal) {
        let k = &normal.kernel;
        let mut last_stage = vec![None; k.values.len()];
        let mut only_stored = vec![true; k.values.len()];
        self.for_each_use(k, |v, s, by_store| {
            last_stage[v.0 as usize] = Some(s);
            only_stored[v.0 as usize] &= by_store;
        });
        self.only_stored = only_stored;
        self.last_stage = last_stage;
        for (i, value) in k.values.iter().enumerate() {
            let from = self.stage[i];
            let Some(to) = self.last_stage[i].filter(|&to| to > from) else { continue };
            if k.stages[from].domain == Domain::Row {
                continue;
            }
            let one_number_per_row = !self.vector[i] && normal.axis == VectorAxis::Inner && k.inner.len() == 1;
            self.keep[i] = match &value.inst {
                Inst::Const(_) | Inst::Reduced => Keep::No,
                _ if one_number_per_row => Keep::No,
                Inst::Index(_) => Keep::Again,
                Inst::Load { param, .. } => {
                    let written =
                        k.stages[..to].iter().flat_map(|s| &s.stores).any(|s| self.may_overlap(s.param, *param));
                    if written { Keep::Scratch } else { Keep::Again }
                }
                Inst::Op(..) => Keep::Scratch,
            };
        }
    }

    fn orders(&mut self, k: &Kernel) {
        let mut again: Vec<Vec<ValueId>> = vec![Vec::new(); k.stages.len()];
        self.for_each_use(k, |v, s, _| {
            if self.keep[v.0 as usize] == Keep::Again && s > self.stage[v.0 as usize] && !again[s].contains(&v) {
                again[s].push(v);
            }
        });
        for (s, stage) in k.stages.iter().enumerate() {
            let own = stage.insts.iter().copied().filter(|&v| self.canon(v) == v);
            self.order[s] = again[s].iter().copied().chain(own).collect();
        }
    }
}
