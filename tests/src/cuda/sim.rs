//! Runs a launch plan on the simulated device: buffers of exactly their size, poisoned, every launch checked.

use super::batch::symbol;
use torsh_codegen::cuda::{self, ERROR_BYTES, LaunchArg};
use torsh_ir::interp::HostTensor;
use torsh_ir::program::{BufId, Place, Program};
use torsh_ptx_sim::{Args, Config, Device, Module, Order, Report};

/// How a plan is run.
#[derive(Copy, Clone, Debug)]
pub struct Run {
    /// Blocks and warps from the last to the first.
    pub reversed: bool,
    /// Look for races.
    pub races: bool,
    /// Warp instructions that a block may execute; the simulator's own number without.
    pub budget: Option<u64>,
}

/// A program with its plan and compiled kernels.
pub struct Loaded<'a> {
    /// The program.
    pub program: &'a Program,
    /// Its module.
    pub plan: &'a cuda::Module,
    /// Its kernels, as a batch names them.
    pub code: &'a Module,
    /// The name in the batch.
    pub name: &'a str,
}

/// Where buffers are.
struct Memory {
    inputs: Vec<u64>,
    arena: u64,
    own: Vec<u64>,
}

/// An allocation; empty ones get an address that nothing may touch.
fn alloc(dev: &mut Device, bytes: usize) -> Result<u64, String> {
    if bytes == 0 { Ok(0) } else { dev.alloc(bytes as u64).map_err(|e| e.to_string()) }
}

impl Memory {
    fn new(dev: &mut Device, program: &Program, inputs: &[HostTensor]) -> Result<Memory, String> {
        let mut memory = Memory { inputs: Vec::new(), arena: alloc(dev, program.arena_bytes)?, own: Vec::new() };
        for t in inputs {
            let at = alloc(dev, t.ty.nbytes())?;
            dev.write(at, &t.to_bytes()).map_err(|e| e.to_string())?;
            memory.inputs.push(at);
        }
        for b in &program.buffers {
            let own = match &b.place {
                Place::Output => alloc(dev, b.ty.nbytes())?,
                Place::Const(data) => {
                    let at = alloc(dev, data.len())?;
                    dev.write(at, data).map_err(|e| e.to_string())?;
                    at
                }
                Place::Input(_) | Place::Donated(_) | Place::Arena { .. } => 0,
            };
            memory.own.push(own);
        }
        Ok(memory)
    }

    fn address(&self, program: &Program, buf: BufId) -> u64 {
        match &program.buffers[buf.0 as usize].place {
            Place::Input(i) | Place::Donated(i) => self.inputs[*i as usize],
            Place::Arena { offset } => self.arena + *offset as u64,
            Place::Output | Place::Const(_) => self.own[buf.0 as usize],
        }
    }
}

/// Bytes of the arena between buffers.
fn slack(program: &Program) -> Vec<usize> {
    let mut free = vec![true; program.arena_bytes];
    for b in &program.buffers {
        if let Place::Arena { offset } = b.place {
            free[offset..offset + b.ty.nbytes()].fill(false);
        }
    }
    (0..free.len()).filter(|&i| free[i]).collect()
}

impl Loaded<'_> {
    /// Runs on inputs that are given up; gives the outputs.
    ///
    /// # Errors
    /// What the device found, or the program's own error.
    pub fn run(&self, inputs: &[HostTensor], how: Run) -> Result<Vec<HostTensor>, String> {
        self.measure(inputs, how).map(|(outputs, _)| outputs)
    }

    /// The same, with the figures of all launches together.
    ///
    /// # Errors
    /// What the device found, or the program's own error.
    pub fn measure(&self, inputs: &[HostTensor], how: Run) -> Result<(Vec<HostTensor>, Report), String> {
        let order = if how.reversed { Order::Reversed } else { Order::Forward };
        let mut dev = Device::new(Config {
            order,
            races: how.races,
            threads: 1,
            budget: how.budget.unwrap_or(Config::default().budget),
            ..Config::default()
        });
        let program = self.program;
        let memory = Memory::new(&mut dev, program, inputs)?;
        let mut figures = Report::default();
        let error = alloc(&mut dev, ERROR_BYTES)?;
        dev.write(error, &[0xff; ERROR_BYTES]).map_err(|e| e.to_string())?;
        for (i, step) in self.plan.steps.iter().enumerate() {
            // Of its own for each step: what is left over is unwritten again.
            let scratch = alloc(&mut dev, self.plan.scratch_bytes)?;
            for launch in &step.launches {
                self.plan.check_launch(launch).map_err(|e| e.to_string())?;
                let mut args = Args::new();
                for arg in &launch.args {
                    args = match arg {
                        LaunchArg::Buffer { buf, offset } => args.u64(memory.address(program, *buf) + *offset as u64),
                        LaunchArg::Scratch { offset } => args.u64(scratch + *offset as u64),
                        LaunchArg::Error => args.u64(error),
                        LaunchArg::U32(x) => args.u32(*x),
                        LaunchArg::U64(x) => args.u64(*x),
                    };
                }
                let kernel = &self.plan.kernels[launch.kernel];
                let name = symbol(self.name, &kernel.name);
                let report = dev
                    .launch(self.code, &name, launch.grid, launch.block, launch.dynamic_shared, args.bytes())
                    .map_err(|e| format!("step {i}, {name}: {e}"))?;
                figures.add(&report);
                let known = self.code.kernel(&name).ok_or("no such kernel")?;
                if known.static_shared > kernel.static_shared {
                    let (told, is) = (kernel.static_shared, known.static_shared);
                    return Err(format!("{name} has {is} bytes of shared memory, the plan says {told}"));
                }
            }
            if scratch != 0 {
                dev.free(scratch).map_err(|e| e.to_string())?;
            }
        }
        for byte in slack(program) {
            let at = memory.arena + byte as u64;
            if dev.unwritten(at, 1).map_err(|e| e.to_string())?.is_none() {
                return Err(format!("byte {byte} of the arena, which is of no buffer, was written"));
            }
        }
        let mut words = [0; ERROR_BYTES];
        dev.read(error, &mut words).map_err(|e| e.to_string())?;
        let word = |i: usize| words[8 * i..8 * i + 8].iter().rev().fold(0, |w, &b| w << 8 | u64::from(b));
        if let Some(e) = self.plan.failure(program, [word(0), word(1), word(2), word(3)]) {
            return Err(e.to_string());
        }
        let output = |&o: &BufId| {
            let ty = program.buffers[o.0 as usize].ty.clone();
            let (at, mut bytes) = (memory.address(program, o), vec![0; ty.nbytes()]);
            if !bytes.is_empty() {
                dev.read(at, &mut bytes).map_err(|e| e.to_string())?;
                if let Some(hole) = dev.unwritten(at, bytes.len() as u64).map_err(|e| e.to_string())? {
                    return Err(format!("byte {} of output b{} was not written", hole - at, o.0));
                }
            }
            HostTensor::from_bytes(ty, &bytes).map_err(|e| e.to_string())
        };
        let outputs: Result<Vec<HostTensor>, String> = program.outputs.iter().map(output).collect();
        Ok((outputs?, figures))
    }
}
