"""What the rows of sequences say: how often the class changes from frame to frame, and how far the top five move."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from robustscope.analyses.intervals import clustered
from robustscope.analyses.perturbations import (
    SHOWN,
    flip_probability,
    mean_flip_rate,
    mean_top5_distance,
    top5_distance,
)
from robustscope.core.errors import InvalidValue


def sequence_summary(
    rows: pd.DataFrame, frames: Mapping[str, int], noise: Collection[str], baseline: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Summarise the sequences of one model.

    Args:
        rows: one for each (corruption, sample), where the corruption is the family of a sequence; ``orders`` has the most
            probable classes of every frame, the best first, one frame after the other.
        frames: family -> frames of a sequence.
        noise: families whose frames are each compared with the first.
        baseline: summary of the reference that mFR and mT5D divide by; None for none.

    Returns:
        ``n``; ``sequences``, for each family its flip probability as value, low, high and n, the intervals with the samples
        as clusters, and ``top5``, the top-5 distance, None below five classes; ``mean_flips``, the plain mean; ``mfr`` and
        ``mt5d``, None where they are not defined, with ``reason``.

    Raises:
        InvalidValue: for no rows.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.3.
    """
    if rows.empty:
        raise InvalidValue(
            "no rows of sequences were given", "one or more are allowed", "Give what read_shift returned."
        )
    found = []
    for family in dict.fromkeys(map(str, rows["corruption"].unique())):
        mine = rows[rows["corruption"] == family]
        orders = np.stack(mine["orders"].to_list()).reshape(len(mine), frames[family], -1)
        still = family in noise
        shares = np.array([flip_probability(one[None, :, 0], still) for one in orders])
        value, low, high = clustered(shares, frames[family] - 1)
        wide = orders.shape[2] >= SHOWN
        entry = {"sequence": family, "value": value, "low": low, "high": high, "n": len(mine)}
        found.append({**entry, "top5": top5_distance(orders, still) if wide else None})
    ratios = {"mfr": None, "mt5d": None, "reason": None}
    if baseline is not None:
        ratios = _ratios(found, baseline["sequences"])
    mean = float(np.mean([entry["value"] for entry in found]))
    return {"n": int(rows["sample"].nunique()), "sequences": found, "mean_flips": mean, **ratios}


def _ratios(own: list[dict[str, Any]], other: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mFR and mT5D, gaps with a reason where the reference never changes its mind."""
    flips, base = ({entry["sequence"]: entry["value"] for entry in entries} for entries in (own, other))
    moves, moved = ({entry["sequence"]: entry["top5"] for entry in entries} for entries in (own, other))
    try:
        rate = mean_flip_rate(flips, base)
        far = mean_top5_distance(moves, moved) if None not in (*moves.values(), *moved.values()) else None
    except InvalidValue as error:
        return {"mfr": None, "mt5d": None, "reason": str(error)}
    return {"mfr": rate, "mt5d": far, "reason": None}
