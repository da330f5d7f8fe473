//! Results as text, so that the report can be written again when only the reasons of survivors have changed.
//!
//! A line is a mutant (`m`, family, kind, place, change, outcome) or a count (`n`, family, kind, mutants that there
//! are), with tabs between.

use super::trial::Outcome;
use super::{Mutant, Results};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The results as text.
pub fn save(results: &Results) -> String {
    let mut out = String::new();
    for ((family, kind), n) in &results.found {
        let _ = writeln!(out, "n\t{family}\t{kind}\t{n}");
    }
    for m in &results.mutants {
        let outcome = match &m.outcome {
            Outcome::Refused => "refused",
            Outcome::Same => "same",
            Outcome::Survived => "survived",
            Outcome::Killed(by) => by,
        };
        let dead = if matches!(m.outcome, Outcome::Killed(_)) { "killed " } else { "" };
        let _ = writeln!(out, "m\t{}\t{}\t{}\t{}\t{dead}{outcome}", m.family, m.kind, m.place, m.what);
    }
    out
}

/// Reads what [`save`] wrote.
///
/// # Errors
/// The line that is not one of its.
pub fn load(text: &str) -> Result<Results, String> {
    let mut results = Results { mutants: Vec::new(), found: BTreeMap::new() };
    // Names live as long as the program, as those in its own tables.
    let name = |s: &str| -> &'static str { s.to_string().leak() };
    for line in text.lines() {
        let parts: Vec<&str> = line.split('\t').collect();
        match parts[..] {
            ["n", family, kind, n] => {
                let n = n.parse().map_err(|_| format!("not a count: {line}"))?;
                results.found.insert((name(family), name(kind)), n);
            }
            ["m", family, kind, place, what, outcome] => {
                let outcome = match outcome {
                    "refused" => Outcome::Refused,
                    "same" => Outcome::Same,
                    "survived" => Outcome::Survived,
                    other => {
                        let by = other.strip_prefix("killed ").ok_or_else(|| format!("not an outcome: {line}"))?;
                        Outcome::Killed(by.to_string())
                    }
                };
                let (place, what) = (place.to_string(), what.to_string());
                results.mutants.push(Mutant { family: name(family), kind: name(kind), place, what, outcome });
            }
            _ => return Err(format!("not a result: {line}")),
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_back() {
        let m = |outcome| Mutant { family: "f", kind: "k", place: "p".into(), what: "a => b".into(), outcome };
        let all = [Outcome::Refused, Outcome::Same, Outcome::Survived, Outcome::Killed("Race".to_string())];
        let results = Results { mutants: all.into_iter().map(m).collect(), found: [(("f", "k"), 9)].into() };
        let text = save(&results);
        let again = load(&text).unwrap();
        assert_eq!(save(&again), text);
        assert_eq!(again.mutants[3].outcome, Outcome::Killed("Race".to_string()));
        assert!(load("m\tf").is_err());
    }
}
