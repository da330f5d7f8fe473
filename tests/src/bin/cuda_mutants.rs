//! Mutants of the CUDA code generator: `cuda_mutants [--each N] [--write] [FAMILY..]`.
//!
//! Runs at most `N` of each kind in each family, prints the report, or writes `tests/cuda/MUTANTS.md` with `--write`.
//! Ends with status 1 when fewer than 95 % are killed.

use std::path::Path;
use std::process::ExitCode;
use torsh_tests::cuda_mutants::{Selection, run, write};

/// Of the mutants that run and are not equivalent.
const NEEDED: f64 = 0.95;

fn main() -> ExitCode {
    match all() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn all() -> Result<bool, String> {
    let mut selection = Selection { each: 8, families: Vec::new() };
    let mut to_file = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--each" => {
                let n = args.next().ok_or("--each needs a number")?;
                selection.each = n.parse().map_err(|_| format!("--each needs a number, not {n}"))?;
            }
            "--write" => to_file = true,
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            _ => selection.families.push(arg),
        }
    }
    let results = run(&selection)?;
    let (text, share) = write(&results, &selection);
    if to_file {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda/MUTANTS.md");
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    } else {
        println!("{text}");
    }
    eprintln!("{:.1} % killed", 100.0 * share);
    Ok(share >= NEEDED)
}
