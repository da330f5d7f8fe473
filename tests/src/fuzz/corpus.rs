//! Reproducers: text IR with the inputs' values in comments, so that nothing folds away.
//!
//! ```text
//! ; stage: message
//! ; input %0: f32[2] = constant(data=[1.0, nan])
//! ; donate 0:1
//! graph { .. }
//! ```
//! A file without values gets random ones, several times.

use super::Case;
use crate::filetest;
use crate::values::Rng;
use torsh_ir::graph::{Graph, NodeId};
use torsh_ir::interp::{HostTensor, eval_graph};
use torsh_ir::{Attr, Attrs, text};

/// A reproducer of a failure.
pub fn write(case: &Case, title: &str) -> String {
    let mut out = String::new();
    for line in title.lines().take(3) {
        out.push_str(&format!("; {line}\n"));
    }
    for value in &case.inputs {
        out.push_str(&format!("; input {}\n", constant(value)));
    }
    for (i, o) in &case.donate {
        out.push_str(&format!("; donate {i}:{o}\n"));
    }
    out.push_str(&text::print(&case.graph));
    out
}

fn constant(value: &HostTensor) -> String {
    let mut graph = Graph::new();
    let data = Attr::Bytes(value.to_bytes().into());
    let attrs: Attrs = [data, value.dtype().into(), value.ty.shape.dims().into()].into_iter().collect();
    match graph.apply(torsh_ir::ops::op("constant"), &[], attrs) {
        Ok(id) => text::print_node(&graph, id),
        Err(e) => e.to_string(),
    }
}

/// The cases of a file.
pub fn read(content: &str) -> Result<Vec<Case>, String> {
    let words = |e: torsh_ir::Error| e.to_string();
    let graph = text::parse(content).map_err(words)?;
    let mut inputs = Vec::new();
    let mut donate = Vec::new();
    for line in content.lines() {
        if let Some(value) = line.strip_prefix("; input ") {
            let one = text::parse(&format!("graph {{ {value} return %0 }}")).map_err(words)?;
            debug_assert_eq!(one.outputs(), [NodeId(0)]);
            inputs.extend(eval_graph(&one, &[]).map_err(words)?);
        }
        if let Some((i, o)) = line.strip_prefix("; donate ").and_then(|p| p.split_once(':')) {
            donate.push((
                i.trim().parse().map_err(|_| "bad donate line")?,
                o.trim().parse().map_err(|_| "bad donate line")?,
            ));
        }
    }
    if inputs.is_empty() && !graph.inputs().is_empty() {
        let random = |seed| filetest::inputs(&graph, &mut Rng::new(seed));
        return Ok((0..4).map(|s| Case { graph: graph.clone(), inputs: random(s), donate: donate.clone() }).collect());
    }
    Ok(vec![Case { graph, inputs, donate }])
}
