"""Accuracy against epsilon."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from robustscope.analyses._common import ANALYSES, facts, frame, join, verdict
from robustscope.analyses.accuracy import accuracy
from robustscope.analyses.intervals import proportion
from robustscope.analyses.worst import nearest

STEPS = 24
"""Points of the curve that are read off the distances of an attack without a limit."""

COLUMNS = {
    "model": "object",
    "norm": "object",
    "epsilon": "Float64",
    "headline": "bool",
    "n": "Int64",
    "k": "Int64",
    "accuracy": "Float64",
    "low": "Float64",
    "high": "Float64",
    "reason": "object",
}


@ANALYSES.register(
    "curve",
    version=2,
    source="Dong et al., 2020, arXiv:1912.11852 (accuracy against perturbation budget)",
    ranges={"accuracy": (0.0, 1.0), "low": (0.0, 1.0), "high": (0.0, 1.0)},
    direction={"accuracy": "higher is more robust"},
    columns=COLUMNS,
)
def curve(table: pd.DataFrame, plan: Mapping[str, Any]) -> pd.DataFrame:
    """Compute the accuracy-against-epsilon curve of each model and norm; epsilon 0 is the clean accuracy.

    It never rises: what a small ball contains, a larger one contains too. Where minimum-norm attacks alone
    ran without a limit (epsilon = inf), the whole curve is in the distances of their examples: it is read off at equal
    steps up to the largest distance.

    Returns:
        One row for each model, norm and radius, radii ascending; gaps with a reason where an attack failed.

    Raises:
        InvalidValue, CorruptRun: as :func:`accuracy`.
    """
    found: list[dict[str, Any]] = []
    for (model, norm), part in accuracy(table, plan).groupby(["model", "norm"], sort=False):
        first = part.iloc[0]
        if first["epsilon"] > 0:
            unknown = bool(pd.isna(first["clean_k"]))
            start = {"model": model, "norm": norm, "epsilon": 0.0, "headline": False, "n": first["n"]}
            start |= {"k": first["clean_k"], "accuracy": first["clean_accuracy"]}
            start |= {"low": first["clean_low"], "high": first["clean_high"]}
            found.append(start | {"reason": first["reason"] if unknown else None})
        found += _between(table, plan, model, norm, part)
        for _, row in part.iterrows():
            point = {name: row[name] for name in ("model", "norm", "epsilon", "headline", "n", "reason")}
            point |= {"k": row["robust_k"], "accuracy": row["robust_accuracy"]}
            found.append(point | {"low": row["robust_low"], "high": row["robust_high"]})
    order = {name: place for place, name in enumerate(dict.fromkeys((row["model"], row["norm"]) for row in found))}
    found.sort(key=lambda row: (order[row["model"], row["norm"]], row["epsilon"]))
    return frame(found, COLUMNS)


def _between(
    table: pd.DataFrame, plan: Mapping[str, Any], model: str, norm: str, part: pd.DataFrame
) -> list[dict[str, Any]]:
    """Return the points between the planned radii, if minimum-norm attacks ran without a limit and none failed.

    An attack that only succeeds somewhere in the box says nothing about the radii before: its distances are left out.
    """
    endless = part[part["epsilon"] == math.inf]
    cells = [c for c in plan["cells"] if (c["model"], c["norm"], float(c["epsilon"])) == (model, norm, math.inf)]
    cells = [cell for cell in cells if "subset" not in cell]
    if endless["reason"].notna().any() or not cells or any(cell["aim"] != "minimum-norm" for cell in cells):
        return []
    rows = join(table, plan)
    known = facts(rows)
    furthest = nearest(rows, model, norm, math.inf)["distance"].max()
    if not 0 < furthest < math.inf:
        return []
    steps = np.linspace(0.0, float(furthest), STEPS + 1)[1:]
    found = []
    for epsilon in sorted(set(steps.tolist()) - set(part["epsilon"])):
        n, k = len(known.loc[model]), int(verdict(rows, known, model, norm, epsilon)["robust"].sum())
        value, low, high = proportion(k, n)
        point = {"model": model, "norm": norm, "epsilon": epsilon, "headline": False, "n": n, "reason": None}
        found.append(point | {"k": k, "accuracy": value, "low": low, "high": high})
    return found
