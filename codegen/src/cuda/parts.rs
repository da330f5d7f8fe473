//! A module taken apart: each kernel is known by its own text, and any of them can be compiled without the others.

use super::{KernelInfo, Module, helpers};

/// A name that no kernel of a module has: what a kernel is called says nothing about what it does.
const ANY: &str = "kernel";

fn definition(kernel: &KernelInfo, name: &str) -> String {
    format!("extern \"C\" __global__ void __launch_bounds__({}) {name}{}", kernel.bounds, kernel.text)
}

/// The source of kernels, with the helpers that they call.
pub(super) fn source<'k>(kernels: impl Iterator<Item = &'k KernelInfo>) -> String {
    let body: String = kernels.map(|kernel| definition(kernel, &kernel.name)).collect();
    helpers::of(&body) + &body
}

impl KernelInfo {
    /// Everything that is compiled for this kernel, whatever its name and the others of its module: equal texts are
    /// equal code.
    pub fn own_source(&self) -> String {
        let body = definition(self, ANY);
        helpers::of(&body) + &body
    }
}

impl Module {
    /// A source of these kernels alone, by their numbers.
    pub fn source_of(&self, kernels: &[usize]) -> String {
        source(kernels.iter().filter_map(|&k| self.kernels.get(k)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(name: &str, text: &str) -> KernelInfo {
        KernelInfo {
            name: name.into(),
            block: [256, 1, 1],
            static_shared: 0,
            dynamic_shared: 0,
            covers: String::new(),
            params: vec![],
            bounds: "256, 2".into(),
            text: text.into(),
        }
    }

    #[test]
    fn a_kernel_is_known_by_its_text_and_helpers_and_not_by_its_name() {
        let [a, b] = ["k0_exp", "k7_other"].map(|name| kernel(name, "(float* p) {\n  p[0] = t_exp(p[0]);\n}\n\n"));
        assert_eq!(a.own_source(), b.own_source());
        assert!(a.own_source().contains("float t_exp(") && !a.own_source().contains("t_tanh"));
        let other = kernel("k0_exp", "(float* p) {\n  p[0] = t_tanh(p[0]);\n}\n\n");
        assert_ne!(a.own_source(), other.own_source());
        assert_ne!(a.own_source(), KernelInfo { bounds: "256, 1".into(), ..b.clone() }.own_source());
        let module =
            Module { source: String::new(), kernels: vec![a, other], steps: vec![], scratch_bytes: 0, checks: vec![] };
        let (both, second) = (module.source_of(&[0, 1]), module.source_of(&[1]));
        assert!(both.contains("t_exp(p[0])") && both.contains("t_tanh(p[0])"));
        assert!(!second.contains("t_exp(p[0])") && second.contains("k0_exp(float* p)"));
    }
}
