"""Random numbers that belong to samples, not to a global stream.

Every number is a function of (seed, scope, purpose, sample id). It follows that a result depends neither on how a
data set is cut into batches, nor on the order of the samples, nor on which samples have already left the batch, nor
on the device or the dtype that asks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustscope.core.errors import InvalidType, InvalidValue
from robustscope.core.types import as_indices


def key(seed: int, scope: str, purpose: str, sample: int) -> int:
    """Return the 63-bit key that decides the numbers of one sample for one purpose.

    blake2b over the four fields, each with its length in front, so that no two field lists collide.

    Example:
        >>> key(0, "pgd", "start/0", 7) == key(0, "pgd", "start/0", 7) != key(0, "pgd", "start/1", 7)
        True
    """
    return next(_keys(seed, scope, purpose, (sample,)))


def _keys(seed: int, scope: str, purpose: str, samples: Iterable[int]) -> Iterator[int]:
    """Yield the key of each sample, after what they share has been hashed once."""
    shared = hashlib.blake2b(digest_size=8)
    for part in (str(seed), scope, purpose):
        shared.update(_framed(part))
    for sample in samples:
        digest = shared.copy()
        digest.update(_framed(str(sample)))
        yield int.from_bytes(digest.digest(), "little") >> 1


def _framed(part: str) -> bytes:
    raw = part.encode()
    return len(raw).to_bytes(4, "little") + raw


@dataclass(frozen=True)
class Draws:
    """A source of random numbers for a batch of samples.

    Args:
        seed: the seed of the run, any integer.
        ids: one id for each sample of the batch; ids are positions in the data set, so they never depend on the cut.
        scope: path of the method that draws, such as "pgd"; see :meth:`within`.

    Numbers are drawn on the CPU in float32 (float64 for :meth:`integers`), then moved and cast to ``like``:
    the same numbers on every device and for every dtype.

    Example:
        >>> draws = Draws(0, (4, 5), "demo")
        >>> a = draws.uniform("start", torch.zeros(2, 3))
        >>> b = draws.select(torch.tensor([False, True])).uniform("start", torch.zeros(1, 3))
        >>> bool((a[1] == b[0]).all())
        True
    """

    seed: int
    ids: tuple[int, ...]
    scope: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise InvalidType(f"seed={self.seed!r} was given", "an integer is allowed", "Write e.g. seed=0.")
        object.__setattr__(self, "ids", as_indices(self.ids))

    def within(self, name: str) -> Draws:
        """Return draws of a nested scope, so that two methods never share numbers."""
        return replace(self, scope=f"{self.scope}/{name}" if self.scope else name)

    def select(self, keep: Tensor) -> Draws:
        """Return the draws of the samples that ``keep`` (bool mask or indices) picks; their numbers do not change."""
        index = torch.arange(len(self.ids))[keep.cpu()].tolist()
        return replace(self, ids=tuple(self.ids[i] for i in index))

    def uniform(self, purpose: str, like: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
        """Return uniform numbers on [low, high), shaped, typed and placed as ``like`` (B, *S)."""
        unit = self._each(purpose, like, lambda generator, out: out.uniform_(generator=generator))
        return unit.mul_(high - low).add_(low)

    def normal(self, purpose: str, like: Tensor) -> Tensor:
        """Return standard normal numbers, shaped, typed and placed as ``like`` (B, *S)."""
        return self._each(purpose, like, lambda generator, out: out.normal_(generator=generator))

    def exponential(self, purpose: str, like: Tensor) -> Tensor:
        """Return exponential numbers of rate 1, shaped, typed and placed as ``like`` (B, *S)."""
        return self._each(purpose, like, lambda generator, out: out.exponential_(generator=generator))

    def integers(self, purpose: str, count: int, low: int, high: int) -> Tensor:
        """Return ``count`` integers on [low, high) for each sample: int64 (B, count) on the CPU."""
        if high <= low:
            raise InvalidValue(f"integers on [{low}, {high}) were asked for", "low < high is allowed", "Swap them.")
        out = torch.empty(len(self.ids), count, dtype=torch.int64)
        self._fill(purpose, out, lambda generator, row: row.random_(low, high, generator=generator))
        return out

    def words(self, purpose: str, count: int) -> Tensor:
        """Return ``count`` words of 64 random bits for each sample: int64 (B, count) on the CPU.

        A word costs little more than one uniform number, and holds four numbers of 16 bits.
        """
        out = torch.empty(len(self.ids), count, dtype=torch.int64)
        self._fill(purpose, out, lambda generator, row: row.random_(-(2**63), None, generator=generator))
        return out

    def _each(self, purpose: str, like: Tensor, draw: Callable[[torch.Generator, Tensor], object]) -> Tensor:
        out = torch.empty(like.shape, dtype=torch.float32)
        self._fill(purpose, out, draw)
        return out.to(device=like.device, dtype=like.dtype)

    def _fill(self, purpose: str, out: Tensor, draw: Callable[[torch.Generator, Tensor], object]) -> None:
        if out.shape[0] != len(self.ids):
            raise InvalidValue(
                f"{len(self.ids)} sample ids were given for a batch of {out.shape[0]}",
                "one id for each sample is allowed",
                "Build Draws with ids=tuple(sample ids of this batch).",
            )
        generator = torch.Generator()
        before, last = None, out
        keys = _keys(self.seed, self.scope, purpose, self.ids)
        for row, sample, own in zip(out.unbind(), self.ids, keys, strict=True):
            if sample == before:
                row.copy_(last)
            else:
                draw(generator.manual_seed(own), row)
            before, last = sample, row


def permutation(seed: int, purpose: str, count: int) -> list[int]:
    """Return a permutation of range(count) that depends on (seed, purpose, count) alone."""
    generator = torch.Generator().manual_seed(key(seed, "permutation", purpose, count))
    return torch.randperm(count, generator=generator).tolist()


def subsets(seed: int, purpose: str, groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return every group shuffled by its own key; a prefix of each is a seeded random subset."""
    return [[group[i] for i in permutation(seed, f"{purpose}/{k}", len(group))] for k, group in enumerate(groups)]


def shuffled(ids: Iterable[int], seed: int, purpose: str) -> list[int]:
    """Return sample ids in an order decided by a number that each of them has from the seed alone.

    The first of more ids are therefore the first of fewer, but for those that are missing.

    Example:
        >>> order = shuffled(range(6), 0, "audit")
        >>> sorted(order), [i for i in order if i != 4] == shuffled([5, 3, 2, 1, 0], 0, "audit")
        ([0, 1, 2, 3, 4, 5], True)
    """
    known = sorted(ids)
    draws = Draws(seed, tuple(known)).within(purpose)
    numbers = draws.uniform("order", torch.empty(len(known), 1, dtype=torch.float64), 0.0, 1.0)[:, 0].tolist()
    return [i for _, i in sorted(zip(numbers, known, strict=True))]
