//! Aliasing views: how a view's value follows from its base, how a write goes back, and the strides that
//! decide whether a reshape can alias.

use crate::node::NodeRef;
use crate::ops;
use torsh_ir::{Attr, Attrs, AttrsExt, Error, Ints, Result, Shape};

/// One step from a base to a view.
#[derive(Clone, Debug)]
pub enum Step {
    /// Row-major reinterpretation.
    Reshape {
        /// Shape before.
        from: Shape,
        /// Shape after.
        to: Shape,
    },
    /// `out.shape[i] = in.shape[dims[i]]`.
    Permute(Ints),
    /// Repeats dims of size 1.
    Expand {
        /// Shape before.
        from: Shape,
        /// Shape after.
        to: Shape,
    },
    /// One start, stop and step per dim.
    Slice {
        /// Starts.
        starts: Ints,
        /// Stops.
        stops: Ints,
        /// Steps, at least 1.
        steps: Ints,
    },
    /// Shares memory, not gradients.
    Detach,
}

/// Strides and offset, in elements, over the memory of the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// One stride per dim.
    pub strides: Ints,
    /// Offset of the first element.
    pub offset: i64,
}

impl Layout {
    /// Row-major.
    pub fn contiguous(shape: &Shape) -> Layout {
        Layout { strides: shape.strides(), offset: 0 }
    }

    /// True when the elements lie in row-major order without gaps (dims of size 1 do not count).
    pub fn is_contiguous(&self, shape: &Shape) -> bool {
        shape.contains(&0)
            || shape.strides().iter().zip(&self.strides).zip(shape.iter()).all(|((a, b), &d)| d == 1 || a == b)
    }

    /// The layout after a step; `None` when a reshape cannot be a view of this layout.
    pub fn apply(&self, shape: &Shape, step: &Step) -> Option<Layout> {
        let (strides, mut offset) = (&self.strides, self.offset);
        let strides = match step {
            Step::Detach => strides.clone(),
            Step::Permute(dims) => dims.iter().map(|&d| strides[d as usize]).collect(),
            Step::Expand { from, to } => {
                (0..to.rank()).map(|i| if from[i] == 1 && to[i] != 1 { 0 } else { strides[i] }).collect()
            }
            Step::Slice { starts, steps, .. } => {
                for (start, stride) in starts.iter().zip(strides) {
                    offset += start * stride;
                }
                strides.iter().zip(steps).map(|(s, k)| s.saturating_mul(*k)).collect()
            }
            Step::Reshape { to, .. } => self.reshape(shape, to)?,
        };
        Some(Layout { strides, offset })
    }

    // Groups dims of the old shape that are contiguous with each other and splits each group into dims of
    // the new shape (the rule of PyTorch's computeStride).
    fn reshape(&self, old: &Shape, new: &Shape) -> Option<Ints> {
        if old.numel() == 0 {
            return Some(new.strides());
        }
        let mut strides = Ints::from_elem(1, new.rank());
        if old.rank() == 0 {
            return Some(strides);
        }
        let mut view = new.rank() as i64 - 1;
        let mut base = *self.strides.last()?;
        let (mut group, mut viewed) = (1i64, 1i64);
        for d in (0..old.rank()).rev() {
            group *= old[d] as i64;
            let ends = d == 0 || (old[d - 1] != 1 && self.strides[d - 1] != group * base);
            if !ends {
                continue;
            }
            while view >= 0 && (viewed < group || new[view as usize] == 1) {
                strides[view as usize] = viewed * base;
                viewed *= new[view as usize] as i64;
                view -= 1;
            }
            if viewed != group {
                return None;
            }
            if d > 0 {
                base = self.strides[d - 1];
                group = 1;
                viewed = 1;
            }
        }
        (view == -1).then_some(strides)
    }
}

fn inverse(dims: &[i64]) -> Ints {
    let mut out = Ints::from_elem(0, dims.len());
    for (i, &d) in dims.iter().enumerate() {
        out[d as usize] = i as i64;
    }
    out
}

impl Step {
    /// The step of a view op by its IR name; `None` for ops that copy.
    pub fn parse(name: &str, attrs: &[Attr], from: &Shape, to: &Shape) -> Option<Step> {
        match name {
            "reshape" => Some(Step::Reshape { from: from.clone(), to: to.clone() }),
            "permute" => Some(Step::Permute(Ints::from_slice(attrs.ints(0)))),
            "expand" => Some(Step::Expand { from: from.clone(), to: to.clone() }),
            "slice" => Some(Step::Slice {
                starts: Ints::from_slice(attrs.ints(0)),
                stops: Ints::from_slice(attrs.ints(1)),
                steps: Ints::from_slice(attrs.ints(2)),
            }),
            _ => None,
        }
    }

    /// The view of `x`.
    pub fn forward(&self, x: &NodeRef) -> Result<NodeRef> {
        match self {
            Step::Reshape { to, .. } => ops::reshape(x, to),
            Step::Permute(dims) => ops::apply_named("permute", std::slice::from_ref(x), ints(&[dims])),
            Step::Expand { to, .. } => ops::expand(x, to),
            Step::Slice { starts, stops, steps } => {
                ops::apply_named("slice", std::slice::from_ref(x), ints(&[starts, stops, steps]))
            }
            Step::Detach => Ok(ops::detach(x)),
        }
    }

    /// `base` with this view of it replaced by `value`.
    pub fn write(&self, base: &NodeRef, value: &NodeRef) -> Result<NodeRef> {
        match self {
            Step::Reshape { from, .. } => ops::reshape(value, from),
            Step::Permute(dims) => ops::apply_named("permute", std::slice::from_ref(value), ints(&[&inverse(dims)])),
            Step::Expand { from, to } if from == to => Ok(value.clone()),
            Step::Expand { .. } => Err(Error::runtime(
                "unsupported operation: more than one element of the written-to tensor refers to a single memory \
                 location. Please clone() the tensor before performing the operation.",
            )),
            Step::Slice { starts, stops, steps } => {
                ops::apply_named("slice_scatter", &[base.clone(), value.clone()], ints(&[starts, stops, steps]))
            }
            Step::Detach => Ok(value.clone()),
        }
    }
}

fn ints(lists: &[&Ints]) -> Attrs {
    lists.iter().map(|l| Attr::Ints((*l).clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshape_of_a_transpose_cannot_alias() {
        let shape = Shape::of(&[3, 2]);
        let t = Layout { strides: Ints::from_slice(&[1, 3]), offset: 0 };
        let to = |d: &[usize]| Step::Reshape { from: shape.clone(), to: Shape::of(d) };
        assert!(t.apply(&shape, &to(&[6])).is_none());
        let c = Layout::contiguous(&shape);
        assert_eq!(c.apply(&shape, &to(&[6])).unwrap().strides.as_slice(), &[1]);
        assert_eq!(c.apply(&shape, &to(&[1, 3, 1, 2])).unwrap().strides.as_slice(), &[6, 2, 2, 1]);
    }
}
