//! Small programs of every family of CUDA kernels on inputs that show errors: small integers whose results must be
//! exact, one number far above the rest, rows below zero, ties, NaN and infinities, indices at and beyond the ends.
//! These are the programs and inputs that mutants are judged by, and must pass unchanged.

use torsh_tests::cuda::nvrtc;
use torsh_tests::cuda_mutants::{Selection, check_unchanged, run, write};

#[test]
fn programs_pass_on_all_inputs() {
    if nvrtc().is_some() {
        let checked = check_unchanged().unwrap_or_else(|e| panic!("{e}"));
        assert!(checked > 70, "{checked}");
    }
}

/// That the run of mutants itself works: `make mutants-cuda` runs them all.
#[test]
fn some_mutants_die() {
    if nvrtc().is_some() {
        let selection = Selection { each: 1, families: vec!["vector map".to_string()], kinds: Vec::new(), dump: false };
        let results = run(&selection).unwrap_or_else(|e| panic!("{e}"));
        assert!(results.mutants.len() > 10);
        let (text, share) = write(&results, &selection);
        assert!(share > 0.8, "{text}");
    }
}
