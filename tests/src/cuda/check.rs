//! Cases on the simulated device against the interpreter: many of them by one call of the compiler.

use super::batch::Batch;
use super::sim::{Loaded, Run};
use super::{compile, nvrtc, passes, ptx_flags};
use crate::fuzz::Case;
use crate::fuzz::oracle::expect_for;
use torsh_codegen::cuda::{self, Options, generate};
use torsh_ir::program::Program;
use torsh_passes::Options as PassOptions;
use torsh_ptx_sim::Module;

/// Programs of one call of the compiler.
const BATCH: usize = 100;

/// One program.
struct Entry {
    what: String,
    case: Case,
    program: Program,
    plan: cuda::Module,
    /// Numbers must be the same, whatever the tolerance.
    exact: bool,
}

/// A run over cases.
pub struct Checker {
    options: Options,
    entries: Vec<Entry>,
    /// Cases that were checked.
    pub checked: usize,
    /// What went wrong.
    pub failures: Vec<String>,
}

impl Checker {
    /// Generates code with these options.
    pub fn new(options: Options) -> Checker {
        Checker { options, entries: Vec::new(), checked: 0, failures: Vec::new() }
    }

    /// Adds a case, which the passes compile with or without fusion.
    pub fn add(&mut self, what: &str, case: Case, fusion: bool) {
        self.push(what, case, fusion, false);
    }

    /// Adds a case whose inputs make every order of computation exact.
    pub fn add_exact(&mut self, what: &str, case: Case) {
        self.push(what, case, true, true);
    }

    fn push(&mut self, what: &str, case: Case, fusion: bool, exact: bool) {
        let options = PassOptions { fusion, donate: case.donate.clone(), ..passes() };
        let made = torsh_passes::compile(&case.graph, &options)
            .and_then(|program| Ok((generate(&program, &self.options)?, program)));
        match made {
            Ok((plan, program)) => self.entries.push(Entry { what: what.to_string(), case, program, plan, exact }),
            Err(e) => self.failures.push(format!("{what}: {e}")),
        }
        if self.entries.len() >= BATCH {
            self.run();
        }
    }

    /// Checks what is left and panics if anything went wrong.
    pub fn finish(mut self) -> usize {
        self.run();
        let n = self.failures.len();
        self.failures.truncate(8);
        assert!(n == 0, "{n} of {}:\n{}", self.checked, self.failures.join("\n"));
        self.checked
    }

    fn run(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        if entries.is_empty() {
            return;
        }
        if nvrtc().is_none() {
            self.checked += entries.len();
            return;
        }
        let mut batch = Batch::default();
        for (i, e) in entries.iter().enumerate() {
            batch.add(&format!("b{i}"), &e.plan);
        }
        let code = compile(batch.source(), &ptx_flags(&self.options), "ptx")
            .and_then(|(code, _)| Module::parse(&String::from_utf8_lossy(&code)).map_err(|e| e.to_string()));
        let code = match code {
            Ok(code) => code,
            Err(e) => return self.failures.push(e),
        };
        for (i, e) in entries.iter().enumerate() {
            self.checked += 1;
            if let Err(message) = e.check(&code, &format!("b{i}")) {
                self.failures.push(format!("{}: {message}\n{}", e.what, torsh_ir::text::program(&e.program)));
            }
        }
    }
}

impl Entry {
    /// Forward with races looked for, then in reversed order: the same bits, and those of the interpreter up to what
    /// each op is allowed. Where the interpreter refuses, the error must be the same one.
    fn check(&self, code: &Module, name: &str) -> Result<(), String> {
        let loaded = Loaded { program: &self.program, plan: &self.plan, code, name };
        let first = loaded.run(&self.case.inputs, Run { reversed: false, races: true, budget: None });
        let second = loaded.run(&self.case.inputs, Run { reversed: true, races: false, budget: None });
        match (expect_for(&self.case, passes().target.takes_half_attention()), first, second) {
            (Ok(want), Ok(first), Ok(second)) => {
                if self.exact {
                    want.same(&first)?
                } else {
                    want.compare(&first)?
                }
                let same = first.iter().zip(&second).all(|(a, b)| a.to_bytes() == b.to_bytes());
                if same { Ok(()) } else { Err("results depend on the order of blocks".to_string()) }
            }
            (Err(want), Err(got), Err(again)) => {
                if got == again && got.contains(want.message()) {
                    return Ok(());
                }
                Err(format!("{got} and {again} instead of {want}"))
            }
            (Err(want), Ok(_), _) | (Err(want), _, Ok(_)) => Err(format!("no error instead of {want}")),
            (Ok(_), Err(e), _) | (Ok(_), _, Err(e)) => Err(e),
        }
    }
}
