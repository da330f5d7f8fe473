//! Machine code of typical kernels: no spills for sm_80 and sm_90, and registers and shared memory no worse than in
//! `tests/cuda/TABLE.md`, which `TORSH_BLESS=1` rewrites. Where `nvdisasm` is installed, the instructions are those that
//! the kernels are written for ([`CLAIMS`]).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use torsh_codegen::cuda::{Options, generate};
use torsh_ir::{DType, env};
use torsh_tests::cuda::sass::{Code, disassemble, is, nvdisasm};
use torsh_tests::cuda::shapes::Shapes;
use torsh_tests::cuda::{compile, nvrtc, passes};
use torsh_tests::fuzz::Case;

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
    // One tile of queries a warp, and two.
    s.half_attention(DType::BF16, [128, 128, 64, 64]);
    s.half_attention(DType::F16, [128 * 66, 192, 64, 64]);
    s.half_attention(DType::BF16, [128, 128, 80, 80]);
    s.half_attention(DType::F16, [128, 100, 128, 128]);
    s.cases.retain(|(name, _)| !name.contains("half") || name.starts_with("all") || name.starts_with("dropped"));
    s.cases.retain(|(name, _)| !name.starts_with("sums") && !name.starts_with("softmax of"));
    s
}

/// What the machine code of a kernel must and must not consist of: operations with modifiers.
struct Claim {
    /// The beginning of a case's name, and a part of the names of its kernels.
    kernels: (&'static str, &'static str),
    with: &'static [(&'static str, &'static [&'static str])],
    without: &'static [&'static str],
}

const fn claim(
    kernels: (&'static str, &'static str),
    with: &'static [(&'static str, &'static [&'static str])],
    without: &'static [&'static str],
) -> Claim {
    Claim { kernels, with, without }
}

/// Loads and stores of 16 bytes.
const WIDE: &[(&str, &[&str])] = &[("LDG", &["128"]), ("STG", &["128"])];
/// Multiplications and additions that are rounded one by one.
const APART: &[(&str, &[&str])] = &[("FMUL", &[]), ("FADD", &[]), ("LDG", &["128"]), ("STG", &["128"])];
/// Matrix products of 16-bit floats into f32, and copies of 16 bytes that no register sees.
const TENSOR: &[(&str, &[&str])] = &[("HMMA", &["16816", "F32"])];
const PIPELINE: &[(&str, &[&str])] = &[("HMMA", &["16816", "F32"]), ("LDGSTS", &["128"]), ("LDSM", &[])];

const FLASH: &[(&str, &[&str])] =
    &[("HMMA", &["16816", "F32"]), ("LDGSTS", &["128"]), ("LDSM", &[]), ("MUFU", &["EX2"]), ("STG", &["128"])];

const CLAIMS: &[Claim] = &[
    claim(("map float32", "tanh_add"), WIDE, &[]),
    // A product and a sum that the user wrote are never one rounding.
    claim(("broadcast map float32", "mul_add"), APART, &["FFMA"]),
    claim(("softmax 2000x1024", ""), WIDE, &[]),
    claim(("layer_norm 2000x1024", ""), WIDE, &[]),
    claim(("softmax 3000x4096 bfloat16", ""), WIDE, &[]),
    claim(("layer_norm 2x100000", "mul_add"), WIDE, &["FFMA"]),
    claim(("dot 2048 2048 512 float32", ""), &[("FFMA", &[]), ("LDS", &["128"])], &["HMMA"]),
    claim(("dot 300 200 100 float32", ""), &[("FFMA", &[])], &["HMMA"]),
    claim(("dot 300 200 100 float64", ""), &[("DFMA", &[])], &["HMMA"]),
    claim(("dot 300 200 100 float16", ""), TENSOR, &[]),
    claim(("dot of transposed 300 200 100 float16", ""), TENSOR, &[]),
    claim(("dot 2048 2048 512 bfloat16", ""), PIPELINE, &[]),
    claim(("dot of transposed 2048 2048 512 bfloat16", ""), PIPELINE, &[]),
    claim(("all half attention", "attention_mma"), FLASH, &[]),
    claim(("dropped half attention", "attention_mma"), TENSOR, &[]),
    claim(("TF32 dot 300 200 100 float32", ""), &[("HMMA", &["1688", "F32", "TF32"])], &[]),
];

/// What is wrong with the machine code of a case.
fn complaints(name: &str, code: &Code) -> Vec<String> {
    let mut wrong = Vec::new();
    for (kernel, instructions) in code {
        let has = |op: &str, modifiers: &[&str]| instructions.iter().any(|i| is(i, op, modifiers));
        // No kernel claims memory of a thread's own: what is too much for registers is computed again.
        let own = claim(("", ""), &[], &["LDL", "STL"]);
        let mine = |c: &&Claim| name.starts_with(c.kernels.0) && kernel.contains(c.kernels.1);
        for claim in std::iter::once(&own).chain(CLAIMS.iter().filter(mine)) {
            let absent = claim.with.iter().filter(|(op, m)| !has(op, m)).map(|(op, m)| format!("no {op} {m:?}"));
            let there = claim.without.iter().filter(|op| has(op, &[])).map(|op| (*op).to_string());
            wrong.extend(absent.chain(there).map(|what| format!("{name}: {kernel}: {what}")));
        }
    }
    wrong
}

/// Figures of each kernel, and what is wrong with the machine code.
fn table(sm: u32) -> (BTreeMap<String, Figures>, Vec<String>) {
    let mut figures = BTreeMap::new();
    let (mut wrong, mut met) = (Vec::new(), 0);
    let nvdisasm = nvdisasm();
    let tf32 = |(name, _): &&(String, Case)| name == "dot 300 200 100 float32";
    let all = cases().cases;
    let plain = all.iter().map(|(name, case)| (name.clone(), case, false));
    let again = all.iter().filter(tf32).map(|(name, case)| (format!("TF32 {name}"), case, true));
    for (name, case, tf32) in plain.chain(again) {
        let options = Options { sm, tf32, ..Options::default() };
        let program = torsh_passes::compile(&case.graph, &passes()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let module = generate(&program, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut flags = options.compiler_flags();
        flags.extend(["-v", "-warn-spills", "-Werror"].map(|f| format!("--ptxas-options={f}")));
        let (cubin, log) = compile(&module.source, &flags, "cubin").unwrap_or_else(|e| panic!("{name}: {e}"));
        // TF32 is for its instructions only; the kernel is the one of 16-bit floats.
        for (kernel, f) in read(&log).into_iter().filter(|_| !tf32) {
            figures.insert(format!("{name}: {kernel}"), f);
        }
        if let Some(nvdisasm) = nvdisasm {
            let code = disassemble(nvdisasm, &cubin).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(code.len(), module.kernels.len(), "{name}: kernels in the machine code");
            met += CLAIMS.iter().filter(|c| name.starts_with(c.kernels.0)).count();
            wrong.extend(complaints(&name, &code).into_iter().map(|what| format!("sm_{sm} {what}")));
        }
    }
    assert!(nvdisasm.is_none() || met >= CLAIMS.len(), "{met} of {} claims have a case", CLAIMS.len());
    (figures, wrong)
}

#[test]
fn kernels_do_not_grow_and_consist_of_what_they_are_written_for() {
    if nvrtc().is_none() {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda/TABLE.md");
    let mut text = "# Registers, shared memory and stack of generated kernels\n\nWritten by `TORSH_BLESS=1 cargo nextest run -p torsh-tests --test cuda_table`. Bytes of shared memory and stack of a thread.\n".to_string();
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    let (mut worse, mut wrong) = (Vec::new(), Vec::new());
    for sm in [80, 90] {
        let _ = writeln!(text, "\n## sm_{sm}\n| kernel | registers | shared | stack |\n|---|---|---|---|");
        let section = old.split(&format!("## sm_{sm}\n")).nth(1).unwrap_or("").split("\n## ").next().unwrap_or("");
        let (figures, complaints) = table(sm);
        wrong.extend(complaints);
        for (name, f) in figures {
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
    assert!(wrong.is_empty(), "machine code:\n{}", wrong.join("\n"));
    if env::bless() {
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        return;
    }
    assert!(worse.is_empty(), "worse than tests/cuda/TABLE.md:\n{}", worse.join("\n"));
}

#[test]
fn machine_code_that_breaks_a_claim_is_named() {
    let wrong = |list: &[&str]| {
        let code = Code::from([("k0_mul_add".to_string(), list.iter().map(ToString::to_string).collect())]);
        complaints("broadcast map float32", &code)
    };
    assert_eq!(wrong(&["LDG.E.128.CONSTANT", "FMUL", "FADD.FTZ", "STG.E.128", "EXIT"]), [""; 0]);
    assert_eq!(
        wrong(&["LDG.E.128", "FMUL", "FADD", "FFMA", "STG.E.64", "STL"]),
        ["STL", "no STG [\"128\"]", "FFMA"].map(|what| format!("broadcast map float32: k0_mul_add: {what}"))
    );
}
