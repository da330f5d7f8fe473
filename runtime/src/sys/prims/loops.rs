//! The loop of each family of primitives, generic over the scalar operation and compiled by [`super::isa`]
//! for each level.
//!
//! The loops themselves take a `dst` that overlaps no operand (LLVM guards them by a check and would run an
//! overlapping case one element at a time). Where `dst` is an operand, [`InPlace`] runs the same primitive
//! chunk by chunk into a buffer on the stack.
//!
//! Every function here has the safety contract stated in the module `prims`.
#![allow(clippy::missing_safety_doc, reason = "one contract for all, stated in the module `prims`")]

/// A scalar function of one operand.
pub(super) trait Un {
    /// Operand.
    type X: Copy;
    /// Result.
    type R: Copy;
    /// Whether `f` is wrong where `rare` says so, and `slow` is to be used there.
    const HAS_RARE: bool = false;
    /// The function, in straight-line code.
    fn f(x: Self::X) -> Self::R;
    /// Whether `f` does not hold at `x`.
    #[inline(always)]
    fn rare(_x: Self::X) -> bool {
        false
    }
    /// The function at a rare `x`.
    #[inline(always)]
    fn slow(x: Self::X) -> Self::R {
        Self::f(x)
    }
}

/// A scalar function of two operands.
pub(super) trait Bin {
    /// Operands.
    type X: Copy;
    /// Result.
    type R: Copy;
    /// Whether `f` is wrong where `rare` says so, and `slow` is to be used there.
    const HAS_RARE: bool = false;
    /// The function, in straight-line code.
    fn f(a: Self::X, b: Self::X) -> Self::R;
    /// Whether `f` does not hold at `a`, `b`.
    #[inline(always)]
    fn rare(_a: Self::X, _b: Self::X) -> bool {
        false
    }
    /// The function at a rare point.
    #[inline(always)]
    fn slow(a: Self::X, b: Self::X) -> Self::R {
        Self::f(a, b)
    }
}

/// A fold of elements `X` into an accumulator `A`.
pub(super) trait Fold {
    /// Element.
    type X: Copy;
    /// Accumulator.
    type A: Copy;
    /// Neutral element.
    const ID: Self::A;
    /// Adds an element.
    fn step(a: Self::A, x: Self::X) -> Self::A;
    /// Joins two accumulators.
    fn join(a: Self::A, b: Self::A) -> Self::A;
}

/// A search for an extreme element.
pub(super) trait Arg {
    /// Element.
    type X: Copy;
    /// Start of a search.
    const ID: Self::X;
    /// Whether `x` replaces `best`: more extreme, or NaN after a number.
    fn better(x: Self::X, best: Self::X) -> bool;
    /// Same value; NaN is the same as NaN.
    fn same(a: Self::X, b: Self::X) -> bool;
}

/// Whether `dst` is the operand `x`.
#[inline(always)]
pub(super) fn same<A, B>(dst: *mut A, x: *const B) -> bool {
    dst.cast_const().cast::<u8>() == x.cast::<u8>()
}

/// A primitive in the making of which `dst` is an operand.
pub(super) struct InPlace {
    /// The primitive.
    pub prim: *const u8,
    /// Where results go, bytes each, how many.
    pub dst: *mut u8,
    pub wide: usize,
    pub n: usize,
    /// Whether the last chunk comes first: then results wider than an operand overwrite only what has been
    /// read; narrower or equal ones do so going forward.
    pub backward: bool,
}

impl InPlace {
    /// Runs the primitive chunk by chunk through a buffer. Operands advance by so many bytes an element.
    #[cold]
    #[inline(never)]
    pub(super) unsafe fn run(&self, operands: &[(*const u8, usize)]) {
        const CHUNK: usize = 256;
        let mut tmp = [0u64; CHUNK];
        let chunks = self.n.div_ceil(CHUNK);
        // Opaque, lest the primitive be inlined here once more.
        let prim = std::hint::black_box(self.prim);
        for c in 0..chunks {
            let first = if self.backward { chunks - 1 - c } else { c } * CHUNK;
            let count = (self.n - first).min(CHUNK);
            let to = tmp.as_mut_ptr().cast::<u8>();
            let at = |i: usize| operands[i].0.wrapping_add(first * operands[i].1);
            // SAFETY: `prim` takes as many pointers as there are operands, then the count, whatever they
            // point to; chunks lie inside the operands; `tmp` holds CHUNK elements of up to 8 bytes and
            // overlaps none of them; `dst` holds `n >= first + count` elements of `wide` bytes.
            unsafe {
                match operands.len() {
                    1 => {
                        type F = unsafe extern "C" fn(*mut u8, *const u8, usize);
                        std::mem::transmute::<*const u8, F>(prim)(to, at(0), count);
                    }
                    2 => {
                        type F = unsafe extern "C" fn(*mut u8, *const u8, *const u8, usize);
                        std::mem::transmute::<*const u8, F>(prim)(to, at(0), at(1), count);
                    }
                    _ => {
                        type F = unsafe extern "C" fn(*mut u8, *const u8, *const u8, *const u8, usize);
                        std::mem::transmute::<*const u8, F>(prim)(to, at(0), at(1), at(2), count);
                    }
                }
                std::ptr::copy_nonoverlapping(to, self.dst.add(first * self.wide), count * self.wide);
            }
        }
    }
}

/// `dst[i] = f(x[i])`.
#[inline(always)]
pub(super) unsafe fn un<O: Un>(dst: *mut O::R, x: *const O::X, n: usize) {
    // SAFETY: offsets are below `n`.
    unsafe {
        for j in 0..n {
            *dst.add(j) = O::f(*x.add(j));
        }
        if O::HAS_RARE {
            let mut rare = false;
            for j in 0..n {
                rare |= O::rare(*x.add(j));
            }
            if rare {
                mend::<O>(dst, x, n);
            }
        }
    }
}

/// Replaces the results of rare arguments.
#[cold]
#[inline(never)]
unsafe fn mend<O: Un>(dst: *mut O::R, x: *const O::X, n: usize) {
    for j in 0..n {
        // SAFETY: offsets are below `n`.
        unsafe {
            if O::rare(*x.add(j)) {
                *dst.add(j) = O::slow(*x.add(j));
            }
        }
    }
}

/// `dst[i] = f(a[i], b[i])`.
#[inline(always)]
pub(super) unsafe fn vv<O: Bin>(dst: *mut O::R, a: *const O::X, b: *const O::X, n: usize) {
    // SAFETY: offsets are below `n`.
    unsafe {
        for j in 0..n {
            *dst.add(j) = O::f(*a.add(j), *b.add(j));
        }
        mend_pairs::<O>(dst, (a, 1), (b, 1), n);
    }
}

/// `dst[i] = f(a[i], *b)`.
#[inline(always)]
pub(super) unsafe fn vs<O: Bin>(dst: *mut O::R, a: *const O::X, b: *const O::X, n: usize) {
    // SAFETY: offsets are below `n`; `b` has one element.
    unsafe {
        let y = *b;
        for j in 0..n {
            *dst.add(j) = O::f(*a.add(j), y);
        }
        mend_pairs::<O>(dst, (a, 1), (b, 0), n);
    }
}

/// `dst[i] = f(*a, b[i])`.
#[inline(always)]
pub(super) unsafe fn sv<O: Bin>(dst: *mut O::R, a: *const O::X, b: *const O::X, n: usize) {
    // SAFETY: offsets are below `n`; `a` has one element.
    unsafe {
        let x = *a;
        for j in 0..n {
            *dst.add(j) = O::f(x, *b.add(j));
        }
        mend_pairs::<O>(dst, (a, 0), (b, 1), n);
    }
}

/// Replaces the results of rare operands, which advance by 0 or 1 an element.
#[inline(always)]
unsafe fn mend_pairs<O: Bin>(dst: *mut O::R, (a, da): (*const O::X, usize), (b, db): (*const O::X, usize), n: usize) {
    if !O::HAS_RARE {
        return;
    }
    // SAFETY: offsets are below `n`, or 0 for a scalar operand.
    unsafe {
        let mut rare = false;
        for j in 0..n {
            rare |= O::rare(*a.add(j * da), *b.add(j * db));
        }
        if rare {
            mend_slowly::<O>(dst, (a, da), (b, db), n);
        }
    }
}

#[cold]
#[inline(never)]
unsafe fn mend_slowly<O: Bin>(dst: *mut O::R, (a, da): (*const O::X, usize), (b, db): (*const O::X, usize), n: usize) {
    for j in 0..n {
        // SAFETY: offsets are below `n`, or 0 for a scalar operand.
        unsafe {
            let (x, y) = (*a.add(j * da), *b.add(j * db));
            if O::rare(x, y) {
                *dst.add(j) = O::slow(x, y);
            }
        }
    }
}

/// An element to move, whatever it means.
pub(super) trait Word: Copy {
    /// `if c != 0 { a } else { b }` by masks: a branch would move the loads into its arms, and the loop
    /// would not vectorise.
    fn choose(c: u8, a: Self, b: Self) -> Self;
}

macro_rules! words {
    ($($t:ident)*) => { $(impl Word for $t {
        #[inline(always)]
        fn choose(c: u8, a: $t, b: $t) -> $t {
            let mask = $t::from(c != 0).wrapping_neg();
            (a & mask) | (b & !mask)
        }
    })* };
}
words!(u8 u16 u32 u64);

/// `dst[i] = if cond[i] != 0 { a[i] } else { b[i] }`; `VA` and `VB` say which operands are vectors.
#[inline(always)]
pub(super) unsafe fn select<T: Word, const VA: bool, const VB: bool>(
    dst: *mut T,
    cond: *const u8,
    a: *const T,
    b: *const T,
    n: usize,
) {
    // SAFETY: offsets are below `n`, or 0 for a scalar operand.
    unsafe {
        if n == 0 {
            return;
        }
        let (sa, sb) = (*a, *b);
        for j in 0..n {
            let x = if VA { *a.add(j) } else { sa };
            let y = if VB { *b.add(j) } else { sb };
            *dst.add(j) = T::choose(*cond.add(j), x, y);
        }
    }
}

/// `dst[i] = *s`.
#[inline(always)]
pub(super) unsafe fn splat<T: Copy>(dst: *mut T, s: *const T, n: usize) {
    // SAFETY: offsets are below `n`; `s` has one element.
    unsafe {
        let s = *s;
        for j in 0..n {
            *dst.add(j) = s;
        }
    }
}

/// `dst[i] = x[i]`.
#[inline(always)]
pub(super) unsafe fn copy<T: Copy>(dst: *mut T, x: *const T, n: usize) {
    // SAFETY: both have `n` elements; overlap is allowed here.
    unsafe { std::ptr::copy(x, dst, n) }
}

/// `dst[i] = src[i * stride]`.
#[inline(always)]
pub(super) unsafe fn load<T: Copy>(dst: *mut T, src: *const T, stride: i64, n: usize) {
    // SAFETY: the caller vouches for `src + i * stride`, `i < n`; `dst` has `n` elements.
    unsafe {
        match stride {
            1 => std::ptr::copy(src, dst, n),
            0 if n > 0 => splat(dst, src, n),
            _ => {
                let mut p = src;
                for j in 0..n {
                    *dst.add(j) = *p;
                    p = p.wrapping_offset(stride as isize);
                }
            }
        }
    }
}

/// `dst[i * stride] = src[i]`.
#[inline(always)]
pub(super) unsafe fn store<T: Copy>(dst: *mut T, stride: i64, src: *const T, n: usize) {
    // SAFETY: the caller vouches for `dst + i * stride`, `i < n`; `src` has `n` elements.
    unsafe {
        if stride == 1 {
            std::ptr::copy(src, dst, n);
        } else {
            let mut p = dst;
            for j in 0..n {
                *p = *src.add(j);
                p = p.wrapping_offset(stride as isize);
            }
        }
    }
}

/// `dst[i] = start + i * step`, wrapping.
#[inline(always)]
pub(super) unsafe fn iota(dst: *mut i64, start: i64, step: i64, n: usize) {
    // SAFETY: offsets are below `n`.
    unsafe {
        for j in 0..n {
            *dst.add(j) = start.wrapping_add(step.wrapping_mul(j as i64));
        }
    }
}

/// Folds `x` into `*acc`: `L` lanes side by side, then a fixed tree over the lanes, whatever the level.
#[inline(always)]
pub(super) unsafe fn fold<O: Fold, const L: usize>(acc: *mut O::A, x: *const O::X, n: usize) {
    // SAFETY: offsets are below `n`; `acc` is one element.
    unsafe { *acc = O::join(*acc, lanes::<O, L>(x, n)) }
}

#[inline(always)]
unsafe fn lanes<O: Fold, const L: usize>(x: *const O::X, n: usize) -> O::A {
    // SAFETY: `i + j < n` in both loops.
    unsafe {
        let mut lane = [O::ID; L];
        let full = n / L * L;
        let mut i = 0;
        while i < full {
            for (j, lane) in lane.iter_mut().enumerate() {
                *lane = O::step(*lane, *x.add(i).add(j));
            }
            i = i.wrapping_add(L);
        }
        for (j, lane) in lane.iter_mut().enumerate().take(n - full) {
            *lane = O::step(*lane, *x.add(full).add(j));
        }
        let mut half = L / 2;
        while half > 0 {
            for j in 0..half {
                lane[j] = O::join(lane[j], lane[j + half]);
            }
            half /= 2;
        }
        lane[0]
    }
}

/// `acc[i] = step(acc[i], x[i])`.
#[inline(always)]
pub(super) unsafe fn col<O: Fold>(acc: *mut O::A, x: *const O::X, n: usize) {
    // SAFETY: offsets are below `n`.
    unsafe {
        for j in 0..n {
            *acc.add(j) = O::step(*acc.add(j), *x.add(j));
        }
    }
}

/// The most extreme element, as a fold.
pub(super) struct Extreme<O>(std::marker::PhantomData<O>);

impl<O: Arg> Fold for Extreme<O> {
    type X = O::X;
    type A = O::X;
    const ID: O::X = O::ID;
    #[inline(always)]
    fn step(a: O::X, x: O::X) -> O::X {
        if O::better(x, a) { x } else { a }
    }
    #[inline(always)]
    fn join(a: O::X, b: O::X) -> O::X {
        Self::step(a, b)
    }
}

/// Continues a search for the first extreme element; the position of `x[0]` is `base`.
#[inline(always)]
pub(super) unsafe fn arg<O: Arg, const L: usize>(
    best: *mut O::X,
    index: *mut i64,
    x: *const O::X,
    n: usize,
    base: i64,
) {
    // SAFETY: offsets are below `n`; `best` and `index` are one element each.
    unsafe {
        let top = lanes::<Extreme<O>, L>(x, n);
        if n == 0 || !O::better(top, *best) {
            return;
        }
        // A whole chunk is compared without leaving it, so that the comparison is a vector one.
        let mut i = 0;
        while n - i > L {
            let mut hit = false;
            for j in 0..L {
                hit |= O::same(*x.add(i).add(j), top);
            }
            if hit {
                break;
            }
            i = i.wrapping_add(L);
        }
        while i < n {
            if O::same(*x.add(i), top) {
                *best = *x.add(i);
                *index = base.wrapping_add(i as i64);
                return;
            }
            i = i.wrapping_add(1);
        }
    }
}

/// Continues `n` searches side by side; `pos` is the position of all of `x`.
#[inline(always)]
pub(super) unsafe fn col_arg<O: Arg>(best: *mut O::X, index: *mut i64, x: *const O::X, n: usize, pos: i64) {
    // SAFETY: offsets are below `n`.
    unsafe {
        for j in 0..n {
            let (b, v) = (*best.add(j), *x.add(j));
            let take = O::better(v, b);
            *best.add(j) = if take { v } else { b };
            *index.add(j) = if take { pos } else { *index.add(j) };
        }
    }
}
