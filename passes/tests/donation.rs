//! Donated inputs: a program may write an output over an input's memory only where nothing that it still
//! reads is lost. The interpreter runs programs over real bytes, so a wrong plan gives wrong numbers.

use torsh_ir::graph::{Graph, NodeId};
use torsh_ir::interp::{HostTensor, eval_graph, run_program};
use torsh_ir::sample::Random;
use torsh_ir::{Attr, Builder, DType, Scalar, Shape, Type, Val, text};
use torsh_passes::{Options, compile};

fn f32(shape: &[usize]) -> Type {
    Type::new(DType::F32, Shape::of(shape))
}

fn check(graph: &Graph, donate: &[(usize, usize)]) {
    let mut random = Random::new(3);
    let inputs: Vec<_> = graph
        .input_types()
        .into_iter()
        .map(|ty| HostTensor::from_fn(ty, |_| Scalar::Float((random.normal() * 8.0).round())))
        .collect();
    let want = eval_graph(graph, &inputs).expect("evaluates");
    for fusion in [true, false] {
        let options = Options { fusion, verify: true, donate: donate.to_vec(), ..Options::default() };
        let program = compile(graph, &options).unwrap_or_else(|e| panic!("{e}\n{}", text::print(graph)));
        let got = run_program(&program, &inputs).unwrap_or_else(|e| panic!("{e}\n{}", text::program(&program)));
        assert_eq!(got.len(), want.len());
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            assert!(
                g.to_f64() == w.to_f64(),
                "fusion {fusion}, donate {donate:?}, output {i}: {:?}, not {:?}\n{}{}",
                g.to_f64(),
                w.to_f64(),
                text::print(graph),
                text::program(&program)
            );
        }
    }
}

fn graph(inputs: &[&[usize]], f: impl for<'b> FnOnce(&'b Builder, &[Val<'b>]) -> Vec<Val<'b>>) -> Graph {
    let b = Builder::new(Graph::new());
    let x: Vec<_> = inputs.iter().map(|s| b.input(f32(s))).collect();
    let outputs: Vec<NodeId> = f(&b, &x).into_iter().map(Val::id).collect();
    let mut g = b.finish().expect("well formed");
    g.set_outputs(outputs);
    g
}

#[test]
fn inputs_that_change_places() {
    let g = graph(&[&[5], &[5]], |_, x| vec![x[1], x[0]]);
    check(&g, &[(0, 0), (1, 1)]);
    check(&g, &[(0, 0)]);
    check(&g, &[(1, 0)]);
    let g = graph(&[&[5], &[5], &[5]], |_, x| vec![x[1], x[2], x[0]]);
    check(&g, &[(0, 0), (1, 1), (2, 2)]);
    check(&g, &[(2, 0), (0, 1)]);
}

#[test]
fn one_input_for_two_outputs_and_two_names_for_one_output() {
    let g = graph(&[&[5], &[5]], |_, x| vec![x[0], x[0]]);
    check(&g, &[(0, 0), (1, 1)]);
    check(&g, &[(1, 0)]);
    let g = graph(&[&[5], &[5]], |_, x| {
        let y = x[0] + x[1];
        vec![y, y]
    });
    check(&g, &[(0, 0), (1, 1)]);
    check(&g, &[(0, 1)]);
}

#[test]
fn reads_of_the_old_value_come_first() {
    // The second output still needs the old first input, elsewhere than where it is written.
    let g = graph(&[&[4, 4], &[4, 4]], |_, x| vec![x[0] * x[1], x[0].permute(&[1, 0]) + x[1]]);
    check(&g, &[(0, 0), (1, 1)]);
    check(&g, &[(0, 1), (1, 0)]);
    let g = graph(&[&[7]], |_, x| vec![x[0].flip(&[0])]);
    check(&g, &[(0, 0)]);
    let g = graph(&[&[7]], |_, x| vec![x[0] + x[0].flip(&[0]), x[0]]);
    check(&g, &[(0, 0)]);
    check(&g, &[(0, 1)]);
    let g = graph(&[&[4, 4]], |_, x| vec![x[0] / x[0].sum(&[0]).expand(&[4, 4])]);
    check(&g, &[(0, 0)]);
    let g = graph(&[&[4, 4], &[4, 4]], |_, x| vec![x[0].dot_general(x[1], &[], &[], &[1], &[0])]);
    check(&g, &[(0, 0)]);
    check(&g, &[(1, 0)]);
}

#[test]
fn writes_through_slices() {
    let at = |k: i64| Attr::from(&[k][..]);
    let g = graph(&[&[8], &[3], &[8]], |b, x| {
        let y = b.op("slice_scatter", &[x[0], x[1]], &[at(2), at(5), at(1)]);
        let z = b.op("slice_scatter", &[y, x[0].slice_dim(0, 0, 3, 1)], &[at(4), at(7), at(1)]);
        vec![z, y + x[2], x[0]]
    });
    check(&g, &[(0, 0)]);
    check(&g, &[(0, 1), (2, 0)]);
    check(&g, &[(0, 2), (2, 1)]);
}

#[test]
fn momentum_and_parameters() {
    let g = graph(&[&[6], &[6], &[6], &[]], |_, x| {
        let [p, m, g, lr] = [x[0], x[1], x[2], x[3].broadcast_to(&[6])];
        let m = m.scale(0.5) + g;
        vec![p - lr * m, m, (p * p).sum(&[0]).reshape(&[])]
    });
    check(&g, &[(0, 0), (1, 1), (3, 2)]);
    check(&g, &[(1, 0), (2, 1)]);
}

/// Graphs of whole-tensor moves and sums: every value is a small integer, so results are exact.
fn random_graph(random: &mut Random) -> Graph {
    let shapes: Vec<&[usize]> = vec![&[4, 4]; 2 + random.below(3)];
    graph(&shapes, |b, x| {
        let mut pool = x.to_vec();
        for _ in 0..1 + random.below(8) {
            let (x, y) = (pool[random.below(pool.len())], pool[random.below(pool.len())]);
            pool.push(match random.below(9) {
                0 => x + y,
                1 => x - y,
                2 => x.permute(&[1, 0]),
                3 => x.flip(&[random.below(2)]),
                4 => x + x.sum(&[1]).expand(&[4, 4]),
                5 => x.maximum(y.permute(&[1, 0])),
                6 => {
                    let at = |k: [i64; 2]| Attr::from(&k[..]);
                    let (r, c) = (random.below(3) as i64, random.below(3) as i64);
                    let part = y.slice(&[0, 1], &[2, 3], &[1, 1]);
                    b.op("slice_scatter", &[x, part], &[at([r, c]), at([r + 2, c + 2]), at([1, 1])])
                }
                7 => b.concat(&[x.slice_dim(0, 2, 4, 1), y.slice_dim(0, 0, 2, 1)], 0),
                _ => x.reshape(&[2, 8]).permute(&[1, 0]).reshape(&[4, 4]),
            });
        }
        (0..1 + random.below(4)).map(|_| pool[random.below(pool.len())]).collect()
    })
}

#[test]
fn random_donations() {
    let mut random = Random::new(29);
    for _ in 0..300 {
        let g = random_graph(&mut random);
        let (inputs, outputs) = (random.permutation(g.inputs().len()), random.permutation(g.outputs().len()));
        let count = random.below(inputs.len().min(outputs.len()) + 1);
        let donate: Vec<_> = inputs.into_iter().zip(outputs).take(count).collect();
        check(&g, &donate);
    }
}
