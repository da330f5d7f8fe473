//! Rules of views. They move elements only, so all are exact. `expand` is kept outermost: what is computed
//! below it is computed once.

use super::rule::{Rhs, Rule, Term, full, rules, with};
use torsh_ir::attr::{Attr, AttrsExt};
use torsh_ir::op::{Kind, View};
use torsh_ir::shape::Ints;

/// The rules of a view, to be tried in order.
pub(super) fn of(view: View) -> &'static [Rule] {
    match view {
        View::Reshape => RESHAPE,
        View::Permute => PERMUTE,
        View::Expand => EXPAND,
        View::Slice => SLICE,
        View::Flip => FLIP,
        View::Pad => PAD,
        View::Windows => WINDOWS,
    }
}

/// Every list of this file.
pub(super) static ALL: &[&[Rule]] = &[VIEW, RESHAPE, PERMUTE, EXPAND, SLICE, FLIP, PAD, WINDOWS];

/// A slice of a concat with more parts than this is left alone, which keeps simplification linear.
const MAX_PARTS: usize = 64;

rules! {
    /// Tried on every view, before its own.
    VIEW {
        view_full: "view(full(v)) = full(v); pad: where it pads with v" => |t| {
            let value = t.full(t.x(0))?;
            let same = t.node.op.kind != Kind::View(View::Pad) || t.attrs().scalar(2) == value;
            same.then(|| full(value, t.ty()))
        };
    }
    RESHAPE {
        reshape_same: "reshape(x) = x, same shape" => |t| (t.dims(t.x(0)) == t.ty().shape.dims()).then(|| t.x(0).into());
        reshape_reshape: "reshape(reshape(x)) = reshape(x)" => |t| {
            Some(with("reshape", [t.view(t.x(0), View::Reshape)?.0.into()], [t.attrs()[0].clone()]))
        };
        reshape_expand: "reshape(expand(x)) = expand(reshape(x)), where only dims of size 1 come and go" => reshape_expand;
    }
    PERMUTE {
        permute_reshape: "permute(x) = reshape(x), where dims other than those of size 1 keep their order" => |t| {
            let from = t.dims(t.x(0));
            let moved: Vec<i64> = t.attrs().ints(0).iter().copied().filter(|&d| from[d as usize] != 1).collect();
            moved.is_sorted().then(|| with("reshape", [t.x(0).into()], [t.ty().shape.dims().into()]))
        };
        permute_permute: "permute(permute(x)) = permute(x)" => |t| {
            let (x, inner) = t.view(t.x(0), View::Permute)?;
            let inner = inner.ints(0);
            let dims: Ints = t.attrs().ints(0).iter().map(|&d| inner[d as usize]).collect();
            Some(with("permute", [x.into()], [Attr::Ints(dims)]))
        };
        permute_expand: "permute(expand(x)) = expand(permute(x))" => |t| {
            let (x, _) = t.view(t.x(0), View::Expand)?;
            let inner = with("permute", [x.into()], [t.attrs()[0].clone()]);
            Some(with("expand", [inner], [t.ty().shape.dims().into()]))
        };
    }
    EXPAND {
        expand_same: "expand(x) = x, same shape" => |t| (t.dims(t.x(0)) == t.ty().shape.dims()).then(|| t.x(0).into());
        expand_expand: "expand(expand(x)) = expand(x)" => |t| {
            Some(with("expand", [t.view(t.x(0), View::Expand)?.0.into()], [t.attrs()[0].clone()]))
        };
    }
    SLICE {
        slice_all: "slice(x) = x, all of it" => |t| (t.dims(t.x(0)) == t.ty().shape.dims()).then(|| t.x(0).into());
        slice_normal: "slice(x; start, stop, step): stop right after the last element, step 1 for one element" => |t| {
            let (starts, stops, steps) = normal_region(t.attrs(), &t.ty().shape)?;
            Some(slice(t.x(0).into(), starts, stops, steps))
        };
        slice_slice: "slice(slice(x)) = slice(x)" => |t| {
            let (x, inner) = t.view(t.x(0), View::Slice)?;
            let ((a, _, s), (b, _, r)) = (region(inner), region(t.attrs()));
            let starts: Ints = (0..a.len()).map(|d| a[d] + b[d] * s[d]).collect();
            let steps: Ints = (0..a.len()).map(|d| s[d] * r[d]).collect();
            let stops = (0..a.len()).map(|d| starts[d] + (t.ty().shape[d] as i64 - 1) * steps[d] + 1).collect();
            Some(slice(x.into(), starts, stops, steps))
        };
        slice_pad: "slice(pad(x)) = slice(x), where no padding is taken" => |t| {
            let (x, pad) = t.view(t.x(0), View::Pad)?;
            let (starts, stops, steps) = region(t.attrs());
            let (lo, size) = (pad.ints(0), t.dims(x));
            let inside = (0..lo.len()).all(|d| starts[d] >= lo[d] && stops[d] <= lo[d] + size[d] as i64);
            let shift = |v: &[i64]| -> Ints { v.iter().zip(lo).map(|(&v, &l)| v - l).collect() };
            inside.then(|| slice(x.into(), shift(starts), shift(stops), steps.into()))
        };
        slice_expand: "slice(expand(x)) = expand(slice(x))" => |t| {
            let (x, _) = t.view(t.x(0), View::Expand)?;
            let (mut starts, mut stops, mut steps) = owned_region(t.attrs());
            for (d, &size) in t.dims(x).iter().enumerate() {
                if size == 1 {
                    (starts[d], stops[d], steps[d]) = (0, 1, 1);
                }
            }
            Some(with("expand", [slice(x.into(), starts, stops, steps)], [t.ty().shape.dims().into()]))
        };
        slice_concat: "slice(concat(x, y..)) = slice(y), where only y is taken" => slice_concat;
        slice_scattered: "slice(slice_scatter(base, src)) = src, the same region; = slice(base), a region apart" => |t| {
            let node = t.of(t.x(0));
            if node.op.kind != Kind::SliceScatter {
                return None;
            }
            if node.attrs[..] == *t.attrs() {
                return Some(node.operands[1].into());
            }
            let ((a, b, _), (c, d, _)) = (region(t.attrs()), region(&node.attrs));
            let apart = (0..a.len()).any(|i| b[i] <= c[i] || d[i] <= a[i]);
            let (starts, stops, steps) = owned_region(t.attrs());
            apart.then(|| slice(node.operands[0].into(), starts, stops, steps))
        };
    }
    FLIP {
        flip_normal: "flip(x; dims): dims in order, without those of size 1" => |t| {
            let dims = t.attrs().ints(0);
            let mut normal: Ints = dims.iter().copied().filter(|&d| t.ty().shape[d as usize] > 1).collect();
            normal.sort_unstable();
            (normal.as_slice() != dims).then(|| with("flip", [t.x(0).into()], [Attr::Ints(normal)]))
        };
        flip_nothing: "flip(x; no dims) = x" => |t| t.attrs().ints(0).is_empty().then(|| t.x(0).into());
        flip_flip: "flip(flip(x; a); b) = flip(x; a xor b)" => |t| {
            let (x, inner) = t.view(t.x(0), View::Flip)?;
            let (a, b) = (inner.ints(0), t.attrs().ints(0));
            let once = a.iter().filter(|d| !b.contains(d)).chain(b.iter().filter(|d| !a.contains(d)));
            Some(with("flip", [x.into()], [Attr::Ints(once.copied().collect())]))
        };
        flip_expand: "flip(expand(x)) = expand(flip(x))" => |t| {
            let (x, _) = t.view(t.x(0), View::Expand)?;
            let inner = with("flip", [x.into()], [t.attrs()[0].clone()]);
            Some(with("expand", [inner], [t.ty().shape.dims().into()]))
        };
    }
    PAD {
        pad_nothing: "pad(x; 0, 0) = x" => |t| (t.dims(t.x(0)) == t.ty().shape.dims()).then(|| t.x(0).into());
        pad_pad: "pad(pad(x; v); v) = pad(x; v)" => |t| {
            let (x, inner) = t.view(t.x(0), View::Pad)?;
            let sum = |i: usize| -> Attr {
                Attr::Ints(inner.ints(i).iter().zip(t.attrs().ints(i)).map(|(a, b)| a + b).collect())
            };
            (inner[2] == t.attrs()[2]).then(|| with("pad", [x.into()], [sum(0), sum(1), inner[2].clone()]))
        };
    }
    WINDOWS {
        windows_nothing: "windows(x; no dims) = x" => |t| t.attrs().ints(0).is_empty().then(|| t.x(0).into());
        windows_one: "windows(x; size 1, step 1) = reshape(x)" => |t| {
            let one = |i: usize| t.attrs().ints(i).iter().all(|&n| n == 1);
            (one(1) && one(2)).then(|| with("reshape", [t.x(0).into()], [t.ty().shape.dims().into()]))
        };
    }
}

/// Starts, stops and steps of a slice or slice_scatter.
pub(super) fn region(attrs: &[Attr]) -> (&[i64], &[i64], &[i64]) {
    (attrs.ints(0), attrs.ints(1), attrs.ints(2))
}

/// The region with its stops right after the last element and step 1 where there is one element; `None`
/// where it is so already. `sizes` are those of the part, none of them 0.
pub(super) fn normal_region(attrs: &[Attr], sizes: &[usize]) -> Option<(Ints, Ints, Ints)> {
    let (starts, stops, steps) = region(attrs);
    let (mut last, mut step): (Ints, Ints) = (stops.into(), steps.into());
    for (d, &size) in sizes.iter().enumerate() {
        step[d] = if size > 1 { steps[d] } else { 1 };
        last[d] = starts[d] + (size as i64 - 1) * step[d] + 1;
    }
    let normal = last.as_slice() == stops && step.as_slice() == steps;
    (!normal).then(|| (starts.into(), last, step))
}

fn owned_region(attrs: &[Attr]) -> (Ints, Ints, Ints) {
    let (starts, stops, steps) = region(attrs);
    (starts.into(), stops.into(), steps.into())
}

/// `slice(x; starts, stops, steps)`.
pub(super) fn slice(x: Rhs, starts: Ints, stops: Ints, steps: Ints) -> Rhs {
    with("slice", [x], [Attr::Ints(starts), Attr::Ints(stops), Attr::Ints(steps)])
}

fn reshape_expand(t: &Term<'_>) -> Option<Rhs> {
    let (x, _) = t.view(t.x(0), View::Expand)?;
    let (source, wide, out) = (t.dims(x), t.dims(t.x(0)), t.ty().shape.dims());
    // The dims of `wide` other than 1 stand in `out` in the same order: carry over what each was before.
    let mut kept = (0..wide.len()).filter(|&d| wide[d] != 1);
    let mut inner = Vec::with_capacity(out.len());
    for &size in out {
        if size == 1 {
            inner.push(1);
            continue;
        }
        let d = kept.next().filter(|&d| wide[d] == size)?;
        inner.push(source[d]);
    }
    if kept.next().is_some() {
        return None;
    }
    Some(with("expand", [with("reshape", [x.into()], [inner.as_slice().into()])], [out.into()]))
}

fn slice_concat(t: &Term<'_>) -> Option<Rhs> {
    let node = t.of(t.x(0));
    if node.op.kind != Kind::Concat || node.operands.len() > MAX_PARTS {
        return None;
    }
    let dim = node.attrs.int(0) as usize;
    let (mut starts, mut stops, steps) = owned_region(t.attrs());
    let mut begin = 0i64;
    for &part in &node.operands {
        let end = begin + t.dims(part)[dim] as i64;
        if begin <= starts[dim] && stops[dim] <= end {
            starts[dim] -= begin;
            stops[dim] -= begin;
            return Some(slice(part.into(), starts, stops, steps));
        }
        begin = end;
    }
    None
}
