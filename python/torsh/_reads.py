"""What the bytecode of a function reads: roots (globals, closure variables, locals) and chains of attributes."""

from __future__ import annotations

import functools
import sys
import types

from torsh._bytecode import instructions

__all__ = ["ANY", "Reads", "reads"]

# Attributes of attributes, and names that a function gives to what it reads.
_MAX_CHAIN = 24
_MAX_NAMES = 1024
# The root of an attribute that is read of an item, a result, or whatever else is on the stack.
ANY = ("any", "")


class Reads:
    """`chains` and `writes` are `(root, attributes)` with root `(kind, name)`; the last attribute of a write is what
    is set, and `None` where the root is. `loose` are the attributes read of values that no root leads to. `constant`:
    every getattr and hasattr has a constant name, and is among the chains. `unnamed`: a pattern reads attributes that
    only the class of its subject names. `passed`: getattr or its like is handed to a function, which may read anything.
    `handles`: errors are caught. `optional`: the names that getattr and hasattr read, which may be absent."""

    __slots__ = ("chains", "constant", "handles", "loose", "optional", "passed", "unnamed", "writes")

    def __init__(self, chains, writes, loose, constant, unnamed, passed, handles, optional) -> None:
        self.chains: tuple = chains
        self.writes: tuple = writes
        self.loose: tuple = loose
        self.constant: bool = constant
        self.unnamed: bool = unnamed
        self.passed: bool = passed
        self.handles: bool = handles
        self.optional: frozenset = optional


@functools.lru_cache(maxsize=4096)
def reads(code) -> Reads:
    """Reads of a code object and, but for their locals, of the functions inside it.

    A variable that is only a name for a chain (`c = self.cfg`) is followed to where that comes from.
    """
    out: list = []
    writes: list = []
    alias: dict = {}
    stored: set = set()
    optional: set = set()
    by_name, named = 0, 0
    root, chain, module = None, (), None
    unnamed = passed = False
    listing = instructions(code)
    handles = any(ins.opname in ("PUSH_EXC_INFO", "SETUP_FINALLY") for ins in listing)
    for at, ins in enumerate(listing):
        op = ins.opname
        if op in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM") and len(chain) < _MAX_CHAIN:
            if root is not None and ins.is_jump_target:
                # It may be read of what another branch has loaded.
                out.append((root, chain))
                root = None
            if root is None:
                root, chain = ANY, ()
            if op == "IMPORT_FROM":
                # It leaves the module on the stack.
                module, root, chain = (root, chain), root, (*chain, ins.argval)
            else:
                chain = (*chain, ins.argval)
            continue
        if root is not None:
            out.append((root, chain))
        if op.startswith(("STORE_FAST", "STORE_DEREF")):
            # The first name in what newer interpreters store and load at once.
            name = ins.argval[0] if isinstance(ins.argval, tuple) else ins.argval
            stored.update(ins.argval if isinstance(ins.argval, tuple) else (ins.argval,))
            if root is not None and root not in (("local", name), ("cell", name)):
                alias.setdefault(name, []).append((root, chain))
            if name in code.co_freevars:
                writes.append((("cell", name), (None,)))
        elif op == "STORE_GLOBAL":
            writes.append((("global", ins.argval), (None,)))
        elif op == "STORE_ATTR":
            writes.append((root or ANY, (*chain, ins.argval) if root else (ins.argval,)))
        elif op == "MATCH_CLASS":
            out.extend((ANY, (name,)) for name in listing[at - 1].argval)
            unnamed = unnamed or bool(ins.arg)
        elif op == "LOAD_SUPER_ATTR":
            out.append((ANY, (ins.argval,)))
        if module is not None and op.startswith("STORE_") and listing[at + 1].opname == "IMPORT_FROM":
            root, chain = module
            continue
        module = None
        root, chain = _loaded(ins), ()
        if root is not None and root[0] == "global" and root[1] in ("getattr", "hasattr", "vars"):
            # What is called stands above a null.
            passed = passed or (ins.opname == "LOAD_GLOBAL" and sys.version_info >= (3, 11) and not ins.arg & 1)
            if root[1] == "vars":
                continue
            by_name += 1
            found = _constant_name(listing[at + 1 : at + 9 + _MAX_CHAIN])
            if found is not None:
                named += 1
                out.append(found)
                optional.add(found[1][-1])
    if root is not None:
        out.append((root, chain))
    inner = [reads(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    for other in inner:
        out.extend((root, chain) for root, chain in other.chains if root[0] != "local")
        optional |= other.optional
    for _ in range(3):
        for (kind, name), chain in list(out):
            if kind in ("local", "cell") and len(out) < _MAX_NAMES:
                out.extend((r, (*c, *chain)[:_MAX_CHAIN]) for r, c in alias.get(name, ()))
        out = list(dict.fromkeys(out))
    # What is set on a value that was read before (`o.n += 1`) stands on the stack under another one.
    set_somewhere = {names[-1] for root, names in writes if root == ANY}
    writes += [(root, chain) for root, chain in out if chain and chain[-1] in set_somewhere]
    given = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]) - stored
    loose = [chain for root, chain in out if chain and _is_loose(root, given, code)]
    loose += [chain for other in inner for chain in other.loose]
    loose = tuple(dict.fromkeys(loose))
    constant = by_name == named
    return Reads(tuple(out), tuple(writes), loose, constant, unnamed, passed, handles, frozenset(optional))


def _loaded(ins):
    """The root that an instruction loads."""
    op = ins.opname
    if op in ("LOAD_GLOBAL", "LOAD_NAME"):
        return ("global", ins.argval)
    if op in ("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"):
        return ("cell", ins.argval)
    if op == "IMPORT_NAME":
        return ("import", ins.argval)
    if op.startswith("LOAD_FAST") or op.startswith("STORE_FAST_LOAD_FAST"):
        # Superinstructions of newer interpreters load two; what is loaded last is what an attribute is read of.
        return ("local", ins.argval[-1] if isinstance(ins.argval, tuple) else ins.argval)
    return None


def _is_loose(root, given, code) -> bool:
    kind, name = root
    return kind == "any" or (kind == "local" and name not in given) or (kind == "cell" and name not in code.co_freevars)


def _constant_name(listing):
    """`(root, chain)` of the call whose arguments begin here, if the second one is a constant."""
    root = _loaded(listing[0]) if listing else None
    chain, name, given = (), None, 0
    for ins in listing[1:]:
        attribute = ins.opname in ("LOAD_ATTR", "LOAD_METHOD")
        if name is not None:
            # The name is an argument by itself: a default may follow it, and then the call.
            if ins.opname.startswith("CALL"):
                return (root, (*chain, name)) if ins.arg == given else None
            if not ins.opname.startswith("LOAD_") or (attribute and given == 2):
                return None
            given += not attribute
        elif attribute:
            chain = (*chain, ins.argval)
        elif ins.opname == "LOAD_CONST" and isinstance(ins.argval, str) and root is not None:
            name, given = ins.argval, 2
        else:
            return None
    return None
