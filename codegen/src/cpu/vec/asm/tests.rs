//! Encodings against those of the GNU assembler.

use super::*;

/// The bytes of what `f` writes, in hex.
fn bytes(evex: bool, f: impl FnOnce(&mut Asm)) -> String {
    let mut asm = Asm::new(evex, true);
    f(&mut asm);
    asm.code.iter().map(|b| format!("{b:02x}")).collect::<Vec<String>>().join(" ")
}

fn scaled(base: Gpr, index: Gpr, scale: u8, disp: i32) -> Rm {
    Rm::Mem(Mem { index: Some((index, scale)), ..Mem::at(base, disp) })
}

#[test]
fn evex() {
    use Width::{X, Y, Z};
    let merge = |k| Mask { k, zero: false };
    let zero = |k| Mask { k, zero: true };
    let none = Mask::default();
    type Row = (Op, Width, u8, u8, Rm, Option<u8>, Mask, &'static str);
    let rows: [Row; 22] = [
        (ADDPS, Z, 17, 30, Rm::Reg(9), None, none, "62 c1 0c 40 58 c9"),
        (SUBPS, Z, 3, 4, scaled(13, 0, 2, 64), None, zero(1), "62 d1 5c c9 5c 5c 85 01"),
        (MULPS, Z, 20, 21, Rm::Mem(Mem { splat: true, ..Mem::at(RDI, 8) }), None, none, "62 e1 54 50 59 67 02"),
        (FMADD213PS, Z, 0, 1, scaled(5, 0, 2, 0), None, none, "62 f2 75 48 a8 44 85 00"),
        (FNMADD132PS, Z, 31, 16, Rm::Reg(8), None, none, "62 42 7d 40 9c f8"),
        (MOVUPS_STORE, Z, 5, 0, scaled(11, 0, 2, 1000), None, merge(1), "62 d1 7c 49 11 ac 83 e8 03 00 00"),
        (CMPPS, Z, 3, 2, Rm::Reg(18), Some(0x11), none, "62 b1 6c 48 c2 da 11"),
        (BLENDMPS, Z, 6, 7, Rm::Reg(24), None, merge(5), "62 92 45 4d 65 f0"),
        (SHIFTD, Z, 6, 19, Rm::Reg(3), Some(23), none, "62 f1 65 40 72 f3 17"),
        (CVTPS2PH, Z, 3, 0, Rm::Reg(22), Some(0), none, "62 b3 7d 48 1d de 00"),
        (CVTPH2PS, Z, 3, 0, scaled(8, 0, 1, 32), None, none, "62 d2 7d 48 13 5c 40 01"),
        (PMOVDB, Z, 9, 0, scaled(2, 0, 0, 16), None, merge(1), "62 72 7e 49 31 4c 02 01"),
        (EXTRACTF64X4, Z, 19, 0, Rm::Reg(3), Some(1), none, "62 e3 fd 48 1b db 01"),
        (PBROADCASTD_GPR, Z, 25, 0, Rm::Reg(RSI), None, none, "62 62 7d 48 7c ce"),
        (CVTPS2PD, Z, 2, 0, Rm::Reg(3), None, merge(2), "62 f1 7c 4a 5a d3"),
        (PCMPUD, Z, 1, 3, Rm::Reg(4), Some(6), none, "62 f3 65 48 1e cc 06"),
        (SCALEFPS, Z, 1, 2, Rm::Reg(3), None, none, "62 f2 6d 48 2c cb"),
        (MOVDQU16_STORE, Y, 30, 0, scaled(1, 0, 1, 0), None, merge(1), "62 61 ff 29 7f 34 41"),
        (MOVDQU8, X, 9, 0, scaled(9, 0, 0, 0), None, zero(1), "62 51 7f 89 6f 0c 01"),
        (MOVSD_STORE, X, 19, 0, Rm::Mem(Mem::at(RAX, 0)), None, none, "62 e1 ff 08 11 18"),
        (PTESTMB, X, 2, 19, Rm::Reg(19), None, none, "62 b2 65 00 26 d3"),
        (PMOVM2B, X, 3, 0, Rm::Reg(4), None, none, "62 f2 7e 08 28 dc"),
    ];
    for (op, width, reg, vvvv, rm, imm, mask, want) in rows {
        assert_eq!(bytes(true, |a| a.masked(&op, width, reg, vvvv, rm, imm, mask)), want, "{}", op.name);
    }
}

#[test]
fn vex() {
    let rows = [
        (ADDPS, 1, 14, Rm::Reg(9), None, "c4 c1 0c 58 c9"),
        (FMADD231PS, 8, 9, scaled(12, 0, 2, 32), None, "c4 42 35 b8 44 84 20"),
        (BLENDVPS, 1, 2, Rm::Reg(9), Some(12 << 4), "c4 c3 6d 4a c9 c0"),
        (SHIFTD, 4, 4, Rm::Reg(11), Some(16), "c4 c1 5d 72 e3 10"),
        (PMOVZXBD, 2, 0, scaled(3, 0, 0, 8), None, "c4 e2 7d 31 54 03 08"),
    ];
    for (op, reg, vvvv, rm, imm, want) in rows {
        assert_eq!(bytes(false, |a| a.v(&op, Width::Y, reg, vvvv, rm, imm)), want, "{}", op.name);
    }
}

#[test]
fn masks_and_general_registers() {
    type Write = fn(&mut Asm);
    let rows: [(Write, &str); 29] = [
        (|a| a.k(KOp::And, 2, 3, 4), "c5 e4 41 d4"),
        (|a| a.k(KOp::OrTest, 5, 0, 5), "c5 f8 98 ed"),
        (|a| a.k_memory(3, RDI, 256, false), "c5 f8 90 9f 00 01 00 00"),
        (|a| a.k_memory(3, RDI, 8, true), "c5 f8 91 5f 08"),
        (|a| a.k_shift_right_8(2, 1), "c4 e3 f9 30 d1 08"),
        (|a| a.load(R8, Mem::at(RDI, 8)), "4c 8b 47 08"),
        (|a| a.load(15, Mem::at(RDI, 1024)), "4c 8b bf 00 04 00 00"),
        (|a| a.add(RAX, 64), "48 83 c0 40"),
        (|a| a.sub(RSI, 512), "48 81 ee 00 02 00 00"),
        (|a| a.compare(RSI, 16), "48 83 fe 10"),
        (|a| a.test(RSI), "48 85 f6"),
        (|a| a.push(12), "41 54"),
        (|a| a.pop(RBX), "5b"),
        (|a| a.lea(R8, Mem { index: Some((RAX, 1)), ..Mem::at(R8, 0) }), "4d 8d 04 40"),
        (|a| a.load_element(R9, Mem { index: Some((RCX, 0)), ..Mem::at(R8, 0) }, 1), "45 0f b6 0c 08"),
        (|a| a.store_element(Mem { index: Some((RCX, 1)), ..Mem::at(RDI, 128) }, R9, 2), "66 44 89 8c 4f 80 00 00 00"),
        (|a| a.store_element(Mem { index: Some((RCX, 0)), ..Mem::at(RDI, 128) }, R9, 1), "44 88 8c 0f 80 00 00 00"),
        (|a| a.store_word(Mem::at(RAX, 0), 0x7fc0_0000), "c7 00 00 00 c0 7f"),
        (|a| a.store_byte(Mem::at(RAX, 0), 1), "c6 00 01"),
        (|a| a.compare_registers(RCX, RSI), "48 3b ce"),
        (|a| a.clear(RAX), "33 c0"),
        (|a| a.double(RCX), "03 c9"),
        (|a| a.sub_word(RCX, 0x5700_0000), "81 e9 00 00 00 57"),
        (|a| a.compare_word(RCX, 0x5000_0000), "81 f9 00 00 00 50"),
        (|a| a.set_word(RAX, 0x7fc0_0000), "c7 c0 00 00 c0 7f"),
        (|a| a.word_from_vector(RAX, 0), "c4 e1 79 7e c0"),
        (|a| a.prefetch(Mem { index: Some((RAX, 2)), ..Mem::at(10, 512) }), "41 0f 18 94 82 00 02 00 00"),
        (|a| a.zero_upper(), "c5 f8 77"),
        (|a| a.ret(), "c3"),
    ];
    for (write, want) in rows {
        assert_eq!(bytes(false, write), want);
    }
}

#[test]
fn jumps_and_constants_find_their_targets() {
    let mut asm = Asm::new(true, false);
    let (head, exit) = (asm.label(), asm.label());
    asm.bind(head);
    let at = asm.constant(&1f32.to_le_bytes());
    assert_eq!(asm.constant(&1f32.to_le_bytes()), at);
    let pool = Rm::Mem(Mem { base: Base::Pool, index: None, disp: at, splat: true });
    asm.v(&CMPPS, Width::Z, 1, 0, pool, Some(1));
    asm.jump_if(Cond::Zero, exit);
    asm.jump_if(Cond::Below, head);
    asm.bind(exit);
    asm.ret();
    let (code, _) = asm.finish();
    assert_eq!(code.len(), 68);
    assert_eq!(code[64..], 1f32.to_le_bytes());
    // The displacement counts from the end of the instruction, behind its immediate.
    assert_eq!(code[..11], [0x62, 0xf1, 0x7c, 0x58, 0xc2, 0x0d, 53, 0, 0, 0, 1]);
    assert_eq!(code[11..17], [0x0f, 0x84, 6, 0, 0, 0]);
    assert_eq!(code[17..23], [0x0f, 0x82, 0xe9, 0xff, 0xff, 0xff]);
}
