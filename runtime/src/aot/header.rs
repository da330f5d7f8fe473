//! Names of a library, and its header.

use super::{Entry, HEAD, Home, Layout, refused};
use crate::package::manifest::{Manifest, Port};
use std::collections::HashSet;
use std::fmt::Write;
use torsh_codegen::cpu::c::c_type;
use torsh_ir::{DType, Result, Type};

/// Words that are no names in C or C++, or that the source needs.
const KEYWORDS: &[&str] = &[
    "alignas",
    "alignof",
    "and",
    "asm",
    "auto",
    "bool",
    "break",
    "case",
    "catch",
    "char",
    "class",
    "const",
    "constexpr",
    "continue",
    "default",
    "delete",
    "do",
    "double",
    "else",
    "enum",
    "explicit",
    "export",
    "extern",
    "false",
    "float",
    "for",
    "friend",
    "goto",
    "if",
    "inline",
    "int",
    "long",
    "mutable",
    "namespace",
    "new",
    "not",
    "nullptr",
    "operator",
    "or",
    "private",
    "protected",
    "public",
    "register",
    "restrict",
    "return",
    "short",
    "signed",
    "sizeof",
    "static",
    "struct",
    "switch",
    "template",
    "this",
    "throw",
    "true",
    "try",
    "typedef",
    "typeid",
    "typename",
    "typeof",
    "union",
    "unsigned",
    "memcpy",
    "memmove",
    "uintptr_t",
    "int8_t",
    "int16_t",
    "int32_t",
    "int64_t",
    "uint8_t",
    "uint16_t",
    "uint32_t",
    "uint64_t",
    "size_t",
    "and_eq",
    "bitand",
    "bitor",
    "char8_t",
    "char16_t",
    "char32_t",
    "co_await",
    "co_return",
    "co_yield",
    "compl",
    "concept",
    "const_cast",
    "consteval",
    "constinit",
    "decltype",
    "dynamic_cast",
    "noexcept",
    "not_eq",
    "or_eq",
    "reinterpret_cast",
    "requires",
    "static_assert",
    "static_cast",
    "thread_local",
    "typeof_unqual",
    "wchar_t",
    "xor_eq",
    "i386",
    "stdin",
    "stdout",
    "stderr",
    "using",
    "virtual",
    "void",
    "volatile",
    "while",
    "xor",
    "errno",
    "linux",
    "unix",
    "main",
    "complex",
    "imaginary",
    "noreturn",
    "math_errhandling",
];
/// Names of libraries that every system has, which ours would take the place of (`-lm`), and words that begin names of
/// theirs which ours would have too (`sem_init`).
const SYSTEM: &[&str] = &[
    "aio",
    "anl",
    "atomic",
    "c",
    "cnd",
    "crypt",
    "dl",
    "fanotify",
    "gcc",
    "gcc_s",
    "inet6_opt",
    "inet6_rth",
    "inotify",
    "m",
    "mtx",
    "mvec",
    "nsl",
    "obstack",
    "pkey",
    "posix_spawn_file_actions",
    "posix_spawnattr",
    "pthread",
    "resolv",
    "rt",
    "sem",
    "svc",
    "util",
    "xdr",
];
/// Longer names would not be told apart by every linker of C99.
const MAX_NAME: usize = 31;

/// The names of a library.
pub(super) struct Names {
    /// The library's.
    pub library: String,
    /// Parameters of `run`, and the same names as parts of constants.
    pub inputs: Vec<String>,
    /// Likewise.
    pub outputs: Vec<String>,
    /// Parts of constants.
    pub state: Vec<String>,
}

/// A name made of letters, digits and underscores that is none of those taken.
fn unique(name: &str, library: &str, taken: &mut HashSet<String>) -> String {
    let mut word: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    // Names of macros, all of them in capitals but for those that are keywords here; single letters are none, but for that
    // of <complex.h>.
    let any = |w: &str, of: fn(&char) -> bool| w.chars().any(|c| of(&c));
    let capitals = any(&word, char::is_ascii_uppercase) && !any(&word, char::is_ascii_lowercase);
    if capitals && (word.len() > 1 || word == "I") {
        word.push_str("_x");
    }
    // The source's own names begin with `t_` and the library's name.
    let own = |w: &str| w.strip_prefix(library).is_some_and(|rest| rest.starts_with('_'));
    let begins = |c: char| c.is_ascii_alphabetic();
    if !word.starts_with(begins) || word.starts_with("t_") || word.starts_with("T_") || own(&word) {
        word.insert_str(0, "x_");
    }
    // Constants of a tensor end in these.
    let lower = word.to_ascii_lowercase();
    let dim = lower.rfind("_dim").is_some_and(|at| lower[at + 4..].chars().all(|c| c.is_ascii_digit()));
    if dim || ["_dtype", "_rank", "_count", "_bytes"].iter().any(|end| lower.ends_with(end)) {
        word.push_str("_x");
    }
    let mut found = word.clone();
    let mut n = 1;
    // Constants are in capitals: names must differ without regard to case.
    while KEYWORDS.contains(&found.as_str()) || !taken.insert(found.to_ascii_lowercase()) {
        n += 1;
        found = format!("{word}_{n}");
    }
    found
}

impl Names {
    /// Checks the library's name and makes names of those of the manifest, of which the first `run` inputs and outputs
    /// are those of the program without gradients.
    pub fn new(library: &str, manifest: &Manifest, run: (usize, usize)) -> Result<Names> {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let fits = library.starts_with(|c: char| c.is_ascii_alphabetic()) && library.chars().all(word);
        if !fits || library.len() > MAX_NAME || KEYWORDS.contains(&library) {
            return Err(refused(format!(
                "the library's name {library:?} must be an identifier of C: a letter, then letters, digits and \
                 underscores, at most {MAX_NAME}, and no keyword"
            )));
        }
        let lower = library.to_ascii_lowercase();
        if lower == "t" || lower.starts_with("t_") {
            return Err(refused(format!(
                "the library's name {library:?} must be no t and begin with no t_: such are the names within the source"
            )));
        }
        if SYSTEM.contains(&library) || library.starts_with("pthread_") {
            return Err(refused(format!(
                "the library's name {library:?} is that of a library or of functions of the system; take another one"
            )));
        }
        let mut taken = HashSet::from(["context".to_string()]);
        let mut all =
            |ports: &[Port]| -> Vec<String> { ports.iter().map(|p| unique(&p.name, library, &mut taken)).collect() };
        // Cotangents and gradients come last: `run` has the same names without them.
        let (inputs, cotangents) = manifest.inputs.split_at(run.0.min(manifest.inputs.len()));
        let (outputs, gradients) = manifest.outputs.split_at(run.1.min(manifest.outputs.len()));
        let (mut inputs, mut outputs) = (all(inputs), all(outputs));
        inputs.extend(all(cotangents));
        outputs.extend(all(gradients));
        let mut taken = HashSet::new();
        let state = manifest.state.iter().map(|s| unique(&s.name, library, &mut taken)).collect();
        Ok(Names { library: library.to_string(), inputs, outputs, state })
    }

    /// What names begin with that only the library sees.
    pub fn internal(&self) -> String {
        format!("{}__", self.library)
    }

    /// What constants begin with.
    pub fn capitals(&self) -> String {
        self.library.to_ascii_uppercase()
    }
}

/// A file of weights: a head that says whose it is, then the data.
pub(super) fn weights_file(weights: &[u8], hash: &[u8; 32]) -> Vec<u8> {
    let mut out = weights_head(weights.len(), hash).to_vec();
    out.extend_from_slice(weights);
    out
}

/// The head of the file.
pub(super) fn weights_head(bytes: usize, hash: &[u8; 32]) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..15].copy_from_slice(b"torsh weights 1");
    head[16..24].copy_from_slice(&(bytes as u64).to_le_bytes());
    head[24..56].copy_from_slice(hash);
    head
}

/// The error codes with their texts, in order from 0.
pub(super) const ERRORS: &[(&str, &str)] = &[
    ("OK", "no error"),
    ("ERROR_NULL", "a pointer is null"),
    ("ERROR_ALIGNMENT", "a pointer is not aligned to the elements it points to"),
    ("ERROR_CONTEXT", "the context was not made by this library's init, or has been freed"),
    ("ERROR_ARENA", "the arena is smaller than arena_bytes() says"),
    ("ERROR_MEMORY", "there is not enough memory for the arena"),
    (
        "ERROR_INDEX",
        "an index among the inputs is out of range; the state but for gradients is as before, outputs and gradients are not \
         to be used",
    ),
    ("ERROR_STATE", "there is no such tensor in the state"),
    ("ERROR_SIZE", "the number of bytes is not that of the tensor"),
    ("ERROR_CONSTANT", "this tensor of the state is a constant of the library"),
    ("ERROR_WEIGHTS", "the weights are not those of this library"),
];

fn dtype_constant(dtype: DType) -> String {
    dtype.name().to_ascii_uppercase()
}

/// Constants of a tensor.
fn constants(out: &mut String, begin: &str, name: &str, ty: &Type) {
    let dims = ty.shape.dims();
    let begin = format!("{begin}_{}", name.to_ascii_uppercase());
    // Writing to a string cannot fail.
    let _ = writeln!(out, "#define {begin}_DTYPE {}", dtype_constant(ty.dtype));
    let _ = writeln!(out, "#define {begin}_RANK {}", dims.len());
    for (i, dim) in dims.iter().enumerate() {
        let _ = writeln!(out, "#define {begin}_DIM{i} {dim}");
    }
    let _ = writeln!(out, "#define {begin}_COUNT {}", ty.numel());
    let _ = writeln!(out, "#define {begin}_BYTES {}", ty.nbytes());
}

/// The parameters of a function that runs a program, after the context.
pub(super) fn parameters(layout: &Layout<'_>, entry: &Entry<'_>) -> Vec<String> {
    let (names, types) = (&layout.names, &layout.types);
    let inputs = names.inputs.iter().zip(&types.inputs).map(|(n, ty)| format!("const {} *{n}", c_type(ty.dtype)));
    let outputs = names.outputs.iter().zip(&types.outputs).map(|(n, ty)| format!("{} *{n}", c_type(ty.dtype)));
    inputs.take(entry.ports.0).chain(outputs.take(entry.ports.1)).collect()
}

/// The declarations of the functions that run programs.
fn runs(layout: &Layout<'_>) -> String {
    let (n, big) = (&layout.names.library, layout.names.capitals());
    let mut out = String::new();
    for entry in &layout.entries {
        let doc = match entry.function {
            "run" => "/* Runs the program once. State that it updates is in the context. */".to_string(),
            _ => format!(
                "/* The same with gradients: of the arguments into memory of the caller, of the parameters into the state\n * \
                 `NAME.grad`, which the next call replaces, and an error leaves undefined. Each output of floats has its\n * \
                 cotangent, what its elements count in the sum whose gradient this is; a null pointer stands for 1 where there\n * \
                 is one element. Parameters change by {n}_state_write, or in place by {n}_state_data. */"
            ),
        };
        let run: String = parameters(layout, entry).iter().map(|p| format!(",\n    {p}")).collect();
        let _ = writeln!(out, "{doc}\n{big}_API int {n}_{}({n}_context *context{run});\n", entry.function);
    }
    out
}

/// The header.
pub(super) fn header(layout: &Layout<'_>) -> String {
    let Layout { names, types, request, .. } = layout;
    let (n, big) = (&names.library, names.capitals());
    let mut out = String::new();
    let runs = runs(layout);
    let weights = if request.weights_in_file { ", const void *weights, size_t weights_bytes" } else { "" };
    let weights_doc = if request.weights_in_file {
        format!(
            "\n * `weights` are the bytes of the file {n}.weights, {} of them, at a multiple of 8; they are read during\n \
             * every run and never written.",
            layout.weights_bytes + HEAD
        )
    } else {
        String::new()
    };
    let mut codes = String::new();
    for (i, (code, text)) in ERRORS.iter().enumerate() {
        let _ = writeln!(codes, "#define {big}_{code} {i} /* {text} */");
    }
    let mut dtypes = String::new();
    for (i, dtype) in DType::ALL.into_iter().enumerate() {
        let _ = writeln!(dtypes, "#define {big}_{} {i}", dtype_constant(dtype));
    }
    let mut tensors = String::new();
    let sides = [("INPUT", &names.inputs, &types.inputs), ("OUTPUT", &names.outputs, &types.outputs)];
    for (side, names, types) in sides {
        for (name, ty) in names.iter().zip(types) {
            constants(&mut tensors, &format!("{big}_{side}"), name, ty);
        }
    }
    // Constants name dtypes of the library.
    let tensors = tensors.replace("_DTYPE ", &format!("_DTYPE {big}_"));
    let mut state = format!("#define {big}_STATES {}\n", names.state.len());
    for (i, (name, ty)) in names.state.iter().zip(&types.state).enumerate() {
        let kept = if matches!(layout.state[i].0, Home::Context(_)) { "" } else { " /* constant */" };
        let begin = format!("{big}_STATE_{}", name.to_ascii_uppercase());
        let _ = writeln!(state, "#define {begin} {i}{kept}\n#define {begin}_BYTES {}", ty.nbytes());
    }
    let _ = write!(
        out,
        "/* {n}: a model that torsh exported for {target}. It needs the C library and libm, nothing else.
 *
 * Tensors are contiguous and row-major, in the byte order of the machine; bool is a byte 0 or 1, float16 and bfloat16 are
 * their 16 bits. Outputs must overlap neither inputs nor each other, and neither of them the context's memory or
 * weights. A run allocates nothing. Contexts are independent: several threads may run at once with a context each. */
#ifndef {big}_H
#define {big}_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern \"C\" {{
#endif

#if defined(__GNUC__)
#define {big}_API __attribute__((visibility(\"default\")))
#else
#define {big}_API
#endif

{codes}
{dtypes}
{tensors}
{state}
/* An instance. What is in it is the library's own. */
typedef struct {n}_context {{
    unsigned char *memory;
    void *owned;
    const unsigned char *weights;
    uintptr_t check;
}} {n}_context;

/* Bytes that a context needs. */
{big}_API size_t {n}_arena_bytes(void);

/* Makes a context. `arena` is memory of `bytes` bytes, at least {n}_arena_bytes(), which must live as long as the context;
 * with a null pointer the library takes memory itself, once.{weights_doc} */
{big}_API int {n}_init({n}_context *context, void *arena, size_t bytes{weights});

{runs}/* Gives back what init has taken. */
{big}_API void {n}_free({n}_context *context);

/* The text of an error code; never null. */
{big}_API const char *{n}_error_text(int code);

/* The number of a tensor of the state by the name that it had in Python; -1 if there is none. */
{big}_API int {n}_state_find(const char *name);
/* The name of a tensor of the state; null if there is none. */
{big}_API const char *{n}_state_name(int state);
/* Its bytes; 0 if there is none. */
{big}_API size_t {n}_state_bytes(int state);
/* Copies a tensor of the state from or to the caller's memory. Constants can be read only. */
{big}_API int {n}_state_read(const {n}_context *context, int state, void *to, size_t bytes);
{big}_API int {n}_state_write({n}_context *context, int state, const void *from, size_t bytes);
/* A tensor of the state where it is in the context, until free; null for constants and where there is none. */
{big}_API void *{n}_state_data({n}_context *context, int state);

/* Begins the random numbers of torsh.manual_seed(seed){random} */
{big}_API int {n}_seed({n}_context *context, uint64_t seed);

#ifdef __cplusplus
}}
#endif

#endif
",
        target = request.target.name(),
        random = if request.seeds.is_empty() {
            format!(
                ". This program draws none from the default generator: the\n * result is {big}_ERROR_STATE. A generator of its \
                 own is state of two words, the seed and 0 where it begins: {n}_state_write."
            )
        } else {
            "; those of a new context go on from where Python's were at the export.".to_string()
        },
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_identifiers() {
        let mut taken = HashSet::from(["context".to_string()]);
        let mut name = |n: &str| unique(n, "model", &mut taken);
        assert_eq!(name("x.0.weight"), "x_0_weight");
        assert_eq!(name("X_0.weight"), "X_0_weight_2");
        assert_eq!(name("0.weight"), "x_0_weight_3");
        assert_eq!(name("context"), "context_2");
        assert_eq!(name("int"), "int_2");
        assert_eq!(name("SIZE_MAX"), "SIZE_MAX_x");
        assert_eq!((name("I"), name("W")), ("I_x".to_string(), "W".to_string()));
        assert_eq!(name("co_await"), "co_await_2");
        assert_eq!(name("complex"), "complex_2");
        assert_eq!(name("t_m"), "x_t_m");
        assert_eq!(name("model_run"), "x_model_run");
        assert_eq!(name("a_bytes"), "a_bytes_x");
        assert_eq!(name("a_dim12"), "a_dim12_x");
        assert_eq!(name("gr\u{f6}\u{df}e"), "gr__e");
    }
}
