"""Sizes with their intervals: across networks, across samples, of correlations, and of what is known exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats
from torch import Tensor

from robustscope.analyses.correlation import correlate
from robustscope.analyses.intervals import clopper_pearson
from robustscope.claims.cards import Effect
from robustscope.core.errors import InvalidValue

Values = Sequence[float] | np.ndarray | Tensor


def column(rows: Sequence[Mapping[str, Any]], name: str, **where: Any) -> np.ndarray:
    """Return a column of a table as float64, of the rows with these values in other columns.

    Raises:
        InvalidValue: if no row is like that.

    Example:
        >>> column([{"network": "a", "robust": 1.0}, {"network": "b", "robust": 2.0}], "robust", network="b")
        array([2.])
    """
    chosen = [row[name] for row in rows if all(row[key] == value for key, value in where.items())]
    if not chosen:
        raise InvalidValue(
            f"rows with {where} were asked for", "rows that are there are allowed", "Measure them first."
        )
    return np.asarray(chosen, dtype=np.float64)


def percent(found: Tensor) -> float:
    """Return how many of the samples it holds for: bool (n,), or values from 0 to 1.

    Example:
        >>> import torch
        >>> percent(torch.tensor([True, False, True, True]))
        75.0
    """
    return 100.0 * float(found.double().mean())


def exact(value: float) -> Effect:
    """Return a size that no repetition would change."""
    return Effect(float(value), float(value), float(value), 1, "exact")


def mean(values: Values, unit: str = "networks") -> Effect:
    """Return the mean with Student's 95 % interval.

    Args:
        values: (n,), independent of each other, n >= 2; of "networks" one for each that was trained.
        unit: what was repeated.

    Raises:
        InvalidValue: for fewer than two.

    Example:
        >>> found = mean([1.0, 2.0, 3.0])
        >>> round(found.low, 3), found.value, round(found.high, 3), found.n
        (-0.484, 2.0, 4.484, 3)
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) < 2:
        raise InvalidValue(
            f"{numbers.size} values were given for a mean over {unit}",
            "two or more are allowed",
            "Repeat the protocol, for instance with seeds=3.",
        )
    value = float(numbers.mean())
    half = float(stats.t.ppf(0.975, len(numbers) - 1) * numbers.std(ddof=1) / np.sqrt(len(numbers)))
    return Effect(value, value - half, value + half, len(numbers), unit)


def difference(first: Values, second: Values, unit: str = "networks") -> Effect:
    """Return the mean of ``first`` less ``second``, in pairs, with Student's 95 % interval.

    Args:
        first, second: (n,), the i-th of both belong together: the same seed, or the same sample.
        unit: what the pairs are of.
    """
    return mean(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64), unit)


def correlation(first: Values, second: Values, unit: str = "networks", seed: int = 0) -> Effect:
    """Return the rank correlation with its bootstrap interval; -1 to 1.

    Args:
        first, second: (n,), n >= 4.
        unit: what the pairs are of.
        seed: of the resamples.
    """
    found = correlate(np.asarray(first, float), np.asarray(second, float), resamples=999, trials=100, seed=seed)
    return Effect(found.value, found.low, found.high, found.n, unit)


def share(k: int, n: int, unit: str = "samples") -> Effect:
    """Return k of n in percent, with the exact 95 % interval."""
    low, high = clopper_pearson(k, n)
    return Effect(100.0 * k / n, 100.0 * low, 100.0 * high, n, unit)
