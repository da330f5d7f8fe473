//! A module: its kernels, decoded, and its variables.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::ast::Var;
use crate::decode::{Kernel, link};
use crate::error::Error;
use crate::parse::parse;

/// A parsed and decoded PTX module.
#[derive(Debug)]
pub struct Module {
    pub(crate) id: u64,
    pub(crate) sm: u32,
    pub(crate) kernels: HashMap<String, Kernel>,
    pub(crate) vars: Vec<Var>,
    pub(crate) lines: Vec<String>,
}

/// What is known of a kernel before it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// Bytes of static shared memory.
    pub static_shared: u32,
    /// Bytes of local memory of a thread.
    pub local: u32,
    /// Offset and size of every parameter.
    pub params: Vec<(u32, u32)>,
    /// Bytes of all parameters.
    pub param_bytes: u32,
    /// Threads of a block that `.maxntid` or `.reqntid` allows.
    pub max_threads: Option<u32>,
    /// Virtual registers that the PTX declares; not what an assembler would allocate.
    pub virtual_registers: u32,
    /// Instructions, called functions among them.
    pub instructions: u32,
    /// The kernel has an array of dynamic shared memory.
    pub dynamic_shared: bool,
}

impl Module {
    /// Reads PTX text. Every kernel is decoded, so that an instruction that is not supported is found here.
    ///
    /// # Errors
    /// The line and what is wrong with it.
    pub fn parse(text: &str) -> Result<Module, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let ast = parse(text)?;
        let digits = ast.target.trim_start_matches("sm_").trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let sm = digits.parse().map_err(|_| Error::new(0, format!("unknown target `{}`", ast.target)))?;
        let mut kernels = HashMap::new();
        for (i, f) in ast.funcs.iter().enumerate() {
            if f.entry && f.has_body {
                kernels.insert(f.name.to_string(), link(&ast, i)?);
            }
        }
        let lines = text.lines().map(str::to_string).collect();
        Ok(Module { id: NEXT.fetch_add(1, Relaxed), sm, kernels, vars: ast.vars, lines })
    }

    /// Names of the kernels.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.kernels.keys().map(String::as_str)
    }

    /// What is known of a kernel.
    pub fn kernel(&self, name: &str) -> Option<KernelInfo> {
        let k = self.kernels.get(name)?;
        Some(KernelInfo {
            static_shared: k.static_shared,
            local: k.frame,
            params: k.params.clone(),
            param_bytes: k.param_bytes,
            max_threads: k.req_threads.map(|r| r.iter().product()).or(k.max_threads),
            virtual_registers: k.declared_regs,
            instructions: k.code.len() as u32,
            dynamic_shared: k.uses_dynamic,
        })
    }
}
