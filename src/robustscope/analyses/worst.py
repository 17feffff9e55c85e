"""The samples that break first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from robustscope.analyses._common import ANALYSES, class_name, facts, frame, join, models, radii

COLUMNS = {
    "model": "object",
    "norm": "object",
    "epsilon": "Float64",
    "rank": "Int64",
    "sample": "Int64",
    "y": "Int64",
    "class_name": "object",
    "y_adv": "Int64",
    "adv_class_name": "object",
    "distance": "Float64",
    "cell": "Int64",
    "label": "object",
    "clean_margin": "Float64",
    "clean_confidence": "Float64",
    "adv_confidence": "Float64",
}
_COPIED = ("clean_margin", "clean_confidence", "adv_confidence")


def nearest(rows: pd.DataFrame, model: str, norm: str, epsilon: float) -> pd.DataFrame:
    """Return, for each broken sample, the row of its nearest adversarial example found within epsilon.

    Args:
        rows: what ``join`` returned.
        model, norm, epsilon: whose examples.

    Returns:
        Rows of the table, one for each sample, nearest first; ties by clean margin, then by sample id.
    """
    part = rows[(rows["model"] == model) & (rows["norm"] == norm) & (rows["epsilon"] <= epsilon) & rows["success"]]
    part = part.sort_values(["distance", "cell"]).drop_duplicates("sample")
    return part.sort_values(["distance", "clean_margin", "sample"])


@ANALYSES.register(
    "worst",
    version=1,
    source="the smallest adversarial distance found, an upper bound on the distance to the decision boundary",
    ranges={"distance": (0.0, float("inf")), "clean_confidence": (0.0, 1.0), "adv_confidence": (0.0, 1.0)},
    direction={"distance": "higher is more robust"},
    columns=COLUMNS,
)
def worst(table: pd.DataFrame, plan: Mapping[str, Any], *, count: int = 10) -> pd.DataFrame:
    """List the correctly classified samples with the nearest adversarial examples, for each model and headline radius.

    Args:
        table: one row for each (cell, sample).
        plan: the plan of the run.
        count: most samples for each model and radius; at least 1.

    Returns:
        One row for each listed sample: nearest first, ties by the smaller clean margin. No rows where nothing broke.

    Raises:
        InvalidValue, CorruptRun: as ``accuracy``.
    """
    rows = join(table, plan)
    facts(rows)  # contradictory rows are refused here as everywhere
    labels = {cell["index"]: cell["label"] for cell in plan["cells"]}
    found: list[dict[str, Any]] = []
    for model in models(rows, plan):
        for norm, epsilon, headline in radii(plan, model):
            if not headline:
                continue
            part = nearest(rows, model, norm, epsilon)
            for rank, (_, row) in enumerate(part.head(count).iterrows(), start=1):
                entry: dict[str, Any] = {"model": model, "norm": norm, "epsilon": epsilon, "rank": rank}
                entry |= {name: int(row[name]) for name in ("sample", "y", "y_adv", "cell")}
                entry |= {name: _number(row.get(name)) for name in ("distance", *_COPIED)}
                entry["class_name"] = class_name(plan, model, entry["y"])
                entry["adv_class_name"] = class_name(plan, model, entry["y_adv"])
                entry["label"] = labels[entry["cell"]]
                found.append(entry)
    return frame(found, COLUMNS)


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)
