"""Which properties of models go together: correlations across a set of models, with what makes them doubtful.

A set of models is small, and its members resemble one another. Beside each coefficient stand therefore a bootstrap interval, the
p-value of a permutation test, adjusted for the number of pairs, and the coefficient without the model that moves it most.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from robustscope.analyses._common import frame
from robustscope.core.errors import InvalidValue, UnknownName, did_you_mean

Method = Literal["pearson", "spearman"]
FEWEST = 4
"""Models that a correlation needs at least, beside one for each variable held fixed: leaving one out must leave three."""
ZERO = 1e-10
"""Share of a variable's spread, or of what others leave of it, under which it counts as constant."""

COLUMNS = {
    "first": "object",
    "second": "object",
    "n": "Int64",
    "value": "Float64",
    "low": "Float64",
    "high": "Float64",
    "p": "Float64",
    "p_adjusted": "Float64",
    "most_influential": "object",
    "value_without": "Float64",
    "sign_holds": "boolean",
    "reason": "object",
}


@dataclass(frozen=True)
class Correlation:
    """A coefficient across models, and how far it can be believed.

    Args:
        n: models.
        value: the coefficient, -1 to 1.
        low, high: bootstrap interval; NaN where too few resamples have a coefficient.
        p: two-sided p-value of the permutation test.
        without: (n,), the coefficient when each of the models is left out; NaN where the others do not vary.
    """

    n: int
    value: float
    low: float
    high: float
    p: float
    without: np.ndarray

    @property
    def influence(self) -> np.ndarray:
        """What each model adds to the coefficient, (n,): the value with all models less that without it."""
        return self.value - self.without

    @property
    def most_influential(self) -> int:
        """The place of the model that moves the coefficient most; one that makes it undefined when it goes comes first."""
        return int(np.argmax(np.nan_to_num(np.abs(self.influence), nan=math.inf)))

    @property
    def sign_holds(self) -> bool:
        """Whether the coefficient keeps its sign, whichever model is left out."""
        return bool((np.sign(self.without) == np.sign(self.value)).all())


def correlate(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    *,
    given: Sequence[Sequence[float]] | np.ndarray = (),
    method: Method = "spearman",
    resamples: int = 1999,
    trials: int = 9999,
    confidence: float = 0.95,
    seed: int = 0,
) -> Correlation:
    """Return the correlation of two properties across models.

    With ``given``, the partial correlation: of what is left of both once these are held fixed by linear regression (of
    ranks for "spearman").

    Args:
        first, second: (n,), one number for each model; n >= 4, and one more for each variable held fixed.
        given: (k, n), variables to hold fixed, such as the clean accuracy.
        method: "pearson" for a linear relation, "spearman" for a monotone one; tied values share their mean rank.
        resamples: bootstrap resamples of models, >= 100.
        trials: random pairings of the permutation test, >= 100; if n has no more pairings than that, all are tried.
        confidence: of the interval, strictly between 0 and 1.
        seed: of resamples and pairings; the same numbers for the same n.

    Returns:
        Coefficient, interval, p-value, and the coefficient with each model left out.

    Raises:
        InvalidValue: for too few models, numbers that are not finite, or variables that do not vary, or only with those
            held fixed.

    Example:
        >>> found = correlate([1, 2, 3, 4, 5], [2, 4, 6, 8, 1])
        >>> found.value, round(found.p, 4), found.most_influential
        (0.0, 1.0, 4)

    Source: Efron, 1987, doi:10.1080/01621459.1987.10478410 (BCa intervals); Fisher, 1935, and Freedman and Lane, 1983,
        doi:10.1080/07350015.1983.10509354 (permutation tests, without and with variables held fixed).

    Departures: the permutation test is exact without variables held fixed, for models that are exchangeable; networks of one
    family are not, whatever the p-value says.
    """
    data = _checked(first, second, given, method)
    _check_effort(resamples, trials, confidence)
    n = data.shape[1]
    value = float(_coefficients(data[None], method)[0])
    if math.isnan(value):
        raise InvalidValue(
            "a variable was given that does not vary across the models, or only with those held fixed",
            "variables that differ between models are allowed",
            "Leave it out: nothing can go together with a constant.",
        )
    without = _coefficients(np.stack([np.delete(data, i, axis=1) for i in range(n)]), method)
    low, high = _bca(data, method, value, without, resamples, confidence, seed)
    return Correlation(n, value, low, high, _permutation_p(data, method, value, trials, seed), without)


def correlations(
    table: pd.DataFrame,
    columns: Sequence[str] | None = None,
    *,
    given: Sequence[str] = (),
    method: Method = "spearman",
    resamples: int = 1999,
    trials: int = 9999,
    seed: int = 0,
    any_dependence: bool = False,
) -> pd.DataFrame:
    """Correlate every two properties of a set of models.

    Args:
        table: one row for each model, indexed by its name; one column for each property. A gap (NaN) leaves the model
            out of the pairs that need it.
        columns: the properties to pair; None pairs all that are not ``given``.
        given: properties to hold fixed.
        method, resamples, trials, seed: as :func:`correlate`.
        any_dependence: control the false discovery rate whatever the dependence of the tests (Benjamini and Yekutieli);
            otherwise Benjamini and Hochberg, for tests that do not oppose one another.

    Returns:
        One row for each pair: ``n`` models; ``value`` with its 95 % interval; ``p`` and ``p_adjusted``, under which a share
        of the pairs called related is false; the model that moves the coefficient most, the value without it, and whether
        the sign holds whichever model goes. Where there is no coefficient, gaps and a ``reason``.

    Raises:
        InvalidValue: for models that share a name.
        UnknownName: for a column that the table does not have.

    Source: Benjamini and Hochberg, 1995, doi:10.1111/j.2517-6161.1995.tb02031.x; Benjamini and Yekutieli, 2001,
        doi:10.1214/aos/1013699998.
    """
    names = [name for name in table.columns if name not in given] if columns is None else list(columns)
    _check_table(table, [*names, *given])
    rows = []
    for first, second in combinations(names, 2):
        part = table[[first, second, *given]].astype(float).dropna()
        row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"first": first, "second": second, "n": len(part)}
        data = part.to_numpy().T
        effort: dict[str, int] = {"resamples": resamples, "trials": trials, "seed": seed}
        try:
            found = correlate(data[0], data[1], given=data[2:], method=method, **effort)
        except InvalidValue as why:
            rows.append(row | {"reason": why.given})
            continue
        most = found.most_influential
        row |= {name: _gap(getattr(found, name)) for name in ("value", "low", "high", "p")}
        row |= {"most_influential": str(part.index[most]), "value_without": _gap(found.without[most])}
        rows.append(row | {"sign_holds": found.sign_holds})
    decided = [row for row in rows if row["p"] is not None]
    adjusted = adjust([float(row["p"]) for row in decided], any_dependence=any_dependence)
    for row, p in zip(decided, adjusted, strict=True):
        row["p_adjusted"] = p
    return frame(rows, COLUMNS)


def matrix(pairs: pd.DataFrame, column: str = "value") -> pd.DataFrame:
    """Return a column of :func:`correlations` as a symmetric table of properties, with gaps where there is none.

    Args:
        pairs: what :func:`correlations` returned.
        column: "value", "p", "p_adjusted" or another numeric one; the diagonal is 1 for values, a gap otherwise.
    """
    names = list(dict.fromkeys([*pairs["first"], *pairs["second"]]))
    square = pd.DataFrame(np.nan, index=names, columns=names)
    for first, second, number in zip(pairs["first"], pairs["second"], pairs[column].astype(float), strict=True):
        square.loc[first, second] = square.loc[second, first] = number
    if column == "value":
        for name in names:
            square.loc[name, name] = 1.0
    return square


def adjust(p_values: Sequence[float], *, any_dependence: bool = False) -> list[float]:
    """Return p-values adjusted so that calling those up to q related keeps the false discovery rate at q.

    Example:
        >>> adjust([0.01, 0.04, 0.03])
        [0.03, 0.04, 0.04]

    Source: Benjamini and Hochberg, 1995; with ``any_dependence``, Benjamini and Yekutieli, 2001.
    """
    if not len(p_values):
        return []
    return stats.false_discovery_control(p_values, method="by" if any_dependence else "bh").tolist()


def _coefficients(data: np.ndarray, method: Method) -> np.ndarray:
    """Return the partial correlation of the first two of m variables for each of N sets: (N, m, n) -> (N,).

    Each variable held fixed is swept out of the matrix of correlations; NaN where a variable is constant or determined.
    """
    return _linear(_scored(data, method))


def _scored(data: np.ndarray, method: Method) -> np.ndarray:
    """Return what is correlated linearly: the numbers, or their ranks among the models (last axis)."""
    return stats.rankdata(data, axis=-1) if method == "spearman" else data


def _linear(data: np.ndarray) -> np.ndarray:
    """Return the linear partial correlation of the first two of m variables, (N, m, n) -> (N,)."""
    centred = data - data.mean(-1, keepdims=True)
    size = np.linalg.norm(centred, axis=-1, keepdims=True)
    unit = np.divide(
        centred, size, out=np.full_like(centred, np.nan), where=size > ZERO * np.abs(data).max(-1, keepdims=True)
    )
    table = unit @ unit.swapaxes(-1, -2)
    for place in range(data.shape[-2] - 1, 1, -1):
        beside = table[:, :place, place]
        table = table[:, :place, :place] - beside[:, :, None] * beside[:, None, :]
        left = np.diagonal(table, axis1=1, axis2=2)
        left = np.sqrt(np.where(left > ZERO, left, np.nan))
        table = table / (left[:, :, None] * left[:, None, :])
    found = table[:, 0, 1]
    return np.where(np.abs(found) < ZERO, 0.0, np.clip(found, -1, 1))  # rounding has no sign


def _bca(
    data: np.ndarray,
    method: Method,
    value: float,
    without: np.ndarray,
    resamples: int,
    confidence: float,
    seed: int,
) -> tuple[float, float]:
    """Return the bias-corrected and accelerated interval; NaN if under half of the resamples have a coefficient."""
    n = data.shape[1]
    picks = _generator(seed, "bootstrap", n).integers(0, n, (resamples, n))
    seen = _coefficients(data[:, picks].swapaxes(0, 1), method)
    seen = np.sort(seen[~np.isnan(seen)])
    if 2 * len(seen) < resamples or np.isnan(without).any():
        return math.nan, math.nan
    below = (np.sum(seen < value - 1e-12) + np.sum(seen <= value + 1e-12)) / 2
    bias = stats.norm.ppf(np.clip(below / len(seen), 0.5 / len(seen), 1 - 0.5 / len(seen)))
    pull = without.mean() - without
    spread = (pull**2).sum()
    bend = (pull**3).sum() / (6 * spread**1.5) if spread > 1e-20 else 0.0
    tail = stats.norm.ppf(np.array([(1 - confidence) / 2, (1 + confidence) / 2])) + bias
    levels = stats.norm.cdf(bias + tail / np.maximum(1 - bend * tail, 1e-3))
    low, high = np.quantile(seen, levels)
    return float(low), float(high)


def _permutation_p(data: np.ndarray, method: Method, value: float, trials: int, seed: int) -> float:
    """Return how often a pairing at random gives a coefficient as far from 0, among all or ``trials`` pairings."""
    n = data.shape[1]
    ranked = _scored(data, method)
    fixed = np.vstack([np.ones(n), ranked[2:]])
    rest = ranked[0] - np.linalg.lstsq(fixed.T, ranked[0], rcond=None)[0] @ fixed
    everything = math.factorial(n) <= trials
    if everything:
        orders = np.array(list(permutations(range(n))))
    else:
        orders = _generator(seed, "pairings", n).permuted(np.tile(np.arange(n), (trials, 1)), axis=1)
    others = np.broadcast_to(ranked[1:], (len(orders), *ranked[1:].shape))
    seen = np.abs(_linear(np.concatenate([rest[orders][:, None], others], axis=1)))
    as_far = int(np.sum(~(seen < abs(value) - 1e-9)))  # a pairing without a coefficient counts against
    return as_far / len(orders) if everything else (as_far + 1) / (len(orders) + 1)


def _generator(seed: int, purpose: str, n: int) -> np.random.Generator:
    """Return a generator of its own, decided by seed, purpose and number of models: the global one stays untouched."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{n}".encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def _checked(first: Any, second: Any, given: Any, method: str) -> np.ndarray:
    """Return the variables, one below the other, float64 (2 + k, n)."""
    if method not in ("pearson", "spearman"):
        raise InvalidValue(f"method={method!r} was given", "'pearson' or 'spearman' is allowed", "Choose one of them.")
    parts = [np.asarray(part, dtype=float) for part in (first, second, *given)]
    shapes = sorted({part.shape for part in parts})
    if len(shapes) > 1 or len(shapes[0]) != 1:
        raise InvalidValue(
            f"variables of shapes {shapes} were given",
            "one number of each variable for each model is allowed",
            "Give variables of the same models, in the same order.",
        )
    data = np.stack(parts)
    if data.shape[1] < FEWEST + len(parts) - 2:
        raise InvalidValue(
            f"{data.shape[1]} models were given for {len(parts)} variables",
            f"{FEWEST + len(parts) - 2} or more are allowed",
            "Measure more models, or hold fewer variables fixed.",
        )
    if not np.isfinite(data).all():
        raise InvalidValue(
            "numbers that are not finite were given",
            "finite numbers are allowed",
            "Leave out the models without a number, or pass a table to correlations().",
        )
    return data


def _check_effort(resamples: int, trials: int, confidence: float) -> None:
    if resamples < 100 or trials < 100 or not 0 < confidence < 1:
        raise InvalidValue(
            f"resamples={resamples}, trials={trials} and confidence={confidence} were given",
            "100 or more resamples and trials and a confidence in (0, 1) are allowed",
            "Correct the number; the defaults take milliseconds.",
        )


def _check_table(table: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        if name not in table.columns:
            raise UnknownName(f"the column {name!r} was given", "", did_you_mean(str(name), map(str, table.columns)))
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise InvalidValue(
                f"the column {name!r} of {table[name].dtype} was given",
                "numbers are allowed",
                "Name the columns to correlate.",
            )
    if not table.index.is_unique:
        raise InvalidValue(
            f"two models named {table.index[table.index.duplicated()][0]!r} were given",
            "one row for each model is allowed",
            "Rename one, or remove what is measured twice.",
        )


def _gap(number: float) -> float | None:
    return None if math.isnan(number) else float(number)
