//! Best-fit allocation of byte ranges that grow a block at its end.

use std::collections::BTreeMap;

/// Alignment of every range, in bytes.
pub const ALIGN: usize = 64;

/// A block with free ranges.
#[derive(Default)]
pub struct Arena {
    /// Free ranges by offset; never adjacent.
    free: BTreeMap<usize, usize>,
    top: usize,
}

/// `bytes` rounded up to the alignment.
pub fn round_up(bytes: usize) -> usize {
    bytes.saturating_add(ALIGN - 1) / ALIGN * ALIGN
}

impl Arena {
    /// Bytes needed so far.
    pub fn bytes(&self) -> usize {
        self.top
    }

    /// Offset of a fresh range: the smallest free one that fits, else at the end.
    pub fn take(&mut self, bytes: usize) -> usize {
        let size = round_up(bytes);
        let best = self.free.iter().filter(|f| *f.1 >= size).min_by_key(|f| *f.1).map(|(&o, &s)| (o, s));
        if let Some((offset, space)) = best {
            self.free.remove(&offset);
            if space > size {
                self.free.insert(offset + size, space - size);
            }
            return offset;
        }
        // The last free range may be extended.
        let offset = match self.free.last_key_value() {
            Some((&o, &s)) if o + s == self.top => {
                self.free.remove(&o);
                o
            }
            _ => self.top,
        };
        self.top = offset.saturating_add(size);
        offset
    }

    /// Gives a range back.
    pub fn give(&mut self, offset: usize, bytes: usize) {
        let (mut offset, mut size) = (offset, round_up(bytes));
        if size == 0 {
            return;
        }
        if let Some((&o, &s)) = self.free.range(..offset).next_back()
            && o + s == offset
        {
            self.free.remove(&o);
            (offset, size) = (o, size + s);
        }
        if let Some(&s) = self.free.get(&(offset + size)) {
            self.free.remove(&(offset + size));
            size += s;
        }
        self.free.insert(offset, size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_reused_and_joined() {
        let mut a = Arena::default();
        let (x, y, z) = (a.take(100), a.take(10), a.take(64));
        assert_eq!((x, y, z, a.bytes()), (0, 128, 192, 256));
        a.give(x, 100);
        a.give(y, 10);
        assert_eq!(a.take(192), 0);
        a.give(0, 192);
        assert_eq!(a.take(64), 0);
        a.give(z, 64);
        // The range at the end grows instead of leaving a hole.
        assert_eq!(a.take(512), 64);
        assert_eq!(a.bytes(), 576);
    }
}
