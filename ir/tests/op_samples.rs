//! Every op's facts agree with each other on its own samples, in every dtype it claims.

use torsh_ir::op::{Arity, Gen, Kind, Sample, Vjp};
use torsh_ir::ops::OPS;
use torsh_ir::{Attrs, Builder, DType, Graph, OpDef, Shape, Type};

fn types(sample: &Sample, dtype: DType) -> Vec<Type> {
    let ty = |g: &Gen| Type::new(g.dtype.unwrap_or(dtype), Shape::of(&g.shape));
    sample.inputs.iter().map(ty).collect()
}

/// Calls `f` with each sample's operand types in each dtype of the op that the sample does not fix.
fn each(f: impl Fn(&'static OpDef, &Sample, &[Type])) {
    for def in OPS {
        for sample in (def.samples)() {
            for dtype in def.dtypes.iter() {
                let types = types(&sample, dtype);
                if def.infer(&types, &sample.attrs).is_ok() || sample.inputs.iter().all(|g| g.dtype.is_none()) {
                    f(def, &sample, &types);
                }
            }
        }
    }
}

#[test]
fn every_sample_has_a_type() {
    for def in OPS {
        for sample in (def.samples)() {
            let typed = def.dtypes.iter().filter(|&d| def.infer(&types(&sample, d), &sample.attrs).is_ok()).count();
            let fixed = sample.inputs.first().is_some_and(|g| g.dtype.is_some());
            let wanted = if fixed { 1 } else { def.dtypes.iter().count() };
            assert!(typed >= wanted, "{}: {sample:?} has a type in {typed} of {wanted} dtypes", def.name);
        }
    }
}

#[test]
fn a_decomposition_has_the_inferred_type() {
    each(|def, sample, types| {
        let ty = def.infer(types, &sample.attrs).unwrap();
        let Some(decompose) = def.decompose else { return };
        let b = Builder::new(Graph::new());
        let x: Vec<_> = types.iter().map(|t| b.input(t.clone())).collect();
        let out = decompose(&torsh_ir::op::Call { x: &x, attrs: &sample.attrs, ty: &ty }).ty();
        if let Some(e) = b.error() {
            panic!("{} {types:?} {:?}: {e}", def.name, sample.attrs);
        }
        assert_eq!(out, ty, "{} {types:?} {:?}", def.name, sample.attrs);
    });
}

#[test]
fn a_gradient_has_the_operands_types() {
    each(|def, sample, types| {
        let Vjp::Rule(rule) = def.vjp else { return };
        let b = Builder::new(Graph::new());
        let x: Vec<_> = types.iter().map(|t| b.input(t.clone())).collect();
        let out = b.apply(torsh_ir::ops::op(def.name), &x, Attrs::clone(&sample.attrs));
        if !out.dtype().is_float() {
            return;
        }
        let ct = b.input(out.ty());
        let found = rule(&torsh_ir::op::VjpCall { x: &x, attrs: &sample.attrs, out, ct });
        if let Some(e) = b.error() {
            panic!("{} {types:?} {:?}: {e}", def.name, sample.attrs);
        }
        assert_eq!(found.len(), x.len(), "{}", def.name);
        for (x, d) in x.iter().zip(found) {
            match d {
                Some(d) => assert_eq!(d.ty(), x.ty(), "{} {types:?} {:?}", def.name, sample.attrs),
                None => assert!(!x.dtype().is_float(), "{} has no gradient for an operand", def.name),
            }
        }
    });
}

#[test]
fn definitions_are_complete() {
    for def in OPS {
        let name = def.name;
        // The one-pass attentions are differentiated as the plain composition.
        let decomposes = matches!(def.kind, Kind::Composite | Kind::Attention | Kind::AttentionGrad);
        assert_eq!(decomposes, def.decompose.is_some(), "{name}: composites have a decomposition");
        let elementwise = matches!(def.kind, Kind::Elementwise(_) | Kind::Input);
        assert_eq!(elementwise || def.kind == Kind::Composite, def.eval.is_none(), "{name}: primitives have a meaning");
        let leaf = def.arity == Arity::Fixed(0);
        assert!(leaf || !(def.samples)().is_empty(), "{name}: no samples");
        assert!(!def.doc.is_empty(), "{name}: no doc");
        if def.kind == Kind::Composite {
            assert!(def.doc.contains(">>> "), "{name}: no example");
        }
        let via = matches!(def.vjp, Vjp::ViaDecompose);
        assert!(!via || def.decompose.is_some(), "{name}: nothing to differentiate");
    }
}
