//! The error record of the device: its first failure, whatever the position, index and order of the threads.

use torsh_codegen::cuda::{ERROR_BYTES, Failure, Options, decode_error, generate};
use torsh_ptx_sim::{Args, Config, Device, Module};
use torsh_tests::cuda::shapes::Shapes;
use torsh_tests::cuda::{compile, nvrtc, passes, ptx_flags};

const HEAD: &str = "static __device__ __forceinline__ void t_fail(";
const KERNEL: &str = "
extern \"C\" __global__ void fail(unsigned long long* e, unsigned check, unsigned long long at, long long index) {
    t_fail(e, check, at, index);
}
";

/// A kernel that reports a failure, by the function of the generated sources.
fn kernel() -> Module {
    let mut shapes = Shapes::default();
    shapes.errors();
    let case = &shapes.cases.first().expect("a case").1;
    let program = torsh_passes::compile(&case.graph, &passes()).expect("a program");
    let source = generate(&program, &Options::default()).expect("a source").source;
    let from = source.find(HEAD).expect("the function");
    let len = source[from..].find("\n}\n").expect("its end");
    let text = format!("{}\n}}\n{KERNEL}", &source[from..from + len]);
    let (code, _) = compile(&text, &ptx_flags(&Options::default()), "ptx").unwrap_or_else(|e| panic!("{e}"));
    Module::parse(&String::from_utf8_lossy(&code)).unwrap_or_else(|e| panic!("{e}"))
}

/// What the record says after these failures (check, position, index).
fn record(code: &Module, failures: &[(u32, u64, i64)]) -> Option<Failure> {
    let mut dev = Device::new(Config::default());
    let at = dev.alloc(ERROR_BYTES as u64).expect("memory");
    dev.write(at, &[0xff; ERROR_BYTES]).expect("a write");
    for &(check, position, index) in failures {
        let args = Args::new().u64(at).u32(check).u64(position).u64(index.cast_unsigned());
        dev.launch(code, "fail", [1, 1, 1], [1, 1, 1], 0, args.bytes()).unwrap_or_else(|e| panic!("{e}"));
    }
    let mut bytes = [0; ERROR_BYTES];
    dev.read(at, &mut bytes).expect("a read");
    decode_error(std::array::from_fn(|i| u64::from_le_bytes(std::array::from_fn(|b| bytes[8 * i + b]))))
}

#[test]
fn the_error_record_of_far_positions() {
    if nvrtc().is_none() {
        return;
    }
    let code = kernel();
    assert_eq!(record(&code, &[]), None);
    let index = 0x1234_5678_9abc_def1;
    for (position, told) in
        [(0, 0), (7, 7), (1 << 31, 1 << 31), (u64::from(u32::MAX), u32::MAX), (1 << 33, u32::MAX), (u64::MAX, u32::MAX)]
    {
        for check in [0, 1, 0xfffe] {
            for index in [index, -1, i64::MIN] {
                let failure = Failure { check: check as usize, position: told, index };
                assert_eq!(record(&code, &[(check, position, index)]), Some(failure));
            }
        }
    }
    // The first step, and of it the first position.
    let first = Failure { check: 2, position: 1 << 31, index: -4 };
    let all = [(3, 0, 9), (2, 1 << 31, -4), (2, (1 << 31) + 1, 1), (2, 1 << 40, 1), (0xfff0, 1, 1)];
    let mut backwards = all;
    backwards.reverse();
    assert_eq!(record(&code, &all), Some(first.clone()));
    assert_eq!(record(&code, &backwards), Some(first));
}
