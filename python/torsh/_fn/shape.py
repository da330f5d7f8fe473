"""Views, joins and other movements of elements."""

from __future__ import annotations

from torsh import _C

from ._args import ShapeError, Tensor, dim_arg, dims_arg, int_arg, number_arg, sizes_arg, tensor_arg


def reshape(input, *shape) -> Tensor:
    """The same elements in another shape; one size may be -1. A view whenever possible.

    >>> torsh.reshape(torsh.arange(6), (2, -1)).shape
    torsh.Size([2, 3])
    """
    x = tensor_arg(input, "reshape")
    sizes = sizes_arg(shape, "reshape", "shape", allow_minus_one=True)
    return _C.view("reshape", x, (_infer(x, sizes, "reshape"),))


def _infer(x: Tensor, sizes: list[int], fn: str) -> list[int]:
    n = x.numel()
    known, hole = 1, None
    for i, s in enumerate(sizes):
        if s == -1:
            if hole is not None:
                raise ShapeError(f"{fn}(): only one dimension can be inferred, got {sizes}")
            hole = i
        else:
            known *= s
    if hole is not None:
        if known == 0:
            if n == 0:
                raise ShapeError(f"{fn}(): cannot reshape tensor of 0 elements into shape {sizes}: -1 is ambiguous")
            known = 0
        if known == 0 or n % known:
            raise ShapeError(f"{fn}(): shape {sizes} is invalid for input of shape {list(x.shape)} ({n} elements)")
        sizes = [*sizes]
        sizes[hole] = n // known
    elif known != n:
        raise ShapeError(f"{fn}(): shape {sizes} is invalid for input of shape {list(x.shape)} ({n} elements)")
    return sizes


def view(input, *shape) -> Tensor:
    """`reshape` that always aliases its input; with a dtype, a bit cast to a dtype of the same size."""
    x = tensor_arg(input, "view")
    if len(shape) == 1 and isinstance(shape[0], (_C.PyDType, str)):
        return _C.apply("bitcast", (x,), (_C.PyDType(shape[0]),))
    sizes = _infer(x, sizes_arg(shape, "view", "shape", allow_minus_one=True), "view")
    if not _C.can_view(x, sizes):
        raise RuntimeError(
            f"view(): view size {sizes} is not compatible with input tensor's size {list(x.shape)} and stride "
            "(at least one dimension spans across two contiguous subspaces). Use .reshape(...) instead."
        )
    return _C.view("reshape", x, (sizes,))


def view_as(input, other) -> Tensor:
    """`input` in the shape of `other`."""
    return view(input, list(tensor_arg(other, "view_as", "other").shape))


def reshape_as(input, other) -> Tensor:
    """`input` in the shape of `other`."""
    return reshape(input, list(tensor_arg(other, "reshape_as", "other").shape))


def flatten(input, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Joins the dims from `start_dim` to `end_dim` into one."""
    x = tensor_arg(input, "flatten")
    a, b = dim_arg(start_dim, x.ndim, "flatten", "start_dim"), dim_arg(end_dim, x.ndim, "flatten", "end_dim")
    if a > b:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    if x.ndim == 0:
        return reshape(x, [1])
    n = 1
    for s in x.shape[a : b + 1]:
        n *= s
    return reshape(x, [*x.shape[:a], n, *x.shape[b + 1 :]])


def ravel(input) -> Tensor:
    """All elements in one dim."""
    x = tensor_arg(input, "ravel")
    return reshape(x, -1) if x.numel() else reshape(x, 0)


def unflatten(input, dim, sizes) -> Tensor:
    """Splits one dim into several; one size may be -1."""
    x = tensor_arg(input, "unflatten")
    d = dim_arg(dim, x.ndim, "unflatten")
    sizes = sizes_arg((list(sizes),), "unflatten", "sizes", allow_minus_one=True)
    if -1 in sizes:
        known = 1
        for s in sizes:
            known *= s if s != -1 else 1
        if known == 0 or x.shape[d] % known:
            raise ShapeError(f"unflatten(): sizes {sizes} don't multiply up to the size of dim {d} ({x.shape[d]})")
        sizes[sizes.index(-1)] = x.shape[d] // known
    return reshape(x, [*x.shape[:d], *sizes, *x.shape[d + 1 :]])


def permute(input, *dims) -> Tensor:
    """Reorders all dims.

    >>> torsh.permute(torsh.zeros(2, 3, 4), (2, 0, 1)).shape
    torsh.Size([4, 2, 3])
    """
    x = tensor_arg(input, "permute")
    if len(dims) == 1 and isinstance(dims[0], (list, tuple)):
        dims = dims[0]
    order = [dim_arg(d, x.ndim, "permute", "dims") for d in dims]
    if sorted(order) != list(range(x.ndim)):
        if len(order) != x.ndim:
            raise ShapeError(f"permute(): got {len(order)} dims for a tensor of {x.ndim} dims")
        raise RuntimeError(f"permute(): duplicate dims are not allowed in {tuple(dims)}")
    return _C.view("permute", x, (order,))


def transpose(input, dim0, dim1) -> Tensor:
    """Swaps two dims."""
    x = tensor_arg(input, "transpose")
    a, b = dim_arg(dim0, x.ndim, "transpose", "dim0"), dim_arg(dim1, x.ndim, "transpose", "dim1")
    order = list(range(x.ndim))
    if x.ndim:
        order[a], order[b] = order[b], order[a]
    return _C.view("permute", x, (order,))


swapaxes = swapdims = transpose


def t(input) -> Tensor:
    """Transpose of a tensor with at most two dims."""
    x = tensor_arg(input, "t")
    if x.ndim > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {x.ndim}D")
    return transpose(x, 0, 1) if x.ndim == 2 else x


def movedim(input, source, destination) -> Tensor:
    """Moves dims to new positions, the others keep their order."""
    x = tensor_arg(input, "movedim")
    src = [source] if not isinstance(source, (list, tuple)) else list(source)
    dst = [destination] if not isinstance(destination, (list, tuple)) else list(destination)
    if len(src) != len(dst):
        raise RuntimeError("movedim(): source and destination must have the same number of dims")
    src = [dim_arg(d, x.ndim, "movedim", "source") for d in src]
    dst = [dim_arg(d, x.ndim, "movedim", "destination") for d in dst]
    if len(set(src)) != len(src) or len(set(dst)) != len(dst):
        raise RuntimeError("movedim(): repeated dim")
    order = [-1] * x.ndim
    for s, d in zip(src, dst, strict=False):
        order[d] = s
    rest = iter(i for i in range(x.ndim) if i not in src)
    return _C.view("permute", x, ([next(rest) if o < 0 else o for o in order],))


moveaxis = movedim


def expand(input, *sizes) -> Tensor:
    """Repeats dims of size 1 without copying; -1 keeps a size; new dims may be added in front.

    >>> torsh.tensor([[1], [2]]).expand(2, 3).tolist()
    [[1, 1, 1], [2, 2, 2]]
    """
    x = tensor_arg(input, "expand")
    sizes = sizes_arg(sizes, "expand", "size", allow_minus_one=True)
    lead = len(sizes) - x.ndim
    if lead < 0:
        raise ShapeError(f"expand(): {sizes} has fewer dims than the tensor's shape {list(x.shape)}")
    own = [1] * lead + list(x.shape)
    for i, s in enumerate(sizes):
        if s == -1:
            if i < lead:
                raise ShapeError(f"expand(): -1 is not allowed in a leading, non-existing dimension {i}")
            sizes[i] = own[i]
        elif own[i] != s and own[i] != 1:
            raise ShapeError(
                f"expand(): the expanded size of the tensor ({s}) must match the existing size ({own[i]}) "
                f"at non-singleton dimension {i}. Target sizes: {sizes}. Tensor sizes: {list(x.shape)}"
            )
    if lead:
        x = _C.view("reshape", x, (own,))
    return _C.view("expand", x, (sizes,))


def broadcast_to(input, size) -> Tensor:
    """See `expand`."""
    return expand(input, list(size))


def expand_as(input, other) -> Tensor:
    """`input` expanded to the shape of `other`."""
    return expand(input, list(tensor_arg(other, "expand_as", "other").shape))


def broadcast_shapes(*shapes):
    """The shape that all given shapes broadcast to."""
    from torsh._size import Size

    out: list[int] = []
    for shape in shapes:
        shape = [shape] if isinstance(shape, int) else list(shape)
        n = max(len(out), len(shape))
        a, b = [1] * (n - len(out)) + out, [1] * (n - len(shape)) + shape
        for i, (p, q) in enumerate(zip(a, b, strict=False)):
            if p != q and p != 1 and q != 1:
                raise ShapeError(f"broadcast_shapes(): shapes {list(shapes)} do not broadcast at dimension {i}")
            a[i] = q if p == 1 else p
        out = a
    return Size(out)


def broadcast_tensors(*tensors):
    """All tensors expanded to their common shape."""
    size = list(broadcast_shapes(*(tensor_arg(t, "broadcast_tensors", "tensors").shape for t in tensors)))
    return tuple(expand(t, size) for t in tensors)


def squeeze(input, dim=None) -> Tensor:
    """Removes dims of size 1: all, or the named ones."""
    x = tensor_arg(input, "squeeze")
    dims = set(range(x.ndim)) if dim is None else set(dims_arg(dim, x.ndim, "squeeze"))
    return _C.view("reshape", x, ([s for i, s in enumerate(x.shape) if not (i in dims and s == 1)],))


def unsqueeze(input, dim) -> Tensor:
    """Inserts a dim of size 1.

    >>> torsh.unsqueeze(torsh.tensor([1, 2]), 1).shape
    torsh.Size([2, 1])
    """
    x = tensor_arg(input, "unsqueeze")
    d = dim_arg(dim, x.ndim + 1, "unsqueeze")
    return _C.view("reshape", x, ([*x.shape[:d], 1, *x.shape[d:]],))


def narrow(input, dim, start, length) -> Tensor:
    """The `length` entries from `start` on along `dim`, as a view."""
    x = tensor_arg(input, "narrow")
    if x.ndim == 0:
        raise RuntimeError("narrow() cannot be applied to a 0-dim tensor.")
    d = dim_arg(dim, x.ndim, "narrow")
    start, length = int_arg(start, "narrow", "start"), int_arg(length, "narrow", "length")
    n = x.shape[d]
    if length < 0:
        raise RuntimeError("narrow(): length must be non-negative.")
    if not -n <= start <= n:
        raise IndexError(f"narrow(): start out of range (expected to be in range of [{-n}, {n}], but got {start})")
    start = start + n if start < 0 else start
    if start + length > n:
        raise RuntimeError(f"narrow(): start ({start}) + length ({length}) exceeds dimension size ({n}).")
    return slice_dim(x, d, start, start + length)


def slice_dim(x: Tensor, d: int, start: int, stop: int, step: int = 1) -> Tensor:
    """A view of `start:stop:step` along `d`; the bounds are in range."""
    starts, stops, steps = [0] * x.ndim, list(x.shape), [1] * x.ndim
    starts[d], stops[d], steps[d] = start, stop, step
    return _C.view("slice", x, (starts, stops, steps))


def select(input, dim, index) -> Tensor:
    """The slice at one index along `dim`, without that dim."""
    x = tensor_arg(input, "select")
    if x.ndim == 0:
        raise IndexError("select() cannot be applied to a 0-dim tensor.")
    d = dim_arg(dim, x.ndim, "select")
    i, n = int_arg(index, "select", "index"), x.shape[d]
    if not -n <= i < n:
        raise IndexError(f"select(): index {i} out of range for tensor of size {list(x.shape)} at dimension {d}")
    i = i + n if i < 0 else i
    return _C.view("reshape", slice_dim(x, d, i, i + 1), ([*x.shape[:d], *x.shape[d + 1 :]],))


def _check_pieces(count: int, fn: str) -> None:
    limit = _C.limits()["max_nodes"]
    if count > limit:
        raise _C.LimitError(f"{fn}(): {count} pieces are more than the limit of {limit} nodes (torsh.limits.max_nodes)")


def split(tensor, split_size_or_sections, dim: int = 0):
    """Pieces of a given size (the last may be smaller), or of given sizes, as views.

    >>> [p.tolist() for p in torsh.split(torsh.arange(5), 2)]
    [[0, 1], [2, 3], [4]]
    """
    x = tensor_arg(tensor, "split", "tensor")
    if x.ndim == 0:
        raise RuntimeError("split expects at least a 1-dimensional tensor")
    d = dim_arg(dim, x.ndim, "split")
    n = x.shape[d]
    if isinstance(split_size_or_sections, (list, tuple)):
        sizes = [int_arg(s, "split", "split_sizes") for s in split_size_or_sections]
        if builtin_sum(sizes) != n or builtin_any(s < 0 for s in sizes):
            raise RuntimeError(
                f"split(): split_sizes must be non-negative and sum to {n} (input's size at dimension {d}), got {sizes}"
            )
    else:
        size = int_arg(split_size_or_sections, "split", "split_size")
        if size < 0 or (size == 0 and n):
            raise RuntimeError(f"split(): split_size must be positive, got {size}")
        _check_pieces(-(-n // size) if n else 1, "split")
        sizes = [builtin_min(size, n - i) for i in range(0, n, size)] if n else [0]
    out, at = [], 0
    for s in sizes:
        out.append(slice_dim(x, d, at, at + s))
        at += s
    return tuple(out)


def chunk(input, chunks, dim: int = 0):
    """At most `chunks` pieces of equal size (the last may be smaller)."""
    x = tensor_arg(input, "chunk")
    c = int_arg(chunks, "chunk", "chunks")
    if c <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {c}")
    if x.ndim == 0:
        raise RuntimeError("chunk expects at least a 1-dimensional tensor")
    n = x.shape[dim_arg(dim, x.ndim, "chunk")]
    if n == 0:
        _check_pieces(c, "chunk")
        return split(x, [0] * c, dim)
    return split(x, -(-n // c), dim)


def tensor_split(input, indices_or_sections, dim: int = 0):
    """Splits at indices, or into n pieces whose sizes differ by at most one."""
    x = tensor_arg(input, "tensor_split")
    d = dim_arg(dim, x.ndim, "tensor_split")
    n = x.shape[d] if x.ndim else 0
    if isinstance(indices_or_sections, (list, tuple)):
        cuts = [int_arg(i, "tensor_split", "indices") for i in indices_or_sections]
        cuts = [builtin_min(builtin_max(c + n if c < 0 else c, 0), n) for c in cuts]
    else:
        k = int_arg(indices_or_sections, "tensor_split", "sections")
        if k <= 0:
            raise RuntimeError(f"number of sections must be larger than 0, got {k}")
        _check_pieces(k, "tensor_split")
        q, r = divmod(n, k)
        cuts, at = [], 0
        for i in range(k - 1):
            at += q + (i < r)
            cuts.append(at)
    bounds = [0, *cuts, n]
    return tuple(slice_dim(x, d, a, builtin_max(a, b)) for a, b in zip(bounds, bounds[1:], strict=False))


def unbind(input, dim: int = 0):
    """The slices along `dim`, as views without that dim."""
    x = tensor_arg(input, "unbind")
    if x.ndim == 0:
        raise RuntimeError("unbind(): dimension specified as 0 but tensor has no dimensions")
    d = dim_arg(dim, x.ndim, "unbind")
    _check_pieces(x.shape[d], "unbind")
    return tuple(select(x, d, i) for i in range(x.shape[d]))


def _joined(tensors, fn: str) -> list[Tensor]:
    if isinstance(tensors, Tensor) or not hasattr(tensors, "__iter__"):
        raise TypeError(f"{fn}(): argument 'tensors' must be a tuple or list of Tensors, not {type(tensors).__name__}")
    ts = [tensor_arg(t, fn, f"tensors[{i}]") for i, t in enumerate(tensors)]
    if not ts:
        raise RuntimeError(f"{fn}(): expected a non-empty list of Tensors")
    dtype = _C.result_type(*ts)
    return [t if t.dtype == dtype else _C.cast(t, dtype) for t in ts]


def cat(tensors, dim: int = 0) -> Tensor:
    """Joins tensors along a dim; all other sizes must agree; dtypes promote.

    >>> torsh.cat([torsh.tensor([1]), torsh.tensor([2, 3])]).tolist()
    [1, 2, 3]
    """
    ts = _joined(tensors, "cat")
    # PyTorch skips 1-d empty tensors.
    kept = [t for t in ts if not (t.ndim == 1 and t.shape[0] == 0)] or ts[:1]
    rank = kept[0].ndim
    if rank == 0:
        raise RuntimeError("cat(): zero-dimensional tensor (at position 0) cannot be concatenated")
    d = dim_arg(dim, rank, "cat")
    for i, t in enumerate(kept):
        if t.ndim != rank or builtin_any(
            a != b for k, (a, b) in enumerate(zip(t.shape, kept[0].shape, strict=False)) if k != d
        ):
            raise ShapeError(
                f"cat(): sizes of tensors must match except in dimension {d}: tensor 0 has shape "
                f"{list(kept[0].shape)}, tensor {i} has shape {list(t.shape)}"
            )
    return _C.apply("concat", tuple(kept), (d,))


concat = concatenate = cat


def stack(tensors, dim: int = 0) -> Tensor:
    """Joins tensors of one shape along a new dim.

    >>> torsh.stack([torsh.tensor([1, 2]), torsh.tensor([3, 4])], dim=1).tolist()
    [[1, 3], [2, 4]]
    """
    ts = _joined(tensors, "stack")
    d = dim_arg(dim, ts[0].ndim + 1, "stack")
    for i, t in enumerate(ts):
        if t.shape != ts[0].shape:
            raise ShapeError(
                f"stack(): expects each tensor to be equal size, but got {list(ts[0].shape)} at entry 0 and "
                f"{list(t.shape)} at entry {i}"
            )
    return _C.apply("concat", tuple(unsqueeze(t, d) for t in ts), (d,))


def hstack(tensors) -> Tensor:
    """Joins along the second dim (the first of 1-d tensors)."""
    ts = [t if t.ndim else t.reshape(1) for t in _joined(tensors, "hstack")]
    return cat(ts, 0 if ts[0].ndim == 1 else 1)


def vstack(tensors) -> Tensor:
    """Joins along the first dim, 1-d tensors as rows."""
    return cat([t.reshape(1, -1) if t.ndim < 2 else t for t in _joined(tensors, "vstack")], 0)


def flip(input, *dims) -> Tensor:
    """Reverses the order along dims (a copy, as in PyTorch)."""
    x = tensor_arg(input, "flip")
    if len(dims) == 1 and isinstance(dims[0], (list, tuple)):
        dims = dims[0]
    order = [dim_arg(d, x.ndim, "flip", "dims") for d in dims]
    if len(set(order)) != len(order):
        raise RuntimeError(f"flip(): dim appears multiple times in the list of dims {tuple(dims)}")
    order = sorted(d for d in order if d < x.ndim)
    return _C.apply("flip", (x,), (order,)) if order else _C.clone(x)


def unfold(input, dimension: int, size: int, step: int) -> Tensor:
    """Every part of `size` elements along `dimension`, `step` apart, in a new last dim. A copy, not a view.

    >>> torsh.arange(5).unfold(0, 2, 2).tolist()
    [[0, 1], [2, 3]]
    """
    x = tensor_arg(input, "unfold")
    d, size = dim_arg(dimension, x.ndim, "unfold", "dimension"), int_arg(size, "unfold", "size")
    step = int_arg(step, "unfold", "step")
    if x.ndim == 0:
        x = x.reshape([1])
    if not 1 <= size <= x.shape[d]:
        raise RuntimeError(f"maximum size for tensor at dimension {d} is {x.shape[d]} but size is {size}")
    if step < 1:
        raise RuntimeError(f"step is {step} but must be > 0")
    return _C.apply("windows", (x,), ([d], [size], [step], [1]))


def fliplr(input) -> Tensor:
    """Reverses the second dim."""
    return flip(input, 1)


def flipud(input) -> Tensor:
    """Reverses the first dim."""
    return flip(input, 0)


def roll(input, shifts, dims=None) -> Tensor:
    """Rotates elements along dims (all elements, flattened, without dims)."""
    x = tensor_arg(input, "roll")
    shifts = [shifts] if isinstance(shifts, int) else list(shifts)
    if dims is None:
        if len(shifts) != 1:
            raise RuntimeError("roll(): shifts and dimensions must align")
        return roll(x.reshape(-1), shifts, [0]).reshape(list(x.shape))
    dims = [dims] if isinstance(dims, int) else list(dims)
    if len(dims) != len(shifts):
        raise RuntimeError(f"roll(): shifts and dimensions must align. shifts: {len(shifts)}, dims: {len(dims)}")
    for s, d in zip(shifts, dims, strict=False):
        d = dim_arg(d, x.ndim, "roll", "dims")
        n = x.shape[d] if x.ndim else 0
        s = int_arg(s, "roll", "shifts") % n if n else 0
        if s:
            x = cat([slice_dim(x, d, n - s, n), slice_dim(x, d, 0, n - s)], d)
    return x if builtin_any(True for _ in shifts) else _C.clone(x)


def repeat(input, *sizes) -> Tensor:
    """Tiles the tensor: size i of the result is `sizes[i] * shape[i]`.

    >>> torsh.tensor([1, 2]).repeat(2).tolist()
    [1, 2, 1, 2]
    """
    x = tensor_arg(input, "repeat")
    reps = sizes_arg(sizes, "repeat", "repeats")
    if len(reps) < x.ndim:
        raise RuntimeError(
            "repeat(): Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor"
        )
    own = [1] * (len(reps) - x.ndim) + list(x.shape)
    wide, big, out = [], [], []
    for r, s in zip(reps, own, strict=False):
        wide += [1, s]
        big += [r, s]
        out.append(r * s)
    return x.reshape(wide).expand(big).reshape(out)


def tile(input, *dims) -> Tensor:
    """`repeat` with missing leading repetitions taken as 1."""
    x = tensor_arg(input, "tile")
    reps = sizes_arg(dims, "tile", "dims")
    return repeat(x, [1] * builtin_max(0, x.ndim - len(reps)) + reps)


def repeat_interleave(input, repeats, dim=None) -> Tensor:
    """Repeats each element `repeats` times along `dim` (flattened without dim)."""
    x = tensor_arg(input, "repeat_interleave")
    r = int_arg(repeats, "repeat_interleave", "repeats")
    if r < 0:
        raise RuntimeError(f"repeat_interleave(): repeats must be non-negative, got {r}")
    if dim is None:
        x, dim = x.reshape(-1), 0
    d = dim_arg(dim, x.ndim, "repeat_interleave")
    shape = list(x.shape)
    y = x.reshape([*shape[: d + 1], 1, *shape[d + 1 :]]).expand([*shape[: d + 1], r, *shape[d + 1 :]])
    return y.reshape([*shape[:d], shape[d] * r, *shape[d + 1 :]])


def pad(input, pad, mode: str = "constant", value=None) -> Tensor:
    """Pads with a constant, or with what the input has: mode "reflect" mirrors it without its border, "replicate"
    repeats the border, "circular" goes on at the other end. `pad` lists (low, high) from the last dim on; negative
    entries crop. All modes but "constant" pad the last 1 to 3 dims, behind one dim or two.

    Raises: ShapeError where an input is too small for the mode.

    >>> torsh.nn.functional.pad(torsh.tensor([1, 2]), (1, 0)).tolist()
    [0, 1, 2]
    >>> torsh.nn.functional.pad(torsh.tensor([[1, 2, 3]]), (2, 1), mode="reflect").tolist()
    [[3, 2, 1, 2, 3, 2]]
    """
    x = tensor_arg(input, "pad")
    pads = [int_arg(p, "pad", "pad") for p in pad]
    if len(pads) % 2 or len(pads) > 2 * x.ndim:
        raise ShapeError(f"pad(): pad must hold an even number of sizes, at most {2 * x.ndim}, got {pads}")
    if mode != "constant":
        return _pad_with_own(x, pads, mode, value)
    lo, hi = [0] * x.ndim, [0] * x.ndim
    for i in range(len(pads) // 2):
        d = x.ndim - 1 - i
        lo[d], hi[d] = pads[2 * i], pads[2 * i + 1]
    for d in range(x.ndim):
        n = x.shape[d]
        start, stop = builtin_max(0, -lo[d]), n - builtin_max(0, -hi[d])
        if start > stop or n + lo[d] + hi[d] < 0:
            raise ShapeError(f"pad(): padding ({lo[d]}, {hi[d]}) leaves a negative size at dimension {d} of size {n}")
        if (start, stop) != (0, n):
            x = slice_dim(x, d, start, stop)
    lo, hi = [builtin_max(0, v) for v in lo], [builtin_max(0, v) for v in hi]
    if value is not None and not x.dtype.is_floating_point:
        # Refuses a value that the dtype does not hold.
        _C.full([], number_arg(value, "pad", "value"), x.dtype, x.device)
    return _C.apply("pad", (x,), (lo, hi, 0 if value is None else value))


def _pad_with_own(x: Tensor, pads: list[int], mode: str, value) -> Tensor:
    if mode not in ("reflect", "replicate", "circular"):
        raise NotImplementedError(f"Unrecognised padding mode {mode}")
    if value is not None:
        raise RuntimeError(f'Padding mode "{mode}" doesn\'t take in value argument')
    n = len(pads) // 2
    if n not in (1, 2, 3) or x.ndim - n not in (1, 2):
        raise NotImplementedError(
            f"Padding size {len(pads)} is not supported for {x.ndim}D input tensor. Supported combinations for "
            "non-constant padding: 2D or 3D input: padding size = 2, 3D or 4D input: padding size = 4, 4D or 5D input: "
            "padding size = 6"
        )
    if 0 in x.shape[x.ndim - n :]:
        raise ShapeError(f"pad(): expected non-empty dims to pad, but got input of size {list(x.shape)}")
    for i in range(n):
        x = _pad_dim(x, x.ndim - 1 - i, pads[2 * i], pads[2 * i + 1], mode)
    return x


def _pad_dim(x: Tensor, d: int, lo: int, hi: int, mode: str) -> Tensor:
    n = x.shape[d]
    if n + lo + hi < 1 or -lo >= n or -hi >= n:
        raise ShapeError(f"pad(): padding ({lo}, {hi}) leaves nothing of dimension {d} of size {n}")
    if mode == "circular":
        # Cropped first: what is left goes round.
        x = slice_dim(x, d, builtin_max(0, -lo), n - builtin_max(0, -hi))
        lo, hi, n = builtin_max(0, lo), builtin_max(0, hi), x.shape[d]
        if lo > n or hi > n:
            raise ShapeError("Padding value causes wrapping around more than once.")
        low, high = slice_dim(x, d, n - lo, n), slice_dim(x, d, 0, hi)
    elif mode == "reflect":
        if lo >= n or hi >= n:
            raise ShapeError(
                f"Padding size should be less than the corresponding input dimension, but got: padding ({lo}, {hi}) at "
                f"dimension {d} of input {list(x.shape)}"
            )
        low = flip(slice_dim(x, d, 1, 1 + builtin_max(0, lo)), d)
        high = flip(slice_dim(x, d, n - 1 - builtin_max(0, hi), n - 1), d)
    else:
        size = [*x.shape]
        low, high = (
            slice_dim(x, d, at, at + 1).expand([*size[:d], builtin_max(0, p), *size[d + 1 :]])
            for at, p in ((0, lo), (n - 1, hi))
        )
    parts = [p for p in (low, x, high) if p.shape[d]]
    y = cat(parts, d) if len(parts) > 1 else x
    return slice_dim(y, d, builtin_max(0, -lo), y.shape[d] - builtin_max(0, -hi)) if lo < 0 or hi < 0 else y


def atleast_1d(input) -> Tensor:
    """0-d tensors as 1-d."""
    x = tensor_arg(input, "atleast_1d")
    return x.reshape(1) if x.ndim == 0 else x


def atleast_2d(input) -> Tensor:
    """Tensors of fewer than two dims as one row."""
    x = tensor_arg(input, "atleast_2d")
    return x.reshape(1, -1) if x.ndim < 2 else x


def numel(input) -> int:
    """Element count."""
    return tensor_arg(input, "numel").numel()


def is_tensor(obj) -> bool:
    """Whether `obj` is a torsh tensor."""
    return isinstance(obj, Tensor)


def diagonal(input, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal of two dims as a new last dim (a copy)."""
    x = tensor_arg(input, "diagonal")
    a, b = dim_arg(dim1, x.ndim, "diagonal", "dim1"), dim_arg(dim2, x.ndim, "diagonal", "dim2")
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    x = movedim(x, (a, b), (-2, -1))
    n, m = x.shape[-2], x.shape[-1]
    k = int_arg(offset, "diagonal", "offset")
    length = builtin_max(0, builtin_min(n + builtin_min(k, 0), m - builtin_max(k, 0)))
    start = k if k >= 0 else -k * m
    flat = x.reshape([*x.shape[:-2], n * m])
    index = _C.apply("iota", (), (0, _C.int64, [length]), x.device) * (m + 1) + (start if length else 0)
    return _C.apply("take", (flat, index), (flat.ndim - 1,))


def diag(input, diagonal: int = 0) -> Tensor:
    """A vector as a diagonal matrix, or the diagonal of a matrix."""
    x = tensor_arg(input, "diag")
    k = int_arg(diagonal, "diag", "diagonal")
    if x.ndim == 2:
        return globals()["diagonal"](x, k)
    if x.ndim != 1:
        raise RuntimeError(f"diag(): Supports 1D or 2D tensors. Got {x.ndim}D")
    n = x.shape[0] + abs(k)
    i, j = (_C.apply("iota", (), (d, _C.int64, [n, n]), x.device) for d in (0, 1))
    padded = pad(x, (k, 0) if k >= 0 else (0, -k))
    return _C.where(j - i == k, padded.reshape(1, n).expand(n, n), _C.cast(i * 0, x.dtype))


def diag_embed(input, offset: int = 0) -> Tensor:
    """Each row of the last dim as a diagonal matrix."""
    x = tensor_arg(input, "diag_embed")
    if x.ndim == 1:
        return diag(x, offset)
    rows = [diag(r, offset) for r in unbind(x.reshape(-1, x.shape[-1]))]
    m = x.shape[-1] + abs(offset)
    return stack(rows).reshape([*x.shape[:-1], m, m])


import builtins as _b  # noqa: E402  (the names of this module shadow none of these, but reduce's would)

builtin_sum, builtin_any, builtin_min, builtin_max = _b.sum, _b.any, _b.min, _b.max
