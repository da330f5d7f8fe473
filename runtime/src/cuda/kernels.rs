//! The kernels of a program on a device: taken from what a package brought and the user believes, else compiled.

use super::device::Shared;
use super::images::{Found, Images, Shelf};
use crate::sys::cuda::driver::{Expected, Function, Module};
use std::sync::Arc;
use torsh_codegen::cuda::{KernelInfo, Module as Plan, Options};
use torsh_ir::{Error, Result, env};

/// Kernels that can be launched.
pub(super) struct Kernels {
    /// In the order of the plan.
    pub functions: Vec<Function>,
    /// Bytes of their images.
    pub bytes: usize,
    /// Which came from a package.
    pub found: Vec<bool>,
}

fn expected(kernel: &KernelInfo) -> Expected<'_> {
    Expected {
        name: &kernel.name,
        params: &kernel.params,
        block: kernel.block,
        static_shared: kernel.static_shared,
        dynamic_shared: kernel.dynamic_shared,
    }
}

/// Images of packages, on a device: each is loaded once, and one that the device refuses is left alone.
struct Brought<'a> {
    shared: &'a Shared,
    options: &'a Options,
    shelf: Option<Shelf>,
    loaded: Vec<(Arc<Images>, usize, Option<Arc<Module>>)>,
    bytes: usize,
}

impl<'a> Brought<'a> {
    fn new(shared: &'a Shared, options: &'a Options) -> Brought<'a> {
        let shelf = Shelf::new(options.sm, shared.compiler.takes_ptx());
        Brought { shared, options, shelf, loaded: Vec::new(), bytes: 0 }
    }

    /// The kernel with this source of its own.
    fn function(&mut self, source: impl FnOnce() -> String, expected: &Expected<'_>) -> Option<Function> {
        let found = self.shelf.as_ref()?.find(self.options, &source())?;
        let module = self.module(&found)?;
        let expected = Expected { name: &found.symbol, ..*expected };
        match module.function(&expected, self.options.shared_bytes) {
            Ok(function) => Some(function),
            Err(e) => {
                refused(&found, &e);
                None
            }
        }
    }

    fn module(&mut self, found: &Found) -> Option<Arc<Module>> {
        let known =
            |(images, image, _): &&(Arc<Images>, usize, _)| Arc::ptr_eq(images, &found.images) && *image == found.image;
        if let Some((_, _, module)) = self.loaded.iter().find(known) {
            return module.clone();
        }
        let image = found.images.image(found.image)?;
        let module = Module::new(&self.shared.context, image);
        if let Err(e) = &module {
            refused(found, e);
        }
        let module = module.ok();
        self.bytes += if module.is_some() { image.len() } else { 0 };
        self.loaded.push((found.images.clone(), found.image, module.clone()));
        module
    }
}

/// Says that a kernel of a package is compiled after all: the driver is older than what made it, or it is no code.
fn refused(found: &Found, e: &Error) {
    env::warn(format!(
        "the code of a package for {} is not used, and the kernel compiled here: {}",
        found.images.form.name(),
        e.message()
    ));
}

/// The kernels of a plan.
pub(super) fn load(shared: &Shared, options: &Options, plan: &Plan) -> Result<Kernels> {
    let mut brought = Brought::new(shared, options);
    let mut functions: Vec<Option<Function>> =
        plan.kernels.iter().map(|k| brought.function(|| k.own_source(), &expected(k))).collect();
    let found: Vec<bool> = functions.iter().map(Option::is_some).collect();
    let missing: Vec<usize> = (0..functions.len()).filter(|&i| !found[i]).collect();
    let mut bytes = brought.bytes;
    if !missing.is_empty() {
        let flags = options.compiler_flags();
        let (all, compiler) = (missing.len() == found.len(), &shared.compiler);
        // The whole source may be in the cache on disk where a part of it is not.
        let cached = if all { None } else { compiler.cached(&plan.source, &flags) };
        let image = match cached {
            Some(image) => image,
            None if all => compiler.image(&plan.source, &flags)?,
            None => compiler.image(&plan.source_of(&missing), &flags)?,
        };
        let module = Module::new(&shared.context, &image)?;
        bytes += image.len();
        for i in missing {
            functions[i] = Some(module.function(&expected(&plan.kernels[i]), options.shared_bytes)?);
        }
    }
    let whole: Option<Vec<Function>> = functions.into_iter().collect();
    let functions = whole.ok_or_else(|| Error::internal("a kernel was neither found nor compiled"))?;
    Ok(Kernels { functions, bytes, found })
}

/// The only kernel of a source.
pub(super) fn only(shared: &Shared, options: &Options, source: &str, expected: &Expected<'_>) -> Result<Function> {
    if let Some(function) = Brought::new(shared, options).function(|| source.to_string(), expected) {
        return Ok(function);
    }
    let image = shared.compiler.image(source, &options.compiler_flags())?;
    Module::new(&shared.context, &image)?.function(expected, options.shared_bytes)
}
