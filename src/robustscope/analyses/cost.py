"""What the numbers cost: rows through each model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from robustscope.analyses._common import ANALYSES, facts, frame, join, models, radii

COLUMNS = {
    "model": "object",
    "norm": "object",
    "epsilon": "Float64",
    "headline": "bool",
    "n": "Int64",
    "forward": "Int64",
    "backward": "Int64",
    "forward_per_sample": "Float64",
    "backward_per_sample": "Float64",
}


@ANALYSES.register(
    "cost",
    version=1,
    source="rows counted by the model's ledger as they pass",
    ranges={name: (0.0, float("inf")) for name in ("forward_per_sample", "backward_per_sample")},
    direction={"forward_per_sample": "neither", "backward_per_sample": "neither"},
    columns=COLUMNS,
)
def cost(table: pd.DataFrame, plan: Mapping[str, Any]) -> pd.DataFrame:
    """Count the rows that attacks sent forward and backward.

    Returns:
        One row for each model and radius, with the rows of all attacks that count towards its robust accuracy (the same
        norm, that radius or a smaller one); and one for each model with ``norm`` and ``epsilon`` empty: all its attacks.
        ``..._per_sample`` divides by all n evaluated samples, also those that needed no attack.

    Raises:
        InvalidValue, CorruptRun: as ``accuracy``.
    """
    rows = join(table, plan)
    known = facts(rows)
    found = []
    for model in models(rows, plan):
        mine, n = rows[rows["model"] == model], len(known.loc[model])
        for norm, epsilon, headline in [(None, None, False), *radii(plan, model)]:
            part = mine if norm is None else mine[(mine["norm"] == norm) & (mine["epsilon"] <= epsilon)]
            spent: dict[str, Any] = {name: int(part[name].sum()) for name in ("forward", "backward")}
            spent |= {f"{name}_per_sample": spent[name] / n for name in ("forward", "backward")}
            found.append({"model": model, "norm": norm, "epsilon": epsilon, "headline": headline, "n": n, **spent})
    return frame(found, COLUMNS)
