//! Mutants of the CUDA code generator: `cuda_mutants [--each N] [--kind KIND] [--write] [--dump] [--save FILE]
//! [--load FILE] [FAMILY..]`.
//!
//! Runs at most `N` of each kind (or of kinds that are called so) in each family, prints the report, or writes `tests/cuda/MUTANTS.md` with `--write`;
//! with `--dump` it only prints the sources. `--save` keeps the results, and `--load` takes them instead of a run. Ends with status 1 when fewer than 95 % are killed.

use std::path::Path;
use std::process::ExitCode;
use torsh_tests::cuda_mutants::{Selection, load, run, save, write};

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
    let mut selection = Selection { each: 8, families: Vec::new(), kinds: Vec::new(), dump: false };
    let (mut to_file, mut saved, mut loaded) = (false, None, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--each" => {
                let n = args.next().ok_or("--each needs a number")?;
                selection.each = n.parse().map_err(|_| format!("--each needs a number, not {n}"))?;
            }
            "--kind" => selection.kinds.push(args.next().ok_or("--kind needs a name")?),
            "--dump" => selection.dump = true,
            "--save" => saved = Some(args.next().ok_or("--save needs a file")?),
            "--load" => loaded = Some(args.next().ok_or("--load needs a file")?),
            "--write" => to_file = true,
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            _ => selection.families.push(arg),
        }
    }
    let results = match loaded {
        Some(path) => load(&std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?)?,
        None => run(&selection)?,
    };
    if let Some(path) = saved {
        std::fs::write(&path, save(&results)).map_err(|e| format!("{path}: {e}"))?;
    }
    if selection.dump {
        return Ok(true);
    }
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
