//! The functions of a library besides those that run its program.

use super::header::{ERRORS, weights_head};
use super::steps::{Writer, line};
use super::{ALIGN, Entry, HEAD, Home};
use torsh_codegen::cpu::c::c_type;
use torsh_ir::scalar::to_bits;
use torsh_ir::{Scalar, Type};

impl Writer<'_> {
    pub(super) fn pointer_checks(&self, entry: &Entry<'_>) -> String {
        let (names, types) = (&self.layout.names, &self.layout.types);
        let (inputs, outputs) = entry.ports;
        let cotangents = self.layout.request.manifest.inputs.len();
        let mut out = String::new();
        for (i, (name, ty)) in names.inputs.iter().zip(&types.inputs).take(inputs).enumerate() {
            if i >= cotangents && ty.numel() == 1 {
                // The cotangent of a number is 1 unless another one is given.
                let one = to_bits(Scalar::Float(1.0), ty.dtype);
                let (c, bits) = (c_type(ty.dtype), ty.dtype.size() * 8);
                line!(
                    out,
                    "    {{ static const uint{bits}_t t_one = {one:#x}u; if (!{name}) {name} = (const {c} *)(const void *)&t_one; }}"
                );
            }
            out.push_str(&pointer_check(name, ty));
        }
        for (name, ty) in names.outputs.iter().zip(&types.outputs).take(outputs) {
            out.push_str(&pointer_check(name, ty));
        }
        out
    }

    /// A number of this library's own, by which it knows its contexts: those of another one have other memory.
    pub(super) fn own(&self, source: &str, object: &[u8]) -> u64 {
        let layout = self.layout;
        let mut hash = <sha2::Sha256 as sha2::Digest>::new();
        let bytes = layout.bytes.to_le_bytes();
        let layout = [layout.names.library.as_bytes(), &bytes, &layout.weights_hash];
        for text in layout.into_iter().chain([source.as_bytes(), self.body.as_bytes(), object]) {
            sha2::Digest::update(&mut hash, (text.len() as u64).to_le_bytes());
            sha2::Digest::update(&mut hash, text);
        }
        let digest = sha2::Digest::finalize(hash);
        digest.iter().take(8).fold(0, |n, &b| (n << 8) | u64::from(b))
    }

    /// Every function but those that run a program.
    pub(super) fn functions(&self, weights_at: usize, own: u64) -> String {
        let layout = self.layout;
        let (names, request) = (&layout.names, layout.request);
        let (n, big, inner) = (&names.library, names.capitals(), names.internal());
        let mut out = String::new();
        for code in ["NULL", "ALIGNMENT", "CONTEXT", "ARENA", "MEMORY", "INDEX", "STATE", "SIZE", "CONSTANT", "WEIGHTS"]
        {
            line!(out, "#define T_ERROR_{code} {big}_ERROR_{code}");
        }
        line!(out, "#define T_CHECK(c) ((uintptr_t)(c)->memory ^ (uintptr_t)UINT64_C({own:#018x}))");
        line!(
            out,
            "#define T_STATE_KIND(i) (t_states[i].place & 3u)\n#define T_STATE_OFFSET(i) (t_states[i].place >> 2)"
        );
        line!(out, "#define T_STATE_NAME(i) (t_names + t_states[i].name)");
        // One after another, as pointers would each need a relocation.
        let texts: Vec<String> = ERRORS.iter().map(|(_, text)| quoted(text)).collect();
        line!(out, "const char *{n}_error_text(int code) {{");
        line!(out, "    const char *text = {};", texts.join(" \"\\000\"\n        "));
        line!(out, "    if (code < 0 || code >= {}) return \"unknown error code\";", texts.len());
        line!(out, "    while (code--) text += strlen(text) + 1;\n    return text;\n}}");
        line!(out, "size_t {n}_arena_bytes(void) {{ return {}u; }}", layout.bytes);
        let weights = if request.weights_in_file { ", const void *weights, size_t weights_bytes" } else { "" };
        line!(out, "int {n}_init({n}_context *context, void *arena, size_t bytes{weights}) {{");
        line!(out, "    unsigned char *m = arena;\n    const unsigned char *w;\n    int i;");
        if request.weights_in_file {
            let head = weights_head(layout.weights_bytes, &layout.weights_hash).map(|b| b.to_string()).join(", ");
            line!(out, "    static const unsigned char head[{HEAD}] = {{{head}}};");
        }
        line!(out, "    if (!context) return T_ERROR_NULL;\n    memset(context, 0, sizeof *context);");
        if request.weights_in_file {
            line!(out, "    if (!weights) return T_ERROR_NULL;");
            line!(out, "    if ((uintptr_t)weights & 7u) return T_ERROR_ALIGNMENT;");
            let all = layout.weights_bytes + HEAD;
            line!(out, "    if (weights_bytes != {all}u || memcmp(weights, head, {HEAD})) return T_ERROR_WEIGHTS;");
            line!(out, "    w = (const unsigned char *)weights + {HEAD};");
        } else {
            line!(out, "    w = {inner}data + {weights_at};");
        }
        line!(out, "    if (m && bytes < {}u) return T_ERROR_ARENA;", layout.bytes);
        line!(out, "    if (!m) {{ m = context->owned = malloc({}u); if (!m) return T_ERROR_MEMORY; }}", layout.bytes);
        let mask = ALIGN - 1;
        line!(out, "    m += ({ALIGN}u - ((uintptr_t)m & {mask}u)) & {mask}u;");
        line!(out, "    context->memory = m;\n    context->weights = w;\n    context->check = T_CHECK(context);");
        line!(out, "    for (i = 0; i < T_STATES; i++) {{");
        line!(
            out,
            "        if (T_STATE_KIND(i) == 1) memcpy(m + T_STATE_OFFSET(i), w + t_states[i].first, t_states[i].bytes);"
        );
        line!(out, "        if (T_STATE_KIND(i) == 2) memset(m + T_STATE_OFFSET(i), 0, t_states[i].bytes);\n    }}");
        line!(out, "    return 0;\n}}");
        line!(out, "void {n}_free({n}_context *context) {{");
        line!(
            out,
            "    if (!context) return;\n    free(context->owned);\n    memset(context, 0, sizeof *context);\n}}"
        );
        line!(out, "int {n}_state_find(const char *name) {{\n    int i;");
        line!(out, "    for (i = 0; name && i < T_STATES; i++) if (!strcmp(T_STATE_NAME(i), name)) return i;");
        line!(out, "    return -1;\n}}");
        line!(out, "const char *{n}_state_name(int state) {{");
        line!(out, "    return state >= 0 && state < T_STATES ? T_STATE_NAME(state) : 0;\n}}");
        line!(out, "size_t {n}_state_bytes(int state) {{");
        line!(out, "    return state >= 0 && state < T_STATES ? t_states[state].bytes : 0;\n}}");
        let check = "    if (!context || !MEMORY) return T_ERROR_NULL;\n    \
                     if (context->check != T_CHECK(context)) return T_ERROR_CONTEXT;\n    \
                     if (state < 0 || state >= T_STATES) return T_ERROR_STATE;\n    \
                     if (bytes != t_states[state].bytes) return T_ERROR_SIZE;";
        line!(out, "int {n}_state_read(const {n}_context *context, int state, void *to, size_t bytes) {{");
        line!(out, "{}", check.replace("MEMORY", "to"));
        line!(
            out,
            "    memcpy(to, T_STATE_KIND(state) ? context->memory + T_STATE_OFFSET(state) : context->weights + \
             t_states[state].first, bytes);\n    return 0;\n}}"
        );
        line!(out, "int {n}_state_write({n}_context *context, int state, const void *from, size_t bytes) {{");
        line!(out, "{}", check.replace("MEMORY", "from"));
        line!(out, "    if (!T_STATE_KIND(state)) return T_ERROR_CONSTANT;");
        line!(out, "    memcpy(context->memory + T_STATE_OFFSET(state), from, bytes);\n    return 0;\n}}");
        line!(out, "void *{n}_state_data({n}_context *context, int state) {{");
        line!(
            out,
            "    if (!context || context->check != T_CHECK(context) || state < 0 || state >= T_STATES) return 0;"
        );
        line!(out, "    return T_STATE_KIND(state) ? context->memory + T_STATE_OFFSET(state) : 0;\n}}");
        line!(out, "int {n}_seed({n}_context *context, uint64_t seed) {{");
        line!(out, "    if (!context) return T_ERROR_NULL;");
        line!(out, "    if (context->check != T_CHECK(context)) return T_ERROR_CONTEXT;");
        let mut seeded = false;
        for &s in request.seeds {
            if let Some((Home::Context(at), _)) = layout.state.get(s as usize) {
                seeded = true;
                line!(
                    out,
                    "    {{ const uint64_t state[2] = {{seed, 0}}; memcpy(context->memory + {at}, state, 16); }}"
                );
            }
        }
        if !seeded {
            line!(out, "    (void)seed;");
        }
        line!(out, "    return {};\n}}", if seeded { "0" } else { "T_ERROR_STATE" });
        out
    }
}

/// Refuses a pointer that is null, or not aligned to its elements.
fn pointer_check(name: &str, ty: &Type) -> String {
    if ty.nbytes() == 0 {
        return format!("    (void){name};\n");
    }
    let mut out = format!("    if (!{name}) return T_ERROR_NULL;\n");
    let mask = ty.dtype.size() - 1;
    if mask > 0 {
        line!(out, "    if ((uintptr_t){name} & {mask}u) return T_ERROR_ALIGNMENT;");
    }
    out
}

/// A text as a string of C.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for b in text.bytes() {
        match b {
            b'"' | b'\\' | b'?' => out.extend(['\\', b as char]),
            0x20..0x7f => out.push(b as char),
            _ => out.push_str(&format!("\\{b:03o}")),
        }
    }
    out.push('"');
    out
}
