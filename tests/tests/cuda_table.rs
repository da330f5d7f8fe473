//! Machine code of typical kernels: no spills for sm_80 and sm_90, and registers and shared memory no worse than in
//! `tests/cuda/TABLE.md`, which `TORSH_BLESS=1` rewrites.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use torsh_codegen::cuda::{Options, generate};
use torsh_ir::{DType, env};
use torsh_passes::Options as PassOptions;
use torsh_tests::cuda::shapes::Shapes;
use torsh_tests::cuda::{compile, nvrtc};

/// Registers that a kernel may gain before it counts as worse: compilers differ.
const SLACK: u32 = 4;

/// What the assembler says of a kernel.
#[derive(Clone, PartialEq, Debug)]
struct Figures {
    registers: u32,
    shared: u32,
    stack: u32,
}

fn number_before(line: &str, word: &str) -> u32 {
    let at = line.find(word).unwrap_or(0);
    let digits = line[..at].trim_end().rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
    digits.parse().unwrap_or(0)
}

/// Figures by kernel from the log of `--ptxas-options=-v`.
fn read(log: &str) -> BTreeMap<String, Figures> {
    let mut out = BTreeMap::new();
    let mut name = String::new();
    let mut stack = 0;
    for line in log.lines() {
        if let Some(rest) = line.split("Function properties for ").nth(1) {
            name = rest.trim().to_string();
        } else if line.contains("bytes stack frame") {
            stack = number_before(line, " bytes stack frame");
        } else if line.contains("Used ") && line.contains(" registers") {
            let shared = if line.contains(" bytes smem") { number_before(line, " bytes smem") } else { 0 };
            let registers = number_before(line, " registers");
            out.insert(name.clone(), Figures { registers, shared, stack });
        }
    }
    out
}

fn cases() -> Shapes {
    let mut s = Shapes::default();
    s.rows(DType::F32, 2000, 1024);
    s.rows(DType::BF16, 3000, 4096);
    s.rows(DType::F32, 2, 100_000);
    s.layouts(DType::F32);
    s.products(DType::F32, [2048, 2048, 512]);
    s.products(DType::F32, [300, 200, 100]);
    s.products(DType::BF16, [2048, 2048, 512]);
    s.products(DType::F16, [300, 200, 100]);
    s.products(DType::F64, [300, 200, 100]);
    s.attention(128, 64);
    s.attention(70, 128);
    s.cases.retain(|(name, _)| !name.starts_with("sums") && !name.starts_with("softmax of"));
    s
}

fn table(sm: u32) -> BTreeMap<String, Figures> {
    let options = Options { sm, ..Options::default() };
    let mut out = BTreeMap::new();
    for (name, case) in cases().cases {
        let program =
            torsh_passes::compile(&case.graph, &PassOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let module = generate(&program, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut flags = options.compiler_flags();
        flags.extend(["-v", "-warn-spills", "-Werror"].map(|f| format!("--ptxas-options={f}")));
        let (_, log) = compile(&module.source, &flags, "cubin").unwrap_or_else(|e| panic!("{name}: {e}"));
        for (kernel, figures) in read(&log) {
            out.insert(format!("{name}: {kernel}"), figures);
        }
    }
    out
}

#[test]
fn kernels_do_not_grow() {
    if nvrtc().is_none() {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda/TABLE.md");
    let mut text = "# Registers, shared memory and stack of generated kernels\n\nWritten by `TORSH_BLESS=1 cargo nextest run -p torsh-tests --test cuda_table`. Bytes of shared memory and stack of a thread.\n".to_string();
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    let mut worse = Vec::new();
    for sm in [80, 90] {
        let _ = writeln!(text, "\n## sm_{sm}\n| kernel | registers | shared | stack |\n|---|---|---|---|");
        let section = old.split(&format!("## sm_{sm}\n")).nth(1).unwrap_or("").split("\n## ").next().unwrap_or("");
        for (name, f) in table(sm) {
            let _ = writeln!(text, "| {name} | {} | {} | {} |", f.registers, f.shared, f.stack);
            let row = section.lines().find(|l| l.starts_with(&format!("| {name} |")));
            let known: Vec<u32> =
                row.into_iter().flat_map(|r| r.split('|').skip(2)).filter_map(|c| c.trim().parse().ok()).collect();
            match known[..] {
                [registers, shared, stack]
                    if f.registers <= registers + SLACK && f.shared <= shared && f.stack <= stack => {}
                _ => worse.push(format!("sm_{sm} {name}: {f:?} instead of {known:?}")),
            }
        }
    }
    if env::bless() {
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        return;
    }
    assert!(worse.is_empty(), "worse than tests/cuda/TABLE.md:\n{}", worse.join("\n"));
}
