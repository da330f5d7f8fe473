//! Tensors on several devices, with stand-ins whose memory the host cannot see (`torsh_tests::far`).
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use torsh_frontend::compiled::{Args, Ended, Program, Returned, finish};
use torsh_frontend::index::{self, Index};
use torsh_frontend::node::{Grad, Node, NodeRef};
use torsh_frontend::session::{self, Config, Session};
use torsh_frontend::trace::{self, Leaf};
use torsh_frontend::view::Step;
use torsh_frontend::{Arg, Tensor, grad, ops, realise};
use torsh_ir::exec::{Device, DeviceKind};
use torsh_ir::op::Surface;
use torsh_ir::{Attrs, DType, ErrorKind, Result, Scalar, Shape, Type};
use torsh_runtime::CpuExecutor;
use torsh_tests::far::FarProvider;

const A: Device = Device::Cuda(0);
const B: Device = Device::Cuda(1);

/// The session of this process with two stand-ins, of which the first attempt to open one fails.
fn far() -> &'static FarProvider {
    static FAR: OnceLock<Arc<FarProvider>> = OnceLock::new();
    FAR.get_or_init(|| {
        session::init(Arc::new(CpuExecutor::new().unwrap()), Config { verify: true, ..Config::default() });
        let provider = Arc::new(FarProvider::new(2, 1));
        let session = session::get().unwrap();
        assert_eq!(
            session.on(A).err().unwrap().message(),
            "no cuda device is available: this program has the CPU only"
        );
        session.set_provider(provider.clone());
        assert_eq!(session.on(A).err().unwrap().message(), "device cuda:0 is busy");
        provider
    })
}

fn sess() -> &'static Session {
    far();
    session::get().unwrap()
}

fn tensor(device: Device, shape: &[usize], values: &[f32]) -> Tensor {
    let ty = Type::new(DType::F32, Shape::of(shape));
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    Tensor::new(Node::data(ty.clone(), sess().upload_to(device, &ty, &bytes).unwrap(), Grad::None))
}

fn ints(device: Device, values: &[i64]) -> Tensor {
    let ty = Type::new(DType::I64, Shape::of(&[values.len()]));
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    Tensor::new(Node::data(ty.clone(), sess().upload_to(device, &ty, &bytes).unwrap(), Grad::None))
}

fn to(x: &Tensor, device: Device) -> Tensor {
    Tensor::new(ops::to_device(&x.node(), device).unwrap())
}

/// The numbers of a tensor, and the device that they were read from.
fn read(x: &Tensor) -> (Device, Vec<f32>) {
    realise::realise(std::slice::from_ref(x)).unwrap();
    let buffer = x.node().buffer().unwrap();
    assert_eq!(buffer.device(), x.device(), "the buffer is where the tensor says");
    assert_eq!(buffer.host_bytes().is_some(), x.device() == Device::Cpu);
    let bytes = sess().download(&*buffer).unwrap();
    (x.device(), bytes.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect())
}

fn binary(name: &str, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    ops::binary(name, &Arg::from(a), &Arg::from(b))
}

fn scaled(x: &Tensor, by: f64) -> Tensor {
    ops::binary("mul", &Arg::from(x), &Arg::Scalar(Scalar::Float(by))).unwrap()
}

fn sum(x: &Tensor) -> NodeRef {
    let dims: Vec<usize> = (0..x.rank()).collect();
    let node = ops::apply_named("sum", &[x.node()], Attrs::from_iter([dims.as_slice().into()])).unwrap();
    ops::reshape(&node, &Shape::scalar()).unwrap()
}

#[test]
fn devices_are_opened_when_asked_for_and_refused_with_a_reason() {
    let s = sess();
    assert_eq!(s.on(Device::Cpu).unwrap().device(), Device::Cpu);
    assert_eq!(s.on(B).unwrap().device(), B);
    assert_eq!((s.device_count(DeviceKind::Cuda).unwrap(), s.device_count(DeviceKind::Cpu).unwrap()), (2, 1));
    for absent in [Device::Cuda(2), Device::Cuda(70_000), Device::Metal] {
        let e = s.on(absent).err().unwrap();
        assert_eq!(e.kind(), ErrorKind::Device);
        assert!(e.message().contains(&format!("device {absent} is not available")), "{e}");
        assert_eq!(ops::to_device(&tensor(Device::Cpu, &[1], &[1.0]).node(), absent).err().unwrap().kind(), e.kind());
    }
    assert_eq!(s.device_count(DeviceKind::Metal).err().unwrap().kind(), ErrorKind::Device);
    assert_eq!(s.properties(A).unwrap().name, "stand-in");
    assert_eq!(s.properties(Device::Cpu).err().unwrap().kind(), ErrorKind::Device);
    assert_eq!(s.on(A).unwrap().new_stream(0).err().unwrap().kind(), ErrorKind::Device);
    assert_eq!(s.on(Device::Cpu).unwrap().current_stream().err().unwrap().kind(), ErrorKind::Device);
}

#[test]
fn values_move_and_stay_where_they_are() {
    let x = tensor(A, &[3], &[1.0, 2.0, 3.0]);
    let y = scaled(&x, 2.0);
    assert_eq!(y.device(), A);
    assert_eq!(read(&y), (A, vec![2.0, 4.0, 6.0]));
    let z = to(&y, Device::Cpu);
    assert_eq!(read(&z), (Device::Cpu, vec![2.0, 4.0, 6.0]));
    assert!(Arc::ptr_eq(&ops::to_device(&z.node(), Device::Cpu).unwrap(), &z.node()));
    // A constant is made where it is wanted: nothing is copied.
    let before = far().traffic(1).now();
    let ones = ops::full(Scalar::Float(1.0), DType::F32, &Shape::of(&[2]), Device::Cpu).unwrap();
    assert_eq!(read(&Tensor::new(ops::to_device(&ones, B).unwrap())), (B, vec![1.0, 1.0]));
    assert_eq!(far().traffic(1).now()[0], before[0]);
}

#[test]
fn operands_on_two_devices_are_refused() {
    let (x, y, z) = (tensor(A, &[2], &[1.0, 2.0]), tensor(Device::Cpu, &[2], &[3.0, 4.0]), tensor(B, &[], &[5.0]));
    let e = binary("add", &y, &x).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Device);
    assert_eq!(
        e.message(),
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
    );
    assert_eq!((e.op(), e.shapes().len()), (Some("add"), 2));
    assert!(binary("add", &x, &z).err().unwrap().message().contains("cuda:0 and cuda:1"));
    let strict = ops::apply_named("concat", &[x.node(), y.node()], Attrs::from_iter([torsh_ir::Attr::Int(0)]));
    assert_eq!(strict.err().unwrap().kind(), ErrorKind::Device);
    let mask = Tensor::new(ops::cast(&y.node(), DType::Bool).unwrap());
    assert_eq!(ops::select(&mask, &Arg::from(&x), &Arg::from(&x)).err().unwrap().kind(), ErrorKind::Device);
    let m = tensor(A, &[2, 2], &[1.0; 4]);
    assert_eq!(ops::matmul(&m, &y).err().unwrap().op(), Some("matmul"));
    assert_eq!(ops::binary_inplace("add", &x, &Arg::from(&y)).err().unwrap().kind(), ErrorKind::Device);
    assert_eq!(x.set_grad(Some(y)).err().unwrap().kind(), ErrorKind::Device);
}

#[test]
fn numbers_of_the_cpu_stand_beside_any_tensor() {
    let (x, n) = (tensor(A, &[2], &[1.0, 2.0]), tensor(Device::Cpu, &[], &[10.0]));
    for y in [binary("add", &x, &n).unwrap(), binary("add", &n, &x).unwrap()] {
        assert_eq!(read(&y), (A, vec![11.0, 12.0]));
    }
    let both = binary("mul", &n, &tensor(A, &[], &[3.0])).unwrap();
    assert_eq!(read(&both), (A, vec![30.0]));
    ops::binary_inplace("add", &x, &Arg::from(&n)).unwrap();
    assert_eq!(read(&x), (A, vec![11.0, 12.0]));
    // Not the other way round: the result has no room on the CPU.
    assert_eq!(
        ops::binary_inplace("add", &n, &Arg::from(&tensor(A, &[], &[1.0]))).err().unwrap().kind(),
        ErrorKind::Device
    );
}

#[test]
fn a_chain_across_devices_is_cut_at_the_copies() {
    let x = tensor(Device::Cpu, &[2], &[1.0, 2.0]);
    let there = scaled(&to(&scaled(&x, 2.0), A), 3.0);
    let back = scaled(&to(&there, Device::Cpu), 5.0);
    let other = to(&binary("add", &back, &x).unwrap(), B);
    let all = binary("mul", &other, &to(&there, B)).unwrap();
    let (a, b) = (far().traffic(0).now(), far().traffic(1).now());
    assert_eq!(read(&all), (B, vec![31.0 * 6.0, 62.0 * 12.0]));
    assert_eq!(read(&there), (A, vec![6.0, 12.0]));
    let (a2, b2) = (far().traffic(0).now(), far().traffic(1).now());
    // Each value crosses once each way that it is asked for (and is read once), and each device runs one program between copies.
    assert_eq!((a2[0] - a[0], a2[1] - a[1], a2[3] - a[3]), (1, 3, 1));
    assert_eq!((b2[0] - b[0], b2[3] - b[3]), (2, 1));
}

#[test]
fn equal_graphs_of_two_devices_have_a_program_each() {
    let run = |device| read(&scaled(&tensor(device, &[5], &[1.0; 5]), 7.25)).1;
    let (a, b) = (far().traffic(0).now(), far().traffic(1).now());
    for _ in 0..3 {
        assert_eq!((run(A), run(B), run(Device::Cpu)), (vec![7.25; 5], vec![7.25; 5], vec![7.25; 5]));
    }
    let (a2, b2) = (far().traffic(0).now(), far().traffic(1).now());
    assert_eq!((a2[2] - a[2], a2[3] - a[3], b2[2] - b[2], b2[3] - b[3]), (1, 3, 1, 3));
}

#[test]
fn writes_views_and_indexes_stay_on_the_device() {
    let x = tensor(A, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let row = index::get(&x, &[Index::Int(1)]).unwrap();
    assert_eq!(read(&row), (A, vec![4.0, 5.0, 6.0]));
    assert!(far().traffic(0).slices.load(Ordering::Relaxed) > 0);
    // A write may come from another device, through a view to its base.
    ops::store(&row, &tensor(Device::Cpu, &[3], &[7.0, 8.0, 9.0]), false).unwrap();
    assert_eq!(read(&x), (A, vec![1.0, 2.0, 3.0, 7.0, 8.0, 9.0]));
    index::set(&x, &[Index::Int(0)], &Arg::from(&tensor(B, &[3], &[0.0, 1.0, 2.0]))).unwrap();
    assert_eq!(read(&x).1, [0.0, 1.0, 2.0, 7.0, 8.0, 9.0]);
    let column = x.view(Step::Permute([1, 0].into_iter().collect())).unwrap();
    assert_eq!(read(&column), (A, vec![0.0, 7.0, 1.0, 8.0, 2.0, 9.0]));

    // Indexes come from the CPU or the device itself.
    for device in [Device::Cpu, A] {
        let picked = index::get(&x, &[Index::Tensor(ints(device, &[1, 0])), Index::Tensor(ints(device, &[2, 1]))]);
        assert_eq!(read(&picked.unwrap()), (A, vec![9.0, 1.0]));
    }
    assert_eq!(index::get(&x, &[Index::Tensor(ints(B, &[1]))]).err().unwrap().kind(), ErrorKind::Device);
    let mut now = vec![7.0, 8.0, 9.0];
    for device in [Device::Cpu, A] {
        let mask = Tensor::new(ops::cast(&tensor(device, &[2], &[0.0, 1.0]).node(), DType::Bool).unwrap());
        assert_eq!(read(&index::get(&x, &[Index::Tensor(mask.clone())]).unwrap()), (A, now));
        now = vec![4.0; 3];
        index::set(&x, &[Index::Tensor(mask)], &Arg::Scalar(Scalar::Float(4.0))).unwrap();
    }
    assert_eq!(read(&x).1, [0.0, 1.0, 2.0, 4.0, 4.0, 4.0]);
    let whole = Index::Tensor(ints(A, &[0]));
    let values = Arg::from(&tensor(Device::Cpu, &[3], &[1.0; 3]));
    assert_eq!(index::set(&x, &[whole], &values).err().unwrap().kind(), ErrorKind::Device);
    let found = index::nonzero(&x).unwrap();
    assert_eq!((found[0].device, found[0].ty.shape.dims()), (A, &[5][..]));
}

#[test]
fn gradients_cross_back_to_where_their_leaves_are() {
    let (x, w) = (tensor(Device::Cpu, &[2], &[1.0, 2.0]), tensor(A, &[2], &[3.0, 5.0]));
    x.set_requires_grad(true).unwrap();
    w.set_requires_grad(true).unwrap();
    // A loss with constants on both sides, so that the gradient has some too.
    let here = binary("mul", &x, &x).unwrap();
    let there = binary("mul", &to(&here, A), &w).unwrap();
    let loss = Tensor::new(sum(&scaled(&there, 2.0)));
    let options = grad::Options { create_graph: false, retain_graph: true };
    grad::backward(std::slice::from_ref(&loss), &[None], None, options).unwrap();
    assert_eq!(read(&x.grad().unwrap()), (Device::Cpu, vec![12.0, 40.0]));
    assert_eq!(read(&w.grad().unwrap()), (A, vec![2.0, 8.0]));

    // Of the sum of both leaves alone the gradients are constants, one on each device.
    let total = binary("add", &Tensor::new(sum(&w)), &to(&Tensor::new(sum(&x)), A)).unwrap();
    let found = grad::grad(&[total], &[x.clone(), w.clone()], &[None], false, options).unwrap();
    let found: Vec<_> = found.into_iter().map(|g| read(&g.unwrap())).collect();
    assert_eq!(found, [(Device::Cpu, vec![1.0; 2]), (A, vec![1.0; 2])]);

    // Twice: d2/dx2 of 2 w x^2 is 4 w, on the CPU.
    let twice = grad::Options { create_graph: true, retain_graph: true };
    let loss = Tensor::new(sum(&scaled(&binary("mul", &to(&binary("mul", &x, &x).unwrap(), A), &w).unwrap(), 2.0)));
    let first = grad::grad(&[loss], std::slice::from_ref(&x), &[None], false, twice).unwrap().remove(0).unwrap();
    assert_eq!(first.device(), Device::Cpu);
    let second = grad::grad(&[Tensor::new(sum(&first))], &[x], &[None], false, options).unwrap().remove(0).unwrap();
    assert_eq!(read(&second), (Device::Cpu, vec![12.0, 20.0]));
    let wrong = tensor(Device::Cpu, &[2], &[1.0; 2]);
    let e = grad::backward(&[scaled(&w, 1.0)], &[Some(wrong)], None, options).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Device);
}

#[test]
fn rules_that_make_constants_make_them_where_they_are_used() {
    let options = grad::Options { create_graph: true, retain_graph: true };
    let mut checked = 0;
    for op in torsh_ir::ops::OPS.iter().filter(|op| matches!(op.surface, Surface::Unary { .. })) {
        let gradients = |away: Option<Device>| {
            let x = tensor(Device::Cpu, &[2], &[0.3, 0.7]);
            x.set_requires_grad(true).unwrap();
            let y = ops::unary(op.name, &x).ok().filter(Tensor::requires_grad)?;
            let y = away.map_or(y.clone(), |device| to(&y, device));
            let loss = Tensor::new(sum(&binary("mul", &y, &y).unwrap()));
            let first = grad::grad(&[loss], std::slice::from_ref(&x), &[None], false, options).unwrap().remove(0)?;
            let values = read(&first);
            let total = Tensor::new(sum(&first));
            if !total.requires_grad() {
                return Some((values, None));
            }
            let second = grad::grad(&[total], &[x], &[None], true, options).unwrap().remove(0);
            Some((values, second.map(|s| read(&s))))
        };
        let Some(want) = gradients(None) else { continue };
        assert_eq!(gradients(Some(A)).map(|g| format!("{g:?}")), Some(format!("{want:?}")), "{}", op.name);
        checked += 1;
    }
    assert!(checked > 30, "{checked} ops");
}

struct Given(Vec<Leaf>);

impl Args for Given {
    fn tensor(&self, leaf: usize) -> Option<&Tensor> {
        if let Some(Leaf::Tensor(t)) = self.0.get(leaf) { Some(t) } else { None }
    }
    fn float(&self, leaf: usize) -> Option<f64> {
        if let Some(Leaf::Float(x)) = self.0.get(leaf) { Some(*x) } else { None }
    }
    fn count(&self) -> usize {
        self.0.len()
    }
}

fn traced(given: &Given, fullgraph: bool, f: impl FnOnce(&[Tensor]) -> Vec<Tensor>) -> Result<(Ended, Vec<Tensor>)> {
    let proxies: Vec<Tensor> = trace::start(&given.0, fullgraph)?.into_iter().flatten().collect();
    let results = f(&proxies);
    let ended = finish(&results);
    if ended.is_err() {
        trace::abort();
    }
    Ok((ended?, results))
}

fn program(given: &Given, f: impl FnOnce(&[Tensor]) -> Vec<Tensor>) -> Program {
    match traced(given, true, f).unwrap().0 {
        Ended::Program(program) => *program,
        Ended::Broken(why) => panic!("broken: {why:?}"),
    }
}

fn results(program: &Program, given: &Given) -> Vec<(Device, Vec<f32>)> {
    assert_eq!(program.mismatch(given), None);
    let returned = program.run(given, &[]).unwrap();
    returned
        .into_iter()
        .map(|r| match r {
            Returned::New(t) | Returned::Handle(t) => read(&t),
            Returned::Arg(i) => read(given.tensor(i).unwrap()),
        })
        .collect()
}

#[test]
fn a_program_of_a_device_takes_floats_and_inputs_from_the_cpu() {
    let w = tensor(A, &[2], &[3.0, 5.0]);
    let given = Given(vec![Leaf::Tensor(tensor(Device::Cpu, &[2], &[1.0, 2.0])), Leaf::Float(2.0)]);
    let keep = w.clone();
    let program = program(&given, |x| {
        // A number that follows from floats is computed with the rest.
        let factor = binary("add", &binary("mul", &x[1], &x[1]).unwrap(), &x[1]).unwrap();
        let y = binary("mul", &to(&x[0], A), &keep).unwrap();
        ops::store(&keep, &binary("mul", &keep, &factor).unwrap(), false).unwrap();
        vec![binary("mul", &y, &factor).unwrap()]
    });
    assert_eq!(program.device(), A);
    let before = far().traffic(0).now();
    assert_eq!(results(&program, &given), [(A, vec![18.0, 60.0])]);
    assert_eq!(read(&w), (A, vec![18.0, 30.0]));
    let again = Given(vec![Leaf::Tensor(tensor(Device::Cpu, &[2], &[1.0, 1.0])), Leaf::Float(0.5)]);
    assert_eq!(results(&program, &again), [(A, vec![13.5, 22.5])]);
    assert_eq!(read(&w), (A, vec![13.5, 22.5]));
    let after = far().traffic(0).now();
    assert_eq!((after[2] - before[2], after[3] - before[3]), (0, 2), "nothing is compiled again");

    // The captured tensor goes to another device: the program no longer fits.
    w.set_data(&to(&w, B)).unwrap();
    assert!(program.mismatch(&again).unwrap().contains("device"));
}

#[test]
fn a_step_with_its_gradient_is_one_program_of_the_device() {
    let w = tensor(A, &[2], &[3.0, 5.0]);
    w.set_requires_grad(true).unwrap();
    let given = Given(vec![Leaf::Tensor(tensor(A, &[2], &[1.0, 2.0])), Leaf::Float(0.5)]);
    let keep = w.clone();
    let program = program(&given, |x| {
        let loss = Tensor::new(sum(&binary("mul", &x[0], &keep).unwrap()));
        grad::backward(std::slice::from_ref(&loss), &[None], None, grad::Options::default()).unwrap();
        let g = keep.grad().unwrap();
        torsh_frontend::mode::no_grad(|| {
            ops::binary_inplace("sub", &keep, &Arg::from(&binary("mul", &g, &x[1]).unwrap()))
        })
        .unwrap();
        keep.set_grad(None).unwrap();
        vec![loss.detach().unwrap()]
    });
    let before = far().traffic(0).now();
    assert_eq!(results(&program, &given), [(A, vec![13.0])]);
    assert_eq!(results(&program, &given), [(A, vec![10.5])]);
    assert_eq!(read(&w), (A, vec![2.0, 3.0]));
    assert_eq!((program.donated(), far().traffic(0).now()[3] - before[3]), (1, 2));
}

#[test]
fn a_function_on_two_devices_runs_piecewise() {
    let given = Given(vec![Leaf::Tensor(tensor(A, &[2], &[1.0, 2.0]))]);
    let moves = |x: &[Tensor]| vec![scaled(&to(&scaled(&x[0], 2.0), Device::Cpu), 3.0)];
    let (ended, out) = traced(&given, false, moves).unwrap();
    let Ended::Broken(why) = ended else { panic!("one program for two devices") };
    assert!(why.divided && why.reason.contains("goes from cuda:0 to cpu"), "{}", why.reason);
    assert_eq!(read(&out[0]), (Device::Cpu, vec![6.0, 12.0]));
    let e = traced(&given, true, moves).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Trace);
    assert!(e.message().contains("a program runs on one device"), "{e}");

    // So does one whose parts have nothing to do with each other, or that hands data of another device back.
    let other = tensor(Device::Cpu, &[1], &[8.0]);
    let apart = |x: &[Tensor]| vec![scaled(&x[0], 2.0), scaled(&other, 2.0)];
    let (ended, out) = traced(&given, false, apart).unwrap();
    assert!(matches!(ended, Ended::Broken(_)));
    assert_eq!((read(&out[0]), read(&out[1])), ((A, vec![2.0, 4.0]), (Device::Cpu, vec![16.0])));
    let data = |x: &[Tensor]| vec![scaled(&x[0], 2.0), tensor(Device::Cpu, &[1], &[9.0])];
    let (ended, out) = traced(&given, false, data).unwrap();
    assert!(matches!(ended, Ended::Broken(_)));
    assert_eq!(read(&out[1]), (Device::Cpu, vec![9.0]));

    // An argument handed back untouched is no output.
    let same = program(&given, |x| vec![x[0].clone(), scaled(&x[0], 4.0)]);
    assert_eq!(results(&same, &given), [(A, vec![1.0, 2.0]), (A, vec![4.0, 8.0])]);
}

#[test]
fn gradients_of_a_programs_results_reach_leaves_on_another_device() {
    let x = tensor(Device::Cpu, &[2], &[1.0, 2.0]);
    x.set_requires_grad(true).unwrap();
    let given = Given(vec![Leaf::Tensor(x.clone())]);
    let program = program(&given, |x| vec![scaled(&to(&x[0], A), 3.0)]);
    let returned = program.run(&given, &[]).unwrap();
    let Some(Returned::New(y)) = returned.into_iter().next() else { panic!("no result") };
    assert_eq!(read(&y), (A, vec![3.0, 6.0]));
    let loss = Tensor::new(sum(&y));
    grad::backward(&[loss], &[None], None, grad::Options::default()).unwrap();
    assert_eq!(read(&x.grad().unwrap()), (Device::Cpu, vec![3.0, 3.0]));
}
