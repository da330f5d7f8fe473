use super::*;
use crate::program::Program;
use crate::program::{BufDecl, BufId, LibCall, Place, Step, StepOp};
use crate::verify::examples;
use crate::{DType, Scalar, Shape, Type};

fn program() -> Program {
    let mut p = examples::program();
    let ty = Type::new(DType::F64, Shape::of(&[2]));
    let bytes: Vec<u8> = [0.5f64, f64::NAN].iter().flat_map(|x| x.to_le_bytes()).collect();
    p.buffers.push(BufDecl { ty: ty.clone(), place: Place::Const(bytes.into()) });
    p.buffers.push(BufDecl { ty, place: Place::Output });
    p.steps.push(Step {
        op: StepOp::Lib { call: LibCall::Fill(Scalar::Float(-0.0)), args: vec![], out: BufId(4) },
        ops: vec!["full"],
        loc: None,
    });
    p.outputs.push(BufId(4));
    p.stats.nodes = 300;
    p.stats.steps = vec![(1, 2), (u64::MAX, 0)];
    p.stats.fusion_notes = vec!["why".to_string()];
    p
}

#[test]
fn what_is_written_is_read_back() {
    let p = program();
    p.verify().unwrap();
    let bytes = encode(&p);
    assert_eq!(decode(&bytes).unwrap(), p);
    assert_eq!(encode(&decode(&bytes).unwrap()), bytes);
}

#[test]
fn every_part_of_a_program_is_none_and_no_byte_is_free() {
    let (p, bytes) = (program(), encode(&program()));
    for n in 0..bytes.len() {
        assert!(decode(&bytes[..n]).is_err(), "the first {n} bytes");
    }
    assert_eq!(decode(&[&bytes[..], &[0]].concat()), Err("bytes behind its end"));
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            // Whatever it is now, it is something else, and a verifier can look at it.
            if let Ok(other) = decode(&changed) {
                assert!(other != p, "byte {at}, bit {bit}");
                let _ = other.verify();
            }
        }
    }
}

#[test]
fn counts_are_held_against_what_is_there() {
    // No names, and kernels without end.
    for count in [&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0xff; 9], &[0xff; 11]] {
        assert!(decode(&[&[0], count].concat()).is_err());
    }
    let long = [&[0][..], &[0x81, 0x80, 0x40], &vec![0; 1 << 21]].concat();
    assert_eq!(decode(&long), Err("a list that is too long"));
    assert_eq!(decode(&[0x80, 0x00]), Err("a number that is not in its shortest form"));
    // One name, which is that of no op.
    assert_eq!(decode(&[1, 2, b'n', b'o']), Err("a name of no op"));
}

#[test]
fn an_id_that_leads_nowhere_is_for_the_verifier() {
    let mut p = program();
    p.steps[1].op = StepOp::Lib { call: LibCall::Copy, args: vec![BufId(77)], out: BufId(4) };
    let read = decode(&encode(&p)).unwrap();
    assert!(read.verify().unwrap_err().message().contains("b77"));
}

#[test]
fn bools_are_0_or_1() {
    let with = |byte: u8| {
        let mut p = program();
        let ty = Type::new(DType::Bool, Shape::of(&[3]));
        p.buffers.push(BufDecl { ty, place: Place::Const([0, byte, 0][..].into()) });
        p
    };
    assert_eq!(decode(&encode(&with(1))).unwrap(), with(1));
    assert_eq!(decode(&encode(&with(2))), Err("a bool that is neither 0 nor 1"));
}

#[test]
fn extents_beyond_every_tensor_are_refused() {
    let out_of_range = Err("a number out of range");
    for (n, fits) in [(MAX_EXTENT, true), (MAX_EXTENT + 1, false), (usize::MAX, false)] {
        let with = |change: &dyn Fn(&mut Program)| {
            let mut p = program();
            change(&mut p);
            let read = decode(&encode(&p));
            assert!(if fits { read == Ok(p) } else { read == out_of_range }, "{n}");
        };
        let kernel = |p: &mut Program, change: &dyn Fn(&mut crate::kernel::Kernel)| {
            let mut kernel = examples::kernel();
            change(&mut kernel);
            let args = vec![BufId(0), BufId(1), BufId(2)];
            p.steps[0].op = StepOp::Kernel { kernel: std::sync::Arc::new(kernel), args };
        };
        with(&|p| kernel(p, &|k| k.grid[0] = n));
        with(&|p| kernel(p, &|k| k.inner[0] = n));
        with(&|p| kernel(p, &|k| k.params[1].numel = n));
        // Beyond i64 it would be a negative dim, which ops take.
        with(&|p| p.steps[1].op = StepOp::Lib { call: LibCall::Take { dim: n }, args: vec![], out: BufId(4) });
    }
}
