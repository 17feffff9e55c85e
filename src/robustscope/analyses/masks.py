"""What foreground masks change: accuracy and robust accuracy for each kind of mask, beside what the attacker could reach."""

from __future__ import annotations

from typing import Any

import pandas as pd

from robustscope.analyses.intervals import paired_difference, rate
from robustscope.core.errors import CorruptRun, InvalidValue

CONTROL = "random"
"""The kind that every other is compared with: as many pixels, at random places."""
_NEEDED = ("kind", "sample", "share", "dimension", "clean_correct", "robust")


def mask_summary(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Summarise the rows of one model under several kinds of masks.

    Args:
        rows: one for each (kind, sample), as ``robustscope.runs.masks.evaluate_masks`` returns them.

    Returns:
        For each kind in the order in which it comes: ``kind``, ``n``, ``share`` (mean share of the pixels), ``dimension``
        (mean number of values that the attacker can change to any effect), ``clean`` and ``robust`` (rates with value, low,
        high, k, n), and ``gain``: robust accuracy minus that of :data:`CONTROL` with its paired 95 % interval, None
        where that kind is absent, and for itself. Fractions everywhere.

    Raises:
        InvalidValue: for no rows or missing columns.
        CorruptRun: if the kinds are of different samples.
    """
    absent = [name for name in _NEEDED if name not in rows.columns]
    if absent or rows.empty:
        raise InvalidValue(
            f"{len(rows)} rows without {', '.join(absent) or 'a gap'} were given",
            f"rows with {', '.join(_NEEDED)} are allowed",
            "Give what evaluate_masks returned.",
        )
    parts = {str(kind): part.sort_values("sample", kind="stable") for kind, part in rows.groupby("kind", sort=False)}
    samples = [part["sample"].tolist() for part in parts.values()]
    if any(listed != samples[0] or len(set(listed)) < len(listed) for listed in samples):
        raise CorruptRun(
            f"the kinds {', '.join(parts)} have {', '.join(str(len(listed)) for listed in samples)} rows",
            "one row for each kind and sample is allowed",
            "Evaluate every kind on the same samples.",
        )
    return [
        {
            "kind": kind,
            "n": len(part),
            "share": float(part["share"].mean()),
            "dimension": float(part["dimension"].mean()),
            "clean": rate(int(part["clean_correct"].sum()), len(part)),
            "robust": rate(int(part["robust"].sum()), len(part)),
            "gain": _gain(part["robust"], parts[CONTROL]["robust"]) if CONTROL in parts and kind != CONTROL else None,
        }
        for kind, part in parts.items()
    ]


def _gain(mine: pd.Series, control: pd.Series) -> dict[str, float]:
    first, second = mine.to_numpy(bool), control.to_numpy(bool)
    counts = [int(part.sum()) for part in (first & second, first & ~second, ~first & second, ~first & ~second)]
    low, high = paired_difference(*counts)
    return {"value": (counts[1] - counts[2]) / len(first), "low": low, "high": high}
