"""How far the nearest adversarial examples lie: histogram data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from robustscope.analyses._common import ANALYSES, facts, frame, join, models, radii
from robustscope.analyses.worst import nearest

COLUMNS = {
    "model": "object",
    "norm": "object",
    "epsilon": "Float64",
    "left": "Float64",
    "right": "Float64",
    "count": "Int64",
    "broken": "Int64",
    "n": "Int64",
}


@ANALYSES.register(
    "distances",
    version=1,
    source="counts of the smallest adversarial distance found for each sample",
    ranges={"left": (0.0, float("inf")), "right": (0.0, float("inf")), "count": (0.0, float("inf"))},
    direction={"count": "neither"},
    columns=COLUMNS,
)
def distances(table: pd.DataFrame, plan: Mapping[str, Any], *, bins: int = 24) -> pd.DataFrame:
    """Count broken samples by the distance of their nearest adversarial example, at the headline radii.

    The bins are equal, from 0 to epsilon, and do not depend on the data: counts of parts add up to those of the whole.
    Distances that exceed epsilon by rounding fall into the last bin. Radii without an end are left out.

    Returns:
        ``bins`` rows for each model and finite headline radius: [left, right), the last one closed.

    Raises:
        InvalidValue, CorruptRun: as ``accuracy``.
    """
    rows = join(table, plan)
    known = facts(rows)
    found: list[dict[str, Any]] = []
    for model in models(rows, plan):
        for norm, epsilon, headline in radii(plan, model):
            if not headline or not 0 < epsilon < float("inf"):
                continue
            values = nearest(rows, model, norm, epsilon)["distance"].to_numpy(float)
            edges = np.linspace(0.0, epsilon, bins + 1)
            counts, _ = np.histogram(np.clip(values, 0.0, epsilon), edges)
            shared = {
                "model": model,
                "norm": norm,
                "epsilon": epsilon,
                "broken": len(values),
                "n": len(known.loc[model]),
            }
            for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
                found.append(shared | {"left": float(left), "right": float(right), "count": int(count)})
    return frame(found, COLUMNS)
