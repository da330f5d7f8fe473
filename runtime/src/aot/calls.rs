//! The library calls of a program as statements of C.

use super::refused;
use super::steps::{MAX_RANK, Writer, line, number};
use torsh_codegen::cpu::c::Part;
use torsh_ir::program::{Attend, BufId, LibCall};
use torsh_ir::scalar::to_bits;
use torsh_ir::{DType, Error, Result, Type};

/// Blocks of an attention in `attention.c`, whose numbers these are: queries, keys, lanes, queries whose sums are kept.
const BLOCK: [usize; 4] = [32, 128, 16, 128];

/// Numbers of f32 that an attention needs as scratch memory, as its C text says.
pub(super) fn attention_scratch(a: &Attend, forward: bool) -> usize {
    let [queries, keys, lanes, kept] = BLOCK;
    let (deep, wide) = (a.depth.next_multiple_of(lanes), a.width.next_multiple_of(lanes));
    let up = a.queries.saturating_add(queries - 1) / queries * queries;
    if forward {
        let kept = up.min(kept);
        let blocks = kept * (a.depth + wide + lanes + 1) + keys * (a.depth + wide) + queries * (keys + 1);
        return blocks.saturating_add(a.keys);
    }
    let blocks = queries * (deep + wide + 2) + keys * (a.depth + a.width + 2 * deep + wide) + 3 * queries * keys;
    let again = a.queries.saturating_mul(3).saturating_add(a.keys).saturating_add(1);
    up.saturating_mul(deep).saturating_add(blocks).saturating_add(again)
}

impl Writer<'_> {
    pub(super) fn call(&mut self, i: usize, call: &LibCall, args: &[BufId], out: BufId) -> Result<()> {
        let at = args.iter().map(|&b| self.at(b)).collect::<Result<Vec<_>>>()?;
        let to = self.at(out)?;
        let types: Vec<Type> = args.iter().map(|&b| self.ty(b).clone()).collect();
        let ty = self.ty(out).clone();
        let (dt, bytes) = (ty.dtype.short(), ty.dtype.size());
        let fails = |call: String| format!("    if ({call}) return T_ERROR_INDEX;");
        let text = match call {
            LibCall::Take { dim } => {
                self.uses(Part::Calls);
                let (outer, size, inner) = around(&types[0], *dim)?;
                let (count, row) = (types[1].numel(), inner * bytes);
                fails(format!("t_take({}, {}, {to}, {outer}, {size}, {count}, {row})", at[0], at[1]))
            }
            LibCall::Gather { dim } => {
                self.uses(Part::Calls);
                let sizes = self.run_tables(&types[1], &types[0], *dim)?;
                fails(format!("t_gather_{bytes}({}, {}, {to}, {sizes})", at[0], at[1]))
            }
            LibCall::Scatter { dim, mode } => {
                self.uses(Part::Scatter(*mode, ty.dtype));
                let sizes = self.run_tables(&types[1], &ty, *dim)?;
                let (mode, all) = (mode.name(), ty.numel());
                fails(format!("t_scatter_{mode}_{dt}({}, {}, {}, {to}, {sizes}, {all})", at[0], at[1], at[2]))
            }
            LibCall::IndexPut { dim, mode } => {
                self.uses(Part::Scatter(*mode, ty.dtype));
                let (outer, size, inner) = around(&ty, *dim)?;
                let (mode, count) = (mode.name(), types[1].numel());
                let args = format!("{}, {}, {}, {to}, {outer}, {size}, {count}, {inner}", at[0], at[1], at[2]);
                fails(format!("t_index_put_{mode}_{dt}({args})"))
            }
            LibCall::ArgSort { dim, descending } => {
                self.uses(Part::ArgSort(types[0].dtype));
                let (outer, size, inner) = around(&types[0], *dim)?;
                let flip = if *descending { "UINT64_MAX" } else { "0" };
                let (dt, scratch) = (types[0].dtype.short(), self.scratch());
                format!("    t_argsort_{dt}({}, {to}, {outer}, {size}, {inner}, {flip}, {scratch});", at[0])
            }
            LibCall::Scan { op, dim } => {
                self.uses(Part::Scan(*op, ty.dtype));
                let (outer, size, inner) = around(&ty, *dim)?;
                format!("    t_scan_{}_{dt}({}, {to}, {outer}, {size}, {inner});", op.name(), at[0])
            }
            LibCall::Fill(value) => {
                self.uses(Part::Calls);
                let bits = to_bits(value.to_dtype(ty.dtype), ty.dtype);
                format!("    t_fill({to}, {}, {bytes}, {bits:#x}u);", ty.numel())
            }
            LibCall::Copy => format!("    memmove({to}, {}, {});", at[0], ty.nbytes()),
            LibCall::Attention(a) => self.attention(i, a, true, &types, &at, &to)?,
            LibCall::AttentionGrad(a) => self.attention(i, a, false, &types, &at, &to)?,
        };
        line!(self.body, "{text}");
        Ok(())
    }

    /// Sizes of an index, strides of what it points into, and the counts of a call by index.
    fn run_tables(&mut self, index: &Type, other: &Type, dim: usize) -> Result<String> {
        if index.rank() > MAX_RANK {
            return Err(refused(format!(
                "indices of rank {} cannot be exported to C; at most {MAX_RANK}",
                index.rank()
            )));
        }
        let dims = self.numbers(index.shape.dims().iter().map(|&d| d as i64));
        let strides = self.numbers(other.shape.strides());
        let size = other.shape.dims().get(dim).copied().unwrap_or(0);
        let tables = format!("t_numbers + {dims}, t_numbers + {strides}");
        Ok(format!("{}, {tables}, {dim}, {size}, {}", index.rank(), index.numel()))
    }

    fn attention(
        &mut self,
        i: usize,
        a: &Attend,
        forward: bool,
        types: &[Type],
        at: &[String],
        to: &str,
    ) -> Result<String> {
        let missing = || Error::internal("an attention on other operands than its own");
        if a.numel(forward).ok_or_else(missing)? == 0 {
            return Ok(String::new());
        }
        self.uses(Part::Attention);
        let o = a.options();
        let drops = o.dropout > 0.0;
        let batch = self.numbers(a.batch.iter().map(|&b| b as i64));
        // Query, key, value, mask, cotangent.
        let named = [Some(0), Some(1), Some(2), a.mask.then_some(3), (!forward).then(|| at.len() - 1)];
        let mut sides = Vec::new();
        for operand in named {
            let Some(operand) = operand else {
                sides.push("{0, 0, 0, 0}".to_string());
                continue;
            };
            let side = a.sides.get(operand).ok_or_else(missing)?;
            let strides = self.numbers(side.batch.iter().copied());
            sides.push(format!("{{{}, {}, {}, {strides}}}", number(side.offset), number(side.row), number(side.col)));
        }
        let adds = a.mask && types[3].dtype != DType::Bool;
        let flags = [a.causal, a.mask, adds, a.safe, a.lse, drops].map(|f| u8::from(f).to_string()).join(", ");
        let bits = |x: f64| format!("{:#010x}u", (x as f32).to_bits());
        let value = format!(
            "{}, {batch}, {}, {}, {}, {}, {flags}, {}, UINT64_C({:#x}), {}, {}, {{{}}}",
            a.batch.len(),
            a.queries,
            a.keys,
            a.depth,
            a.width,
            bits(o.scale),
            o.scale.to_bits(),
            bits(o.dropout),
            bits(o.factor()),
            sides.join(", ")
        );
        let table = self.constant("t_attention", &format!("t_s{i}"), &value);
        let (q, k, v, scratch) = (&at[0], &at[1], &at[2], self.scratch());
        let mask = if a.mask { at[3].as_str() } else { "0" };
        // The operand's pointer at the element where its side begins.
        let begin = |n: usize, ty: &str| {
            let side = a.sides.get(n).ok_or_else(missing)?;
            Ok::<_, Error>((format!("(const {ty} *){} + {}", at[n], number(side.offset)), side.col))
        };
        let state = if drops {
            let (first, step) = begin(o.operands() - 1, "int64_t")?;
            format!("({first})[0], ({first})[{}]", number(step))
        } else {
            "0, 0".to_string()
        };
        let call = format!("const t_call t_c = {{&{table}, {q}, {k}, {v}, {mask}, {state}}};");
        if forward {
            return Ok(format!("    {{ {call} t_attend(&t_c, {to}, {scratch}); }}"));
        }
        self.uses(Part::AttentionGrad);
        let (row, _) = begin(at.len() - 2, "float")?;
        let ct = at.last().ok_or_else(missing)?;
        Ok(format!("    {{ {call} t_attend_back(&t_c, {row}, {ct}, {to}, {scratch}); }}"))
    }
}

/// `(outer, size, inner)`: the extents before, at and after `dim`.
fn around(ty: &Type, dim: usize) -> Result<(usize, usize, usize)> {
    let dims = ty.shape.dims();
    match dims.get(dim) {
        Some(&size) => Ok((dims[..dim].iter().product(), size, dims[dim + 1..].iter().product())),
        None => Err(Error::internal(format!("dim {dim} of {ty}"))),
    }
}
