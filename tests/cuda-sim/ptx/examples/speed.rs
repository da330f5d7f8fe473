//! Lane instructions a second on compiled kernels, with and without the search for races:
//! `cargo run --release -p torsh-ptx-sim --example speed`.

use std::time::Instant;

use torsh_ptx_sim::{Args, Config, Device, Module};

fn main() {
    let text = include_str!("../tests/fixtures/kernels.ptx");
    let module = Module::parse(text).expect("the fixture is valid");
    for (threads, races) in [(1, false), (2, false), (1, true)] {
        let mut dev = Device::new(Config { threads, races, ..Config::default() });
        let fill = |dev: &mut Device, n: usize| {
            let p = dev.alloc(n as u64 * 4).expect("memory");
            let b: Vec<u8> = (0..n).flat_map(|i| ((i % 777) as f32 * 0.01).to_le_bytes()).collect();
            dev.write(p, &b).expect("memory");
            p
        };
        let n = 128;
        let (x, y) = (fill(&mut dev, 64 * 5000), fill(&mut dev, 64 * 5000));
        let softmax = Args::new().u64(x).u64(y).i32(5000);
        let product = Args::new().u64(x).u64(x).u64(y).i32(n);
        for (name, grid, block, args) in [
            ("softmax", [64, 1, 1], [256, 1, 1], softmax),
            ("gm", [n as u32 / 16, n as u32 / 16, 1], [16, 16, 1], product),
        ] {
            let start = Instant::now();
            let r = dev.launch(&module, name, grid, block, 0, &args).expect("a right kernel");
            let rate = r.lane_instructions as f64 / start.elapsed().as_secs_f64() / 1e6;
            println!("{name}, {threads} threads, races {races}: {rate:.1} million lane instructions a second");
        }
    }
}
