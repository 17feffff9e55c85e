"""A study as a table: one row for each model, one column for each property, and what is to be correlated.

Properties are named "probe.column". A number of a model is the mean over the samples that have one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd

from robustscope.analyses.accuracy import accuracy
from robustscope.analyses.calibration import rms_calibration_error
from robustscope.analyses.correlation import adjust, correlations
from robustscope.core.errors import InvalidValue, UnknownName, did_you_mean

CLEAN, ASCENT, ROBUST = "clean_accuracy", "accuracy_after_ascent", "robust_accuracy"
SIZES = ("calibration_error", "attacked_calibration_error")
FEWEST = 0.5
"""Share of the samples that must have a number for a model to have one."""
EXTRA = ("weight_sparsity.gini", "activation_sparsity.zeros")
"""Properties without an expected direction that the matrix shows nevertheless: the source finds them to rise and fall."""
BIN = 50
"""Samples of a bin of the calibration error."""


def study_table(rows: pd.DataFrame, figures: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """Return one row for each model and one column for each property.

    ``clean_accuracy``, ``accuracy_after_ascent`` (of the probe's short ascent: no robust accuracy) and the calibration errors
    follow from the probe "confidence".

    Args:
        rows: model, property, sample, value; NaN in a gap.
        figures: model, property, value.
        models: their order.

    Returns:
        Means over the samples that have a number; NaN where fewer than half of them have one, or a probe failed.

    Raises:
        InvalidValue: for no rows.
    """
    if not len(rows):
        raise InvalidValue("a study without rows was given", "one sample or more is allowed", "Run the study first.")
    known = rows.groupby(["model", "property"], sort=False)["value"].agg(["mean", "count", "size"]).reset_index()
    known["value"] = known["mean"].where(known["count"] >= FEWEST * known["size"])
    long = pd.concat([known[["model", "property", "value"]], figures], ignore_index=True)
    table = long.pivot(index="model", columns="property", values="value")
    order = list(dict.fromkeys(long["property"]))
    table = table.reindex(index=list(models), columns=order).astype(float)
    first = {CLEAN: table.get("confidence.correct"), ASCENT: table.get("confidence.attacked_correct")}
    for name, prefix in zip(SIZES, ("", "attacked_"), strict=True):
        first[name] = _calibration(rows, prefix, models)
    front = pd.DataFrame({name: column for name, column in first.items() if column is not None}, index=table.index)
    return pd.concat([front, table], axis=1).rename_axis(index="model", columns=None)


def _calibration(rows: pd.DataFrame, prefix: str, models: Sequence[str]) -> pd.Series | None:
    """Return the calibration error of each model, clean or attacked."""
    pair = [f"confidence.{prefix}{name}" for name in ("confidence", "correct")]
    mine = rows[rows["property"].isin(pair)]
    if not len(mine):
        return None
    wide = mine.pivot(index=["model", "sample"], columns="property", values="value")
    found = {}
    for model, part in wide.groupby(level="model"):
        sure, right = (part[name].to_numpy() for name in pair)
        found[str(model)] = rms_calibration_error(np.clip(sure, 0, 1), right > 0.5, bin_size=BIN)
    return pd.Series(found).reindex(list(models))


def add_robust_accuracy(
    table: pd.DataFrame,
    runs: Sequence[tuple[pd.DataFrame, Mapping[str, Any]]],
    models: Mapping[str, str],
    threat: str,
) -> pd.DataFrame:
    """Return the table with the robust accuracy that evaluations found, of the models with the same fingerprint.

    Args:
        table: what :func:`study_table` returned.
        runs: (table, plan) of each evaluation.
        models: name -> fingerprint; models with one fingerprint share what is found.
        threat: threat model of the study, such as "linf:8/255"; other headlines of an evaluation do not count.

    Raises:
        InvalidValue: if no evaluation is of a model of the study at its threat model, or one model has two robust
            accuracies.
    """
    found: dict[str, float] = {}
    norm, _, radius = threat.rpartition(":")
    epsilon = float(Fraction(radius.strip())) if radius.strip() != "inf" else math.inf
    for rows, plan in runs:
        marks = {model["name"]: model["fingerprint"] for model in plan["models"]}
        known = accuracy(rows, plan)
        same = (known["norm"] == norm) & np.isclose(known["epsilon"].astype(float), epsilon, rtol=1e-9, atol=0)
        known = known[known["headline"] & known["robust_accuracy"].notna() & same]
        for model, part in known.groupby("model"):
            for name in (name for name, mark in models.items() if mark == marks.get(str(model))):
                if name in found:
                    raise InvalidValue(
                        f"two evaluations of {name!r} were given", "one for each model is allowed", "Leave one out."
                    )
                found[name] = float(part["robust_accuracy"].iloc[-1])
    if not found:
        raise InvalidValue(
            f"evaluations of none of these models at {threat} were given",
            "evaluations of the same weights at the same threat model are allowed",
            "Evaluate the models of the study at its threat model, or leave --evaluated out.",
        )
    return pd.concat([pd.Series(found, name=ROBUST).reindex(table.index), table], axis=1)


def chosen_properties(
    table: pd.DataFrame, facts: Mapping[str, Mapping[str, Any]], asked: Sequence[str] = ()
) -> list[str]:
    """Return the properties that are correlated: those asked for, or accuracies and whatever a source expects to differ.

    Properties that do not vary, or that fewer than four models have, are left out of the choice.

    Raises:
        UnknownName: for a property that the table does not have.
    """
    for name in asked:
        if name not in table.columns:
            raise UnknownName(f"the property {name!r} was given", "", did_you_mean(name, map(str, table.columns)))
    if asked:
        return list(dict.fromkeys(asked))
    expected = [name for name in table.columns if name in facts and facts[name]["robust"] is not None]
    wanted = [ROBUST, CLEAN, ASCENT, *SIZES, *expected, *EXTRA]
    return [name for name in dict.fromkeys(wanted) if name in table.columns and _varies(table[name])]


def _varies(column: pd.Series) -> bool:
    return column.notna().sum() >= 4 and column.nunique() > 1


def expectations(
    table: pd.DataFrame, facts: Mapping[str, Mapping[str, Any]], *, seed: int = 0, resamples: int = 1999
) -> pd.DataFrame:
    """Compare what sources expect of robust models with how each property goes along with robustness here.

    Robustness is the robust accuracy where evaluations were given, else the accuracy after the short ascent.

    Args:
        table: what :func:`study_table` returned.
        facts: "probe.column" -> facts with "robust": "higher", "lower" or None.
        seed: of resamples and pairings.
        resamples: of the bootstrap.

    Returns:
        One row for each property with an expectation: its correlation with robustness as in :func:`correlations`,
        ``expected`` and ``agrees``: "yes" or "no" where the interval excludes 0, else "open".
    """
    against = ROBUST if ROBUST in table.columns else ASCENT
    names = [name for name in table.columns if name in facts and facts[name]["robust"] and name != against]
    parts = [correlations(table, [against, name], seed=seed, resamples=resamples) for name in names]
    if not parts:
        return pd.DataFrame(columns=["property", "expected", "agrees", "value", "low", "high", "n", "reason"])
    found = pd.concat(parts, ignore_index=True).rename(columns={"second": "property"}).drop(columns="first")
    found["expected"] = [facts[name]["robust"] for name in names]
    found["against"] = against
    decided = found["p"].notna()
    found.loc[decided, "p_adjusted"] = adjust(found.loc[decided, "p"].astype(float).tolist())
    found["agrees"] = [_agrees(row) for _, row in found.iterrows()]
    return found


def _agrees(row: pd.Series) -> str:
    low, high = row["low"], row["high"]
    if pd.isna(low) or pd.isna(high) or low <= 0 <= high:
        return "open"
    return "yes" if (low > 0) == (row["expected"] == "higher") else "no"
