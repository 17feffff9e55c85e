"""What the rows of shifts say: accuracy and calibration for each corruption and severity, and their means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from robustscope.analyses.calibration import aurra, rms_calibration_error
from robustscope.analyses.corruption_errors import (
    ALEXNET,
    ALEXNET_CLEAN,
    Errors,
    corruption_errors,
    mce,
    mean_error,
    relative_mce,
)
from robustscope.analyses.intervals import clustered, rate
from robustscope.core.errors import CorruptRun, InvalidValue

CLEAN = "clean"
"""The corruption that is none, of severity 0."""
SOURCE = (
    "Hendrycks & Dietterich, 2019, arXiv:1903.12261 (mCE, mFR); Hendrycks et al., 2021, arXiv:1907.07174 (RMS calibration "
    "error, AURRA); intervals: Clopper and Pearson, 1934; Korn and Graubard, 1998"
)
VERSION = 1
_NEEDED = ("corruption", "severity", "sample", "correct", "confidence")
Part = tuple[str, int]


def shift_summary(
    rows: pd.DataFrame,
    baseline: Errors | None = None,
    baseline_clean: float | None = None,
    *,
    clean: pd.DataFrame | None = None,
    families: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Summarise the rows of one model.

    Args:
        rows: one for each (corruption, severity, sample), as ``robustscope.runs.shifts.read_shifts`` returns them, with
            correct (bool) and confidence, the probability of the predicted class; NaN where the model tells none, which
            leaves calibration out.
        baseline: errors that the mCE divides by, of the same corruptions: those of another model, or
            ``corruption_errors.ALEXNET`` for ImageNet-C; without it there is no mCE.
        baseline_clean: the baseline's clean error, for the relative mCE.
        clean: rows of clean samples, if they are not among ``rows``: correct and confidence.
        families: corruption -> its family, for means over families.

    Returns:
        ``clean`` (None if no row is clean), ``cells`` (one for each corruption and severity), ``corruptions`` and
        ``families`` (one each), ``shifted`` (all but the clean rows together), ``mean_error``, and ``mce`` and
        ``relative_mce``, None where they are not defined. Rates come as value, low, high and n, with the exact 95 % interval
        and k for one severity; for several, whose pictures are the same, with that of
        :func:`robustscope.analyses.intervals.clustered`. Fractions everywhere.

    Raises:
        InvalidValue: for missing columns, no corrupted row, and a baseline of other corruptions.
        CorruptRun: if a sample is doubled, or another set of samples stands behind a severity.
    """
    absent = [name for name in _NEEDED if name not in rows.columns]
    if absent or not (rows["corruption"] != CLEAN).any():
        raise InvalidValue(
            f"rows without {', '.join(absent) or 'a corruption'} were given",
            f"rows with the columns {', '.join(_NEEDED)}, some of them corrupted, are allowed",
            "Give what read_shifts returned.",
        )
    parts = dict(_parts(rows))
    unshifted = parts.pop((CLEAN, 0), None) if clean is None else clean
    names = list(dict.fromkeys(name for name, _ in parts))
    cells = {part: _rates(own) for part, own in parts.items()}
    errors = {name: [1 - cell["value"] for part, cell in cells.items() if part[0] == name] for name in names}
    ratios = corruption_errors(errors, baseline) if baseline is not None else {}
    clean_rates = None if unshifted is None else _rates(unshifted)
    relative = None
    if baseline is not None and baseline_clean is not None and clean_rates is not None:
        relative = relative_mce(errors, 1 - clean_rates["value"], baseline, baseline_clean)
    groups: dict[str, list[str]] = {}
    for name in names if families else ():
        groups.setdefault((families or {})[name], []).append(name)
    return {
        "n": len(next(iter(parts.values()))),
        "clean": clean_rates,
        "cells": [{"corruption": name, "severity": severity, **cell} for (name, severity), cell in cells.items()],
        "corruptions": [
            {"corruption": name, "error": mean_error({name: errors[name]}), "ratio": ratios.get(name)}
            | _mean(parts, [name])
            for name in names
        ],
        "families": [
            {"family": family, "corruptions": several, **_mean(parts, several)} for family, several in groups.items()
        ],
        "shifted": _mean(parts, names),
        "mean_error": mean_error(errors),
        "mce": mce(errors, baseline) if baseline is not None else None,
        "relative_mce": relative,
    }


def against(
    rows: pd.DataFrame,
    reference: tuple[Errors, float | None] | None,
    *,
    clean: pd.DataFrame | None,
    families: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Summarise as :func:`shift_summary`; a ratio that is not defined is a gap with its reason.

    Args:
        rows, clean, families: as there.
        reference: errors and clean error of the reference; None for none.

    Returns:
        As there, with ``mce_reason``, None where nothing is missing.
    """
    errors, clean_error = reference or (None, None)
    try:
        return {**shift_summary(rows, errors, clean_error, clean=clean, families=families), "mce_reason": None}
    except InvalidValue as error:
        if errors is None:
            raise
        reason = str(error)
    try:
        found = shift_summary(rows, errors, clean=clean, families=families)
    except InvalidValue:
        found = shift_summary(rows, clean=clean, families=families)
    return {**found, "mce_reason": reason}


def add_differences(summary: dict[str, Any], rows: pd.DataFrame, others: pd.DataFrame) -> None:
    """Add to the summary of a model by how much it is more accurate than another one, on the same pictures.

    Args:
        summary: what :func:`shift_summary` returned; its corruptions, families and means get ``difference``: value, low and
            high, the 95 % interval by Student's t over the images.
        rows: of this model.
        others: of the other one, on the same samples.
    """
    mine, theirs = dict(_parts(rows)), dict(_parts(others))
    for parts in (mine, theirs):
        parts.pop((CLEAN, 0), None)
    for row in summary["corruptions"]:
        row["difference"] = _difference(mine, theirs, [row["corruption"]])
    for row in summary["families"]:
        row["difference"] = _difference(mine, theirs, row["corruptions"])
    shifted = summary["shifted"]
    shifted["difference"] = _difference(mine, theirs, [row["corruption"] for row in summary["corruptions"]])


def _difference(
    mine: Mapping[Part, pd.DataFrame], theirs: Mapping[Part, pd.DataFrame], names: Sequence[str]
) -> dict[str, float | None]:
    gaps = _shares(mine, names) - _shares(theirs, names)
    value, n = float(gaps.mean()), len(gaps)
    if n < 2:
        return {"value": value, "low": None, "high": None}
    half = float(stats.t.ppf(0.975, n - 1) * gaps.std(ddof=1) / np.sqrt(n))
    return {"value": value, "low": max(-1.0, value - half), "high": min(1.0, value + half)}


def alexnet() -> tuple[Errors, float | None]:
    """Return errors and clean error of the AlexNet that ImageNet-C is normalised by."""
    return ALEXNET, ALEXNET_CLEAN


def errors_of(summary: Mapping[str, Any]) -> tuple[Errors, float | None]:
    """Return errors and clean error of a model, out of its summary, for others to be divided by."""
    errors: dict[str, list[float]] = {}
    for cell in summary["cells"]:
        errors.setdefault(cell["corruption"], []).append(1 - cell["value"])
    return errors, None if summary["clean"] is None else 1 - summary["clean"]["value"]


def _parts(rows: pd.DataFrame) -> Iterator[tuple[Part, pd.DataFrame]]:
    """Yield correct and confidence of each severity, ordered by sample: corruptions in the order in which they come.

    Raises:
        CorruptRun: if a sample is doubled, or another set of samples stands behind a severity.
    """
    expected: np.ndarray | None = None
    for name in dict.fromkeys(map(str, rows["corruption"].unique())):
        mine = rows[rows["corruption"] == name]
        for severity in sorted(map(int, mine["severity"].unique())):
            part = mine[mine["severity"] == severity].sort_values("sample", kind="stable")
            samples = part["sample"].to_numpy()
            expected = np.unique(samples) if expected is None else expected
            if not np.array_equal(samples, expected):
                raise CorruptRun(
                    f"{name} of severity {severity} has {len(part)} rows of {part['sample'].nunique()} samples; others have "
                    f"{len(expected)}",
                    "one row of each sample for every severity is allowed",
                    "Evaluate the missing ones on the same samples.",
                )
            yield (name, severity), part[["correct", "confidence"]]


def _rates(part: pd.DataFrame) -> dict[str, Any]:
    return {**rate(int(part["correct"].sum()), len(part)), **_calibration([part])}


def _mean(parts: Mapping[Part, pd.DataFrame], names: Sequence[str]) -> dict[str, Any]:
    """Return the mean accuracy over corruptions of the mean over their severities, and the calibration of all together."""
    shares, together = _shares(parts, names), [rows for part, rows in parts.items() if part[0] in names]
    value, low, high = clustered(shares, len(together))
    return {"value": value, "low": low, "high": high, "n": len(shares), **_calibration(together)}


def _shares(parts: Mapping[Part, pd.DataFrame], names: Sequence[str]) -> np.ndarray:
    """Return how often each sample is right (n,): the mean over corruptions of the mean over their severities."""
    several = ([rows["correct"].to_numpy(float) for part, rows in parts.items() if part[0] == name] for name in names)
    return np.mean([np.mean(own, 0) for own in several], 0)


def _calibration(parts: Sequence[pd.DataFrame]) -> Mapping[str, float | None]:
    confidence = np.concatenate([part["confidence"].to_numpy() for part in parts])
    correct = np.concatenate([part["correct"].to_numpy(dtype=bool) for part in parts])
    if np.isnan(confidence).any():
        return {"confidence": None, "rms_calibration_error": None, "aurra": None}
    return {
        "confidence": float(confidence.mean(dtype=np.float64)),
        "rms_calibration_error": rms_calibration_error(confidence, correct),
        "aurra": aurra(confidence, correct),
    }
