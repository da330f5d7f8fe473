//! Matrix products of a warp, with the fragment layouts of the PTX manual.
//!
//! Model: products are exact and their sum with the accumulator is taken in f64 and rounded once, so hardware, which
//! rounds sums in its own order, may differ in the last places of f32.

use super::warp::Warp;
use crate::alu::float;
use crate::inst::{Lanes, MmaPlan, MmaShape, Place, Reg};
use crate::soft::Rnd;
use crate::ty::{Ty, sext, trunc};

fn at(reg: u32, lane: u32, shift: u32) -> Place {
    Place { reg: reg as u8, lane: lane as u8, shift: shift as u8 }
}

/// Element (row, column) of A, whose rows are spread over groups of four lanes.
fn place_a(s: &MmaShape, row: u32, col: u32) -> Place {
    let bits = s.a.bits();
    if s.m == 8 {
        return at(0, row * 4 + col, 0);
    }
    // Elements that one register holds side by side.
    let per = 32 / bits;
    let (part, inside) = (col / (per * 4), col % (per * 4));
    at(part * 2 + row / 8, row % 8 * 4 + inside / per, inside % per * bits)
}

/// Element (row, column) of B, whose columns are spread over groups of four lanes.
fn place_b(s: &MmaShape, row: u32, col: u32) -> Place {
    let bits = s.b.bits();
    if s.m == 8 {
        return at(0, col * 4 + row, 0);
    }
    let per = 32 / bits;
    let (part, inside) = (row / (per * 4), row % (per * 4));
    at(part, col * 4 + inside / per, inside % per * bits)
}

/// Element (row, column) of an accumulator: two neighbours in a lane.
fn place_c(ty: Ty, row: u32, col: u32) -> Place {
    let lane = row % 8 * 4 + col / 2;
    if ty == Ty::F16 { at(row / 8, lane, col % 2 * 16) } else { at(row / 8 * 2 + col % 2, lane, 0) }
}

/// Finds all places once, when the instruction is decoded.
pub(crate) fn plan(shape: MmaShape) -> MmaPlan {
    let all = |rows: u32, cols: u32, f: &dyn Fn(u32, u32) -> Place| {
        (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c))).map(|(r, c)| f(r, c)).collect()
    };
    let s = &shape;
    MmaPlan {
        a: all(s.m, s.k, &|r, c| place_a(s, r, c)),
        b: all(s.k, s.n, &|r, c| place_b(s, r, c)),
        c: all(s.m, s.n, &|r, c| place_c(s.c, r, c)),
        d: all(s.m, s.n, &|r, c| place_c(s.d, r, c)),
        shape,
    }
}

impl Warp {
    /// The elements of a fragment, each through a function.
    fn fragment<T>(&self, regs: &[Reg], places: &[Place], bits: u32, f: impl Fn(u64) -> T) -> Vec<T> {
        let raw = |p: &Place| self.regs[regs[p.reg as usize] as usize][p.lane as usize] >> p.shift;
        places.iter().map(|p| f(trunc(raw(p), bits))).collect()
    }

    pub(super) fn mma(&mut self, p: &MmaPlan, d: &[Reg], a: &[Reg], b: &[Reg], c: &[Reg]) {
        let s = &p.shape;
        let (m, n, k) = (s.m as usize, s.n as usize, s.k as usize);
        let mut out: Vec<Lanes> = vec![[0; 32]; d.len()];
        let mut put = |i: usize, v: u64| {
            let to = p.d[i];
            out[to.reg as usize][to.lane as usize] |= v << to.shift;
        };
        if s.d == Ty::S32 {
            let int = |ty: Ty| move |v: u64| if ty == Ty::S8 { sext(v, 8) as i64 } else { v as i64 };
            let x = self.fragment(a, &p.a, 8, int(s.a));
            let y = self.fragment(b, &p.b, 8, int(s.b));
            let z = self.fragment(c, &p.c, 32, |v| sext(v, 32) as i64);
            for (i, start) in z.iter().enumerate() {
                let (row, col) = (i / n, i % n);
                let sum: i64 = start + (0..k).map(|t| x[row * k + t] * y[t * n + col]).sum::<i64>();
                let v = if s.sat { sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) } else { sum };
                put(i, u64::from(v as u32));
            }
        } else {
            let value = |ty: Ty| move |v: u64| float::value(ty, v);
            let x = self.fragment(a, &p.a, s.a.bits(), value(s.a));
            let y = self.fragment(b, &p.b, s.b.bits(), value(s.b));
            let mut z = self.fragment(c, &p.c, s.c.bits(), value(s.c));
            for row in 0..m {
                let sums = &mut z[row * n..(row + 1) * n];
                for t in 0..k {
                    let u = x[row * k + t];
                    for (sum, v) in sums.iter_mut().zip(&y[t * n..(t + 1) * n]) {
                        // f64 products need the fused step; all others are exact.
                        *sum = if s.d == Ty::F64 { u.mul_add(*v, *sum) } else { *sum + u * v };
                    }
                }
            }
            for (i, sum) in z.iter().enumerate() {
                put(i, float::encode(s.d, *sum, 0.0, Rnd::Rn));
            }
        }
        for (d, v) in d.iter().zip(&out) {
            self.put(*d, u32::MAX, v);
        }
    }
}
