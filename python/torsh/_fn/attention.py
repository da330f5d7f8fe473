"""Attention: the checks and broadcasting around the op `scaled_dot_product_attention`."""

from __future__ import annotations

import math

from torsh import _C

from . import random as _random
from ._args import DTypeError, ShapeError, Tensor, is_float, number_arg, tensor_arg

_NAME = "scaled_dot_product_attention"


def _batch(*shapes) -> list[int]:
    """The broadcast batch shape; a RuntimeError names the sizes that do not fit."""
    out: list[int] = []
    rank = max(len(s) for s in shapes)
    for d in range(rank):
        size = 1
        for s in shapes:
            n = s[d - rank + len(s)] if d - rank + len(s) >= 0 else 1
            if n != 1 and size != 1 and n != size:
                raise ShapeError(
                    f"The size of tensor a ({size}) must match the size of tensor b ({n}) at non-singleton "
                    f"dimension {d}"
                )
            size = n if size == 1 else size
        out.append(size)
    return out


def _to_float_mask(mask: Tensor, query: Tensor) -> Tensor:
    if mask.dtype == _C.bool or mask.dtype == query.dtype:
        return mask
    if mask.dtype == _C.float32:
        return _C.cast(mask, query.dtype)
    raise DTypeError(
        "Expected attn_mask dtype to be bool or float or to match query dtype, but got attn_mask.dtype: "
        f"{mask.dtype.name} and  query.dtype: {query.dtype.name} instead."
    )


def _repeat_heads(x: Tensor, heads: int, name: str) -> Tensor:
    """Each head of `x` as often as queries share it (a view)."""
    shape = list(x.shape)
    own = shape[-3]
    if own == heads:
        return x
    if own == 0 or heads % own:
        raise ShapeError("Number of heads in key and value must divide the number of heads in query")
    shape.insert(-2, heads // own)
    return x.unsqueeze(-3).expand(shape).reshape([*shape[:-4], heads, *shape[-2:]])


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p: float = 0.0, is_causal: bool = False, scale=None,
    enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """`dropout(softmax(query @ key.T * scale + attn_mask)) @ value` (Vaswani et al., 2017).

    Shapes: query [.., L, D], key [.., S, D], value [.., S, W], attn_mask broadcastable to [.., L, S]; the result is
    [.., L, W]. A bool mask says which keys take part, a float mask is added to the scores; a query without any key
    gives 0. With `is_causal`, query i sees keys 0 to i. `scale` is 1 / sqrt(D) unless given. With `enable_gqa`, heads
    (the third dim from the end) of key and value are shared by groups of heads of the query.

    Scores of 64 x 64 or more a head are computed block by block and never held in memory as a whole (float64, and
    the gradient of a float mask, excepted).

    >>> q = torsh.zeros(1, 2, 4)
    >>> torsh.nn.functional.scaled_dot_product_attention(q, q, torsh.ones(1, 2, 3)).tolist()
    [[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]]
    """
    q, k, v = (tensor_arg(x, _NAME, n) for x, n in ((query, "query"), (key, "key"), (value, "value")))
    p = float(number_arg(dropout_p, _NAME, "dropout_p"))
    if q.ndim < 2 or k.ndim < 2 or v.ndim < 2:
        raise ShapeError(
            "Expected query, key, and value to all be  at least 2 dimensional, but got query.dim: "
            f"{q.ndim} key.dim: {k.ndim} and value.dim: {v.ndim} instead."
        )
    if q.dtype != k.dtype or q.dtype != v.dtype:
        raise DTypeError(
            "Expected query, key, and value to have the same dtype, but got query.dtype: "
            f"{q.dtype.name} key.dtype: {k.dtype.name} and value.dtype: {v.dtype.name} instead."
        )
    if not is_float(q):
        raise DTypeError(f"{_NAME}(): expected a floating point dtype, got {q.dtype.name}")
    if not 0.0 <= p <= 1.0:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {p}")
    if attn_mask is not None and is_causal:
        raise RuntimeError("_scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True")
    (rows, depth), keys = q.shape[-2:], k.shape[-2]
    if k.shape[-1] != depth:
        raise ShapeError(f"{_NAME}(): query has {depth} columns, key has {k.shape[-1]}")
    if v.shape[-2] != keys:
        raise ShapeError(f"{_NAME}(): key has {keys} rows, value has {v.shape[-2]}")
    if enable_gqa:
        if min(q.ndim, k.ndim, v.ndim) < 3:
            raise ShapeError(f"{_NAME}(): enable_gqa needs a dim of heads in query, key and value")
        k, v = (_repeat_heads(x, q.shape[-3], n) for x, n in ((k, "key"), (v, "value")))
    batch = _batch(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    operands = [q, k, v]
    if attn_mask is not None:
        mask = _to_float_mask(tensor_arg(attn_mask, _NAME, "attn_mask"), q)
        mask_shape = list(mask.shape)
        mask_shape = [1] * (2 - len(mask_shape)) + mask_shape
        for got, want, dim in zip(mask_shape[-2:], (rows, keys), (-2, -1), strict=False):
            if got not in (1, want):
                raise ShapeError(
                    f"The size of tensor a ({want}) must match the size of tensor b ({got}) at non-singleton "
                    f"dimension {len(batch) + 2 + dim}"
                )
        batch = _batch(batch, mask_shape[:-2])
        operands.append(mask.expand([*batch, rows, keys]))
    operands[:3] = [x.expand([*batch, *x.shape[-2:]]) for x in operands[:3]]
    if p > 0.0:
        state = _random.generator_of(q.device)._state
        operands.append(_C.clone(state))
    factor = 1.0 / math.sqrt(depth) if scale is None and depth else 1.0 if scale is None else scale
    factor = float(number_arg(factor, _NAME, "scale"))
    out = _C.apply(_NAME, tuple(operands), (factor, bool(is_causal), p, attn_mask is not None, True))
    if p > 0.0:
        drawn = math.prod(batch) * rows * keys
        _C.assign(state, state + _C.tensor([0, drawn], _C.int64, q.device, False))
    return out
