//! Steps that run together give the bits that they give one by one, on any number of threads.

use std::sync::Arc;
use torsh_ir::Graph;
use torsh_ir::exec::{BufferRef, Executor, StepDetail};
use torsh_ir::interp::{HostTensor, run_program};
use torsh_ir::program::Program;
use torsh_ir::text::parse;
use torsh_passes::{Options, compile};
use torsh_runtime::{Config, CpuExecutor, Prologues};
use torsh_tests::values::Rng;

/// Joins whatever can be joined, however small.
fn executor(threads: usize, separate: bool) -> CpuExecutor {
    let config = Config { threads: Some(threads), separate, prologues: Prologues::All, ..Config::default() };
    CpuExecutor::with_config(&config).expect("an executor")
}

fn inputs(graph: &Graph) -> Vec<HostTensor> {
    let mut rng = Rng::new(3);
    let value = |rng: &mut Rng| torsh_ir::Scalar::Float(rng.normal());
    graph
        .input_types()
        .into_iter()
        .map(|ty| HostTensor::from_fn(ty.clone(), |_| value(&mut rng).to_dtype(ty.dtype)))
        .collect()
}

fn run(exec: &CpuExecutor, program: &Program, inputs: &[HostTensor]) -> (Vec<Vec<u8>>, Vec<StepDetail>) {
    let exe = exec.load(Arc::new(program.clone())).expect("it loads");
    let buffers: Vec<BufferRef> =
        inputs.iter().map(|t| exec.upload(&t.ty, &t.to_bytes()).expect("an upload")).collect();
    // With buffers that are held, again with operands that may have been packed meanwhile, and with buffers given up.
    let go = |mut buffers: Vec<BufferRef>| -> Vec<Vec<u8>> {
        let out = exe.run(&mut buffers).expect("it runs");
        out.iter().map(|b| b.host_bytes().expect("host memory").to_vec()).collect()
    };
    let first = go(buffers.clone());
    for _ in 0..2 {
        assert!(go(buffers.clone()) == first, "another run gives other bits");
    }
    let last = go(buffers);
    assert!(last == first, "a run in place gives other bits");
    (last, exe.details())
}

/// Compiles, runs together and apart on one to three threads, and returns the kinds of the units, a letter a step:
/// `p` for what makes the rows of a product, `c` for the rest of a chain, `r` for a region, `.` for a step by itself.
fn check(text: &str, donate: &[(usize, usize)]) -> String {
    let mut kinds = kinds(text, donate);
    kinds.dedup();
    assert!(kinds.len() == 1, "one kind on each number of threads: {kinds:?}");
    kinds.remove(0)
}

/// The same, for each number of threads.
fn kinds(text: &str, donate: &[(usize, usize)]) -> Vec<String> {
    let graph = parse(text).expect("a graph");
    let options = Options { donate: donate.to_vec(), fusion: true, verify: true, ..Options::default() };
    let program = compile(&graph, &options).expect("a program");
    let inputs = inputs(&graph);
    let meaning = run_program(&program, &inputs).expect("the interpreter runs it");
    let (want, _) = run(&executor(1, true), &program, &inputs);
    let mut kinds = Vec::new();
    for threads in 1..=3 {
        let (apart, single) = run(&executor(threads, true), &program, &inputs);
        assert!(single.iter().all(|d| d.together == "step"));
        let (got, details) = run(&executor(threads, false), &program, &inputs);
        assert!(
            apart == want && got == want,
            "{threads} threads give other bits\n{}",
            torsh_ir::text::program(&program)
        );
        let mut now = String::new();
        for d in &details {
            now.push(match d.together {
                "prologue" => 'p',
                "chain" => 'c',
                "region" => 'r',
                _ => '.',
            });
        }
        kinds.push(now);
    }
    for (m, g) in meaning.iter().zip(&want) {
        let got = HostTensor::from_bytes(m.ty.clone(), g).expect("bytes of its type");
        for i in 0..m.len() {
            let (a, b) = (m.get(i).as_f64(), got.get(i).as_f64());
            assert!((a - b).abs() <= 1e-3 * a.abs().max(1.0), "{a} and {b}");
        }
    }
    kinds
}

#[test]
fn bias_and_activation_follow_the_rows_of_their_product() {
    let text = "graph {
  %0: f32[200, 64] = input(index=0)
  %1: f32[64, 96] = input(index=1)
  %2: f32[96] = input(index=2)
  %3: f32[200, 96] = dot_general(%0, %1, lhs_batch=[], rhs_batch=[], lhs_contract=[1], rhs_contract=[0])
  %4: f32[1, 96] = reshape(%2)
  %5: f32[200, 96] = expand(%4)
  %6: f32[200, 96] = add(%3, %5)
  %7: f32[200, 96] = gelu(%6)
  return %7
}";
    assert_eq!(check(text, &[]), "cc");
}

#[test]
fn a_softmax_follows_the_rows_of_a_batched_product() {
    let text = "graph {
  %0: f32[2, 3, 64, 32] = input(index=0)
  %1: f32[2, 3, 32, 64] = input(index=1)
  %2: f32[64, 64] = input(index=2)
  %3: f32[2, 3, 64, 64] = dot_general(%0, %1, lhs_batch=[0, 1], rhs_batch=[0, 1], lhs_contract=[3], rhs_contract=[2])
  %4: f32[1, 1, 64, 64] = reshape(%2)
  %5: f32[2, 3, 64, 64] = expand(%4)
  %6: f32[2, 3, 64, 64] = add(%3, %5)
  %7: f32[2, 3, 64, 64] = softmax(%6, dim=3)
  return %7
}";
    assert_eq!(check(text, &[]), "cc");
}

#[test]
fn an_update_of_a_weight_follows_the_rows_of_its_gradient() {
    // The weight is overwritten in place while later rows of its gradient are still to come.
    let text = "graph {
  %0: f32[64, 128] = input(index=0)
  %1: f32[64, 96] = input(index=1)
  %2: f32[96, 128] = input(index=2)
  %3: f32[128, 96] = dot_general(%0, %1, lhs_batch=[], rhs_batch=[], lhs_contract=[0], rhs_contract=[0])
  %4: f32[96, 128] = permute(%3, dims=[1, 0])
  %5: f32[96, 128] = sub(%2, %4)
  return %5
}";
    assert_eq!(check(text, &[(2, 0)]), "cc");
}

#[test]
fn what_the_product_reads_is_not_overwritten_early() {
    // The update of the weight that the product reads must wait for all of its rows.
    let text = "graph {
  %0: f32[96, 96] = input(index=0)
  %1: f32[96, 96] = input(index=1)
  %2: f32[96, 96] = dot_general(%0, %1, lhs_batch=[], rhs_batch=[], lhs_contract=[1], rhs_contract=[0])
  %3: f32[96, 96] = sub(%1, %2)
  return %3
}";
    assert_eq!(check(text, &[(1, 0)]), "..");
}

#[test]
fn a_kernel_that_crosses_rows_waits() {
    for user in ["permute(%2, dims=[1, 0])", "flip(%2, dims=[0])"] {
        let text = format!(
            "graph {{
  %0: f32[96, 80] = input(index=0)
  %1: f32[80, 96] = input(index=1)
  %5: f32[96, 96] = input(index=2)
  %2: f32[96, 96] = dot_general(%0, %1, lhs_batch=[], rhs_batch=[], lhs_contract=[1], rhs_contract=[0])
  %3: f32[96, 96] = {user}
  %6: f32[96, 96] = add(%3, %2)
  %4: f32[96, 96] = mul(%6, %5)
  return %4
}}"
        );
        assert_eq!(check(&text, &[]), "..", "{user}");
    }
}

#[test]
fn column_sums_of_a_product_wait_for_all_rows() {
    let text = "graph {
  %0: f32[96, 80] = input(index=0)
  %1: f32[80, 96] = input(index=1)
  %2: f32[96, 96] = dot_general(%0, %1, lhs_batch=[], rhs_batch=[], lhs_contract=[1], rhs_contract=[0])
  %3: f32[1, 96] = sum(%2, dims=[0])
  return %3
}";
    assert_eq!(check(text, &[]), "..");
}

#[test]
fn independent_kernels_share_a_region() {
    let text = "graph {
  %0: f32[40000] = input(index=0)
  %1: f32[50001] = input(index=1)
  %2: f32[300, 7] = input(index=2)
  %3: f32[40000] = exp(%0)
  %4: f32[50001] = tanh(%1)
  %5: f32[300, 7] = softmax(%2, dim=1)
  return %3, %4, %5
}";
    assert_eq!(check(text, &[]), "rrr");
}

#[test]
fn kernels_that_differ_in_length_share_their_code() {
    let program = |sizes: &[usize]| {
        let mut text = "graph {\n".to_string();
        for (i, n) in sizes.iter().enumerate() {
            text += &format!("  %{i}: f32[{n}] = input(index={i})\n");
        }
        for (i, n) in sizes.iter().enumerate() {
            text += &format!("  %{}: f32[{n}] = tanh(%{i})\n", sizes.len() + i);
        }
        let outputs: Vec<String> = (0..sizes.len()).map(|i| format!("%{}", sizes.len() + i)).collect();
        text += &format!("  return {}\n}}", outputs.join(", "));
        let graph = parse(&text).expect("a graph");
        (compile(&graph, &Options { fusion: true, verify: true, ..Options::default() }).expect("a program"), graph)
    };
    let exec = executor(2, false);
    let bytes = |sizes: &[usize]| exec.load(Arc::new(program(sizes).0)).expect("it loads").code_bytes();
    assert_eq!(bytes(&[70_000]), bytes(&[5_000, 70_000, 9_999]));
    // Each length is computed to its own end and no further.
    let (together, graph) = program(&[5_000, 70_000, 9_999]);
    let inputs = inputs(&graph);
    let (got, _) = run(&exec, &together, &inputs);
    for (i, n) in [5_000, 70_000, 9_999].into_iter().enumerate() {
        let (alone, _) = run(&exec, &program(&[n]).0, &inputs[i..=i]);
        assert_eq!(got[i], alone[0]);
    }
}

/// A product behind `body`, which names its left operand `%9` and has inputs 0 to 2 before it.
fn behind(m: usize, k: usize, n: usize, dtype: &str, body: &str, results: &str) -> String {
    format!(
        "graph {{
  %0: {dtype}[{m}, {k}] = input(index=0)
  %1: {dtype}[{k}, {n}] = input(index=1)
  %2: {dtype}[{k}] = input(index=2)
{body}
  %10: {dtype}[{m}, {n}] = dot_general(%9, %1, lhs_batch=[], rhs_batch=[], lhs_contract=[1], rhs_contract=[0])
{results}
}}"
    )
}

#[test]
fn a_map_or_a_row_kernel_makes_the_rows_of_a_product() {
    for (dtype, op) in
        [("f32", "relu(%0)"), ("f16", "exp(%0)"), ("f64", "softmax(%0, dim=1)"), ("f32", "softmax(%0, dim=1)")]
    {
        let body = format!("  %9: {dtype}[201, 70] = {op}");
        assert_eq!(check(&behind(201, 70, 96, dtype, &body, "  return %10"), &[]), "pc", "{dtype} {op}");
        let on = format!("  %11: {dtype}[201, 96] = tanh(%10)\n  return %11");
        assert_eq!(check(&behind(201, 70, 96, dtype, &body, &on), &[]), "pcc", "{dtype} {op}");
    }
}

#[test]
fn a_kernel_makes_the_matrices_of_a_batched_product() {
    let text = "graph {
  %0: f32[2, 3, 64, 32] = input(index=0)
  %1: f32[2, 3, 32, 40] = input(index=1)
  %2: f32[2, 3, 64, 32] = softmax(%0, dim=3)
  %3: f32[2, 3, 64, 40] = dot_general(%2, %1, lhs_batch=[0, 1], rhs_batch=[0, 1], lhs_contract=[3], rhs_contract=[2])
  return %3
}";
    assert_eq!(check(text, &[]), "pc");
}

#[test]
fn rows_are_made_from_memory_that_the_result_takes() {
    // Row by row the input is read before the result is written over it.
    let body = "  %9: f32[96, 96] = relu(%0)";
    assert_eq!(check(&behind(96, 96, 96, "f32", body, "  return %10"), &[(0, 0)]), "pc");
    // The first rows are made from the last ones, which the result must not have overwritten by then.
    let body = "  %8: f32[96, 96] = flip(%0, dims=[0])\n  %9: f32[96, 96] = relu(%8)";
    assert_eq!(check(&behind(96, 96, 96, "f32", body, "  return %10"), &[(0, 0)]), "..");
    assert_eq!(check(&behind(96, 96, 96, "f32", body, "  return %10"), &[]), "pc");
}

#[test]
fn a_kernel_that_makes_more_than_the_rows_writes_the_rest_to_memory() {
    let body = "  %8: f32[96, 64] = exp(%0)\n  %9: f32[96, 64] = sin(%8)";
    assert_eq!(check(&behind(96, 64, 48, "f32", body, "  return %10, %8"), &[]), "pc");
    assert_eq!(check(&behind(96, 64, 48, "f32", body, "  return %10, %8"), &[(0, 1)]), "pc");
}

#[test]
fn what_others_read_is_kept() {
    let body = "  %9: f32[96, 64] = exp(%0)";
    // Returned; read by another product; added to the result; folded over its columns.
    assert_eq!(check(&behind(96, 64, 48, "f32", body, "  return %10, %9"), &[]), "..");
    let twice =
        "  %11: f32[96, 96] = dot_general(%9, %9, lhs_batch=[], rhs_batch=[], lhs_contract=[1], rhs_contract=[1])
  return %10, %11";
    assert_eq!(check(&behind(96, 64, 48, "f32", body, twice), &[]), "...");
    let added = "  %11: f32[96, 64] = add(%9, %10)\n  return %11";
    assert_eq!(check(&behind(96, 64, 64, "f32", body, added), &[]), ".cc");
    let later = "  %11: f32[96, 64] = flip(%9, dims=[0, 1])
  %12: f32[64, 64] = dot_general(%11, %10, lhs_batch=[], rhs_batch=[], lhs_contract=[0], rhs_contract=[0])
  return %12";
    assert!(!check(&behind(96, 64, 64, "f32", body, later), &[]).contains('p'));
    // A part is overwritten, the rest is read.
    let part = "  %11: f32[90, 64] = slice(%9, starts=[6, 0], stops=[96, 64], steps=[1, 1])
  %12: f32[6, 64] = slice(%10, starts=[0, 0], stops=[6, 64], steps=[1, 1])
  %13: f32[96, 64] = concat(%12, %11, dim=0)
  return %10, %13";
    assert!(!check(&behind(96, 64, 64, "f32", body, part), &[]).contains('p'));
}

#[test]
fn an_operand_that_does_not_lie_row_by_row_is_made_before() {
    let text = |op: &str, dims: &str, m: usize, contract: usize| {
        format!(
            "graph {{
  %0: f32[96, 80] = input(index=0)
  %1: f32[{}, 40] = input(index=1)
  %2: f32[96, 80] = {op}
  %3: f32[{m}, 40] = dot_general(%2, %1, lhs_batch=[], rhs_batch=[], lhs_contract=[{contract}], rhs_contract=[{dims}])
  return %3
}}",
            if contract == 0 { 96 } else { 80 }
        )
    };
    assert_eq!(check(&text("relu(%0)", "0", 96, 1), &[]), "pc");
    assert_eq!(check(&text("relu(%0)", "0", 80, 0), &[]), "..");
    // What a softmax of columns does with whole columns is over when its last kernel makes the rows.
    let columns = check(&text("softmax(%0, dim=0)", "0", 96, 1), &[]);
    assert!(columns.starts_with('.') && columns.ends_with(".pc"), "{columns}");
}

#[test]
fn an_operand_of_two_kernels_is_made_before() {
    let text = "graph {
  %0: f32[40, 64] = input(index=0)
  %1: f32[56, 64] = input(index=1)
  %2: f32[64, 48] = input(index=2)
  %3: f32[40, 64] = softmax(%0, dim=1)
  %4: f32[56, 64] = softmax(%1, dim=1)
  %5: f32[96, 64] = concat(%3, %4, dim=0)
  %6: f32[96, 48] = dot_general(%5, %2, lhs_batch=[], rhs_batch=[], lhs_contract=[1], rhs_contract=[0])
  return %6
}";
    check(text, &[]);
}

#[test]
fn products_of_many_shapes_behind_kernels() {
    let mut rng = Rng::new(77);
    let mut below = move |n: usize| (rng.normal().abs() * 1e6) as usize % n;
    let ops =
        ["relu(%0)", "mul(%0, %4)", "softmax(%0, dim=1)", "log_softmax(%0, dim=1)", "gelu(%0)", "cumsum(%0, dim=1)"];
    let mut joined = 0;
    for case in 0..48 {
        let (most, longest) = ([4, 40, 150, 500][below(4)], [7, 70, 700][below(3)]);
        let (m, n) = (1 + below(most), 1 + below(most));
        let k = 1 + below(longest);
        let (dtype, op) = (["f32", "f32", "f64", "bf16"][below(4)], ops[below(ops.len())]);
        let body = format!(
            "  %3: {dtype}[1, {k}] = reshape(%2)
  %4: {dtype}[{m}, {k}] = expand(%3)
  %9: {dtype}[{m}, {k}] = {op}"
        );
        let results = if case % 3 == 0 {
            format!("  %11: {dtype}[{m}, {n}] = tanh(%10)\n  return %11")
        } else {
            "  return %10".to_string()
        };
        let kinds = kinds(&behind(m, k, n, dtype, &body, &results), &[]);
        joined += usize::from(kinds.iter().all(|kinds| kinds.contains("pc")));
    }
    assert!(joined >= 24, "only {joined} of 48 were joined");
}

#[test]
fn prologues_are_joined_where_they_pay() {
    let exec = CpuExecutor::with_config(&Config { threads: Some(2), ..Config::default() }).expect("an executor");
    let first = |m: usize, k: usize, n: usize| {
        let text = behind(m, k, n, "f32", &format!("  %9: f32[{m}, {k}] = relu(%0)"), "  return %10");
        let program = compile(&parse(&text).expect("a graph"), &Options::default()).expect("a program");
        exec.load(Arc::new(program)).expect("it loads").details()[0].together
    };
    assert_eq!(first(100_000, 64, 16), "prologue");
    // In the caches; a wide product; rows of which too few fit the cache.
    assert_eq!(first(1000, 64, 16), "step");
    assert_eq!(first(100_000, 64, 1024), "step");
    assert_eq!(first(100, 100_000, 16), "step");
}
