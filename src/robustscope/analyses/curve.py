"""Accuracy against epsilon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from robustscope.analyses._common import ANALYSES, frame
from robustscope.analyses.accuracy import accuracy

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
    version=1,
    source="Dong et al., 2020, arXiv:1912.11852 (accuracy against perturbation budget)",
    ranges={"accuracy": (0.0, 1.0), "low": (0.0, 1.0), "high": (0.0, 1.0)},
    direction={"accuracy": "higher is more robust"},
    columns=COLUMNS,
)
def curve(table: pd.DataFrame, plan: Mapping[str, Any]) -> pd.DataFrame:
    """Compute the accuracy-against-epsilon curve of each model and norm; epsilon 0 is the clean accuracy.

    It never rises: what a small ball contains, a larger one contains too.

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
        for _, row in part.iterrows():
            point = {name: row[name] for name in ("model", "norm", "epsilon", "headline", "n", "reason")}
            point |= {"k": row["robust_k"], "accuracy": row["robust_accuracy"]}
            found.append(point | {"low": row["robust_low"], "high": row["robust_high"]})
    return frame(found, COLUMNS)
