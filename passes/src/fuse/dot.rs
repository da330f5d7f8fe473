//! Matrix products: dims of `dot_general` to batch strides and the digits of rows, columns and contraction.
//!
//! Batch dims may have any strides; the free dims of an operand, and its contracted dims, are digits with a
//! stride each, so that a view of overlapping windows is multiplied where it lies. Operands with more digits
//! than [`MAX_DIGITS`], or whose digits cross the borders of the dims, are copied.

use crate::layout::{Axes, Factors, Layout};
use smallvec::SmallVec;
use torsh_ir::attr::{Attr, AttrsExt};
use torsh_ir::program::{Digits, digits};
use torsh_ir::shape::{Dims as Sizes, Ints, Shape};

/// Digits of the free dims of an operand, and of its contracted dims.
const MAX_DIGITS: usize = 6;

/// One operand: element offset and strides.
#[derive(Clone, PartialEq, Debug)]
pub struct Side {
    /// Offset of the first element.
    pub offset: i64,
    /// One stride per batch axis.
    pub batch: Ints,
    /// Digits of the free dims.
    pub free: Digits,
    /// Digits of the contracted dims.
    pub contract: Digits,
}

/// A batched matrix product.
#[derive(Clone, PartialEq, Debug)]
pub struct DotSpec {
    /// Batch extents.
    pub batch: Sizes,
    /// Rows.
    pub m: usize,
    /// Columns.
    pub n: usize,
    /// Contraction.
    pub k: usize,
    /// Left.
    pub lhs: Side,
    /// Right.
    pub rhs: Side,
}

/// The dims of both operands by role.
pub struct Dims {
    shapes: [Shape; 2],
    /// Batch, free, contracted.
    roles: [[Vec<i64>; 3]; 2],
}

/// Sorts the dims into roles and sees each operand as `[batch, free, contracted]`; `None` for operands that must be
/// copied in [`Dims::order`].
pub fn fold(attrs: &[Attr], a: &Shape, b: &Shape, lhs: &Layout, rhs: &Layout) -> (Dims, [Option<Layout>; 2]) {
    let pairs: Vec<(i64, i64)> = attrs.ints(2).iter().copied().zip(attrs.ints(3).iter().copied()).collect();
    let mut orders = vec![pairs.clone(), pairs.clone(), pairs];
    // The order of a sum is free here: both operands take the same one.
    orders[1].sort_by_key(|p| p.0);
    orders[2].sort_by_key(|p| p.1);
    let mut best = None;
    for order in &orders {
        let dims = Dims::new(attrs, a, b, order);
        let mut maps = [dims.seen(0, lhs), dims.seen(1, rhs)];
        if maps.iter().all(Option::is_some) && dims.spec(&maps).is_none() {
            maps[0] = None;
        }
        if maps.iter().all(Option::is_some) {
            return (dims, maps);
        }
        best.get_or_insert((dims, maps));
    }
    // `orders` is not empty, so the loop has set it.
    best.unwrap_or_else(|| (Dims::new(attrs, a, b, &orders[0]), [None, None]))
}

impl Dims {
    fn new(attrs: &[Attr], a: &Shape, b: &Shape, contract: &[(i64, i64)]) -> Dims {
        let role = |i: usize, shape: &Shape| {
            let batch = attrs.ints(i).to_vec();
            let contract: Vec<i64> = contract.iter().map(|p| if i == 0 { p.0 } else { p.1 }).collect();
            let free = (0..shape.rank() as i64).filter(|d| !batch.contains(d) && !contract.contains(d)).collect();
            [batch, free, contract]
        };
        Dims { shapes: [a.clone(), b.clone()], roles: [role(0, a), role(1, b)] }
    }

    /// The view of operand `i` as `[batch, free, contracted]`.
    pub fn order(&self, i: usize) -> Layout {
        let dims: Vec<i64> = self.roles[i].iter().flatten().copied().collect();
        crate::layout::permute(&self.shapes[i], &dims)
    }

    fn size(&self, i: usize, role: usize) -> usize {
        self.roles[i][role].iter().map(|&d| self.shapes[i][d as usize]).product()
    }

    fn seen(&self, i: usize, map: &Layout) -> Option<Layout> {
        let layout = self.order(i).then(map)?;
        let parts = self.parts(i, &layout)?;
        (parts[1].len() <= MAX_DIGITS && parts[2].len() <= MAX_DIGITS).then_some(layout)
    }

    /// The digits of the batch, free and contracted dims.
    fn parts(&self, i: usize, layout: &Layout) -> Option<[Factors; 3]> {
        let mut parts = [Factors::new(), Factors::new(), Factors::new()];
        let mut digits = layout.factors.iter().rev();
        let (mut left, mut stride) = (1usize, 0i64);
        for role in (0..3).rev() {
            let mut size = self.size(i, role);
            let mut own = Factors::new();
            while size > 1 {
                if left == 1 {
                    (left, stride) = *digits.next()?;
                }
                let part = size.min(left);
                if !size.is_multiple_of(part) || left % part != 0 {
                    return None;
                }
                own.push((part, stride));
                size /= part;
                left /= part;
                stride *= part as i64;
            }
            own.reverse();
            parts[role] = own;
        }
        Some(parts)
    }

    /// The product of operands seen as [`fold`] gives them. `None` when an operand is missing or the batch
    /// digits of the two do not divide each other.
    pub fn spec(&self, maps: &[Option<Layout>; 2]) -> Option<DotSpec> {
        let (l, r) = (maps[0].as_ref()?, maps[1].as_ref()?);
        let (lp, rp) = (self.parts(0, l)?, self.parts(1, r)?);
        let batch = |p: &Factors| Layout::new(0, p.iter().copied());
        let (lb, rb) = (batch(&lp[0]), batch(&rp[0]));
        let mut axes = Axes::new([(self.size(0, 0), false)]);
        if !axes.refine(&lb, false) || !axes.refine(&rb, false) {
            return None;
        }
        let own = |p: &Factors| digits(p.iter().copied());
        let mut spec = DotSpec {
            batch: axes.0.iter().map(|a| a.extent).collect(),
            m: self.size(0, 1),
            n: self.size(1, 1),
            k: self.size(0, 2),
            lhs: Side { offset: l.offset, batch: axes.strides(&lb, false)?, free: own(&lp[1]), contract: own(&lp[2]) },
            rhs: Side { offset: r.offset, batch: axes.strides(&rb, false)?, free: own(&rp[1]), contract: own(&rp[2]) },
        };
        spec.fold_batch();
        Some(spec)
    }
}

impl DotSpec {
    /// Takes trailing batch axes, over which the right operand is constant, into the rows.
    fn fold_batch(&mut self) {
        while let (Some(&extent), Some(&l), Some(&r)) =
            (self.batch.last(), self.lhs.batch.last(), self.rhs.batch.last())
        {
            // The axis continues the digits of the rows, or is one more of them.
            let rows = digits([(extent, l)].into_iter().chain(self.lhs.free.iter().copied()));
            if r != 0 || rows.len() > MAX_DIGITS {
                break;
            }
            self.lhs.free = rows;
            self.m *= extent;
            self.batch.pop();
            self.lhs.batch.pop();
            self.rhs.batch.pop();
        }
    }

    /// Multiplications and additions.
    pub fn flops(&self) -> u64 {
        let batch: SmallVec<[u64; 6]> = self.batch.iter().map(|&b| b as u64).collect();
        [self.m, self.n, self.k].iter().map(|&x| x as u64).chain(batch).fold(2u64, u64::saturating_mul)
    }
}
