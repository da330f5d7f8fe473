//! Golden tests in files: `tests/filetests/**/*.tir`, run by `tests/tests/filetests.rs`.
//!
//! ```text
//! ; test simplify
//! ; A line that says what the file shows.
//! graph {
//!   ...
//! }
//! ; expect
//! ; the output of the command, each line after "; "
//! ```
//! The command is one of
//! * `parse`: prints the graph again; `parse error`: the parser's message;
//! * `verify`: prints nothing; `verify error`: the graph is read without checks, the verifier's message;
//! * `simplify`, `decompose`: the graph after the pass, which must also compute the same;
//! * `grad`: the graph with the gradients, with respect to every float input, of the sum of the outputs;
//!   `grad error`: autodiff's message;
//! * `limits`: prints nothing; `limits error`: the message;
//! * `fuse`: what each step of the compiled program covers;
//! * `lower`: the compiled program with its kernels, which must also compute the same;
//! * `interp`: the outputs of a graph without inputs.
//!
//! `; option fusion=off` and `; option donate=INPUT:OUTPUT` change how `fuse` and `lower` compile,
//! `; option max_rank=NUMBER` and its like what `limits` allows. Instead
//! of the whole output a file may demand, by `; check TEXT` lines, that some lines of it contain each TEXT,
//! in order, and by `; absent TEXT` that none does. `TORSH_BLESS=1` rewrites what stands after `; expect`.

use crate::compare::{difference, magnitude};
use crate::values::{Rng, fill};
use std::path::{Path, PathBuf};
use torsh_ir::graph::{Graph, NodeId};
use torsh_ir::interp::{HostTensor, eval_graph, run_program};
use torsh_ir::limits::Limits;
use torsh_ir::op::{Tolerance, Values};
use torsh_ir::{Attr, Builder, Result, env, text, verify};
use torsh_passes::{Options, autodiff, compile, decompose, limits, simplify, split};

/// All test files below a folder, sorted.
pub fn files(root: &Path) -> Vec<PathBuf> {
    files_with(root, "tir")
}

/// All files with an extension below a folder, in order of their names.
pub fn files_with(root: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A test file in its parts.
struct Case<'a> {
    command: &'a str,
    /// Everything before the expectation.
    source: &'a str,
    expected: Option<String>,
    checks: Vec<&'a str>,
    absent: Vec<&'a str>,
    options: Options,
    limits: Limits,
}

const MARK: &str = "; expect";

impl<'a> Case<'a> {
    fn read(content: &'a str) -> Result<Case<'a>, String> {
        let mark = content.lines().scan(0, |at, line| {
            let here = *at;
            *at += line.len() + 1;
            Some((here, line))
        });
        let mark = mark.filter(|(_, line)| line.trim_end() == MARK).map(|(at, _)| at).next();
        let source = &content[..mark.unwrap_or(content.len())];
        let expected = mark.map(|at| {
            let lines = content[at..].lines().skip(1);
            lines
                .map(|l| l.strip_prefix("; ").or_else(|| l.strip_prefix(';')).unwrap_or(l))
                .collect::<Vec<_>>()
                .join("\n")
        });
        let after = |prefix: &str| -> Vec<&'a str> {
            source.lines().filter_map(|l| l.strip_prefix(prefix)).map(str::trim).collect()
        };
        let mut options = Options { verify: true, ..Options::default() };
        let mut limits = Limits::with_memory(8 << 30);
        for option in after("; option ") {
            match option.split_once('=') {
                Some(("fusion", "off")) => options.fusion = false,
                Some(("donate", pair)) => {
                    let pair = pair.split_once(':').and_then(|(i, o)| Some((i.parse().ok()?, o.parse().ok()?)));
                    options.donate.push(pair.ok_or("donate=INPUT:OUTPUT expected")?);
                }
                Some((name, value)) => set_limit(&mut limits, name, value)?,
                None => return Err(format!("unknown option {option}")),
            }
        }
        let command = after("; test ").first().copied().ok_or("no line `; test COMMAND`")?;
        Ok(Case { command, source, expected, checks: after("; check "), absent: after("; absent "), options, limits })
    }

    fn run(&self) -> Result<String, String> {
        let words = |e: torsh_ir::Error| e.to_string();
        match self.command {
            "parse" => parse(self.source).map(|g| text::print_with_lines(&g)),
            "parse error" => refused(text::parse(self.source)),
            "verify" => parse(self.source).map(|_| String::new()),
            "verify error" => refused(text::parse_unchecked(self.source).and_then(|g| verify::graph(&g))),
            "simplify" => pass(self.source, simplify::run, Tolerance::EXACT),
            "split" => pass(self.source, split::run, Tolerance::EXACT),
            "decompose" => pass(self.source, decompose::expand, Tolerance::EXACT),
            "grad" => {
                let graph = gradients(parse(self.source)?).map_err(words)?;
                checked(&graph)?;
                Ok(text::print(&graph))
            }
            "grad error" => refused(gradients(parse(self.source)?)),
            "limits" => limits::check(&parse(self.source)?, &self.limits).map(|()| String::new()).map_err(words),
            "limits error" => match limits::check(&parse(self.source)?, &self.limits) {
                Ok(()) => Err("an error was expected".to_string()),
                Err(e) => Ok(e.to_string()),
            },
            "fuse" => self.lower().map(|p| {
                let line = |s: &torsh_ir::program::Step| format!("{}\n", s.ops.join(" "));
                p.steps.iter().map(line).collect()
            }),
            "lower" => self.lower().map(|p| text::program(&p)),
            "interp" => {
                let out = eval_graph(&parse(self.source)?, &[]).map_err(words)?;
                constants(&out).map_err(words)
            }
            other => Err(format!("unknown command {other:?}")),
        }
    }

    /// Compiles, verifies, and compares with the graph's own meaning.
    fn lower(&self) -> Result<torsh_ir::program::Program, String> {
        let graph = parse(self.source)?;
        let program = compile(&graph, &self.options).map_err(|e| e.to_string())?;
        program.verify().map_err(|e| e.to_string())?;
        let inputs = inputs(&graph, &mut Rng::new(1));
        let want = eval_graph(&graph, &inputs).map_err(|e| format!("interpreting the graph: {e}"))?;
        let got = run_program(&program, &inputs).map_err(|e| format!("interpreting the program: {e}"))?;
        same(&got, &want, Tolerance::scaled(64.0))?;
        Ok(program)
    }

    fn judge(&self, output: &str) -> Result<(), String> {
        let mut lines = output.lines();
        for check in &self.checks {
            if !lines.any(|l| l.contains(check)) {
                return Err(format!("no line (in order) contains {check:?}:\n{output}"));
            }
        }
        if let Some(bad) = self.absent.iter().find(|a| output.contains(**a)) {
            return Err(format!("{bad:?} appears:\n{output}"));
        }
        match &self.expected {
            Some(want) if want.trim_end() != output.trim_end() => Err(first_difference(want, output)),
            None if self.checks.is_empty() && self.absent.is_empty() => {
                Err(format!("nothing is expected; TORSH_BLESS=1 writes:\n{output}"))
            }
            _ => Ok(()),
        }
    }
}

fn set_limit(limits: &mut Limits, name: &str, value: &str) -> Result<(), String> {
    let slot = match name {
        "max_rank" => &mut limits.max_rank,
        "max_elements" => &mut limits.max_elements,
        "max_tensor_bytes" => &mut limits.max_tensor_bytes,
        "max_nodes" => &mut limits.max_nodes,
        "max_constant_bytes" => &mut limits.max_constant_bytes,
        _ => return Err(format!("unknown option {name}")),
    };
    *slot = value.parse().map_err(|_| format!("{name}: a number expected, not {value}"))?;
    Ok(())
}

/// Runs a file; an error says what differs.
pub fn run(path: &Path) -> Result<(), String> {
    let content = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let case = Case::read(&content)?;
    let output = case.run()?;
    let narrow = case.expected.is_none() && !(case.checks.is_empty() && case.absent.is_empty());
    if env::bless() && !narrow {
        let blessed = format!("{}{MARK}\n{}", case.source, commented(&output));
        if blessed != content {
            std::fs::write(path, blessed).map_err(|e| e.to_string())?;
        }
        return Ok(());
    }
    case.judge(&output)
}

fn commented(output: &str) -> String {
    output.trim_end().lines().map(|l| format!("; {l}").trim_end().to_string() + "\n").collect()
}

fn first_difference(want: &str, got: &str) -> String {
    let (want, got): (Vec<_>, Vec<_>) = (want.trim_end().lines().collect(), got.trim_end().lines().collect());
    let differs = |i: usize| want.get(i).map(|l| l.trim_end()) != got.get(i).map(|l| l.trim_end());
    let at = (0..want.len().max(got.len())).find(|&i| differs(i)).unwrap_or(0);
    let line = |side: &[&str]| side.get(at).map_or("(the end)".to_string(), |l| (*l).to_string());
    format!(
        "line {} of the output\n  expected: {}\n  got:      {}\n\n{}",
        at + 1,
        line(&want),
        line(&got),
        got.join("\n")
    )
}

fn refused<T>(result: Result<T>) -> Result<String, String> {
    match result {
        Ok(_) => Err("an error was expected".to_string()),
        Err(e) => Ok(e.message().to_string()),
    }
}

/// Verifies a graph and its round trip through text.
fn checked(graph: &Graph) -> Result<(), String> {
    verify::graph(graph).map_err(|e| e.to_string())?;
    let printed = text::print(graph);
    let back = text::parse(&printed).map_err(|e| format!("the printed graph does not parse: {e}\n{printed}"))?;
    if !back.same(graph) {
        return Err(format!("the round trip changed the graph\n{printed}became\n{}", text::print(&back)));
    }
    Ok(())
}

fn parse(source: &str) -> Result<Graph, String> {
    let graph = text::parse(source).map_err(|e| e.to_string())?;
    checked(&graph)?;
    Ok(graph)
}

fn pass(source: &str, run: fn(Graph) -> Result<Graph>, tolerance: Tolerance) -> Result<String, String> {
    let before = parse(source)?;
    let after = run(before.clone()).map_err(|e| e.to_string())?;
    checked(&after)?;
    for seed in 0..4 {
        let inputs = inputs(&before, &mut Rng::new(seed));
        let want = eval_graph(&before, &inputs).map_err(|e| format!("before the pass: {e}"))?;
        let got = eval_graph(&after, &inputs).map_err(|e| format!("after the pass: {e}"))?;
        same(&got, &want, tolerance)?;
    }
    let again = run(after.clone()).map_err(|e| e.to_string())?;
    if !again.same(&after) {
        let (once, twice) = (text::print(&after), text::print(&again));
        return Err(format!("a second run of the pass changes its result\n{once}became\n{twice}"));
    }
    Ok(text::print(&after))
}

/// One random tensor per input. Integers of 64 bits are taken to be indices into small dims.
pub fn inputs(graph: &Graph, rng: &mut Rng) -> Vec<HostTensor> {
    let values = |rng: &mut Rng| if rng.one_in(3) { Values::Special } else { Values::Normal };
    let tensor = |ty: torsh_ir::Type| match ty.dtype {
        torsh_ir::DType::I64 => fill(ty, &Values::Index(2), rng),
        _ => {
            let kind = values(rng);
            fill(ty, &kind, rng)
        }
    };
    graph.input_types().into_iter().map(tensor).collect()
}

fn same(got: &[HostTensor], want: &[HostTensor], tolerance: Tolerance) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{} outputs instead of {}", got.len(), want.len()));
    }
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        if let Some(what) = difference(g, w, tolerance, magnitude(w)) {
            return Err(format!("output {i}: {what}"));
        }
    }
    Ok(())
}

/// The graph whose outputs are the gradients, with respect to each float input, of the sum of all elements
/// of all float outputs. Inputs without a gradient are left out.
pub fn gradients(graph: Graph) -> Result<Graph> {
    let outputs: Vec<NodeId> = graph.outputs().iter().copied().filter(|&o| graph.ty(o).dtype.is_float()).collect();
    let wrt: Vec<NodeId> = graph.inputs().iter().copied().filter(|&i| graph.ty(i).dtype.is_float()).collect();
    let builder = Builder::new(graph);
    let seeds: Vec<_> = outputs.iter().map(|&o| (o, builder.val(o).full_like(1.0).id())).collect();
    let (mut graph, found) = autodiff::grad(builder.finish()?, &seeds, &wrt)?;
    graph.set_outputs(found.into_iter().flatten().collect());
    Ok(graph)
}

/// Values as a graph of constants.
fn constants(values: &[HostTensor]) -> Result<String> {
    let mut graph = Graph::new();
    let mut outputs = Vec::new();
    for v in values {
        let data = Attr::Bytes(v.to_bytes().into());
        let attrs = [data, v.dtype().into(), v.ty.shape.dims().into()].into_iter().collect();
        outputs.push(graph.apply(torsh_ir::ops::op("constant"), &[], attrs)?);
    }
    graph.set_outputs(outputs);
    Ok(text::print(&graph))
}
