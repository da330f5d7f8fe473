//! Equal values, found by their hashes in bounded time.
//!
//! Graphs and programs may come from files that somebody else made, so that values may be made to collide. Values are
//! hashed quickly; what has one hash is compared with few others, and the table of the hashes has a seed of the process.

use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::OnceLock;

/// Values of one hash that are looked at for an equal one. Only what was made for it has more; those are then taken for
/// distinct although they may be equal, so that each takes constant time.
pub(crate) const MOST_OF_ONE_HASH: usize = 64;

/// Numbers of values, one for equal ones, up to [`MOST_OF_ONE_HASH`] distinct ones of one hash.
pub struct Distinct<K>(HashMap<u64, SmallVec<[(K, usize); 1]>, Seeded>);

impl<K> Default for Distinct<K> {
    fn default() -> Distinct<K> {
        Distinct(HashMap::default())
    }
}

impl<K: Eq + Hash> Distinct<K> {
    /// The number of an equal value that came before, or else this one, which is the value's own from now on.
    pub fn number(&mut self, value: K, number: usize) -> usize {
        let same = self.0.entry(FxBuildHasher.hash_one(&value)).or_default();
        if let Some((_, known)) = same.iter().find(|(other, _)| *other == value) {
            return *known;
        }
        if same.len() < MOST_OF_ONE_HASH {
            same.push((value, number));
        }
        number
    }
}

/// Hashes what are hashes already, under a seed of the process: who does not know it cannot choose keys that collide.
#[derive(Clone)]
pub(crate) struct Seeded([u64; 2]);

impl Default for Seeded {
    fn default() -> Seeded {
        static SEEDS: OnceLock<[u64; 2]> = OnceLock::new();
        Seeded(*SEEDS.get_or_init(|| [0u8, 1].map(|n| RandomState::new().hash_one(n))))
    }
}

impl BuildHasher for Seeded {
    type Hasher = Folded;
    fn build_hasher(&self) -> Folded {
        Folded { seeds: self.0, hash: 0 }
    }
}

/// Both halves of a product with a number that nobody knows.
pub(crate) struct Folded {
    seeds: [u64; 2],
    hash: u64,
}

impl Hasher for Folded {
    fn write_u64(&mut self, key: u64) {
        let product = u128::from(key ^ self.hash ^ self.seeds[0]) * u128::from(self.seeds[1] | 1);
        self.hash = product as u64 ^ (product >> 64) as u64;
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.write_u64(u64::from(b)));
    }
    fn finish(&self) -> u64 {
        self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static COMPARED: Cell<usize> = const { Cell::new(0) };
    }

    // All of one hash.
    struct Flood(usize);

    impl Hash for Flood {
        fn hash<H: Hasher>(&self, state: &mut H) {
            0u8.hash(state);
        }
    }
    impl PartialEq for Flood {
        fn eq(&self, other: &Flood) -> bool {
            COMPARED.set(COMPARED.get() + 1);
            self.0 == other.0
        }
    }
    impl Eq for Flood {}

    #[test]
    fn equal_values_have_one_number() {
        let mut distinct = Distinct::default();
        let numbers: Vec<usize> =
            [7, 8, 7, 9, 8, 7].into_iter().enumerate().map(|(i, v)| distinct.number(v, i)).collect();
        assert_eq!(numbers, [0, 1, 0, 3, 1, 0]);
    }

    #[test]
    fn values_of_one_hash_take_bounded_time() {
        let mut distinct = Distinct::default();
        let count = 10_000;
        assert!((0..count).all(|i| distinct.number(Flood(i), i) == i));
        assert!(COMPARED.get() <= count * MOST_OF_ONE_HASH);
        assert_eq!(distinct.number(Flood(3), count), 3);
    }
}
