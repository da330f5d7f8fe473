//! Recorded launches of a program, by the addresses that they work on.
//!
//! A graph holds the addresses of its recording. A program whose buffers come from a caching arena meets the same
//! addresses again and again, above all one that updates its state in place; so graphs are kept by address, and one
//! is recorded when addresses are met for the second time. Nothing has to be copied or patched for a replay, and a
//! graph is right whoever owns the memory by then. A run on other addresses launches kernel by kernel.

use crate::sys::cuda::driver::Graph;
use std::sync::Arc;

/// Sets of addresses remembered.
const SETS: usize = 8;

/// Addresses, and the graph that was recorded on them, if any.
type Set = (Box<[u64]>, Option<Arc<Graph>>);

/// Graphs of one program.
#[derive(Default)]
pub(crate) struct Graphs {
    /// Most recently used last.
    sets: Vec<Set>,
}

/// What is known of a set of addresses.
pub(crate) enum Met {
    /// Nothing.
    New,
    /// They were met before, and a graph is worth recording.
    Again,
    /// There is a graph.
    Recorded(Arc<Graph>),
}

impl Graphs {
    /// Looks addresses up, and remembers them.
    pub fn meet(&mut self, addresses: &[u64]) -> Met {
        if let Some(at) = self.sets.iter().position(|(known, _)| **known == *addresses) {
            let set = self.sets.remove(at);
            let met = set.1.clone().map_or(Met::Again, Met::Recorded);
            self.sets.push(set);
            return met;
        }
        if self.sets.len() >= SETS {
            self.sets.remove(0);
        }
        self.sets.push((addresses.into(), None));
        Met::New
    }

    /// Keeps the graph of addresses that were met.
    pub fn keep(&mut self, addresses: &[u64], graph: Arc<Graph>) {
        if let Some((_, slot)) = self.sets.iter_mut().find(|(known, _)| **known == *addresses) {
            *slot = Some(graph);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_remembered_up_to_a_number() {
        let mut graphs = Graphs::default();
        assert!(matches!(graphs.meet(&[1, 2]), Met::New));
        assert!(matches!(graphs.meet(&[1, 2]), Met::Again));
        assert!(matches!(graphs.meet(&[1, 2]), Met::Again));
        for i in 0..SETS as u64 - 1 {
            assert!(matches!(graphs.meet(&[i, 100]), Met::New));
        }
        assert!(matches!(graphs.meet(&[1, 2]), Met::Again));
        for i in 0..SETS as u64 {
            assert!(matches!(graphs.meet(&[i, 200]), Met::New));
        }
        assert!(matches!(graphs.meet(&[1, 2]), Met::New));
    }
}
