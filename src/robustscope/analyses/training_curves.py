"""Curves of training and of its cost: robust overfitting, the trade-off with accuracy, accuracy for the passes spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from robustscope.analyses.pareto import frontier
from robustscope.core.errors import InvalidValue


@dataclass(frozen=True)
class Overfitting:
    """What training on after the best epoch cost.

    Args:
        best_epoch: place of the best robust accuracy on held-out data, counted from 0; the first of equal ones.
        best, final: robust accuracy there and at the end, on the data that is reported.
        gap: best less final; above 0 where training on did harm.
        generalisation_gap: robust accuracy on training data less that on the data that is reported, at the end; None
            without the former.
    """

    best_epoch: int
    best: float
    final: float
    gap: float
    generalisation_gap: float | None


def robust_overfitting(
    test: Sequence[float] | np.ndarray,
    *,
    held_out: Sequence[float] | np.ndarray | None = None,
    train: Sequence[float] | np.ndarray | None = None,
) -> Overfitting:
    """Return how much robust accuracy early stopping would have kept.

    Args:
        test: (e,), robust accuracy after each epoch, a fraction, on the data that is reported.
        held_out: (e,), the same on other data, by which the epoch is chosen. None chooses by ``test`` itself, which
            flatters the best epoch: say so beside the number.
        train: (e,), the same on training data.

    Raises:
        InvalidValue: for curves of different lengths, of no epochs, or values outside [0, 1].

    Example:
        >>> robust_overfitting([0.3, 0.5, 0.4], held_out=[0.3, 0.52, 0.41]).gap
        0.09999999999999998

    Source: Rice et al., 2020, arXiv:2002.11569, Sec. 3.
    """
    curves = [_curve(curve, len(test)) for curve in (test, held_out, train) if curve is not None]
    shown, judge = curves[0], curves[1] if held_out is not None else curves[0]
    best = int(np.argmax(judge))
    gap = None if train is None else float(curves[-1][-1] - shown[-1])
    return Overfitting(best, float(shown[best]), float(shown[-1]), float(shown[best] - shown[-1]), gap)


def trade_off(clean: Sequence[float] | np.ndarray, robust: Sequence[float] | np.ndarray) -> pd.DataFrame:
    """Return the trade-off curve of accuracy and robust accuracy along a parameter, such as the beta of TRADES.

    Args:
        clean, robust: (m,), accuracies of models that differ in the parameter alone, fractions, m >= 1.

    Returns:
        One row for each model, accuracy falling: ``place`` among the given ones, the two accuracies, whether it is on the
        Pareto ``frontier``, and the ``price``: robust accuracy gained for each point of accuracy lost since the row before
        on the frontier; a gap for the first, and off the frontier.

    Raises:
        InvalidValue: for curves of different lengths, or values outside [0, 1].

    Source: Zhang et al., 2019, arXiv:1901.08573, Sec. 5.1 and Fig. 1, for the curve.
    """
    x, y = _curve(clean, len(clean)), _curve(robust, len(clean))
    on = frontier(np.stack([x, y], 1))
    order = np.lexsort((y, -x))
    rows, before = [], None
    for place in order.tolist():
        row = {"place": place, "clean": x[place], "robust": y[place], "frontier": bool(on[place]), "price": pd.NA}
        if on[place]:
            if before is not None and x[before] > x[place]:
                row["price"] = (y[place] - y[before]) / (x[before] - x[place])
            before = place
        rows.append(row)
    kinds = {"place": "int64", "clean": "float64", "robust": "float64", "frontier": "bool", "price": "Float64"}
    return pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype=kind) for name, kind in kinds.items()})


def best_for_cost(cost: Sequence[float] | np.ndarray, value: Sequence[float] | np.ndarray) -> pd.DataFrame:
    """Return the most that can be had for each cost: the steps of the best value so far, as cost rises.

    Args:
        cost: (m,), what each model took, >= 0: passes through the network rather than seconds, which depend on the machine.
        value: (m,), what was reached; higher is better.

    Returns:
        One row for each model that is better than every cheaper or equally dear one: ``place`` among the given ones,
        ``cost``, ``value``; both rise strictly.

    Raises:
        InvalidValue: for arrays of different lengths, none, negative costs, or numbers that are not finite.

    Example:
        >>> best_for_cost([8, 1, 2, 8], [0.46, 0.33, 0.46, 0.47])["place"].tolist()
        [1, 2, 3]
    """
    spent, reached = np.asarray(cost, dtype=float), np.asarray(value, dtype=float)
    if spent.ndim != 1 or spent.shape != reached.shape or not len(spent) or not np.isfinite([spent, reached]).all():
        raise InvalidValue(
            f"costs of shape {spent.shape} and values of shape {reached.shape} were given",
            "one finite cost and value for each of one or more models are allowed",
            "Leave out models whose cost is unknown.",
        )
    if (spent < 0).any():
        raise InvalidValue(f"a cost of {spent.min():g} was given", "costs >= 0 are allowed", "Count passes.")
    order = np.lexsort((-reached, spent))
    top = np.maximum.accumulate(np.concatenate([[-np.inf], reached[order][:-1]]))
    kept = order[reached[order] > top]
    return pd.DataFrame({"place": kept, "cost": spent[kept], "value": reached[kept]})


def _curve(values: Sequence[float] | np.ndarray, length: int) -> np.ndarray:
    curve = np.asarray(values, dtype=float)
    if curve.shape != (length,) or not length or not ((curve >= 0) & (curve <= 1)).all():
        raise InvalidValue(
            f"a curve of shape {curve.shape} was given where {length} values are",
            "fractions in [0, 1], equally many in all curves and at least one, are allowed",
            "Divide percents by 100, and leave no gap.",
        )
    return curve
