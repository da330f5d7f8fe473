//! `philox`: counter-based random bits.

use super::{binary, elementwise_shapes, same_types};
use crate::dtype::DType;
use crate::op::{DTypeSet, Gen, OpDef, Sample, Surface, Values, Vjp};
use crate::scalar::BinOp;
use crate::shape::Type;

/// The op.
pub static DEF: OpDef = OpDef {
    doc: "Elementwise 32 random bits: word `counter & 3` of Philox4x32-10 with key `seed` and counter block `counter >> 2` (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3, SC'11). The same seed and counter give the same bits everywhere.\n\n>>> _ = torsh.manual_seed(0); a = torsh.rand(3); _ = torsh.manual_seed(0); bool((a == torsh.rand(3)).all())\nTrue",
    dtypes: DTypeSet::of(&[DType::I64]),
    infer: |x, attrs| Ok(Type::new(DType::I32, same_types(x, attrs)?.shape)),
    vjp: Vjp::None("random bits are integers"),
    surface: Surface::Hidden,
    samples: || {
        let pair = |d: &[usize], v: Values| Sample::new(vec![Gen::of(d, v.clone()), Gen::of(d, v)]).no_grad();
        let mut s: Vec<_> = elementwise_shapes().iter().map(|d| pair(d, Values::Index(1 << 20))).collect();
        s.push(pair(&[67], Values::Special));
        s
    },
    ..binary("philox", BinOp::Philox)
};
