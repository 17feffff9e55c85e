"""Distances between the samples of two sets: nearest neighbours of another class, and all pairs within a radius.

Exact, in blocks: what is held at once does not grow with the product of the two sizes. l2 goes through matrix products
in float64; linf and l1 take the values that vary most first, and a pair that is already too far is not looked at again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from robustscope.core.errors import InvalidType, InvalidValue

PairNorm = Literal["linf", "l2", "l1"]
PAIR_NORMS: tuple[PairNorm, ...] = get_args(PairNorm)

# Measured on 28x28 images with one thread: blocks that stay in the cache, and when pairs are better followed singly.
ROWS, COLUMNS, STRIDE, FEW = 32, 4096, 32, 64
PAIRS = 4096
ROWS_OF_PRODUCTS = 256


def check_pair_norm(norm: str) -> PairNorm:
    """Return the norm if pairs can be measured in it.

    Raises:
        InvalidValue: for any other.
    """
    if norm not in PAIR_NORMS:
        raise InvalidValue(f"norm={norm!r} was given", f"one of {PAIR_NORMS} is allowed", "Write e.g. norm='l2'.")
    return norm


def check_sets(*sets: Tensor) -> None:
    """Refuse sets of samples that cannot be compared.

    Raises:
        InvalidType: for anything but floating-point tensors of one dtype.
        InvalidValue: for empty sets, NaN or infinite values, or samples of different shapes.
    """
    for x in sets:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dtype != sets[0].dtype:
            raise InvalidType(
                f"samples of type {getattr(x, 'dtype', type(x).__name__)} were given",
                "floating-point tensors of one dtype are allowed",
                "Divide integers by their scale first, e.g. x.float() / 255.",
            )
        if x.dim() < 2 or not x.numel() or x.shape[1:] != sets[0].shape[1:]:
            raise InvalidValue(
                f"samples of shape {tuple(x.shape)} were given",
                "at least one sample, with one shape in all sets, is allowed",
                "Give (n, *S) tensors.",
            )
        if not torch.isfinite(x).all():
            raise InvalidValue(
                "samples with NaN or infinite values were given", "finite values are allowed", "Remove them."
            )


def rounding(norm: PairNorm, *sets: Tensor) -> float:
    """Return by how much the rounding of stored values may change a distance between two samples, in their units.

    Half a unit in the last place for each of the two values, summed as the norm sums. A pair at 252/255 and a radius
    of 126/255 touch; only with this much tolerance do their floating-point numbers say so.
    """
    unit = torch.finfo(sets[0].dtype).eps * max(float(x.abs().max()) for x in sets)
    values = sets[0][0].numel()
    return unit * {"linf": 1.0, "l2": values**0.5, "l1": float(values)}[norm]


def nearest(norm: PairNorm, x: Tensor, labels: Tensor, pool: Tensor, pool_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each sample the distance to the nearest pool sample of another class, and its position.

    Exact up to one rounding of the dtype of ``x``. Of several at the same distance one is returned, the same for every
    cut into blocks. Memory: two copies of the pool, and little for each query.

    Args:
        norm: "linf", "l2" or "l1".
        x: (n, *S), the samples that ask.
        labels: int64 (n,), their classes.
        pool: (m, *S), the samples that are searched, in the dtype of ``x``.
        pool_labels: int64 (m,), their classes.

    Returns:
        float64 (n,), ``inf`` where the pool has no other class; int64 (n,), -1 there.
    """
    if norm == "l2":
        return _nearest_l2(x, labels, pool, pool_labels)
    columns, order = _columns_first(pool)
    a, b = x.flatten(1)[:, order].contiguous(), pool.flatten(1)[:, order].contiguous()
    best = torch.full((len(a),), torch.inf, dtype=torch.float64, device=x.device)
    index = torch.full((len(a),), -1, dtype=torch.int64, device=x.device)
    sizes = b.square().sum(1)
    for start in range(0, len(a), ROWS):
        part = slice(start, min(start + ROWS, len(a)))
        apart = labels[part, None] != pool_labels[None]
        known = Known(norm, a[part], b, best[part], index[part])
        known.guess(torch.addmm(sizes, a[part], b.T, alpha=-2), apart, 0)
        for first in range(0, len(b), COLUMNS):
            span = slice(first, min(first + COLUMNS, len(b)))
            pairs = _survivors(norm, a[part], columns[:, span], apart[:, span].clone(), known.best, known, first)
            known.improve(*_finish(norm, a[part], b[span], pairs, known.best, False, first))
    return best, index


@dataclass(frozen=True)
class Known:
    """The nearest samples that are known so far; ``best`` (B,) and ``index`` (B,) are overwritten in place."""

    norm: PairNorm
    rows: Tensor
    pool: Tensor
    best: Tensor
    index: Tensor

    def guess(self, judged: Tensor, alive: Tensor, first: int) -> None:
        """Measure the pair of each row that is judged nearest, (B, m) from pool sample ``first`` on, and enter it."""
        value, j = judged.masked_fill(~alive, torch.inf).min(1)
        i = (value < torch.inf).nonzero()[:, 0]
        j = j[i] + first
        d = length(self.norm, self.rows[i], self.pool[j])
        better = d < self.best[i]
        self.improve(i[better], j[better], d[better])

    def improve(self, i: Tensor, j: Tensor, d: Tensor) -> None:
        """Enter the pairs (i, j) of distance d where they are nearer than what is known; of equal ones the first."""
        now = self.best.scatter_reduce(0, i, d, "amin")
        better = now < self.best
        hit = better[i] & (d == now[i])
        none = torch.full_like(self.index, torch.iinfo(torch.int64).max)
        first = none.scatter_reduce(0, i[hit], j[hit], "amin")
        self.index.copy_(torch.where(better, first, self.index))
        self.best.copy_(now)


def _nearest_l2(x: Tensor, labels: Tensor, pool: Tensor, pool_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return what :func:`nearest` does, by |a|^2 + |b|^2 - 2 a.b in float64; the winners are measured directly."""
    rows, t = _centred(x, pool)
    size = t.square().sum(1)
    index = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
    best = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    for start in range(0, len(x), ROWS_OF_PRODUCTS):
        part = slice(start, start + ROWS_OF_PRODUCTS)
        for first in range(0, len(t), COLUMNS):
            span = slice(first, first + COLUMNS)
            near = torch.addmm(size[span], rows[part], t[span].T, alpha=-2)
            near.masked_fill_(labels[part, None] == pool_labels[None, span], torch.inf)
            value, found = near.min(1)
            better = value < best[part]
            best[part] = torch.where(better, value, best[part])
            index[part] = torch.where(better, found + first, index[part])
    d = length("l2", x.flatten(1), pool.flatten(1)[index.clamp(min=0)])
    return torch.where(index >= 0, d, torch.inf), index


def within(norm: PairNorm, a: Tensor, b: Tensor, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return all pairs of samples whose distance is at most ``radius``, in no promised order.

    Args:
        norm: "linf", "l2" or "l1".
        a: (n, *S).
        b: (m, *S), in the dtype of ``a``.
        radius: largest distance that counts, in the units of the samples.

    Returns:
        int32 (P,) positions in ``a``, int32 (P,) positions in ``b``, float64 (P,) distances.
    """
    a, b = a.flatten(1), b.flatten(1)
    parts = list(_within_l2(a, b, radius) if norm == "l2" else _within_columns(norm, a, b, radius))
    i, j, d = (torch.cat(each) for each in zip(*parts, strict=True))
    return i.int(), j.int(), d


def _within_l2(a: Tensor, b: Tensor, radius: float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the pairs at most ``radius`` apart in l2, by products in float64; where they cancel, measured directly."""
    s, t = _centred(a, b)
    for start in range(0, len(a), ROWS_OF_PRODUCTS):
        rows = s[start : start + ROWS_OF_PRODUCTS]
        size = rows.square().sum(1)[:, None] + t.square().sum(1)[None]
        square = torch.addmm(size, rows, t.T, alpha=-2)
        # What cancels is known to some 1e-15 of the summands only.
        i, j = (square <= radius**2 + 1e-12 * size).nonzero(as_tuple=True)
        value = square[i, j]
        d = value.clamp(min=0).sqrt()
        small = value < 1e-6 * size[i, j]
        d[small] = length("l2", rows[i[small]], t[j[small]])
        keep = d <= radius
        yield i[keep] + start, j[keep], d[keep]


def _within_columns(norm: PairNorm, a: Tensor, b: Tensor, radius: float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the pairs at most ``radius`` apart in linf or l1, those of a few rows at once."""
    columns, order = _columns_first(b)
    # In float64, since where most pairs are near, the running totals are the distances.
    columns, a, b = columns.double(), a.double()[:, order].contiguous(), b.double()[:, order].contiguous()
    for start in range(0, len(a), ROWS):
        rows = a[start : start + ROWS]
        limit = torch.full((len(rows),), radius, dtype=torch.float64, device=a.device)
        for first in range(0, len(b), COLUMNS):
            span = slice(first, first + COLUMNS)
            alive = torch.ones(len(rows), len(b[span]), dtype=torch.bool, device=a.device)
            i, j, d = _survivors(norm, rows, columns[:, span], alive, limit)
            i, j, d = _finish(norm, rows, b[span], (i, j, d), limit, True, first)
            yield i + start, j, d


def _centred(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sets flat in float64, shifted to the middle of the second, which keeps products small."""
    flat = b.flatten(1).double()
    middle = flat.mean(0)
    return a.flatten(1).double().sub_(middle), flat.sub_(middle)


def _columns_first(pool: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pool with one row for each value, those that vary most first: (d, m), and that order (d,)."""
    flat = pool.flatten(1)
    order = flat.double().var(0, correction=0).argsort(descending=True, stable=True)
    return flat[:, order].T.contiguous(), order


def length(norm: PairNorm, a: Tensor, b: Tensor) -> Tensor:
    """Return the distances of the pairs (a[i], b[i]), (P, d): float64 (P,)."""
    return torch.linalg.vector_norm(a.double() - b.double(), {"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1)


def _survivors(
    norm: PairNorm,
    rows: Tensor,
    columns: Tensor,
    alive: Tensor,
    limit: Tensor,
    known: Known | None = None,
    first: int = 0,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the pairs that the values that vary most do not rule out, taking values until few pairs are left.

    Also their distances, where all values were taken.

    With ``known``, a pair at the limit is ruled out, and the nearest one so far is measured now and then, which lowers
    the limit. That happens at fixed places, so that a row does not depend on the others of its block.
    """
    values = rows.T.contiguous()
    total = torch.zeros(alive.shape, dtype=rows.dtype, device=rows.device)
    step = torch.empty_like(total)
    # The sum of many rounded values is not exact; a maximum is never rounded.
    spare = 1 + (columns.shape[0] * torch.finfo(rows.dtype).eps if norm == "l1" else 0.0)
    for start in range(0, len(columns), STRIDE):
        for k in range(start, min(start + STRIDE, len(columns))):
            torch.sub(columns[k][None], values[k][:, None], out=step)
            step.abs_()
            if norm == "linf":
                torch.maximum(total, step, out=total)
            else:
                total += step
        if known is not None and start in (0, STRIDE):
            known.guess(total, alive, first)
        cap = (limit * spare).to(rows.dtype)[:, None]
        alive &= total < cap if known is not None else total <= cap
        if start and int(alive.sum()) * FEW < alive.numel():
            break
    else:
        start = len(columns)
    i, j = alive.nonzero(as_tuple=True)
    return i, j, total[i, j] if start == len(columns) and known is None else None


def _finish(
    norm: PairNorm,
    rows: Tensor,
    b: Tensor,
    pairs: tuple[Tensor, Tensor, Tensor | None],
    limit: Tensor,
    closed: bool,
    first: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return those of the pairs that keep the limit when all their values count, with their distances."""
    i, j, whole = pairs
    if whole is not None:
        keep = whole <= limit[i]
        return i[keep], j[keep] + first, whole[keep]
    kept = [_few(norm, rows, b, i[s : s + PAIRS], j[s : s + PAIRS], limit, closed) for s in range(0, len(i), PAIRS)]
    i, j, d = (torch.cat(each) for each in zip(*kept, strict=True)) if kept else (i, j, limit[:0])
    return i, j + first, d


def _few(
    norm: PairNorm, rows: Tensor, b: Tensor, i: Tensor, j: Tensor, limit: Tensor, closed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return those of a few pairs that keep the limit, looking at all values of those only that keep it with some."""
    for width in (8 * STRIDE, b.shape[1]):
        d = length(norm, rows[:, :width][i], b[:, :width][j])
        keep = d <= limit[i] if closed else d < limit[i]
        i, j, d = i[keep], j[keep], d[keep]
        if width >= b.shape[1]:
            break
    return i, j, d
