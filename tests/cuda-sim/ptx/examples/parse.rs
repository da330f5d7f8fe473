//! Says whether PTX files are understood: `cargo run --release -p torsh-ptx-sim --example parse FILE...`.

fn main() {
    for path in std::env::args().skip(1) {
        let text = match std::fs::read_to_string(&path) {
            Ok(t) => t,
            Err(e) => {
                println!("{path}: {e}");
                continue;
            }
        };
        match torsh_ptx_sim::Module::parse(&text) {
            Ok(m) => println!("{path}: {} kernels", m.kernels().count()),
            Err(e) => println!("{path}: {e}"),
        }
    }
}
