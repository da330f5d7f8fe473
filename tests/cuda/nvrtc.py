"""Compiles CUDA sources with NVRTC: `nvrtc.py LIBRARY SOURCE OUTPUT FLAG...`, PTX, or CUBIN if OUTPUT ends so.

With `-` for LIBRARY it prints the path of the library of NVRTC's wheel, if there is one: the Makefile and all Rust
tests ask here.
"""

import ctypes
import glob
import os
import sys


def find(folders=sys.path):
    """The wheel's library, or None. Of several the oldest: requirements/test.txt asks for it, and the table of
    registers (TABLE.md) is its."""
    for folder in folders:
        found = glob.glob(os.path.join(folder, "nvidia", "cu*", "lib", "libnvrtc.so.1?"))
        if found:
            return min(found, key=lambda path: (int(path.rpartition(".")[2]), path))
    return None


def compile_source(library, source, output, flags):
    """Compiles one file; the log goes to standard error."""
    nvrtc = ctypes.CDLL(library)
    with open(source, "rb") as f:
        text = f.read()
    program = ctypes.c_void_p()
    status = nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, b"torsh.cu", 0, None, None)
    if status != 0:
        sys.exit(f"nvrtcCreateProgram: {status}")
    options = (ctypes.c_char_p * len(flags))(*[flag.encode() for flag in flags])
    status = nvrtc.nvrtcCompileProgram(program, len(flags), options)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    sys.stderr.write(log.value.decode(errors="replace"))
    if status != 0:
        sys.exit(f"nvrtcCompileProgram: {status}")
    kind = "CUBIN" if output.endswith(".cubin") else "PTX"
    getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(size))
    code = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{kind}")(program, code)
    with open(output, "wb") as f:
        f.write(code.raw if kind == "CUBIN" else code.value)


def main():
    """See the module's documentation."""
    if sys.argv[1] == "-":
        print(find() or "")
    else:
        compile_source(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])


if __name__ == "__main__":
    main()
