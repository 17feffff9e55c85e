"""What the rows of sequences say: how often the class changes from frame to frame, and how far the top five move."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from robustscope.analyses.intervals import clustered
from robustscope.analyses.perturbations import (
    SHOWN,
    distances_of,
    flips_of,
    mean_flip_rate,
    mean_top5_distance,
)
from robustscope.core.errors import InvalidValue


def measured(rows: pd.DataFrame, frames: Mapping[str, int], noise: Collection[str]) -> pd.DataFrame:
    """Return rows of sequences with two numbers in place of the classes of every frame.

    Args:
        rows, frames, noise: as for :func:`sequence_summary`.

    Returns:
        The rows in their order, without ``orders``; ``flips``, the share of comparisons in which the class changes, and
        ``top5``, the top-5 distance, NaN below five classes.
    """
    flips, top5 = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    families = rows["corruption"].astype(str).to_numpy()
    for family in dict.fromkeys(families.tolist()):
        places = np.flatnonzero(families == family)
        orders = np.stack(rows["orders"].iloc[places].to_list()).reshape(len(places), frames[family], -1)
        flips[places] = flips_of(orders[:, :, 0], family in noise)
        if orders.shape[2] >= SHOWN:
            top5[places] = distances_of(orders, family in noise)
    return rows.drop(columns="orders").assign(flips=flips, top5=top5)


def sequence_summary(
    rows: pd.DataFrame, frames: Mapping[str, int], noise: Collection[str], baseline: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Summarise the sequences of one model.

    Args:
        rows: one for each (corruption, sample), where the corruption is the family of a sequence; ``orders`` has the most
            probable classes of every frame, the best first, one frame after the other; or rows that are measured already.
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
    if "orders" in rows.columns:
        rows = measured(rows, frames, noise)
    found = []
    for family, mine in rows.groupby(rows["corruption"].astype(str), sort=False):
        value, low, high = clustered(mine["flips"].to_numpy(), frames[str(family)] - 1)
        entry = {"sequence": str(family), "value": value, "low": low, "high": high, "n": len(mine)}
        found.append({**entry, "top5": None if mine["top5"].isna().any() else float(mine["top5"].mean())})
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
