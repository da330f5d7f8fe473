//! Names the passes: a number made of every source file of this crate and of `torsh-ir`, so that programs that another
//! version made are told from its own.

include!("../ir/sources.rs");

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=../ir/sources.rs");
    println!("cargo::rustc-env=TORSH_PASSES={:016x}", sources(&["src", "../ir/src"])?);
    Ok(())
}
