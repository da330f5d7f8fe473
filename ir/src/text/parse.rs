//! The graph parser. Text is not trusted: no input panics, recursion depth does not depend on it, memory
//! is bounded by its length, and the process's limits on nodes, rank and constants hold. An error names
//! line and column.

use super::lex::{Lexer, Token, TokenKind, unescape};
use super::number::{parse_bits, parse_scalar};
use super::print::implied;
use crate::attr::{Attr, AttrKind, AttrSpec, Attrs};
use crate::dtype::DType;
use crate::error::{Error, Loc, Result};
use crate::graph::{Graph, Node, NodeId, Operands};
use crate::limits::{self, Limits};
use crate::op::{Kind, Op};
use crate::ops;
use crate::shape::{Dims, Ints, Shape, Type};
use smallvec::SmallVec;
use std::collections::HashMap;
use std::sync::Arc;

/// Reads a graph. Every type is checked against inference, so the result passes
/// [`verify::graph`](crate::verify::graph).
pub fn parse(text: &str) -> Result<Graph> {
    Parser::new(text, true).graph()
}

/// Reads a graph that may be ill-typed: the way to feed the verifier. Syntax, names, attribute kinds and
/// limits are checked all the same.
pub fn parse_unchecked(text: &str) -> Result<Graph> {
    Parser::new(text, false).graph()
}

struct Parser<'a> {
    text: &'a str,
    lexer: Lexer<'a>,
    token: Token<'a>,
    names: Names<'a>,
    graph: Graph,
    limits: Limits,
    constant_bytes: u64,
    files: HashMap<String, Arc<str>>,
    check: bool,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, check: bool) -> Parser<'a> {
        let mut lexer = Lexer::new(text);
        let token = lexer.next();
        Parser {
            text,
            lexer,
            token,
            names: Names::default(),
            graph: Graph::new(),
            limits: limits::get(),
            constant_bytes: 0,
            files: HashMap::new(),
            check,
        }
    }

    /// An error at a byte offset.
    fn error(&self, at: usize, message: impl AsRef<str>) -> Error {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.bytes().filter(|&b| b == b'\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
        Error::package(format!("line {line}, column {column}: {}", message.as_ref()))
    }

    fn expected<T>(&self, what: &str) -> Result<T> {
        let t = self.token;
        // A hostile token may be long.
        let shown: String = t.text.chars().take(40).collect();
        let found = match t.kind {
            TokenKind::End => "the end of the text".to_string(),
            _ => format!("{shown:?}"),
        };
        Err(self.error(t.at, format!("expected {what}, found {found}")))
    }

    fn bump(&mut self) -> Token<'a> {
        let t = self.token;
        self.token = self.lexer.next();
        t
    }

    fn is(&self, punct: &str) -> bool {
        self.token.kind == TokenKind::Punct && self.token.text == punct
    }

    fn accept(&mut self, punct: &str) -> bool {
        let yes = self.is(punct);
        if yes {
            self.bump();
        }
        yes
    }

    fn punct(&mut self, punct: &str) -> Result<()> {
        if self.accept(punct) { Ok(()) } else { self.expected(&format!("{punct:?}")) }
    }

    fn word(&mut self, what: &str) -> Result<Token<'a>> {
        if self.token.kind == TokenKind::Word { Ok(self.bump()) } else { self.expected(what) }
    }

    fn keyword(&mut self, keyword: &str) -> Result<()> {
        if self.token.kind == TokenKind::Word && self.token.text == keyword {
            self.bump();
            return Ok(());
        }
        self.expected(&format!("{keyword:?}"))
    }

    fn string(&mut self) -> Result<String> {
        if self.token.kind != TokenKind::Str {
            return self.expected("a string");
        }
        let t = self.bump();
        unescape(t.text).ok_or_else(|| self.error(t.at, "the string has an unknown escape"))
    }

    fn graph(mut self) -> Result<Graph> {
        self.keyword("graph")?;
        self.punct("{")?;
        while self.is("%") {
            self.node()?;
        }
        self.keyword("return")?;
        let mut outputs = Vec::new();
        if self.is("%") {
            outputs.push(self.operand()?);
            while self.accept(",") {
                outputs.push(self.operand()?);
            }
        }
        self.punct("}")?;
        if self.token.kind != TokenKind::End {
            return self.expected("the end of the text");
        }
        self.graph.set_outputs(outputs);
        Ok(self.graph)
    }

    fn operand(&mut self) -> Result<NodeId> {
        self.punct("%")?;
        let t = self.word("the name of a node")?;
        let known = self.names.get(t.text);
        known.ok_or_else(|| self.error(t.at, format!("%{} is not defined above", shorten(t.text))))
    }

    fn node(&mut self) -> Result<()> {
        let start = self.token.at;
        self.punct("%")?;
        let name = self.word("the name of a node")?;
        if self.names.get(name.text).is_some() {
            return Err(self.error(name.at, format!("%{} is defined twice", shorten(name.text))));
        }
        if self.graph.len() as u64 >= self.limits.max_nodes {
            let max = self.limits.max_nodes;
            return Err(self.error(start, format!("the graph has more than {max} nodes; torsh.limits raises this")));
        }
        self.punct(":")?;
        let type_at = self.token.at;
        let ty = self.ty()?;
        self.punct("=")?;
        let t = self.word("the name of an op")?;
        let op = ops::find(t.text).ok_or_else(|| self.error(t.at, format!("no op named {}", shorten(t.text))))?;
        let (operands, attrs) = self.arguments(op, &ty, t.at)?;
        let before = self.graph.len();
        let id = self.add(op, operands, attrs, &ty, type_at)?;
        self.names.insert(name.text, id);
        let loc = self.loc()?;
        if self.graph.len() > before {
            self.graph.set_loc(id, loc);
        }
        Ok(())
    }

    fn add(&mut self, op: Op, operands: Operands, attrs: Attrs, ty: &Type, at: usize) -> Result<NodeId> {
        if op.kind == Kind::Input {
            let index = self.graph.inputs().len() as i64;
            let own = attrs.as_slice() == [Attr::Int(index), Attr::DType(ty.dtype), Attr::from(ty.shape.dims())];
            if own && operands.is_empty() {
                return Ok(self.graph.input(ty.clone()));
            }
            if self.check {
                return Err(self.error(at, format!("this must be input {index}, of type {ty}, without operands")));
            }
        }
        if !self.check {
            return Ok(self.graph.add(Node { op, attrs, operands, ty: ty.clone() }));
        }
        let types: SmallVec<[Type; 4]> = operands.iter().map(|&o| self.graph.ty(o).clone()).collect();
        let inferred = op.infer(&types, &attrs).map_err(|e| self.error(at, e.to_string()))?;
        if inferred != *ty {
            return Err(self.error(at, format!("{} gives {inferred} here, not {ty}", op.name)));
        }
        Ok(self.graph.add(Node { op, attrs, operands, ty: inferred }))
    }

    fn ty(&mut self) -> Result<Type> {
        let dtype = self.dtype()?;
        let at = self.token.at;
        let sizes = self.ints()?;
        if sizes.len() as u64 > self.limits.max_rank {
            return Err(self.error(at, format!("rank {} is over the limit {}", sizes.len(), self.limits.max_rank)));
        }
        let dims: Option<Dims> = sizes.iter().map(|&d| usize::try_from(d).ok()).collect();
        let dims = dims.ok_or_else(|| self.error(at, "a size is negative"))?;
        let shape = Shape::new(&dims).map_err(|e| self.error(at, e.message()))?;
        Ok(Type::new(dtype, shape))
    }

    fn dtype(&mut self) -> Result<DType> {
        let t = self.word("a dtype")?;
        let found = DType::ALL.into_iter().find(|d| d.short() == t.text);
        found.ok_or_else(|| self.error(t.at, format!("no dtype named {}", shorten(t.text))))
    }

    fn int(&mut self) -> Result<i64> {
        let t = self.word("an integer")?;
        t.text.parse().map_err(|_| self.error(t.at, format!("{} is not a 64-bit integer", shorten(t.text))))
    }

    fn ints(&mut self) -> Result<Ints> {
        self.punct("[")?;
        let mut list = Ints::new();
        while !self.is("]") {
            list.push(self.int()?);
            if !self.accept(",") {
                break;
            }
        }
        self.punct("]")?;
        Ok(list)
    }

    fn arguments(&mut self, op: Op, ty: &Type, op_at: usize) -> Result<(Operands, Attrs)> {
        self.punct("(")?;
        let mut operands = Operands::new();
        let mut attrs = Attrs::new();
        // Attributes come in order; the ones passed over must be implied by the type.
        let mut specs = op.attrs.iter();
        let missing = |p: &Self, s: &AttrSpec| {
            implied(s.name, ty).ok_or_else(|| p.error(op_at, format!("{} needs the attribute {}", op.name, s.name)))
        };
        while !self.is(")") {
            if self.is("%") {
                if !attrs.is_empty() {
                    return self.expected("an attribute: operands come first");
                }
                operands.push(self.operand()?);
            } else {
                let t = self.word("an operand or an attribute")?;
                loop {
                    let Some(spec) = specs.next() else {
                        let message = format!("{} has no attribute {} at this place", op.name, shorten(t.text));
                        return Err(self.error(t.at, message));
                    };
                    if spec.name == t.text {
                        self.punct("=")?;
                        attrs.push(self.attr(spec.kind, ty)?);
                        break;
                    }
                    attrs.push(missing(self, spec)?);
                }
            }
            if !self.accept(",") {
                break;
            }
        }
        self.punct(")")?;
        for spec in specs {
            attrs.push(missing(self, spec)?);
        }
        Ok((operands, attrs))
    }

    fn attr(&mut self, kind: AttrKind, ty: &Type) -> Result<Attr> {
        match kind {
            AttrKind::Int => Ok(Attr::Int(self.int()?)),
            AttrKind::Bool => {
                let t = self.word("true or false")?;
                match t.text {
                    "true" => Ok(Attr::Bool(true)),
                    "false" => Ok(Attr::Bool(false)),
                    _ => Err(self.error(t.at, "expected true or false")),
                }
            }
            AttrKind::Ints => Ok(Attr::Ints(self.ints()?)),
            AttrKind::DType => Ok(Attr::DType(self.dtype()?)),
            AttrKind::Scalar => {
                let t = self.word("a number")?;
                let value = parse_scalar(t.text, ty.dtype);
                let value = value.ok_or_else(|| self.error(t.at, format!("{} is not a number", shorten(t.text))))?;
                Ok(Attr::Scalar(value))
            }
            AttrKind::Str => Ok(Attr::Str(self.string()?.into())),
            AttrKind::Bytes => {
                let at = self.token.at;
                let data = self.data(ty)?;
                self.constant_bytes = self.constant_bytes.saturating_add(data.len() as u64);
                if self.constant_bytes > self.limits.max_constant_bytes {
                    let max = self.limits.max_constant_bytes;
                    return Err(self.error(at, format!("constants take more than {max} bytes")));
                }
                Ok(Attr::Bytes(data.into()))
            }
        }
    }

    /// `[elements]` or `hex"bytes"`.
    fn data(&mut self, ty: &Type) -> Result<Vec<u8>> {
        let mut data = Vec::new();
        if self.token.kind == TokenKind::Word && self.token.text == "hex" {
            self.bump();
            if self.token.kind != TokenKind::Str {
                return self.expected("a string of hexadecimal digits");
            }
            let t = self.bump();
            let digits = t.text.trim_matches('"').as_bytes();
            let nibble = |b: u8| char::from(b).to_digit(16);
            if !digits.len().is_multiple_of(2) {
                return Err(self.error(t.at, "an odd number of hexadecimal digits"));
            }
            for pair in digits.chunks_exact(2) {
                match (nibble(pair[0]), nibble(pair[1])) {
                    (Some(hi), Some(lo)) => data.push((hi * 16 + lo) as u8),
                    _ => return Err(self.error(t.at, "a character that is no hexadecimal digit")),
                }
            }
            return Ok(data);
        }
        self.punct("[")?;
        while !self.is("]") {
            let t = self.word("an element")?;
            let bits = parse_bits(t.text, ty.dtype)
                .ok_or_else(|| self.error(t.at, format!("{} is no element of {}", shorten(t.text), ty.dtype)))?;
            data.extend_from_slice(&bits.to_le_bytes()[..ty.dtype.size()]);
            if !self.accept(",") {
                break;
            }
        }
        self.punct("]")?;
        Ok(data)
    }

    fn loc(&mut self) -> Result<Option<Loc>> {
        if !self.accept("@") {
            return Ok(None);
        }
        let file = self.string()?;
        self.punct(":")?;
        let at = self.token.at;
        let line = self.int()?;
        let line = u32::try_from(line).map_err(|_| self.error(at, "a line number out of range"))?;
        let file = self.files.entry(file).or_insert_with_key(|f| f.as_str().into()).clone();
        Ok(Some(Loc { file, line, note: None }))
    }
}

/// Nodes by the names that they were given.
#[derive(Default)]
struct Names<'a> {
    // Of names that are plain numbers in ascending order from 0, as the printer gives them.
    numbered: Vec<NodeId>,
    others: HashMap<&'a str, NodeId>,
}

impl<'a> Names<'a> {
    fn get(&self, name: &str) -> Option<NodeId> {
        let by_number = number(name).and_then(|n| self.numbered.get(n));
        by_number.or_else(|| self.others.get(name)).copied()
    }

    /// Gives a name that [`Names::get`] does not know.
    fn insert(&mut self, name: &'a str, id: NodeId) {
        if number(name) == Some(self.numbered.len()) {
            self.numbered.push(id);
        } else {
            self.others.insert(name, id);
        }
    }
}

/// A number as the printer writes it: every number has one form.
fn number(name: &str) -> Option<usize> {
    let plain = name.len() < 10 && !(name.starts_with('0') && name.len() > 1);
    let digit = |n: Option<usize>, b: u8| Some(n? * 10 + usize::from(b.is_ascii_digit().then(|| b - b'0')?));
    name.bytes().fold(Some(0).filter(|_| plain && !name.is_empty()), digit)
}

/// Hostile words may be long; messages are not.
fn shorten(word: &str) -> String {
    word.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{print, print_with_lines};
    use super::*;
    use crate::attr::Scalar;

    fn full(graph: &mut Graph, value: Scalar, dtype: DType) {
        let attrs: Attrs = [Attr::Scalar(value), Attr::DType(dtype), Attr::from(&[2i64][..])].into_iter().collect();
        let id = graph.apply(ops::op("full"), &[], attrs).unwrap();
        let outputs = [graph.outputs(), &[id]].concat();
        graph.set_outputs(outputs);
    }

    fn round_trip(graph: &Graph) {
        let text = print(graph);
        let back = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert!(graph.same(&back), "{text}\nbecame\n{}", print(&back));
        assert_eq!(print(&back), text);
    }

    #[test]
    fn special_floats_round_trip() {
        for dtype in DType::FLOATS {
            let mut g = Graph::new();
            let values = [0.0, -0.0, 1.0, -1.5, 0.1, 1e-7, 3e38, 1e-45, 5e-324, f64::INFINITY, f64::NEG_INFINITY];
            for x in values.into_iter().chain([f64::NAN, -f64::NAN, f64::from_bits(0x7ff8_0000_2000_0000)]) {
                full(&mut g, Scalar::Float(x).to_dtype(dtype), dtype);
            }
            round_trip(&g);
        }
    }

    #[test]
    fn every_bit_pattern_of_a_constant_round_trips() {
        for dtype in DType::ALL {
            let size = dtype.size();
            // Each byte value appears in each position of an element.
            let data: Vec<u8> = (0..256 * size).map(|i| (i / size * 167 + i % size * 29) as u8).collect();
            for n in [1, 256] {
                let mut g = Graph::new();
                let data: Arc<[u8]> = data[..n * size].into();
                let attrs = [Attr::Bytes(data), dtype.into(), Attr::from(&[n][..])].into_iter().collect();
                let id = g.apply(ops::op("constant"), &[], attrs).unwrap();
                g.set_outputs(vec![id, id]);
                round_trip(&g);
            }
        }
    }

    #[test]
    fn nodes_may_have_any_names() {
        let graph = |a: &str, b: &str, c: &str, used: [&str; 2]| {
            parse(&format!(
                "graph {{\n  %{a}: f32[2] = input(index=0)\n  %{b}: f32[2] = neg(%{a})\n  %{c}: f32[2] = sub(%{}, %{})\n  \
                 return %{c}\n}}\n",
                used[0], used[1]
            ))
        };
        let wanted = print(&graph("0", "1", "2", ["1", "0"]).unwrap());
        let others =
            [("2", "1", "0"), ("x", "y", "z"), ("1", "0", "2"), ("00", "0", "1"), ("5", "05", "0"), ("0", "00", "1")];
        for (a, b, c) in others.into_iter().chain([("4294967296", "18446744073709551616", "-0")]) {
            assert_eq!(print(&graph(a, b, c, [b, a]).unwrap()), wanted, "{a} {b} {c}");
        }
        for (a, b, c, used) in [("0", "1", "1", ["0", "0"]), ("1", "0", "1", ["0", "0"]), ("x", "0", "x", ["0", "0"])] {
            assert!(graph(a, b, c, used).unwrap_err().message().contains("is defined twice"), "{a} {b} {c}");
        }
        for (a, b, c, used) in [("0", "1", "2", ["2", "0"]), ("0", "1", "2", ["01", "0"]), ("2", "1", "0", ["0", "0"])]
        {
            assert!(graph(a, b, c, used).unwrap_err().message().contains("is not defined above"), "{a} {b} {c}");
        }
    }

    #[test]
    fn lines_and_strings_round_trip() {
        let mut g = Graph::new();
        let id = g.input(Type::scalar(DType::I64));
        g.set_loc(id, Some(Loc { file: "a \"b\"\\\n\u{7}\u{e9}.py".into(), line: 7, note: None }));
        g.set_outputs(vec![id]);
        let text = print_with_lines(&g);
        let back = parse(&text).unwrap();
        assert_eq!(back.loc(id), g.loc(id));
        assert_eq!(print_with_lines(&back), text);
        round_trip(&Graph::new());
    }

    #[test]
    fn damaged_text_is_an_error_and_never_a_panic() {
        let text = r#"graph {
  %0: f32[2, 3] = input(index=0) @ "a\\b.py":3
  %1: f32[2, 1] = sum(%0, dims=[1])
  %2: f32[2, 1] = full(value=1.5)
  %3: f32[2, 1] = mul(%1, %2)
  %4: i64[2] = constant(data=[1, -2])
  %5: f32[2] = constant(data=hex"0000c07f0000803f")
  return %3, %4, %5
}
"#;
        assert!(parse(text).is_ok());
        let pieces =
            ["", "%", "[", "]", "-1", "9223372036854775807", "9999999999999999999", "\"", "nan:0x0", ",", "é", ";"];
        for at in (0..text.len()).filter(|&at| text.is_char_boundary(at)) {
            let _ = parse(&text[..at]);
            for piece in pieces {
                let _ = parse(&format!("{}{piece}{}", &text[..at], &text[at..]));
                let _ = parse_unchecked(&format!("{}{piece}{}", &text[..at], &text[at + 1..]));
            }
        }
    }
}
