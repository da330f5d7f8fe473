//! The functions of f32 as CUDA.

use crate::text::{self, Spelling};
use torsh_ir::scalar::UnOp;

pub(super) use crate::text::is_trig;

const CUDA: Spelling = Spelling {
    int: "int",
    uint: "unsigned",
    mask: "bool",
    constant: ["__int_as_float(", ")"],
    add: "__fadd_rn($a, $b)",
    sub: "__fsub_rn($a, $b)",
    mul: "__fmul_rn($a, $b)",
    div: "__fdiv_rn($a, $b)",
    fma: "__fmaf_rn($a, $b, $c)",
    fnma: "__fmaf_rn(-$a, $b, $c)",
    sqrt: "__fsqrt_rn($a)",
    bits: "__float_as_int($a)",
    from_bits: "__int_as_float($a)",
    to_float: "__int2float_rn($a)",
};

/// A device function `t_<name>`; `None` for other operations. Sine, cosine and tangent are `t_<name>_near`.
pub(super) fn function(op: UnOp) -> Option<String> {
    let near = if is_trig(op) { "_near" } else { "" };
    text::function(&CUDA, op, &format!("static __device__ __forceinline__ float t_{}{near}", op.name()))
}
