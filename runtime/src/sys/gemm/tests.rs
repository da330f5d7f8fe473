//! Products at every level against sums in the order that `plan` states, bit for bit, and against another
//! library.

use super::plan::KC;
use super::{
    Element, Extents, Hooks, Level, Means, Operand, Rows, prepack, prepacked_bytes, product, product_at, scratch_bytes,
};
use crate::sys::call::Span;
use crate::sys::par::{Par, SERIAL};
use crate::sys::prims;
use crate::sys::slices::Bool;
use half::{bf16, f16};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use torsh_ir::Result;

/// Runs parts on two or three threads, whatever their order.
fn threads<const N: usize>(parts: usize, work: &(dyn Fn(usize) + Sync)) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|s| {
        for _ in 0..N {
            s.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= parts {
                        break;
                    }
                    work(i);
                }
            });
        }
    });
}
const TWO: Par<'static> = Par { threads: 2, run: &threads::<2> };
const THREE: Par<'static> = Par { threads: 3, run: &threads::<3> };

/// The levels of this CPU, with whether they round a product and its sum once.
fn levels() -> Vec<(&'static str, Level, bool)> {
    let mut found = Vec::new();
    for name in prims::LEVELS {
        if prims::supported(name) {
            found.push((name, Level::of(name), name != "portable" || cfg!(target_arch = "aarch64")));
        } else {
            println!("level {name} is not tested: this CPU lacks it");
        }
    }
    found
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 24
    }
    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n.max(1)
    }
}

/// An element type with its meaning.
trait Tested: Element {
    fn random(rng: &mut Rng) -> Self;
    /// `acc + a * b`.
    fn step(fused: bool, a: Self, b: Self, acc: Self::Acc) -> Self::Acc;
    fn plus(a: Self::Acc, b: Self::Acc) -> Self::Acc;
    fn finish(sum: Self::Acc) -> Self;
    fn zero() -> Self::Acc;
    fn bits(self) -> u64;
}

macro_rules! tested_floats {
    ($($t:ident $a:ident, |$x:ident| $up:expr, |$s:ident| $down:expr;)*) => { $(impl Tested for $t {
        fn random(rng: &mut Rng) -> $t {
            let $s = (rng.next() % 4096) as $a / 512.0 - 4.0;
            $down
        }
        fn step(fused: bool, a: $t, b: $t, acc: $a) -> $a {
            let up = |$x: $t| $up;
            if fused { up(a).mul_add(up(b), acc) } else { acc + up(a) * up(b) }
        }
        fn plus(a: $a, b: $a) -> $a {
            a + b
        }
        fn finish($s: $a) -> $t {
            $down
        }
        fn zero() -> $a {
            0.0
        }
        fn bits(self) -> u64 {
            self.to_bits().into()
        }
    })* };
}
tested_floats! {
    f32 f32, |x| x, |s| s;
    f64 f64, |x| x, |s| s;
    f16 f32, |x| x.to_f32(), |s| f16::from_f32(s);
    bf16 f32, |x| x.to_f32(), |s| bf16::from_f32(s);
}

macro_rules! tested_integers {
    ($($t:ident)*) => { $(impl Tested for $t {
        fn random(rng: &mut Rng) -> $t {
            rng.next() as $t
        }
        fn step(_: bool, a: $t, b: $t, acc: $t) -> $t {
            acc.wrapping_add(a.wrapping_mul(b))
        }
        fn plus(a: $t, b: $t) -> $t {
            a.wrapping_add(b)
        }
        fn finish(sum: $t) -> $t {
            sum
        }
        fn zero() -> $t {
            0
        }
        fn bits(self) -> u64 {
            self as u64
        }
    })* };
}
tested_integers!(u8 i8 i16 i32 i64);

impl Tested for Bool {
    fn random(rng: &mut Rng) -> Bool {
        Bool(u8::from(rng.next().is_multiple_of(5)))
    }
    fn step(_: bool, a: Bool, b: Bool, acc: Bool) -> Bool {
        Bool(acc.0 | (a.0 & b.0))
    }
    fn plus(a: Bool, b: Bool) -> Bool {
        Bool(a.0 | b.0)
    }
    fn finish(sum: Bool) -> Bool {
        sum
    }
    fn zero() -> Bool {
        Bool(0)
    }
    fn bits(self) -> u64 {
        self.0.into()
    }
}

/// An operand without its data.
#[derive(Clone, Debug)]
struct Layout {
    offset: i64,
    batch: Vec<i64>,
    rows: Vec<(usize, i64)>,
    cols: Vec<(usize, i64)>,
    room: usize,
}

impl Layout {
    /// With an offset that brings every element into a buffer, and room for it.
    fn new(batch: &[usize], strides: &[i64], rows: Vec<(usize, i64)>, cols: Vec<(usize, i64)>) -> Layout {
        let (mut lo, mut hi) = (0, 0);
        let axes = batch.iter().copied().zip(strides.iter().copied());
        for (n, stride) in axes.chain(rows.iter().copied()).chain(cols.iter().copied()) {
            let reach = (n as i64 - 1).max(0) * stride;
            lo += reach.min(0);
            hi += reach.max(0);
        }
        Layout { offset: 3 - lo, batch: strides.to_vec(), rows, cols, room: (hi - lo + 4) as usize }
    }

    /// One of several ways to lay out `batch` matrices of `rows` x `cols`.
    fn any(rng: &mut Rng, batch: &[usize], rows: usize, cols: usize) -> Layout {
        let (r, c) = (rows as i64, cols as i64);
        let (rows, cols, matrix) = match rng.below(11) {
            0 | 1 => (vec![(rows, c)], vec![(cols, 1)], r * c),
            2 | 3 => (vec![(rows, 1)], vec![(cols, r)], r * c),
            4 => (vec![(rows, c + 5)], vec![(cols, 1)], r * (c + 5)),
            5 => (vec![(rows, -c)], vec![(cols, -1)], -r * c),
            6 => (vec![(rows, 0)], vec![(cols, 1)], c),
            7 => (vec![(rows, 1)], vec![(cols, 0)], r),
            8 => (vec![(rows, 2 * c)], vec![(cols, 2)], 2 * r * c),
            9 => (digits(rng, rows, 1), digits(rng, cols, 1), 7),
            _ => (digits(rng, rows, 3), vec![(cols, 1)], 2 * c),
        };
        let mut strides: Vec<i64> = batch.iter().map(|_| if rng.below(3) == 0 { 0 } else { matrix }).collect();
        if let ([first, _], [n0, n1]) = (&mut strides[..], batch) {
            *first = if rng.below(2) == 0 { *n1 as i64 * matrix } else { *n0 as i64 };
        }
        Layout::new(batch, &strides, rows, cols)
    }

    fn operand<'a, T>(&'a self, data: &'a [T]) -> Operand<'a, T> {
        Operand { data, offset: self.offset, batch: &self.batch, rows: &self.rows, cols: &self.cols }
    }

    fn at(&self, batch: &[usize], b: usize, row: usize, col: usize) -> usize {
        let digit = |digits: &[(usize, i64)], mut i: usize| {
            let mut at = 0;
            for &(n, stride) in digits.iter().rev() {
                at += (i % n) as i64 * stride;
                i /= n;
            }
            at
        };
        let batch: Vec<(usize, i64)> = batch.iter().copied().zip(self.batch.iter().copied()).collect();
        (self.offset + digit(&batch, b) + digit(&self.rows, row) + digit(&self.cols, col)) as usize
    }
}

/// An extent as up to three digits, the innermost of stride `unit`; they overlap as those of patches do.
fn digits(rng: &mut Rng, n: usize, unit: i64) -> Vec<(usize, i64)> {
    if n == 0 {
        return vec![(3, unit), (0, 1)];
    }
    let mut left = n;
    let mut found = vec![];
    for (i, stride) in [unit, unit * 9, unit * 40].into_iter().enumerate() {
        let factors: Vec<usize> = (1..=left).filter(|f| left.is_multiple_of(*f)).collect();
        let f = if i == 2 { left } else { factors[rng.below(factors.len())] };
        found.insert(0, (f, if rng.below(5) == 0 { -stride } else { stride }));
        left /= f;
    }
    found
}

/// A product to be tried.
struct Case {
    batch: Vec<usize>,
    m: usize,
    n: usize,
    k: usize,
    lhs: Layout,
    rhs: Layout,
}

impl Case {
    fn plain(m: usize, n: usize, k: usize) -> Case {
        let flat = |r: usize, c: usize| Layout::new(&[], &[], vec![(r, c as i64)], vec![(c, 1)]);
        Case { batch: vec![], m, n, k, lhs: flat(m, k), rhs: flat(k, n) }
    }

    fn any(rng: &mut Rng, batch: Vec<usize>, m: usize, n: usize, k: usize) -> Case {
        let (lhs, rhs) = (Layout::any(rng, &batch, m, k), Layout::any(rng, &batch, k, n));
        Case { batch, m, n, k, lhs, rhs }
    }

    fn extents(&self) -> Extents<'_> {
        Extents { batch: &self.batch, m: self.m, n: self.n, k: self.k }
    }

    fn data<T: Tested>(&self, rng: &mut Rng) -> (Vec<T>, Vec<T>) {
        let mut random = |n: usize| (0..n).map(|_| T::random(rng)).collect();
        (random(self.lhs.room), random(self.rhs.room))
    }

    fn len(&self) -> usize {
        self.batch.iter().product::<usize>() * self.m * self.n
    }

    fn run<T: Tested>(&self, level: Level, par: &Par<'_>, x: (&[T], &[T]), hook: Option<&Rows<'_>>) -> Vec<T> {
        let mut out = vec![T::finish(T::zero()); self.len()];
        self.run_into(level, par, x, hook, &mut out).unwrap();
        out
    }

    fn run_into<T: Tested>(
        &self,
        level: Level,
        par: &Par<'_>,
        x: (&[T], &[T]),
        hook: Option<&Rows<'_>>,
        out: &mut [T],
    ) -> Result<()> {
        self.run_with(level, par, x, hook, (out, None, false))
    }

    fn run_with<T: Tested>(
        &self,
        level: Level,
        par: &Par<'_>,
        x: (&[T], &[T]),
        hook: Option<&Rows<'_>>,
        (out, packed, back): (&mut [T], Option<&[u8]>, bool),
    ) -> Result<()> {
        let e = self.extents();
        let mut scratch = vec![0xa5; scratch_bytes::<T>(&e, level, par.threads, false)];
        let (lhs, rhs) = (self.lhs.operand(x.0), self.rhs.operand(x.1));
        let means = &mut Means { level, scratch: &mut scratch, par, packed, back };
        product(&e, &lhs, &rhs, out, hook, means)
    }

    /// Computes from the end of the right operand on, or with the right operand packed before where it can be.
    fn run_otherwise<T: Tested>(&self, level: Level, par: &Par<'_>, x: (&[T], &[T]), pack: bool) -> Vec<T> {
        let mut out = vec![T::finish(T::zero()); self.len()];
        let pack = pack && self.batch.is_empty() && self.n > 1 && self.m * self.k > 0;
        let bytes = if pack { prepacked_bytes::<T>(self.k, self.n, level) } else { 0 };
        let mut memory = crate::sys::mem::Block::new(bytes).unwrap();
        let packed = memory.bytes_mut(bytes);
        packed.fill(0xa5);
        if pack {
            prepack::<T>(&self.rhs.operand(x.1), (self.k, self.n), level, packed, par).unwrap();
        }
        let packed = pack.then_some(&*packed);
        self.run_with(level, par, x, None, (&mut out, packed, !pack)).unwrap();
        out
    }

    fn want<T: Tested>(&self, fused: bool, (x, y): (&[T], &[T])) -> Vec<T> {
        let mut out = Vec::with_capacity(self.len());
        for b in 0..self.batch.iter().product() {
            for i in 0..self.m {
                for j in 0..self.n {
                    let mut all = T::zero();
                    for start in (0..self.k).step_by(KC) {
                        let mut sum = T::zero();
                        for p in start..(start + KC).min(self.k) {
                            let (l, r) = (self.lhs.at(&self.batch, b, i, p), self.rhs.at(&self.batch, b, p, j));
                            sum = T::step(fused, x[l], y[r], sum);
                        }
                        all = if start == 0 { sum } else { T::plus(all, sum) };
                    }
                    out.push(T::finish(all));
                }
            }
        }
        out
    }

    /// Every level and number of threads gives the same bits as the sums in order.
    fn check<T: Tested>(&self, rng: &mut Rng, pars: &[&Par<'_>]) {
        let (x, y) = self.data::<T>(rng);
        let wants = [false, true].map(|fused| self.want(fused, (&x, &y)));
        for (name, level, fused) in levels() {
            for par in pars {
                let got = self.run(level, par, (&x, &y), None);
                let want = &wants[usize::from(fused)];
                let ways = if std::ptr::eq(*par, pars[0]) { &[false, true][..] } else { &[] };
                for &pack in ways {
                    let other = self.run_otherwise(level, par, (&x, &y), pack);
                    let differ = |(o, g): (&T, &T)| o.bits() != g.bits();
                    let at = other.iter().zip(&got).position(differ);
                    assert!(at.is_none(), "{name}, packed: {pack}, element {at:?} of {:?}", self.extents());
                }
                for (i, (g, w)) in got.iter().zip(want).enumerate() {
                    assert_eq!(
                        g.bits(),
                        w.bits(),
                        "{} at {name}, {} threads, {:?} x {} x {} x {}, element {i}\n{:?}\n{:?}",
                        std::any::type_name::<T>(),
                        par.threads,
                        self.batch,
                        self.m,
                        self.n,
                        self.k,
                        self.lhs,
                        self.rhs
                    );
                }
            }
        }
    }
}

#[test]
fn small_products_of_f32() {
    let mut rng = Rng(1);
    let sizes = [0, 1, 2, 3, 5, 7, 8, 9, 11, 12, 13, 15, 16, 17, 23, 25, 31, 32, 33, 37, 40];
    for m in sizes {
        for n in sizes {
            for k in [0, 1, 2, 4, 7, 8, 16, 17, 33, 40] {
                Case::plain(m, n, k).check::<f32>(&mut rng, &[&SERIAL]);
            }
        }
    }
}

fn random_layouts<T: Tested>(seed: u64, count: usize) {
    let mut rng = Rng(seed);
    for _ in 0..count {
        let batch = match rng.below(6) {
            0 => vec![1 + rng.below(4)],
            1 => vec![1 + rng.below(3), 1 + rng.below(3)],
            _ => vec![],
        };
        let [m, n, k] = [(); 3].map(|()| {
            let most = if rng.below(4) == 0 { 3 } else { 70 };
            1 + rng.below(most)
        });
        Case::any(&mut rng, batch, m, n, k).check::<T>(&mut rng, &[&SERIAL, &TWO]);
    }
}

#[test]
fn any_layout_of_floats() {
    random_layouts::<f32>(2, 600);
    random_layouts::<f64>(3, 400);
    random_layouts::<f16>(4, 300);
    random_layouts::<bf16>(5, 300);
}

#[test]
fn any_layout_of_integers() {
    random_layouts::<u8>(6, 100);
    random_layouts::<i8>(7, 100);
    random_layouts::<i16>(8, 100);
    random_layouts::<i32>(9, 100);
    random_layouts::<i64>(10, 100);
    random_layouts::<Bool>(11, 100);
}

/// Extents that threads share in each way, with sums of several pieces.
const LARGE: [[usize; 3]; 11] = [
    [150, 70, 300],
    [400, 130, 270],
    [13, 900, 513],
    [1, 3000, 600],
    [3, 1500, 257],
    [900, 1, 700],
    [1000, 10, 100],
    [97, 1100, 256],
    [5, 37, 5000],
    [50, 60, 3333],
    [30, 1, 5000],
];

#[test]
fn large_products_do_not_depend_on_threads() {
    let mut rng = Rng(12);
    for [m, n, k] in LARGE {
        Case::plain(m, n, k).check::<f32>(&mut rng, &[&SERIAL, &TWO, &THREE]);
        Case::any(&mut rng, vec![], m, n, k).check::<f32>(&mut rng, &[&TWO, &THREE]);
        Case::any(&mut rng, vec![2], m, n / 2 + 1, k).check::<f64>(&mut rng, &[&TWO]);
        Case::any(&mut rng, vec![], m, n, k).check::<bf16>(&mut rng, &[&THREE]);
        Case::any(&mut rng, vec![9], m / 8 + 1, n / 8 + 1, k).check::<f32>(&mut rng, &[&THREE]);
        Case::any(&mut rng, vec![], m / 4 + 1, n / 4 + 1, k).check::<i32>(&mut rng, &[&TWO]);
    }
}

#[test]
fn a_convolution_is_a_product_of_digits() {
    let mut rng = Rng(13);
    // Images of 3 x 11 x 13, kernels of 3 x 3: 9 x 11 places.
    let (images, channels, height, width, kernel) = (2i64, 3i64, 11i64, 13i64, 3i64);
    let (high, wide) = (height - kernel + 1, width - kernel + 1);
    let places = vec![(high as usize, width), (wide as usize, 1)];
    let taps = vec![(channels as usize, height * width), (kernel as usize, width), (kernel as usize, 1)];
    let (m, n, k) = (5, (high * wide) as usize, (channels * kernel * kernel) as usize);
    let batch = vec![images as usize];
    // Filters times patches, and patches times filters.
    let lhs = Layout::new(&batch, &[0], vec![(m, k as i64)], vec![(k, 1)]);
    let rhs = Layout::new(&batch, &[channels * height * width], taps.clone(), places.clone());
    Case { batch: batch.clone(), m, n, k, lhs, rhs }.check::<f32>(&mut rng, &[&SERIAL, &TWO]);
    let lhs = Layout::new(&batch, &[channels * height * width], places, taps);
    let rhs = Layout::new(&batch, &[0], vec![(k, 1)], vec![(m, k as i64)]);
    Case { batch, m: n, n: m, k, lhs, rhs }.check::<f16>(&mut rng, &[&SERIAL, &TWO]);
}

#[test]
fn another_library_agrees() {
    let mut rng = Rng(14);
    for [m, n, k] in LARGE {
        let case = Case::plain(m, n, k);
        let (x, y) = case.data::<f32>(&mut rng);
        let (l, r) = (&x[case.lhs.offset as usize..], &y[case.rhs.offset as usize..]);
        let mut want = vec![0f32; m * n];
        // SAFETY: the three are as long as their extents say.
        unsafe {
            let one = gemm::Parallelism::None;
            let (mi, ni, ki) = (n as isize, n as isize, k as isize);
            let (l, r, out) = (l.as_ptr(), r.as_ptr(), want.as_mut_ptr());
            gemm::gemm(m, n, k, out, 1, mi, false, l, 1, ki, r, 1, ni, 0.0, 1.0, false, false, false, one);
        }
        for (name, level, _) in levels() {
            let got = case.run(level, &TWO, (&x, &y), None);
            for (g, w) in got.iter().zip(&want) {
                // Sums of products of at most 16 err by less than so many units of the sum of magnitudes.
                assert!((g - w).abs() <= 16.0 * k as f32 * f32::EPSILON * 8.0, "{name}: {g}, want {w}");
            }
        }
    }
}

/// Runs with a hook that reads finished rows and marks them.
fn hooked<T: Tested>(case: &Case, level: Level, par: &Par<'_>, rng: &mut Rng) {
    let (x, y) = case.data::<T>(rng);
    let want = case.run(level, &SERIAL, (&x, &y), None);
    let mut out = vec![T::finish(T::zero()); case.len()];
    let (address, n) = (out.as_mut_ptr() as usize, case.n);
    let seen: Vec<AtomicUsize> = (0..case.len() / n.max(1)).map(|_| AtomicUsize::new(0)).collect();
    let busy: Vec<Mutex<()>> = (0..par.threads).map(|_| Mutex::new(())).collect();
    let hook = |worker: usize, batch: usize, rows: Range<usize>| {
        let _alone = busy[worker].try_lock().unwrap();
        for row in rows {
            assert!(row < case.m);
            let row = batch * case.m + row;
            seen[row].fetch_add(1, Ordering::Relaxed);
            for (i, want) in want.iter().enumerate().skip(row * n).take(n) {
                // SAFETY: `out` lives, and these rows are complete: nobody else touches them.
                let got = unsafe { *(address as *const T).add(i) };
                assert_eq!(got.bits(), want.bits(), "element {i} when its row was announced");
            }
        }
    };
    case.run_into(level, par, (&x, &y), Some(&hook), &mut out).unwrap();
    assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 1));
}

#[test]
fn the_hook_sees_every_row_once_and_complete() {
    let mut rng = Rng(15);
    for (_, level, _) in levels() {
        for par in [&SERIAL, &TWO, &THREE] {
            for [m, n, k] in LARGE {
                hooked::<f32>(&Case::any(&mut rng, vec![], m, n, k), level, par, &mut rng);
                hooked::<bf16>(&Case::any(&mut rng, vec![], m, n, k), level, par, &mut rng);
                hooked::<f32>(&Case::any(&mut rng, vec![7], m / 5 + 1, n / 5 + 1, k), level, par, &mut rng);
            }
            hooked::<f32>(&Case::any(&mut rng, vec![2], 5, 40, 30), level, par, &mut rng);
            hooked::<i32>(&Case::any(&mut rng, vec![3], 4, 6, 0), level, par, &mut rng);
            hooked::<f32>(&Case::plain(2, 6000, 700), level, par, &mut rng);
        }
    }
}

#[test]
fn rounding_to_16_bits_of_special_sums() {
    // Largest values, ties, subnormals, infinities and NaN, each as a sum of one product.
    let specials = [
        1.0f32,
        -0.0,
        65504.0,
        65519.9,
        65520.0,
        1e-8,
        6e-8,
        3.0e-5,
        1.0 + 1.0 / 2048.0,
        1.0 + 1.0 / 256.0,
        1.0 + 3.0 / 256.0,
        3.4e38,
        1e-40,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    for (name, level, _) in levels() {
        let kernels = <bf16 as Element>::kernels(level);
        let (mut b, mut h) = (vec![bf16::ZERO; 37], vec![f16::ZERO; 37]);
        let sums: Vec<f32> = (0..37).map(|i| specials[i % specials.len()]).collect();
        // SAFETY: all three hold 37 elements.
        unsafe {
            kernels.round.unwrap()(sums.as_ptr(), b.as_mut_ptr(), 37);
            <f16 as Element>::kernels(level).round.unwrap()(sums.as_ptr(), h.as_mut_ptr(), 37);
        }
        for i in 0..37 {
            let same = |got: f32, want: f32| got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
            assert!(same(b[i].to_f32(), bf16::from_f32(sums[i]).to_f32()), "{name}: {} to bf16", sums[i]);
            assert!(same(h[i].to_f32(), f16::from_f32(sums[i]).to_f32()), "{name}: {} to f16", sums[i]);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let (_, level, _) = levels()[0];
    let try_with = |change: &dyn Fn(&mut Case, &mut usize, &mut usize)| {
        let mut case = Case::plain(4, 5, 6);
        let (mut len, mut scratch) = (20, scratch_bytes::<f32>(&case.extents(), level, 1, false));
        let (x, y) = (vec![1f32; case.lhs.room], vec![1f32; case.rhs.room]);
        change(&mut case, &mut len, &mut scratch);
        let mut memory = vec![0; scratch];
        let means = &mut Means { level, scratch: &mut memory, par: &SERIAL, packed: None, back: false };
        let (lhs, rhs) = (case.lhs.operand(&x), case.rhs.operand(&y));
        product(&case.extents(), &lhs, &rhs, &mut vec![0f32; len], None, means)
    };
    assert!(try_with(&|_, _, _| {}).is_ok());
    assert!(try_with(&|_, len, _| *len = 19).is_err());
    assert!(try_with(&|_, _, scratch| *scratch -= 1).is_err());
    assert!(try_with(&|c, _, _| c.lhs.offset = -1).is_err());
    assert!(try_with(&|c, _, _| c.rhs.offset += 5).is_err());
    assert!(try_with(&|c, _, _| c.lhs.rows = vec![(4, 7)]).is_err());
    assert!(try_with(&|c, _, _| c.lhs.rows = vec![(5, 6)]).is_err());
    assert!(try_with(&|c, _, _| c.lhs.rows = vec![(2, 18), (2, i64::MAX)]).is_err());
    assert!(try_with(&|c, _, _| c.rhs.cols = vec![(5, i64::MIN)]).is_err());
    assert!(try_with(&|c, _, _| c.rhs.batch = vec![0]).is_err());
    assert!(try_with(&|c, _, _| c.rhs.rows = vec![(usize::MAX, 1), (usize::MAX, 1)]).is_err());
    assert!(try_with(&|c, _, _| c.m = usize::MAX).is_err());
    assert!(try_with(&|c, _, _| c.k = usize::MAX).is_err());
    assert!(try_with(&|c, _, _| c.batch = vec![usize::MAX, 3]).is_err());
    // Strides of 0 make any length fit into a buffer, but nobody lives to see the sums.
    assert!(
        try_with(&|c, _, _| {
            c.k = 1 << 60;
            (c.lhs.cols, c.rhs.rows) = (vec![(c.k, 0)], vec![(c.k, 0)]);
        })
        .is_err()
    );
}

#[test]
fn a_row_times_a_matrix_is_read_where_it_lies() {
    let mut rng = Rng(15);
    for (k, n) in [(1, 16), (7, 40), (300, 33), (512, 1), (600, 2100), (2500, 70)] {
        for turned in [false, true] {
            let mut case = Case::plain(1, n, k);
            if turned {
                case.rhs = Layout::new(&[], &[], vec![(k, 1)], vec![(n, k as i64)]);
            }
            case.check::<f32>(&mut rng, &[&SERIAL, &THREE]);
            case.check::<f64>(&mut rng, &[&TWO]);
            case.check::<f16>(&mut rng, &[&TWO]);
            case.check::<bf16>(&mut rng, &[&SERIAL]);
            case.check::<i32>(&mut rng, &[&TWO]);
            case.check::<Bool>(&mut rng, &[&SERIAL]);
            // A column of a result is a row of its transpose.
            let turn = |x: &Layout| Layout { rows: x.cols.clone(), cols: x.rows.clone(), ..x.clone() };
            let (lhs, rhs) = (turn(&case.rhs), turn(&case.lhs));
            Case { batch: vec![], m: n, n: 1, k, lhs, rhs }.check::<f32>(&mut rng, &[&SERIAL, &THREE]);
        }
    }
}

#[test]
fn a_product_into_its_operand_or_with_another_packed_one_is_refused() {
    let (_, level, _) = levels()[0];
    let case = Case::plain(4, 4, 4);
    let (mut x, y) = (vec![1f32; 16], vec![1f32; 16]);
    let mut scratch = vec![0; scratch_bytes::<f32>(&case.extents(), level, 1, false)];
    let other = vec![0f32; prepacked_bytes::<f32>(5, 4, level) / 4];
    let other: &[u8] = &other.iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<u8>>();
    for packed in [Some(other), None] {
        let out = Span::of_slice(&mut x);
        let out = if packed.is_some() { Span::of_slice(&mut [0f32; 16]) } else { out };
        let means = &mut Means { level, scratch: &mut scratch, par: &SERIAL, packed, back: false };
        assert!(
            product_at(&case.extents(), &case.lhs.operand(&x), &case.rhs.operand(&y), &out, Hooks::default(), means)
                .is_err()
        );
    }
}

/// Computes with rows of the left operand that are copied when they are wanted, and counts how often.
fn run_behind<T: Tested>(
    case: &Case,
    level: Level,
    par: &Par<'_>,
    x: (&[T], &[T]),
    out: &mut [T],
) -> Result<Vec<usize>> {
    let e = case.extents();
    let made: Vec<AtomicUsize> = (0..case.len() / case.n).map(|_| AtomicUsize::new(0)).collect();
    let front = |_: usize, batch: usize, rows: Range<usize>, to: Span| {
        let rows = batch * case.m + rows.start..batch * case.m + rows.end;
        let mut copy = x.0[rows.start * case.k..rows.end * case.k].to_vec();
        assert!(to.copy_from(&Span::of_slice(&mut copy)), "memory for other rows");
        for row in rows {
            made[row].fetch_add(1, Ordering::Relaxed);
        }
    };
    let mut scratch = vec![0xa5; scratch_bytes::<T>(&e, level, par.threads, true)];
    let means = &mut Means { level, scratch: &mut scratch, par, packed: None, back: false };
    // The operand's own memory is not read.
    let lhs = case.lhs.operand(&[]);
    let hooks = Hooks { front: Some(&front), rows: None };
    product_at(&e, &lhs, &case.rhs.operand(x.1), &Span::of_slice(out), hooks, means)?;
    Ok(made.into_iter().map(AtomicUsize::into_inner).collect())
}

fn behind_fronts<T: Tested>(seed: u64, count: usize) {
    let mut rng = Rng(seed);
    for _ in 0..count {
        let batch = if rng.below(4) == 0 { vec![1 + rng.below(3), 1 + rng.below(3)] } else { vec![] };
        let most = [5, 70, 900][rng.below(3)];
        let (m, n) = (1 + rng.below(most), 2 + rng.below(90));
        let longest = if most > 100 { 40 } else { 600 };
        let k = 1 + rng.below(longest);
        let mut case = Case::any(&mut rng, batch, m, n, k);
        // One after another, the columns in any order that keeps to the row.
        let (size, steps) = ((m * k) as i64, case.batch.iter().rev());
        let strides = steps.scan(size, |at, &b| Some(std::mem::replace(at, *at * b as i64))).collect::<Vec<_>>();
        let cols = if rng.below(2) == 0 { vec![(k, 1)] } else { vec![(k, -1)] };
        let (all, rows) = (case.batch.iter().product::<usize>() * m * k, vec![(m, k as i64)]);
        let offset = if cols[0].1 < 0 { k as i64 - 1 } else { 0 };
        case.lhs = Layout { batch: strides.into_iter().rev().collect(), offset, rows, cols, room: all };
        let (x, y) = case.data::<T>(&mut rng);
        for (name, level, _) in levels() {
            for par in [&SERIAL, &TWO, &THREE] {
                let want = case.run(level, par, (&x, &y), None);
                let mut got = vec![T::finish(T::zero()); case.len()];
                let made = run_behind(&case, level, par, (&x, &y), &mut got).unwrap();
                assert!(made.iter().all(|&times| times == 1), "{name}: {:?} {made:?}", case.extents());
                let same = got.iter().zip(&want).all(|(g, w)| g.bits() == w.bits());
                assert!(same, "{name}, {} threads: {:?}", par.threads, case.extents());
            }
        }
    }
}

#[test]
fn rows_that_are_made_when_they_are_wanted_give_the_same_bits() {
    behind_fronts::<f32>(21, 60);
    behind_fronts::<f64>(22, 30);
    behind_fronts::<bf16>(23, 40);
    behind_fronts::<i16>(24, 15);
}

#[test]
fn rows_that_are_not_apart_cannot_be_made() {
    let (_, level, _) = levels()[0];
    let try_with = |case: &Case| {
        let (x, y) = (vec![1f32; 500], vec![1f32; case.rhs.room]);
        run_behind(case, level, &SERIAL, (&x, &y), &mut vec![0f32; case.len()])
    };
    let with = |n: usize, lhs: Layout| try_with(&Case { lhs, ..Case::plain(4, n, 6) });
    let flat = Layout { offset: 0, ..Case::plain(4, 5, 6).lhs };
    assert!(with(5, flat.clone()).is_ok());
    // A result of one column is computed as its transpose.
    assert!(with(1, flat.clone()).is_err());
    let turned = Layout { rows: vec![(4, 1)], cols: vec![(6, 4)], ..flat.clone() };
    let beyond = Layout { offset: 1, ..flat.clone() };
    let before = Layout { cols: vec![(6, -1)], ..flat.clone() };
    let backwards = Layout { offset: 18, rows: vec![(4, -6)], ..flat };
    for lhs in [turned, beyond, before, backwards] {
        assert!(with(5, lhs).is_err());
    }
}

#[test]
fn extents_beyond_any_memory_saturate() {
    let (_, level, _) = levels()[0];
    for (m, n, k) in [(usize::MAX, 3, 3), (3, usize::MAX, 3), (3, 3, usize::MAX), (1 << 40, 1 << 10, 1 << 20)] {
        for batch in [&[][..], &[usize::MAX]] {
            assert_eq!(scratch_bytes::<f32>(&Extents { batch, m, n, k }, level, 4, false), usize::MAX);
            assert_eq!(scratch_bytes::<bf16>(&Extents { batch, m, n, k }, level, 4, false), usize::MAX);
        }
    }
}
