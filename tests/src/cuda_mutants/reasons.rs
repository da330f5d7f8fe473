//! Mutants that no test can tell from the generator's text, and why.

use super::Mutant;
use super::trial::Outcome;

/// A group of mutants that are equivalent.
pub struct Reason {
    /// Their family; any when empty.
    pub family: &'static str,
    /// Their kind; any when empty.
    pub kind: &'static str,
    /// A part of the change as the list of survivors shows it.
    pub what: &'static str,
    /// Why nothing changes.
    pub why: &'static str,
}

const REASONS: &[Reason] = &[];

/// Why a mutant that survived is equivalent, if it is.
pub fn reason(m: &Mutant) -> Option<&'static str> {
    let fits = |r: &&Reason| {
        (r.family.is_empty() || r.family == m.family)
            && (r.kind.is_empty() || r.kind == m.kind)
            && m.what.contains(r.what)
    };
    (m.outcome == Outcome::Survived).then(|| REASONS.iter().find(fits).map(|r| r.why)).flatten()
}
