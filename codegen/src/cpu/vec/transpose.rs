//! Transposes of square blocks of 32-bit elements in registers.

use super::Level;
use super::asm::{self, Asm, Base, Cond, Mem, R8, R9, RAX, RBX, RCX, RDI, RSI, Rm, Width};
use super::emit::Code;

const RDX: u8 = 2;
const R10: u8 = 10;
const R11: u8 = 11;

/// The function that reads `n` rows of blocks of `L x L` elements below each other and writes their transposes beside
/// each other, `L` being the level's lanes. Its area holds the address of the first block, that of the first
/// result, the bytes from one row to the next in the former (in the latter they are `row_bytes`), and how many blocks
/// stand in a row, not 0. Blocks of a row are read one after the other: they share what the processor fetches.
pub(in crate::cpu) fn transpose(level: Level, row_bytes: i32, listing: bool) -> Code {
    let wide = level == Level::Avx512;
    let width = if wide { Width::Z } else { Width::Y };
    let lanes = level.lanes() as u8;
    let mut a = Asm::new(wide, listing);
    a.push(RBX);
    for (r, slot) in [(RCX, 0), (R8, 1), (R10, 2), (RBX, 3)] {
        a.load(r, Mem::at(RDI, 8 * slot));
    }
    a.lea(R11, Mem { index: Some((R10, 1)), ..Mem::at(R10, 0) });
    let (head, block, done) = (a.label(), a.label(), a.label());
    a.test(RSI);
    a.jump_if(Cond::Zero, done);
    a.bind(head);
    // The next row of blocks, the blocks of this one that are left, and the place of the next result.
    a.lea(RDX, Mem { index: Some((R10, 3)), ..Mem::at(RCX, 0) });
    if wide {
        a.lea(RDX, Mem { index: Some((R10, 3)), ..Mem::at(RDX, 0) });
    }
    a.lea(RDI, Mem::at(RBX, 0));
    a.lea(R9, Mem::at(R8, 0));
    a.bind(block);
    a.lea(RAX, Mem::at(RCX, 0));
    for row in 0..lanes {
        let index = match row % 4 {
            0 => None,
            1 => Some((R10, 0)),
            2 => Some((R10, 1)),
            _ => Some((R11, 0)),
        };
        let at = Mem { base: Base::Gpr(RAX), index, disp: 0, splat: false };
        a.v(&asm::MOVUPS, width, row, 0, Rm::Mem(at), None);
        if row % 4 == 3 {
            a.lea(RAX, Mem { index: Some((R10, 2)), ..Mem::at(RAX, 0) });
        }
    }
    // Pairs of rows, then fours: register 4 g + c holds, in its 128-bit part p, column 4 p + c of the rows
    // 4 g to 4 g + 3.
    let t = lanes;
    for pair in (0..lanes).step_by(2) {
        a.v(&asm::UNPCKLPS, width, t + pair, pair, Rm::Reg(pair + 1), None);
        a.v(&asm::UNPCKHPS, width, t + pair + 1, pair, Rm::Reg(pair + 1), None);
    }
    for g in (0..lanes).step_by(4) {
        let from = t + g;
        a.v(&asm::UNPCKLPD, width, g, from, Rm::Reg(from + 2), None);
        a.v(&asm::UNPCKHPD, width, g + 1, from, Rm::Reg(from + 2), None);
        a.v(&asm::UNPCKLPD, width, g + 2, from + 1, Rm::Reg(from + 3), None);
        a.v(&asm::UNPCKHPD, width, g + 3, from + 1, Rm::Reg(from + 3), None);
    }
    let store = |a: &mut Asm, r: u8, row: u8| {
        a.v(&asm::MOVUPS_STORE, width, r, 0, Rm::Mem(Mem::at(R9, row_bytes * i32::from(row))), None);
    };
    for c in 0..4 {
        if !wide {
            a.v(&asm::PERM2F128, width, t, c, Rm::Reg(4 + c), Some(0x20));
            a.v(&asm::PERM2F128, width, t + 1, c, Rm::Reg(4 + c), Some(0x31));
            store(&mut a, t, c);
            store(&mut a, t + 1, c + 4);
            continue;
        }
        // Even parts of the upper and the lower eight rows, then odd ones.
        for (i, parts) in [0x88, 0xdd].into_iter().enumerate() {
            let i = i as u8;
            a.v(&asm::SHUFF32X4, width, t, c, Rm::Reg(4 + c), Some(parts));
            a.v(&asm::SHUFF32X4, width, t + 1, 8 + c, Rm::Reg(12 + c), Some(parts));
            a.v(&asm::SHUFF32X4, width, t + 2, t, Rm::Reg(t + 1), Some(0x88));
            a.v(&asm::SHUFF32X4, width, t + 3, t, Rm::Reg(t + 1), Some(0xdd));
            store(&mut a, t + 2, 4 * i + c);
            store(&mut a, t + 3, 4 * i + c + 8);
        }
    }
    a.add(RCX, width.bytes());
    a.add(R9, row_bytes * i32::from(lanes));
    a.sub(RDI, 1);
    a.test(RDI);
    a.jump_if(Cond::NotZero, block);
    a.lea(RCX, Mem::at(RDX, 0));
    a.add(R8, width.bytes());
    a.sub(RSI, 1);
    a.test(RSI);
    a.jump_if(Cond::NotZero, head);
    a.bind(done);
    a.zero_upper();
    a.pop(RBX);
    a.ret();
    let (bytes, text) = a.finish();
    Code { bytes, area: 64, text }
}
