"""Clean and robust accuracy of each model at each radius."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from robustscope.analyses._common import ANALYSES, facts, frame, join, models, radii, verdict, why_withheld
from robustscope.analyses.intervals import proportion

COLUMNS = {
    "model": "object",
    "norm": "object",
    "epsilon": "Float64",
    "headline": "bool",
    "n": "Int64",
    "clean_k": "Int64",
    "clean_accuracy": "Float64",
    "clean_low": "Float64",
    "clean_high": "Float64",
    "robust_k": "Int64",
    "robust_accuracy": "Float64",
    "robust_low": "Float64",
    "robust_high": "Float64",
    "reason": "object",
}
_UNIT = (0.0, 1.0)


@ANALYSES.register(
    "accuracy",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705; intervals: Clopper and Pearson, 1934",
    ranges={name: _UNIT for name in COLUMNS if name.endswith(("_accuracy", "_low", "_high"))},
    direction={"clean_accuracy": "neither", "robust_accuracy": "higher is more robust"},
    columns=COLUMNS,
)
def accuracy(table: pd.DataFrame, plan: Mapping[str, Any]) -> pd.DataFrame:
    """Compute clean and robust accuracy with exact 95 % intervals.

    Clean accuracy is correct / all. Robust accuracy is (correct, and broken by no attack at that radius or at a smaller
    one of the same norm) / all: the worst case over the suite for each sample.

    Args:
        table: one row for each (cell, sample).
        plan: the plan of the run.

    Returns:
        One row for each model, norm and radius. Robust accuracy is a gap, and ``reason`` says why, while any attack
        that counts at that radius ended in an error or ran out of time.

    Raises:
        InvalidValue: for a table without rows.
        CorruptRun: for missing, doubled or contradictory rows.
    """
    rows = join(table, plan)
    known = facts(rows)
    found = []
    for model in models(rows, plan):
        clean = known.loc[model, "clean_correct"]
        n = len(clean)
        clean_k = None if clean.isna().any() else int(clean.sum())
        for norm, epsilon, headline in radii(plan, model):
            reason = why_withheld(rows, plan, model, norm, epsilon)
            robust_k = None if reason else int(verdict(rows, known, model, norm, epsilon)["robust"].sum())
            row = {"model": model, "norm": norm, "epsilon": epsilon, "headline": headline, "n": n, "reason": reason}
            for name, k in (("clean", clean_k), ("robust", robust_k)):
                value, low, high = proportion(k, n)
                row |= {f"{name}_k": k, f"{name}_accuracy": value, f"{name}_low": low, f"{name}_high": high}
            found.append(row)
    return frame(found, COLUMNS)
