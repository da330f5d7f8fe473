"""The instructions of a code object, as `dis` lists them, without what the guards have no use for.

`dis` takes a millisecond to load and most of the time that looking through a function takes, in each process that
compiles anything. What is known here are the forms of the interpreters in `_KNOWN`; any other one is left to `dis`.
"""

from __future__ import annotations

import opcode
import sys

__all__ = ["Instruction", "instructions"]

_KNOWN = ((3, 10), (3, 11), (3, 12), (3, 13))
_VERSION = sys.version_info[:2]
_NOISE = ("CACHE", "PRECALL", "EXTENDED_ARG", "RESUME", "PUSH_NULL", "NOP", "COPY", "DUP_TOP", "NOT_TAKEN", "MAKE_CELL")
# By the number of an opcode: its name, None where it says nothing about what is read, and how its argument is meant.
_NAMES: list = [name if name not in _NOISE else None for name in opcode.opname]
_KINDS: list = [None] * len(_NAMES)


class Instruction:
    """One instruction; `argval` is what `arg` means, None for what is neither a name, a variable nor a constant."""

    __slots__ = ("arg", "argval", "is_jump_target", "opname")

    def __init__(self, opname, arg, argval, is_jump_target) -> None:
        self.opname, self.arg, self.argval, self.is_jump_target = opname, arg, argval, is_jump_target


def _fill() -> None:
    jumps = (*opcode.hasjrel, *opcode.hasjabs)
    for kind, of in (("name", opcode.hasname), ("const", opcode.hasconst), ("local", opcode.haslocal)):
        for op in of:
            _KINDS[op] = kind
    for op in opcode.hasfree:
        _KINDS[op] = "free"
    for op in jumps:
        _KINDS[op] = "jump"
    # The lowest bits of some names' numbers say something else; some instructions have two variables.
    for op, name in enumerate(opcode.opname):
        if name == "LOAD_GLOBAL" and _VERSION >= (3, 11) or name == "LOAD_ATTR" and _VERSION >= (3, 12):
            _KINDS[op] = "name1"
        elif name == "LOAD_SUPER_ATTR":
            _KINDS[op] = "name2"
        elif name in ("LOAD_FAST_LOAD_FAST", "STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST"):
            _KINDS[op] = "two"


def instructions(code) -> list:
    """Those that load, store, call and jump, in their order."""
    if _VERSION not in _KNOWN:
        return _listed(code)
    raw, names, consts = code.co_code, code.co_names, code.co_consts
    if _VERSION >= (3, 11):
        variable = free = code._varname_from_oparg
    else:
        variable, free = code.co_varnames.__getitem__, (code.co_cellvars + code.co_freevars).__getitem__
    out, spans, targets = [], [], set()
    high = begin = 0
    for at in range(0, len(raw), 2):
        op, arg = raw[at], raw[at + 1] | high
        name = _NAMES[op]
        if name is None:
            high = arg << 8 if op == opcode.EXTENDED_ARG else 0
            continue
        # A jump may lead to the prefixes of an argument, and to what is left out before it.
        spans.append(range(begin, at + 2, 2))
        high, begin = 0, at + 2
        kind, value = _KINDS[op], None
        if kind is None:
            pass
        elif kind == "name":
            value = names[arg]
        elif kind == "name1":
            value = names[arg >> 1]
        elif kind == "local":
            value = variable(arg)
        elif kind == "const":
            value = consts[arg]
        elif kind == "free":
            value = free(arg)
        elif kind == "two":
            value = (variable(arg >> 4), variable(arg & 15))
        elif kind == "jump":
            targets.add(_target(op, at, arg))
        else:
            value = names[arg >> 2]
        out.append(Instruction(name, arg, value, False))
    if targets:
        for span, instruction in zip(spans, out, strict=True):
            instruction.is_jump_target = not targets.isdisjoint(span)
    return out


def _target(op: int, at: int, arg: int) -> int:
    """Where a jump at this place leads to."""
    if op in opcode.hasjabs:
        return 2 * arg
    back = _VERSION >= (3, 11) and "JUMP_BACKWARD" in opcode.opname[op]
    # Newer interpreters count from behind the entries of the instruction's cache.
    caches = _caches(op) if _VERSION >= (3, 12) else 0
    return at + 2 + 2 * caches + (-2 * arg if back else 2 * arg)


def _caches(op: int) -> int:
    found = opcode._inline_cache_entries
    return found.get(opcode.opname[op], 0) if isinstance(found, dict) else found[op]


def _listed(code) -> list:
    import dis

    out, is_target = [], False
    for ins in dis.get_instructions(code):
        is_target |= ins.is_jump_target
        if ins.opname not in _NOISE:
            out.append(Instruction(ins.opname, ins.arg, ins.argval, is_target))
            is_target = False
    return out


_fill()
