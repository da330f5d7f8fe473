//! Sources of many programs as one: equal helpers stand once, kernels have the names of their programs before theirs.

use std::collections::HashSet;
use torsh_codegen::cuda::Module;

/// A growing source.
#[derive(Default)]
pub struct Batch {
    helpers: HashSet<String>,
    text: String,
    kernels: usize,
}

impl Batch {
    /// Adds a module under a name; [`symbol`] tells what its kernels are called.
    pub fn add(&mut self, name: &str, module: &Module) {
        let mut rest = module.source.as_str();
        while let Some(end) = rest.find("\n}\n") {
            let (piece, after) = rest.split_at(end + 3);
            rest = after;
            let piece = piece.trim_start();
            if piece.starts_with("extern") {
                let mut piece = piece.to_string();
                for kernel in &module.kernels {
                    piece = piece.replace(&format!(" {}(", kernel.name), &format!(" {}(", symbol(name, &kernel.name)));
                }
                self.text.push_str(&piece);
                self.kernels += 1;
            } else if self.helpers.insert(piece.to_string()) {
                self.text.push_str(piece);
            }
        }
    }

    /// The source.
    pub fn source(&self) -> &str {
        &self.text
    }

    /// Number of kernels.
    pub fn kernels(&self) -> usize {
        self.kernels
    }
}

/// What a kernel of a module is called in a batch.
pub fn symbol(name: &str, kernel: &str) -> String {
    format!("{name}_{kernel}")
}
