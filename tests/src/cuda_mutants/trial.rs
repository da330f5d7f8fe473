//! One mutant at a time: compiled, run on the simulated device and compared with the interpreter.

use super::programs::Entry;
use crate::cuda::batch::{Batch, symbol};
use crate::cuda::sim::{Loaded, Run};
use crate::cuda::{nvrtc, passes, ptx_flags, root};
use crate::fuzz::Case;
use crate::fuzz::oracle::{Expected, expect_for};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use torsh_codegen::cuda::{self, generate};
use torsh_ir::program::Program;
use torsh_ptx_sim::Module;

/// Warp instructions that a block of a mutant may execute.
const BUDGET: u64 = 400_000;

/// A process that compiles with NVRTC.
pub struct Compiler {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    folder: PathBuf,
}

impl Compiler {
    /// Starts one; `name` tells it from others.
    ///
    /// # Errors
    /// Where there is no NVRTC, or no Python.
    pub fn start(name: &str) -> Result<Compiler, String> {
        let library = nvrtc().ok_or("no NVRTC")?;
        let folder = std::env::temp_dir().join(format!("torsh-mutants-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
        let mut child = Command::new(crate::cuda::python())
            .arg(root().join("tests/cuda/nvrtc_serve.py"))
            .arg(library)
            .args(ptx_flags(&cuda::Options::default()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| e.to_string())?;
        let to = child.stdin.take().ok_or("no pipe")?;
        let from = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        Ok(Compiler { child, to, from, folder })
    }

    /// PTX of a source; `None` when the compiler refuses it or takes too long.
    ///
    /// # Errors
    /// When the process cannot be spoken to or started again.
    pub fn ptx(&mut self, source: &str) -> Result<Option<String>, String> {
        let (from, to) = (self.folder.join("m.cu"), self.folder.join("m.ptx"));
        std::fs::write(&from, source).map_err(|e| e.to_string())?;
        writeln!(self.to, "{}\t{}", from.display(), to.display()).map_err(|e| e.to_string())?;
        let mut line = String::new();
        self.from.read_line(&mut line).map_err(|e| e.to_string())?;
        match line.trim() {
            "ok" => std::fs::read_to_string(&to).map(Some).map_err(|e| e.to_string()),
            "error" => Ok(None),
            _ => {
                let name = self.folder.file_name().and_then(|n| n.to_str()).unwrap_or("again").to_string();
                let folder = std::mem::take(&mut self.folder);
                *self = Compiler::start(&format!("{}x", name.rsplit('-').next().unwrap_or("again")))?;
                // Files of temporary folders that stay do no harm.
                let _ = std::fs::remove_dir_all(folder);
                Ok(None)
            }
        }
    }
}

impl Drop for Compiler {
    fn drop(&mut self) {
        // The process may have ended by itself, and files that stay do no harm.
        let _ = (self.child.kill(), self.child.wait(), std::fs::remove_dir_all(&self.folder));
    }
}

/// What became of a mutant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The compiler refused it.
    Refused,
    /// The compiler made the same PTX of it.
    Same,
    /// A test failed: how.
    Killed(String),
    /// No test noticed.
    Survived,
}

/// A program with what is expected of it.
pub struct Subject {
    /// Family and name.
    pub entry: Entry,
    program: Program,
    /// The plan as it was generated.
    pub plan: cuda::Module,
    /// The source, with the names that [`Loaded`] looks for.
    pub source: String,
    /// Inputs, what is expected, and whether exactly.
    runs: Vec<(Case, torsh_ir::Result<Expected>, bool)>,
    ptx: String,
    code: Module,
}

const NAME: &str = "m";

impl Subject {
    /// Generates code; the unchanged program must pass.
    ///
    /// # Errors
    /// What went wrong with the unchanged program.
    pub fn new(entry: Entry, compiler: &mut Compiler) -> Result<Subject, String> {
        let what = format!("{} of {}", entry.name, entry.family);
        let told = |e: String| format!("{what}: {e}");
        let program = torsh_passes::compile(&entry.case.graph, &passes()).map_err(|e| told(e.to_string()))?;
        let plan = generate(&program, &entry.options).map_err(|e| told(e.to_string()))?;
        let mut batch = Batch::default();
        batch.add(NAME, &plan);
        let source = batch.source().to_string();
        let mut runs = Vec::new();
        let inputs = std::iter::once(&entry.case.inputs).chain(&entry.more).map(|i| (i, false));
        for (inputs, exactly) in entry.exact.iter().map(|i| (i, true)).chain(inputs) {
            let case = Case { inputs: inputs.clone(), ..entry.case.clone() };
            let want = expect_for(&case, passes().target.takes_half_attention());
            runs.push((case, want, exactly));
        }
        let ptx = compiler.ptx(&source)?.ok_or_else(|| told("does not compile".to_string()))?;
        let code = Module::parse(&ptx).map_err(|e| told(e.to_string()))?;
        let subject = Subject { entry, program, plan, source, runs, ptx, code };
        match subject.judge(&subject.plan, &subject.code) {
            Outcome::Survived => Ok(subject),
            other => Err(told(format!("the unchanged program: {other:?}"))),
        }
    }

    /// True when a kernel reads a parameter.
    pub fn reads(&self, kernel: &str, n: usize) -> bool {
        let kernel = symbol(NAME, kernel);
        self.ptx.contains(&format!("[{kernel}_param_{n}]")) || self.ptx.contains(&format!("[{kernel}_param_{n}+"))
    }

    /// A changed source.
    ///
    /// # Errors
    /// When the compiler's process fails, not when it refuses the source.
    pub fn try_source(&self, source: &str, compiler: &mut Compiler) -> Result<Outcome, String> {
        let Some(ptx) = compiler.ptx(source)? else { return Ok(Outcome::Refused) };
        if ptx == self.ptx {
            return Ok(Outcome::Same);
        }
        match Module::parse(&ptx) {
            Ok(code) => Ok(self.judge(&self.plan, &code)),
            Err(_) => Ok(Outcome::Killed("PTX refused".to_string())),
        }
    }

    /// A changed plan.
    pub fn try_plan(&self, plan: &cuda::Module) -> Outcome {
        self.judge(plan, &self.code)
    }

    fn judge(&self, plan: &cuda::Module, code: &Module) -> Outcome {
        let loaded = Loaded { program: &self.program, plan, code, name: NAME };
        for (n, (case, want, exactly)) in self.runs.iter().enumerate() {
            let run = |reversed, races| loaded.run(&case.inputs, Run { reversed, races, budget: Some(BUDGET) });
            // Races do not depend on values.
            let first = run(false, n == 0);
            match (want, first) {
                (Ok(want), Ok(got)) => {
                    if if *exactly { want.same(&got) } else { want.compare(&got) }.is_err() {
                        return Outcome::Killed("other result".to_string());
                    }
                    if n == 0 {
                        match run(true, false) {
                            Ok(again) if again.iter().zip(&got).all(|(a, b)| a.to_bytes() == b.to_bytes()) => {}
                            Ok(_) => return Outcome::Killed("order of blocks".to_string()),
                            Err(e) => return Outcome::Killed(cause(&e)),
                        }
                    }
                }
                (Err(want), Err(got)) if got.contains(want.message()) => {}
                (Err(_), Err(e)) | (Ok(_), Err(e)) => return Outcome::Killed(cause(&e)),
                (Err(_), Ok(_)) => return Outcome::Killed("no error".to_string()),
            }
        }
        Outcome::Survived
    }
}

/// The kind of fault that a message speaks of.
fn cause(message: &str) -> String {
    let fault = message.split(" in kernel ").next().and_then(|m| m.rsplit(' ').next()).unwrap_or("");
    let known = message.contains(" in kernel ") && fault.chars().all(|c| c.is_ascii_alphanumeric());
    if known {
        fault.to_string()
    } else if message.contains("which is of no buffer") {
        "written between buffers".to_string()
    } else if message.contains("was not written") {
        "output not written".to_string()
    } else if message.contains("is launched") {
        "check of the plan".to_string()
    } else if message.contains("out of bounds for dimension") || message.contains("error record") {
        "error record".to_string()
    } else if message.contains("of shared memory, the plan says") {
        "shared memory of the plan".to_string()
    } else {
        "refused".to_string()
    }
}
