//! The graph printer.

use super::number::{print_bits, print_scalar};
use crate::attr::Attr;
use crate::error::Loc;
use crate::graph::{Graph, Node, NodeId};
use crate::shape::Type;
use std::fmt::Write;

/// Constants of more elements are written as hexadecimal bytes.
const MAX_LISTED_ELEMENTS: usize = 256;

/// The graph as text, without source lines.
pub fn print(graph: &Graph) -> String {
    write_graph(graph, false)
}

/// The graph as text, with the user's source lines.
pub fn print_with_lines(graph: &Graph) -> String {
    write_graph(graph, true)
}

fn write_graph(graph: &Graph, lines: bool) -> String {
    let mut out = String::from("graph {\n");
    for id in graph.ids() {
        out.push_str("  ");
        write_node(&mut out, id, graph.node(id));
        if lines && let Some(loc) = graph.loc(id) {
            write_loc(&mut out, loc);
        }
        out.push('\n');
    }
    out.push_str("  return");
    for (i, o) in graph.outputs().iter().enumerate() {
        let _ = write!(out, "{} %{}", if i == 0 { "" } else { "," }, o.0);
    }
    out.push_str("\n}\n");
    out
}

/// One node, without its source line.
pub fn print_node(graph: &Graph, id: NodeId) -> String {
    let mut out = String::new();
    write_node(&mut out, id, graph.node(id));
    out
}

fn write_node(out: &mut String, id: NodeId, node: &Node) {
    let _ = write!(out, "%{}: {} = {}(", id.0, node.ty, node.op.name);
    let mut sep = "";
    for o in &node.operands {
        let _ = write!(out, "{sep}%{}", o.0);
        sep = ", ";
    }
    for (i, attr) in node.attrs.iter().enumerate() {
        let name = node.op.attrs.get(i).map_or("?", |s| s.name);
        if repeats_type(name, attr, &node.ty) {
            continue;
        }
        let _ = write!(out, "{sep}{name}=");
        write_attr(out, attr, &node.ty);
        sep = ", ";
    }
    out.push(')');
}

/// True for an attribute that the parser restores from the result's type.
fn repeats_type(name: &str, attr: &Attr, ty: &Type) -> bool {
    implied(name, ty).is_some_and(|a| a == *attr)
}

/// What a missing attribute of this name stands for.
pub(super) fn implied(name: &str, ty: &Type) -> Option<Attr> {
    match name {
        "dtype" => Some(Attr::DType(ty.dtype)),
        "shape" => Some(Attr::from(ty.shape.dims())),
        _ => None,
    }
}

fn write_attr(out: &mut String, attr: &Attr, ty: &Type) {
    match attr {
        Attr::Int(i) => {
            let _ = write!(out, "{i}");
        }
        Attr::Bool(b) => {
            let _ = write!(out, "{b}");
        }
        Attr::Ints(list) => {
            let _ = write!(out, "{:?}", list.as_slice());
        }
        Attr::DType(d) => out.push_str(d.short()),
        Attr::Scalar(s) => print_scalar(out, *s, ty.dtype),
        Attr::Str(s) => write_string(out, s),
        Attr::Bytes(data) => write_data(out, data, ty),
    }
}

fn write_data(out: &mut String, data: &[u8], ty: &Type) {
    if data.len() != ty.nbytes() || ty.numel() > MAX_LISTED_ELEMENTS {
        out.push_str("hex\"");
        for byte in data {
            let _ = write!(out, "{byte:02x}");
        }
        out.push('"');
        return;
    }
    out.push('[');
    for (i, element) in data.chunks_exact(ty.dtype.size()).enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        let mut b = [0; 8];
        b[..element.len()].copy_from_slice(element);
        print_bits(out, u64::from_le_bytes(b), ty.dtype);
    }
    out.push(']');
}

/// A quoted string: `\\`, `\"`, `\n`, `\r`, `\t`, and `\u{..}` for other control characters.
pub(super) fn write_string(out: &mut String, s: &str) {
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn write_loc(out: &mut String, loc: &Loc) {
    out.push_str(" @ ");
    write_string(out, &loc.file);
    let _ = write!(out, ":{}", loc.line);
}

/// The text form.
impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&print(self))
    }
}
