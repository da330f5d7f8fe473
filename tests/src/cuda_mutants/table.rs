//! The report of a run.

use super::kinds::KINDS;
use super::reasons::reason;
use super::trial::Outcome;
use super::{Mutant, Results, Selection};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Counts of a row.
#[derive(Default)]
struct Row {
    found: usize,
    run: usize,
    refused: usize,
    same: usize,
    killed: BTreeMap<String, usize>,
    equivalent: usize,
    survived: usize,
}

impl Row {
    fn of<'m>(mutants: impl Iterator<Item = &'m Mutant>) -> Row {
        let mut row = Row::default();
        for m in mutants {
            row.run += 1;
            match &m.outcome {
                Outcome::Refused => row.refused += 1,
                Outcome::Same => row.same += 1,
                Outcome::Killed(by) => *row.killed.entry(by.clone()).or_insert(0) += 1,
                Outcome::Survived if reason(m).is_some() => row.equivalent += 1,
                Outcome::Survived => row.survived += 1,
            }
        }
        row
    }
    fn killed(&self) -> usize {
        self.killed.values().sum()
    }
    /// Killed among those that ran and are not equivalent.
    fn share(&self) -> f64 {
        let all = self.killed() + self.survived;
        if all == 0 { 1.0 } else { self.killed() as f64 / all as f64 }
    }
    fn cells(&self) -> String {
        format!(
            "{} | {} | {} | {} | {} | {} | {} | {:.1} %",
            self.found,
            self.run,
            self.refused,
            self.same,
            self.killed(),
            self.equivalent,
            self.survived,
            100.0 * self.share()
        )
    }
}

/// Writes the report; also the share of killed mutants.
pub fn write(results: &Results, selection: &Selection) -> (String, f64) {
    let mutants = &results.mutants;
    let mut out = String::new();
    let all = {
        let mut row = Row::of(mutants.iter());
        row.found = results.found.values().sum();
        row
    };
    let _ = writeln!(
        out,
        "# Mutants of the CUDA code generator\n\n\
        Written by `make mutants-cuda` (`cargo run --release --locked -p torsh-tests --bin cuda_mutants -- --each {} \
        --write`).\nWhat a mutant is and how it is judged: `tests/src/cuda_mutants/mod.rs`. Programs: `programs.rs` beside \
        it.\n",
        selection.each
    );
    let judged = all.killed() + all.survived + all.equivalent;
    let _ = writeln!(
        out,
        "**{} of {} mutants killed: {:.1} %** ({} more survive and are equivalent, for reasons given below; counted as \
        survivors the share is {:.1} %).\nNot counted: {} that the compiler refuses and {} of which it makes the same \
        PTX. There are {} mutants in all; of a kind that is common in a family, at most {} were run, spread evenly \
        (twice as many for helper functions; all of those that delete barriers and waits or make shared arrays smaller).\n",
        all.killed(),
        all.killed() + all.survived,
        100.0 * all.share(),
        all.equivalent,
        100.0 * all.killed() as f64 / judged.max(1) as f64,
        all.refused,
        all.same,
        all.found,
        selection.each
    );
    let head = "found | run | refused by the compiler | same PTX | killed | equivalent | survived | killed\n\
        --- | --- | --- | --- | --- | --- | --- | --- | ---";
    let _ = writeln!(out, "## By family\n\nfamily | {head}");
    let mut families: Vec<&str> = Vec::new();
    for m in mutants {
        if !families.contains(&m.family) {
            families.push(m.family);
        }
    }
    for &f in &families {
        let mut row = Row::of(mutants.iter().filter(|m| m.family == f));
        row.found = results.found.iter().filter(|((family, _), _)| *family == f).map(|(_, n)| n).sum();
        let _ = writeln!(out, "{f} | {}", row.cells());
    }
    let _ = writeln!(out, "all | {}", all.cells());
    let _ = writeln!(out, "\n## By kind\n\nkind | {head}");
    let used: Vec<&str> = KINDS.iter().copied().filter(|k| mutants.iter().any(|m| m.kind == *k)).collect();
    for &k in &used {
        let mut row = Row::of(mutants.iter().filter(|m| m.kind == k));
        row.found = results.found.iter().filter(|((_, kind), _)| *kind == k).map(|(_, n)| n).sum();
        let _ = writeln!(out, "{k} | {}", row.cells());
    }
    let _ = writeln!(out, "\n## What killed them\n\nkind | {}", by_causes(mutants, &used, &all));
    let _ = writeln!(
        out,
        "## Family and kind\n\nKilled of those that ran and are not equivalent, then of how many there are; kinds by \
        their number in the table of kinds.\n\nfamily | {}",
        (1..=used.len()).map(|n| n.to_string()).collect::<Vec<_>>().join(" | ")
    );
    let _ = writeln!(out, "{}", vec!["---"; used.len() + 1].join(" | "));
    for &f in &families {
        let cells: Vec<String> = used
            .iter()
            .map(|&k| {
                let row = Row::of(mutants.iter().filter(|m| m.family == f && m.kind == k));
                let found = results.found.iter().find(|((a, b), _)| *a == f && *b == k).map_or(0, |(_, n)| *n);
                if found == 0 {
                    return String::new();
                }
                format!("{}/{} of {found}", row.killed(), row.killed() + row.survived)
            })
            .collect();
        let _ = writeln!(out, "{f} | {}", cells.join(" | "));
    }
    survivors(&mut out, mutants);
    (out, all.share())
}

/// A table of kinds and what noticed their mutants.
fn by_causes(mutants: &[Mutant], used: &[&str], all: &Row) -> String {
    let causes: Vec<&String> = all.killed.keys().collect();
    let names = |f: &dyn Fn(&String) -> String| causes.iter().map(|c| f(c)).collect::<Vec<_>>().join(" | ");
    let mut out = format!("{}\n{}\n", names(&|c| c.clone()), vec!["---"; causes.len() + 1].join(" | "));
    for &k in used {
        let row = Row::of(mutants.iter().filter(|m| m.kind == k));
        let _ = writeln!(out, "{k} | {}", names(&|c| row.killed.get(c).map_or(String::new(), usize::to_string)));
    }
    out
}

fn survivors(out: &mut String, mutants: &[Mutant]) {
    let list = |out: &mut String, equivalent: bool| {
        for m in mutants.iter().filter(|m| m.outcome == Outcome::Survived && reason(m).is_some() == equivalent) {
            let _ = writeln!(out, "- {}, {} ({}): `{}`", m.family, m.kind, m.place, m.what.replace('`', "'"));
            if let Some(why) = reason(m) {
                let _ = writeln!(out, "  {why}");
            }
        }
    };
    out.push_str("\n## Survivors\n\n");
    list(out, false);
    out.push_str("\n## Equivalent mutants\n\n");
    list(out, true);
}
