//! Runs one case through the passes, the program interpreter and every backend.

use super::Case;
use super::oracle::{Expected, expect, expect_for};
use crate::filetest;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use torsh_codegen::cpu::Schedule;
use torsh_ir::exec::{BufferRef, Executor};
use torsh_ir::interp::{HostTensor, InterpExecutor, run_program};
use torsh_ir::program::{Place, Program, StepOp};
use torsh_ir::{ErrorKind, text, verify};
use torsh_passes::{Options, compile, simplify};
use torsh_runtime::{Config, CpuExecutor, Prologues};

/// What went wrong, and where.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The part that is at fault; shrinking keeps it.
    pub stage: String,
    /// What it did.
    pub message: String,
    /// The output that is wrong, when one is.
    pub output: Option<usize>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.stage, self.message)
    }
}

/// A backend and its name.
pub struct Backend {
    /// For messages.
    pub name: String,
    /// It.
    pub executor: Arc<dyn Executor>,
}

/// The backends that this machine has: the interpreter behind the runtime's contract, and the CPU at each
/// instruction set level, with each schedule, on one thread and on several.
pub fn backends() -> Vec<Backend> {
    let interpreter: Arc<dyn Executor> = Arc::new(InterpExecutor::new());
    let mut out = vec![Backend { name: "interpreter".to_string(), executor: interpreter }];
    let configs = [
        ("auto", None, 3),
        ("block", Some("portable"), 1),
        ("inline", None, 1),
        ("block", Some("avx2"), 2),
        ("block", Some("neon"), 2),
        ("inline", Some("portable"), 3),
        ("block", Some("avx512"), 1),
        ("vector", Some("avx512"), 2),
        ("vector", Some("avx2"), 1),
        ("row", None, 1),
        ("random", None, 3),
    ];
    for (schedule, isa, threads) in configs {
        let Ok(parsed) = Schedule::parse(schedule) else { continue };
        let config =
            Config { isa, schedule: parsed, threads: Some(threads), prologues: Prologues::All, ..Config::default() };
        // A level that this CPU lacks is refused.
        if let Ok(executor) = CpuExecutor::with_config(&config) {
            let name = format!("cpu {schedule} {} x{threads}", executor.target().isa);
            out.push(Backend { name, executor: Arc::new(executor) });
        }
    }
    out
}

fn stage<T>(name: &str, f: impl FnOnce() -> Result<T, String>) -> Result<T, Failure> {
    let fail = |message| Failure { stage: name.to_string(), message, output: None };
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(fail),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
            Err(fail(format!("panic: {}", text.unwrap_or("without a message"))))
        }
    }
}

fn words(e: torsh_ir::Error) -> String {
    e.to_string()
}

/// Checks a case everywhere.
pub fn check(case: &Case, backends: &[Backend]) -> Result<(), Failure> {
    stage("text", || round_trip(case))?;
    let want = stage("interpreter", || expect(case).map_err(words))?;
    // Weights of attention that are rounded to 16 bits, where a backend does that.
    let halves = |backend: &Backend| backend.executor.target().takes_half_attention();
    let wide = stage("interpreter", || match backends.iter().any(halves) {
        true => expect_for(case, true).map(Some).map_err(words),
        false => Ok(None),
    })?;
    let simple = stage("simplify", || {
        let graph = simplify::run(case.graph.clone()).map_err(words)?;
        torsh_ir::interp::eval_graph(&graph, &case.inputs).map_err(words)
    })?;
    compare("simplify", &want, &simple)?;
    for fusion in [true, false] {
        let name = if fusion { "fused" } else { "unfused" };
        let program = stage(&format!("compile {name}"), || compiled(case, fusion, None))?;
        let got = stage(&format!("program {name}"), || run_program(&program, &case.inputs).map_err(words))?;
        compare(&format!("program {name}"), &want, &got)?;
        for backend in backends {
            let name = format!("{} {name}", backend.name);
            let program = stage(&format!("compile for {name}"), || compiled(case, fusion, Some(backend)))?;
            let got = stage(&name, || run(backend, program, case))?;
            compare(&name, wide.as_ref().filter(|_| halves(backend)).unwrap_or(&want), &got)?;
        }
    }
    Ok(())
}

fn round_trip(case: &Case) -> Result<(), String> {
    verify::graph(&case.graph).map_err(words)?;
    let printed = text::print(&case.graph);
    let back = text::parse(&printed).map_err(words)?;
    if back.same(&case.graph) { Ok(()) } else { Err("the round trip changes the graph".to_string()) }
}

fn compare(stage: &str, want: &Expected, got: &[HostTensor]) -> Result<(), Failure> {
    want.compare(got).map_err(|message| Failure { stage: stage.to_string(), message, output: want.wrong_output(got) })
}

fn compiled(case: &Case, fusion: bool, backend: Option<&Backend>) -> Result<Program, String> {
    let mut options = Options { fusion, verify: true, donate: case.donate.clone(), ..Options::default() };
    if let Some(backend) = backend {
        options.target = backend.executor.target();
    }
    let program = compile(&case.graph, &options).map_err(words)?;
    program.verify().map_err(words)?;
    Ok(program)
}

/// Runs with inputs that are still held, which must not change (several times where there are products, which pack an
/// operand when they see it again), and with inputs given up.
fn run(backend: &Backend, program: Program, case: &Case) -> Result<Vec<HostTensor>, String> {
    let executor = &backend.executor;
    let executable = executor.load(Arc::new(program)).map_err(words)?;
    let upload = || -> Result<Vec<BufferRef>, String> {
        case.inputs.iter().map(|t| executor.upload(&t.ty, &t.to_bytes()).map_err(words)).collect()
    };
    let held = upload()?;
    let bytes = |buffer: &BufferRef| -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; buffer.nbytes()];
        executor.download(&**buffer, &mut bytes).map_err(words)?;
        Ok(bytes)
    };
    let download = |buffers: &[BufferRef]| -> Result<Vec<HostTensor>, String> {
        let outputs = case.graph.outputs().iter().zip(buffers);
        outputs.map(|(&o, b)| HostTensor::from_bytes(case.graph.ty(o).clone(), &bytes(b)?).map_err(words)).collect()
    };
    let first = download(&executable.run(&mut held.clone()).map_err(words)?)?;
    let products = executable.program().steps.iter().any(|s| matches!(s.op, StepOp::Dot(_)));
    for _ in 0..if products { 2 } else { 0 } {
        if download(&executable.run(&mut held.clone()).map_err(words)?)? != first {
            return Err("results differ from run to run".to_string());
        }
    }
    for (i, (buffer, t)) in held.iter().zip(&case.inputs).enumerate() {
        if bytes(buffer)? != t.to_bytes() {
            return Err(format!("input {i} was written although it is still held"));
        }
    }
    let mut given = upload()?;
    let second = download(&executable.run(&mut given).map_err(words)?)?;
    let donated =
        |i: usize| executable.program().buffers.iter().any(|b| matches!(b.place, Place::Donated(n) if n as usize == i));
    for (i, (buffer, t)) in given.iter().zip(&case.inputs).enumerate() {
        if !donated(i) && bytes(buffer)? != t.to_bytes() {
            return Err(format!("input {i} was written although it was not donated"));
        }
    }
    if first != second {
        return Err("results differ between inputs that are held and inputs that are given up".to_string());
    }
    Ok(second)
}

/// The case of the gradients; `None` where an op on the way has none.
pub fn gradients(case: &Case) -> Option<Result<Case, Failure>> {
    match catch_unwind(AssertUnwindSafe(|| filetest::gradients(case.graph.clone()))) {
        Ok(Ok(graph)) if graph.outputs().is_empty() => None,
        Ok(Ok(graph)) => Some(Ok(Case { graph, inputs: case.inputs.clone(), donate: Vec::new() })),
        Ok(Err(e)) if e.kind() == ErrorKind::Runtime => None,
        Ok(Err(e)) => Some(Err(Failure { stage: "grad".to_string(), message: e.to_string(), output: None })),
        Err(_) => Some(Err(Failure { stage: "grad".to_string(), message: "panic".to_string(), output: None })),
    }
}

/// Checks a case and, where they exist, its gradients. A failure comes with the case that shows it.
#[allow(clippy::result_large_err, reason = "a failing case is the end of the test")]
pub fn check_all(case: &Case, backends: &[Backend]) -> Result<(), (Case, Failure)> {
    check(case, backends).map_err(|f| (case.clone(), f))?;
    match gradients(case) {
        None => Ok(()),
        Some(Err(f)) => Err((case.clone(), f)),
        Some(Ok(grad)) => check(&grad, backends).map_err(|f| (grad, f)),
    }
}
