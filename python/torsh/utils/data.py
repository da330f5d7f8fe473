"""Data sets and batches, as in `torch.utils.data`, in this process.

>>> xs, ys = torsh.arange(6), torsh.arange(6) * 10
>>> loader = torsh.utils.data.DataLoader(torsh.utils.data.TensorDataset(xs, ys), batch_size=4)
>>> [(x.tolist(), y.tolist()) for x, y in loader]
[([0, 1, 2, 3], [0, 10, 20, 30]), ([4, 5], [40, 50])]
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice
from typing import Any

from torsh import _C
from torsh._fn._args import ShapeError, int_arg, tensor_arg
from torsh._fn.random import randint, randperm
from torsh._fn.shape import stack

__all__ = [
    "BatchSampler", "ConcatDataset", "DataLoader", "Dataset", "IterableDataset", "RandomSampler", "Sampler",
    "SequentialSampler", "Subset", "TensorDataset", "default_collate", "random_split",
]  # fmt: skip

Tensor = _C.Tensor


class Dataset:
    """Samples by index: subclasses define `__getitem__` and `__len__`."""

    def __getitem__(self, index):
        raise NotImplementedError("Subclasses of Dataset should implement __getitem__.")

    def __add__(self, other) -> ConcatDataset:
        return ConcatDataset([self, other])


class IterableDataset(Dataset):
    """Samples in the order of `__iter__`, of which there may be any number."""

    def __iter__(self) -> Iterator:
        raise NotImplementedError("Subclasses of IterableDataset should implement __iter__.")


class TensorDataset(Dataset):
    """Sample i is the tuple of row i of each tensor.

    Raises: ShapeError when the tensors' first sizes differ.
    """

    def __init__(self, *tensors: Tensor):
        for i, t in enumerate(tensors):
            if tensor_arg(t, "TensorDataset", f"tensors[{i}]").ndim == 0 or t.shape[0] != tensors[0].shape[0]:
                raise ShapeError(f"TensorDataset(): size mismatch between tensors: {[list(t.shape) for t in tensors]}")
        if not tensors:
            raise TypeError("TensorDataset(): expected at least one tensor")
        self.tensors = tensors

    def __getitem__(self, index):
        return tuple(t[index] for t in self.tensors)

    def __len__(self) -> int:
        return self.tensors[0].shape[0]


class Subset(Dataset):
    """The samples of `dataset` at the given indices."""

    def __init__(self, dataset, indices: Sequence[int]):
        self.dataset, self.indices = dataset, indices

    def __getitem__(self, index):
        if isinstance(index, list):
            return self.dataset[[self.indices[i] for i in index]]
        return self.dataset[self.indices[index]]

    def __len__(self) -> int:
        return len(self.indices)


class ConcatDataset(Dataset):
    """Several data sets one after another."""

    def __init__(self, datasets: Iterable):
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("datasets should not be an empty iterable")
        if any(isinstance(d, IterableDataset) for d in self.datasets):
            raise TypeError("ConcatDataset does not support IterableDataset")
        self.cumulative_sizes = list(accumulate(len(d) for d in self.datasets))

    def __getitem__(self, index):
        i = int_arg(index, "ConcatDataset", "index")
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"ConcatDataset: index {i} is out of range for {n} samples")
        i %= n
        k = bisect_right(self.cumulative_sizes, i)
        return self.datasets[k][i - (self.cumulative_sizes[k - 1] if k else 0)]

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]


def _device(generator):
    return "cpu" if generator is None else generator.device


def random_split(dataset, lengths: Sequence, generator=None) -> list[Subset]:
    """Disjoint random subsets of the given lengths, which sum to the size of the data set, or fractions, which sum to 1
    (what is left over by rounding goes to the first ones, one each).

    >>> [len(s) for s in torsh.utils.data.random_split(range(10), [0.75, 0.25])]
    [8, 2]
    """
    n = len(dataset)
    lengths = list(lengths)
    if any(isinstance(v, float) for v in lengths) and abs(sum(lengths) - 1.0) < 1e-6:
        if any(not 0 <= v <= 1 for v in lengths):
            raise ValueError(f"random_split(): fractions must lie between 0 and 1, got {lengths}")
        sizes = [int(n * v) for v in lengths]
        for i in range(n - sum(sizes)):
            sizes[i % len(sizes)] += 1
        lengths = sizes
    lengths = [int_arg(v, "random_split", "lengths") for v in lengths]
    if sum(lengths) != n or any(v < 0 for v in lengths):
        raise ValueError(
            f"Sum of input lengths does not equal the length of the input dataset: {lengths} for {n} samples"
        )
    order = randperm(n, generator=generator, device=_device(generator)).tolist()
    ends = list(accumulate(lengths))
    return [Subset(dataset, order[e - k : e]) for e, k in zip(ends, lengths, strict=True)]


class Sampler:
    """An order of indices: subclasses define `__iter__` and, where it is known, `__len__`."""

    def __iter__(self) -> Iterator:
        raise NotImplementedError("Subclasses of Sampler should implement __iter__.")


class SequentialSampler(Sampler):
    """0, 1, 2, .. of a data set."""

    def __init__(self, data_source):
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler):
    """A new random order at each pass, or `num_samples` draws with replacement."""

    def __init__(self, data_source, replacement: bool = False, num_samples: int | None = None, generator=None):
        self.data_source, self.replacement, self.generator = data_source, replacement, generator
        self.num_samples = (
            len(data_source) if num_samples is None else int_arg(num_samples, "RandomSampler", "num_samples")
        )
        if self.num_samples < 0 or (self.num_samples and not len(data_source)):
            raise ValueError(f"RandomSampler: cannot draw {self.num_samples} samples out of {len(data_source)}")

    def __iter__(self) -> Iterator[int]:
        n, k = len(self.data_source), self.num_samples
        if self.replacement:
            yield from (
                randint(0, n, (k,), generator=self.generator, device=_device(self.generator)).tolist() if k else ()
            )
            return
        while k > 0:
            yield from islice(randperm(n, generator=self.generator, device=_device(self.generator)).tolist(), k)
            k -= n

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler):
    """Lists of `batch_size` indices; the last may be shorter, unless `drop_last`."""

    def __init__(self, sampler, batch_size: int, drop_last: bool = False):
        self.sampler, self.batch_size, self.drop_last = (
            sampler,
            int_arg(batch_size, "BatchSampler", "batch_size"),
            drop_last,
        )
        if self.batch_size <= 0:
            raise ValueError(f"batch_size should be a positive integer value, but got batch_size={batch_size}")

    def __iter__(self) -> Iterator[list[int]]:
        return _batches(iter(self.sampler), self.batch_size, self.drop_last)

    def __len__(self) -> int:
        n = len(self.sampler)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)


def _batches(items: Iterator, size: int, drop_last: bool) -> Iterator[list]:
    while batch := list(islice(items, size)):
        if len(batch) < size and drop_last:
            return
        yield batch


def default_collate(batch: Sequence) -> Any:
    """One batch of a list of samples: tensors and arrays are stacked, numbers become a tensor, strings stay a list,
    dicts, tuples and lists are collated entry by entry.

    >>> torsh.utils.data.default_collate([{"a": 1}, {"a": 2}])["a"].tolist()
    [1, 2]
    """
    first = batch[0]
    if isinstance(first, Tensor):
        return stack(batch)
    if isinstance(first, (bool, int, float)):
        return _C.tensor(list(batch), _C.float64 if isinstance(first, float) else None, None, False)
    if type(first).__module__ == "numpy":
        return stack([_C.tensor(v, None, None, False) for v in batch])
    if isinstance(first, (str, bytes)):
        return list(batch)
    if isinstance(first, Mapping):
        return {key: default_collate([sample[key] for sample in batch]) for key in first}
    if isinstance(first, (tuple, list)):
        if any(len(sample) != len(first) for sample in batch):
            raise RuntimeError("each element in list of batch should be of equal size")
        columns = [default_collate(column) for column in zip(*batch, strict=True)]
        return type(first)(*columns) if hasattr(first, "_fields") else columns
    raise TypeError(
        "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; found "
        f"{type(first).__name__}"
    )


class DataLoader:
    """Iterates over a data set in batches.

    `shuffle` draws a new order at each pass from `generator` (the default generator without one). `sampler` gives the
    order of indices, `batch_sampler` whole lists of them. `batch_size=None` gives single samples. Loading happens in
    this process: `num_workers` can only be 0.
    """

    def __init__(
        self, dataset, batch_size: int | None = 1, shuffle: bool | None = None, sampler=None, batch_sampler=None,
        num_workers: int = 0, collate_fn: Callable | None = None, pin_memory: bool = False, drop_last: bool = False, *,
        generator=None,
    ):  # fmt: skip
        if num_workers != 0:
            raise ValueError(
                f"DataLoader: batches are loaded in this process, num_workers can only be 0, got {num_workers}"
            )
        self.dataset, self.drop_last, self.generator = dataset, bool(drop_last), generator
        self._iterable = isinstance(dataset, IterableDataset)
        if self._iterable and (shuffle or sampler is not None or batch_sampler is not None):
            raise ValueError("DataLoader with IterableDataset: expected neither shuffle nor a sampler")
        if sampler is not None and shuffle:
            raise ValueError("sampler option is mutually exclusive with shuffle")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and drop_last"
                )
            batch_size = None
        elif batch_size is None:
            if drop_last:
                raise ValueError(
                    "batch_size=None option disables auto-batching and is mutually exclusive with drop_last"
                )
        elif int_arg(batch_size, "DataLoader", "batch_size") <= 0:
            raise ValueError(f"batch_size should be a positive integer value, but got batch_size={batch_size}")
        self.batch_size = batch_size
        if sampler is None and not self._iterable:
            sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
        self.sampler = sampler
        if batch_sampler is None and batch_size is not None and not self._iterable:
            batch_sampler = BatchSampler(sampler, batch_size, self.drop_last)
        self.batch_sampler = batch_sampler
        self.collate_fn = default_collate if collate_fn is None else collate_fn

    def __iter__(self) -> Iterator:
        if self._iterable:
            if self.batch_size is None:
                return iter(self.dataset)
            batches = _batches(iter(self.dataset), self.batch_size, self.drop_last)
            return (self.collate_fn(batch) for batch in batches)
        if self.batch_sampler is None:
            return (self.dataset[i] for i in self.sampler)
        return (self._fetch(indices) for indices in self.batch_sampler)

    def _fetch(self, indices: list[int]):
        if self.collate_fn is default_collate and indices:
            source, rows = self.dataset, indices
            while type(source) is Subset:
                source, rows = source.dataset, [source.indices[i] for i in rows]
            if type(source) is TensorDataset:
                # One gather for the batch instead of one slice for each sample.
                index = _C.tensor(rows, _C.int64, "cpu", False)
                return [t[index] for t in source.tensors]
        return self.collate_fn([self.dataset[i] for i in indices])

    def __len__(self) -> int:
        if self._iterable:
            n = len(self.dataset)  # type: ignore[arg-type]
            if self.batch_size is None:
                return n
            return n // self.batch_size if self.drop_last else -(-n // self.batch_size)
        return len(self.sampler) if self.batch_sampler is None else len(self.batch_sampler)
