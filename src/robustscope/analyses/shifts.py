"""What the rows of shifts say: accuracy and calibration for each corruption and severity, and their means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from robustscope.analyses.calibration import aurra, rms_calibration_error
from robustscope.analyses.corruption_errors import Errors, corruption_errors, mce, mean_error, relative_mce
from robustscope.analyses.intervals import proportion
from robustscope.core.errors import CorruptRun, InvalidValue

CLEAN = "clean"
"""The corruption that is none, of severity 0."""
_NEEDED = ("corruption", "severity", "sample", "correct", "confidence")


def shift_summary(
    rows: pd.DataFrame, baseline: Errors | None = None, baseline_clean: float | None = None
) -> dict[str, Any]:
    """Summarise the rows of one model.

    Args:
        rows: one for each (corruption, severity, sample), as ``robustscope.runs.shifts.read_shifts`` returns them, with
            correct (bool) and confidence, the probability of the predicted class.
        baseline: errors that the mCE divides by, of the same corruptions: those of another model, or
            ``corruption_errors.ALEXNET`` for ImageNet-C; without it there is no mCE.
        baseline_clean: the baseline's clean error, for the relative mCE.

    Returns:
        ``clean`` (None if no row is clean), ``cells`` (one for each corruption and severity), ``corruptions`` (one each),
        ``shifted`` (all but the clean rows together), ``mean_error``, and ``mce`` and ``relative_mce``, None where they are
        not defined. Rates come as value, low, high, k, n with the exact 95 % interval; fractions everywhere. The
        interval of several cells together would treat one image as many, and is left out.

    Raises:
        InvalidValue: for missing columns, no corrupted row, and a baseline of other corruptions.
        CorruptRun: if a sample is doubled, or another set of samples stands behind a severity.
    """
    absent = [name for name in _NEEDED if name not in rows.columns]
    shifted = rows[rows["corruption"] != CLEAN] if not absent else rows
    if absent or shifted.empty:
        raise InvalidValue(
            f"rows without {', '.join(absent) or 'a corruption'} were given",
            f"rows with the columns {', '.join(_NEEDED)}, some of them corrupted, are allowed",
            "Give what read_shifts returned.",
        )
    _check_samples(rows)
    clean = rows[rows["corruption"] == CLEAN]
    cells: list[dict[str, Any]] = [
        {"corruption": name, "severity": severity, **_rates(part)} for name, severity, part in _parts(shifted)
    ]
    errors = {
        name: [1 - cell["value"] for cell in cells if cell["corruption"] == name]
        for name in dict.fromkeys(map(str, shifted["corruption"]))
    }
    ratios = corruption_errors(errors, baseline) if baseline is not None else {}
    corruptions = [
        {
            "corruption": name,
            "error": sum(errors[name]) / len(errors[name]),
            "ratio": ratios.get(name),
            **_calibration(shifted[shifted["corruption"] == name]),
        }
        for name in errors
    ]
    clean_rates = _rates(clean) if len(clean) else None
    relative = None
    if baseline is not None and baseline_clean is not None and clean_rates is not None:
        relative = relative_mce(errors, 1 - clean_rates["value"], baseline, baseline_clean)
    return {
        "n": int(rows["sample"].nunique()),
        "clean": clean_rates,
        "cells": cells,
        "corruptions": corruptions,
        "shifted": _calibration(shifted),
        "mean_error": mean_error(errors),
        "mce": mce(errors, baseline) if baseline is not None else None,
        "relative_mce": relative,
    }


def _parts(rows: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Yield the rows of each severity: corruptions in the order in which they come, severities ascending."""
    for name in dict.fromkeys(map(str, rows["corruption"])):
        mine = rows[rows["corruption"] == name]
        for severity in sorted(set(map(int, mine["severity"]))):
            yield name, severity, mine[mine["severity"] == severity]


def _rates(part: pd.DataFrame) -> dict[str, Any]:
    k, n = int(part["correct"].sum()), len(part)
    value, low, high = proportion(k, n)
    return {"value": value, "low": low, "high": high, "k": k, "n": n, **_calibration(part)}


def _calibration(part: pd.DataFrame) -> Mapping[str, float]:
    confidence, correct = part["confidence"].to_numpy(dtype=float), part["correct"].to_numpy(dtype=bool)
    return {
        "confidence": float(confidence.mean()),
        "rms_calibration_error": rms_calibration_error(confidence, correct),
        "aurra": aurra(confidence, correct),
    }


def _check_samples(rows: pd.DataFrame) -> None:
    expected: set[int] | None = None
    for name, severity, part in _parts(rows):
        samples = set(part["sample"].tolist())
        expected = samples if expected is None else expected
        if len(samples) < len(part) or samples != expected:
            raise CorruptRun(
                f"{name} of severity {severity} has {len(part)} rows of {len(samples)} samples; others have {len(expected)}",
                "one row of each sample for every severity is allowed",
                "Evaluate the missing ones on the same samples.",
            )
