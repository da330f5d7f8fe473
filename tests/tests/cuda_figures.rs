//! What launches cost in figures that need no hardware: sectors of global memory over the least possible, passes over
//! banks of shared memory beyond the least possible, bytes moved over the least possible, local memory.

use torsh_codegen::cuda::{Options, generate};
use torsh_ir::DType;
use torsh_ptx_sim::Module;
use torsh_tests::cuda::batch::Batch;
use torsh_tests::cuda::shapes::Shapes;
use torsh_tests::cuda::sim::{Loaded, Run};
use torsh_tests::cuda::{compile, nvrtc, passes, ptx_flags};

/// Checks every case that `wanted` names: `(name, sectors, conflicts, bytes)` at most.
fn check(shapes: Shapes, wanted: &[(&str, f64, f64, f64)]) {
    if nvrtc().is_none() {
        return;
    }
    let options = Options::default();
    let mut worse = Vec::new();
    for &(name, sectors, conflicts, bytes) in wanted {
        let found = shapes.cases.iter().find(|(n, _)| n.starts_with(name));
        let (_, case) = found.unwrap_or_else(|| panic!("no case {name}"));
        let program = torsh_passes::compile(&case.graph, &passes()).unwrap_or_else(|e| panic!("{e}"));
        let plan = generate(&program, &options).unwrap_or_else(|e| panic!("{e}"));
        let mut batch = Batch::default();
        batch.add("b", &plan);
        let (code, _) = compile(batch.source(), &ptx_flags(&options), "ptx").unwrap_or_else(|e| panic!("{e}"));
        let code = Module::parse(&String::from_utf8_lossy(&code)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let loaded = Loaded { program: &program, plan: &plan, code: &code, name: "b" };
        let run = Run { reversed: false, races: false, budget: None };
        let (_, r) = loaded.measure(&case.inputs, run).unwrap_or_else(|e| panic!("{name}: {e}"));
        let outputs = program.outputs.iter().map(|o| program.buffers[o.0 as usize].ty.nbytes());
        let least: usize = case.inputs.iter().map(|t| t.ty.nbytes()).chain(outputs).sum();
        let moved = r.global_bytes() as f64 / least as f64;
        let good = r.sectors_over_ideal() <= sectors && r.conflicts_per_request() <= conflicts && moved <= bytes;
        if !good || r.local_bytes > 0 {
            worse.push(format!(
                "{name}: sectors {:.3}, conflicts {:.3}, bytes {moved:.3}, local {}",
                r.sectors_over_ideal(),
                r.conflicts_per_request(),
                r.local_bytes
            ));
        }
    }
    assert!(worse.is_empty(), "{}", worse.join("\n"));
}

#[test]
fn rows_and_maps_move_what_they_must() {
    let mut s = Shapes::default();
    s.rows(DType::F32, 64, 1024);
    s.rows(DType::F32, 10, 4096);
    s.layouts(DType::F32);
    check(
        s,
        &[
            ("softmax 64x1024", 1.001, 0.0, 1.001),
            ("softmax 10x4096", 1.001, 0.0, 1.001),
            ("argmax 64x1024", 1.001, 0.0, 1.001),
            // Scale and shift are read by every row.
            ("layer_norm 64x1024", 1.001, 0.0, 2.0),
            ("map", 1.001, 0.0, 1.001),
            ("broadcast map", 1.01, 0.0, 1.7),
            // Rows of 66 and 70 elements begin anywhere in a sector.
            ("transposes", 1.25, 0.0, 1.001),
        ],
    );
}

#[test]
fn products_meet_no_bank_twice() {
    let mut s = Shapes::default();
    s.products(DType::F32, [256, 256, 64]);
    check(s, &[("dot 256", 1.001, 0.1, 2.01), ("dot of transposed 256", 1.001, 0.1, 2.01)]);
    let mut s = Shapes::default();
    s.products(DType::BF16, [256, 256, 64]);
    // Results go out in pieces of 16 bytes.
    check(s, &[("dot 256", 1.4, 0.0, 2.01), ("dot of transposed 256", 1.4, 0.0, 2.01)]);
}

#[test]
fn attention_of_tensor_cores_meets_no_bank_twice() {
    for (dtype, size) in [(DType::BF16, 64), (DType::F16, 128)] {
        let mut s = Shapes::default();
        s.half_attention(dtype, [128, 128, size, size]);
        // Two blocks of queries read each key and value once, from sectors that are whole: with queries and results, six
        // times a matrix instead of four.
        check(s, &[("all half attention", 1.001, 0.1, 1.501), ("causal half attention", 1.001, 0.1, 1.501)]);
    }
}
