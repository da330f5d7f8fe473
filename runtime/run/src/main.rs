//! `torsh-run`: runs a `.torsh` package on `.npy` files.

mod npy;

use lexopt::prelude::*;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use torsh_ir::exec::Executor;
use torsh_ir::limits::{self, Limits};
use torsh_ir::{Error, Result, env};
use torsh_runtime::package::{LoadOptions, Model, Package, PublicKey, Value, hex, unhex};
use torsh_runtime::{Config, CpuExecutor};

const HELP: &str = "\
torsh-run: runs a torsh package

usage: torsh-run MODEL.torsh [options]
  --input NAME=FILE.npy    an input; all inputs must be given
  --output NAME=FILE.npy   where to write an output (FILE.npy alone if there is one output); others are described
  --save-state FOLDER      writes each tensor of the state to FOLDER/NAME.npy after the calls
  --repeat N               calls N times (a training step learns N times); 1 by default
  --bench                  measures the call: best and median of many
  --info                   says what the package takes, gives and keeps, and runs nothing
  --trusted-key HEX        demands a signature by this ed25519 key (64 hexadecimal digits); may be given several times
  --sha256 HEX             demands this hash of the whole file (64 hexadecimal digits)
  --threads N              worker threads
  --version                which torsh this is
  --help                   this text

exit status: 0 done, 1 the package or an input was refused or the run failed, 2 the command line is wrong
";

#[derive(Default)]
struct Options {
    model: Option<PathBuf>,
    inputs: Vec<(String, PathBuf)>,
    outputs: Vec<(Option<String>, PathBuf)>,
    state: Option<PathBuf>,
    repeat: usize,
    bench: bool,
    info: bool,
    keys: Option<Vec<PublicKey>>,
    sha256: Option<[u8; 32]>,
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let options = match parse() {
        Ok(Asked::Run(options)) => options,
        Ok(Asked::Text(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            complain(&format!("{e}\n\n{HELP}"));
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            complain(&e.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Writes to stderr; the exit status says the same where nobody reads it.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "torsh-run: {text}");
}

/// What the command line asks for.
enum Asked {
    Run(Options),
    Text(String),
}

fn parse() -> std::result::Result<Asked, lexopt::Error> {
    let mut options = Options { repeat: 1, ..Options::default() };
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("input") => {
                let text = parser.value()?.string()?;
                let (name, path) = text.split_once('=').ok_or("--input needs NAME=FILE.npy")?;
                if let Some((_, before)) = options.inputs.iter().find(|(n, _)| n == name) {
                    return Err(format!("--input {text}: {name:?} was given before, as {}", before.display()).into());
                }
                options.inputs.push((name.to_string(), path.into()));
            }
            Long("output") => {
                let text = parser.value()?.string()?;
                let output = match text.split_once('=') {
                    Some((name, path)) => (Some(name.to_string()), path.into()),
                    None => (None, text.clone().into()),
                };
                if let Some((_, before)) = options.outputs.iter().find(|(n, _)| *n == output.0) {
                    return Err(format!("--output {text}: it was given before, as {}", before.display()).into());
                }
                options.outputs.push(output);
            }
            Long("save-state") => options.state = Some(parser.value()?.into()),
            Long("repeat") => options.repeat = parser.value()?.parse()?,
            Long("bench") => options.bench = true,
            Long("info") => options.info = true,
            Long("trusted-key") => {
                let key = unhex(&parser.value()?.string()?).ok_or("--trusted-key needs 64 hexadecimal digits")?;
                options.keys.get_or_insert_default().push(key);
            }
            Long("sha256") => {
                let hash = unhex(&parser.value()?.string()?).ok_or("--sha256 needs 64 hexadecimal digits")?;
                options.sha256 = Some(hash);
            }
            Long("threads") => options.threads = Some(parser.value()?.parse()?),
            Long("version") => return Ok(Asked::Text(format!("torsh-run {}\n", env!("CARGO_PKG_VERSION")))),
            Short('h') | Long("help") => return Ok(Asked::Text(HELP.to_string())),
            Value(path) if options.model.is_none() => options.model = Some(path.into()),
            other => return Err(other.unexpected()),
        }
    }
    if options.model.is_none() {
        return Err("a package is needed".into());
    }
    Ok(Asked::Run(options))
}

fn run(options: &Options) -> Result<()> {
    let path = options.model.as_deref().ok_or_else(|| Error::internal("no package"))?;
    let mut config = Config::from_env()?;
    config.threads = options.threads.or(config.threads);
    let executor = CpuExecutor::with_config(&config)?;
    limits::set(env::limits(Limits::with_memory(executor.memory_stats().limit / 3 * 4)));
    let start = Instant::now();
    let conditions = LoadOptions {
        trusted_keys: options.keys.clone(),
        sha256: options.sha256,
        memory: Some(executor.memory()),
        threads: executor.threads(),
    };
    let package = Package::load_with(path, &conditions)?;
    let loaded = start.elapsed().as_secs_f64() * 1e3;
    let mut model = package.instantiate(&executor)?;
    let compiled = start.elapsed().as_secs_f64() * 1e3 - loaded;
    if options.info {
        describe(&package, &model, loaded, compiled)?;
        return Ok(());
    }
    let inputs = inputs(options, &model, &executor)?;
    let mut outputs = Vec::new();
    for _ in 0..options.repeat.max(1) {
        outputs = model.run(&inputs)?;
    }
    write(options, &model, &outputs)?;
    if let Some(folder) = &options.state {
        let io = |e: std::io::Error| Error::runtime(format!("{}: {e}", folder.display()));
        std::fs::create_dir_all(folder).map_err(io)?;
        let mut written = std::collections::HashSet::new();
        for entry in model.manifest().state.clone() {
            // Names come from the file: a separator in one must not lead elsewhere.
            let name = entry.name.replace(['/', '\\'], "_");
            if !written.insert(name.clone()) {
                return Err(Error::value(format!("two tensors of the state would be written to {name}.npy")));
            }
            npy::write(&folder.join(format!("{name}.npy")), &model.state(&entry.name)?)?;
        }
    }
    if options.bench {
        bench(&mut model, &inputs)?;
    }
    Ok(())
}

fn inputs(options: &Options, model: &Model<'_>, executor: &dyn Executor) -> Result<Vec<Value>> {
    let ports = &model.manifest().inputs;
    if let Some((name, _)) = options.inputs.iter().find(|(n, _)| ports.iter().all(|p| p.name != *n)) {
        let names: Vec<&str> = ports.iter().map(|p| p.name.as_str()).collect();
        return Err(Error::value(format!("the package has no input {name:?}; there are: {}", names.join(", "))));
    }
    let mut values = Vec::with_capacity(ports.len());
    for port in ports {
        let given = options.inputs.iter().rfind(|(n, _)| *n == port.name);
        let (_, path) = given.ok_or_else(|| Error::value(format!("the input {:?} is missing", port.name)))?;
        values.push(npy::read(path, executor)?);
    }
    Ok(values)
}

fn write(options: &Options, model: &Model<'_>, outputs: &[Value]) -> Result<()> {
    let ports = &model.manifest().outputs;
    let mut written = vec![false; ports.len()];
    for (name, path) in &options.outputs {
        let found = match name {
            Some(name) => ports.iter().position(|p| p.name == *name),
            None => (ports.len() == 1).then_some(0),
        };
        let Some(i) = found else {
            let names: Vec<&str> = ports.iter().map(|p| p.name.as_str()).collect();
            return Err(Error::value(format!(
                "--output must name one of the outputs, as NAME=FILE.npy: {}; {} names none",
                names.join(", "),
                name.as_deref().map_or_else(|| path.display().to_string(), |n| format!("{n:?}")),
            )));
        };
        npy::write(path, &outputs[i])?;
        written[i] = true;
    }
    for ((port, value), _) in ports.iter().zip(outputs).zip(written).filter(|(_, written)| !written) {
        println!("{}: {} {}", port.name, value.ty(), npy::preview(value)?);
    }
    Ok(())
}

fn bench(model: &mut Model<'_>, inputs: &[Value]) -> Result<()> {
    let mut times = Vec::new();
    let begin = Instant::now();
    while times.len() < 10 || (begin.elapsed().as_secs_f64() < 1.0 && times.len() < 100_000) {
        let start = Instant::now();
        model.run(inputs)?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    println!("{} calls: best {:.2} us, median {:.2} us", times.len(), times[0], times[times.len() / 2]);
    Ok(())
}

fn describe(package: &Package, model: &Model<'_>, loaded: f64, compiled: f64) -> Result<()> {
    let (m, nodes) = (package.manifest(), package.forward()?.len());
    println!("{} ({} bytes, format {}, by {})", m.name, package.bytes(), m.version, m.producer);
    if let Some(license) = &m.license {
        println!("license: {license}");
    }
    for (key, value) in &m.metadata {
        println!("{key}: {value:?}");
    }
    if let Some(key) = package.signer() {
        println!("signed by {}", hex(key));
    }
    for lowered in package.lowered() {
        let steps = format!("used, {} steps", lowered.steps);
        let state = lowered.unused.as_ref().map_or(steps, |why| format!("not used: {why}"));
        println!("lowered {}: {state}", lowered.entry);
    }
    for code in package.code() {
        let kernels = format!("used, {} kernels", code.kernels);
        let state = code.unused.as_ref().map_or(kernels, |why| format!("not used: {why}"));
        println!("code {}: {state}", code.level);
    }
    m.dims.iter().for_each(|d| println!("dim {}: from {} to {}", d.name, d.min, d.max));
    for (what, ports) in [("input", &m.inputs), ("output", &m.outputs)] {
        ports.iter().for_each(|p| println!("{what} {}: {} {}", p.name, p.dtype, p.sizes()));
    }
    m.state.iter().for_each(|s| println!("state {}: {} {:?} {:?}", s.name, s.dtype, s.shape, s.role));
    let program = model.executable().program();
    println!(
        "{} nodes, {} steps, {} bytes at the peak; gradients: {}; loaded in {loaded:.2} ms, compiled in {compiled:.2} ms",
        nodes,
        program.steps.len(),
        program.peak_bytes,
        if m.vjp.is_some() { "yes" } else { "no" },
    );
    Ok(())
}
