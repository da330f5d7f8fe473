//! The graphs of a package.

use super::format::bad;
use super::manifest::{Manifest, Program, Types};
use std::sync::{Arc, OnceLock};
use torsh_ir::{Error, Graph, Result, text, verify};
use torsh_passes::limits;

/// The graph of a package.
pub(super) enum Forward {
    /// One that has been read.
    Read(Arc<Graph>),
    /// The text of one that a lowered program stands for, which is believed: it is read when somebody asks for it.
    Text(String, OnceLock<Arc<Graph>>),
}

impl Forward {
    /// The graph. Errors: `Package` and `Limit`, as of [`checked`].
    pub fn get(&self, manifest: &Manifest, types: &Types) -> Result<&Arc<Graph>> {
        match self {
            Forward::Read(graph) => Ok(graph),
            Forward::Text(text, read) => {
                if let Some(graph) = read.get() {
                    return Ok(graph);
                }
                // Not kept where it fails: the limits may be others next time.
                let graph = Arc::new(checked(text, manifest, &manifest.forward, types)?);
                Ok(read.get_or_init(|| graph))
            }
        }
    }
}

/// The graph that a text is, once it has passed every check.
pub(super) fn checked(text: &str, manifest: &Manifest, program: &Program, types: &Types) -> Result<Graph> {
    let entry = &program.graph;
    let named = |e: Error, why: String| Error::new(e.kind(), format!("{entry}: {why}"));
    let graph = text::parse(text).map_err(|e| bad(entry, e.message()))?;
    // The parser has checked every type; the verifier is the door that every graph goes through.
    verify::graph(&graph).map_err(|e| bad(entry, e.message()))?;
    let within = torsh_ir::limits::get();
    limits::check(&graph, &within).map_err(|e| {
        let why = e.to_string();
        named(e, why)
    })?;
    manifest.check_graph(program, &graph, types)?;
    Ok(graph)
}

#[cfg(test)]
mod tests {
    use super::super::Package;
    use super::*;

    #[test]
    fn a_text_is_read_once_when_somebody_asks() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/packages/0.1.0/linear.torsh");
        let package = Package::load(golden).unwrap();
        let (manifest, types) = (package.manifest(), package.types());
        let right = text::print(package.forward().unwrap());
        let forward = Forward::Text(right.clone(), OnceLock::new());
        let read = forward.get(manifest, types).unwrap();
        assert!(read.same(package.forward().unwrap()) && Arc::ptr_eq(read, forward.get(manifest, types).unwrap()));
        for wrong in ["graph {".to_string(), right.replace("f32", "f64"), "graph {\n  return\n}\n".to_string()] {
            let forward = Forward::Text(wrong, OnceLock::new());
            for _ in 0..2 {
                let e = forward.get(manifest, types).unwrap_err();
                assert!(e.kind() == torsh_ir::ErrorKind::Package && e.message().starts_with("graph.txt: "), "{e}");
            }
        }
    }
}
