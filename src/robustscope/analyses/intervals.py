"""Exact intervals for one proportion, and paired comparison of two models on the same samples."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from robustscope.analyses._common import ANALYSES, facts, frame, join, models, radii, verdict, why_withheld
from robustscope.core.errors import InvalidValue


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided interval for a proportion of which k of n were seen.

    Its coverage is at least ``confidence`` for every true proportion; it never leaves [0, 1].

    Args:
        k: successes, 0 to n.
        n: trials, at least 1.
        confidence: strictly between 0 and 1.

    Returns:
        (low, high), fractions.

    Raises:
        InvalidValue: if n < 1, k is outside 0..n, or confidence is outside (0, 1).

    Example:
        >>> low, high = clopper_pearson(0, 10)
        >>> low, round(high, 4)
        (0.0, 0.3085)

    Source:
        Clopper and Pearson, 1934, doi:10.1093/biomet/26.4.404; in its beta form.
    """
    if n < 1 or not 0 <= k <= n or not 0 < confidence < 1:
        raise InvalidValue(
            f"k={k}, n={n}, confidence={confidence} were given",
            "n >= 1, 0 <= k <= n and 0 < confidence < 1 are allowed",
            "An interval needs at least one sample.",
        )
    tail = (1 - confidence) / 2
    low = 0.0 if k == 0 else float(stats.beta.ppf(tail, k, n - k + 1))
    high = 1.0 if k == n else float(stats.beta.ppf(1 - tail, k + 1, n - k))
    return low, high


def proportion(k: int | None, n: int) -> tuple[float | None, float | None, float | None]:
    """Return (value, low, high) of k of n with the exact 95 % interval; three gaps if k is None."""
    if k is None:
        return None, None, None
    return (k / n, *clopper_pearson(k, n))


def rate(k: int | None, n: int) -> dict[str, Any]:
    """Return :func:`proportion` with its counts: value, low, high, k and n."""
    value, low, high = proportion(k, n)
    return {"value": value, "low": low, "high": high, "k": k, "n": n}


def clustered(shares: np.ndarray, each: int) -> tuple[float, float, float]:
    """Return the mean of shares of several answers for each sample, with its 95 % interval.

    Answers about one sample go together, so that they count for fewer than they are: for as many independent ones as would
    vary as much as the mean does, at least one for each sample. The interval is exact for that number.

    Args:
        shares: (n,), in [0, 1], of each sample.
        each: answers of a sample, at least 1; with 1 it is the interval of Clopper and Pearson.

    Returns:
        (value, low, high), fractions.

    Raises:
        InvalidValue: for no samples, shares outside [0, 1], or ``each`` below 1.

    Example:
        >>> alike = clustered(np.array([1.0, 1.0, 0.0, 0.0]), 5)
        >>> np.allclose(alike, proportion(2, 4))
        True

    Source:
        Korn and Graubard, 1998, Survey Methodology 24, 193-201, Sec. 3: Clopper-Pearson with the effective sample size.

    Departures: the effective size stays between n and n times ``each``.
    """
    n = len(shares)
    if n < 1 or each < 1 or not ((shares >= 0) & (shares <= 1)).all():
        raise InvalidValue(
            f"{n} shares of {each} answers were given",
            "one share in [0, 1] for each of one or more samples, and one answer or more, are allowed",
            "Divide the answers that are right by all of a sample.",
        )
    value = float(shares.mean())
    size = float(n)
    if 0 < value < 1 and n > 1 and each > 1:
        spread = float(shares.var(ddof=1)) / n
        most = float(n * each)
        fewer = (stats.t.ppf(0.975, most - 1) / stats.t.ppf(0.975, n - 1)) ** 2
        size = min(max(value * (1 - value) / spread * fewer if spread else most, n), most)
    k = value * size
    low = 0.0 if k == 0 else float(stats.beta.ppf(0.025, k, size - k + 1))
    high = 1.0 if value == 1 else float(stats.beta.ppf(0.975, k + 1, size - k))
    return value, low, high


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value that two paired classifiers are equally good.

    Only the samples on which they differ matter: under the hypothesis each is a fair coin.

    Args:
        only_first, only_second: samples that only the first, or only the second, gets right.

    Example:
        >>> mcnemar(0, 5)
        0.0625

    Source:
        McNemar, 1947, doi:10.1007/BF02295996; the exact binomial form.
    """
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)


def paired_difference(both: int, only_first: int, only_second: int, neither: int) -> tuple[float, float]:
    """Return the 95 % interval of first minus second proportion, both seen on the same samples.

    Args:
        both, only_first, only_second, neither: counts of samples; at least one in all.

    Returns:
        (low, high) in [-1, 1].

    Example:
        >>> low, high = paired_difference(40, 0, 0, 10)
        >>> low < 0 < high
        True

    Source:
        Newcombe, 1998, doi:10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-SIM954>3.0.CO;2-C, method 10.
    """
    n = both + only_first + only_second + neither
    if n < 1:
        raise InvalidValue("no samples were given", "at least one is needed", "Compare models on the same samples.")
    first, second = both + only_first, both + only_second
    low_1, high_1 = stats.binomtest(first, n).proportion_ci(method="wilson")
    low_2, high_2 = stats.binomtest(second, n).proportion_ci(method="wilson")
    spread = float(first) * (n - first) * second * (n - second)
    cross = float(both) * neither - float(only_first) * only_second
    # the continuity correction of method 10: a positive association is shrunk, never beyond zero
    if cross > 0:
        cross = max(cross - n / 2, 0.0)
    phi = cross / np.sqrt(spread) if spread else 0.0
    p_1, p_2 = first / n, second / n
    down = _combine(p_1 - low_1, high_2 - p_2, phi)
    up = _combine(high_1 - p_1, p_2 - low_2, phi)
    difference = p_1 - p_2
    return max(-1.0, difference - down), min(1.0, difference + up)


def _combine(a: float, b: float, phi: float) -> float:
    return float(np.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0)))


def holm(p_values: list[float]) -> list[float]:
    """Return p-values adjusted for the number of comparisons.

    Example:
        >>> holm([0.01, 0.04])
        [0.02, 0.04]

    Source:
        Holm, 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


COLUMNS = {
    "first": "object",
    "second": "object",
    "norm": "object",
    "epsilon": "Float64",
    "n": "Int64",
    "both": "Int64",
    "only_first": "Int64",
    "only_second": "Int64",
    "neither": "Int64",
    "difference": "Float64",
    "low": "Float64",
    "high": "Float64",
    "p": "Float64",
    "p_holm": "Float64",
    "reason": "object",
}


@ANALYSES.register(
    "comparison",
    version=1,
    source="McNemar, 1947, doi:10.1007/BF02295996; Newcombe, 1998, method 10; Holm, 1979",
    ranges={"difference": (-1, 1), "low": (-1, 1), "high": (-1, 1), "p": (0, 1), "p_holm": (0, 1)},
    direction={"difference": "neither", "p": "neither"},
    columns=COLUMNS,
)
def comparison(table: pd.DataFrame, plan: Mapping[str, Any]) -> pd.DataFrame:
    """Compare the robust accuracy of every two models on the samples that both were given.

    Returns:
        One row for each pair and headline radius: counts of samples that both, one or neither classifies robustly,
        the paired difference (first minus second) with its 95 % interval, and the exact p-value, plain and adjusted.
        Where either robust accuracy is withheld, the numbers are gaps and ``reason`` says why.
    """
    rows = join(table, plan)
    known = facts(rows)
    found: list[dict[str, Any]] = []
    for first, second in combinations(models(rows, plan), 2):
        shared = {spot[:2] for spot in radii(plan, second) if spot[2]}
        for norm, epsilon, headline in radii(plan, first):
            if headline and (norm, epsilon) in shared:
                found.append(_pair(rows, known, plan, (first, second), norm, epsilon))
    decided = [row for row in found if row["p"] is not None]
    for row, adjusted in zip(decided, holm([row["p"] for row in decided]), strict=True):
        row["p_holm"] = adjusted
    return frame(found, COLUMNS)


def _pair(
    rows: pd.DataFrame, known: pd.DataFrame, plan: Mapping[str, Any], pair: tuple[str, str], norm: str, epsilon: float
) -> dict[str, Any]:
    """Return one row of :func:`comparison`."""
    verdicts = [verdict(rows, known, model, norm, epsilon)["robust"] for model in pair]
    a, b = verdicts[0].align(verdicts[1], join="inner")
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"first": pair[0], "second": pair[1], "norm": norm, "epsilon": epsilon, "n": len(a)}
    reasons = [f"{m}: {why}" for m in pair if (why := why_withheld(rows, plan, m, norm, epsilon))]
    if not len(a):
        reasons.append("the models have no sample in common")
    if reasons:
        return row | {"reason": "; ".join(reasons)}
    counts = [int(mask.sum()) for mask in (a & b, a & ~b, ~a & b, ~a & ~b)]
    low, high = paired_difference(*counts)
    row |= dict(zip(("both", "only_first", "only_second", "neither"), counts, strict=True))
    return row | {
        "difference": (counts[1] - counts[2]) / len(a),
        "low": low,
        "high": high,
        "p": mcnemar(counts[1], counts[2]),
    }
