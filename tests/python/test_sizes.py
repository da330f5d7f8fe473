"""The expressions that torsh.export finds for sizes: right at sizes that were not looked at."""

from __future__ import annotations

import random

import pytest

from torsh._sizes import Solver

SEEN = [5, 6, 9, 11, 14, 17, 19, 23, 26]


def value(expression: str, **dims: int) -> int:
    """An expression as the reader of packages takes it: `/` rounds down."""
    return eval(expression.replace("/", "//"), {"__builtins__": {}}, dims)


ONE = {
    "7": lambda n: 7,
    "n": lambda n: n,
    "4*n-1": lambda n: 4 * n - 1,
    "10-n": lambda n: 10 - n,
    "n*n": lambda n: n * n,
    "n*n*n": lambda n: n**3,
    "0-n": lambda n: -n,
}


@pytest.mark.parametrize("text", ONE)
def test_polynomials(text):
    solver = Solver(["n"], [(n,) for n in SEEN])
    assert solver.expression(tuple(map(ONE[text], SEEN))) == text


ROUNDED = {
    "pool": lambda n: (n - 3) // 2 + 1,
    "half": lambda n: n // 2,
    "up": lambda n: (n + 1) // 2,
    "eighth": lambda n: n // 8,
    "slope": lambda n: 3 * n // 2,
    "pool of a pool": lambda n: ((n - 3) // 2 + 1 - 2) // 2 + 1,
    "triangle": lambda n: n * (n + 1) // 2,
}


@pytest.mark.parametrize("name", ROUNDED)
def test_quotients_once_every_remainder_was_seen(name):
    """With the sizes that the divisor asks for, as the exporter adds them."""
    f, points = ROUNDED[name], list(SEEN)
    for _ in range(3):
        solver = Solver(["n"], [(n,) for n in points])
        found = solver.expression(tuple(map(f, points)))
        points += [n for _, d in solver.divisors for n in range(5, 5 + 2 * d) if n not in points]
    for n in range(5, 300):
        assert value(found, n=n) == f(n), (found, n)


def test_several_dims_and_factors_that_are_quotients():
    rows = [random.Random(i).sample(SEEN, len(SEEN)) for i in range(3)]
    rows = [r + r[i:] + r[:i] for i, r in enumerate(rows)]
    points = list(dict.fromkeys(zip(*rows, strict=True)))
    wanted = [
        lambda a, b, c: a * b,
        lambda a, b, c: a * b * c,
        lambda a, b, c: a + 2 * b - c + 1,
        lambda a, b, c: (a + 1) * (b + 1),
        lambda a, b, c: (c - 3) // 2,
        lambda a, b, c: 4 * a * ((c - 3) // 2),
        lambda a, b, c: 2 * b * c - 3,
    ]
    solver = Solver(["a", "b", "c"], points)
    columns = [tuple(f(*p) for p in points) for f in wanted]
    solver.solve_all(columns)
    for f, column in zip(wanted, columns, strict=True):
        found = solver.expression(column)
        for a, b, c in [(1, 2, 3), (100, 7, 33), (31, 31, 31), (5, 1, 201)]:
            assert value(found, a=a, b=b, c=c) == f(a, b, c), found


def test_what_follows_no_rule_has_no_expression():
    solver = Solver(["n"], [(n,) for n in SEEN])
    for f in (lambda n: min(n, 10), lambda n: 2**n, lambda n: n ^ 5, lambda n: n * n % 13):
        assert solver.expression(tuple(map(f, SEEN))) is None
