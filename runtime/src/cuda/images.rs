//! Compiled kernels that a file brought, for those who believe the file: how they are known, and where they are looked for.
//!
//! A kernel is known by a digest of all that its code was made from: its source with the helpers that it calls, the options
//! of the compiler, the architecture, machine code or PTX, the versions of torsh and of the generator. The version of NVRTC
//! is no part of it: whoever has no NVRTC could not tell. A kernel whose digest is met is taken from the file; any other is
//! compiled. What was believed is held by the package that brought it, and looked at no more when that is gone; programs
//! that were loaded with it have the device's copies.
//!
//! That the code does what the digest stands for is the word of whoever is believed, nothing else.

use sha2::{Digest, Sha256};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use torsh_codegen::cuda::{GENERATOR_VERSION, Options};

/// How a step came to its code, for `explain()`.
pub(crate) const REASON: &str = crate::codes::REASON;

/// A digest.
pub(crate) type Key = [u8; 32];

/// What kernels are compiled to.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Form {
    /// Compute capability times ten.
    pub arch: u32,
    /// Text, which the simulator runs, instead of machine code.
    pub ptx: bool,
}

impl Form {
    /// Its name: `sm_90`, or `compute_90` for text.
    pub fn name(self) -> String {
        format!("{}_{}", if self.ptx { "compute" } else { "sm" }, self.arch)
    }

    /// The form of a name. Compute capabilities are written in one way, and are 8.0 or more.
    pub fn parse(name: &str) -> Option<Form> {
        let (kind, digits) = name.split_once('_')?;
        let arch = digits.parse().ok().filter(|arch| (80..1000).contains(arch))?;
        let form = Form { arch, ptx: kind == "compute" };
        (form.name() == name).then_some(form)
    }

    /// Whether a device of this compute capability runs it: it has the same major version, and is no older.
    fn runs_on(self, sm: u32) -> bool {
        self.arch / 10 == sm / 10 && self.arch <= sm
    }
}

/// What wrote kernels; another generator's are of no use here.
pub(crate) fn generator() -> String {
    format!("torsh {} generator {GENERATOR_VERSION}", crate::VERSION)
}

/// The digest of a kernel with this source of its own.
pub(crate) fn key(form: Form, options: &Options, source: &str) -> Key {
    let flags = Options { sm: form.arch, ..options.clone() }.compiler_flags().join(" ");
    Sha256::digest(format!("{} {}\n{flags}\n{source}", generator(), form.name())).into()
}

/// Images of one form.
#[derive(Debug)]
pub(crate) struct Images {
    pub form: Form,
    pub bytes: Vec<u8>,
    /// Where each image is.
    pub images: Vec<Range<usize>>,
    /// In ascending order of their keys: image and symbol.
    pub kernels: Vec<(Key, usize, String)>,
}

impl Images {
    /// An image.
    pub fn image(&self, index: usize) -> Option<&[u8]> {
        self.bytes.get(self.images.get(index)?.clone())
    }
}

static BELIEVED: Mutex<Vec<Weak<Images>>> = Mutex::new(Vec::new());

/// Makes kernels known to every program that is loaded, for as long as they are held elsewhere.
pub(crate) fn believe(images: &Arc<Images>) {
    let mut all = BELIEVED.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|known| known.strong_count() > 0);
    all.push(Arc::downgrade(images));
}

/// Where kernels for a device are looked for.
pub(super) struct Shelf {
    // Best first.
    all: Vec<Arc<Images>>,
}

/// A kernel that was found.
pub(super) struct Found {
    pub images: Arc<Images>,
    pub image: usize,
    pub symbol: String,
}

impl Shelf {
    /// For a device of this compute capability; `None` when nothing is believed that it runs.
    pub fn new(sm: u32, ptx: bool) -> Option<Shelf> {
        let known = BELIEVED.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |images: &Arc<Images>| images.form.ptx == ptx && images.form.runs_on(sm);
        // What was believed last comes first among equals.
        let mut all: Vec<Arc<Images>> = known.iter().rev().filter_map(Weak::upgrade).filter(fits).collect();
        all.sort_by_key(|images| std::cmp::Reverse(images.form.arch));
        (!all.is_empty()).then_some(Shelf { all })
    }

    /// The kernel with this source of its own.
    pub fn find(&self, options: &Options, source: &str) -> Option<Found> {
        let mut last: Option<(Form, Key)> = None;
        self.all.iter().find_map(|images| {
            let key = match last {
                Some((form, key)) if form == images.form => key,
                _ => key(images.form, options, source),
            };
            last = Some((images.form, key));
            let at = images.kernels.binary_search_by(|(known, ..)| known.cmp(&key)).ok()?;
            let (_, image, symbol) = &images.kernels[at];
            Some(Found { images: images.clone(), image: *image, symbol: symbol.clone() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(form: Form, sources: &[&str]) -> Arc<Images> {
        let mut kernels: Vec<_> =
            sources.iter().map(|s| (key(form, &Options::default(), s), 0, (*s).to_string())).collect();
        kernels.sort();
        Arc::new(Images { form, bytes: vec![1], images: std::iter::once(0..1).collect(), kernels })
    }

    #[test]
    fn names_have_one_form() {
        for name in ["sm_80", "sm_90", "sm_121", "compute_90"] {
            assert_eq!(Form::parse(name).unwrap().name(), name);
        }
        for name in ["sm_75", "sm_080", "sm_+80", "sm_", "sm_90a", "sm80", "ptx_80", "sm_1000", "SM_80", "", "cuda"] {
            assert_eq!(Form::parse(name), None, "{name}");
        }
    }

    /// One test for the list, which all tests of the process share; no device has such a capability.
    #[test]
    fn kernels_are_found_where_they_run_and_forgotten_with_their_owner() {
        let form = |name| Form::parse(name).unwrap();
        let [old, new] = [images(form("sm_980"), &["a", "b"]), images(form("sm_985"), &["a"])];
        let (text, other) = (images(form("compute_980"), &["a"]), images(form("sm_991"), &["a"]));
        [&old, &new, &text, &other].into_iter().for_each(believe);
        let found = |sm, ptx, source| {
            let found = Shelf::new(sm, ptx)?.find(&Options { sm, ..Options::default() }, source)?;
            Some((found.images.form.name(), found.symbol))
        };
        let of = |form: &str, symbol: &str| Some((form.to_string(), symbol.to_string()));
        assert_eq!(found(980, false, "a"), of("sm_980", "a"));
        assert_eq!(found(984, false, "a"), of("sm_980", "a"));
        assert_eq!(found(986, false, "a"), of("sm_985", "a"));
        assert_eq!(found(986, false, "b"), of("sm_980", "b"));
        assert_eq!(found(986, false, "c"), None);
        assert_eq!(found(990, false, "a"), None);
        assert_eq!(found(986, true, "a"), of("compute_980", "a"));
        drop(new);
        assert_eq!(found(986, false, "a"), of("sm_980", "a"));
        drop((old, text, other));
        assert!(Shelf::new(986, false).is_none());
    }

    #[test]
    fn all_that_code_depends_on_is_in_its_key() {
        let (form, base) = (Form { arch: 90, ptx: false }, Options::default());
        let of = |form, source| key(form, &base, source);
        let own = of(form, "a");
        assert_ne!(own, of(form, "b"));
        assert_ne!(own, of(Form { arch: 80, ..form }, "a"));
        assert_ne!(own, of(Form { ptx: true, ..form }, "a"));
        // What only chooses among sources is not: another number of processors may lead to the same kernel.
        let elsewhere = Options { sm: 95, processors: 7, tf32: true, ..base.clone() };
        assert_eq!(own, key(form, &elsewhere, "a"));
    }
}
