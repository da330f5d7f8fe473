//! Steps that run together give the bits that they give one by one, on any number of threads.

use std::sync::Arc;
use torsh_ir::Graph;
use torsh_ir::exec::{BufferRef, Executor, StepDetail};
use torsh_ir::interp::{HostTensor, run_program};
use torsh_ir::program::Program;
use torsh_ir::text::parse;
use torsh_passes::{Options, compile};
use torsh_runtime::{Config, CpuExecutor};
use torsh_tests::values::Rng;

fn executor(threads: usize, separate: bool) -> CpuExecutor {
    CpuExecutor::with_config(&Config { threads: Some(threads), separate, ..Config::default() }).expect("an executor")
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
/// `c` for a chain, `r` for a region, `.` for a step by itself.
fn check(text: &str, donate: &[(usize, usize)]) -> String {
    let graph = parse(text).expect("a graph");
    let options = Options { donate: donate.to_vec(), fusion: true, verify: true, ..Options::default() };
    let program = compile(&graph, &options).expect("a program");
    let inputs = inputs(&graph);
    let meaning = run_program(&program, &inputs).expect("the interpreter runs it");
    let (want, _) = run(&executor(1, true), &program, &inputs);
    let mut kinds = String::new();
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
                "chain" => 'c',
                "region" => 'r',
                _ => '.',
            });
        }
        assert!(threads == 1 || kinds == now, "{kinds} on fewer threads, {now} on {threads}");
        kinds = now;
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
