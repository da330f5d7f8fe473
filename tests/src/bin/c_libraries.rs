//! Libraries in C of packages and random graphs, without a C compiler: `c_libraries FOLDER CASES [PACKAGE..]`.
//!
//! Writes `FOLDER/ARCHITECTURE/NAME.h`, `NAME.c` and `NAME.o`, the kernels, for either architecture, and `FOLDER/NAME-main.c`, which
//! calls the library and compares what it gives with what the engine gave here. All of it is the same on every machine;
//! `tools/aarch64.sh` compares and runs it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use torsh_runtime::{Config, CpuExecutor};
use torsh_tests::c_library::{ARCHITECTURES, Item};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, cases, packages @ ..] = &args[..] else {
        eprintln!("usage: c_libraries FOLDER CASES [PACKAGE..]");
        return ExitCode::FAILURE;
    };
    match all(Path::new(folder), cases, packages) {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn all(folder: &Path, cases: &str, packages: &[String]) -> Result<String, String> {
    let words = |e: torsh_ir::Error| e.to_string();
    let cases: u64 = cases.parse().map_err(|_| format!("{cases} is no number of random graphs"))?;
    let executor = CpuExecutor::with_config(&Config { threads: Some(1), ..Config::default() }).map_err(words)?;
    let (mut libraries, mut callers) = (0, 0);
    for target in ARCHITECTURES {
        let place = folder.join(target.name());
        std::fs::create_dir_all(&place).map_err(|e| format!("{}: {e}", place.display()))?;
    }
    let packages = packages.iter().map(|path| Item::package(&PathBuf::from(path), &executor));
    for item in packages.chain((0..cases).map(|seed| Item::random(seed, &executor))) {
        let item = item.map_err(words)?;
        let mut made = 0;
        for target in ARCHITECTURES {
            let Some(library) = item.library(target).map_err(words)? else { continue };
            let place = folder.join(target.name());
            put(&place, &format!("{}.h", item.name), library.header.as_bytes())?;
            put(&place, &format!("{}.c", item.name), library.source.as_bytes())?;
            put(&place, &format!("{}.o", item.name), &library.object)?;
            made += 1;
        }
        libraries += made;
        if let (true, Some(text)) = (made > 0, item.caller()) {
            put(folder, &format!("{}-main.c", item.name), text.as_bytes())?;
            callers += 1;
        }
    }
    Ok(format!("{libraries} libraries, programs for {callers} of them on either architecture"))
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), String> {
    let path = folder.join(name);
    std::fs::write(&path, bytes).map_err(|e| format!("{}: {e}", path.display()))
}
