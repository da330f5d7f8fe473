"""Training steps of models with embeddings: their state is overwritten in place, although steps by index stand near the
end; an index that is out of range leaves all of it as it was."""

from __future__ import annotations

import numpy as np
import pytest
from c_library import ERRORS, Library, array, need, same_bits

import torsh
import torsh.nn.functional as F
from torsh import nn

LETTERS, WIDTH, TOKENS = 40, 16, 12

compiled_only = pytest.mark.compiled_only
host_only = pytest.mark.host_only("counts what the host allocates")


class Net(nn.Module):
    """An embedding of letters and one of places, a block, and a head of its own or the embedding's."""

    def __init__(self, tied, places):
        super().__init__()
        self.token, self.place = nn.Embedding(LETTERS, WIDTH), nn.Embedding(places, WIDTH)
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.head = None if tied else nn.Linear(WIDTH, LETTERS, bias=False)

    def forward(self, x):
        x = self.token(x) + self.place(torsh.arange(TOKENS))
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return F.linear(x, self.token.weight) if self.head is None else self.head(x)


def make(tied, optimizer="AdamW", places=TOKENS):
    """(step, its model and optimizer, arguments)."""
    torsh.manual_seed(1)
    model = Net(tied, places)
    opt = getattr(torsh.optim, optimizer)(model.parameters(), lr=1e-2)

    def step(x, y):
        loss = F.cross_entropy(model(x).reshape(-1, LETTERS), y)
        loss.backward()
        opt.step()
        # At the end: gradients that stay are results.
        opt.zero_grad()
        return loss

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, LETTERS, (3, TOKENS)), rng.integers(0, LETTERS, 3 * TOKENS)
    return step, model, opt, (torsh.from_numpy(x), torsh.from_numpy(y))


def held(model, opt):
    """The tensors of a model and its optimizer, in order."""
    return [*model.parameters(), *(t for s in opt.state.values() for t in s.values() if isinstance(t, torsh.Tensor))]


def bits(model, opt):
    return [array(t).tobytes() for t in held(model, opt)]


def wrong(args):
    """The arguments with one letter, or one label, that there is none of."""
    for at in (0, 1):
        bad = [array(a).copy() for a in args]
        bad[at].flat[5] = LETTERS
        yield [torsh.from_numpy(a) for a in bad]


def made(run, calls=4):
    """Allocations of each of some calls."""
    before = torsh.memory_stats()["allocations"]
    for _ in range(calls):
        run().item()
    return (torsh.memory_stats()["allocations"] - before) / calls


@compiled_only
@host_only
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_step_updates_its_state_in_place(tied, optimizer):
    step, model, opt, args = make(tied, optimizer)
    compiled = torsh.compile(step)
    made(lambda: compiled(*args))
    # The arena and the loss; nothing for any of the tensors of the state.
    assert made(lambda: compiled(*args)) <= 4
    tensors = held(model, opt)
    assert len(tensors) >= 8
    # Where others see the tensors, too, each is copied.
    kept = [t.detach() for t in tensors]
    assert made(lambda: compiled(*args), 1) >= len(kept)


@pytest.mark.parametrize("tied", [False, True])
def test_a_step_in_place_gives_the_same_bits(tied):
    (step, model, opt, args), (other, its, own, _) = make(tied), make(tied)
    step, other = torsh.compile(step), torsh.compile(other)
    for _ in range(4):
        kept = [t.detach() for t in held(its, own)]
        torsh.eval(*kept)
        assert array(step(*args)).tobytes() == array(other(*args)).tobytes()
    assert bits(model, opt) == bits(its, own)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_bad_index_changes_nothing(tied, compiled):
    step, model, opt, args = make(tied)
    run = torsh.compile(step) if compiled else step
    for _ in range(3):
        torsh.eval(run(*args), *held(model, opt))
    for bad in wrong(args):
        # What is computed later does not depend on the loss alone: the number of the step does not.
        values = lambda: [array(t).tobytes() for t in held(model, opt) if compiled or t.ndim]  # noqa: E731
        before = values()
        with pytest.raises(IndexError, match=f"index {LETTERS} is out of bounds"):
            torsh.eval(run(*bad), *held(model, opt))
        assert values() == before


@compiled_only
@host_only
def test_a_package_updates_its_state_in_place(tmp_path):
    step, model, opt, args = make(False)
    path = tmp_path / "step.torsh"
    torsh.export(step, args, path)
    loaded, compiled = torsh.load(path), torsh.compile(step)
    for _ in range(2):
        assert array(loaded(*args)).tobytes() == array(compiled(*args)).tobytes()
    made(lambda: loaded(*args))
    assert made(lambda: loaded(*args)) <= 4
    for bad in wrong(args):
        before = [array(t).tobytes() for t in loaded.state_dict().values()]
        with pytest.raises(IndexError, match="out of bounds"):
            loaded(*bad).item()
        assert [array(t).tobytes() for t in loaded.state_dict().values()] == before


@compiled_only
@pytest.mark.host_only("libraries in C run on the host")
def test_a_library_in_c_updates_its_state_in_place(tmp_path):
    need("cc")
    step, model, opt, args = make(False)
    torsh.export(step, args, tmp_path / "step", format="c")
    lib, compiled = Library(tmp_path, "step"), torsh.compile(step)
    for _ in range(2):
        loss = np.zeros((), np.float32)
        assert lib.run([array(a) for a in args], [loss]) == 0
        assert loss.tobytes() == array(compiled(*args)).tobytes()
    parameters = {f"model.{k}": array(v) for k, v in model.state_dict().items()}
    same_bits([lib.state(k, v) for k, v in parameters.items()], list(parameters.values()))
    for bad in wrong(args):
        assert lib.run([array(a) for a in bad], [np.zeros((), np.float32)]) == ERRORS["index"]
        same_bits([lib.state(k, v) for k, v in parameters.items()], list(parameters.values()))
    # A table and two moments, the gradient and what it begins as; new values beside the old ones would be three more.
    step, _, _, args = make(False, places=10_000)
    torsh.export(step, args, tmp_path / "large", format="c")
    more = Library(tmp_path, "large").arena_bytes - lib.arena_bytes
    assert more / (10_000 * WIDTH * 4) < 5.5


@compiled_only
@host_only
def test_a_row_is_written_in_place_and_a_bad_index_changes_nothing():
    cache = torsh.zeros(6, 4)

    @torsh.compile
    def write(at, row):
        cache.index_copy_(0, at, row)

    row, one, last = torsh.ones(1, 4), torsh.tensor([1]), torsh.tensor([-1])
    for _ in range(3):
        write(one, row)
    before = torsh.memory_stats()["allocations"]
    write(last, row)
    assert torsh.memory_stats()["allocations"] == before
    want = array(cache)
    assert want.sum() == 8.0
    with pytest.raises(IndexError, match="index 6 is out of bounds"):
        torsh.eval(write(torsh.tensor([6]), row), cache)
    np.testing.assert_array_equal(array(cache), want)


@compiled_only
@host_only
@pytest.mark.parametrize("size", [5, 9])
@pytest.mark.parametrize("other", [lambda i: i + 1, lambda i: i])
def test_what_a_later_lookup_may_refuse_is_not_written_in_place(size, other):
    """The second lookup, in what was updated, is by another index or in a smaller table than the first."""
    state, table = torsh.zeros(1000), torsh.arange(9.0)

    @torsh.compile
    def step(i):
        first = table[i].sum()
        state.add_(first)
        return state[:size][other(i)].sum()

    last = 9 if other(0) else 7
    good, bad = torsh.tensor([0, 3]), torsh.tensor([0, last - 1])
    made(lambda: step(good))
    want = array(state)
    if size == 9 and not other(0):
        assert made(lambda: step(good), 1) <= 2
        return
    with pytest.raises(IndexError, match="out of bounds"):
        torsh.eval(step(bad), state)
    np.testing.assert_array_equal(array(state), want)
