"""The picture behind a CLEVER estimate, as numbers: how its maxima are spread, and the distribution fitted to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robustscope.core.errors import InvalidValue

Numbers = np.ndarray
FEWEST, MOST = 5, 40
"""Bars of a histogram."""


def density(at: Any, location: float, scale: float, shape: float) -> Numbers:
    """Return the density c / b u^(c - 1) exp(-u^c) of the reverse Weibull distribution, u = (a - t) / b, 0 from t = a on.

    Args:
        at: t, any shape.
        location: a, the largest value that can come out.
        scale: b > 0.
        shape: c > 0.

    Returns:
        Float64, shaped as ``at``.

    Raises:
        InvalidValue: for a scale or a shape that is not positive.

    Example:
        >>> density([0.0, 1.0], location=1.0, scale=1.0, shape=2.0).round(4).tolist()
        [0.7358, 0.0]
    """
    u = _distance(at, location, scale, shape)
    with np.errstate(divide="ignore", over="ignore"):
        logs = np.log(np.where(u > 0, u, 1.0))
        value = np.exp(np.log(shape / scale) + (shape - 1) * logs - np.exp(shape * logs))
    return np.where(u > 0, value, 0.0)


def distribution(at: Any, location: float, scale: float, shape: float) -> Numbers:
    """Return the share exp(-u^c) of values at or below t, u = (a - t) / b; 1 from t = a on. Arguments as for :func:`density`.

    Raises:
        InvalidValue: for a scale or a shape that is not positive.

    Example:
        >>> distribution([0.0, 1.0, 2.0], location=1.0, scale=1.0, shape=2.0).round(4).tolist()
        [0.3679, 1.0, 1.0]
    """
    u = _distance(at, location, scale, shape)
    with np.errstate(over="ignore"):
        return np.exp(-(u**shape))


def _distance(at: Any, location: float, scale: float, shape: float) -> Numbers:
    if not (scale > 0 and shape > 0):
        raise InvalidValue(
            f"scale={scale} and shape={shape} were given",
            "positive numbers are allowed",
            "Draw no curve where the record has none.",
        )
    return np.maximum((location - np.asarray(at, dtype=np.float64)) / scale, 0.0)


@dataclass(frozen=True)
class FitPicture:
    """What the picture of one estimate shows. Lists are plain numbers, so that it can be written as JSON.

    Args:
        edges: borders of the bars, one more than there are bars; empty where nothing was sampled.
        heights: of the bars, as densities: their areas add up to 1.
        grid: where the curves are drawn, from below the smallest maximum to the location; empty where nothing was fitted.
        density: fitted, on the grid.
        distribution: fitted, on the grid.
        values: the maxima in order.
        shares: share of maxima at or below each of them, the steps of their own distribution.
        location: what the fit extrapolates to, the line to draw; None where nothing was sampled.
        largest: the largest maximum; None where nothing was sampled.
        gap: why there is no curve; empty where there is one.
    """

    edges: tuple[float, ...] = ()
    heights: tuple[float, ...] = ()
    grid: tuple[float, ...] = ()
    density: tuple[float, ...] = ()
    distribution: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    location: float | None = None
    largest: float | None = None
    gap: str = ""


def fit_picture(record: Mapping[str, Any], points: int = 200) -> FitPicture:
    """Return histogram, curves and lines for the record of one sample, as ``estimates.records.records`` writes it.

    Args:
        record: with "maxima", "location", "scale", "shape" and "warnings"; gaps are None or empty.
        points: of the grid, >= 2.

    Returns:
        The picture; without a curve where all maxima are equal, or the likelihood has no maximum.

    Raises:
        InvalidValue: for fewer than two points.

    Example:
        >>> row = {"maxima": [1.0, 1.4, 1.6, 1.7], "location": 2.0, "scale": 0.6, "shape": 2.0, "warnings": []}
        >>> picture = fit_picture(row, points=3)
        >>> [round(t, 2) for t in picture.grid], round(sum(picture.heights) * (picture.edges[1] - picture.edges[0]), 6)
        ([0.8, 1.4, 2.0], 1.0)
    """
    if points < 2:
        raise InvalidValue(f"points={points} was given", "2 or more are allowed", "The default is 200.")
    values = np.sort(np.asarray(record["maxima"], dtype=np.float64))
    if not len(values):
        return FitPicture(gap="the sample is misclassified, so nothing was sampled")
    location, largest = float(record["location"]), float(values[-1])
    heights, edges = np.histogram(values, _bins(values), density=True) if values[0] < largest else ((), ())
    shares = np.arange(1, len(values) + 1) / len(values)
    made = FitPicture(
        edges=_plain(edges),
        heights=_plain(heights),
        values=_plain(values),
        shares=_plain(shares),
        location=location,
        largest=largest,
    )
    scale, shape = record["scale"], record["shape"]
    if scale is None or shape is None:
        why = "all maxima are equal" if "constant" in record["warnings"] else "the likelihood has no maximum"
        return replace(made, gap=f"{why}, so nothing was fitted")
    low = values[0] - 0.2 * (location - values[0])
    grid = np.linspace(low, location, points)
    return replace(
        made,
        grid=_plain(grid),
        density=_plain(density(grid, location, scale, shape)),
        distribution=_plain(distribution(grid, location, scale, shape)),
    )


def _bins(values: Numbers) -> int:
    """Return the number of bars by the rule of Freedman and Diaconis, from FEWEST to MOST."""
    low, high = np.percentile(values, [25, 75])
    width = 2 * (high - low) / len(values) ** (1 / 3)
    wanted = (values[-1] - values[0]) / width if width > 0 else FEWEST
    return int(min(max(round(wanted), FEWEST), MOST))


def _plain(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
