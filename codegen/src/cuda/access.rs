//! Which memory parameters share, addresses as text, and vector loads and stores.

use super::scalar::{from_memory, memory_type, to_memory};
use std::fmt::Write;
use torsh_ir::kernel::{Access, Affine, Kernel};
use torsh_ir::program::{BufId, Place, Program};
use torsh_ir::{DType, Error, Result};

/// True when two buffers share memory.
pub(super) fn share_memory(program: &Program, a: BufId, b: BufId) -> Result<bool> {
    let decl = |id: BufId| program.buffers.get(id.0 as usize).ok_or_else(|| Error::internal("no such buffer"));
    let (x, y) = (decl(a)?, decl(b)?);
    Ok(match (&x.place, &y.place) {
        _ if a == b => true,
        (Place::Arena { offset: p }, Place::Arena { offset: q }) => {
            p < &(q + y.ty.nbytes()) && q < &(p + x.ty.nbytes())
        }
        (Place::Input(i) | Place::Donated(i), Place::Input(j) | Place::Donated(j)) => i == j,
        _ => false,
    })
}

/// How a kernel's parameters may be read and written.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Sharing {
    /// Pairs of a written parameter and one that shares its memory, itself included when it is read.
    pub pairs: Vec<(u32, u32)>,
    /// Parameters that are only read, and that nothing written shares memory with.
    pub read_only: Vec<bool>,
}

impl Sharing {
    /// Of a kernel on the given buffers.
    pub fn new(program: &Program, kernel: &Kernel, args: &[BufId]) -> Result<Sharing> {
        if args.len() != kernel.params.len() {
            return Err(Error::internal(format!("{} takes {} buffers", kernel.name, kernel.params.len())));
        }
        let mut pairs = Vec::new();
        for (w, written) in kernel.params.iter().enumerate().filter(|(_, p)| p.access != Access::Read) {
            for (r, read) in kernel.params.iter().enumerate() {
                let itself = w == r && written.access == Access::ReadWrite;
                if itself || (w != r && read.access != Access::Write && share_memory(program, args[w], args[r])?) {
                    pairs.push((w as u32, r as u32));
                }
            }
        }
        let read_only = (0..kernel.params.len() as u32)
            .map(|i| kernel.params[i as usize].access == Access::Read && pairs.iter().all(|&(_, r)| r != i))
            .collect();
        Ok(Sharing { pairs, read_only })
    }

    /// True when a store to `written` changes what a load of `read` sees.
    pub fn overlap(&self, written: u32, read: u32) -> bool {
        self.pairs.contains(&(written, read))
    }
}

/// Parameters of a kernel function as C text.
pub(super) fn parameters(kernel: &Kernel, sharing: &Sharing) -> String {
    let mut out = String::new();
    for (i, p) in kernel.params.iter().enumerate() {
        let ty = memory_type(p.dtype);
        let comma = if i > 0 { ", " } else { "" };
        // Writing to a string cannot fail.
        let _ = match (p.access, sharing.read_only[i]) {
            (Access::Read, true) => write!(out, "{comma}const {ty}* __restrict__ p{i}"),
            (Access::Read, false) => write!(out, "{comma}const {ty}* p{i}"),
            _ => write!(out, "{comma}{ty}* p{i}"),
        };
    }
    out
}

/// The type that positions and addresses are computed in.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Width {
    /// 64 bits.
    pub wide: bool,
}

impl Width {
    /// For extents and index maps: 32 bits when nothing comes near 2^31, padding of `slack` points included, unless `wide`.
    pub fn of<'a>(extents: &[usize], slack: usize, maps: impl Iterator<Item = &'a Affine>, wide: bool) -> Width {
        let limit = 1i128 << 30;
        let points = extents.iter().fold(1i128, |n, &e| n.saturating_mul(e as i128)) + slack as i128;
        let reach = |a: &Affine| {
            let far = a.strides.iter().zip(extents).map(|(&s, &e)| i128::from(s).abs() * (e as i128 + slack as i128));
            i128::from(a.offset).abs() + far.sum::<i128>()
        };
        Width { wide: wide || points >= limit || maps.map(reach).any(|r| r >= limit) }
    }
    /// Signed C type.
    pub fn ty(self) -> &'static str {
        if self.wide { "long long" } else { "int" }
    }
    /// Unsigned C type.
    pub fn unsigned(self) -> &'static str {
        if self.wide { "unsigned long long" } else { "unsigned" }
    }
    /// A signed literal.
    pub fn lit(self, x: i64) -> String {
        let suffix = if self.wide { "ll" } else { "" };
        if x < 0 { format!("({x}{suffix})") } else { format!("{x}{suffix}") }
    }
    /// An unsigned literal.
    pub fn ulit(self, x: usize) -> String {
        format!("{x}{}", if self.wide { "ull" } else { "u" })
    }

    /// `offset + sum coords[i] * strides[i]`; axes without a coordinate count as 0.
    pub fn affine(self, map: &Affine, coords: &[Option<String>]) -> String {
        self.sum(map.offset, coords.iter().zip(&map.strides).filter_map(|(c, &s)| Some((c.clone()?, s))))
    }

    /// `offset + sum terms`.
    pub fn sum(self, offset: i64, terms: impl Iterator<Item = (String, i64)>) -> String {
        let mut out: Vec<String> = Vec::new();
        if offset != 0 {
            out.push(self.lit(offset));
        }
        for (c, s) in terms {
            match s {
                0 => {}
                1 => out.push(c),
                _ => out.push(format!("{c} * {}", self.lit(s))),
            }
        }
        if out.is_empty() { self.lit(0) } else { out.join(" + ") }
    }

    /// Splits the unsigned variable `flat` into coordinates `<name><axis>` of the extents, row-major; axes of extent 1
    /// have none. Lines end with a newline and begin with `indent`.
    pub fn split(self, flat: &str, extents: &[usize], name: &str, indent: &str) -> (String, Vec<Option<String>>) {
        let (mut out, mut coords) = (String::new(), vec![None; extents.len()]);
        let mut rest = flat.to_string();
        let real: Vec<usize> = (0..extents.len()).filter(|&a| extents[a] != 1).collect();
        for (n, &axis) in real.iter().enumerate().rev() {
            let (signed, unsigned, extent) = (self.ty(), self.unsigned(), self.ulit(extents[axis]));
            let var = format!("{name}{axis}");
            let _ = if n == 0 {
                writeln!(out, "{indent}const {signed} {var} = ({signed}){rest};")
            } else {
                let next = format!("{name}q{axis}");
                let _ = writeln!(out, "{indent}const {signed} {var} = ({signed})({rest} % {extent});");
                let done = writeln!(out, "{indent}const {unsigned} {next} = {rest} / {extent};");
                rest = next;
                done
            };
            coords[axis] = Some(var);
        }
        (out, coords)
    }
}

/// One element of parameter `p` as a value.
pub(super) fn load(p: &str, dtype: DType, read_only: bool, at: &str) -> String {
    let element = if read_only { format!("__ldg({p} + ({at}))") } else { format!("{p}[{at}]") };
    from_memory(dtype, &element)
}

/// A statement that stores a value.
pub(super) fn store(p: &str, dtype: DType, at: &str, value: &str) -> String {
    format!("{p}[{at}] = {};", to_memory(dtype, value))
}

/// Short names of memory types, in the names of vector helpers.
fn short(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool | DType::U8 => "u8",
        DType::I8 => "i8",
        DType::I16 => "i16",
        DType::F16 | DType::BF16 => "u16",
        DType::I32 => "i32",
        DType::F32 => "f32",
        DType::I64 => "i64",
        DType::F64 => "f64",
    }
}

/// Elements of one vector access of a dtype when `count` are wanted.
fn lanes(dtype: DType, count: usize) -> usize {
    count.min(16 / dtype.size())
}

/// Statements that load `count` consecutive elements at `at` into the array `to` (of memory type).
pub(super) fn load_vector(p: &str, dtype: DType, read_only: bool, at: &str, count: usize, to: &str) -> String {
    let n = lanes(dtype, count);
    let nc = if read_only { "_nc" } else { "" };
    (0..count / n)
        .map(|i| format!("t_ld{nc}_{}x{n}({p} + ({at}) + {}, {to} + {});", short(dtype), i * n, i * n))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Statements that store the `count` elements of the array `from` (of memory type) at `at`.
pub(super) fn store_vector(p: &str, dtype: DType, at: &str, count: usize, from: &str) -> String {
    let n = lanes(dtype, count);
    (0..count / n)
        .map(|i| format!("t_st_{}x{n}({p} + ({at}) + {}, {from} + {});", short(dtype), i * n, i * n))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The vector helpers, as (name, text).
pub(super) fn helpers() -> Vec<(String, String)> {
    let mut out = Vec::new();
    let kinds = [DType::U8, DType::I8, DType::F16, DType::I16, DType::I32, DType::F32, DType::I64, DType::F64];
    for dtype in kinds {
        for n in [2, 4, 8, 16].into_iter().filter(|n| n * dtype.size() <= 16) {
            let (s, ty) = (short(dtype), memory_type(dtype));
            let (vector, unpack, pack) = vector_code(dtype, n);
            for (nc, read) in [("", format!("*(const {vector}*)p")), ("_nc", format!("__ldg((const {vector}*)p)"))] {
                let name = format!("t_ld{nc}_{s}x{n}");
                let head = format!("static __device__ __forceinline__ void {name}(const {ty}* p, {ty}* r)");
                out.push((name, format!("{head} {{\n    const {vector} q = {read};\n{unpack}}}\n")));
            }
            let name = format!("t_st_{s}x{n}");
            let head = format!("static __device__ __forceinline__ void {name}({ty}* p, const {ty}* r)");
            out.push((name, format!("{head} {{\n    {vector} q;\n{pack}    *({vector}*)p = q;\n}}\n")));
        }
    }
    out
}

/// The vector type of `n` elements, and the statements between it (`q`) and an array (`r`).
fn vector_code(dtype: DType, n: usize) -> (&'static str, String, String) {
    let (mut unpack, mut pack) = (String::new(), String::new());
    let size = dtype.size();
    if size >= 4 {
        let vector = match (dtype, n) {
            (DType::F32, 2) => "float2",
            (DType::F32, _) => "float4",
            (DType::I32, 2) => "int2",
            (DType::I32, _) => "int4",
            (DType::F64, _) => "double2",
            _ => "longlong2",
        };
        for (i, part) in ["x", "y", "z", "w"].into_iter().enumerate().take(n) {
            let _ = writeln!(unpack, "    r[{i}] = q.{part};");
            let _ = writeln!(pack, "    q.{part} = r[{i}];");
        }
        return (vector, unpack, pack);
    }
    let ty = memory_type(dtype);
    let (vector, words): (_, &[&str]) = match n * size {
        2 => ("unsigned short", &["q"]),
        4 => ("unsigned", &["q"]),
        8 => ("uint2", &["q.x", "q.y"]),
        _ => ("uint4", &["q.x", "q.y", "q.z", "q.w"]),
    };
    let per_word = n / words.len();
    let (raw, bits) = (if size == 1 { "unsigned char" } else { "unsigned short" }, 8 * size);
    for (w, word) in words.iter().enumerate() {
        let mut sum = Vec::new();
        for e in 0..per_word {
            let (i, shift) = (w * per_word + e, e * bits);
            let _ = writeln!(unpack, "    r[{i}] = ({ty})({word} >> {shift});");
            sum.push(format!("((unsigned)({raw})r[{i}] << {shift})"));
        }
        let cast = if vector == "unsigned short" { "(unsigned short)" } else { "" };
        let _ = writeln!(pack, "    {word} = {cast}({});", sum.join(" | "));
    }
    (vector, unpack, pack)
}
