//! The device: memory, modules and launches.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crate::args::Args;
use crate::ast::Space;
use crate::error::{Error, Fault, FaultKind};
use crate::exec::{Launch, Room, run_block};
use crate::mem::{Memory, Snapshot};
use crate::module::Module;
use crate::race::Shadow;
use crate::report::Report;

/// The order in which blocks, and the warps of a block, take their turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// From the first to the last.
    #[default]
    Forward,
    /// From the last to the first: a kernel that leans on an order gives another answer.
    Reversed,
}

/// What the device is and what it looks for.
#[derive(Clone, Debug)]
pub struct Config {
    /// Compute capability, 90 for sm_90. A module for a later one is refused.
    pub sm: u32,
    /// Multiprocessors.
    pub sms: u32,
    /// Bytes of shared memory that one block may have.
    pub shared_limit: u32,
    /// Bytes of global memory.
    pub memory: u64,
    /// Order of blocks and warps.
    pub order: Order,
    /// Look for races; blocks then run on one thread.
    pub races: bool,
    /// Fault on loads of bytes that nobody wrote.
    pub check_uninit: bool,
    /// Move the results of `.approx` instructions inside the errors that the PTX manual allows.
    pub perturb: bool,
    /// Warp instructions that one block may execute.
    pub budget: u64,
    /// Host threads that run blocks.
    pub threads: usize,
}

impl Default for Config {
    /// An H100: sm_90, 132 multiprocessors, 227 KiB of shared memory a block; 1 GiB of memory.
    fn default() -> Config {
        Config {
            sm: 90,
            sms: 132,
            shared_limit: 227 * 1024,
            memory: 1 << 30,
            order: Order::Forward,
            races: false,
            check_uninit: true,
            perturb: false,
            budget: 200_000_000,
            threads: 2,
        }
    }
}

/// A simulated device.
///
/// ```
/// use torsh_ptx_sim::{Args, Config, Device, Module};
/// let ptx = "
/// .version 8.8
/// .target sm_90
/// .address_size 64
/// .visible .entry twice(.param .u64 p) {
///   .reg .b32 %r<3>; .reg .b64 %rd<4>;
///   ld.param.u64 %rd1, [p];
///   mov.u32 %r1, %tid.x;
///   mul.wide.u32 %rd2, %r1, 4;
///   add.s64 %rd3, %rd1, %rd2;
///   ld.global.u32 %r2, [%rd3];
///   shl.b32 %r2, %r2, 1;
///   st.global.u32 [%rd3], %r2;
///   ret;
/// }";
/// let module = Module::parse(ptx).unwrap();
/// let mut dev = Device::new(Config::default());
/// let p = dev.alloc(12).unwrap();
/// dev.write(p, &[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]).unwrap();
/// let report = dev.launch(&module, "twice", [1; 3], [3, 1, 1], 0, Args::new().u64(p).bytes()).unwrap();
/// let mut out = [0; 12];
/// dev.read(p, &mut out).unwrap();
/// assert_eq!(out, [2, 0, 0, 0, 4, 0, 0, 0, 6, 0, 0, 0]);
/// assert_eq!(report.global_load.bytes, 12);
/// // One thread more reaches beyond the twelve bytes.
/// let fault = dev.launch(&module, "twice", [1; 3], [4, 1, 1], 0, Args::new().u64(p).bytes()).unwrap_err();
/// assert_eq!(fault.threads, [[3, 0, 0]]);
/// ```
#[derive(Debug)]
pub struct Device {
    config: Config,
    memory: Memory,
    /// Addresses of the variables of every module that was loaded.
    modules: HashMap<u64, Vec<u64>>,
}

impl Device {
    /// A device with empty memory.
    pub fn new(config: Config) -> Device {
        Device::beginning_at(config, 0)
    }

    /// A device with empty memory, whose addresses begin at `first` or later: so several have none in common.
    pub fn beginning_at(config: Config, first: u64) -> Device {
        Device { config, memory: Memory::beginning_at(first), modules: HashMap::new() }
    }

    /// What the device is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Changes order and checks between launches.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// Allocates exactly so many bytes, poisoned and counted as unwritten, at a multiple of 512.
    ///
    /// # Errors
    /// When the memory of the configuration does not suffice, or for zero bytes.
    pub fn alloc(&mut self, bytes: u64) -> Result<u64, Error> {
        if bytes == 0 {
            return Err(Error::new(0, "an allocation of zero bytes"));
        }
        let free = self.config.memory.saturating_sub(self.memory.live_bytes);
        if bytes > free {
            return Err(Error::new(0, format!("an allocation of {bytes} bytes, but only {free} are free")));
        }
        Ok(self.memory.alloc(bytes, "", false))
    }

    /// Frees an allocation; its address is never handed out again.
    ///
    /// # Errors
    /// When the address is not that of a live allocation.
    pub fn free(&mut self, addr: u64) -> Result<u64, Box<Fault>> {
        self.memory.free(addr)
    }

    /// Writes bytes from the host.
    ///
    /// # Errors
    /// When the range is not inside one allocation.
    pub fn write(&mut self, addr: u64, data: &[u8]) -> Result<(), Box<Fault>> {
        if !data.is_empty() {
            self.memory.find(addr, data.len() as u64)?.write(addr, data);
        }
        Ok(())
    }

    /// Reads bytes to the host; those that nobody wrote are 0xff.
    ///
    /// # Errors
    /// When the range is not inside one allocation.
    pub fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Box<Fault>> {
        if !out.is_empty() {
            self.memory.find(addr, out.len() as u64)?.read(addr, out);
        }
        Ok(())
    }

    /// The first byte of a range that nobody wrote.
    ///
    /// # Errors
    /// When the range is not inside one allocation.
    pub fn unwritten(&self, addr: u64, bytes: u64) -> Result<Option<u64>, Box<Fault>> {
        Ok(self.memory.find(addr, bytes)?.unwritten(addr, bytes))
    }

    /// Copies on the device; bytes that nobody wrote stay so.
    ///
    /// # Errors
    /// When a range is not inside one allocation.
    pub fn copy(&mut self, dst: u64, src: u64, bytes: u64) -> Result<(), Box<Fault>> {
        if bytes == 0 { Ok(()) } else { self.memory.copy(dst, src, bytes) }
    }

    /// Base and length of the allocation that holds the range.
    ///
    /// # Errors
    /// When the range is not inside one allocation.
    pub fn allocation(&self, addr: u64, bytes: u64) -> Result<(u64, u64), Box<Fault>> {
        self.memory.find(addr, bytes).map(|a| (a.base, a.len))
    }

    /// Live allocations, module variables left out, and their bytes.
    pub fn live(&self) -> (u64, u64) {
        self.memory.live().filter(|a| a.name.is_empty()).fold((0, 0), |(n, b), a| (n + 1, b + a.len))
    }

    /// Bytes of all live allocations, and the most there ever were.
    pub fn bytes(&self) -> (u64, u64) {
        (self.memory.live_bytes, self.memory.peak_bytes)
    }

    /// Places the variables of a module in memory, once; a launch does it by itself.
    ///
    /// # Errors
    /// When the module is for a later device.
    pub fn load(&mut self, m: &Module) -> Result<(), Error> {
        if self.modules.contains_key(&m.id) {
            return Ok(());
        }
        if m.sm > self.config.sm {
            return Err(Error::new(0, format!("the module is for sm_{}, the device is sm_{}", m.sm, self.config.sm)));
        }
        let mut vars = Vec::new();
        for v in &m.vars {
            if !matches!(v.space, Space::Global | Space::Const) {
                vars.push(0);
                continue;
            }
            let at = self.memory.alloc(u64::from(v.size.max(1)), &v.name, v.space == Space::Const);
            let mut data = vec![0; v.size as usize];
            data[..v.init.len()].copy_from_slice(&v.init);
            if !data.is_empty()
                && let Ok(a) = self.memory.find(at, data.len() as u64)
            {
                a.write(at, &data);
            }
            vars.push(at);
        }
        self.modules.insert(m.id, vars);
        Ok(())
    }

    /// Frees the variables of a module.
    pub fn unload(&mut self, m: &Module) {
        for at in self.modules.remove(&m.id).unwrap_or_default() {
            if at != 0 {
                // The address came from `load`, so it is live.
                let _ = self.memory.free(at);
            }
        }
    }

    /// Address and size of a variable of a module.
    ///
    /// # Errors
    /// When the module cannot be loaded or has no such variable.
    pub fn global(&mut self, m: &Module, name: &str) -> Result<(u64, u64), Error> {
        self.load(m)?;
        let i = m.vars.iter().position(|v| v.name == name && matches!(v.space, Space::Global | Space::Const));
        let i = i.ok_or_else(|| Error::new(0, format!("the module has no variable `{name}`")))?;
        Ok((self.modules[&m.id][i], u64::from(m.vars[i].size)))
    }

    /// Runs a kernel to its end. `params` are the bytes of its parameters, see [`Args`].
    ///
    /// # Errors
    /// The first rule that the kernel or the launch breaks.
    pub fn launch(
        &mut self,
        m: &Module,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        params: impl AsRef<[u8]>,
    ) -> Result<Report, Box<Fault>> {
        let refuse = |kind, text: String| {
            let mut f = Fault::bare(kind, text);
            f.kernel = kernel.to_string();
            Err(f)
        };
        if let Err(e) = self.load(m) {
            return refuse(FaultKind::Launch, e.message);
        }
        let Some(k) = m.kernels.get(kernel) else {
            return refuse(FaultKind::Launch, "the module has no such kernel".to_string());
        };
        let params = params.as_ref();
        let threads = block.iter().fold(1u64, |n, d| n * u64::from(*d));
        let blocks = grid.iter().fold(1u128, |n, d| n * u128::from(*d));
        let why = if threads == 0 || blocks == 0 {
            Some(format!("grid {grid:?} of blocks {block:?}: no extent may be zero"))
        } else if threads > 1024 || block[2] > 64 {
            Some(format!("blocks {block:?}: at most 1024 threads, at most 64 along z"))
        } else if grid[0] > i32::MAX as u32 || grid[1] > 65_535 || grid[2] > 65_535 {
            Some(format!("grid {grid:?}: at most 2147483647 x 65535 x 65535 blocks"))
        } else if blocks > u128::from(u32::MAX) {
            Some(format!("grid {grid:?}: more blocks than can be simulated"))
        } else if k.max_threads.is_some_and(|n| threads > u64::from(n)) {
            Some(format!(
                "{threads} threads a block, but the kernel's launch bounds allow {}",
                k.max_threads.unwrap_or(0)
            ))
        } else if k.req_threads.is_some_and(|r| r != block) {
            Some(format!("blocks {block:?}, but the kernel requires {:?}", k.req_threads.unwrap_or_default()))
        } else if params.len() != k.param_bytes as usize {
            Some(format!("{} bytes of parameters, but the kernel takes {}", params.len(), k.param_bytes))
        } else {
            None
        };
        if let Some(why) = why {
            return refuse(FaultKind::Launch, why);
        }
        let shared = u64::from(k.static_shared) + u64::from(dynamic_shared);
        if shared > u64::from(self.config.shared_limit) {
            let limit = self.config.shared_limit;
            let text = format!("{shared} bytes of shared memory ({} static), the limit is {limit}", k.static_shared);
            return refuse(FaultKind::SharedLimit, text);
        }
        let c = &self.config;
        let launch = Launch {
            kernel: k,
            lines: &m.lines,
            params,
            global: Snapshot::new(&self.memory),
            memory: &self.memory,
            shadow: c.races.then(|| Mutex::new(Shadow::default())),
            atomics: Mutex::new(()),
            grid,
            block,
            dynamic_shared,
            vars: &self.modules[&m.id],
            reversed: c.order == Order::Reversed,
            check_uninit: c.check_uninit,
            perturb: c.perturb,
            sms: c.sms.max(1),
            budget: c.budget,
        };
        let n = blocks as u32;
        // Small launches are over before a second thread has started.
        let small = n < 4 || blocks * u128::from(threads) < 2048;
        let workers = if c.races || small { 1 } else { c.threads.clamp(1, n as usize) };
        let mut report = run(&launch, n, workers)?;
        report.launches = 1;
        Ok(report)
    }
}

/// Runs the blocks on so many host threads. Of several faults the one of the block that comes first is given.
fn run(launch: &Launch, blocks: u32, workers: usize) -> Result<Report, Box<Fault>> {
    let next = AtomicU32::new(0);
    let stop = AtomicBool::new(false);
    let work = || -> (Report, Option<(u32, Box<Fault>)>) {
        let mut room = Room::new(launch);
        loop {
            let turn = next.fetch_add(1, Relaxed);
            if turn >= blocks || stop.load(Relaxed) {
                return (room.env.report, None);
            }
            let index = if launch.reversed { blocks - 1 - turn } else { turn };
            if let Err(f) = run_block(&mut room, index) {
                stop.store(true, Relaxed);
                return (room.env.report, Some((turn, f)));
            }
        }
    };
    let parts = if workers == 1 {
        vec![work()]
    } else {
        std::thread::scope(|s| {
            let handles: Vec<_> = (1..workers).map(|_| s.spawn(work)).collect();
            let mut parts = vec![work()];
            for h in handles {
                match h.join() {
                    Ok(p) => parts.push(p),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            parts
        })
    };
    let mut report = Report::default();
    let mut fault: Option<(u32, Box<Fault>)> = None;
    for (r, f) in parts {
        report.add(&r);
        if let Some((turn, f)) = f
            && fault.as_ref().is_none_or(|(t, _)| turn < *t)
        {
            fault = Some((turn, f));
        }
    }
    fault.map_or(Ok(report), |(_, f)| Err(f))
}

impl AsRef<[u8]> for Args {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}
