//! How good the tests of the CUDA code generator are: single changes of what it emits, each of which a test should notice.
//!
//! A mutant is the source of a small program with one change (a barrier deleted, a bound off by one, operands swapped),
//! or its launch plan with one. Nothing is built again: the generator's text is changed, compiled by NVRTC and run on
//! the simulated device as the tests run it, forward and reversed, with races looked for and buffers of exactly their
//! size, and compared with the interpreter. A mutant is killed by another result, by a fault of the device, or by the
//! check of the plan. One that the compiler refuses, or of which it makes the same PTX, says nothing and is counted
//! apart. `make mutants-cuda` runs them and writes `tests/cuda/MUTANTS.md`; where a kind is very common in a family, a
//! part of its mutants is run, spread evenly.

mod kinds;
mod programs;
mod reasons;
mod saved;
mod table;
mod tokens;
mod trial;

pub use saved::{load, save};
pub use table::write;

use kinds::Edit;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use trial::{Compiler, Outcome, Subject};

/// Threads that compile and run mutants, each with a compiler of its own.
const WORKERS: usize = 2;
/// The row of functions that many kernels call.
const HELPERS: &str = "helper functions";
/// Programs on which a change of one function is tried.
const TRIES: usize = 5;
/// Kinds of which all are run.
const ALL: &[&str] = &["barrier deleted", "cp.async wait or commit deleted", "shared array smaller"];

/// What to run.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Mutants of a kind in a family, at most; [`ALL`] the kinds without a limit.
    pub each: usize,
    /// Parts of names of families; all without.
    pub families: Vec<String>,
    /// Parts of names of kinds; all without.
    pub kinds: Vec<String>,
    /// Print the sources instead.
    pub dump: bool,
}

/// A mutant and what became of it.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// Its family.
    pub family: &'static str,
    /// What kind of change.
    pub kind: &'static str,
    /// Program and function.
    pub place: String,
    /// The change in words.
    pub what: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// Everything that was found out.
pub struct Results {
    /// Mutants that were run, in order.
    pub mutants: Vec<Mutant>,
    /// Mutants that there are, by family and kind.
    pub found: BTreeMap<(&'static str, &'static str), usize>,
}

/// Checks the unchanged programs on all their inputs; how many there are.
///
/// # Errors
/// What is wrong with which program, or that the compiler cannot be run.
pub fn check_unchanged() -> Result<usize, String> {
    let mut compiler = Compiler::start("unchanged")?;
    let mut n = 0;
    for entry in programs::programs() {
        Subject::new(entry, &mut compiler)?;
        n += 1;
    }
    Ok(n)
}

enum Change {
    /// One of these, each the same change in another program.
    Source(Vec<(usize, Edit)>),
    Plan(usize, Box<torsh_codegen::cuda::Module>),
}

struct Job {
    family: &'static str,
    kind: &'static str,
    place: String,
    what: String,
    change: Change,
}

/// Runs the selected mutants.
///
/// # Errors
/// When an unchanged program fails, or the compiler cannot be run.
pub fn run(selection: &Selection) -> Result<Results, String> {
    let wanted =
        |family: &str| selection.families.is_empty() || selection.families.iter().any(|f| family.contains(f.as_str()));
    let entries: Vec<_> = programs::programs().into_iter().filter(|e| wanted(e.family)).collect();
    let mut subjects = Vec::new();
    {
        let mut compiler = Compiler::start("first")?;
        for entry in entries {
            subjects.push(Subject::new(entry, &mut compiler)?);
        }
    }
    eprintln!("{} programs pass unchanged", subjects.len());
    if selection.dump {
        for s in &subjects {
            println!("// {}: {}\n{}", s.entry.family, s.entry.name, s.source);
        }
        return Ok(Results { mutants: Vec::new(), found: BTreeMap::new() });
    }
    let jobs = jobs(&subjects, wanted(HELPERS));
    let mut found = BTreeMap::new();
    for job in &jobs {
        *found.entry((job.family, job.kind)).or_insert(0) += 1;
    }
    let mut jobs = sample(jobs, &found, selection.each);
    jobs.retain(|j| selection.kinds.is_empty() || selection.kinds.iter().any(|k| j.kind.contains(k.as_str())));
    eprintln!("{} of {} mutants", jobs.len(), found.values().sum::<usize>());
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    let work = |name: usize| -> Result<(), String> {
        let mut compiler = Compiler::start(&name.to_string())?;
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(at) else { return Ok(()) };
            let outcome = judge(job, &subjects, &mut compiler)?;
            if outcome == Outcome::Survived {
                eprintln!("{at} survived: {} | {} | {} | {}", job.family, job.kind, job.place, job.what);
            } else if at.is_multiple_of(50) {
                eprintln!("{at} of {}", jobs.len());
            }
            done.lock().unwrap_or_else(PoisonError::into_inner).insert(at, outcome);
        }
    };
    std::thread::scope(|s| {
        let workers: Vec<_> = (0..WORKERS).map(|n| s.spawn(move || work(n))).collect();
        workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|_| Err("a worker panicked".to_string())))
    })?;
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mutants = jobs
        .into_iter()
        .enumerate()
        .filter_map(|(i, j)| {
            let outcome = done.remove(&i)?;
            Some(Mutant { family: j.family, kind: j.kind, place: j.place, what: j.what, outcome })
        })
        .collect();
    Ok(Results { mutants, found })
}

fn judge(job: &Job, subjects: &[Subject], compiler: &mut Compiler) -> Result<Outcome, String> {
    match &job.change {
        Change::Plan(s, plan) => Ok(subjects[*s].try_plan(plan)),
        Change::Source(tries) => {
            let mut last = Outcome::Same;
            for (s, edit) in tries {
                let subject = &subjects[*s];
                match subject.try_source(&edit.apply(&subject.source), compiler)? {
                    Outcome::Same => {}
                    Outcome::Survived => last = Outcome::Survived,
                    decided => return Ok(decided),
                }
            }
            Ok(last)
        }
    }
}

/// Every mutant: of equal functions in several programs once.
fn jobs(subjects: &[Subject], helpers: bool) -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    let mut seen: HashMap<(String, usize), usize> = HashMap::new();
    for (s, subject) in subjects.iter().enumerate() {
        let family = subject.entry.family;
        for piece in kinds::pieces(&subject.source) {
            if !piece.kernel && !helpers {
                continue;
            }
            let text = &subject.source[piece.span.0..piece.span.1];
            for (n, edit) in kinds::edits(&subject.source, &piece).into_iter().enumerate() {
                match seen.get(&(text.to_string(), n)) {
                    Some(&known) => {
                        if let Change::Source(tries) = &mut jobs[known].change
                            && tries.len() < TRIES
                        {
                            tries.push((s, edit));
                        }
                    }
                    None => {
                        seen.insert((text.to_string(), n), jobs.len());
                        jobs.push(Job {
                            family: if piece.kernel { family } else { HELPERS },
                            kind: edit.kind,
                            place: format!("{}, {}", subject.entry.name, piece.name),
                            what: edit.show(&subject.source),
                            change: Change::Source(vec![(s, edit)]),
                        });
                    }
                }
            }
        }
        for (kind, what, plan) in kinds::plans(&subject.plan, &|kernel, n| subject.reads(kernel, n)) {
            let place = subject.entry.name.clone();
            jobs.push(Job { family, kind, place, what, change: Change::Plan(s, Box::new(plan)) });
        }
    }
    jobs
}

/// Of each kind in each family at most so many, spread evenly.
fn sample(jobs: Vec<Job>, found: &BTreeMap<(&'static str, &'static str), usize>, each: usize) -> Vec<Job> {
    let mut at: HashMap<(&str, &str), usize> = HashMap::new();
    let mut keep = |job: &Job| {
        let key = (job.family, job.kind);
        let (n, i) = (found[&key], at.entry(key).or_insert(0));
        *i += 1;
        let limit = if job.family == HELPERS { 2 * each } else { each };
        ALL.contains(&job.kind) || n <= limit || *i * limit / n != (*i - 1) * limit / n
    };
    jobs.into_iter().filter(|j| keep(j)).collect()
}
