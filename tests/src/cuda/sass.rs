//! Machine code as `nvdisasm` prints it: which instructions a kernel consists of.
//!
//! The program comes with the `nvidia-cuda-nvdisasm` wheel, which is looked for beside the environment's Python's other
//! packages, or with CUDA, by `PATH`. It reads code for any GPU, and needs none.

use super::python;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Prints where the wheels' program is.
const FIND: &str = "import glob, sys; print(*[f for d in sys.path for p in ('cu*', 'cuda_nvdisasm') \
                    for f in sorted(glob.glob(f'{d}/nvidia/{p}/bin/nvdisasm'))][-1:])";

/// Mnemonics with their modifiers, as `LDG.E.128.CONSTANT`, by kernel, in the order of the code.
pub type Code = BTreeMap<String, Vec<String>>;

/// The program; `None`, with a line on standard error, where there is none.
pub fn nvdisasm() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let wheels = Command::new(python()).args(["-c", FIND]).output().ok()?;
        let path = String::from_utf8_lossy(&wheels.stdout).trim().to_string();
        let path = PathBuf::from(if path.is_empty() { "nvdisasm".to_string() } else { path });
        Command::new(&path).arg("--version").output().ok().filter(|o| o.status.success()).map(|_| path)
    };
    let found = FOUND.get_or_init(find).as_deref();
    if found.is_none() {
        eprintln!("skipped: no nvdisasm; install nvidia-cuda-nvdisasm to check machine code");
    }
    found
}

/// Takes a CUBIN apart.
///
/// # Errors
/// What the program says.
pub fn disassemble(nvdisasm: &Path, cubin: &[u8]) -> Result<Code, String> {
    let name = format!("torsh-sass-{}-{:?}.cubin", std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, cubin).map_err(|e| e.to_string())?;
    let output = Command::new(nvdisasm).arg("-c").arg(&path).output().map_err(|e| e.to_string())?;
    // What was read is of no further use; a file that stays does no harm.
    let _ = std::fs::remove_file(&path);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(read(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads the program's text.
fn read(text: &str) -> Code {
    let mut code = Code::new();
    let mut kernel = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix(".text.").and_then(|l| l.strip_suffix(':')) {
            kernel = Some(code.entry(name.to_string()).or_default());
        }
        // `/*00b0*/  @!P0 LDG.E.128 R4, [R2.64] ;`
        let Some((_, instruction)) = line.trim_start().strip_prefix("/*").and_then(|l| l.split_once("*/")) else {
            continue;
        };
        let mnemonic = instruction.split_whitespace().find(|word| !word.starts_with('@'));
        if let (Some(kernel), Some(mnemonic)) = (&mut kernel, mnemonic) {
            kernel.push(mnemonic.trim_end_matches(';').to_string());
        }
    }
    code
}

/// Whether an instruction is of an operation, such as `LDG`, and has all of some modifiers, such as `128`.
pub fn is(instruction: &str, operation: &str, modifiers: &[&str]) -> bool {
    let mut parts = instruction.split('.');
    parts.next() == Some(operation) && modifiers.iter().all(|m| parts.clone().any(|p| p == *m))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_read_by_kernel() {
        let text = "\t.section\t.text.k0_a,\"ax\",@progbits\nk0_a:\n.text.k0_a:\n\
                    /*0000*/  LDC R1, c[0x0][0x28] ;\n.L_x_3:\n   /*0060*/  @!P0 EXIT ;\n\
                    /*00b0*/ LDG.E.128.CONSTANT R4, desc[UR4][R6.64] ;\n.text.k1_b:\n/*0000*/ NOP;\n";
        let code = read(text);
        assert_eq!(code["k0_a"], ["LDC", "EXIT", "LDG.E.128.CONSTANT"]);
        assert_eq!(code["k1_b"], ["NOP"]);
        assert!(is("LDG.E.128.CONSTANT", "LDG", &["128"]) && !is("LDG.E.64", "LDG", &["128"]));
        assert!(!is("HFMA2.MMA", "HMMA", &[]) && is("HMMA.16816.F32", "HMMA", &[]));
    }
}
