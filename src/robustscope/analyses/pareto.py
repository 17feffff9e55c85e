"""Accuracy against robustness across models: the Pareto frontier, the log-linear fit, and the objections to it.

Su et al. fit distortion = intercept + slope ln(top-1 error) to 18 networks and read a price of accuracy off it. Two objections
are computed beside the fit: a few models can carry it (reviews of Stutz), and models of higher accuracy can be harder
to attack where all else is alike (Rozsa et al.).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from robustscope.analyses._common import frame
from robustscope.core.errors import InvalidValue

COLUMNS = {
    "left_out": "object",
    "n": "Int64",
    "slope": "Float64",
    "low": "Float64",
    "high": "Float64",
    "p": "Float64",
    "cook": "Float64",
    "rank_correlation": "Float64",
    "reason": "object",
}


def frontier(values: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """Return which models no other one dominates: bool (n,).

    One dominates another if it is at least as good in all respects and better in one. Models that are equal in all do not
    dominate each other.

    Args:
        values: (n, d), higher is better; a lower-is-better number enters with its sign turned.

    Raises:
        InvalidValue: for another shape, no models, or NaN.

    Example:
        >>> frontier([[0.9, 0.1], [0.8, 0.3], [0.7, 0.2], [0.8, 0.3]]).tolist()
        [True, True, False, True]

    Source: the accuracy-robustness Pareto frontier of Su et al., 2018, arXiv:1808.01688, Sec. 4.
    """
    table = _table(values)
    return np.logical_not(dominance(table).any(axis=0))


def dominance(values: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """Return for each pair whether model i dominates model j: bool (n, n), as :func:`frontier` means it."""
    table = _table(values)
    better, worse = table[:, None] > table[None], table[:, None] < table[None]
    return np.asarray(better.any(2) & ~worse.any(2))


@dataclass(frozen=True)
class LogLinear:
    """A fit of distortion = intercept + slope ln(error), natural logarithm.

    Args:
        intercept, slope: of least squares. A positive slope says that accurate models are easier to attack.
        low, high: 95 % interval of the slope, for residuals that are normal.
        r_squared: share of the variance of distortions that the fit explains.
        p: two-sided, of a slope of 0.
        n: models.
        cook: (n,), Cook's distance: how far the fit moves without the model, in units of its own uncertainty.
    """

    intercept: float
    slope: float
    low: float
    high: float
    r_squared: float
    p: float
    n: int
    cook: np.ndarray

    def expected(self, error: float) -> float:
        """Return the distortion that the fit gives a model with this top-1 error, in (0, 1]."""
        return self.intercept + self.slope * float(np.log(error))


def log_linear_fit(error: Sequence[float] | np.ndarray, distortion: Sequence[float] | np.ndarray) -> LogLinear:
    """Fit how the distortion that attacks need depends on the logarithm of the top-1 error.

    Args:
        error: (n,), top-1 errors, in (0, 1]; n >= 3, not all equal.
        distortion: (n,), mean distortions of the same models, of the same attack and samples, in one norm.

    Raises:
        InvalidValue: for fewer models, errors outside (0, 1] or all equal, and numbers that are not finite.

    Example:
        >>> found = log_linear_fit([0.5, 0.25, 0.125], [1.0, 0.5, 0.0])
        >>> round(found.expected(0.0625), 6), round(found.r_squared, 6)
        (-0.5, 1.0)

    Source: Su et al., 2018, arXiv:1808.01688, Sec. 4.2; Cook, 1977, doi:10.1080/00401706.1977.10489493.
    """
    x, y = _pairs(error, distortion)
    n, spread = len(x), ((x - x.mean()) ** 2).sum()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / spread)
    intercept = float(y.mean() - slope * x.mean())
    rest = y - intercept - slope * x
    lost, whole = float((rest**2).sum()), float(((y - y.mean()) ** 2).sum())
    variance = lost / (n - 2)
    error_of_slope = float(np.sqrt(variance / spread))
    reach = float(stats.t.ppf(0.975, n - 2)) * error_of_slope
    p = float(2 * stats.t.sf(abs(slope) / error_of_slope, n - 2)) if error_of_slope > 0 else float(slope == 0)
    lever = 1 / n + (x - x.mean()) ** 2 / spread
    # Without residuals no model moves the fit; a model alone at its place takes the fit with it, and has no residual.
    cook = np.divide(
        rest**2 * lever, 2 * variance * (1 - lever) ** 2, out=np.zeros(n), where=(variance > 0) & (lever < 1)
    )
    explained = 1 - lost / whole if whole > 0 else 1.0
    return LogLinear(intercept, slope, slope - reach, slope + reach, explained, p, n, cook)


def objections(table: pd.DataFrame, *, error: str = "error", distortion: str = "distortion") -> pd.DataFrame:
    """Return what becomes of the log-linear fit without each model, and without each family.

    Args:
        table: one row for each model, indexed by its name, with the two columns; a column ``family``, if there is one, names
            models that share an architecture or a training.
        error, distortion: names of the columns.

    Returns:
        First the fit to all (``left_out`` is None), then without each model ("model NAME"), then without each family
        ("family NAME") and within each ("all but NAME"): the slope with its 95 % interval and p-value, Cook's distance of
        the model that went, and the rank correlation of accuracy and distortion among those left, which Rozsa et al.
        expect above 0 and Su et al. below. Where fewer than three models are left, gaps and a ``reason``.

    Raises:
        InvalidValue: as :func:`log_linear_fit`, for all models together.

    Source: Su et al., 2018, arXiv:1808.01688; Rozsa et al., 2016, arXiv:1610.04563, for the sign that accuracy should have.
    """
    cook = dict(zip(table.index, log_linear_fit(table[error], table[distortion]).cook.tolist(), strict=True))
    parts: list[tuple[str | None, Any, float | None]] = [(None, table, None)]
    parts += [(f"model {name}", table.drop(index=name), cook[name]) for name in table.index]
    if "family" in table.columns:
        for name in dict.fromkeys(table["family"]):
            mine = table["family"] == name
            parts += [(f"family {name}", table[~mine], None), (f"all but {name}", table[mine], None)]
    return frame([_objection(what, part, error, distortion, far) for what, part, far in parts], COLUMNS)


def _objection(what: str | None, part: pd.DataFrame, error: str, distortion: str, far: float | None) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"left_out": what, "n": len(part), "cook": far}
    try:
        fit = log_linear_fit(part[error], part[distortion])
    except InvalidValue as why:
        return row | {"reason": why.given}
    row |= {"slope": fit.slope, "low": fit.low, "high": fit.high, "p": fit.p}
    if part[distortion].nunique() == 1:
        return row | {"reason": "all distortions are equal: they have no rank correlation"}
    return row | {"rank_correlation": float(stats.spearmanr(-part[error], part[distortion]).statistic)}


def frontier_table(table: pd.DataFrame, higher: Mapping[str, bool]) -> pd.DataFrame:
    """Return a table of models with whether each is on the frontier, and which others dominate it.

    Args:
        table: one row for each model, indexed by its name.
        higher: column -> whether higher is better.

    Returns:
        The table with the columns ``on_frontier`` and ``dominated_by``, a tuple of names.

    Raises:
        InvalidValue: for gaps in the columns, or no models.
    """
    signs = np.array([1.0 if better else -1.0 for better in higher.values()])
    over = dominance(table[list(higher)].astype(float).to_numpy() * signs)
    names = list(table.index)
    by = [tuple(names[i] for i in np.flatnonzero(over[:, j])) for j in range(len(names))]
    return table.assign(on_frontier=~over.any(axis=0), dominated_by=pd.Series(by, index=table.index, dtype="object"))


def _table(values: Any) -> np.ndarray:
    table = np.asarray(values, dtype=float)
    if table.ndim != 2 or not table.size or np.isnan(table).any():
        raise InvalidValue(
            f"values of shape {table.shape} were given{', with gaps' if np.isnan(table).any() else ''}",
            "one number of each kind for each of one or more models is allowed",
            "Leave out models whose numbers are unknown: they cannot be compared.",
        )
    return table


def _pairs(error: Any, distortion: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithms of errors, and the distortions, checked: two float64 (n,)."""
    x, y = np.asarray(error, dtype=float), np.asarray(distortion, dtype=float)
    sound = x.ndim == 1 and x.shape == y.shape and len(x) >= 3
    if not sound or not np.isfinite(y).all() or not ((x > 0) & (x <= 1)).all() or len(np.unique(x)) < 2:
        raise InvalidValue(
            f"{len(x) if x.ndim else 0} errors and {len(y) if y.ndim else 0} distortions were given for a fit",
            "three or more models, errors in (0, 1] that differ, and finite distortions are allowed",
            "Give fractions, not percent; a model that errs nowhere has no logarithm.",
        )
    return np.log(x), y
