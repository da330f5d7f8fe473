use super::*;
use crate::{Options as Compile, autodiff, compile, decompose};
use torsh_ir::interp::{HostTensor, run_program};
use torsh_ir::program::{Attend, Program, Step, StepOp};
use torsh_ir::{Scalar, Shape, Type};

const L: usize = 64;
const S: usize = 80;
const D: usize = 4;

/// Spellings of the scores between product and softmax.
#[derive(Copy, Clone, PartialEq, Debug)]
enum Spelling {
    Scaled,
    Divided,
    Filled,
    Kept,
    Added,
    Causal,
    ScaledAfterAdding,
    FilledWithNumber,
}

fn f32s(shape: &[usize]) -> Type {
    Type::new(DType::F32, Shape::of(shape))
}

fn plain(spelling: Spelling, keys: usize) -> Graph {
    let b = Builder::new(Graph::new());
    let (q, k, v) = (b.input(f32s(&[2, 3, L, D])), b.input(f32s(&[2, 3, keys, D])), b.input(f32s(&[2, 3, keys, D])));
    let three = |x: Val<'_>, shape: &[usize]| x.reshape(&[&[6], shape].concat()).id();
    let (q, k, v) = (three(q, &[L, D]), three(k.permute(&[0, 1, 3, 2]), &[D, keys]), three(v, &[keys, D]));
    let (q, k, v) = (b.val(q), b.val(k), b.val(v));
    let s = q.dot_general(k, &[0], &[0], &[2], &[1]).reshape(&[2, 3, L, keys]);
    let hidden = s.full_like(f64::NEG_INFINITY);
    let wide = |x: Val<'_>| x.reshape(&[1, 1, L, keys]).expand(&[2, 3, L, keys]).id();
    let mask = || b.val(wide(b.input(Type::new(DType::Bool, Shape::of(&[L, keys])))));
    let s = match spelling {
        Spelling::Scaled => s.scale(0.5),
        Spelling::Divided => s / s.full_like(2.0),
        Spelling::Filled => mask().select(hidden, s.scale(0.5)),
        Spelling::Kept => mask().select(s, hidden).scale(0.5),
        Spelling::Added => b.val(wide(b.input(f32s(&[L, keys])))) + s.scale(0.5),
        Spelling::Causal => {
            let ones = b.full(Scalar::Float(1.0), DType::F32, &Shape::of(&[L, keys]));
            let lower = b.op("tril", &[ones], &[Attr::Int(0)]);
            b.val(wide(lower.eq(lower.zeros_like()))).select(hidden, s.scale(0.5))
        }
        Spelling::ScaledAfterAdding => (b.val(wide(b.input(f32s(&[L, keys])))) + s).scale(0.5),
        Spelling::FilledWithNumber => mask().select(s.full_like(-1e9), s),
    };
    let p = b.op("softmax", &[s], &[Attr::Int(3)]).reshape(&[6, L, keys]);
    let out = p.dot_general(v, &[0], &[0], &[2], &[1]).reshape(&[2, 3, L, D]).id();
    let mut g = b.finish().expect("well formed");
    g.set_outputs(vec![out]);
    g
}

fn inputs(g: &Graph) -> Vec<HostTensor> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f64 / (1u64 << 24) as f64
    };
    let value = |t: &Type, x: f64| match t.dtype {
        DType::Bool => Scalar::Bool(x < 0.5),
        _ => Scalar::Float(4.0 * x - 2.0),
    };
    g.input_types().iter().map(|t| HostTensor::from_fn(t.clone(), |_| value(t, next()))).collect()
}

fn names(g: &Graph) -> Vec<&'static str> {
    rebuild::live_nodes(g).map(|id| g.node(id).op.name).collect()
}

#[track_caller]
fn close(a: &HostTensor, b: &HostTensor, what: &str) {
    for (x, y) in a.to_f64().iter().zip(b.to_f64()) {
        assert!((x - y).abs() < 1e-4, "{what}: {x} and {y}");
    }
}

#[test]
fn the_usual_spellings_are_recognised_and_mean_the_same() {
    use Spelling::*;
    for spelling in [Scaled, Divided, Filled, Kept, Added, Causal] {
        let g = plain(spelling, S);
        let done = run(g.clone()).unwrap();
        let names = names(&done);
        assert!(names.contains(&"scaled_dot_product_attention") && !names.contains(&"softmax"), "{spelling:?}");
        let node = rebuild::live_nodes(&done).find(|&id| done.node(id).op.name.starts_with("scaled")).unwrap();
        let o = Options::of(&done.node(node).attrs);
        assert_eq!((o.scale, o.causal, o.mask), (0.5, spelling == Causal, matches!(spelling, Filled | Kept | Added)));
        let x = inputs(&g);
        let with =
            run_program(&compile(&g, &Compile { fusion: true, verify: true, ..Compile::default() }).unwrap(), &x);
        let without =
            run_program(&compile(&g, &Compile { fusion: false, verify: true, ..Compile::default() }).unwrap(), &x);
        close(&with.unwrap()[0], &without.unwrap()[0], &format!("{spelling:?}"));
    }
}

#[test]
fn other_spellings_and_small_scores_stay() {
    for (spelling, keys) in
        [(Spelling::ScaledAfterAdding, S), (Spelling::FilledWithNumber, S), (Spelling::Scaled, S - 17)]
    {
        let g = plain(spelling, keys);
        assert!(names(&run(g).unwrap()).contains(&"softmax"), "{spelling:?} {keys}");
    }
}

#[test]
fn weights_that_are_read_stay() {
    let mut g = plain(Spelling::Scaled, S);
    let softmax = g.ids().find(|&id| g.node(id).op.name == "softmax").unwrap();
    g.set_outputs(vec![g.outputs()[0], softmax]);
    assert!(!names(&run(g).unwrap()).contains(&"scaled_dot_product_attention"));
}

#[test]
fn a_program_without_gradient_has_no_row_of_sums() {
    let g = decompose::expand(run(plain(Spelling::Scaled, S)).unwrap()).unwrap();
    let lse = |g: &Graph| {
        let at = rebuild::live_nodes(g).find(|&id| g.node(id).op.kind == Kind::Attention).unwrap();
        g.node(at).attrs.bool(5)
    };
    assert!(lse(&g));
    assert!(!lse(&results(g).unwrap()));
}

#[test]
fn the_gradient_of_a_plain_composition_takes_one_pass() {
    let g = plain(Spelling::Causal, S);
    let out = g.outputs()[0];
    let b = Builder::new(g);
    let ct = b.val(out).full_like(1.0).id();
    let g = b.finish().unwrap();
    let wrt: Vec<NodeId> = g.inputs().to_vec();
    let (mut g, grads) = autodiff::grad(g, &[(out, ct)], &wrt).unwrap();
    g.set_outputs(std::iter::once(out).chain(grads.into_iter().flatten()).collect());
    assert_eq!(g.outputs().len(), 4);
    let program = compile(&g, &Compile { fusion: true, verify: true, ..Compile::default() }).unwrap();
    let text = torsh_ir::text::program(&program);
    assert_eq!(text.matches("= attention ").count(), 1, "forward and gradient share one pass: {text}");
    assert_eq!(text.matches("= attention_grad ").count(), 1, "{text}");
    assert!(!text.contains("softmax") && !text.contains(" dot "), "{text}");
}

#[test]
fn notes_say_which_attentions_keep_their_scores_and_why() {
    assert_eq!(notes(&plain(Spelling::Scaled, S)), [""; 0]);
    let expected = "attention of 64 queries and 63 keys keeps its 64x63 scores: one pass pays from 4096 scores a head on, \
                    as of 64x64";
    assert_eq!(notes(&plain(Spelling::Causal, 63)), [expected]);
    assert_eq!(notes(&plain(Spelling::Scaled, 64)), [""; 0]);
    assert!(notes(&plain(Spelling::Scaled, 8))[0].ends_with("one pass pays from 16 queries and keys on"));
    let mut g = plain(Spelling::Scaled, S);
    let softmax = g.ids().find(|&id| g.node(id).op.name == "softmax").unwrap();
    g.set_outputs(vec![g.outputs()[0], softmax]);
    assert!(notes(&g)[0].ends_with("its weights are read by something else"));
    let program = compile(&plain(Spelling::Causal, 63), &Compile { fusion: true, ..Compile::default() }).unwrap();
    assert!(program.stats.fusion_notes.contains(&expected.to_string()));
    // Attention by name, too small by itself.
    let b = Builder::new(Graph::new());
    let q = b.input(f32s(&[2, 20, 4]));
    let o = Options { scale: 0.5, causal: false, dropout: 0.0, mask: false, safe: false };
    let out = b.op("scaled_dot_product_attention", &[q, q, q], &o.attrs()).id();
    let mut g = b.finish().unwrap();
    g.set_outputs(vec![out]);
    assert!(notes(&g)[0].starts_with("attention of 20 queries and 20 keys keeps its 20x20 scores"));
}

/// `scaled_dot_product_attention` of f16, to its outputs.
fn half(outputs: impl for<'b> Fn(Val<'b>) -> Vec<Val<'b>>) -> Graph {
    let b = Builder::new(Graph::new());
    let q = b.input(Type::new(DType::F16, Shape::of(&[2, L, D])));
    let o = Options { scale: 0.5, causal: false, dropout: 0.0, mask: false, safe: false };
    let out = b.op("scaled_dot_product_attention", &[q, q, q], &o.attrs());
    let ids = outputs(out).iter().map(|v| v.id()).collect();
    let mut g = b.finish().unwrap();
    g.set_outputs(ids);
    g
}

fn target(isa: &'static str) -> Compile {
    let mut options = Compile { fusion: true, verify: true, ..Compile::default() };
    options.target.isa = isa;
    options
}

fn attends(program: &Program) -> Vec<&Attend> {
    fn attend(step: &Step) -> Option<&Attend> {
        match &step.op {
            StepOp::Lib { call, .. } => call.attend(),
            _ => None,
        }
    }
    program.steps.iter().filter_map(attend).collect()
}

#[test]
fn half_attention_is_one_step_where_the_target_takes_its_operands() {
    let plain = half(|out| vec![out]);
    let program = compile(&plain, &target("sm_90")).unwrap();
    let calls = attends(&program);
    assert_eq!((program.steps.len(), calls.len()), (1, 1), "{}", torsh_ir::text::program(&program));
    assert!(calls[0].dtype == DType::F16 && !calls[0].lse);
    // Views of the result are views of what the call gives.
    let seen = compile(&half(|out| vec![out.permute(&[1, 0, 2])]), &target("sm_90")).unwrap();
    assert_eq!(seen.steps.len(), 2, "{}", torsh_ir::text::program(&seen));
    // Elsewhere the operands are converted, and the result.
    let program = compile(&plain, &target("avx2")).unwrap();
    let calls = attends(&program);
    assert!(calls.len() == 1 && calls[0].dtype == DType::F32, "{}", torsh_ir::text::program(&program));
    // Both mean the same: the result is rounded once.
    let x = HostTensor::from_fn(plain.input_types().remove(0), |i| Scalar::Float(((i * 37 + i / 7) % 19) as f64 / 8.0));
    let want = torsh_ir::interp::eval_graph(&plain, std::slice::from_ref(&x)).unwrap();
    for isa in ["sm_90", "avx2"] {
        let got = run_program(&compile(&plain, &target(isa)).unwrap(), std::slice::from_ref(&x)).unwrap();
        assert_eq!(got[0].to_bytes(), want[0].to_bytes(), "{isa}");
    }
}

#[test]
fn a_result_that_is_read_before_it_is_rounded_stays_f32() {
    let o = Options { scale: 0.5, causal: false, dropout: 0.0, mask: false, safe: false };
    let attrs: Vec<Attr> = o.attrs().into_iter().chain([Attr::Bool(true)]).collect();
    for (rounded, lse) in [(true, false), (false, true)] {
        let b = Builder::new(Graph::new());
        let q = b.input(Type::new(DType::F16, Shape::of(&[2, L, D])));
        let row = b.op("attention_forward", &[q, q, q], &attrs);
        let out = row.slice_dim(0, 0, 2 * L * D, 1).reshape(&[2, L, D]);
        let out = if rounded { out.cast(DType::F16) } else { out.scale(3.0).cast(DType::F16) }.id();
        let mut g = b.finish().unwrap();
        g.set_outputs(vec![out]);
        let g = results(g).unwrap();
        let at = rebuild::live_nodes(&g).find(|&id| g.node(id).op.kind == Kind::Attention).unwrap();
        assert_eq!(g.node(at).attrs.bool(5), lse);
        assert_eq!(g.ty(at).dtype, if lse { DType::F32 } else { DType::F16 });
    }
}
