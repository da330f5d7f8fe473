//! The tensors of the state as a table of C: where their names begin, their sizes, and where their values are.

use super::functions::quoted;
use super::steps::line;
use super::{ALIGN, Home, Layout};

/// A tensor: where its name begins, its bytes, its place in the context with its kind in the low two bits, and where its
/// first value is among the weights.
type Entry = [u64; 4];

/// Every tensor of the state.
pub(super) struct States<'a> {
    /// Each name, and a zero.
    pub names: Vec<u8>,
    pub entries: Vec<Entry>,
    texts: Vec<&'a str>,
}

impl<'a> States<'a> {
    pub fn new(layout: &'a Layout<'_>) -> States<'a> {
        let begun = layout.request.manifest.state.len();
        let (mut names, mut entries) = (Vec::new(), Vec::new());
        for (i, state) in layout.manifest.state.iter().enumerate() {
            let (home, first) = layout.state[i];
            // 0: among the weights; 1: in the context; 2: in the context, and zeros at first.
            let (kind, at) = if let Home::Context(at) = home { (1 + u64::from(i >= begun), at) } else { (0, 0) };
            let bytes = layout.types.state[i].nbytes() as u64;
            entries.push([names.len() as u64, bytes, (at as u64) << 2 | kind, first as u64]);
            names.extend_from_slice(state.name.as_bytes());
            names.push(0);
        }
        States { names, entries, texts: layout.manifest.state.iter().map(|s| s.name.as_str()).collect() }
    }

    /// Size and kind of each tensor in one number: they say everything where the tensors lie one after another, and names
    /// end at the first zero.
    pub fn sizes(&self) -> Option<Vec<u64>> {
        let up = |n: u64| n.next_multiple_of(ALIGN as u64);
        let (mut own, mut first) = (0, 0);
        let follows = self.entries.iter().all(|&[_, bytes, place, begins]| {
            let kind = place & 3;
            let fits = place == if kind > 0 { own << 2 | kind } else { 0 } && begins == first;
            own = if kind > 0 { up(own + bytes) } else { own };
            first = if kind < 2 { up(first + bytes) } else { first };
            fits
        });
        let ends = self.names.iter().filter(|&&b| b == 0).count() == self.entries.len();
        (follows && ends).then(|| self.entries.iter().map(|&[_, bytes, place, _]| bytes << 2 | place & 3).collect())
    }

    /// The tables; names are offsets into one text, as pointers would each need a relocation.
    pub fn plain(&self) -> String {
        let mut out = String::new();
        line!(out, "static const char t_names[] =");
        for name in &self.texts {
            // Digits that follow are no part of the zero.
            line!(out, "    {} \"\\000\"", quoted(name));
        }
        line!(out, "    \"\";\nstatic const struct {{ t_word name, bytes, place, first; }} t_states[] = {{");
        for [name, bytes, place, first] in &self.entries {
            line!(out, "    {{{name}, {bytes}, {place}u, {first}}},");
        }
        line!(out, "    {{0, 0, 0, 0}}\n}};");
        out
    }
}
