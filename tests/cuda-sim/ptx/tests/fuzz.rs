//! Damaged modules: reading and running them gives an answer or an error, never a panic.

use torsh_ptx_sim::{Config, Device, Module};

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n.max(1)
    }
}

/// Number of cases, times `TORSH_FUZZ` where that is set, and a seed that follows from it.
fn cases(base: usize) -> (usize, Rng) {
    let times = std::env::var("TORSH_FUZZ").ok().and_then(|v| v.parse().ok()).unwrap_or(1);
    (base * times, Rng(7 + times as u64))
}

/// Pieces of text between separators, separators among them.
fn pieces(text: &str) -> Vec<&str> {
    text.split_inclusive(|c: char| " ,;:.[]{}()+-@!|\n\t".contains(c)).collect()
}

fn damage(text: &str, rng: &mut Rng) -> String {
    let mut p: Vec<&str> = pieces(text);
    for _ in 0..=rng.below(3) {
        let (i, j) = (rng.below(p.len()), rng.below(p.len()));
        match rng.below(5) {
            0 => {
                p.remove(i);
            }
            1 => p.insert(i, p[j]),
            2 => p.swap(i, j),
            3 => {
                p[i] = ["0", "-1 ", "0xffffffffffffffff ", "99999999 ", ".v4", "%r1 ", "b64 ", "f16x2 ", "pred ", "s8 "]
                    [rng.below(10)]
            }
            _ => p.truncate(p.len() - rng.below(20).min(p.len() - 1)),
        }
    }
    p.concat()
}

#[test]
fn damaged_text_never_panics() {
    let (turns, mut rng) = cases(1000);
    let text = include_str!("fixtures/kernels.ptx");
    let (mut read, mut refused) = (0, 0);
    for _ in 0..turns {
        match Module::parse(&damage(text, &mut rng)) {
            Ok(_) => read += 1,
            Err(e) => {
                assert!(!e.message.is_empty());
                refused += 1;
            }
        }
    }
    assert!(read > 100 && refused > 100, "{read} and {refused}");
}

#[test]
fn damaged_kernels_never_panic() {
    let (turns, mut rng) = cases(1500);
    let text = include_str!("fixtures/kernels.ptx");
    // A kernel at a time, so that the damage hits what runs.
    let head = &text[..text.find(".visible").unwrap_or(0)];
    let kernels: Vec<&str> = text[head.len()..].split(".visible").skip(1).collect();
    let (mut good, mut faults) = (0, 0);
    for turn in 0..turns {
        let part = kernels[turn % kernels.len()];
        let Ok(m) = Module::parse(&format!("{head}.visible{}", damage(part, &mut rng))) else { continue };
        let mut dev = Device::new(Config { budget: 20_000, races: turn % 2 == 0, ..Config::default() });
        let p = dev.alloc(4096).unwrap();
        dev.write(p, &[1; 4096]).unwrap();
        let names: Vec<String> = m.kernels().map(str::to_string).collect();
        for name in names {
            let info = m.kernel(&name).unwrap();
            let mut params = vec![0u8; info.param_bytes as usize];
            for (offset, size) in &info.params {
                let v = if *size == 8 { p } else { 16 };
                let n = (*size as usize).min(8);
                params[*offset as usize..*offset as usize + n].copy_from_slice(&v.to_le_bytes()[..n]);
            }
            match dev.launch(&m, &name, [1; 3], [64, 1, 1], 64, &params) {
                Ok(_) => good += 1,
                Err(f) => {
                    assert!(!f.to_string().is_empty());
                    faults += 1;
                }
            }
        }
    }
    assert!(good > 10 && faults > 50, "{good} and {faults}");
}
