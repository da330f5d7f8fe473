//! Every program of the op matrix becomes CUDA source that NVRTC compiles.

use torsh_codegen::cuda::{Options, generate};
use torsh_ir::op::Op;
use torsh_ir::ops;
use torsh_passes::{Options as PassOptions, compile};
use torsh_tests::cuda::batch::Batch;
use torsh_tests::cuda::{compile as nvrtc, ptx_flags};
use torsh_tests::matrix::{case, layouts};

#[test]
fn dev() {
    let only = std::env::var("ONLY").ok();
    let mut batch = Batch::default();
    let (mut failed, mut n) = (std::collections::BTreeMap::<String, usize>::new(), 0);
    for def in ops::OPS {
        if only.as_ref().is_some_and(|o| !o.split(',').any(|o| o == def.name)) {
            continue;
        }
        for dtype in def.dtypes.iter() {
            if std::env::var("DTYPES").is_ok_and(|d| !d.split(',').any(|d| d == dtype.short())) {
                continue;
            }
            for (i, sample) in (def.samples)().iter().enumerate() {
                for layout in layouts(def, i) {
                    let Ok(case) = case(Op(def), sample, dtype, *layout) else { continue };
                    let Ok(program) = compile(&case.graph, &PassOptions::default()) else { continue };
                    n += 1;
                    if std::env::var("EACH").is_ok_and(|e| n % e.parse::<usize>().unwrap() != 0) {
                        continue;
                    }
                    match generate(&program, &Options::default()) {
                        Ok(m) => batch.add(&format!("b{n}"), &m),
                        Err(e) => *failed.entry(e.to_string()).or_default() += 1,
                    }
                }
            }
        }
    }
    println!("{n} programs, {} kernels, {} bytes; {failed:#?}", batch.kernels(), batch.source().len());
    std::fs::write("/tmp/batch.cu", batch.source()).unwrap();
    let t = std::time::Instant::now();
    if std::env::var("SKIP").is_err() {
        let (code, log) =
            nvrtc(batch.source(), &ptx_flags(&Options::default()), "ptx").unwrap_or_else(|e| panic!("{e}"));
        println!("{} bytes of PTX in {:?}\n{log}", code.len(), t.elapsed());
    }
}
