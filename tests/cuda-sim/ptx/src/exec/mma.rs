//! Matrix products of a warp, with the fragment layouts of the PTX manual.
//!
//! Model: products are exact and their sum with the accumulator is taken in f64 and rounded once, so hardware, which
//! rounds sums in its own order, may differ in the last places of f32.

use super::warp::Warp;
use crate::alu::float;
use crate::inst::{MmaShape, Reg};
use crate::soft::Rnd;
use crate::ty::{Ty, sext, trunc};

/// Where an element of a fragment lies: register, lane, bit offset.
struct Place {
    reg: usize,
    lane: usize,
    shift: u32,
}

/// Element (row, column) of A, whose rows are spread over groups of four lanes.
fn place_a(s: &MmaShape, row: u32, col: u32) -> Place {
    let bits = s.a.bits();
    if s.m == 8 {
        return Place { reg: 0, lane: (row * 4 + col) as usize, shift: 0 };
    }
    // Elements that one register holds side by side.
    let per = 32 / bits;
    let width = per * 4;
    let (half, in_half) = (col / width, col % width);
    let lane = row % 8 * 4 + in_half / per;
    Place { reg: (half * 2 + row / 8) as usize, lane: lane as usize, shift: in_half % per * bits }
}

/// Element (row, column) of B, whose columns are spread over groups of four lanes.
fn place_b(s: &MmaShape, row: u32, col: u32) -> Place {
    let bits = s.b.bits();
    if s.m == 8 {
        return Place { reg: 0, lane: (col * 4 + row) as usize, shift: 0 };
    }
    let per = 32 / bits;
    let width = per * 4;
    let (half, in_half) = (row / width, row % width);
    Place { reg: half as usize, lane: (col * 4 + in_half / per) as usize, shift: in_half % per * bits }
}

/// Element (row, column) of the accumulator: two neighbours in a lane.
fn place_c(s: &MmaShape, ty: Ty, row: u32, col: u32) -> Place {
    let lane = (row % 8 * 4 + col / 2) as usize;
    if ty == Ty::F16 {
        return Place { reg: (row / 8) as usize, lane, shift: col % 2 * 16 };
    }
    let _ = s;
    Place { reg: (row / 8 * 2 + col % 2) as usize, lane, shift: 0 }
}

impl Warp {
    pub(super) fn mma(&mut self, s: &MmaShape, d: &[Reg], a: &[Reg], b: &[Reg], c: &[Reg]) {
        let get =
            |w: &Warp, regs: &[Reg], p: &Place, bits: u32| trunc(w.regs[regs[p.reg] as usize][p.lane] >> p.shift, bits);
        let mut out = vec![[0u64; 32]; d.len()];
        if s.d == Ty::S32 {
            let int = |v: u64, ty: Ty| if ty == Ty::S8 { sext(v, 8) as i64 } else { v as i64 };
            for row in 0..s.m {
                for col in 0..s.n {
                    let at = place_c(s, s.c, row, col);
                    let mut sum = sext(get(self, c, &at, 32), 32) as i64;
                    for k in 0..s.k {
                        let x = int(get(self, a, &place_a(s, row, k), 8), s.a);
                        let y = int(get(self, b, &place_b(s, k, col), 8), s.b);
                        sum += x * y;
                    }
                    let v = if s.sat { sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) } else { sum };
                    out[at.reg][at.lane] = u64::from(v as u32);
                }
            }
        } else {
            let value = |ty: Ty, v: u64| float::value(ty, v);
            let (m, n, kk) = (s.m as usize, s.n as usize, s.k as usize);
            let mut x = vec![0f64; m * kk];
            let mut y = vec![0f64; kk * n];
            for row in 0..m {
                for k in 0..kk {
                    x[row * kk + k] = value(s.a, get(self, a, &place_a(s, row as u32, k as u32), s.a.bits()));
                }
            }
            for k in 0..kk {
                for col in 0..n {
                    y[k * n + col] = value(s.b, get(self, b, &place_b(s, k as u32, col as u32), s.b.bits()));
                }
            }
            for row in 0..m {
                for col in 0..n {
                    let at = place_c(s, s.c, row as u32, col as u32);
                    let mut sum = value(s.c, get(self, c, &at, s.c.bits()));
                    for k in 0..kk {
                        let (p, q) = (x[row * kk + k], y[k * n + col]);
                        sum = if s.d == Ty::F64 { p.mul_add(q, sum) } else { sum + p * q };
                    }
                    let to = place_c(s, s.d, row as u32, col as u32);
                    out[to.reg][to.lane] |= float::encode(s.d, sum, 0.0, Rnd::Rn) << to.shift;
                }
            }
        }
        for (d, v) in d.iter().zip(&out) {
            self.put(*d, u32::MAX, v);
        }
    }
}
