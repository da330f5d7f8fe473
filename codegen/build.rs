//! Names the generator: a number made of every source file of this crate and of `torsh-ir`, whose numbers of operations and
//! types are in the digests of kernels, and of the versions of Cranelift's crates, so that machine code that another one
//! wrote is told from its own.

include!("../ir/sources.rs");

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=../ir/sources.rs");
    let mut hash = sources(&["src", "../ir/src"])?;
    println!("cargo::rerun-if-changed=../Cargo.lock");
    let lock = std::fs::read_to_string("../Cargo.lock")?;
    let made_by = |package: &&str| package.contains("\nname = \"cranelift") || package.contains("\nname = \"regalloc2");
    for package in lock.split("[[package]]").filter(made_by) {
        hash = mix(hash, package.as_bytes());
    }
    println!("cargo::rustc-env=TORSH_GENERATOR={hash:016x}");
    Ok(())
}
