"""How integers depend on sizes: expressions found from their values at several sizes.

A value is looked for among numbers, polynomials of few terms (`4*batch*seq+1`), and quotients that are rounded down of
a dim, a product or a sum of two (`(height-3)/2+1`, written `(height-1)/2`), which may be factors of others, and what
such a division leaves. The simplest that holds at every point is taken. What was found at some sizes is a claim about
the others, which the caller holds against further traces.
"""

from __future__ import annotations

import itertools
import math
import re
import struct
from fractions import Fraction

MAX_DIVISOR = 64
_MAX_PAIRS = 30
_MAX_TRIPLES = 14
_MAX_QUOTIENTS = 32
_MAX_BASES = 20
# Factors and terms of a value that is rounded, the simplest first, and how far from it others are told apart.
_SCALES = [(a, 0) for a in (*range(1, 17), -1, -2)] + [(a, k) for a in (1, 2) for n in range(1, 9) for k in (n, -n)]
_NEAR = (*range(1, 17), *(1 << n for n in range(5, 24)))
_NAME = re.compile(r"[A-Za-z_]\w*")
_FACTOR = re.compile(r"[\w*]+")


def _to_half(x: int) -> int | float:
    # 65520 is halfway to what would come next; `struct` refuses what becomes infinite.
    return math.copysign(math.inf, x) if abs(x) >= 65520 else int(struct.unpack("<e", struct.pack("<e", x))[0])


def _to_bfloat(x: int) -> int | float:
    if abs(x) >= 1 << 64:
        # No expression of sizes is as large.
        return math.copysign(math.inf, x)
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return int(struct.unpack("<f", struct.pack("<I", bits))[0])


# How an integer is rounded to a dtype of 16 bits.
HALVES = {"f16": _to_half, "bf16": _to_bfloat}


class Solver:
    """Finds expressions over named dims from values at `points`, each of which has one size for each name."""

    def __init__(self, names: list[str], points: list[tuple[int, ...]]):
        self.names, self.points = names, points
        # What products are made of: the dims, and quotients as they are found.
        self.atoms = [(name, [p[i] for p in points]) for i, name in enumerate(names)]
        self.known: dict[tuple[int, ...], str | None] = {}
        # Divisors that were needed, and the dim under each.
        self.divisors: set[tuple[str, int]] = set()
        # What was found for rounded values, and how they are rounded.
        self.roundings: set[tuple] = set()
        self._list()

    def solve_all(self, wanted) -> None:
        """Finds what it can of these values. Quotients come after what needs none, and before what they are part of."""
        left = sorted({v for v in wanted if v not in self.known})
        while True:
            for values in left:
                self.known[values] = self._polynomial(values)
            left = [v for v in left if self.known[v] is None]
            found = False
            # Small values come first: what others are made of. Many that are none of this are no sizes at all.
            for values in left[:_MAX_QUOTIENTS]:
                quotient = self._quotient(values)
                if quotient is not None:
                    self.known[values] = quotient
                    self.atoms.append((f"({quotient})", list(values)))
                    found = True
            if not found:
                return
            self._list()
            left = [v for v in left if self.known[v] is None]

    def expression(self, values: tuple[int, ...]) -> str | None:
        """The expression of these values, one for each point; None where there is none."""
        if values not in self.known:
            self.solve_all([values])
        return self.known[values]

    def rounded(self, values: tuple[int, ...], round_) -> str | None:
        """An expression whose value gives these once it is rounded: `a*x+k` of a product or of what was found.

        Others give the same at these points; `edges` says at which sizes they would not.
        """
        known = [(text, found) for found, text in self.known.items() if text is not None and not text.isdigit()]
        bases = [*((name, tuple(sizes)) for name, sizes in self.products), *known]
        for factor, more in _SCALES:
            for name, sizes in bases:
                if all(round_(factor * x + more) == v for x, v in zip(sizes, values, strict=True)):
                    found = _sum([factor, more], [name if _FACTOR.fullmatch(name) else f"({name})"])
                    self.roundings.add((found, round_))
                    return found
        return None

    def edges(self, ranges: list[range], at: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Sizes at which a rounded value is next to where it is rounded to another one."""
        out = []
        for text, round_ in sorted(self.roundings, key=lambda x: x[0]):
            for i, sizes in enumerate(ranges):
                exact = [(s, self._at(text, (*at[:i], s, *at[i + 1 :]))) for s in sizes]
                for sign in (1, -1):
                    for step in _NEAR:
                        edge = next((s for s, x in exact if round_(x + sign * step) != round_(x)), None)
                        if edge is not None:
                            out.append((*at[:i], edge, *at[i + 1 :]))
                            break
        return out

    def _at(self, text: str, sizes: tuple[int, ...]) -> int:
        named = dict(zip(self.names, sizes, strict=True))
        return eval(_NAME.sub(lambda m: str(named[m[0]]), text).replace("/", "//"), {"__builtins__": {}})

    def _list(self) -> None:
        """Products of up to three atoms, the simplest first."""
        self.products = []
        for degree in (1, 2, 3):
            for atoms in itertools.combinations_with_replacement(self.atoms, degree):
                values = [math.prod(vs) for vs in zip(*(a[1] for a in atoms), strict=True)]
                self.products.append(("*".join(a[0] for a in atoms), values))

    def _polynomial(self, values: tuple[int, ...]) -> str | None:
        if len(set(values)) == 1:
            return str(values[0])
        for count, most in ((1, len(self.products)), (2, _MAX_PAIRS), (3, _MAX_TRIPLES)):
            # As many points as unknowns fit anything.
            if len(set(self.points)) < count + 2 and count > 1:
                return None
            for terms in itertools.combinations(self.products[:most], count):
                found = _fit([t[1] for t in terms], values)
                if found is not None:
                    return self._written(found, [t[0] for t in terms])
        return None

    def _written(self, found: list[Fraction], names: list[str]) -> str:
        divisor = math.lcm(*(x.denominator for x in found))
        if divisor == 1:
            return _sum([int(x) for x in found], names)
        self.divisors.update((n, divisor) for name in names for n in self.names if n in name)
        return f"({_sum([int(x * divisor) for x in found], names)})/{divisor}"

    def _quotient(self, values: tuple[int, ...]) -> str | None:
        """`(a*n+k)/d`, rounded down, over a dim, or else over a product or a sum of two."""
        dims = [(name, sizes, (name,)) for name, sizes in self.atoms[: len(self.names)]]
        pairs = list(itertools.combinations_with_replacement(dims, 2))
        both = [(f"{a}*{b}", [x * y for x, y in zip(v, w, strict=True)], (*p, *q)) for (a, v, p), (b, w, q) in pairs]
        both += [
            (f"({a}+{b})", [x + y for x, y in zip(v, w, strict=True)], (*p, *q))
            for (a, v, p), (b, w, q) in pairs
            if p != q
        ]
        for bases in (dims, both[:_MAX_BASES]):
            for d in range(2, MAX_DIVISOR + 1):
                for name, sizes, of in bases:
                    found = _rounded(d, sizes, values)
                    if found is not None:
                        self.divisors.update((n, d) for n in of)
                        return f"({_sum(list(found), [name])})/{d}"
        return self._remainder(values)

    def _remainder(self, values: tuple[int, ...]) -> str | None:
        """`n % d` or `-n % d`."""
        for name, sizes in self.atoms[: len(self.names)]:
            for d in range(max(1, *values) + 1, MAX_DIVISOR + 1):
                for sign, text in ((1, f"{name}-{d}*({name}/{d})"), (-1, f"{d}*(({name}+{d - 1})/{d})-{name}")):
                    if all(v == sign * n % d for n, v in zip(sizes, values, strict=True)):
                        self.divisors.add((name, d))
                        return text
        return None


def _rounded(d: int, sizes: list[int], values: tuple[int, ...]) -> tuple[int, int] | None:
    """Factors a and k with which `(a*n+k)/d`, rounded down, gives these values at these sizes."""
    by_size = dict(zip(sizes, values, strict=True))
    low, high = min(sizes), max(sizes)
    if low == high or len(by_size) < 4 or any(by_size[s] != v for s, v in zip(sizes, values, strict=True)):
        return None
    rise, run = by_size[high] - by_size[low], high - low
    for a in range(math.floor(Fraction(d * (rise - 1), run)), math.ceil(Fraction(d * (rise + 1), run)) + 1):
        if a == 0:
            continue
        least = max(v * d - a * n for n, v in by_size.items())
        most = min(v * d + d - 1 - a * n for n, v in by_size.items())
        if least <= most:
            return a, least
    return None


def _fit(columns: list[list[int]], values: tuple[int, ...]) -> list[Fraction] | None:
    """Factors of the columns and a constant that give the values at every point."""
    unknowns = len(columns) + 1
    rows = [[Fraction(c[i]) for c in columns] + [Fraction(1), Fraction(v)] for i, v in enumerate(values)]
    # Gaussian elimination, exact; more rows than unknowns must agree.
    done: list[list[Fraction]] = []
    for row in rows:
        for pivot, old in enumerate(done):
            if row[pivot]:
                factor = row[pivot] / old[pivot]
                row = [x - factor * y for x, y in zip(row, old, strict=True)]
        lead = next((j for j, x in enumerate(row[:unknowns]) if x), None)
        if lead is None:
            if row[unknowns]:
                return None
            continue
        if lead != len(done):
            # The columns depend on each other as far as these points go.
            return None
        done.append(row)
    if len(done) < unknowns:
        return None
    found = [Fraction(0)] * unknowns
    for j in reversed(range(unknowns)):
        rest = sum((done[j][k] * found[k] for k in range(j + 1, unknowns)), Fraction(0))
        found[j] = (done[j][unknowns] - rest) / done[j][j]
    # A factor of zero is a simpler sum, which was tried before.
    return None if any(x == 0 for x in found[:-1]) else found


def _sum(factors: list[int], names: list[str]) -> str:
    """`4*n-1`: the terms, those that are added first."""
    terms = [(f, n) for f, n in zip(factors, [*names, ""], strict=True) if f]
    terms.sort(key=lambda t: t[0] < 0)
    out = "" if terms and terms[0][0] > 0 else "0"
    for factor, name in terms:
        sign = "-" if factor < 0 else "+" if out else ""
        size = abs(factor)
        out += sign + (str(size) if not name else name if size == 1 else f"{size}*{name}")
    return out
