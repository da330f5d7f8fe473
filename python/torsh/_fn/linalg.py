"""Products of matrices and vectors."""

from __future__ import annotations

from torsh import _C

from ._args import ShapeError, Tensor, rounded_once, tensor_arg


def matmul(input, other) -> Tensor:
    """Matrix product with broadcast batches; 1-d operands are vectors.

    >>> torsh.matmul(torsh.ones(2, 3), torsh.ones(3)).tolist()
    [3.0, 3.0]
    """
    return _C.matmul(tensor_arg(input, "matmul"), tensor_arg(other, "matmul", "other"))


def _ranked(fn: str, a, b, ra: int, rb: int) -> Tensor:
    a, b = tensor_arg(a, fn), tensor_arg(b, fn, "mat2")
    if a.ndim != ra or b.ndim != rb:
        raise ShapeError(f"{fn}(): expected {ra}-d and {rb}-d tensors, got shapes {list(a.shape)} and {list(b.shape)}")
    return _C.matmul(a, b)


def mm(input, mat2) -> Tensor:
    """Product of two matrices."""
    return _ranked("mm", input, mat2, 2, 2)


def bmm(input, mat2) -> Tensor:
    """Products of two batches of matrices of the same batch size."""
    a, b = tensor_arg(input, "bmm"), tensor_arg(mat2, "bmm", "mat2")
    if a.ndim == 3 and b.ndim == 3 and a.shape[0] != b.shape[0]:
        raise ShapeError(f"bmm(): batch sizes differ: {list(a.shape)} and {list(b.shape)}")
    return _ranked("bmm", a, b, 3, 3)


def mv(input, vec) -> Tensor:
    """Product of a matrix and a vector."""
    return _ranked("mv", input, vec, 2, 1)


def dot(input, other) -> Tensor:
    """Inner product of two vectors."""
    return _ranked("dot", input, other, 1, 1)


inner_dot = dot


def outer(input, vec2) -> Tensor:
    """Outer product of two vectors."""
    a, b = tensor_arg(input, "outer"), tensor_arg(vec2, "outer", "vec2")
    if a.ndim != 1 or b.ndim != 1:
        raise ShapeError(f"outer(): expected 1-d tensors, got shapes {list(a.shape)} and {list(b.shape)}")
    return a.reshape(-1, 1) * b.reshape(1, -1)


def _scaled(x: Tensor, c) -> Tensor:
    return x if c == 1 else x * c


def _plus(fn: str, input, product: Tensor, beta, alpha) -> Tensor:
    # A product of 16-bit floats is rounded once; scales and the sum are not rounded in between.
    if beta == 0:
        return rounded_once(lambda p: _scaled(p, alpha), product)
    x = tensor_arg(input, fn)
    return rounded_once(lambda x, p: _scaled(x, beta) + _scaled(p, alpha), x, product)


def addmm(input, mat1, mat2, *, beta=1, alpha=1) -> Tensor:
    """`beta * input + alpha * mat1 @ mat2`."""
    return _plus("addmm", input, mm(mat1, mat2), beta, alpha)


def addmv(input, mat, vec, *, beta=1, alpha=1) -> Tensor:
    """`beta * input + alpha * mat @ vec`."""
    return _plus("addmv", input, mv(mat, vec), beta, alpha)


def baddbmm(input, batch1, batch2, *, beta=1, alpha=1) -> Tensor:
    """`beta * input + alpha * batch1 @ batch2`."""
    return _plus("baddbmm", input, bmm(batch1, batch2), beta, alpha)


def trace(input) -> Tensor:
    """Sum of the diagonal."""
    from .reduce import sum
    from .shape import diagonal

    x = tensor_arg(input, "trace")
    if x.ndim != 2:
        raise ShapeError(f"trace(): expected a matrix, but got tensor with dim {x.ndim}")
    return sum(diagonal(x))


def einsum(equation, *operands) -> Tensor:
    """Sums of products named by letters, as in NumPy; operands are contracted from left to right.

    >>> torsh.einsum("ij,jk->ik", torsh.ones(2, 3), torsh.ones(3, 2)).tolist()
    [[3.0, 3.0], [3.0, 3.0]]
    """
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    if not isinstance(equation, str):
        raise TypeError(f"einsum(): argument 'equation' must be str, not {type(equation).__name__}")
    eq = equation.replace(" ", "")
    left, arrow, right = eq.partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        raise ValueError(f"einsum(): {len(terms)} terms in {equation!r} but {len(operands)} operands")
    ops = [tensor_arg(o, "einsum", "operands") for o in operands]
    terms, sizes = _einsum_letters(terms, ops, equation)
    if not arrow:
        joined = "".join(terms)
        right = "".join(c for c in joined if c < "A") + "".join(
            sorted(c for c in set(joined) if c >= "A" and joined.count(c) == 1)
        )
        right = "".join(dict.fromkeys(right))
    else:
        batch = sorted({c for t in terms for c in t if c < "A"})
        right = right.replace("...", "".join(batch))
    for c in right:
        if c not in sizes or right.count(c) > 1:
            raise ValueError(
                f"einsum(): output subscript {c!r} of {equation!r} does not appear once in the inputs and output"
            )
    while len(ops) > 1:
        rest = set(right).union(*terms[2:]) if len(terms) > 2 else set(right)
        t, o = _einsum_pair(terms[0], ops[0], terms[1], ops[1], rest)
        terms, ops = [t, *terms[2:]], [o, *ops[2:]]
    term, x = _einsum_sum(terms[0], ops[0], set(right))
    return x.permute([term.index(c) for c in right]) if right else x


def _einsum_letters(terms, ops, equation):
    # Digits stand for the dims under an ellipsis, aligned on the right.
    sizes: dict[str, int] = {}
    out = []
    for k, (term, x) in enumerate(zip(terms, ops, strict=False)):
        if "..." in term:
            n = x.ndim - (len(term) - 3)
            if n < 0 or n > 10:
                raise ValueError(f"einsum(): term {term!r} of {equation!r} does not fit shape {list(x.shape)}")
            term = term.replace("...", "".join(str(9 - i) for i in range(n))[::-1])
        if len(term) != x.ndim or not all(c.isalnum() for c in term):
            raise ValueError(f"einsum(): term {term!r} of {equation!r} does not fit shape {list(x.shape)}")
        for c in sorted(set(term)):
            while term.count(c) > 1:
                i = term.index(c)
                j = term.index(c, i + 1)
                from .shape import diagonal

                x = diagonal(x, 0, i, j)
                term = term[:i] + term[i + 1 : j] + term[j + 1 :] + c
        for c, s in zip(term, x.shape, strict=False):
            if sizes.get(c, 1) not in (1, s) and s != 1:
                raise ShapeError(f"einsum(): size of {c!r} is {s} in operand {k} but {sizes[c]} before")
            sizes[c] = max(sizes.get(c, 1), s) if s else 0
        ops[k] = x
        out.append(term)
    for k, term in enumerate(out):
        want = [sizes[c] for c in term]
        if list(ops[k].shape) != want:
            ops[k] = ops[k].expand(want)
    return out, sizes


def _einsum_sum(term, x, keep):
    dims = [i for i, c in enumerate(term) if c not in keep]
    if not dims:
        return term, x
    return "".join(c for c in term if c in keep), x.sum(dims)


def _einsum_pair(ta, a, tb, b, keep):
    ta, a = _einsum_sum(ta, a, keep | set(tb))
    tb, b = _einsum_sum(tb, b, keep | set(ta))
    both = [c for c in ta if c in tb]
    batch, contract = [c for c in both if c in keep], [c for c in both if c not in keep]
    fa, fb = [c for c in ta if c not in tb], [c for c in tb if c not in ta]
    dtype = _C.result_type(a, b)
    attrs = (
        [ta.index(c) for c in batch],
        [tb.index(c) for c in batch],
        [ta.index(c) for c in contract],
        [tb.index(c) for c in contract],
    )
    return "".join(batch + fa + fb), _C.apply("dot_general", (_C.cast(a, dtype), _C.cast(b, dtype)), attrs)


def tensordot(a, b, dims=2) -> Tensor:
    """Contracts the last dims of `a` with the first of `b`, or the two lists of dims given."""
    a, b = tensor_arg(a, "tensordot", "a"), tensor_arg(b, "tensordot", "b")
    if isinstance(dims, int):
        if dims < 0 or dims > min(a.ndim, b.ndim):
            raise RuntimeError(f"tensordot(): expects dims >= 0 and at most {min(a.ndim, b.ndim)}, got {dims}")
        da, db = list(range(a.ndim - dims, a.ndim)), list(range(dims))
    else:
        da, db = ([d] if isinstance(d, int) else list(d) for d in dims)
        da, db = [d % a.ndim for d in da], [d % b.ndim for d in db]
    if len(da) != len(db) or any(a.shape[i] != b.shape[j] for i, j in zip(da, db, strict=False)):
        raise ShapeError(
            f"tensordot(): contracted dims {da} of {list(a.shape)} and {db} of {list(b.shape)} do not match"
        )
    dtype = _C.result_type(a, b)
    return _C.apply("dot_general", (_C.cast(a, dtype), _C.cast(b, dtype)), ([], [], da, db))
