//! The functions of f32 as C.

use crate::text::{self, Spelling};
use torsh_ir::scalar::UnOp;

pub(super) use crate::text::is_trig;

const C: Spelling = Spelling {
    int: "int32_t",
    uint: "uint32_t",
    mask: "int",
    constant: ["t_float(", "u)"],
    add: "$a + $b",
    sub: "$a - $b",
    mul: "$a * $b",
    div: "$a / $b",
    fma: "fmaf($a, $b, $c)",
    fnma: "fmaf(-$a, $b, $c)",
    sqrt: "sqrtf($a)",
    bits: "($int)t_bits($a)",
    from_bits: "t_float(($uint)$a)",
    to_float: "(float)$a",
};

/// A C function `t_<name>_f32`; `None` for other operations.
pub(super) fn function(op: UnOp) -> Option<String> {
    text::function(&C, op, &format!("T_INLINE float t_{}_f32", op.name()))
}
